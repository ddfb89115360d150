//! CLIP and SigLIP: which caption belongs to which image, told apart from all others of the whole batch of all ranks; arXiv:2103.00020.

use std::{path::PathBuf, sync::Arc};

use data::Tokenizer;
use engine::{EngineError, Inputs, ParamStore, Precision, ops};
use image::RgbImage;
use models::{
    Model,
    clip::{Clip, ClipConfig, EVERYONE, LOG_SUMS, OWN, TEMPERATURE},
};
use serde::{Deserialize, Serialize};
use train::{
    TrainError,
    eval::{HeldOut, SampleLoss},
    feed::Feed,
    metric::MetricKind,
    objective::Objective,
    recipe::Recipe,
};

use super::{About, Augment, Captions, Sample, Task, config, images, lower, normed, options};
use crate::{draws::Draws, passes, readers::Entry};

pub(crate) const METRIC: MetricKind = lower("contrastive_loss", "nats to tell a held-out pair from all others");

/// The table `[objective]` of pairs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PairsOptions {
    /// A `tokenizer.json`; absent: one of `model.text.vocab` tokens is trained on the captions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    augment: Augment,
}

impl Default for PairsOptions {
    fn default() -> Self {
        // A mirror turns what is left into what is right, and a caption may speak of it.
        Self { tokenizer: None, augment: Augment { flip: false, least_area: 0.9 } }
    }
}

pub(crate) fn build(recipe: &Recipe) -> Result<Arc<dyn Objective>, TrainError> {
    options::<PairsOptions>(recipe)?.augment.check()?;
    Ok(Arc::new(OfPairs { batch: recipe.batch.sequences }))
}

/// The loss between all pairs of a step.
struct OfPairs {
    batch: usize,
}

impl Objective for OfPairs {
    fn metric(&self, _model: &dyn Model) -> &'static MetricKind {
        &METRIC
    }

    fn shared_width(&self, model: &dyn Model) -> Option<usize> {
        Some(model.between(1, 1).last())
    }

    fn share(&self, model: &dyn Model, store: &mut dyn ParamStore, rows: Vec<f32>) -> Result<Inputs, EngineError> {
        let (width, table) = (model.between(1, 1).last(), model.params());
        let sums = if rows.is_empty() {
            // On `Meta` there are no numbers, but as many.
            Vec::new()
        } else {
            let t = match table.find(TEMPERATURE) {
                Some(id) => {
                    store.gather(table.spec(id).block)?;
                    let t = store.weight(id).values()[0];
                    store.release(table.spec(id).block);
                    t
                }
                None => 0.0,
            };
            ops::log_sums(&rows, width / 2, t)
        };
        Ok(Inputs::new().with_f32(EVERYONE, &[self.batch, width], rows).with_f32(LOG_SUMS, &[2, self.batch], sums))
    }

    fn shapes(&self, model: &dyn Model, batch: usize, length: usize) -> Inputs {
        let width = model.between(1, 1).last();
        let own = model.shapes(batch, length).with_u32(OWN, &[batch], Vec::new());
        own.with_f32(EVERYONE, &[self.batch, width], Vec::new()).with_f32(LOG_SUMS, &[2, self.batch], Vec::new())
    }
}

/// See the head of this file.
pub(super) struct Pairs {
    config: ClipConfig,
    options: PairsOptions,
    captions: Option<Captions>,
}

impl Pairs {
    pub fn new(recipe: &Recipe) -> Result<Self, TrainError> {
        let (_, config): (_, ClipConfig) = config(recipe, &["clip"])?;
        Ok(Self { config, options: options(recipe)?, captions: None })
    }
}

impl Task for Pairs {
    fn size(&self) -> usize {
        self.config.image.size
    }

    fn augment(&self) -> &Augment {
        &self.options.augment
    }

    fn wants(&self, entry: &Entry) -> Result<(), String> {
        entry.caption.as_ref().map(|_| ()).ok_or_else(|| "has no caption".into())
    }

    fn prepare(&mut self, _classes: &[String], captions: &[&str]) -> Result<Vec<String>, TrainError> {
        let (vocab, length) = (self.config.text.vocab, self.config.text.tokens);
        let tokenizer = match &self.options.tokenizer {
            Some(path) => Tokenizer::load_from_elsewhere(path, None, None)?,
            None => Tokenizer::train(vocab, captions.iter().copied())?,
        };
        if tokenizer.vocab() > vocab {
            let problem = format!("{vocab} is less than the {} tokens of the tokenizer", tokenizer.vocab());
            return Err(TrainError::Value { key: "model.text.vocab", problem, help: format!("set it to {}", tokenizer.vocab()) });
        }
        let own = Captions::of(tokenizer, &self.config.text);
        let mut cut = 0;
        for caption in captions {
            cut += usize::from(own.encode(caption)?.2);
        }
        self.captions = Some(own);
        Ok(if cut > 0 { vec![format!("{cut} captions are longer than {} tokens and are cut there", length - 1)] } else { Vec::new() })
    }

    fn sample(&self, pixels: &RgbImage, about: About<'_>, _draws: &mut Draws) -> Result<Sample, TrainError> {
        let (tokens, end, _) = match (&self.captions, about.caption) {
            (Some(captions), Some(caption)) => captions.encode(caption)?,
            _ => Default::default(),
        };
        Ok(Sample { pixels: normed(pixels), tokens, end, ..Sample::default() })
    }

    fn stack(&self, mut samples: Vec<Sample>) -> Result<Inputs, TrainError> {
        let (batch, size, length) = (samples.len(), self.config.image.size, self.config.text.tokens);
        let ends = samples.iter().enumerate().map(|(n, sample)| (n * length) as u32 + sample.end).collect();
        let inputs = Inputs::new().with_f32("images", &[batch, size, size, 3], images(&mut samples)).with_u32("ends", &[batch], ends);
        Ok(inputs.with_u32("tokens", &[batch, length], samples.into_iter().flat_map(|sample| sample.tokens).collect()))
    }

    fn captions(&self) -> Option<&Captions> {
        self.captions.as_ref()
    }

    fn is_judge(&self) -> bool {
        true
    }

    /// Each held-out pair among all of them, whatever a micro-batch holds.
    fn judge(
        &self,
        images: &dyn Feed,
        model: &dyn Model,
        store: &mut dyn ParamStore,
        precision: Precision,
    ) -> Result<Option<HeldOut>, TrainError> {
        let clip = Clip::new(self.config.clone())?;
        let pairs = compared(&clip, store, precision, images)?;
        let id = model.params().find(TEMPERATURE);
        let read = |id: engine::ParamId, store: &mut dyn ParamStore| store.weight(id).values()[0];
        let t = id.map_or(0.0, |id| read(id, store));
        let bias = model.params().find("bias").map(|id| read(id, store));
        let losses = log_losses(&pairs, self.config.embed, t, bias);
        let samples = losses.into_iter().map(|loss| SampleLoss { loss, weight: 1 }).collect();
        Ok(Some(HeldOut::of(&METRIC, samples)))
    }
}

/// What is compared of all held-out pairs: `[pairs, 2 embed]`.
/// # Errors
/// When a sample cannot be read, or memory is short.
pub fn compared(clip: &Clip, store: &mut dyn ParamStore, precision: Precision, images: &dyn Feed) -> Result<Vec<f32>, TrainError> {
    passes::run(clip, store, precision, images.held_out(), |samples| images.held_out_inputs(samples), Clip::embeddings)
}

/// The loss of each pair among all, in nats, as the objective has it: of CLIP half of each way, of SigLIP the sum over its row.
#[must_use]
pub fn log_losses(pairs: &[f32], width: usize, t: f32, bias: Option<f32>) -> Vec<f64> {
    let count = pairs.len() / (2 * width);
    let row = |i: usize, which: usize| &pairs[(2 * i + which) * width..][..width];
    let logit = |i: usize, j: usize| {
        let product: f64 = row(i, 0).iter().zip(row(j, 1)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        f64::from(t).exp() * product / width as f64
    };
    let logits: Vec<Vec<f64>> = (0..count).map(|i| (0..count).map(|j| logit(i, j)).collect()).collect();
    if let Some(bias) = bias {
        let one = |i: usize, j: usize| {
            let x = if i == j { -1.0 } else { 1.0 } * (logits[i][j] + f64::from(bias));
            x.max(0.0) + (-x.abs()).exp().ln_1p()
        };
        return (0..count).map(|i| (0..count).map(|j| one(i, j)).sum()).collect();
    }
    let log_sum = |line: &mut dyn Iterator<Item = f64>| {
        let line: Vec<f64> = line.collect();
        let most = line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + line.iter().map(|v| (v - most).exp()).sum::<f64>().ln()
    };
    let one = |i: usize| {
        let (along, across) = (log_sum(&mut logits[i].iter().copied()), log_sum(&mut logits.iter().map(|row| row[i])));
        0.5 * (along + across) - logits[i][i]
    };
    (0..count).map(one).collect()
}
