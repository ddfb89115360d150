//! One run, by what it left in its folder: metrics of each step and checkpoints.

use std::path::Path;

use maud::{Markup, html};
use train::{
    checkpoint::{self, CheckpointError},
    metrics::{self, StepMetrics},
};

use crate::terminal::{bytes, count};

/// What a run's folder holds.
pub(crate) struct Run {
    pub steps: Vec<StepMetrics>,
    /// What is damaged in it.
    pub damage: Vec<String>,
    checkpoints: Vec<Row>,
    kernels: Vec<String>,
}

/// A checkpoint that is as its manifest wants it, so far as that tells without reading its arrays.
struct Row {
    step: u64,
    bits_per_byte: Option<f64>,
    bytes: u64,
}

impl Run {
    /// Nothing where no run was.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        let (steps, damaged) = metrics::read(&folder.join("metrics.jsonl"));
        let mut run =
            Self { steps, damage: damaged_lines(folder, damaged).into_iter().collect(), checkpoints: Vec::new(), kernels: Vec::new() };
        for (_, path) in checkpoint::list(folder) {
            match checkpoint::manifest(&path) {
                Ok(manifest) => {
                    let bytes = manifest.shards.iter().chain(&manifest.tokenizer).map(|file| file.bytes).sum();
                    run.kernels = manifest.kernels.iter().map(|span| format!("`{}` from step {}", span.level, span.from_step)).collect();
                    run.checkpoints.push(Row { step: manifest.step, bits_per_byte: manifest.bits_per_byte, bytes });
                }
                Err(error) => run.damage.push(CheckpointError::with_cause(&error)),
            }
        }
        let is_empty = run.steps.is_empty() && run.damage.is_empty() && run.checkpoints.is_empty();
        (!is_empty).then_some(run)
    }

    /// The last figures.
    pub(crate) fn cards(&self) -> Vec<(String, &'static str)> {
        let last_bits = self.steps.iter().rev().find_map(|m| m.bits_per_byte).or(self.checkpoints.last().and_then(|row| row.bits_per_byte));
        let skipped = self.steps.iter().filter(|m| m.is_skipped).count();
        let last = self.steps.last();
        [
            last.map(|m| (m.step.to_string(), "steps")),
            last.map(|m| (format!("{:.4}", m.loss), "training loss, nats per token")),
            last_bits.map(|bits| (format!("{bits:.3}"), "held-out bits per byte")),
            last.map(|m| (count(m.tokens_per_sec.max(0.0) as u64), "tokens per second")),
            (skipped > 0).then(|| (skipped.to_string(), "steps left out as spikes")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    pub(crate) fn checkpoints(&self) -> Markup {
        html! {
            @if !self.checkpoints.is_empty() { section {
                h2 { "Checkpoints" }
                div.scroll { table {
                    thead { tr { th.n { "step" } th.n { "held-out bits per byte" } th.n { "size" } } }
                    tbody { @for row in &self.checkpoints { tr {
                        td.n { (row.step) } td.n { (row.bits_per_byte.map_or("–".into(), |bits| format!("{bits:.3}"))) } td.n { (bytes(row.bytes)) }
                    } } }
                } }
                @if !self.kernels.is_empty() { p.what { "Kernels: " (self.kernels.join(", ")) "." } }
            } }
        }
    }
}

/// What to say of lines of a folder's metrics that could not be read.
pub(crate) fn damaged_lines(folder: &Path, count: usize) -> Option<String> {
    (count > 0).then(|| format!("{count} damaged lines of `{}` are left out", folder.join("metrics.jsonl").display()))
}
