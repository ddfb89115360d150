//! Tokenizers in other files than `tokenizer.json`: each is read as the `tokenizer.json` that gives the same tokens. What a file does
//! not hold (how text is cut before BPE) follows from who writes such files; where that is not known they are refused by name.

mod merges;
mod ranks;
mod sentencepiece;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

/// Of a file.
const LARGEST_BYTES: u64 = 512 << 20;
/// What a folder is searched for, in this order, and by their ends the last.
const NAMES: [&str; 5] = ["tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "encoder.json"];
const ENDS: [&str; 2] = [".tiktoken", ".model"];

/// Files beside a `vocab.json` that are read with it.
pub(crate) const BESIDE: [&str; 3] = ["merges.txt", "vocab.bpe", "added_tokens.json"];

/// The text of a `tokenizer.json`.
pub(crate) struct Text {
    pub text: String,
    /// The token that the file itself names as the end of a text.
    pub end_of_text: Option<String>,
    pub notes: Vec<String>,
}

/// The file that is meant by `path`: itself, or of a folder the one that holds its tokenizer.
pub(crate) fn file(path: &Path) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let named = NAMES.iter().map(|name| path.join(name)).find(|path| path.is_file());
    named.unwrap_or_else(|| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let ends = |path: &PathBuf| ENDS.iter().any(|end| path.to_string_lossy().ends_with(end));
        entries.filter(ends).min().unwrap_or_else(|| path.join(NAMES[0]))
    })
}

/// Read a [`file()`], of whichever kind its content is.
/// # Errors
/// In words: it cannot be read, is torn, or of no kind that is known.
pub(crate) fn read(path: &Path) -> Result<Text, String> {
    let bytes = disk::read(path, LARGEST_BYTES).map_err(|e| format!("cannot read `{}`: {e}", path.display()))?;
    let start = bytes.trim_ascii_start();
    if start.first() == Some(&b'{') {
        let text = String::from_utf8(bytes).map_err(|e| format!("`{}` is no text: {e}", path.display()))?;
        // A `vocab.json` is numbers alone, which a `tokenizer.json` is not from its first value on; of that the library tells what is wrong.
        match serde_json::from_str::<BTreeMap<String, u64>>(&text) {
            Ok(vocab) => merges::read(path, vocab),
            Err(_) => Ok(Text { text, end_of_text: None, notes: Vec::new() }),
        }
    } else if ranks::is_one(start) {
        ranks::read(&bytes)
    } else if sentencepiece::is_one(&bytes) {
        sentencepiece::read(&bytes)
    } else {
        Err("it is no `tokenizer.json`, `vocab.json`, `.tiktoken` or SentencePiece `tokenizer.model`".into())
    }
}

/// A `tokenizer.json` of GPT-2's kind: bytes as characters, cut by `expression` (absent: GPT-2's own), then BPE.
fn byte_level(vocab: &serde_json::Map<String, Value>, merges: &[(String, String)], special: &[Value], expression: Option<&str>) -> Value {
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": regex});
    let split = |expression| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
    let cut = match expression {
        None => byte_level(true),
        Some(expression) => json!({"type": "Sequence", "pretokenizers": [split(expression), byte_level(false)]}),
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special, "normalizer": null, "pre_tokenizer": cut,
        "post_processor": null, "decoder": byte_level(true), "model": bpe(vocab, merges, None),
    })
}

fn bpe(vocab: &serde_json::Map<String, Value>, merges: &[(String, String)], unknown: Option<&str>) -> Value {
    json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": unknown.is_some(), "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges,
    })
}

fn added(id: u64, content: &str, is_special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": is_special})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_bytes_no_reader_panics() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any");
        let taken = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path).is_ok()
        };
        for bytes in [
            &b""[..],
            b"{",
            b"{}",
            b"{\"a\": 1}",
            b"IQ== 0\nIg== x\n",
            b"IQ== 0\n",
            b"\n\x03\n\x01a",
            b"\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x00\x01",
        ] {
            let _ = taken(bytes);
        }
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            let _ = (ranks::read(bytes), sentencepiece::read(bytes));
        });
    }
}
