//! Diffusion as a task: images, or latents of them, with noise mixed in, for a class, a caption or none; and what is drawn while a model learns.

use std::sync::Arc;

use engine::{Inputs, ParamStore, Precision};
use image::RgbImage;
use models::{Model, encoders::Encoder};
use train::{TrainError, checkpoint::TokenizerFiles, metric::MetricKind, objective::Objective, recipe::Recipe};

use super::{
    About, Augment, Denoiser, Drawing, HeldOutImages, Line, Sample, Task,
    asked::asked,
    denoising::{Condition, Denoising, DenoisingOptions, Told},
    enough_classes, in_turn, lower, pixels_around_zero,
};
use crate::{draws::Draws, latents::Latents, readers::Entry};

pub(crate) const METRIC: MetricKind = lower("denoising_error", "squared error of what is asked for");

pub(crate) fn build(recipe: &Recipe) -> Result<Arc<dyn Objective>, TrainError> {
    DenoisingOptions::of(recipe)?.augment.check()?;
    Ok(Arc::new(OfDenoising(recipe.clone())))
}

/// The loss of the model's own head, on what frozen models say.
struct OfDenoising(Recipe);

impl Objective for OfDenoising {
    fn metric(&self, _model: &dyn Model) -> &'static MetricKind {
        &METRIC
    }

    fn encoders(&self) -> Result<Vec<Encoder>, TrainError> {
        Ok(asked(&self.0)?.into_iter().map(|asked| asked.encoder).collect())
    }
}

/// Steps from noise to what is looked at while a model learns.
const STEPS: usize = 25;

impl Task for Denoising {
    fn makes_pictures(&self) -> bool {
        true
    }

    /// Drawn by the weights as they are, of the classes or of captions of held-out images in turn.
    fn line(
        &self,
        held_out: &HeldOutImages<'_>,
        model: &dyn Model,
        store: &mut dyn ParamStore,
        precision: Precision,
    ) -> Result<Line, TrainError> {
        let captions = held_out.captions.iter().cycle().take(Line::MOST as usize);
        let conditions = if self.reads_captions() {
            captions.map(|caption| self.caption(caption)).collect::<Result<Vec<_>, _>>()?
        } else {
            in_turn(Line::MOST as usize, held_out.classes.min(self.classes()))
        };
        let drawing = Drawing { conditions, steps: STEPS, guidance: 1.0, seed: 1 };
        let made = Denoiser::of(&model.config())?.draw(self, store, precision, &drawing, |_, _| {})?;
        Ok(Line { made, originals: Vec::new() })
    }

    fn size(&self) -> usize {
        self.side()
    }

    fn augment(&self) -> &Augment {
        &self.options.augment
    }

    fn wants(&self, entry: &Entry) -> Result<(), String> {
        if self.reads_captions() && entry.caption.is_none() { Err("has no caption".into()) } else { Ok(()) }
    }

    fn prepare(&mut self, classes: &[String], _captions: &[&str]) -> Result<Vec<String>, TrainError> {
        if !self.reads_captions() {
            enough_classes(classes, self.classes(), ", and one more for diffusion")?;
        }
        Ok(Vec::new())
    }

    fn look(&mut self, images: &mut dyn Iterator<Item = Result<RgbImage, TrainError>>) -> Result<Vec<String>, TrainError> {
        self.latents.as_mut().map(|latents| latents.measure(images)).transpose().map(|note| note.into_iter().collect())
    }

    fn frozen(&self) -> Vec<&str> {
        let latents = self.latents.iter().map(|latents| &latents.frozen.blake3[..]);
        let texts = if let Told::Caption { texts, .. } = &self.told { Some(&texts.frozen.blake3[..]) } else { None };
        latents.chain(texts).collect()
    }

    fn files(&self) -> TokenizerFiles {
        self.latents.as_ref().map(|latents| latents.files()).unwrap_or_default()
    }

    fn sample(&self, pixels: &RgbImage, about: About<'_>, draws: &mut Draws) -> Result<Sample, TrainError> {
        let time = self.diffusion.time(draws.uniform());
        let is_left_out = draws.uniform() < self.options.no_class;
        let mut sample = Sample { class: if is_left_out { u32::MAX } else { about.class }, time: time as f32, ..Sample::default() };
        if let Told::Caption { texts, .. } = &self.told {
            (sample.tokens, sample.end) = texts.encode(about.caption.filter(|_| !is_left_out))?;
        }
        if self.latents.is_some() {
            // For the draw of the latents, and to be mixed into them: the autoencoder runs where a micro-batch is put together.
            sample.noise = (0..2 * self.each()).map(|_| draws.normal() as f32).collect();
            sample.pixels = pixels_around_zero(pixels);
            return Ok(sample);
        }
        let [image, rest] = self.diffusion.shares(time);
        for byte in pixels.as_raw() {
            let (pixel, noise) = (f64::from(*byte) / 127.5 - 1.0, draws.normal());
            sample.pixels.push((image * pixel + rest * noise) as f32);
            sample.target.push(self.diffusion.wanted(time, pixel, noise) as f32);
        }
        Ok(sample)
    }

    fn stack(&self, mut samples: Vec<Sample>) -> Result<Inputs, TrainError> {
        if let Some(latents) = &self.latents {
            for sample in &mut samples {
                self.mix(latents, sample)?;
            }
        }
        let condition = |sample: &mut Sample| match &self.told {
            Told::Caption { .. } => Condition::Caption(std::mem::take(&mut sample.tokens), sample.end),
            _ if sample.class == u32::MAX => Condition::None,
            _ => Condition::Class(sample.class),
        };
        let conditions: Vec<Condition> = samples.iter_mut().map(condition).collect();
        let times = samples.iter().map(|sample| sample.time).collect();
        let mixed = super::images(&mut samples);
        let target = samples.into_iter().flat_map(|sample| sample.target).collect();
        let [size, channels] = self.shape();
        let dims = [conditions.len(), size, size, channels];
        Ok(self.inputs(mixed, times, &conditions)?.with_f32("target", &dims, target))
    }
}

impl Denoising {
    /// The latents of a sample's image, with its noise mixed in.
    fn mix(&self, latents: &Latents, sample: &mut Sample) -> Result<(), TrainError> {
        let (noise, time) = (std::mem::take(&mut sample.noise), f64::from(sample.time));
        let (draw, noise) = noise.split_at(self.each());
        let clean = latents.of(&sample.pixels, draw)?;
        let [image, rest] = self.diffusion.shares(time);
        let numbers = || clean.iter().zip(noise).map(|(clean, noise)| (f64::from(*clean), f64::from(*noise)));
        sample.target = numbers().map(|(clean, noise)| self.diffusion.wanted(time, clean, noise) as f32).collect();
        sample.pixels = numbers().map(|(clean, noise)| (image * clean + rest * noise) as f32).collect();
        Ok(())
    }
}
