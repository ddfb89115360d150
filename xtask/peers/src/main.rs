//! Tokens a second of one training step (forward, backward, AdamW) of the tiny model, in `candle` or in `burn`, in f32.
//!
//! The model is that of `hairpin bench step`: GPT-2 style, vocabulary 4,096, context 256, 6 layers of width 384, 6 heads,
//! tied head, batch 8. Gradients are not clipped, which neither library does in one call: a little less work than the others do.

use std::time::Instant;

mod by_burn;
mod by_candle;

const VOCAB: usize = 4096;
const CONTEXT: usize = 256;
const LAYERS: usize = 6;
const WIDTH: usize = 384;
const HEADS: usize = 6;
const BATCH: usize = 8;
const LR: f64 = 1e-4;
const STEPS: usize = 3;

/// Inputs, and targets one further on.
fn tokens() -> [Vec<i64>; 2] {
    let token = |i: usize| (i * 7919 % VOCAB) as i64;
    [(0..BATCH * CONTEXT).map(token).collect(), (1..=BATCH * CONTEXT).map(token).collect()]
}

/// The median of some steps after the first.
fn report(mut step: impl FnMut()) {
    step();
    let mut secs: Vec<f64> = (0..STEPS)
        .map(|_| {
            let start = Instant::now();
            step();
            start.elapsed().as_secs_f64()
        })
        .collect();
    secs.sort_by(f64::total_cmp);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    println!("{{\"tokens_per_sec\": {}, \"peak_rss_bytes\": {}}}", (BATCH * CONTEXT) as f64 / secs[STEPS / 2], peak.unwrap_or(0) * 1024);
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("candle") => by_candle::run().expect("candle runs"),
        Some("burn") => by_burn::run(),
        _ => {
            eprintln!("usage: peers candle|burn");
            std::process::exit(2);
        }
    }
}
