//! What texts have in common, by the least hashes of their shingles; Broder, *On the resemblance and containment of
//! documents*, 1997.
//!
//! Words, shingles, hash functions and bands are datatrove's defaults, which made FineWeb (arXiv:2406.17557), number by
//! number: whoever deduplicates by either finds the same clusters, which `cargo xtask bench minhash` asserts. A word is
//! what stands between white space once letters are small, accents and punctuation gone, and every number is `0`; where a
//! quarter of a text or more is in scripts that set no spaces between words (Han, kana, Thai, ...) each of their characters is one.
//! **Absent on purpose:** spaCy's rules, by which datatrove cuts such words further (`10km`, `cannot`) when it is told a language.

use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization;
use xxhash_rust::{xxh3::xxh3_128, xxh64::xxh64};

use crate::words::{is_in, ranges};

pub(crate) const BANDS: usize = 14;
const ROWS: usize = 8;
const HASHES: usize = BANDS * ROWS;
const SHINGLE_WORDS: usize = 5;

/// The least value of each hash function, in bands: two texts are near that agree in a whole band. Where `s` of all shingles
/// are common, they are found with probability `1 - (1 - s^8)^14`: a half at 0.70, nine in ten at 0.79.
type Signature = [[u64; ROWS]; BANDS];

/// A hash of each band of a text's signature; `None` for a text of fewer than five words.
pub(crate) fn bands(text: &str) -> Option<Box<[u128; BANDS]>> {
    let hash = |band: [u64; ROWS]| xxh3_128(band.map(u64::to_le_bytes).as_flattened());
    signature(text).map(|signature| Box::new(signature.map(hash)))
}

fn signature(text: &str) -> Option<Signature> {
    let plain = plain(text);
    let words = words(&plain);
    if words.len() < SHINGLE_WORDS {
        return None;
    }
    let mut least = [u64::MAX; HASHES];
    for shingle in words.windows(SHINGLE_WORDS) {
        let hash = xxh64(&plain.as_bytes()[shingle[0].0..shingle[SHINGLE_WORDS - 1].1], 0);
        for (least, (a, b)) in least.iter_mut().zip(FUNCTIONS.iter()) {
            *least = (*least).min(modulo(hash.wrapping_mul(*a).wrapping_add(*b)));
        }
    }
    let (bands, _) = least.as_chunks::<ROWS>();
    bands.try_into().ok()
}

/// Where each word of a plain text begins and ends.
fn words(plain: &str) -> Vec<(usize, usize)> {
    let mut words = Vec::with_capacity(plain.len() / 4);
    let unspaced = if plain.is_ascii() { 0 } else { plain.chars().filter(|c| is_in(&CLASSES.unspaced, *c)).count() };
    let is_unspaced = 4 * unspaced > plain.chars().filter(|c| *c != ' ').count();
    let mut end = 0;
    for spaced in plain.split(' ') {
        let mut start = end;
        end += spaced.len();
        if is_unspaced && !spaced.is_ascii() {
            let first = start;
            for (at, c) in spaced.char_indices().filter(|(_, c)| is_in(&CLASSES.unspaced, *c)) {
                words.extend((start < first + at).then_some((start, first + at)));
                start = first + at + c.len_utf8();
                words.push((first + at, start));
            }
        }
        words.extend((start < end || spaced.is_empty()).then_some((start, end)));
        end += 1;
    }
    words
}

/// What is left of a text to compare: words with one space between them.
fn plain(text: &str) -> String {
    let lower = text.to_lowercase();
    let mut out = String::with_capacity(lower.len());
    let mut rest = lower.chars();
    while let Some(c) = rest.next() {
        if is_digit(c) {
            // Digits, and once a separator that more digits follow.
            skip_digits(&mut rest);
            let mut after = rest.clone();
            if after.next().is_some_and(|c| SEPARATORS.contains(c)) && after.next().is_some_and(is_digit) {
                skip_digits(&mut after);
                rest = after;
            }
            out.push('0');
        } else if c.is_whitespace() || is_punctuation(c) {
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
        } else {
            out.push(c);
        }
    }
    if !out.is_ascii() {
        let bare: String = out.nfd().filter(|c| !is_in(&CLASSES.marks, *c)).collect();
        out = bare.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    out.truncate(out.trim_end().len());
    out
}

fn skip_digits(chars: &mut std::str::Chars<'_>) {
    while chars.clone().next().is_some_and(is_digit) {
        chars.next();
    }
}

const SEPARATORS: &str = ".,،٫⎖⎗⎘";

/// datatrove's list; control characters besides.
const PUNCTUATION: &str = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»";

fn is_punctuation(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_control() || CLASSES.ascii_punctuation[c as usize] } else { c.is_control() || PUNCTUATION.contains(c) }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || !c.is_ascii() && is_in(&CLASSES.digits, c)
}

struct Classes {
    ascii_punctuation: [bool; 128],
    digits: Vec<(char, char)>,
    /// Accents, which stand on their own once a text is decomposed.
    marks: Vec<(char, char)>,
    /// Letters of scripts without spaces between words.
    unspaced: Vec<(char, char)>,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(|| Classes {
    ascii_punctuation: std::array::from_fn(|c| PUNCTUATION.contains(c as u8 as char)),
    digits: ranges(r"\p{Nd}"),
    marks: ranges(r"\p{Mn}"),
    unspaced: ranges(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"),
});

/// Mersenne's prime `2^61 - 1`.
const PRIME: u64 = (1 << 61) - 1;

fn modulo(x: u64) -> u64 {
    let folded = (x & PRIME) + (x >> 61);
    if folded < PRIME { folded } else { folded - PRIME }
}

/// `(a x + b) mod 2^64 mod PRIME`: the numbers that numpy's `RandomState(1)` draws, all `a` from 1 on before all `b`.
static FUNCTIONS: LazyLock<Vec<(u64, u64)>> = LazyLock::new(|| {
    let mut twister = Twister::new(1);
    // Draws of 61 bits that are out of range are drawn again.
    let mut below = |limit: u64| {
        loop {
            let drawn = (u64::from(twister.next()) << 32 | u64::from(twister.next())) & PRIME;
            if drawn < limit {
                return drawn;
            }
        }
    };
    let a: Vec<u64> = (0..HASHES).map(|_| 1 + below(PRIME - 1)).collect();
    a.into_iter().map(|a| (a, below(PRIME))).collect()
});

/// MT19937: Matsumoto and Nishimura, *Mersenne Twister*, 1998.
struct Twister {
    state: [u32; Self::N],
    at: usize,
}

impl Twister {
    const N: usize = 624;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for i in 1..Self::N {
            state[i] = (state[i - 1] ^ state[i - 1] >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, at: 0 }
    }

    fn next(&mut self) -> u32 {
        let (s, i) = (&mut self.state, self.at);
        let joined = s[i] & 0x8000_0000 | s[(i + 1) % Self::N] & 0x7fff_ffff;
        s[i] = s[(i + 397) % Self::N] ^ joined >> 1 ^ ((joined & 1) * 0x9908_b0df);
        self.at = (i + 1) % Self::N;
        let mut y = s[i];
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wanted: what datatrove's `simplify_text` gives.
    #[test]
    fn texts_are_made_plain_as_datatrove_does() {
        for (text, want) in [
            ("  The  Crème brûlée\tcosts 1,234.50 EUR!\n", "the creme brulee costs 0 0 eur"),
            ("a\u{301} \u{302} b", "a b"),
            ("v1.2.3-rc٣٤ x½ １２", "v0 0 rc0 x½ 0"),
            ("ΣΑΣ İstanbul foo_bar::baz(10km) it’s", "σας istanbul foo bar baz 0km it s"),
            ("\"quoted\" ── 漢字。「かな」", "quoted ── 漢字 かな"),
            ("\u{85}\u{a0} !", ""),
        ] {
            assert_eq!(plain(text), want);
        }
    }

    #[test]
    fn words_are_spaced_or_single_characters_where_no_spaces_are_set() {
        let cut = |text: &'static str| words(text).into_iter().map(|(start, end)| &text[start..end]).collect::<Vec<_>>();
        assert_eq!(cut("the road"), ["the", "road"]);
        assert_eq!(cut("says hello to the whole 世界"), ["says", "hello", "to", "the", "whole", "世界"]);
        assert_eq!(cut(""), [""]);
        assert_eq!(cut("abc漢字de かな 한국어"), ["abc", "漢", "字", "de", "か", "な", "한국어"]);
    }

    /// One character in forty changed, in clauses of eight: nine in ten shingles are common.
    #[test]
    fn nearly_the_same_chinese_agrees_in_a_band_and_other_does_not() {
        let text = |seed: u32| -> String {
            let c = |i: u32| char::from_u32(0x4e00 + (seed + i).wrapping_mul(2_654_435_761) % 3000).unwrap();
            (0..800).flat_map(|i| [Some(c(i)), (i % 8 == 7).then_some('，')]).flatten().collect()
        };
        let common = |a: &str, b: &str| bands(a).unwrap().iter().zip(bands(b).unwrap().iter()).filter(|(a, b)| a == b).count();
        let changed: String = text(1).chars().enumerate().map(|(i, c)| if i % 45 == 20 { '龘' } else { c }).collect();
        assert!(common(&text(1), &changed) > 0);
        assert_eq!(common(&text(1), &text(500_000)), 0);
    }

    /// `RandomState(1).randint(1, p, dtype=uint64, size=112)`, then `randint(0, p, ...)`.
    #[test]
    fn the_hash_functions_are_numpys() {
        assert_eq!(FUNCTIONS[0], (775_169_054_918_279_404, 1_062_448_801_025_099_917));
        assert_eq!(FUNCTIONS[2], (2_109_959_069_025_162, 1_217_488_311_597_731_462));
        assert_eq!(FUNCTIONS[111], (223_865_076_026_037_746, 1_097_409_548_522_419_201));
    }

    /// Wanted: what its `MinhashDedupSignature.get_signature` gives.
    #[test]
    fn a_signature_is_datatroves() {
        assert_eq!(signature("one two three four"), None);
        let signature = signature("one two three Four, FIVE 6 seven").unwrap();
        assert_eq!(signature[0][..3], [699_275_049_159_941_947, 99_821_030_435_059_463, 26_737_083_291_378_275]);
        assert_eq!(signature[13][6..], [527_501_161_063_422_097, 530_726_514_906_529_162]);
    }
}
