//! The bytes of text that each token stands for, from its own piece: what a decoder makes of a token alone has lost the space
//! before it, and a byte that is no whole character.
//!
//! Where a tokenizer changes text before it cuts it (lower case, NFKC, spaces taken together, a space put in front), pieces are
//! those of the changed text.

use serde_json::Value;
use tokenizers::{Decoder, DecoderWrapper, Model, ModelWrapper, pre_tokenizers::metaspace::PrependScheme};

/// All tokens' bytes, one after the other; special tokens have none.
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    starts: Vec<u32>,
    /// Whether a text's first space is none of its own: the tokenizer puts one in front, or a space is how a word begins.
    is_first_space_put: bool,
}

/// What undoes one thing that was done to a piece.
enum Step {
    /// Characters that stand for bytes (GPT-2's table).
    ByteLevel,
    /// `<0xE4>` is a byte.
    ByteFallback,
    /// A character that stands for a space.
    Space(char),
    /// A piece without this in front begins a word.
    Continued(String),
    /// A piece with this behind ends a word.
    Suffix(String),
    /// Every piece is a word.
    Word,
    Other(DecoderWrapper),
}

impl Pieces {
    /// Of the tokens 0..`vocab`.
    pub(crate) fn new(inner: &tokenizers::Tokenizer, vocab: usize) -> Self {
        let (steps, table, added) = (steps(inner), byte_table(), inner.get_added_tokens_decoder());
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        for id in 0..vocab as u32 {
            match added.get(&id) {
                Some(token) if token.special => {}
                // What is added stands for itself, unless the model writes it too: then in the model's letters.
                Some(token) => {
                    let piece = undo(&steps, &table, &token.content);
                    let is_models = inner.get_model().token_to_id(&token.content).is_some() && std::str::from_utf8(&piece).is_ok();
                    bytes.extend(if is_models { piece } else { token.content.clone().into_bytes() });
                }
                None => bytes.extend(inner.id_to_token(id).map(|piece| undo(&steps, &table, &piece)).unwrap_or_default()),
            }
            starts.push(bytes.len() as u32);
        }
        let begins_words = steps.iter().any(|step| matches!(step, Step::Continued(_) | Step::Word));
        Self { bytes, starts, is_first_space_put: begins_words || inner.get_decoder().is_some_and(strips_first) }
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub(crate) fn get(&self, token: u32) -> &[u8] {
        let at = |index: usize| self.starts.get(index).map(|at| *at as usize);
        match (at(token as usize), at(token as usize + 1)) {
            (Some(start), Some(end)) => &self.bytes[start..end],
            _ => &[],
        }
    }

    /// The text of tokens as they come, after those of `before`.
    pub(crate) fn text(&self, before: &[u32]) -> TextStream<'_> {
        let is_begun = before.iter().any(|token| !self.get(*token).is_empty());
        TextStream { pieces: self, bytes: Vec::new(), drops_space: self.is_first_space_put && !is_begun }
    }
}

/// Text of tokens that come one by one, in whole characters: what is given out is never taken back.
pub struct TextStream<'a> {
    pieces: &'a Pieces,
    /// Of a character that is not whole yet.
    bytes: Vec<u8>,
    drops_space: bool,
}

impl TextStream<'_> {
    /// The characters that `token` makes whole; bytes that begin none become replacement characters.
    pub fn push(&mut self, token: u32) -> String {
        let mut piece = self.pieces.get(token);
        if self.drops_space && !piece.is_empty() {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
            self.drops_space = false;
        }
        self.bytes.extend_from_slice(piece);
        let is_cut = |bytes: &[u8]| std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none());
        let last = self.bytes.utf8_chunks().last().map_or(0, |chunk| if is_cut(chunk.invalid()) { chunk.invalid().len() } else { 0 });
        let rest = self.bytes.split_off(self.bytes.len() - last);
        let whole = std::mem::replace(&mut self.bytes, rest);
        String::from_utf8_lossy(&whole).into_owned()
    }

    /// What is left when no token comes any more: a replacement character, or nothing.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

fn undo(steps: &[Step], table: &[(char, u8)], piece: &str) -> Vec<u8> {
    let (mut text, mut end) = (piece.to_owned(), "");
    for step in steps {
        match step {
            Step::ByteLevel => {
                let byte = |c: char| table.binary_search_by_key(&c, |(c, _)| *c).ok().map(|at| table[at].1);
                let bytes: Option<Vec<u8>> = text.chars().map(byte).collect();
                return bytes.unwrap_or_else(|| text.into_bytes()).into_iter().chain(end.bytes()).collect();
            }
            Step::ByteFallback => {
                let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|hex| hex.len() == 2);
                if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    return vec![byte];
                }
            }
            Step::Space(c) => text = text.replace(*c, " "),
            Step::Continued(prefix) => text = text.strip_prefix(prefix.as_str()).map_or_else(|| format!(" {text}"), str::to_owned),
            Step::Suffix(suffix) => {
                if let Some(word) = text.strip_suffix(suffix.as_str()) {
                    (text, end) = (word.to_owned(), " ");
                }
            }
            Step::Word => text.insert(0, ' '),
            Step::Other(decoder) => {
                text = decoder.decode_chain(vec![text.clone()]).map_or(text, |parts| parts.concat());
            }
        }
    }
    text.push_str(end);
    text.into_bytes()
}

/// From the decoder; where there is none, from what was done to the text.
fn steps(inner: &tokenizers::Tokenizer) -> Vec<Step> {
    let mut steps = Vec::new();
    if let ModelWrapper::BPE(bpe) = inner.get_model() {
        steps.extend(bpe.end_of_word_suffix.clone().map(Step::Suffix));
    }
    of_decoder(inner.get_decoder(), &mut steps);
    let has = |wanted: fn(&Step) -> bool, steps: &[Step]| steps.iter().any(wanted);
    let before: Vec<Value> = [inner.get_pre_tokenizer().map(serde_json::to_value), inner.get_normalizer().map(serde_json::to_value)]
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    let before: Vec<&Value> = before.iter().flat_map(parts).collect();
    if before.iter().any(|part| part["type"] == "ByteLevel") && !has(|s| matches!(s, Step::ByteLevel), &steps) {
        steps.push(Step::ByteLevel);
    }
    let meta = before.iter().find(|part| part["type"] == "Metaspace");
    let meta = meta.and_then(|part| part["replacement"].as_str()?.chars().next());
    if let (Some(c), None) = (meta, inner.get_decoder()) {
        steps.push(Step::Space(c));
    }
    match inner.get_model() {
        ModelWrapper::BPE(bpe) => {
            if bpe.byte_fallback && !has(|s| matches!(s, Step::ByteFallback), &steps) {
                steps.push(Step::ByteFallback);
            }
            let prefix = bpe.continuing_subword_prefix.clone().filter(|p| !p.is_empty());
            steps.extend(prefix.filter(|_| !has(|s| matches!(s, Step::Continued(_)), &steps)).map(Step::Continued));
        }
        ModelWrapper::WordPiece(model) if !has(|s| matches!(s, Step::Continued(_)), &steps) => {
            steps.push(Step::Continued(model.continuing_subword_prefix.clone()));
        }
        ModelWrapper::WordLevel(_) if inner.get_decoder().is_none() && meta.is_none() => steps.push(Step::Word),
        _ => {}
    }
    steps
}

fn of_decoder(decoder: Option<&DecoderWrapper>, steps: &mut Vec<Step>) {
    match decoder {
        Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders().iter().for_each(|d| of_decoder(Some(d), steps)),
        Some(DecoderWrapper::ByteLevel(_)) => steps.push(Step::ByteLevel),
        Some(DecoderWrapper::ByteFallback(_)) => steps.push(Step::ByteFallback),
        Some(DecoderWrapper::Metaspace(meta)) => steps.push(Step::Space(meta.get_replacement())),
        Some(DecoderWrapper::WordPiece(model)) => steps.push(Step::Continued(model.prefix.clone())),
        Some(DecoderWrapper::BPE(model)) => steps.push(Step::Suffix(model.suffix.clone())),
        Some(other @ DecoderWrapper::Replace(_)) => steps.push(Step::Other(other.clone())),
        // What these do hangs on the tokens beside.
        Some(DecoderWrapper::Strip(_) | DecoderWrapper::Fuse(_) | DecoderWrapper::CTC(_)) | None => {}
    }
}

/// Whether a decoder takes the first space of a text away.
fn strips_first(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(strips_first),
        DecoderWrapper::Metaspace(meta) => meta.prepend_scheme != PrependScheme::Never,
        DecoderWrapper::Strip(strip) => strip.content == ' ' && strip.start > 0,
        _ => false,
    }
}

/// The members of a sequence of pre-tokenizers or normalizers, or the one that it is.
fn parts(value: &Value) -> Vec<&Value> {
    match value.get("pretokenizers").or(value.get("normalizers")).and_then(Value::as_array) {
        Some(members) => members.iter().flat_map(parts).collect(),
        None => vec![value],
    }
}

/// GPT-2's characters for bytes, in order: printable ones stand for themselves, the others follow from U+0100 on
/// (`bytes_to_unicode` of the released code).
fn byte_table() -> Vec<(char, u8)> {
    let is_itself = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255_u8).filter(|b| !is_itself(b)).zip('\u{100}'..).map(|(b, c)| (c, b));
    let mut table: Vec<(char, u8)> = (0..=255_u8).filter(is_itself).map(|b| (char::from(b), b)).chain(others).collect();
    table.sort_unstable();
    table
}

/// The same, by bytes.
pub(crate) fn letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    byte_table().into_iter().for_each(|(c, byte)| letters[usize::from(byte)] = c);
    letters
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pieces(tokenizer: Value) -> (tokenizers::Tokenizer, Pieces) {
        let inner: tokenizers::Tokenizer = tokenizer.to_string().parse().unwrap();
        let vocab = inner.get_vocab_size(true);
        let pieces = Pieces::new(&inner, vocab);
        (inner, pieces)
    }

    fn special(id: u32, content: &str) -> Value {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
    }

    /// Llama 2's kind: a space put in front and in every place of one, bytes for what has no piece.
    fn sentencepiece() -> (tokenizers::Tokenizer, Pieces) {
        let mut vocab = json!({"<unk>": 0, "</s>": 1, "▁": 258, "a": 259, "b": 260, "▁a": 261, "▁ab": 262});
        (0..256).for_each(|byte| vocab[format!("<0x{byte:02X}>")] = json!(byte + 2));
        pieces(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0, "<unk>"), special(1, "</s>")],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": [["▁", "a"], ["▁a", "b"]]}
        }))
    }

    fn plain(model: Value, before: Value, decoder: Value) -> (tokenizers::Tokenizer, Pieces) {
        pieces(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special(0, "[UNK]")],
            "normalizer": null, "pre_tokenizer": before, "post_processor": null, "decoder": decoder, "model": model
        }))
    }

    #[test]
    fn a_piece_stands_for_the_bytes_that_its_kind_writes() {
        let (_, sp) = sentencepiece();
        for (token, bytes) in [(0, ""), (1, ""), (2 + 0xe6, "\u{e6}"), (258, " "), (259, "a"), (261, " a"), (262, " ab")] {
            let bytes: Vec<u8> = if token == 2 + 0xe6 { vec![0xe6] } else { bytes.bytes().collect() };
            assert_eq!(sp.get(token), bytes, "{token}");
        }
        let wordpiece = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {"[UNK]": 0, "play": 1, "##ing": 2}});
        for decoder in [json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), Value::Null] {
            let (_, pieces) = plain(wordpiece.clone(), json!({"type": "Whitespace"}), decoder);
            assert_eq!([pieces.get(0), pieces.get(1), pieces.get(2)], [&b""[..], b" play", b"ing"]);
        }
        let unigram =
            json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [["[UNK]", 0.0], ["▁play", -1.0], ["ing", -2.0]]});
        let meta = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        for decoder in [meta.clone(), Value::Null] {
            let (_, pieces) = plain(unigram.clone(), meta.clone(), decoder);
            assert_eq!([pieces.get(0), pieces.get(1), pieces.get(2)], [&b""[..], b" play", b"ing"]);
        }
        let words = json!({"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "play": 1}});
        assert_eq!(plain(words, json!({"type": "Whitespace"}), Value::Null).1.get(1), b" play");
    }

    #[test]
    fn pieces_of_a_text_are_its_bytes_and_the_space_put_in_front() {
        let (inner, pieces) = sentencepiece();
        for text in ["ab a", " ab", "naïve 漢字 🚲\r\n\t", "a  b", "<0xE6> ▁", ""] {
            let ids = inner.encode(text, false).unwrap().get_ids().to_vec();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| pieces.get(*id).to_vec()).collect();
            // The kind writes `▁` for a space too: it cannot tell them apart.
            let put = if text.is_empty() { "" } else { " " };
            assert_eq!(String::from_utf8(bytes).unwrap(), format!("{put}{}", text.replace('▁', " ")));
        }
    }

    proptest::proptest! {
        #[test]
        fn streamed_text_is_the_whole_in_whole_characters(tokens in proptest::collection::vec(0_u32..263, 0..40), before in 0_usize..3) {
            let (_, pieces) = sentencepiece();
            let before = &[1, 259][..before];
            let mut stream = pieces.text(before);
            let mut streamed: String = tokens.iter().map(|token| stream.push(*token)).collect();
            streamed += &stream.finish();
            let bytes: Vec<u8> = tokens.iter().flat_map(|token| pieces.get(*token).to_vec()).collect();
            let is_first = !before.contains(&259);
            let bytes = if is_first && bytes.first() == Some(&b' ') { &bytes[1..] } else { &bytes };
            assert_eq!(streamed, String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_character_is_given_out_when_it_is_whole() {
        let (_, pieces) = sentencepiece();
        let mut stream = pieces.text(&[1]);
        let given: Vec<String> =
            [261, 2 + 0xe6, 2 + 0xbc, 261, 2 + 0xe6, 2 + 0xbc, 2 + 0xa2, 2 + 0xff, 2 + 0xf0].iter().map(|t| stream.push(*t)).collect();
        assert_eq!(given, ["a", "", "", "\u{fffd} a", "", "", "漢", "\u{fffd}", ""]);
        assert_eq!(stream.finish(), "\u{fffd}");
    }
}
