//! One run, by what it left in its folder: metrics of each step and checkpoints.

use std::path::Path;

use maud::{Markup, html};
use train::{
    checkpoint::{self, CheckpointError},
    metric::Metric,
    metrics::{self, StepMetrics},
    recipe::Recipe,
};

use crate::terminal::{bytes, count};

/// What a run's folder holds.
pub(crate) struct Run {
    pub steps: Vec<StepMetrics>,
    /// What its samples are counted in.
    pub unit: &'static str,
    /// What is damaged in it.
    pub damage: Vec<String>,
    checkpoints: Vec<Row>,
    kernels: Vec<String>,
}

/// A checkpoint that is as its manifest wants it, so far as that tells without reading its arrays.
struct Row {
    step: u64,
    held_out: Option<Metric>,
    bytes: u64,
}

impl Run {
    /// Nothing where no run was.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        let (steps, damaged) = metrics::read(&folder.join("metrics.jsonl"));
        let unit = Recipe::read(&folder.join("recipe.toml"), &[]).map_or("tokens", |recipe| models::unit(&recipe.model));
        let damage = damaged_lines(folder, damaged).into_iter().collect();
        let mut run = Self { steps, unit, damage, checkpoints: Vec::new(), kernels: Vec::new() };
        for (_, path) in checkpoint::list(folder) {
            match checkpoint::manifest(&path) {
                Ok(manifest) => {
                    let bytes = manifest.shards.iter().chain(&manifest.tokenizer).map(|file| file.bytes).sum();
                    run.kernels = manifest.kernels.iter().map(|span| format!("`{}` from step {}", span.level, span.from_step)).collect();
                    run.checkpoints.push(Row { step: manifest.step, held_out: manifest.held_out, bytes });
                }
                Err(error) => run.damage.push(CheckpointError::with_cause(&error)),
            }
        }
        let is_empty = run.steps.is_empty() && run.damage.is_empty() && run.checkpoints.is_empty();
        (!is_empty).then_some(run)
    }

    /// The last figures.
    pub(crate) fn cards(&self) -> Vec<(String, String)> {
        let last_metric = self.steps.iter().rev().find_map(|m| m.held_out).or(self.checkpoints.last().and_then(|row| row.held_out));
        let skipped = self.steps.iter().filter(|m| m.is_skipped).count();
        let last = self.steps.last();
        [
            last.map(|m| (m.step.to_string(), "steps".into())),
            last.map(|m| (format!("{:.4}", m.loss), "training loss".into())),
            last_metric.map(|metric| (format!("{:.3}", metric.value), held_out(Some(metric)).to_owned())),
            last.map(|m| (count(m.tokens_per_sec.max(0.0) as u64), format!("{} per second", self.unit))),
            (skipped > 0).then(|| (skipped.to_string(), "steps left out as spikes".into())),
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
                    thead { tr { th.n { "step" } th.n { (held_out(self.checkpoints.iter().find_map(|row| row.held_out))) } th.n { "size" } } }
                    tbody { @for row in &self.checkpoints { tr {
                        td.n { (row.step) } td.n { (row.held_out.map_or("–".into(), |metric| format!("{:.3}", metric.value))) } td.n { (bytes(row.bytes)) }
                    } } }
                } }
                @if !self.kernels.is_empty() { p.what { "Kernels: " (self.kernels.join(", ")) "." } }
            } }
        }
    }
}

/// What a metric of held-out samples is called.
pub(crate) fn held_out(metric: Option<Metric>) -> &'static str {
    match metric.map(|metric| metric.kind.unit) {
        None | Some("bits per byte") => "held-out bits per byte",
        Some(unit) => unit,
    }
}

/// What to say of lines of a folder's metrics that could not be read.
pub(crate) fn damaged_lines(folder: &Path, count: usize) -> Option<String> {
    (count > 0).then(|| format!("{count} damaged lines of `{}` are left out", folder.join("metrics.jsonl").display()))
}
