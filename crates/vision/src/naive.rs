//! What something naive reaches on the same held-out samples, by the same metric: what a model has to beat before it has learnt anything.

use engine::{Array, Inputs};
use models::vit_mae::MaeConfig;
use train::{
    TrainError,
    eval::{HeldOut, SampleLoss},
    feed::Feed,
    recipe::Recipe,
};

use crate::{
    feed::{self, Images},
    tasks::{Denoising, autoencoding, classes, mixing, pairs, pixels_around_zero, reconstruction},
};

/// Images that it counts on, at the most.
const MOST_IMAGES: usize = 2048;
/// Held-out samples at a time.
const BATCH: u64 = 32;

/// The metric of a naive model of a recipe's data, sample by sample, and whose it is.
/// # Errors
/// When the images cannot be read.
pub fn baseline(recipe: &Recipe) -> Result<(HeldOut, &'static str), TrainError> {
    let images = feed::open(recipe)?;
    let (metric, losses, whose) = match train::objective::name(recipe) {
        "classes" => (&classes::METRIC, of_prior(&images), "of the share that each class has"),
        "contrastive" => (&pairs::METRIC, of_guessing(&images, recipe), "of guessing"),
        "denoising" => (&mixing::METRIC, of_numbers(&images, recipe)?, "of the mean and spread of each number"),
        "autoencoding" => (&autoencoding::METRIC, of_mean_image(&images)?, "of the mean image"),
        _ => (&reconstruction::METRIC, of_mean_patches(&images, recipe)?, "of the mean patch at each place"),
    };
    let samples = losses.into_iter().map(|loss| SampleLoss { loss, weight: 1 }).collect();
    Ok((HeldOut::of(metric, samples), whose))
}

/// Minus the logarithm of each held-out image's class's share of the training images, one more of each class counted.
fn of_prior(images: &Images) -> Vec<f64> {
    let [train, held_out] = images.split();
    let mut counts = vec![1.0; images.class_names().len()];
    train.iter().for_each(|picture| counts[images.class(*picture) as usize] += 1.0);
    let all: f64 = counts.iter().sum();
    held_out.iter().map(|picture| -(counts[images.class(*picture) as usize] / all).ln()).collect()
}

/// All captions are as likely for each image; of SigLIP every pair is right as often as pairs are.
fn of_guessing(images: &Images, recipe: &Recipe) -> Vec<f64> {
    let count = images.split()[1].len() as f64;
    let is_sigmoid = recipe.model.get("sigmoid").and_then(toml::Value::as_bool).unwrap_or(false);
    let others = if is_sigmoid && count > 1.0 { -(count - 1.0) * (1.0 - 1.0 / count).ln() } else { 0.0 };
    vec![count.ln() + others; count as usize]
}

/// Numbers of one image, summed into their means and variances.
struct Moments {
    count: f64,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    fn of(images: &Images, numbers: impl Fn(&image::RgbImage) -> Result<Vec<f64>, TrainError>) -> Result<Self, TrainError> {
        let [train, _] = images.split();
        let mut own = Self { count: 0.0, sums: Vec::new(), squares: Vec::new() };
        let step = train.len().div_ceil(MOST_IMAGES);
        for picture in train.iter().step_by(step.max(1)) {
            let numbers = numbers(&images.picture(*picture)?)?;
            own.sums.resize(numbers.len(), 0.0);
            own.squares.resize(numbers.len(), 0.0);
            own.count += 1.0;
            own.sums.iter_mut().zip(&numbers).for_each(|(sum, v)| *sum += v);
            own.squares.iter_mut().zip(&numbers).for_each(|(sum, v)| *sum += v * v);
        }
        Ok(own)
    }

    fn mean(&self, i: usize) -> f64 {
        self.sums[i] / self.count
    }

    fn variance(&self, i: usize) -> f64 {
        (self.squares[i] / self.count - self.mean(i).powi(2)).max(1e-6)
    }
}

/// Patch after patch, each with mean 0 and variance 1, as masked autoencoders are asked for them.
fn patches(pixels: &[f64], size: usize, patch: usize) -> Vec<f64> {
    let across = size / patch;
    let mut out = Vec::with_capacity(pixels.len());
    for place in 0..across * across {
        let at = crate::tasks::of_patch(size, patch, place);
        let numbers = 3 * patch * patch;
        let own: Vec<f64> = (0..numbers).map(|k| pixels[at(k)]).collect();
        let mean = own.iter().sum::<f64>() / numbers as f64;
        let variance = own.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (numbers - 1) as f64;
        out.extend(own.iter().map(|v| (v - mean) / (variance + 1e-6).sqrt()));
    }
    out
}

/// The mean patch of training images at each place.
fn of_mean_patches(images: &Images, recipe: &Recipe) -> Result<Vec<f64>, TrainError> {
    let config: MaeConfig = models::typed(&models::build(&recipe.model)?.config())?;
    let (size, patch) = (config.tower.size, config.tower.patch);
    let numbers = |image: &image::RgbImage| {
        let normed: Vec<f64> = crate::tasks::normed(image).into_iter().map(f64::from).collect();
        Ok(patches(&normed, size, patch))
    };
    let mean = Moments::of(images, numbers)?;
    let (each, count) = (3 * patch * patch, (size / patch).pow(2));
    per_sample(images, |inputs| {
        let (Array::F32(_, pixels), Array::U32(shape, masked)) = (inputs.get("images")?, inputs.get("masked")?) else {
            return Ok(Vec::new());
        };
        let (batch, hidden) = (shape.dims()[0], shape.dims()[1]);
        let of = |n: usize| {
            let image: Vec<f64> = pixels[n * 3 * size * size..][..3 * size * size].iter().map(|v| f64::from(*v)).collect();
            let wanted = patches(&image, size, patch);
            let error = |place: &u32| {
                let first = (*place as usize - n * count) * each;
                (first..first + each).map(|i| (wanted[i] - mean.mean(i)).powi(2)).sum::<f64>()
            };
            masked[n * hidden..][..hidden].iter().map(error).sum::<f64>() / (hidden * each) as f64
        };
        Ok((0..batch).map(of).collect())
    })
}

/// The mean of training images.
fn of_mean_image(images: &Images) -> Result<Vec<f64>, TrainError> {
    let numbers = |image: &image::RgbImage| pixels_around_zero(image).into_iter().map(f64::from).collect::<Vec<_>>();
    let moments = Moments::of(images, |image| Ok(numbers(image)))?;
    let error = |picture: &usize| {
        let pixels = numbers(&images.picture(*picture)?);
        Ok(pixels.iter().enumerate().map(|(i, v)| (v - moments.mean(i)).powi(2)).sum::<f64>() / pixels.len() as f64)
    };
    images.split()[1].iter().map(error).collect()
}

/// The best that can be said of each mixed number by its own mean and variance alone: Wiener's filter.
fn of_numbers(images: &Images, recipe: &Recipe) -> Result<Vec<f64>, TrainError> {
    let mut denoising = Denoising::new(recipe)?;
    images.show_to(&mut denoising)?;
    let moments = Moments::of(images, |image| Ok(denoising.clean(image)?.into_iter().map(f64::from).collect()))?;
    per_sample(images, |inputs| {
        let arrays = [inputs.get("latents")?, inputs.get("target")?, inputs.get("timesteps")?];
        let [Array::F32(_, mixed), Array::F32(_, target), Array::F32(_, times)] = arrays else { return Ok(Vec::new()) };
        let each = mixed.len() / times.len().max(1);
        let of = |n: usize| {
            let time = f64::from(times[n]);
            let [image, rest] = denoising.diffusion.shares(time);
            let error = |i: usize| {
                let (x, mean, variance) = (f64::from(mixed[n * each + i]), moments.mean(i), moments.variance(i));
                let off = (x - image * mean) / (image * image * variance + rest * rest);
                let said = denoising.diffusion.wanted(time, mean + image * variance * off, rest * off);
                (said - f64::from(target[n * each + i])).powi(2)
            };
            (0..each).map(error).sum::<f64>() / each as f64
        };
        Ok((0..times.len()).map(of).collect())
    })
}

/// The losses of held-out samples, a few at a time.
fn per_sample(images: &Images, losses: impl Fn(&Inputs) -> Result<Vec<f64>, TrainError>) -> Result<Vec<f64>, TrainError> {
    let (mut all, count) = (Vec::new(), images.held_out());
    for first in (0..count).step_by(BATCH as usize) {
        all.extend(losses(&images.held_out_inputs(first..(first + BATCH).min(count))?)?);
    }
    Ok(all)
}
