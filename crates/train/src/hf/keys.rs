//! A `config.json` as a table whose keys are asked for by name. What a layout asked for is remembered: [`Keys::finish`] refuses, by
//! name, every key that is set and that nobody looked at, since it may change what is computed.

use std::{cell::RefCell, collections::BTreeSet};

use serde_json::{Map, Value};

use super::refuse;
use crate::TrainError;

/// See the head of this file.
pub struct Keys<'a> {
    /// How messages begin the name of a key: `` or `rope_scaling.`.
    place: String,
    table: &'a Map<String, Value>,
    seen: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Keys<'a> {
    /// # Errors
    /// When it is no table.
    pub fn new(json: &'a Value) -> Result<Self, TrainError> {
        Self::at("", json)
    }

    fn at(place: &str, json: &'a Value) -> Result<Self, TrainError> {
        let named = if place.is_empty() { "config.json" } else { place.trim_end_matches('.') };
        let table = json.as_object().ok_or_else(|| refuse("config.json", format!("`{named}` is no table")))?;
        Ok(Self { place: place.to_owned(), table, seen: RefCell::default() })
    }

    /// The value of a key, if it is there, null as it may be.
    pub fn any(&self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.table.get_key_value(key)?;
        self.seen.borrow_mut().insert(key);
        Some(value)
    }

    /// The same without null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.any(key).filter(|value| !value.is_null())
    }

    /// Whether it is there and is null, which some classes tell apart from its being absent.
    pub fn is_null(&self, key: &str) -> bool {
        self.any(key).is_some_and(Value::is_null)
    }

    fn wrong(&self, key: &str, value: &Value, what: &str) -> TrainError {
        refuse("config.json", format!("`{}{key}` is {value}, not {what}", self.place))
    }

    /// A whole number.
    pub fn size(&self, key: &str) -> Result<Option<usize>, TrainError> {
        let number = |value: &Value| value.as_u64().and_then(|v| usize::try_from(v).ok());
        self.get(key).map(|value| number(value).ok_or_else(|| self.wrong(key, value, "a whole number"))).transpose()
    }

    /// The same, or the class's default.
    pub fn whole(&self, key: &str, default: usize) -> Result<usize, TrainError> {
        Ok(self.size(key)?.unwrap_or(default))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, TrainError> {
        self.get(key).map(|value| value.as_f64().ok_or_else(|| self.wrong(key, value, "a number"))).transpose()
    }

    pub fn real(&self, key: &str, default: f64) -> Result<f64, TrainError> {
        Ok(self.number(key)?.unwrap_or(default))
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool, TrainError> {
        self.get(key).map_or(Ok(default), |value| value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false")))
    }

    pub fn text(&self, key: &str, default: &'a str) -> Result<&'a str, TrainError> {
        self.get(key).map_or(Ok(default), |value| value.as_str().ok_or_else(|| self.wrong(key, value, "a word")))
    }

    /// A list of whole numbers.
    pub fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>, TrainError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = |value: &Value| value.as_u64().and_then(|v| usize::try_from(v).ok());
        let all = value.as_array().and_then(|all| all.iter().map(number).collect::<Option<Vec<usize>>>());
        all.map(Some).ok_or_else(|| self.wrong(key, value, "a list of whole numbers"))
    }

    /// A list of words.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, TrainError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let all = value.as_array().and_then(|all| all.iter().map(Value::as_str).collect::<Option<Vec<&str>>>());
        all.map(Some).ok_or_else(|| self.wrong(key, value, "a list of words"))
    }

    /// A table in it.
    pub fn table(&self, key: &str) -> Result<Option<Keys<'a>>, TrainError> {
        self.get(key).map(|value| Self::at(&format!("{}{key}.", self.place), value)).transpose()
    }

    /// The same where it holds something.
    pub fn table_with_entries(&self, key: &str) -> Result<Option<Keys<'a>>, TrainError> {
        Ok(self.table(key)?.filter(|table| !table.table.is_empty()))
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Keys that change nothing in this class.
    pub fn harmless(&self, keys: &[&str]) {
        for key in keys {
            self.any(key);
        }
    }

    /// A key that may hold only what the class is computed with here, or be absent where that is its default.
    pub fn only(&self, key: &str, wanted: impl Into<Value>) -> Result<(), TrainError> {
        let wanted = wanted.into();
        match self.any(key) {
            Some(value) if !same(value, &wanted) && (!value.is_null() || wanted == Value::Bool(true)) => {
                let problem = format!("`{}{key}` is {value}, and this layout is computed here with {wanted} alone", self.place);
                let help = "such a model computes something else, and cannot be imported";
                Err(TrainError::Value { key: "config.json", problem, help: help.into() })
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// With the first key that is set and that nobody asked for.
    pub fn finish(&self) -> Result<(), TrainError> {
        let is_harmless = |key: &str| HARMLESS.iter().any(|(_, keys)| keys.contains(&key));
        let seen = self.seen.borrow();
        let is_left = |(key, value): &(&String, &Value)| !value.is_null() && !seen.contains(key.as_str()) && !is_harmless(key);
        let Some((key, value)) = self.table.iter().find(is_left) else { return Ok(()) };
        let help = "a key that changes nothing in the model (a note, a setting of a tool) can be taken out of config.json; \
                    with another the model computes something else, and cannot be imported";
        let problem = format!("`{}{key}` is set to {value}, and is no key that is known of this layout", self.place);
        Err(TrainError::Value { key: "config.json", problem, help: help.into() })
    }
}

fn same(value: &Value, wanted: &Value) -> bool {
    match (value.as_f64(), wanted.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => value == wanted,
    }
}

/// Read in every layout, or of no effect in any.
pub fn of_all_layouts(keys: &Keys<'_>) -> Result<(), TrainError> {
    keys.harmless(&["model_type"]);
    for key in ["is_encoder_decoder", "is_decoder", "add_cross_attention", "tie_encoder_decoder"] {
        keys.only(key, false)?;
    }
    keys.only("pruned_heads", Value::Object(Map::new()))
}

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
        &["attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "router_jitter_noise", "router_aux_loss_coef"],
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
