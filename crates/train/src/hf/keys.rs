//! The keys of a `config.json`, by layout: those that are read, those that change nothing here, and those that may only hold the
//! value that the layout is computed with. Any other is refused by name: a key that nobody looks at may change what is computed.

use serde_json::Value;

use crate::TrainError;

/// Read elsewhere, in every layout.
const READ: &[&str] = &["model_type", "vocab_size", "initializer_range"];
const READ_BY_GPT2: &[&str] = &["n_embd", "n_layer", "n_head", "n_positions", "n_inner", "layer_norm_epsilon", "activation_function"];
const READ_BY_LLAMA: &[&str] = &[
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "tie_word_embeddings",
];
const READ_OF_EXPERTS: &[&str] = &["num_experts", "num_local_experts", "num_experts_per_tok", "router_aux_loss_coef"];

/// Keys that change nothing in what is computed here, by the reason.
const HARMLESS: &[(&str, &[&str])] = &[
    (
        "notes and versions",
        &[
            "_name_or_path",
            "_commit_hash",
            "transformers_version",
            "architectures",
            "torch_dtype",
            "dtype",
            "torchscript",
            "use_bfloat16",
            "tokenizer_class",
            "finetuning_task",
            "task_specific_params",
            "unsloth_version",
            "unsloth_fixed",
        ],
    ),
    (
        "how it is run, not what",
        &[
            "use_cache",
            "output_attentions",
            "output_hidden_states",
            "output_router_logits",
            "return_dict",
            "chunk_size_feed_forward",
            "gradient_checkpointing",
            "attn_implementation",
            "_attn_implementation",
            "_attn_implementation_autoset",
            "pretraining_tp",
        ],
    ),
    (
        "dropout and noise of training alone",
        &["attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "router_jitter_noise"],
    ),
    (
        "heads of classification, which are no part of a language model",
        &[
            "id2label",
            "label2id",
            "num_labels",
            "problem_type",
            "summary_type",
            "summary_use_proj",
            "summary_activation",
            "summary_proj_to_labels",
            "summary_first_dropout",
            "tf_legacy_loss",
        ],
    ),
    (
        "ends of a text, which the tokenizer knows",
        &["bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"],
    ),
    (
        "how text is drawn",
        &[
            "max_length",
            "min_length",
            "do_sample",
            "early_stopping",
            "num_beams",
            "num_beam_groups",
            "diversity_penalty",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
            "repetition_penalty",
            "length_penalty",
            "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size",
            "bad_words_ids",
            "num_return_sequences",
            "output_scores",
            "return_dict_in_generate",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "remove_invalid_values",
            "exponential_decay_length_penalty",
            "suppress_tokens",
            "begin_suppress_tokens",
            "prefix",
        ],
    ),
];
/// GPT-2's older name of `n_positions`, which nothing reads; and the order of f32 operations of attention, which is f32's here.
const HARMLESS_IN_GPT2: &[&str] = &["n_ctx", "reorder_and_upcast_attn"];
/// Layers from which on a window slides, and its width, both without effect unless `use_sliding_window`.
const HARMLESS_IN_QWEN: &[&str] = &["max_window_layers", "sliding_window"];
/// Further keys that a class reads or that are dropout of its training.
const OF_CLASS: &[(&str, &[&str])] = &[
    ("mistral", &["sliding_window"]),
    ("phi3", &["sliding_window", "partial_rotary_factor", "original_max_position_embeddings"]),
    ("stablelm", &["layer_norm_eps", "use_qkv_bias", "partial_rotary_factor"]),
    ("starcoder2", &["norm_epsilon", "sliding_window", "residual_dropout", "embedding_dropout"]),
];
/// The only value that a class is computed with here.
const ONLY_IN_CLASS: &[(&str, &str)] = &[("use_bias", "true"), ("qk_layernorm", "false"), ("use_parallel_residual", "false")];

/// The only value that a key may have, in every layout.
const ONLY: &[(&str, &str)] = &[
    ("is_encoder_decoder", "false"),
    ("is_decoder", "false"),
    ("add_cross_attention", "false"),
    ("cross_attention_hidden_size", "null"),
    ("tie_encoder_decoder", "false"),
    ("pruned_heads", "{}"),
];
const ONLY_IN_GPT2: &[(&str, &str)] =
    &[("scale_attn_weights", "true"), ("scale_attn_by_inverse_layer_idx", "false"), ("tie_word_embeddings", "true")];
const ONLY_IN_LLAMA: &[(&str, &str)] = &[
    ("attention_bias", "false"),
    ("mlp_bias", "false"),
    ("use_sliding_window", "false"),
    ("sliding_window", "null"),
    ("clip_qkv", "null"),
    ("partial_rotary_factor", "1"),
    ("layer_types", "[\"full_attention\"]"),
    ("decoder_sparse_step", "1"),
    ("mlp_only_layers", "[]"),
];
/// Of the table of rotary positions.
const READ_IN_ROPE: &[&str] = &[
    "rope_theta",
    "rope_type",
    "type",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
];
const ONLY_IN_ROPE: &[(&str, &str)] = &[("partial_rotary_factor", "1")];

/// # Errors
/// With the first key that is unknown or has a value that this layout (its `model_type`) is not computed with.
pub(super) fn check(kind: &str, config: &Value) -> Result<(), TrainError> {
    let is_gpt2 = kind == "gpt2";
    let has_experts = ["mixtral", "olmoe", "qwen3_moe"].contains(&kind);
    let mut free = vec![READ, if is_gpt2 { READ_BY_GPT2 } else { READ_BY_LLAMA }];
    free.extend(HARMLESS.iter().map(|(_, keys)| *keys));
    if is_gpt2 {
        free.push(HARMLESS_IN_GPT2);
    }
    if kind.starts_with("qwen") {
        free.push(HARMLESS_IN_QWEN);
    }
    if has_experts {
        free.push(READ_OF_EXPERTS);
    }
    match kind {
        // Mixtral's gates always add to one.
        "mixtral" | "olmoe" => free.push(&["norm_topk_prob"]),
        "qwen3_moe" => free.push(&["norm_topk_prob", "moe_intermediate_size"]),
        _ => {}
    }
    free.extend(OF_CLASS.iter().filter(|(class, _)| *class == kind).map(|(_, keys)| *keys));
    let of_class = if ["stablelm", "starcoder2"].contains(&kind) { ONLY_IN_CLASS } else { &[] };
    let only = [ONLY, of_class, if is_gpt2 { ONLY_IN_GPT2 } else { ONLY_IN_LLAMA }].concat();
    table("", config, &free, &only)?;
    for name in ["rope_parameters", "rope_scaling"] {
        if let Some(rope) = config.get(name).filter(|rope| !is_gpt2 && !rope.is_null()) {
            let partial: &[&str] = if ["phi3", "stablelm"].contains(&kind) { &["partial_rotary_factor"] } else { &[] };
            table(&format!("{name}."), rope, &[READ_IN_ROPE, partial], ONLY_IN_ROPE)?;
        }
    }
    Ok(())
}

fn table(place: &str, json: &Value, free: &[&[&str]], only: &[(&str, &str)]) -> Result<(), TrainError> {
    let refuse = |problem: String, help: &str| Err(TrainError::Value { key: "config.json", problem, help: help.into() });
    let Some(entries) = json.as_object() else {
        return refuse(format!("`{}` is no table", if place.is_empty() { "config.json" } else { place }), "take a whole `config.json`");
    };
    for (key, value) in entries {
        if free.iter().any(|keys| keys.contains(&key.as_str())) {
            continue;
        }
        match only.iter().find(|(name, _)| name == key) {
            Some((_, wanted)) if is(value, wanted) => {}
            Some((_, wanted)) => {
                let problem = format!("`{place}{key}` is {value}, and this layout is computed here with {wanted} alone");
                return refuse(problem, "such a model computes something else, and cannot be imported");
            }
            // What is not set changes nothing.
            None if value.is_null() => {}
            None => {
                let help = "a key that changes nothing in the model (a note, a setting of a tool) can be taken out of config.json; \
                            with another the model computes something else, and cannot be imported";
                return refuse(format!("`{place}{key}` is set to {value}, and is no key that is known of this layout"), help);
            }
        }
    }
    Ok(())
}

/// Whether `value` is `wanted` (JSON), or none where that is as good; of a list, each entry.
fn is(value: &Value, wanted: &str) -> bool {
    let wanted: Value = serde_json::from_str(wanted).unwrap_or_default();
    match (value, &wanted) {
        (Value::Null, wanted) => wanted != &Value::Bool(true),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(all), Value::Array(one)) if !one.is_empty() => all.iter().all(|each| one.contains(each)),
        _ => value == &wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    use super::super::layout::KINDS;

    #[test]
    fn a_key_that_changes_what_is_computed_is_named() {
        for kind in KINDS {
            for key in ["a_key_that_nobody_knows", "add_cross_attention", "quantization_config", "auto_map", "alibi", "is_encoder_decoder"]
            {
                let told = check(kind, &json!({"model_type": kind, (key): true})).unwrap_err().to_string();
                assert!(told.contains(key), "{kind} {told}");
            }
            check(kind, &json!({"use_cache": true, "add_cross_attention": false, "pruned_heads": {}, "quantization_config": null}))
                .unwrap();
        }
        let cases = [
            ("gpt2", json!({"scale_attn_by_inverse_layer_idx": true}), "scale_attn_by_inverse_layer_idx"),
            ("gpt2", json!({"scale_attn_weights": null}), "scale_attn_weights"),
            ("gpt2", json!({"tie_word_embeddings": false}), "tie_word_embeddings"),
            ("gpt2", json!({"rope_theta": 1e4}), "rope_theta"),
            ("llama", json!({"sliding_window": 64}), "sliding_window"),
            ("llama", json!({"num_experts": 8}), "num_experts"),
            ("llama", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            ("llama", json!({"rope_scaling": {"rope_type": "default", "mrope_section": [1]}}), "rope_scaling.mrope_section"),
            ("stablelm", json!({"use_parallel_residual": true}), "use_parallel_residual"),
            ("starcoder2", json!({"use_bias": false}), "use_bias"),
            ("qwen2", json!({"use_sliding_window": true}), "use_sliding_window"),
            ("qwen3", json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
            ("qwen3_moe", json!({"mlp_only_layers": [0]}), "mlp_only_layers"),
        ];
        for (kind, config, named) in cases {
            let told = check(kind, &config).unwrap_err().to_string();
            assert!(told.contains(named), "{kind} {told}");
        }
    }

    /// What `transformers` 5.24 writes for each, without what is in the lists of every layout: `AutoConfig.for_model(kind).to_dict()`.
    #[test]
    fn what_the_peer_writes_by_default_is_taken() {
        let rope = json!({"rope_theta": 10000.0, "rope_type": "default"});
        let configs = [
            json!({"model_type": "gpt2", "n_inner": null, "scale_attn_weights": true, "scale_attn_by_inverse_layer_idx": false,
                "reorder_and_upcast_attn": false, "tie_word_embeddings": true, "n_ctx": 1024, "summary_type": "cls_index"}),
            json!({"model_type": "llama", "pretraining_tp": 1, "rope_parameters": rope, "attention_bias": false, "mlp_bias": false}),
            json!({"model_type": "qwen3", "use_sliding_window": false, "sliding_window": null, "max_window_layers": 28,
                "layer_types": ["full_attention", "full_attention"], "rope_parameters": rope}),
            json!({"model_type": "mixtral", "sliding_window": null, "router_jitter_noise": 0.0, "num_local_experts": 8}),
            json!({"model_type": "olmoe", "clip_qkv": null, "norm_topk_prob": false, "num_experts": 64, "output_router_logits": false}),
            json!({"model_type": "qwen3_moe", "decoder_sparse_step": 1, "moe_intermediate_size": 768, "mlp_only_layers": []}),
        ];
        for config in configs {
            check(config["model_type"].as_str().unwrap(), &config).unwrap();
        }
    }
}
