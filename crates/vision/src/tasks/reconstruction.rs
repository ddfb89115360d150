//! Masked autoencoders: the pixels of patches that the encoder does not see; arXiv:2111.06377.

use std::sync::Arc;

use engine::{Array, EngineError, Inputs, ParamStore, Precision};
use image::{Rgb, RgbImage};
use models::{
    Model,
    vit_mae::{Choice, Mae, MaeConfig},
};
use train::{TrainError, feed::Feed, metric::MetricKind, objective::Objective, recipe::Recipe};

use super::{
    About, Augment, CroppedOptions, HeldOutImages, Line, Sample, Task, build_of_head, config, images, lower, normed, options, pixels_of,
};
use crate::{draws::Draws, passes};

pub(crate) const METRIC: MetricKind = lower("reconstruction_error", "squared error of hidden patches");

pub(crate) fn build(recipe: &Recipe) -> Result<Arc<dyn Objective>, TrainError> {
    build_of_head(&METRIC, &options::<CroppedOptions>(recipe)?.augment)
}

/// Of the patch at `place` of an image `[size, size, 3]` where its numbers lie, in the order in which masked autoencoders tell them.
pub(crate) fn of_patch(size: usize, patch: usize, place: usize) -> impl Fn(usize) -> usize {
    let across = size / patch;
    move |k| {
        let (within, channel) = (k / 3, k % 3);
        ((place / across * patch + within / patch) * size + place % across * patch + within % patch) * 3 + channel
    }
}

/// Held-out images: each as it is, what the encoder saw of it, and the whole again.
pub(crate) struct Hidden {
    pub lines: [Vec<RgbImage>; 3],
    /// Patches of an image, and those that are hidden.
    pub patches: usize,
    pub hidden: usize,
}

/// Of at most so many held-out images of `feed`.
/// # Errors
/// When an image cannot be read, or memory is short.
pub(crate) fn hidden(
    model: &dyn Model,
    store: &mut dyn ParamStore,
    precision: Precision,
    feed: &dyn Feed,
    most: u64,
) -> Result<Hidden, TrainError> {
    let config: MaeConfig = models::typed(&model.config())?;
    let (size, patch) = (config.tower.size, config.tower.patch);
    let mae = Mae::new(config)?;
    let count = feed.held_out().min(most);
    let inputs = feed.held_out_inputs(0..count)?;
    let said = passes::run(&mae, store, precision, count, |_| Ok(inputs.clone()), Mae::reconstruction)?;
    let (Array::F32(_, pixels), Array::U32(_, masked)) = (inputs.get("images")?, inputs.get("masked")?) else {
        return Err(EngineError::Input { name: "images", have: "other arrays".into() }.into());
    };
    let (each, across) = (3 * size * size, size / patch);
    let per_image = masked.len() / count.max(1) as usize;
    let mut lines: [Vec<RgbImage>; 3] = Default::default();
    for n in 0..count as usize {
        let original = &pixels[n * each..][..each];
        let (mut seen, mut whole) = (pixels_of(original, size), original.to_vec());
        for (i, place) in masked[n * per_image..][..per_image].iter().enumerate() {
            let at = of_patch(size, patch, *place as usize - n * across * across);
            let numbers = 3 * patch * patch;
            // It says how a patch varies around its mean; mean and spread are those of the image, as the paper's pictures have them.
            let own: Vec<f32> = (0..numbers).map(|k| original[at(k)]).collect();
            let mean = own.iter().sum::<f32>() / numbers as f32;
            let deviation = (own.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / (numbers - 1) as f32 + 1e-6).sqrt();
            for (k, v) in said[(n * per_image + i) * numbers..][..numbers].iter().enumerate() {
                whole[at(k)] = mean + deviation * v;
                let pixel = (at(k) / 3) as u32;
                seen.put_pixel(pixel % size as u32, pixel / size as u32, Rgb([128; 3]));
            }
        }
        lines[0].push(pixels_of(original, size));
        lines[1].push(seen);
        lines[2].push(pixels_of(&whole, size));
    }
    Ok(Hidden { lines, patches: across * across, hidden: per_image })
}

/// See the head of this file.
pub(super) struct Reconstruction {
    size: usize,
    patches: usize,
    seen: usize,
    augment: Augment,
}

impl Reconstruction {
    pub fn new(recipe: &Recipe) -> Result<Self, TrainError> {
        let (model, config): (_, MaeConfig) = config(recipe, &["vit_mae"])?;
        let shapes = model.shapes(1, 1);
        let count = |name| shapes.get(name).map(|array| array.shape().elements());
        Ok(Self {
            size: config.tower.size,
            patches: count("restore")?,
            seen: count("keep")?,
            augment: options::<CroppedOptions>(recipe)?.augment,
        })
    }
}

impl Task for Reconstruction {
    fn makes_pictures(&self) -> bool {
        true
    }

    fn line(
        &self,
        held_out: &HeldOutImages<'_>,
        model: &dyn Model,
        store: &mut dyn ParamStore,
        precision: Precision,
    ) -> Result<Line, TrainError> {
        let Hidden { lines: [originals, _, made], .. } = hidden(model, store, precision, held_out.feed, Line::MOST)?;
        Ok(Line { made, originals })
    }

    fn size(&self) -> usize {
        self.size
    }

    fn augment(&self) -> &Augment {
        &self.augment
    }

    fn sample(&self, pixels: &RgbImage, _about: About<'_>, draws: &mut Draws) -> Result<Sample, TrainError> {
        let order = (0..self.patches).map(|_| draws.uniform() as f32).collect();
        Ok(Sample { pixels: normed(pixels), order, ..Sample::default() })
    }

    fn stack(&self, mut samples: Vec<Sample>) -> Result<Inputs, TrainError> {
        let batch = samples.len();
        let order: Vec<f32> = samples.iter().flat_map(|sample| &sample.order).copied().collect();
        let inputs = Inputs::new().with_f32("images", &[batch, self.size, self.size, 3], images(&mut samples));
        Ok(Choice::of(&order, self.patches, self.seen).inputs(inputs, batch))
    }
}
