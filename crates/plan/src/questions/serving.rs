//! How fast a model writes: a roofline of reading its weights against multiplying by them.
//!
//! A token of one reply reads every weight once, so alone it is bound by memory; a batch shares the reading until products
//! bind. Reached shares of both limits are taken as stated here. The planner's first look, not a simulation of a server:
//! prompts and replies of equal length, no queue, no speculation.

use serde::Serialize;

use crate::catalogue::Accelerator;

/// Of the memory's rate and of the peak of products, what writing reaches.
const READ_RATIO: f64 = 0.6;
const PRODUCT_RATIO: f64 = 0.3;
/// Of the memory, what weights, keys and values may fill.
const MEMORY_RATIO: f64 = 0.85;
const WEIGHT_BYTES: f64 = 2.0;
/// Keys and values of a token, as a share of the weights: the middle of 8e-6 and 2e-6, as Llama 3.1 8B and 70B have them
/// (arXiv:2407.21783, table 3: 128 KiB of 16 GB and 320 KiB of 141 GB).
const CACHE_PER_TOKEN_RATIO: f64 = 5e-6;

/// One copy of a model at work.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Replica {
    pub accelerators: f64,
    /// Replies written at once.
    pub batch: f64,
    /// Seconds of a step that adds a token to each.
    pub step_secs: f64,
    /// Seconds of a token when it is the only reply.
    pub alone_secs: f64,
    /// Tokens of prompts read in a second.
    pub read_tokens_per_sec: f64,
}

impl Replica {
    /// The fewest accelerators that hold `params` parameters, and the largest batch of replies of `tokens` tokens, prompt
    /// included, that fits beside them.
    #[must_use]
    pub fn of(params: f64, tokens: f64, accelerator: &Accelerator) -> Self {
        let weights = WEIGHT_BYTES * params;
        let memory = accelerator.memory_gib * 1024_f64.powi(3) * MEMORY_RATIO;
        let reply = weights * CACHE_PER_TOKEN_RATIO * tokens;
        let accelerators = ((weights + reply) / memory).ceil().max(1.0);
        let batch = ((accelerators * memory - weights) / reply).floor().clamp(1.0, 256.0);
        let read = accelerators * accelerator.memory_gb_per_sec * 1e9 * READ_RATIO;
        let multiply = accelerators * accelerator.peak_tflops * 1e12 * PRODUCT_RATIO;
        let step = |batch: f64| ((weights + batch * reply) / read).max(2.0 * params * batch / multiply);
        Self { accelerators, batch, step_secs: step(batch), alone_secs: step(1.0), read_tokens_per_sec: multiply / (2.0 * params) }
    }

    /// Accelerator-seconds of a reply of `answer` tokens to `prompt` tokens, in a full batch.
    #[must_use]
    pub fn accelerator_secs(&self, prompt: f64, answer: f64) -> f64 {
        self.accelerators * (answer * self.step_secs / self.batch + prompt / self.read_tokens_per_sec)
    }

    /// Seconds until such a reply is whole when nothing else runs.
    #[must_use]
    pub fn latency_secs(&self, prompt: f64, answer: f64) -> f64 {
        prompt / self.read_tokens_per_sec + answer * self.alone_secs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn alone_it_is_bound_by_memory_and_a_batch_is_cheaper() {
        let catalogue = Catalogue::load(None).unwrap();
        let h100 = catalogue.accelerator("H100").unwrap();
        let small = Replica::of(8e9, 1000.0, h100);
        assert_eq!(small.accelerators, 1.0);
        // 16 GB at 60% of 3.35 TB/s: 8 ms a token.
        assert!((small.alone_secs / 8e-3 - 1.0).abs() < 0.1, "{small:?}");
        assert!(small.batch > 50.0 && small.accelerator_secs(0.0, 1.0) < 0.1 * small.alone_secs);
        let large = Replica::of(70e9, 1000.0, h100);
        assert!(large.accelerators >= 2.0 && large.latency_secs(500.0, 500.0) > small.latency_secs(500.0, 500.0));
    }
}
