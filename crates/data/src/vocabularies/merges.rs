//! `vocab.json` (or `encoder.json`) with `merges.txt` (or `vocab.bpe`) beside it: GPT-2's, and of those after it.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value};

use super::{LARGEST_BYTES, Text, added, byte_level};
use crate::ends;

/// How Qwen's cut text, by their released `tokenizer.json`.
const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Classes that cut text as GPT-2 does.
const AS_GPT2: [&str; 9] = ["GPT2", "Roberta", "Bart", "CodeGen", "Longformer", "LED", "OPT", "Phi", "PreTrainedTokenizer"];
pub(super) fn read(path: &Path, vocab: BTreeMap<String, u64>) -> Result<Text, String> {
    let beside = |name: &str| path.with_file_name(name);
    let text = |name: &str| disk::read_text(&beside(name), LARGEST_BYTES);
    let merges = ["merges.txt", "vocab.bpe"].into_iter().find_map(|name| text(name).ok().map(|text| (name, text)));
    let (merges_name, merges) = merges.ok_or_else(|| format!("`merges.txt` (or `vocab.bpe`) is not beside `{}`", path.display()))?;
    let lines = merges.lines().enumerate().filter(|(at, line)| !(line.is_empty() || *at == 0 && line.starts_with("#version")));
    let merges: Vec<(String, String)> = lines
        .map(|(at, line)| {
            let pair = line.split_once(' ').filter(|(_, second)| !second.contains(' '));
            let (first, second) = pair.ok_or_else(|| format!("line {} of `{merges_name}` is no pair: `{line}`", at + 1))?;
            Ok((first.to_owned(), second.to_owned()))
        })
        .collect::<Result<_, String>>()?;
    let json = |name: &str| ends::json_of(&beside(name));
    let config = json(ends::FILE)?;
    let class = config["tokenizer_class"].as_str().map(|class| class.trim_end_matches("Fast").trim_end_matches("Tokenizer"));
    let mut notes = Vec::new();
    let expression = match class {
        Some(class) if class.starts_with("Qwen") => Some(QWEN),
        Some(class) if AS_GPT2.iter().any(|known| class.starts_with(known)) => None,
        Some(class) => return Err(format!("how a `{class}Tokenizer` cuts text is not in `vocab.json`: give its `tokenizer.json`")),
        None => {
            notes.push("`vocab.json` does not tell how text is cut before BPE: it is cut as GPT-2 does".to_owned());
            None
        }
    };
    let mut vocab: Map<String, Value> = vocab.into_iter().map(|(piece, id)| (piece, id.into())).collect();
    if vocab.keys().filter(|piece| piece.ends_with("</w>")).count() > 1 {
        return Err("its pieces end in `</w>`, as CLIP's do, and how such text is cleaned is not in it: give its `tokenizer.json`".into());
    }
    // Tokens that are no pieces of text: from the files beside it, and the ends that are known.
    let mut special: Vec<(u64, String, bool)> = Vec::new();
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        if let (Ok(id), Some(content)) = (id.parse(), token["content"].as_str()) {
            special.push((id, content.to_owned(), token["special"] != false));
        }
    }
    for (content, id) in json("added_tokens.json")?.as_object().into_iter().flatten() {
        special.extend(id.as_u64().map(|id| (id, content.clone(), true)));
    }
    let map = json("special_tokens_map.json")?;
    let named = [&config, &map].into_iter().flat_map(|file| file.as_object().into_iter().flatten());
    let named = named.filter(|(key, _)| key.ends_with("_token")).filter_map(|(_, v)| v.as_str().or(v["content"].as_str()));
    for content in named.chain(ends::KNOWN.iter().copied()) {
        special.extend(vocab.get(content).and_then(Value::as_u64).map(|id| (id, content.to_owned(), true)));
    }
    special.sort();
    special.dedup_by_key(|(id, ..)| *id);
    for (id, content, _) in &special {
        vocab.entry(content.clone()).or_insert((*id).into());
    }
    let special: Vec<Value> = special.iter().map(|(id, content, is_special)| added(*id, content, *is_special)).collect();
    let mut json = byte_level(&vocab, &merges, &special, expression);
    if expression.is_some() {
        json["normalizer"] = serde_json::json!({"type": "NFC"});
    }
    Ok(Text { text: json.to_string(), end_of_text: None, notes })
}
