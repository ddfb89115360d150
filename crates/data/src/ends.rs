//! Which tokens begin and end a text: named in the project, or read from what comes with a `tokenizer.json`.

use std::path::Path;

use serde_json::{Value, json};

/// What is looked for where nothing tells.
const KNOWN: &[&str] = &["<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>", "<eos>", "<|endofdocument|>"];
/// Of a configuration.
const LARGEST_BYTES: u64 = 64 << 20;
/// Beside a `tokenizer.json`: what the field calls it, and what of it is ours alone.
pub(crate) const FILE: &str = "tokenizer_config.json";
const OWN: &str = "hairpin";

/// Tokens by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// What stands after a document.
    pub end_of_text: u32,
    /// What stands before one, if anything of its own does.
    pub begin_of_text: Option<u32>,
    /// Where writing stops: the end of a text, and others (of a turn, say).
    pub stops: Vec<u32>,
    /// What stands before a prompt.
    pub before_prompt: Vec<u32>,
}

/// Names that the project gives.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Named<'a> {
    pub end_of_text: Option<&'a str>,
    pub begin_of_text: Option<&'a str>,
}

impl Ends {
    /// Those of `tokenizer`, read from `folder`, where it lies; the project's names come first.
    /// # Errors
    /// In words: when a named token is none, or nothing tells the end.
    pub(crate) fn read(tokenizer: &tokenizers::Tokenizer, folder: Option<&Path>, named: Named) -> Result<Self, String> {
        let added = tokenizer.get_added_tokens_decoder();
        let special = |id: u64| u32::try_from(id).ok().filter(|id| added.get(id).is_some_and(|token| token.special));
        let list = || {
            let mut all: Vec<(u32, &str)> = added.iter().filter(|(_, t)| t.special).map(|(id, t)| (*id, t.content.as_str())).collect();
            all.sort_unstable();
            let names: Vec<String> = all.iter().take(32).map(|(_, name)| format!("`{name}`")).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let by_name = |key: &str, name: Option<&str>| match name {
            None => Ok(None),
            Some(name) => match tokenizer.token_to_id(name) {
                Some(id) => Ok(Some(id)),
                None => Err(format!("`{key}` is `{name}`, which is no token of it; its special tokens: {}", list())),
            },
        };
        let file = |name: &str| -> Value {
            let text = folder.and_then(|folder| disk::read_text(&folder.join(name), LARGEST_BYTES).ok());
            text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
        };
        let config = file(FILE);
        // A name, or a table with its name.
        let told = |config: &Value, key: &str| {
            let name = config[key].as_str().or(config[key]["content"].as_str());
            name.and_then(|name| tokenizer.token_to_id(name))
        };
        // One number, or several; those that are no special token are a class's default.
        let numbers = |config: &Value| -> Vec<u32> {
            let value = &config["eos_token_id"];
            let all = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            all.iter().filter_map(Value::as_u64).filter_map(special).collect()
        };
        let (map, generation) = (file("special_tokens_map.json"), numbers(&file("generation_config.json")));
        let end = by_name("end_of_text", named.end_of_text)?
            .or_else(|| told(&config, "eos_token"))
            .or_else(|| told(&map, "eos_token"))
            .or_else(|| generation.first().copied())
            .or_else(|| numbers(&file("config.json")).first().copied())
            .or_else(|| KNOWN.iter().find_map(|name| tokenizer.token_to_id(name).filter(|id| special(u64::from(*id)).is_some())));
        let end_of_text = end.ok_or_else(|| {
            format!("nothing that comes with it tells which token ends a text; its special tokens: {}", list())
        })?;
        let begin_of_text = by_name("begin_of_text", named.begin_of_text)?;
        let own = &config[OWN];
        let ids = |key: &str| -> Option<Vec<u32>> {
            own[key].as_array().map(|all| all.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()).collect())
        };
        let mut stops = ids("stops").unwrap_or(generation);
        if !stops.contains(&end_of_text) {
            stops.insert(0, end_of_text);
        }
        let bos = || told(&config, "bos_token").or_else(|| told(&map, "bos_token"));
        let before_prompt = ids("before_prompt").unwrap_or_else(|| match config["add_bos_token"].as_bool() {
            Some(false) => Vec::new(),
            Some(true) => bos().map_or_else(|| template(tokenizer), |bos| vec![bos]),
            None => template(tokenizer),
        });
        let begin_of_text = begin_of_text.or_else(|| ids("begin_of_text").and_then(|ids| ids.first().copied()));
        Ok(Self { end_of_text, begin_of_text, stops, before_prompt })
    }

    /// Of a model that is trained here: what stands before a document in its data is what stands before a prompt.
    pub(crate) fn as_trained(self) -> Self {
        Self { before_prompt: vec![self.begin_of_text.unwrap_or(self.end_of_text)], ..self }
    }

    /// The file beside a `tokenizer.json` from which they are read again.
    pub(crate) fn to_json(&self, tokenizer: &tokenizers::Tokenizer) -> Value {
        json!({
            "eos_token": tokenizer.id_to_token(self.end_of_text),
            (OWN): {"stops": self.stops, "before_prompt": self.before_prompt, "begin_of_text": Vec::from_iter(self.begin_of_text)},
        })
    }

    /// Whether the tokenizer's own template puts before a text what a prompt begins with, and nothing else anywhere.
    pub(crate) fn is_template(&self, tokenizer: &tokenizers::Tokenizer) -> bool {
        let ids = |special| tokenizer.encode_fast("a", special).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
        ids(true) == [self.before_prompt.clone(), ids(false)].concat()
    }
}

/// What the tokenizer's template puts before a text.
fn template(tokenizer: &tokenizers::Tokenizer) -> Vec<u32> {
    let ids = |special| tokenizer.encode_fast("a", special).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
    let (with, plain) = (ids(true), ids(false));
    let at = with.windows(plain.len().max(1)).position(|window| window == plain);
    at.map_or_else(Vec::new, |at| with[..at].to_vec())
}
