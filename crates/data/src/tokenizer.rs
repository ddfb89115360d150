//! Tokenizers: a byte-level BPE trained here, bytes alone, or any `tokenizer.json`; all through the `tokenizers` crate.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};
use tokenizers::{
    AddedToken, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerBuilder,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::byte_level::ByteLevel,
};

use crate::{
    DataError,
    ends::{self, Ends, Named},
    kept::Kept,
    pieces::{Pieces, TextStream},
    vocabularies,
    words::Words,
};

/// Which tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenizerOptions {
    /// Train a byte-level BPE of `vocab` tokens on the first `sample_bytes` of the training text.
    Train {
        /// Tokens, 257 to 2^20: the 256 bytes and the end of text are always there.
        #[serde(default = "default_vocab")]
        vocab: usize,
        /// How much of the training text it is trained on.
        #[serde(default = "default_sample_bytes")]
        sample_bytes: u64,
    },
    /// A `tokenizer.json`, or another file of one (`vocab.json` with `merges.txt`, `.tiktoken`, SentencePiece's `tokenizer.model`). Which tokens end and begin a text is read from the files beside it, unless it is named here; only a
    /// begin that is named is put before documents.
    Load {
        /// The file, or the folder that holds it.
        path: PathBuf,
        /// The token that stands after each document.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end_of_text: Option<String>,
        /// The token that stands before each document; absent: nothing does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        begin_of_text: Option<String>,
    },
    /// 256 bytes and the end of text.
    Bytes,
}

fn default_vocab() -> usize {
    4096
}

fn default_sample_bytes() -> u64 {
    4 << 20
}

impl Default for TokenizerOptions {
    fn default() -> Self {
        Self::Train { vocab: default_vocab(), sample_bytes: default_sample_bytes() }
    }
}

/// What stands between documents.
const END_OF_TEXT: &str = "<|endoftext|>";

/// One more than the largest token: what is beyond is no tokenizer, and would take all memory.
const LARGEST_VOCAB: usize = 1 << 24;

/// Text to tokens and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Where the text is cut as GPT-2 cuts it.
    words: Option<Words>,
    ends: Ends,
    kept: Kept,
    pieces: Pieces,
    notes: Vec<String>,
    /// The same that takes special tokens where a text spells them out, made when it is first asked.
    with_specials: OnceLock<tokenizers::Tokenizer>,
}

impl Tokenizer {
    /// Train on `texts`.
    /// # Errors
    /// When `vocab` is too small for all bytes, or the library fails.
    pub fn train<'a>(vocab: usize, texts: impl Iterator<Item = &'a str> + Send) -> Result<Self, DataError> {
        let what = || "trained here".to_owned();
        let failed = |e: tokenizers::Error| DataError::Tokenizer { what: what(), problem: e.to_string() };
        if !(257..=1 << 20).contains(&vocab) {
            let problem = format!("`vocab` is {vocab}, not in 257..=1048576 (256 bytes and the end of text are always there)");
            return Err(DataError::Tokenizer { what: what(), problem });
        }
        let mut trainer = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(vocab)
            .min_frequency(2)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let byte_level = ByteLevel::new(false, true, true);
        let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel>::new()
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(byte_level))
            .with_post_processor(None)
            .with_decoder(Some(byte_level))
            .build()
            .map_err(failed)?;
        tokenizer.train(&mut trainer, texts).map_err(failed)?;
        let text = tokenizer.to_string(false).map_err(failed)?;
        Ok(Self::parse(&text, &what(), None, Named::default())?.trained_here())
    }

    /// Read a `tokenizer.json` of prepared data or of a run, and its ends from the file beside it.
    /// # Errors
    /// When it is none, or nothing tells which token ends a text.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let tokenizer = Self::load_from_elsewhere(path, None, None)?;
        let is_kept = path.parent().is_some_and(Ends::are_kept);
        Ok(if is_kept { tokenizer } else { tokenizer.trained_here() })
    }

    /// Read a tokenizer from elsewhere (`tokenizer.json`, `vocab.json` and `merges.txt`, `.tiktoken`, SentencePiece's
    /// `tokenizer.model`, or the folder of one), and its ends from what lies beside it, as a model is used that came with it. The
    /// names of tokens that are given come first.
    /// # Errors
    /// When it is none, or nothing tells which token ends a text.
    pub fn load_from_elsewhere(path: &Path, end_of_text: Option<&str>, begin_of_text: Option<&str>) -> Result<Self, DataError> {
        let what = path.display().to_string();
        let file = vocabularies::file(path);
        let read = vocabularies::read(&file).map_err(|problem| DataError::Tokenizer { what: what.clone(), problem })?;
        let named = Named { end_of_text, begin_of_text, own_end: read.end_of_text.as_deref() };
        let mut tokenizer = Self::parse(&read.text, &what, file.parent(), named)?;
        tokenizer.notes.splice(0..0, read.notes);
        Ok(tokenizer)
    }

    /// The same for documents as they are prepared here: told is what their template would have put before them and does not.
    pub(crate) fn trained_here(mut self) -> Self {
        let (template, ends) = (ends::template(&self.inner), self.ends.trained_here());
        if !template.is_empty() && template != ends.before_prompt {
            let names: Vec<String> = template.iter().filter_map(|id| self.inner.id_to_token(*id)).collect();
            self.notes.push(format!(
                "the tokenizer's template puts `{}` before a text, and nothing is put before documents here unless `begin_of_text` names it",
                names.concat()
            ));
        }
        Self { ends, ..self }
    }

    fn parse(text: &str, what: &str, folder: Option<&Path>, named: Named<'_>) -> Result<Self, DataError> {
        let failed = |problem: String| DataError::Tokenizer { what: what.to_owned(), problem };
        let mut inner: tokenizers::Tokenizer = text.parse().map_err(|e: tokenizers::Error| failed(e.to_string()))?;
        let notes = switch_off(&mut inner).map_err(|e| failed(e.to_string()))?;
        // A document that spells out a special token holds its letters, not the token.
        inner.set_encode_special_tokens(true);
        let ends = Ends::read(&inner, folder, named).map_err(failed)?;
        let kept = Kept::read(folder).map_err(failed)?;
        let vocab = inner.get_vocab(true).values().max().map_or(0, |most| *most as usize + 1);
        if vocab > LARGEST_VOCAB {
            return Err(failed(format!("its largest token is {}, and {LARGEST_VOCAB} tokens are the most that hairpin takes", vocab - 1)));
        }
        let pieces = Pieces::new(&inner, vocab);
        let words = cuts_as_gpt2(&inner).then(Words::new);
        Ok(Self { inner, words, ends, kept, pieces, notes, with_specials: OnceLock::new() })
    }

    /// One more than the largest token.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.pieces.len()
    }

    #[must_use]
    pub fn end_of_text(&self) -> u32 {
        self.ends.end_of_text
    }

    /// Which tokens begin and end a text.
    #[must_use]
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// A token as its file writes it.
    #[must_use]
    pub fn name(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// The Jinja template by which a chat is written down, if one came with it.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.kept.chat_template.as_deref()
    }

    /// Special tokens that came with it and that no text here is cut by, as `tokenizer_config.json` names them.
    #[must_use]
    pub fn kept(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.kept.tokens
    }

    /// What of its file is not done, in words.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes of text that `token` stands for; 0 for special ones.
    #[must_use]
    pub fn byte_length(&self, token: u32) -> u32 {
        self.pieces.get(token).len() as u32
    }

    /// # Errors
    /// When the tokenizer cannot take the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let Some(words) = &self.words else { return self.encode_slowly(text) };
        words.encode(text, |word, tokens| {
            tokens.extend(self.encode_slowly(word)?);
            Ok(())
        })
    }

    /// Special tokens that the text spells out are those tokens: for what a chat template wrote, never for a document.
    /// # Errors
    /// When the tokenizer cannot take the text.
    pub fn encode_with_special_tokens(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let inner = self.with_specials.get_or_init(|| {
            let mut inner = self.inner.clone();
            inner.set_encode_special_tokens(false);
            inner
        });
        let failed = |e: tokenizers::Error| DataError::Tokenizer { what: "encoding".into(), problem: e.to_string() };
        inner.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()).map_err(failed)
    }

    /// Special tokens as its file writes them.
    #[must_use]
    pub fn special_tokens(&self) -> Vec<String> {
        let added = self.inner.get_added_tokens_decoder();
        let mut all: Vec<_> = added.into_iter().filter(|(_, token)| token.special).collect();
        all.sort_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, token)| token.content).collect()
    }

    /// Without a memory of words.
    pub(crate) fn encode_slowly(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = self.inner.encode_fast(text, false);
        let failed = |e: tokenizers::Error| DataError::Tokenizer { what: "encoding".into(), problem: e.to_string() };
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(failed)
    }

    /// Text of `tokens`, special ones left out; bytes that are no UTF-8 become replacement characters.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut stream = self.text_after(&[]);
        let text: String = tokens.iter().map(|token| stream.push(*token)).collect();
        text + &stream.finish()
    }

    /// Text of tokens that follow those of `before`, one by one: the text of both without that of `before`.
    #[must_use]
    pub fn text_after(&self, before: &[u32]) -> TextStream<'_> {
        self.pieces.text(before)
    }

    /// The files from which it is read again, by name: `tokenizer.json` and its ends.
    /// # Errors
    /// When the library cannot write it down.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>, DataError> {
        let text = self.inner.to_string(true).map_err(|e| DataError::Tokenizer { what: "saving".into(), problem: e.to_string() })?;
        let mut beside = self.ends.to_json(&self.inner);
        self.kept.put(&mut beside);
        Ok(vec![("tokenizer.json".into(), text.into_bytes()), (ends::FILE.into(), format!("{beside:#}\n").into_bytes())])
    }

    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), DataError> {
        self.files()?.into_iter().try_for_each(|(name, bytes)| {
            let path = folder.join(name);
            disk::write(&path, bytes).map_err(DataError::io("write", &path))
        })
    }

    /// Its `tokenizer.json` for other programs: they put before a text what a prompt begins with here, by the file's own template or
    /// not at all; whether they do.
    /// # Errors
    /// When the library cannot write it down.
    pub fn for_others(&self) -> Result<(String, bool), DataError> {
        let failed = |e: tokenizers::Error| DataError::Tokenizer { what: "saving".into(), problem: e.to_string() };
        let ids = |special| self.inner.encode_fast("a", special).map(|encoding| encoding.get_ids().to_vec());
        let is_template = ids(true).map_err(failed)? == [self.ends.before_prompt.clone(), ids(false).map_err(failed)?].concat();
        let mut inner = self.inner.clone();
        if !is_template {
            inner.with_post_processor(None::<PostProcessorWrapper>);
        }
        Ok((inner.to_string(true).map_err(failed)?, is_template))
    }

    /// The model behind it, as its file names it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.inner.get_model() {
            ModelWrapper::BPE(_) => "BPE",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::WordLevel(_) => "WordLevel",
            ModelWrapper::Unigram(_) => "Unigram",
        }
    }
}

/// Switch off what rides along in a file and would cut a document short, fill it up, or draw its tokens by chance; tells what.
fn switch_off(inner: &mut tokenizers::Tokenizer) -> tokenizers::Result<Vec<String>> {
    let mut notes = Vec::new();
    if let Some(truncation) = inner.get_truncation() {
        notes.push(format!("the tokenizer's own truncation to {} tokens is switched off", truncation.max_length));
        inner.with_truncation(None)?;
    }
    if inner.get_padding().is_some() {
        notes.push("the tokenizer's own padding is switched off".to_owned());
        inner.with_padding(None);
    }
    if let ModelWrapper::BPE(bpe) = inner.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        notes.push("the tokenizer's own dropout, which draws tokens by chance, is switched off".to_owned());
        inner.with_model(bpe);
    }
    Ok(notes)
}

/// Whether nothing but GPT-2's expression and BPE stands between a text and its tokens.
fn cuts_as_gpt2(inner: &tokenizers::Tokenizer) -> bool {
    let cuts = matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(b)) if b.use_regex && !b.add_prefix_space);
    let is_plain = matches!(inner.get_model(), ModelWrapper::BPE(_)) && inner.get_normalizer().is_none();
    cuts && is_plain && inner.get_added_tokens_decoder().values().all(|token| token.special)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back_and_its_bytes_are_counted() {
        let texts = ["the road turns, and the road turns again", "fn main() { return; }"];
        for vocab in [257, 300] {
            let tokenizer = Tokenizer::train(vocab, texts.into_iter()).unwrap();
            assert!(tokenizer.vocab() <= vocab);
            for text in ["the road", "naïve café, 漢字, 🚲", "\r\n\t x  y", ""] {
                let tokens = tokenizer.encode(text).unwrap();
                assert_eq!(tokenizer.decode(&tokens), text);
                assert_eq!(tokens.iter().map(|t| tokenizer.byte_length(*t) as usize).sum::<usize>(), text.len());
            }
        }
    }

    #[test]
    fn a_special_token_spelt_out_is_only_its_letters() {
        let tokenizer = Tokenizer::train(257, [""].into_iter()).unwrap();
        let tokens = tokenizer.encode("a<|endoftext|>b").unwrap();
        assert!(!tokens.contains(&tokenizer.end_of_text()));
        assert_eq!(tokenizer.decode(&tokens), "a<|endoftext|>b");
    }

    #[test]
    fn truncation_padding_and_dropout_of_a_file_are_switched_off_and_told() {
        let plain = Tokenizer::train(300, ["a longer text, a longer text"].into_iter()).unwrap();
        let mut file: serde_json::Value = serde_json::from_str(&plain.inner.to_string(false).unwrap()).unwrap();
        file["truncation"] = serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
        file["padding"] = serde_json::json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
        file["model"]["dropout"] = serde_json::json!(0.5);
        let read = Tokenizer::parse(&file.to_string(), "test", None, Named::default()).unwrap();
        for text in ["a longer text", "a"] {
            assert_eq!(read.encode(text).unwrap(), plain.encode(text).unwrap());
        }
        for (note, what) in read.notes().iter().zip(["truncation to 4 tokens", "padding", "dropout"]) {
            assert!(note.contains(what), "{note}");
        }
        assert_eq!((read.notes().len(), plain.notes().len()), (3, 0));
    }

    #[test]
    fn a_tokenizer_without_an_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        for text in ["", "{}", "[1, 2]", "{\"model\": {\"type\": \"BPE\"}}"] {
            std::fs::write(&path, text).unwrap();
            assert!(Tokenizer::load(&path).is_err(), "{text}");
        }
    }
}
