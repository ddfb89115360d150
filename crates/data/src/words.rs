//! Text cut into words as GPT-2 cuts it, and the tokens of words seen before: BPE never looks across a word's border,
//! and most words of a text are old ones. `tokenizers` still says what the tokens of each new word are.
//!
//! The cut is that of the expression
//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` (Radford et al. 2019, the released code), by
//! hand; its classes come from the tables of the same library that `tokenizers` runs it with.

use std::{collections::HashMap, sync::Mutex};

use regex_syntax::hir::{Class, HirKind};

/// Words kept at most; then all are forgotten.
const MOST_WORDS: usize = 1 << 18;
/// Longer words are rarely seen twice.
const LONGEST_BYTES: usize = 64;
/// BPE takes some 150 bytes of memory a byte of its word: longer ones (a file of nothing but line ends) are cut. Their text stays,
/// their tokens may differ from the library's where they are cut.
const MOST_AT_ONCE_BYTES: usize = 1 << 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Number,
    Space,
    Other,
}

/// Cuts text and remembers. Several threads may ask at once: each takes a memory of its own for as long as it asks.
pub(crate) struct Words {
    ascii: [Kind; 128],
    letters: Vec<(char, char)>,
    numbers: Vec<(char, char)>,
    memories: Mutex<Vec<Memory>>,
}

#[derive(Default)]
struct Memory {
    /// Where the tokens of a word lie in `tokens`, and how many they are.
    words: HashMap<Box<str>, (u32, u32), ahash::RandomState>,
    tokens: Vec<u32>,
}

impl Words {
    pub(crate) fn new() -> Self {
        let mut words =
            Self { ascii: [Kind::Other; 128], letters: ranges(r"\p{L}"), numbers: ranges(r"\p{N}"), memories: Mutex::default() };
        for byte in 0..128_u8 {
            words.ascii[usize::from(byte)] = words.kind_of_char(char::from(byte));
        }
        words
    }

    /// The tokens of `text`, where `tokens_of` a new word puts them at the end of what it is given.
    pub(crate) fn encode<E>(&self, text: &str, mut tokens_of: impl FnMut(&str, &mut Vec<u32>) -> Result<(), E>) -> Result<Vec<u32>, E> {
        let locked = || self.memories.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut memory = locked().pop().unwrap_or_default();
        let mut out = Vec::with_capacity(text.len() / 3);
        let mut rest = text;
        while !rest.is_empty() {
            let (word, after) = rest.split_at(self.word_bytes(rest));
            rest = after;
            if let Some((start, len)) = memory.words.get(word) {
                out.extend_from_slice(&memory.tokens[*start as usize..][..*len as usize]);
                continue;
            }
            let start = out.len();
            let mut piece = word;
            while !piece.is_empty() {
                let (first, later) = piece.split_at(piece.floor_char_boundary(MOST_AT_ONCE_BYTES));
                tokens_of(first, &mut out)?;
                piece = later;
            }
            if word.len() <= LONGEST_BYTES {
                if memory.words.len() == MOST_WORDS {
                    memory = Memory::default();
                }
                let place = (memory.tokens.len() as u32, (out.len() - start) as u32);
                memory.words.insert(word.into(), place);
                memory.tokens.extend_from_slice(&out[start..]);
            }
        }
        locked().push(memory);
        Ok(out)
    }

    /// Bytes of the word that `text` begins with; `text` is not empty.
    fn word_bytes(&self, text: &str) -> usize {
        let bytes = text.as_bytes();
        if bytes[0] == b'\'' {
            match bytes[1..] {
                [b's' | b't' | b'm' | b'd', ..] => return 2,
                [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => return 3,
                _ => {}
            }
        }
        let space = usize::from(bytes[0] == b' ');
        if let Some((kind, _)) = self.next(text, space)
            && kind != Kind::Space
        {
            return self.run_end(text, space, kind);
        }
        let end = self.run_end(text, 0, Kind::Space);
        let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
        // Before a word, the last of several spaces belongs to it or stands alone.
        if end < text.len() && last < end { end - last } else { end }
    }

    /// Where characters of `kind` from `at` on end.
    fn run_end(&self, text: &str, mut at: usize, kind: Kind) -> usize {
        while let Some((next, len)) = self.next(text, at)
            && next == kind
        {
            at += len;
        }
        at
    }

    /// Kind and bytes of the character at `at`.
    fn next(&self, text: &str, at: usize) -> Option<(Kind, usize)> {
        let byte = *text.as_bytes().get(at)?;
        if byte < 128 {
            return Some((self.ascii[usize::from(byte)], 1));
        }
        text[at..].chars().next().map(|c| (self.kind_of_char(c), c.len_utf8()))
    }

    fn kind_of_char(&self, c: char) -> Kind {
        match c {
            _ if is_in(&self.letters, c) => Kind::Letter,
            _ if is_in(&self.numbers, c) => Kind::Number,
            _ if c.is_whitespace() => Kind::Space,
            _ => Kind::Other,
        }
    }
}

/// The characters of a class, in order.
pub(crate) fn ranges(class: &str) -> Vec<(char, char)> {
    match regex_syntax::parse(class).map(regex_syntax::hir::Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => class.iter().map(|range| (range.start(), range.end())).collect(),
        _ => unreachable!("a class of Unicode's"),
    }
}

pub(crate) fn is_in(ranges: &[(char, char)], c: char) -> bool {
    let at = ranges.partition_point(|(_, last)| *last < c);
    ranges.get(at).is_some_and(|(first, _)| *first <= c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::Tokenizer;

    const PIECES: &[&str] = &[
        "'s",
        "'ll",
        "'x",
        "'",
        " '",
        "  ",
        " ",
        "\n",
        "\u{a0}",
        "\u{3000}",
        "ab",
        "é",
        "漢",
        "12",
        "½",
        "٣",
        "!?",
        "🚲",
        "\u{301}",
        "<|endoftext|>",
    ];

    fn trained() -> Tokenizer {
        let texts = [
            "we'll see that they've turned; it's 1,024 tokens\n\n\n  a  b\r\n\tc 漢字 naïve Straße ½ ٣٤ 🚲🚲",
            "fn main() { return 'x'; }",
        ];
        Tokenizer::train(400, texts.into_iter()).unwrap()
    }

    #[test]
    fn words_seen_before_and_new_ones_give_what_tokenizers_gives() {
        let tokenizer = trained();
        let text = proptest::collection::vec(proptest::sample::select(PIECES), 0..24).prop_map(|pieces| pieces.concat());
        proptest!(|(text in prop_oneof![text, any::<String>()])| {
            prop_assert_eq!(tokenizer.encode(&text).unwrap(), tokenizer.encode_slowly(&text).unwrap());
        });
    }
}
