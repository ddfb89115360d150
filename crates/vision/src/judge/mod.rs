//! What a model of images has learnt, besides its held-out loss: what its features know of classes, which caption it finds for an image,
//! how far its drawings are from images; each beside what something naive gives, and with pictures to look at.

mod again;
mod drawings;
mod extractor;
pub mod probe;
mod reconstructions;
mod retrieval;
pub mod spread;

use std::path::{Path, PathBuf};

pub use extractor::Extractor;
use image::RgbImage;
pub use reconstructions::reconstructions;
pub use retrieval::{Compared, nearest_captions};
use train::{TrainError, recipe::Recipe, run};

use crate::{
    feed::{self, Images, some},
    sampler::as_learnt,
};

/// On what, and how much.
#[derive(Debug, Clone)]
pub struct Options {
    /// Images in place of the recipe's own.
    pub data: Option<PathBuf>,
    /// Held-out images at the most.
    pub held_out: u64,
    /// Of diffusion: a run whose features tell how far drawings are from images. Absent: pixels.
    pub features: Option<PathBuf>,
    /// Of diffusion: images that are drawn, and steps of each.
    pub drawings: usize,
    pub steps: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { data: None, held_out: 256, features: None, drawings: 256, steps: 50 }
    }
}

/// A figure, with the name that JSON has for it.
pub type Figure = (&'static str, f64);

/// One picture, or a sheet of them, and what is to be read under it.
#[derive(Debug, Clone)]
pub struct Shown {
    pub title: String,
    pub text: String,
    pub image: RgbImage,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    pub figures: Vec<Figure>,
    pub shown: Vec<Shown>,
    /// What a person should know of the figures: which features, which baseline.
    pub notes: Vec<String>,
}

impl Findings {
    /// A figure by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(figure, _)| *figure == name).map(|(_, value)| *value)
    }
}

/// Training images that features are fitted on, at the most.
const MOST_TRAIN: usize = 4096;

/// Judge a run.
/// # Errors
/// When it or its images cannot be read, or memory is short.
pub fn judge(folder: &Path, options: &Options) -> Result<Findings, TrainError> {
    let mut loaded = run::load(folder)?;
    let images = feed::open(&recipe(folder, &loaded, options))?;
    match models::kind(&loaded.recipe.model).name {
        "vit_mae" => {
            let mut findings = features(&mut loaded, &images)?;
            findings.shown.insert(0, reconstructions(&mut loaded, &images)?);
            Ok(findings)
        }
        "vit" => features(&mut loaded, &images),
        "autoencoder" => again::judge(&mut loaded, &images),
        "clip" => retrieval::judge(&mut loaded, &images),
        _ => drawings::judge(folder, &images, options),
    }
}

/// The run's recipe, over the images that are asked for and with the tokenizer that it learnt with.
#[must_use]
pub fn recipe(folder: &Path, loaded: &run::Loaded, options: &Options) -> Recipe {
    let mut recipe = as_learnt(folder, &loaded.recipe);
    recipe.eval.windows = options.held_out;
    if let Some(path) = &options.data {
        recipe.data.path.clone_from(path);
    }
    // What is judged need not fill a batch.
    (recipe.batch.sequences, recipe.batch.lanes) = (1, 1);
    if models::kind(&recipe.model).name == "clip" && loaded.tokenizer_path.is_file() {
        recipe.objective.insert("kind".into(), "contrastive".into());
        recipe.objective.insert("tokenizer".into(), loaded.tokenizer_path.display().to_string().into());
    }
    recipe
}

/// What features know of classes, beside those of a model that has learnt nothing.
fn features(loaded: &mut run::Loaded, images: &Images) -> Result<Findings, TrainError> {
    let [train, held_out] = images.split();
    let (train, held_out) = (some(train, MOST_TRAIN), held_out.to_vec());
    let labels = |pictures: &[usize]| pictures.iter().map(|picture| images.class(*picture)).collect::<Vec<_>>();
    let (train_labels, wanted, classes) = (labels(&train), labels(&held_out), images.class_names().len());
    let mut findings = Findings::default();
    if classes < 2 {
        findings.notes.push("all images are of one class: features cannot be judged by classes".into());
        return Ok(findings);
    }
    let pictures = |pictures: &[usize]| pictures.iter().map(|picture| images.picture(*picture)).collect::<Result<Vec<_>, _>>();
    let (train, held_out) = (pictures(&train)?, pictures(&held_out)?);
    let names = [("probe_accuracy", "knn_accuracy"), ("random_probe_accuracy", "random_knn_accuracy")];
    for (names, mut extractor) in names.into_iter().zip([Extractor::of(loaded)?, Extractor::untrained(loaded)?]) {
        let (known, asked) = (extractor.features(&train)?, extractor.features(&held_out)?);
        findings.figures.push((names.0, probe::linear((&known, &train_labels), (&asked, &wanted), classes)));
        findings.figures.push((names.1, probe::neighbours((&known, &train_labels), (&asked, &wanted), classes)));
    }
    findings.figures.push(("prior_accuracy", probe::prior(&train_labels, &wanted, classes)));
    findings.notes.push(format!(
        "a linear classifier and the {} nearest neighbours on {} training images, asked of {} held-out ones of {classes} classes; features: {}; \
         `random`: of the same model before training; `prior`: the most common class",
        probe::NEIGHBOURS,
        train.len(),
        held_out.len(),
        Extractor::WHAT
    ));
    Ok(findings)
}
