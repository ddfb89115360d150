//! How far what a model of diffusion draws is from images: the Fréchet distance of their features, which are named, beside that of noise
//! and that of held-out images.

use std::path::Path;

use image::{RgbImage, imageops};
use train::{TrainError, run};

use super::{
    Extractor, Findings, Options, Shown,
    spread::{Directions, Features, frechet},
};
use crate::{
    draws::Draws,
    feed::{Images, some},
    sampler::{Drawing, Sampler, in_turn},
    sheet::sheet,
    tasks::Condition,
};

/// Training images that drawings are held against, at the most.
const MOST_IMAGES: usize = 2048;
/// Main directions of the features that the distance is taken along.
const DIRECTIONS: usize = 32;
/// Side of the images whose pixels are features.
const PIXELS: u32 = 16;
/// Drawings that are shown.
const SHOWN: usize = 40;
/// The class as it was learnt: guidance trades variety for it, and the distance is of both.
const GUIDANCE: f64 = 1.0;

/// Features of images, by a run or by their pixels.
enum By {
    Run(Box<Extractor>),
    Pixels,
}

impl By {
    fn of(&mut self, images: &[RgbImage]) -> Result<Features, TrainError> {
        match self {
            Self::Run(extractor) => extractor.features(images),
            Self::Pixels => {
                let side = images.first().map_or(1, RgbImage::width).min(PIXELS);
                let row = |image: &RgbImage| {
                    let small = imageops::resize(image, side, side, imageops::FilterType::Triangle);
                    small.as_raw().iter().map(|byte| f32::from(*byte) / 255.0).collect::<Vec<_>>()
                };
                Ok(Features { width: (3 * side * side) as usize, values: images.iter().flat_map(row).collect() })
            }
        }
    }
}

pub(super) fn judge(folder: &Path, images: &Images, options: &Options) -> Result<Findings, TrainError> {
    let mut sampler = Sampler::load(folder)?;
    let conditions = conditions(&sampler, images, options.drawings)?;
    let drawing = Drawing { conditions, steps: options.steps, guidance: GUIDANCE, seed: 1 };
    let drawn = sampler.draw(&drawing, |_, _| {})?;
    let pictures = |all: &[usize]| some(all, MOST_IMAGES).into_iter().map(|picture| images.picture(picture)).collect::<Result<Vec<_>, _>>();
    let [train, held_out] = images.split();
    let (train, held_out) = (pictures(train)?, pictures(held_out)?);
    let noise = noise(drawn.len(), sampler.side());
    let (mut features, what) = match &options.features {
        Some(folder) => {
            let extractor = Extractor::of(&run::load(folder)?)?;
            (By::Run(Box::new(extractor)), format!("of the run `{}`: {}", folder.display(), Extractor::WHAT))
        }
        None => (By::Pixels, format!("the pixels of images of at most {PIXELS}x{PIXELS}, in 0..1")),
    };
    let known = features.of(&train)?;
    let directions = Directions::of(&known, DIRECTIONS.min(drawn.len() / 4).max(1));
    let known = directions.project(&known);
    let mut distance = |images: &[RgbImage]| Ok::<_, TrainError>(frechet(&directions.project(&features.of(images)?), &known));
    let figures =
        vec![("distance", distance(&drawn)?), ("distance_of_held_out", distance(&held_out)?), ("distance_of_noise", distance(&noise)?)];
    let weights = if sampler.is_averaged { "the running average of the weights" } else { "the weights as they are" };
    let note = format!(
        "Fréchet distance (arXiv:1706.08500) from {} training images, along the {} main directions of features: {what}; of {} drawings of {} \
         steps by {weights}, of {} held-out images, and of noise",
        train.len(),
        directions.count(),
        drawn.len(),
        options.steps,
        held_out.len()
    );
    let (columns, told) = if sampler.reads_captions() {
        let captions: Vec<String> = held_out_captions(images).take(SHOWN_CAPTIONS).map(str::to_owned).collect();
        (SHOWN_CAPTIONS, format!("captions of held-out images in turn: {}", captions.join("; ")))
    } else {
        let columns = images.class_names().len().clamp(1, 10);
        (columns, format!("classes in turn: {}", listed(images.class_names(), columns)))
    };
    let shown = Shown {
        title: "Drawings".into(),
        text: format!("{} steps, guidance {GUIDANCE}, {}", options.steps, told),
        image: sheet(&drawn[..drawn.len().min(SHOWN)], columns),
    };
    Ok(Findings { figures, shown: vec![shown], notes: vec![note] })
}

/// Captions that are shown, one for each column.
const SHOWN_CAPTIONS: usize = 8;

/// Classes in turn, or the captions of held-out images.
fn conditions(sampler: &Sampler, images: &Images, count: usize) -> Result<Vec<Condition>, TrainError> {
    if !sampler.reads_captions() {
        return Ok(in_turn(count, images.class_names().len().min(sampler.classes())));
    }
    let captions: Vec<&str> = held_out_captions(images).collect();
    // Whole columns of the sheet are of one caption.
    let each = captions.len().clamp(1, SHOWN_CAPTIONS);
    (0..count).map(|i| sampler.caption(captions[if i < SHOWN { i % each } else { i % captions.len() }])).collect()
}

fn held_out_captions(images: &Images) -> impl Iterator<Item = &str> {
    images.split()[1].iter().filter_map(|picture| images.caption(*picture))
}

fn listed(names: &[String], most: usize) -> String {
    let more = if names.len() > most { ", ..." } else { "" };
    names.iter().take(most).cloned().collect::<Vec<_>>().join(", ") + more
}

/// What a model draws before it has learnt anything: normal noise as pixels.
fn noise(count: usize, side: usize) -> Vec<RgbImage> {
    let mut draws = Draws::new(2);
    let mut byte = || ((draws.normal() + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    (0..count).map(|_| RgbImage::from_fn(side as u32, side as u32, |_, _| image::Rgb([byte(), byte(), byte()]))).collect()
}
