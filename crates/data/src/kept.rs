//! What comes with a tokenizer and is passed on with it: how a chat is written down, and special tokens that no text here is cut by.

use std::path::Path;

use serde_json::{Map, Value};

use crate::ends::{FILE, json_of};

/// Keys of `tokenizer_config.json` that name special tokens.
const TOKENS: [&str; 7] =
    ["pad_token", "unk_token", "sep_token", "cls_token", "mask_token", "additional_special_tokens", "extra_special_tokens"];
const TEMPLATE: &str = "chat_template";
/// Where newer folders keep the template.
const TEMPLATE_FILE: &str = "chat_template.jinja";
const LARGEST_BYTES: u64 = 16 << 20;

/// See the head of this file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    pub tokens: Map<String, Value>,
    pub chat_template: Option<String>,
}

impl Kept {
    /// What lies in `folder`, beside a `tokenizer.json`. The file of a template goes before the key.
    /// # Errors
    /// In words: a file cannot be read.
    pub fn read(folder: Option<&Path>) -> Result<Self, String> {
        let Some(folder) = folder else { return Ok(Self::default()) };
        let mut config = json_of(&folder.join(FILE))?;
        let mut take = |key: &str| config.as_object_mut().and_then(|config| config.remove(key)).filter(|value| !value.is_null());
        let in_config = take(TEMPLATE).and_then(|value| template_of(&value));
        let tokens = TOKENS.iter().filter_map(|key| Some(((*key).to_owned(), take(key)?))).collect();
        let path = folder.join(TEMPLATE_FILE);
        let chat_template = match disk::read_text(&path, LARGEST_BYTES) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => in_config,
            Err(error) => return Err(format!("cannot read `{}`, which comes with it: {error}", path.display())),
        };
        Ok(Self { tokens, chat_template })
    }

    /// With the keys from which it is read again.
    pub fn put(&self, config: &mut Value) {
        for (key, value) in &self.tokens {
            config[key] = value.clone();
        }
        if let Some(template) = &self.chat_template {
            config[TEMPLATE] = Value::String(template.clone());
        }
    }
}

/// A template, or of several by name that of a plain chat.
fn template_of(value: &Value) -> Option<String> {
    let named = || value.as_array()?.iter().find(|one| one["name"] == "default")?["template"].as_str();
    value.as_str().or_else(named).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_came_with_a_tokenizer_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Kept::read(Some(folder.path())).unwrap().tokens.is_empty());
        let several = json!([{"name": "tool", "template": "no"}, {"name": "default", "template": "plain"}]);
        let config = json!({"pad_token": "<pad>", "unk_token": null, "eos_token": "</s>", "chat_template": several});
        std::fs::write(folder.path().join(FILE), config.to_string()).unwrap();
        let kept = Kept::read(Some(folder.path())).unwrap();
        assert_eq!((kept.tokens.len(), kept.chat_template.as_deref()), (1, Some("plain")));
        let mut again = json!({});
        kept.put(&mut again);
        assert_eq!(again, json!({"pad_token": "<pad>", "chat_template": "plain"}));
        std::fs::write(folder.path().join(TEMPLATE_FILE), "{{ newer }}").unwrap();
        assert_eq!(Kept::read(Some(folder.path())).unwrap().chat_template.as_deref(), Some("{{ newer }}"));
    }
}
