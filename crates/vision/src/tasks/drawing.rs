//! From noise to images, step by step, for a class, a caption or for none, the louder the higher the guidance (arXiv:2207.12598); latents are
//! decoded at the end.

use engine::{EngineError, Inputs, ParamStore, Precision, Tape, Tensor};
use image::RgbImage;
use models::{
    dit::{Dit, DitConfig},
    unet::Unet,
};
use train::TrainError;

use super::denoising::{Condition, Denoising};
use crate::{draws::Draws, passes};

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Drawing {
    /// Of each image what it is drawn for.
    pub conditions: Vec<Condition>,
    /// Of the sampler.
    pub steps: usize,
    /// `none + guidance (condition - none)` of what the model says; 1 is the condition as it was learnt.
    pub guidance: f64,
    pub seed: u64,
}

/// A model that says what was mixed into images.
pub(crate) enum Denoiser {
    Dit(Box<Dit>, DitConfig),
    Unet(Box<Unet>),
}

impl Denoiser {
    /// Of a `[model]` table, written out.
    /// # Errors
    /// When it is none of such a model.
    pub fn of(table: &toml::Table) -> Result<Self, TrainError> {
        if models::kind(table).name == "unet" {
            return Ok(Self::Unet(Box::new(Unet::new(models::typed(table)?)?)));
        }
        let config: DitConfig = models::typed(table)?;
        Ok(Self::Dit(Box::new(Dit::new(config.clone())?), config))
    }

    /// Draw by the weights of `store`; `progress` is told how many steps are done.
    /// # Errors
    /// When memory is short.
    pub fn draw(
        &self,
        denoising: &Denoising,
        store: &mut dyn ParamStore,
        precision: Precision,
        drawing: &Drawing,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Vec<RgbImage>, TrainError> {
        let ([side, channels], count) = (denoising.shape(), drawing.conditions.len());
        let each = channels * side * side;
        let noise = |n: usize| {
            let mut draws = Draws::new(engine::mix(engine::key(drawing.seed, "drawing") ^ engine::mix(n as u64)));
            (0..each).map(|_| draws.normal() as f32).collect::<Vec<_>>()
        };
        let mut x: Vec<f32> = (0..count).flat_map(noise).collect();
        let times = denoising.diffusion.times(drawing.steps);
        let is_guided = drawing.guidance != 1.0 && drawing.conditions.iter().any(|condition| *condition != Condition::None);
        for (i, time) in times.iter().enumerate() {
            let mut says = |conditions: &[Condition]| self.says(denoising, &mut *store, precision, (&x, *time), conditions);
            let mut said = says(&drawing.conditions)?;
            if is_guided {
                let without = says(&vec![Condition::None; count])?;
                for (said, without) in said.iter_mut().zip(without) {
                    *said = without + drawing.guidance as f32 * (*said - without);
                }
            }
            denoising.diffusion.step(*time, times.get(i + 1).copied(), &mut x, &said, denoising.bound());
            progress(i + 1, times.len());
        }
        denoising.images(&x)
    }

    /// What the model says of mixed numbers at a time, pixel by pixel.
    fn says(
        &self,
        denoising: &Denoising,
        store: &mut dyn ParamStore,
        precision: Precision,
        (x, time): (&[f32], f64),
        conditions: &[Condition],
    ) -> Result<Vec<f32>, TrainError> {
        let (each, [_, channels]) = (x.len() / conditions.len().max(1), denoising.shape());
        let inputs = |samples: std::ops::Range<u64>| {
            let samples = samples.start as usize..samples.end as usize;
            let mixed = x[samples.start * each..samples.end * each].to_vec();
            denoising.inputs(mixed, vec![time as f32; samples.len()], &conditions[samples])
        };
        let count = conditions.len() as u64;
        Ok(match self {
            Self::Unet(unet) => {
                let said = passes::run(&**unet, store, precision, count, inputs, Unet::noise)?;
                of_channels(&said, [channels, said.len() / (x.len() / channels)])
            }
            Self::Dit(dit, c) => {
                let said = passes::run(&**dit, store, precision, count, inputs, dit_says)?;
                of_channels(&unpatched(&said, c), [channels, c.out_channels])
            }
        })
    }
}

fn dit_says<'m>(dit: &'m Dit, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
    dit.patches(tape, inputs)
}

/// The first `channels` of as many as are said of each pixel: others say variances.
fn of_channels(said: &[f32], [channels, of]: [usize; 2]) -> Vec<f32> {
    said.chunks_exact(of.max(channels)).flat_map(|pixel| &pixel[..channels]).copied().collect()
}

/// Patches `[.., side / patch, side / patch, patch, patch, channels]` as lines of pixels.
fn unpatched(said: &[f32], c: &DitConfig) -> Vec<f32> {
    let (across, patch, channels) = (c.size / c.patch, c.patch, c.out_channels);
    let each = c.size * c.size * channels;
    let mut out = vec![0.0; said.len()];
    for (image, out) in said.chunks_exact(each).zip(out.chunks_exact_mut(each)) {
        for (at, pixel) in image.chunks_exact(channels).enumerate() {
            let (place, within) = (at / (patch * patch), at % (patch * patch));
            let line = place / across * patch + within / patch;
            let column = place % across * patch + within % patch;
            out[(line * c.size + column) * channels..][..channels].copy_from_slice(pixel);
        }
    }
    out
}

/// Classes for `count` images: each of `classes` in turn, or none.
#[must_use]
pub fn in_turn(count: usize, classes: usize) -> Vec<Condition> {
    (0..count).map(|i| if classes > 0 { Condition::Class((i % classes) as u32) } else { Condition::None }).collect()
}
