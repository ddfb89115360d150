//! Metrics: one JSON object a step in `metrics.jsonl`, and the same in TensorBoard's event files.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{TrainError, metric::Metric, tensorboard::EventFile};

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    pub step: u64,
    /// Mean over the batch: of text over tokens, in nats.
    pub loss: f32,
    pub grad_norm: f32,
    pub lr: f32,
    pub tokens_per_sec: f64,
    /// Of held-out samples, on steps that measured it: of text `bits_per_byte`.
    #[serde(flatten)]
    pub held_out: Option<Metric>,
    /// What the feed tells of the step's samples: rewards, divergence from the model that it began as.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
    /// True when the guard left the update out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_skipped: bool,
}

/// Both files of a run.
pub struct Metrics {
    lines: File,
    events: EventFile,
    /// Lines that were damaged and are gone.
    pub damaged: usize,
}

impl Metrics {
    /// Open for appending after `step`: lines of later steps, left by a run that was killed, are removed.
    /// # Errors
    /// When the files cannot be written.
    pub fn open(folder: &Path, step: u64) -> Result<Self, TrainError> {
        let path = folder.join("metrics.jsonl");
        let (all, damaged) = read(&path);
        let kept: Vec<StepMetrics> = all.into_iter().filter(|m| m.step <= step).collect();
        let mut text = Vec::new();
        for metrics in &kept {
            serde_json::to_writer(&mut text, metrics).map_err(|e| TrainError::io("write", &path)(e.into()))?;
            text.push(b'\n');
        }
        disk::write(&path, text).map_err(TrainError::io("write", &path))?;
        let lines = OpenOptions::new().append(true).open(&path).map_err(TrainError::io("open", &path))?;
        Ok(Self { lines, events: EventFile::create(folder).map_err(TrainError::io("create events in", folder))?, damaged })
    }

    /// Write one step to both.
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        let path = Path::new("metrics.jsonl");
        let mut line = serde_json::to_vec(metrics).map_err(|e| TrainError::io("write", path)(e.into()))?;
        line.push(b'\n');
        self.lines.write_all(&line).map_err(TrainError::io("write", path))?;
        let mut scalars = vec![
            ("loss", metrics.loss),
            ("grad_norm", metrics.grad_norm),
            ("lr", metrics.lr),
            ("tokens_per_sec", metrics.tokens_per_sec as f32),
        ];
        scalars.extend(metrics.held_out.map(|metric| (metric.kind.name, metric.value as f32)));
        scalars.extend(metrics.figures.iter().map(|(name, value)| (name.as_str(), *value as f32)));
        self.events.write(metrics.step, &scalars).map_err(TrainError::io("write events to", path))
    }
}

/// All whole lines of a metrics file, and how many were damaged; none when there is no file.
#[must_use]
pub fn read(path: &Path) -> (Vec<StepMetrics>, usize) {
    let Ok(file) = disk::open(path) else { return (Vec::new(), 0) };
    let (mut steps, mut damaged) = (Vec::new(), 0);
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok).filter(|line| !line.is_empty()) {
        match serde_json::from_slice(&line) {
            Ok(metrics) => steps.push(metrics),
            Err(_) => damaged += 1,
        }
    }
    (steps, damaged)
}
