//! Images from files to judged models in some minutes: handwritten digits that come along ([`DIGITS`]), and pictures of two coloured ones
//! with a caption made for each.
//!
//! ```text
//! digits -> masked autoencoder -> probe
//!        -> diffusion transformer -> drawings
//! pairs  -> CLIP -> the caption of an image
//! ```
//! **Honest:** the handwriting is real, captions and colours are made. Digits of held-out pairs are digits that no training pair has.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use engine::mix;
use image::{Rgb, RgbImage, imageops};
use serde::Serialize;
use train::{
    TrainError,
    feed::is_held_out,
    metrics,
    recipe::Recipe,
    run::{self, Observer},
};

use crate::{
    draws::Draws,
    feed::HELD_OUT,
    judge::{self, Findings},
};

/// See assets/README.md for whose they are.
pub const DIGITS: &[u8] = include_bytes!("../assets/digits.png");
/// Of 0 to 9, how many there are, one after the other.
const COUNTS: [usize; 10] = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180];
const SIDE: u32 = 8;
const TO_A_LINE: usize = 40;
const NAMES: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const COLOURS: [(&str, [u8; 3]); 6] = [
    ("red", [230, 40, 40]),
    ("green", [40, 200, 70]),
    ("blue", [70, 110, 255]),
    ("yellow", [240, 220, 50]),
    ("white", [245, 245, 245]),
    ("pink", [240, 120, 200]),
];
const PAIRS: usize = 4000;
/// Of each digit's images, the share that only held-out pairs are made of.
const KEPT_APART: f64 = 0.2;

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub mae: Mae,
    pub clip: Clip,
    pub diffusion: Diffusion,
    /// Of the three, in this order, to be shown.
    #[serde(skip)]
    pub findings: [Findings; 3],
    #[serde(skip)]
    pub runs: [PathBuf; 3],
}

/// Of the masked autoencoder.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Mae {
    /// Squared error of hidden patches of held-out images; the mean patch at each place has `baseline_loss`.
    pub loss: f64,
    pub baseline_loss: f64,
    /// Of a linear probe of its features, and of those of the same model before training.
    pub probe_accuracy: f64,
    pub baseline_accuracy: f64,
}

/// Of CLIP.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Clip {
    pub recall_at_1: f64,
    pub chance: f64,
}

/// Of diffusion.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Diffusion {
    pub distance: f64,
    pub distance_of_held_out: f64,
    pub distance_of_noise: f64,
}

/// Train and judge the three in `out`, or go on from where a run of it stopped; nothing when it was asked to stop.
/// # Errors
/// What befell a part of it.
pub fn run(out: &Path, seed: u64, stop: &AtomicBool, observer: &mut dyn Observer) -> Result<Option<Outcome>, TrainError> {
    crate::register();
    let (digits, pairs) = (out.join("digits"), out.join("pairs"));
    write_data(&digits, &pairs, seed)?;
    let mut runs = Vec::new();
    for (name, text) in [("mae", mae(&digits, seed)), ("clip", clip(&pairs, seed)), ("diffusion", diffusion(&digits, seed))] {
        let (folder, recipe) = (out.join(name), Recipe::parse(&text, name, &[])?);
        observer.phase(&format!("{name}: {} steps of {} images", recipe.train.steps, recipe.batch.sequences));
        if run::train(&recipe, &folder, true, stop, observer)?.is_stopped {
            return Ok(None);
        }
        runs.push(folder);
    }
    let Ok(runs) = <[PathBuf; 3]>::try_from(runs) else { unreachable!("there are three runs") };
    observer.phase("judging: probes, retrieval, drawings");
    let options = judge::Options::default();
    let [mae, clip] = [judge::judge(&runs[0], &options)?, judge::judge(&runs[1], &options)?];
    // The autoencoder that was trained beside it tells how far drawings are from digits.
    let by_features = judge::Options { features: Some(runs[0].clone()), ..options };
    let diffusion = judge::judge(&runs[2], &by_features)?;
    let of = |findings: &Findings, name| findings.get(name).unwrap_or(f64::NAN);
    let held_out = metrics::read(&runs[0].join("metrics.jsonl")).0.iter().rev().find_map(|line| line.held_out);
    let baseline = crate::naive::baseline(&run::load(&runs[0])?.recipe)?.0.metric.value;
    Ok(Some(Outcome {
        mae: Mae {
            loss: held_out.map_or(f64::NAN, |metric| metric.value),
            baseline_loss: baseline,
            probe_accuracy: of(&mae, "probe_accuracy"),
            baseline_accuracy: of(&mae, "random_probe_accuracy"),
        },
        clip: Clip { recall_at_1: of(&clip, "recall_at_1"), chance: of(&clip, "chance") },
        diffusion: Diffusion {
            distance: of(&diffusion, "distance"),
            distance_of_held_out: of(&diffusion, "distance_of_held_out"),
            distance_of_noise: of(&diffusion, "distance_of_noise"),
        },
        findings: [mae, clip, diffusion],
        runs,
    }))
}

fn common(data: &Path, seed: u64, batch: usize, steps: u64, lr: f64) -> String {
    let every = (steps / 4).max(1);
    format!(
        "seed = {seed}\n[data]\npath = {:?}\n[batch]\nsequences = {batch}\nmicro_batch = {batch}\n[train]\nsteps = {steps}\n\
         [optim]\nlr = {lr}\nweight_decay = 0.05\n[schedule]\nwarmup_steps = 50\nfloor_ratio = 0.02\n\
         [eval]\nevery_steps = {every}\nwindows = 256\n[checkpoint]\nevery_steps = {every}\n",
        data.display().to_string()
    )
}

fn tower(norm_first: bool, size: usize, patch: usize, layers: usize, width: usize) -> String {
    format!(
        "size = {size}\npatch = {patch}\nlayers = {layers}\nwidth = {width}\nheads = 4\nffn = {}\nmlp = \"gelu\"\neps = 1e-6\nnorm_first = {norm_first}\n",
        4 * width
    )
}

fn mae(data: &Path, seed: u64) -> String {
    let model = "[model]\nkind = \"vit_mae\"\ndecoder_layers = 2\ndecoder_width = 64\ndecoder_heads = 4\nmask_ratio = 0.6\n[model.tower]\n";
    let objective = "[objective]\nkind = \"reconstruction\"\naugment = { flip = false, least_area = 1.0 }\n";
    format!("name = \"mae\"\n{}{objective}{model}{}", common(data, seed, 64, 1500, 2e-3), tower(false, 8, 2, 4, 64))
}

fn clip(data: &Path, seed: u64) -> String {
    let text = "[model.text]\nvocab = 288\ntokens = 20\nlayers = 2\nwidth = 64\nheads = 4\nffn = 256\nmlp = \"gelu\"\n";
    let objective = "[objective]\nkind = \"contrastive\"\naugment = { flip = false, least_area = 1.0 }\n";
    format!(
        "name = \"clip\"\n{}{objective}[model]\nkind = \"clip\"\nembed = 64\n[model.image]\n{}{text}",
        common(data, seed, 128, 900, 1e-3)
            .replace("weight_decay", "beta2 = 0.98\nweight_decay")
            .replace("warmup_steps = 50", "warmup_steps = 100"),
        tower(true, 16, 4, 3, 64)
    )
}

fn diffusion(data: &Path, seed: u64) -> String {
    let model = "[model]\nkind = \"dit\"\nsize = 8\npatch = 2\nchannels = 3\nout_channels = 3\nlayers = 4\nwidth = 96\nheads = 4\nclasses = 11\nwaves = 64\n";
    let objective = "[objective]\nkind = \"denoising\"\ntarget = \"flow\"\naugment = { flip = false, least_area = 1.0 }\n";
    let text = common(data, seed, 64, 2500, 2e-3).replace("weight_decay = 0.05", "weight_decay = 0.0\naverage = 0.995");
    format!("name = \"diffusion\"\n{text}{objective}{model}")
}

/// The digits, by their number.
fn digits() -> Result<[Vec<RgbImage>; 10], TrainError> {
    let broken = |problem: String| TrainError::Value { key: "digits", problem, help: "report it: this program is damaged".into() };
    let sheet = image::load_from_memory(DIGITS).map_err(|e| broken(e.to_string()))?.to_rgb8();
    let mut all: [Vec<RgbImage>; 10] = Default::default();
    let mut at = 0;
    for (digit, count) in COUNTS.into_iter().enumerate() {
        for _ in 0..count {
            let place = |i: usize| i as u32 * SIDE;
            all[digit].push(imageops::crop_imm(&sheet, place(at % TO_A_LINE), place(at / TO_A_LINE), SIDE, SIDE).to_image());
            at += 1;
        }
    }
    Ok(all)
}

/// Digits as one folder for each, and pairs of them beside their captions; both whole or, of a run that was killed, written again.
fn write_data(digits_to: &Path, pairs_to: &Path, seed: u64) -> Result<(), TrainError> {
    let done = pairs_to.join("captions.jsonl");
    if done.is_file() {
        return Ok(());
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| TrainError::Io { action: "write", path, source }
    };
    let all = digits()?;
    for (digit, images) in all.iter().enumerate() {
        let folder = digits_to.join(digit.to_string());
        std::fs::create_dir_all(&folder).map_err(io(&folder))?;
        for (i, image) in images.iter().enumerate() {
            crate::sheet::save(&folder.join(format!("{i:03}.png")), image)?;
        }
    }
    std::fs::create_dir_all(pairs_to).map_err(io(pairs_to))?;
    let mut captions = String::new();
    for i in 0..PAIRS {
        let file = format!("{i:04}.png");
        // As the list that is written below calls it: what is held out is so by that name.
        let name = format!("captions.jsonl:{} {file}", i + 1);
        let (image, caption) = pair(&all, mix(seed ^ mix(i as u64)), is_held_out(seed, &name, HELD_OUT));
        crate::sheet::save(&pairs_to.join(&file), &image)?;
        captions += &format!("{}\n", serde_json::json!({"file_name": file, "caption": caption}));
    }
    disk::write(&done, captions).map_err(io(&done))
}

/// Two digits beside one another, each of a colour, and what is to be said of them.
fn pair(all: &[Vec<RgbImage>; 10], key: u64, is_held_out: bool) -> (RgbImage, String) {
    let mut draws = Draws::new(key);
    let mut image = RgbImage::new(2 * SIDE, 2 * SIDE);
    let mut said = Vec::new();
    for side in 0..2 {
        let (digit, colour) = (draws.below(10), draws.below(COLOURS.len()));
        let images = &all[digit];
        let apart = (images.len() as f64 * KEPT_APART) as usize;
        let which = if is_held_out { draws.below(apart) } else { apart + draws.below(images.len() - apart) };
        let (left, top) = (side * SIDE, draws.below(SIDE as usize + 1) as u32);
        for (x, y, pixel) in images[which].enumerate_pixels() {
            let shade = |c: u8| (u32::from(c) * u32::from(pixel.0[0]) / 255) as u8;
            image.put_pixel(left + x, top + y, Rgb(COLOURS[colour].1.map(shade)));
        }
        said.push(format!("a {} {}", COLOURS[colour].0, NAMES[digit]));
    }
    (image, said.join(" left of "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_all_there_and_pairs_say_what_they_show() {
        let all = digits().unwrap();
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 1797);
        // A nought is dark in its middle, a one is light there.
        let middle = |digit: usize| {
            let sum = |image: &RgbImage| u32::from(image.get_pixel(3, 3).0[0]) + u32::from(image.get_pixel(4, 4).0[0]);
            all[digit].iter().map(sum).sum::<u32>() / all[digit].len() as u32
        };
        assert!(middle(0) < 60 && middle(1) > 300, "{} {}", middle(0), middle(1));
        let (image, caption) = pair(&all, 7, true);
        assert_eq!(image.dimensions(), (16, 16));
        assert_eq!(pair(&all, 7, true).1, caption);
        assert_eq!(caption.split(" left of ").count(), 2, "{caption}");
    }
}
