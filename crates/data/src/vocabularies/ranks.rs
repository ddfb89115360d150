//! `.tiktoken`: a line for each token, its bytes in base64 and its rank, which is its number. How text is cut and which tokens are
//! special is in the program that reads it; the published files are told apart by how many ranks they have.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Text, added, byte_level};
use crate::pieces;

/// A published file.
struct Known {
    ranks: usize,
    name: &'static str,
    /// None: GPT-2's.
    expression: Option<&'static str>,
    special: &'static [(&'static str, u64)],
}

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// As `tiktoken` (openai_public.py) and Llama 3's code read them.
const KNOWN: [Known; 5] = [
    Known { ranks: 50_256, name: "r50k_base", expression: None, special: &[("<|endoftext|>", 50_256)] },
    Known { ranks: 50_280, name: "p50k_base", expression: None, special: &[("<|endoftext|>", 50_256)] },
    Known {
        ranks: 100_256,
        name: "cl100k_base",
        expression: Some(CL100K),
        special: &[
            ("<|endoftext|>", 100_257),
            ("<|fim_prefix|>", 100_258),
            ("<|fim_middle|>", 100_259),
            ("<|fim_suffix|>", 100_260),
            ("<|endofprompt|>", 100_276),
        ],
    },
    Known {
        ranks: 128_000,
        name: "Llama 3",
        expression: Some(CL100K),
        special: &[
            ("<|end_of_text|>", 128_001),
            ("<|begin_of_text|>", 128_000),
            ("<|start_header_id|>", 128_006),
            ("<|end_header_id|>", 128_007),
            ("<|eot_id|>", 128_009),
        ],
    },
    Known {
        ranks: 199_998,
        name: "o200k_base",
        expression: Some(O200K),
        special: &[("<|endoftext|>", 199_999), ("<|endofprompt|>", 200_018)],
    },
];

/// Whether the first line is one of these.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or(&[]);
    std::str::from_utf8(line).is_ok_and(|line| parse(line.trim_end()).is_some())
}

fn parse(line: &str) -> Option<(Vec<u8>, u32)> {
    let (token, rank) = line.split_once(' ')?;
    Some((base64::decode(token).ok().filter(|bytes| !bytes.is_empty())?, rank.parse().ok()?))
}

pub(super) fn read(bytes: &[u8]) -> Result<Text, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("it is no text: {e}"))?;
    let mut ranks: HashMap<Vec<u8>, u32> = HashMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let (token, rank) = parse(line).ok_or_else(|| format!("line {} is no token in base64 and its rank: `{line}`", at + 1))?;
        ranks.insert(token, rank);
    }
    let known = KNOWN.iter().find(|known| known.ranks == ranks.len()).ok_or_else(|| {
        let names: Vec<String> = KNOWN.iter().map(|known| format!("{} ({})", known.name, known.ranks)).collect();
        format!("it has {} ranks, and how text is cut before BPE is known of {}: give a `tokenizer.json`", ranks.len(), names.join(", "))
    })?;
    let letters = pieces::letters();
    let spelt = |token: &[u8]| token.iter().map(|byte| letters[usize::from(*byte)]).collect::<String>();
    let mut by_rank: Vec<(&Vec<u8>, u32)> = ranks.iter().map(|(token, rank)| (token, *rank)).collect();
    by_rank.sort_unstable_by_key(|(_, rank)| *rank);
    let merges: Vec<(String, String)> =
        by_rank.iter().filter_map(|(token, rank)| halves(token, *rank, &ranks)).map(|(a, b)| (spelt(a), spelt(b))).collect();
    let mut vocab: Map<String, Value> = by_rank.iter().map(|(token, rank)| (spelt(token), (*rank).into())).collect();
    vocab.extend(known.special.iter().map(|(name, id)| ((*name).to_owned(), (*id).into())));
    let special: Vec<Value> = known.special.iter().map(|(name, id)| added(*id, name, true)).collect();
    let mut json = byte_level(&vocab, &merges, &special, known.expression);
    // A word that is a token is that token, whether or not merges lead there.
    json["model"]["ignore_merges"] = true.into();
    let end_of_text = known.special.first().map(|(name, _)| (*name).to_owned());
    Ok(Text { text: json.to_string(), end_of_text, notes: vec![format!("read as {}, by its number of ranks", known.name)] })
}

/// The two tokens that `token` is merged of: what BPE leaves of it with the ranks below its own.
fn halves<'a>(token: &'a [u8], rank: u32, ranks: &HashMap<Vec<u8>, u32>) -> Option<(&'a [u8], &'a [u8])> {
    let mut ends: Vec<usize> = (0..=token.len()).collect();
    while ends.len() > 3 {
        let pairs = ends.windows(3).enumerate();
        let best = pairs.filter_map(|(at, w)| ranks.get(&token[w[0]..w[2]]).filter(|r| **r < rank).map(|r| (*r, at))).min()?;
        ends.remove(best.1 + 1);
    }
    (ends.len() == 3).then(|| token.split_at(ends[1]))
}
