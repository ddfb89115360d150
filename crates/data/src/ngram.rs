//! The baseline that a model has to beat: a trigram over tokens with Witten-Bell smoothing.
//!
//! `P(w | h) = (c(h w) + t(h) P(w | shorter h)) / (c(h) + t(h))`, with `c` counts and `t` the number of different tokens
//! seen after `h`; down to `1 / vocab`. Witten and Bell, *The Zero-Frequency Problem*, 1991, method C.

use std::collections::HashMap;

/// Counts of one, two and three tokens.
pub struct Ngram {
    vocab: f64,
    /// Per length of context: (context, token) -> count.
    counts: [HashMap<u128, u32>; 3],
    /// Per length of context: context -> (tokens seen, different ones).
    contexts: [HashMap<u64, (u32, u32)>; 3],
}

impl Ngram {
    /// Count `tokens`.
    #[must_use]
    pub fn train(tokens: &[u32], vocab: usize) -> Self {
        let mut model = Self { vocab: vocab as f64, counts: Default::default(), contexts: Default::default() };
        for at in 0..tokens.len() {
            for order in 0..3.min(at + 1) {
                let context = key(&tokens[at - order..at]);
                let count = model.counts[order].entry(pair(context, tokens[at])).or_default();
                *count += 1;
                let (seen, different) = model.contexts[order].entry(context).or_default();
                *seen += 1;
                *different += u32::from(*count == 1);
            }
        }
        model
    }

    /// `-log2 p` of the last of `tokens` after those before it.
    fn bits(&self, tokens: &[u32]) -> f64 {
        let Some((&token, history)) = tokens.split_last() else { return 0.0 };
        let mut p = 1.0 / self.vocab;
        for order in 0..3.min(history.len() + 1) {
            let context = key(&history[history.len() - order..]);
            let Some(&(seen, different)) = self.contexts[order].get(&context) else { break };
            let count = self.counts[order].get(&pair(context, token)).copied().unwrap_or(0);
            p = (f64::from(count) + f64::from(different) * p) / f64::from(seen + different);
        }
        -p.log2()
    }

    /// Bits for all targets of `window` `[seq + 1]`, the first token being given.
    #[must_use]
    pub fn window_bits(&self, window: &[u32]) -> f64 {
        (2..=window.len()).map(|end| self.bits(&window[end.saturating_sub(3)..end])).sum()
    }
}

fn key(context: &[u32]) -> u64 {
    context.iter().fold(0, |key, token| (key << 32) | u64::from(*token))
}

fn pair(context: u64, token: u32) -> u128 {
    (u128::from(context) << 32) | u128::from(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_all_tokens_sum_to_one_and_patterns_are_learnt() {
        let tokens: Vec<u32> = (0..300).map(|i| [1, 2, 3, 2][i % 4]).collect();
        let model = Ngram::train(&tokens, 7);
        for history in [[1, 2], [2, 3], [5, 6]] {
            let total: f64 = (0..7).map(|t| (-model.bits(&[history[0], history[1], t])).exp2()).sum();
            assert!((total - 1.0).abs() < 1e-9, "{history:?}: {total}");
        }
        assert!(model.window_bits(&tokens[..101]) < 5.0, "a pattern of four costs next to nothing");
    }
}
