//! SentencePiece's `tokenizer.model`: a protocol buffer (`sentencepiece_model.proto`) of pieces with scores, of how they were trained
//! and of how text is normalised; of the kinds `unigram` and `bpe`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{Text, added, bpe};

/// What stands for a space.
const SPACE: &str = "\u{2581}";

/// Kinds of pieces, by their numbers.
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

/// Whether it begins with a piece, a message under the first field.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x0a) && matches!(Fields(bytes).next(), Some(Some((1, Field::Bytes(piece)))) if piece.first() == Some(&0x0a))
}

pub(super) fn read(bytes: &[u8]) -> Result<Text, String> {
    let mut pieces = Vec::new();
    let (mut kind, mut byte_fallback, mut end) = (1, false, 2_u64);
    let (mut charsmap, mut puts_space, mut cleans_spaces, mut escapes) = (&[][..], true, true, true);
    let torn = || "it is torn: its fields do not fit its length".to_owned();
    for field in Fields(bytes) {
        match field.ok_or_else(torn)? {
            (1, Field::Bytes(message)) => {
                let mut piece = Piece { text: String::new(), score: 0.0, kind: NORMAL };
                for field in Fields(message) {
                    match field.ok_or_else(torn)? {
                        (1, Field::Bytes(text)) => {
                            piece.text = String::from_utf8(text.to_vec()).map_err(|e| format!("a piece is no text: {e}"))?
                        }
                        (2, Field::Fixed(bits)) => piece.score = f32::from_bits(bits),
                        (3, Field::Number(kind)) => piece.kind = kind,
                        _ => {}
                    }
                }
                pieces.push(piece);
            }
            (2, Field::Bytes(trainer)) => {
                for field in Fields(trainer) {
                    match field.ok_or_else(torn)? {
                        (3, Field::Number(value)) => kind = value,
                        (35, Field::Number(value)) => byte_fallback = value != 0,
                        (42, Field::Number(value)) => end = value,
                        _ => {}
                    }
                }
            }
            (3, Field::Bytes(normaliser)) => {
                for field in Fields(normaliser) {
                    match field.ok_or_else(torn)? {
                        (2, Field::Bytes(map)) => charsmap = map,
                        (3, Field::Number(value)) => puts_space = value != 0,
                        (4, Field::Number(value)) => cleans_spaces = value != 0,
                        (5, Field::Number(value)) => escapes = value != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if !escapes {
        return Err("its spaces are not written as U+2581, which is not read: give a `tokenizer.json`".into());
    }
    let unknown = pieces.iter().position(|piece| piece.kind == UNKNOWN);
    let vocab: Map<String, Value> = pieces.iter().enumerate().map(|(id, piece)| (piece.text.clone(), id.into())).collect();
    if vocab.len() != pieces.len() {
        return Err(format!("{} of its pieces are there twice", pieces.len() - vocab.len()));
    }
    let mut model = match kind {
        1 => {
            let unk_id = unknown.ok_or("it has no piece for what is unknown")?;
            json!({"type": "Unigram", "unk_id": unk_id, "vocab": pieces.iter().map(|p| json!([p.text, p.score])).collect::<Vec<_>>()})
        }
        2 => bpe(&vocab, &merges(&pieces), unknown.map(|at| pieces[at].text.as_str())),
        other => return Err(format!("its kind is {other}; `unigram` (1) and `bpe` (2) are read: give a `tokenizer.json`")),
    };
    model["byte_fallback"] = byte_fallback.into();
    let added_tokens: Vec<Value> = pieces
        .iter()
        .enumerate()
        .filter(|(_, p)| [UNKNOWN, CONTROL, USER_DEFINED].contains(&p.kind))
        .map(|(id, p)| added(id as u64, &p.text, p.kind != USER_DEFINED))
        .collect();
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let mut normalizers = Vec::new();
    if !charsmap.is_empty() {
        normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": base64::encode(charsmap)}));
    }
    if cleans_spaces {
        normalizers.push(replace(json!({"Regex": "^ +| +$"}), ""));
        normalizers.push(replace(json!({"Regex": " {2,}"}), " "));
    }
    if puts_space {
        normalizers.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    normalizers.push(replace(json!({"String": " "}), SPACE));
    let mut decoders = vec![replace(json!({"String": SPACE}), " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if puts_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added_tokens,
        "normalizer": {"type": "Sequence", "normalizers": normalizers}, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders}, "model": model,
    });
    // Without one the number is -1.
    let end_of_text = usize::try_from(end).ok().and_then(|at| pieces.get(at)).filter(|p| p.kind == CONTROL).map(|p| p.text.clone());
    Ok(Text { text: json.to_string(), end_of_text, notes: Vec::new() })
}

/// BPE joins the pair whose piece has the highest score: every way to make a piece of two, the best piece first.
fn merges(pieces: &[Piece]) -> Vec<(String, String)> {
    let is_text = |piece: &&Piece| [NORMAL, USER_DEFINED].contains(&piece.kind);
    let ids: HashMap<&str, usize> = pieces.iter().enumerate().filter(|(_, p)| is_text(p)).map(|(id, p)| (p.text.as_str(), id)).collect();
    let mut all: Vec<(f32, usize, usize, (&str, &str))> = Vec::new();
    for piece in pieces.iter().filter(is_text) {
        for (at, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(at);
            if let (Some(a), Some(b)) = (ids.get(left), ids.get(right)) {
                all.push((piece.score, *a, *b, (left, right)));
            }
        }
    }
    all.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    all.into_iter().map(|(.., (left, right))| (left.to_owned(), right.to_owned())).collect()
}

/// A value of a message.
enum Field<'a> {
    Number(u64),
    Fixed(u32),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message, by their numbers; `None` where it is torn, and then no more.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Field::Number(self.number()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let count = self.number()?;
                Field::Bytes(self.take(count)?)
            }
            5 => Field::Fixed(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}
