//! Which tokens begin and end a text: named in the project, or read from what comes with a `tokenizer.json`.

use std::path::Path;

use serde_json::{Value, json};

/// What is looked for where nothing tells.
pub(crate) const KNOWN: &[&str] = &["<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>", "<eos>", "<|endofdocument|>"];
/// Of a configuration.
const LARGEST_BYTES: u64 = 64 << 20;
/// Beside a `tokenizer.json`, in which the field names the ends; under [`OWN`] lies what of it is ours alone.
pub(crate) const FILE: &str = "tokenizer_config.json";
const OWN: &str = "hairpin";

/// Files beside a `tokenizer.json` that tell its ends.
pub(crate) const BESIDE: [&str; 4] = [FILE, "special_tokens_map.json", "generation_config.json", "config.json"];

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

/// Names of tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Named<'a> {
    /// The project's.
    pub end_of_text: Option<&'a str>,
    pub begin_of_text: Option<&'a str>,
    /// The end that the tokenizer's own file names.
    pub own_end: Option<&'a str>,
}

impl Ends {
    /// Those of `tokenizer`, read from `folder`, where it lies; the project's names come first. Where a file of ours lies there, what
    /// it says holds; else what stands before a prompt is what the template puts there.
    /// # Errors
    /// In words: when a named token is none, a file cannot be read, or nothing tells the end.
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
        let file = |name: &str| folder.map_or(Ok(Value::Null), |folder| json_of(&folder.join(name)));
        let config = file(FILE)?;
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
        let (map, generation) = (file("special_tokens_map.json")?, numbers(&file("generation_config.json")?));
        let of_model = numbers(&file("config.json")?);
        let end = by_name("end_of_text", named.end_of_text)?
            .or_else(|| told(&config, "eos_token"))
            .or_else(|| told(&map, "eos_token"))
            .or_else(|| generation.first().copied())
            .or_else(|| of_model.first().copied())
            .or_else(|| named.own_end.and_then(|name| tokenizer.token_to_id(name)))
            .or_else(|| KNOWN.iter().find_map(|name| tokenizer.token_to_id(name).filter(|id| special(u64::from(*id)).is_some())));
        let end_of_text = end.ok_or_else(|| {
            let files = "tokenizer_config.json, special_tokens_map.json, generation_config.json or config.json";
            format!(
                "nothing beside it ({files}) tells which token ends a text: name one of its special tokens as `end_of_text`: {}",
                list()
            )
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
    pub(crate) fn trained_here(self) -> Self {
        Self { before_prompt: vec![self.begin_of_text.unwrap_or(self.end_of_text)], ..self }
    }

    /// Whether `folder` holds a file of ours; one of older data does not, and its ends are as trained.
    pub(crate) fn are_kept(folder: &Path) -> bool {
        json_of(&folder.join(FILE)).is_ok_and(|config| config[OWN].is_object())
    }

    /// The file beside a `tokenizer.json` from which they are read again.
    pub(crate) fn to_json(&self, tokenizer: &tokenizers::Tokenizer) -> Value {
        json!({
            "eos_token": tokenizer.id_to_token(self.end_of_text),
            (OWN): {"stops": self.stops, "before_prompt": self.before_prompt, "begin_of_text": Vec::from_iter(self.begin_of_text)},
        })
    }
}

/// A file that comes with a tokenizer; null where there is none.
/// # Errors
/// In words: it cannot be read, or is no JSON.
pub(crate) fn json_of(path: &Path) -> Result<Value, String> {
    match disk::read_text(path, LARGEST_BYTES) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| format!("`{}`, which comes with it, is no JSON: {e}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(format!("cannot read `{}`, which comes with it: {error}", path.display())),
    }
}

/// What the tokenizer's template puts before a text.
pub(crate) fn template(tokenizer: &tokenizers::Tokenizer) -> Vec<u32> {
    let ids = |special| tokenizer.encode_fast("a", special).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
    let (with, plain) = (ids(true), ids(false));
    let at = with.windows(plain.len().max(1)).position(|window| window == plain);
    at.map_or_else(Vec::new, |at| with[..at].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GPT-2's kind over bytes, with special tokens from 256 on, and a template if `begin` names one.
    fn tokenizer(special: &[&str], begin: Option<&str>) -> tokenizers::Tokenizer {
        let mut vocab: serde_json::Map<String, Value> = ["a", "b"].iter().enumerate().map(|(id, c)| ((*c).to_owned(), id.into())).collect();
        let mut added = Vec::new();
        for (at, name) in special.iter().enumerate() {
            vocab.insert((*name).to_owned(), (2 + at).into());
            added.push(json!({"id": 2 + at, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}));
        }
        let post = begin.map(|begin| {
            json!({"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {(begin): {"id": begin, "ids": [vocab[begin]], "tokens": [begin]}}})
        });
        let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []});
        let all = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": null, "post_processor": post, "decoder": null, "model": model});
        all.to_string().parse().unwrap()
    }

    #[test]
    fn what_comes_with_a_tokenizer_tells_its_ends_the_project_first() {
        let all = tokenizer(&["<bos>", "<fin>", "<turn>", "</s>"], Some("<bos>"));
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, value: Value| std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        let read = |named| Ends::read(&all, Some(folder.path()), named);
        // By a known name, last; then each file in the order in which it tells.
        assert_eq!(read(Named::default()).unwrap(), Ends { end_of_text: 5, begin_of_text: None, stops: vec![5], before_prompt: vec![2] });
        put("config.json", json!({"eos_token_id": 4}));
        assert_eq!(read(Named::default()).unwrap().end_of_text, 4);
        put("generation_config.json", json!({"eos_token_id": [3, 4]}));
        put("special_tokens_map.json", json!({"eos_token": {"content": "</s>"}}));
        assert_eq!(read(Named::default()).unwrap().stops, [5, 3, 4]);
        put("tokenizer_config.json", json!({"eos_token": "<fin>", "add_bos_token": false}));
        assert_eq!(read(Named::default()).unwrap(), Ends { end_of_text: 3, begin_of_text: None, stops: vec![3, 4], before_prompt: vec![] });
        let named = Named { end_of_text: Some("<turn>"), begin_of_text: Some("<bos>"), own_end: None };
        let ends = read(named).unwrap().trained_here();
        assert_eq!(ends, Ends { end_of_text: 4, begin_of_text: Some(2), stops: vec![3, 4], before_prompt: vec![2] });
        // As they were kept they are read again, whatever lies beside.
        put("tokenizer_config.json", ends.to_json(&all));
        assert_eq!(read(Named::default()).unwrap(), ends);
        assert!(Ends::are_kept(folder.path()));
        let unknown = Named { end_of_text: Some("<none>"), ..Named::default() };
        assert!(read(unknown).unwrap_err().contains("`<bos>`, `<fin>`"));
    }

    #[test]
    fn a_torn_file_and_no_end_at_all_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let error = Ends::read(&tokenizer(&["<fin>"], None), Some(folder.path()), Named::default()).unwrap_err();
        assert!(error.contains("`<fin>`") && error.contains("end_of_text"), "{error}");
        std::fs::write(folder.path().join("tokenizer_config.json"), "{\"eos_token\": \"<fi").unwrap();
        let error = Ends::read(&tokenizer(&["<fin>"], None), Some(folder.path()), Named::default()).unwrap_err();
        assert!(error.contains("tokenizer_config.json"), "{error}");
    }
}
