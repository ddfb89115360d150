//! Tokenizers in files of other programs give the ids of those programs. The files here are SentencePiece's own
//! (`cargo xtask fixtures`); where `HAIRPIN_PEERS_PYTHON` names a Python that has them, also larger ones and `tiktoken`'s.

use std::{collections::BTreeMap, path::Path};

use data::Tokenizer;

/// Every file of `folder` that its `ids.json` names.
fn gives_the_ids(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("ids.json")).unwrap();
    let all: BTreeMap<String, Vec<(String, Vec<u32>)>> = serde_json::from_str(&text).unwrap();
    for (file, texts) in &all {
        let tokenizer = Tokenizer::load_from_elsewhere(&folder.join(file), None, None).unwrap();
        for (text, ids) in texts {
            assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{file}: {text:?}");
        }
    }
    all.into_keys().collect()
}

#[test]
fn sentencepiece_gives_the_ids_that_we_give() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vocabularies");
    assert_eq!(gives_the_ids(&folder), ["bpe.model", "unigram.model"]);
    let tokenizer = Tokenizer::load_from_elsewhere(&folder.join("bpe.model"), None, None).unwrap();
    let text = "naïve 漢字 🚲  and  spaces";
    assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()), text);
    assert_eq!(tokenizer.name(tokenizer.end_of_text()).as_deref(), Some("</s>"));
}

#[test]
fn larger_ones_and_tiktokens_do_too() {
    let (Some(python), Some(npm)) = (std::env::var_os("HAIRPIN_PEERS_PYTHON"), std::env::var_os("HAIRPIN_PEERS_TIKTOKEN")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/python/vocabularies.py");
    let output = std::process::Command::new(python).arg(script).arg(folder.path()).arg(npm).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(gives_the_ids(folder.path()).len(), 8);
}

/// A `vocab.json` with its merges gives what the `tokenizer.json` of the same gives, with its ends beside it.
#[test]
fn a_vocabulary_and_its_merges_are_the_tokenizer_that_they_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let mut vocab = serde_json::Map::new();
    for (id, piece) in ["a", "b", "c", "Ġ", "ab", "Ġab", "Ġabc", "<|endoftext|>"].iter().enumerate() {
        vocab.insert((*piece).to_owned(), id.into());
    }
    put("vocab.json", &serde_json::Value::Object(vocab).to_string());
    let path = folder.path().join("vocab.json");
    let load = |path: &Path| Tokenizer::load_from_elsewhere(path, None, None);
    assert!(load(&path).err().unwrap().to_string().contains("merges.txt"), "it needs its merges");
    put("merges.txt", "#version: 0.2\na b\nĠ ab\nĠab c\n");
    for path in [&path, folder.path()] {
        let tokenizer = load(path).unwrap();
        assert_eq!(tokenizer.encode("ab abc c").unwrap(), [4, 6, 3, 2]);
        assert_eq!((tokenizer.end_of_text(), tokenizer.notes().len()), (7, 1), "{:?}", tokenizer.notes());
    }
    put("merges.txt", "#version: 0.2\na b\nno pair here\n");
    assert!(load(&path).err().unwrap().to_string().contains("line 3"), "the line at fault is named");
    put("merges.txt", "#version: 0.2\na b\n");
    put("tokenizer_config.json", "{\"tokenizer_class\": \"WhisperTokenizer\"}");
    assert!(load(&path).err().unwrap().to_string().contains("WhisperTokenizer"), "how text is cut is not guessed");
    put("ranks.tiktoken", "IQ== 0\nIg== 1\n");
    assert!(load(&folder.path().join("ranks.tiktoken")).err().unwrap().to_string().contains("2 ranks"));
}
