//! `config.json`, out and in. A key that is unknown is refused by name, and so is a value that means something else than is computed here.

use models::{
    clip::{ClipConfig, TextConfig},
    decoder::Mlp,
    tower::TowerConfig,
    typed,
    vit::VitConfig,
    vit_mae::MaeConfig,
};
use serde_json::{Map, Value, json};
use train::TrainError;

use super::{layout::KINDS, refuse};

/// Keys that decide nothing of what is computed here: where a config comes from, how weights began, what is returned, what text
/// generation would do.
const IDLE: &[&str] = &[
    "_commit_hash",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "_attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_stride",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "logit_scale_init_value",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "pooler_act",
    "pooler_output_size",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "text_config_dict",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
    "vision_config_dict",
];

/// The `[model]` table of a config, and the names of its classes.
pub(super) fn read(json: &Value) -> Result<(toml::Table, Vec<String>), TrainError> {
    let kind = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let keys = Keys::of(json, "")?;
    let model = match kind {
        "vit" => {
            keys.only(&[LAYERS, PIXELS, &["qkv_bias"]].concat())?;
            let classes = if let Some(labels) = json.get("id2label").and_then(Value::as_object) { labels.len() } else { 2 };
            written(kind, &VitConfig { classes, tower: keys.tower(false)?, encoders: Vec::new() })
        }
        "vit_mae" => {
            let own = ["decoder_hidden_size", "decoder_intermediate_size", "decoder_num_attention_heads", "decoder_num_hidden_layers"];
            keys.only(&[LAYERS, PIXELS, &["qkv_bias", "mask_ratio", "norm_pix_loss"], &own].concat())?;
            keys.must("norm_pix_loss", &json!(true), &json!(false))?;
            let decoder_width = keys.whole("decoder_hidden_size", 512)?;
            if keys.whole("decoder_intermediate_size", 2048)? != 4 * decoder_width {
                return Err(refuse("config.json", "`decoder_intermediate_size` is not four times `decoder_hidden_size`".into()));
            }
            let config = MaeConfig {
                tower: keys.tower(false)?,
                decoder_layers: keys.whole("decoder_num_hidden_layers", 8)?,
                decoder_width,
                decoder_heads: keys.whole("decoder_num_attention_heads", 16)?,
                mask_ratio: keys.real("mask_ratio", 0.75)? as f32,
            };
            written(kind, &config)
        }
        "clip" => {
            keys.only(&["projection_dim", "text_config", "vision_config"])?;
            let part = |name| Keys::of(json.get(name).unwrap_or(&Value::Null), name);
            let (text, image) = (part("text_config")?, part("vision_config")?);
            image.only(&[LAYERS, PIXELS, &["projection_dim"]].concat())?;
            let usual = ["vocab_size", "max_position_embeddings", "projection_dim"];
            text.only(&[LAYERS, &usual].concat())?;
            if text.real("layer_norm_eps", 1e-5)? != 1e-5 {
                return Err(refuse("config.json", "`text_config.layer_norm_eps` is not 1e-5".into()));
            }
            let text = TextConfig {
                vocab: text.whole("vocab_size", 49_408)?,
                tokens: text.whole("max_position_embeddings", 77)?,
                layers: text.whole("num_hidden_layers", 12)?,
                width: text.whole("hidden_size", 512)?,
                heads: text.whole("num_attention_heads", 8)?,
                ffn: text.whole("intermediate_size", 2048)?,
                mlp: text.mlp("quick_gelu")?,
            };
            written(kind, &ClipConfig { image: image.tower(true)?, text, embed: keys.whole("projection_dim", 512)?, sigmoid: false })
        }
        other => return Err(refuse("config.json", format!("`model_type` is `{other}`, and not one of {}", KINDS.join(", ")))),
    };
    let labels = json.get("id2label").and_then(Value::as_object).filter(|_| kind == "vit");
    let name = |labels: &Map<String, Value>, i: usize| labels.get(&i.to_string()).and_then(Value::as_str).map(str::to_owned);
    let classes = labels.map_or(Vec::new(), |labels| (0..labels.len()).filter_map(|i| name(labels, i)).collect());
    Ok((model, classes))
}

const LAYERS: &[&str] = &[
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
];
/// Of what reads images, besides those of its layers.
const PIXELS: &[&str] = &["image_size", "patch_size", "num_channels"];

/// A table of a config.
struct Keys<'a> {
    name: &'a str,
    map: Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn of(json: &Value, name: &'a str) -> Result<Self, TrainError> {
        match json {
            Value::Object(map) => Ok(Self { name, map: map.clone() }),
            _ => Err(refuse("config.json", format!("`{name}` is no table"))),
        }
    }

    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Refuse all other keys.
    fn only(&self, known: &[&str]) -> Result<(), TrainError> {
        match self.map.keys().find(|key| !known.contains(&key.as_str()) && !IDLE.contains(&key.as_str())) {
            Some(key) => Err(refuse("config.json", format!("`{}` is unknown, and may change what the model computes", self.full(key)))),
            None => Ok(()),
        }
    }

    fn whole(&self, key: &str, default: usize) -> Result<usize, TrainError> {
        match self.map.get(key) {
            None => Ok(default),
            Some(value) => {
                let number = value.as_u64().and_then(|v| usize::try_from(v).ok());
                number.ok_or_else(|| refuse("config.json", format!("`{}` is {value}, no whole number", self.full(key))))
            }
        }
    }

    fn real(&self, key: &str, default: f64) -> Result<f64, TrainError> {
        match self.map.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| refuse("config.json", format!("`{}` is {value}, no number", self.full(key)))),
        }
    }

    /// That a key has the one value that is computed.
    fn must(&self, key: &str, want: &Value, default: &Value) -> Result<(), TrainError> {
        let have = self.map.get(key).unwrap_or(default);
        if have == want || have.as_f64().is_some() && have.as_f64() == want.as_f64() {
            return Ok(());
        }
        Err(refuse("config.json", format!("`{}` is {have}, and only {want} is computed", self.full(key))))
    }

    fn mlp(&self, default: &str) -> Result<Mlp, TrainError> {
        match self.map.get("hidden_act").and_then(Value::as_str).unwrap_or(default) {
            "gelu" => Ok(Mlp::Gelu),
            "quick_gelu" => Ok(Mlp::QuickGelu),
            other => Err(refuse("config.json", format!("`{}` is `{other}`, neither `gelu` nor `quick_gelu`", self.full("hidden_act")))),
        }
    }

    fn tower(&self, is_clip: bool) -> Result<TowerConfig, TrainError> {
        for key in ["attention_dropout", "dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"] {
            self.must(key, &json!(0.0), &json!(0.0))?;
        }
        self.must("num_channels", &json!(3), &json!(3))?;
        self.must("qkv_bias", &json!(true), &json!(true))?;
        let (patch, eps, act) = if is_clip { (32, 1e-5, "quick_gelu") } else { (16, 1e-12, "gelu") };
        Ok(TowerConfig {
            size: self.whole("image_size", 224)?,
            patch: self.whole("patch_size", patch)?,
            layers: self.whole("num_hidden_layers", 12)?,
            width: self.whole("hidden_size", 768)?,
            heads: self.whole("num_attention_heads", 12)?,
            ffn: self.whole("intermediate_size", 3072)?,
            mlp: self.mlp(act)?,
            eps: self.real("layer_norm_eps", eps)? as f32,
            norm_first: is_clip,
        })
    }
}

fn written(kind: &str, config: &impl serde::Serialize) -> toml::Table {
    let mut table = toml::Table::try_from(config).unwrap_or_default();
    table.insert("kind".into(), kind.into());
    table
}

/// Side of the images that a model reads.
pub(super) fn image_size(kind: &str, table: &toml::Table) -> i64 {
    let tower = table.get(if kind == "clip" { "image" } else { "tower" });
    tower.and_then(|tower| tower.get("size")).and_then(toml::Value::as_integer).unwrap_or(0)
}

/// The config of a `[model]` table.
pub(super) fn write(kind: &str, table: &toml::Table, classes: &[String]) -> Result<Value, TrainError> {
    let act = |mlp: &Mlp| match mlp {
        Mlp::QuickGelu => Ok("quick_gelu"),
        Mlp::Gelu => Ok("gelu"),
        _ => Err(refuse("model.tower.mlp", "no layout of images holds another than `gelu` and `quick_gelu`".into())),
    };
    // As people write them: an f32 has more digits than it was given.
    let short = |eps: f32| eps.to_string().parse::<f64>().unwrap_or(f64::from(eps));
    let tower = |t: &TowerConfig| -> Result<Value, TrainError> {
        Ok(json!({
            "hidden_size": t.width, "num_hidden_layers": t.layers, "num_attention_heads": t.heads, "intermediate_size": t.ffn,
            "hidden_act": act(&t.mlp)?, "layer_norm_eps": short(t.eps), "image_size": t.size, "patch_size": t.patch, "num_channels": 3,
        }))
    };
    let with = |mut value: Value, more: Value| {
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        value
    };
    match kind {
        "vit" => {
            let c: VitConfig = typed(table)?;
            let label = |i: usize| classes.get(i).cloned().unwrap_or_else(|| format!("LABEL_{i}"));
            let names: Map<String, Value> = (0..c.classes).map(|i| (i.to_string(), label(i).into())).collect();
            let numbers: Map<String, Value> = (0..c.classes).map(|i| (label(i), i.into())).collect();
            let more = json!({"model_type": "vit", "architectures": ["ViTForImageClassification"], "qkv_bias": true, "id2label": names, "label2id": numbers});
            Ok(with(tower(&c.tower)?, more))
        }
        "vit_mae" => {
            let c: MaeConfig = typed(table)?;
            let more = json!({
                "model_type": "vit_mae", "architectures": ["ViTMAEForPreTraining"], "qkv_bias": true, "mask_ratio": short(c.mask_ratio),
                "norm_pix_loss": true, "decoder_hidden_size": c.decoder_width, "decoder_num_hidden_layers": c.decoder_layers,
                "decoder_num_attention_heads": c.decoder_heads, "decoder_intermediate_size": 4 * c.decoder_width,
            });
            Ok(with(tower(&c.tower)?, more))
        }
        _ => {
            let c: ClipConfig = typed(table)?;
            let t = &c.text;
            let text = json!({
                "model_type": "clip_text_model", "vocab_size": t.vocab, "max_position_embeddings": t.tokens, "num_hidden_layers": t.layers,
                "hidden_size": t.width, "num_attention_heads": t.heads, "intermediate_size": t.ffn, "hidden_act": act(&t.mlp)?,
                "layer_norm_eps": 1e-5, "projection_dim": c.embed,
            });
            let image = with(tower(&c.image)?, json!({"model_type": "clip_vision_model", "projection_dim": c.embed}));
            Ok(json!({
                "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": c.embed, "text_config": text, "vision_config": image,
            }))
        }
    }
}
