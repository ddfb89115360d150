//! The dial: `model.depth` sets what a recipe leaves out, so that one number makes a run. The model's own sizes follow in
//! `models`; here are batch, optimiser, learning rates and steps. What they rest on: docs/LOG.md.

use crate::recipe::{OptimKind, Recipe, ScheduleKind};

/// Tokens for each parameter of the blocks; Hoffmann et al., arXiv:2203.15556, table 3.
const TOKENS_PER_PARAM: u64 = 20;
/// Tokens of a step `a D^b` where `D` are trained on; the Step Law of Li et al., arXiv:2503.04715. A run whose steps
/// are written keeps the default.
const STEP_TOKENS: [f64; 2] = [0.58, 0.571];
/// The depth at which the learning rate of embedding and head was measured.
const MEASURED_DEPTH: f32 = 6.0;

/// Set what `written` does not, if it has a depth.
pub(crate) fn turn(recipe: &mut Recipe, written: &toml::Table) {
    let Some(depth) = recipe.model.get("depth").and_then(toml::Value::as_integer).filter(|depth| (1..=128).contains(depth)) else {
        return;
    };
    let is_free = |table: &str, key: &str| written.get(table).and_then(|t| t.get(key)).is_none();
    if is_free("optim", "kind") {
        recipe.optim.kind = OptimKind::Muon;
    }
    if is_free("optim", "lr") && recipe.optim.kind == OptimKind::Muon {
        // Width grows with depth, and Adam's steps on a table are to shrink with the root of its width.
        recipe.optim.lr = 0.01 * (MEASURED_DEPTH / depth as f32).sqrt();
    }
    if is_free("schedule", "kind") {
        recipe.schedule.kind = ScheduleKind::Wsd;
        if is_free("schedule", "decay_ratio") {
            recipe.schedule.decay_ratio = 0.6;
        }
        if is_free("schedule", "floor_ratio") {
            recipe.schedule.floor_ratio = 0.02;
        }
    }
    if is_free("train", "steps") {
        // Twelve matrices of width by width in each layer.
        let width = 64 * depth as u64;
        let tokens = TOKENS_PER_PARAM * 12 * depth as u64 * width * width;
        if is_free("batch", "sequences") {
            let [factor, exponent] = STEP_TOKENS;
            let sequences = factor * (tokens as f64).powf(exponent) / recipe.batch.context.max(1) as f64;
            recipe.batch.sequences = (1 << sequences.log2().round().clamp(0.0, 16.0) as usize).max(recipe.batch.lanes);
        }
        recipe.train.steps = (tokens / recipe.step_tokens().max(1)).max(100);
    }
    if is_free("schedule", "warmup_steps") {
        recipe.schedule.warmup_steps = (recipe.train.steps / 20).clamp(1, 200);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str, set: &[&str]) -> Recipe {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        Recipe::parse(text, "test", &set).unwrap()
    }

    #[test]
    fn one_number_makes_a_run_and_what_is_written_stays() {
        let small = recipe("[model]\ndepth = 2\n", &[]);
        let large = recipe("[model]\ndepth = 8\n", &[]);
        assert_eq!(small.optim.kind, OptimKind::Muon);
        assert!((small.optim.lr / large.optim.lr - 2.0).abs() < 1e-6, "four times the width, half the step");
        let tokens = |recipe: &Recipe| recipe.train.steps * recipe.step_tokens();
        assert_eq!(tokens(&large) / tokens(&small), 64, "tokens grow as parameters do");
        assert_eq!((small.batch.sequences, large.batch.sequences), (16, 256), "and the batch with their root or so");
        assert_eq!(recipe("[model]\ndepth = 2\n", &["model.depth=8"]), large, "a flag turns the dial as the file does");
        let written = recipe("[model]\ndepth = 2\n[optim]\nkind = \"adamw\"\nlr = 1e-3\n", &["train.steps=7"]);
        assert_eq!((written.optim.kind, written.optim.lr, written.train.steps), (OptimKind::Adamw, 1e-3, 7));
        let preset = recipe("[model]\npreset = \"gpt2-124m\"\n", &[]);
        assert_eq!(preset.optim, crate::recipe::Optim::default());
    }
}
