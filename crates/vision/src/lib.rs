//! Images to train on and models of images to judge: folders, lists and shards as the feed of masked autoencoders, classifiers, CLIP and
//! diffusion; probes, retrieval and drawings of what came of it.
//!
//! ```text
//! files -> prepare: rules, near duplicates, shards
//! files -> readers -> decode, orient, square -> pictures -> crop and flip by (seed, position) -> task -> inputs
//! run -> features, embeddings, drawings -> figures beside a naive baseline, and pictures
//! ```
//! [`register`] makes the objectives known to recipes; a recipe names the folder as `data.path`. [`judge::judge`] is what `hairpin eval`
//! asks, [`sampler::Sampler`] what draws.
//!
//! **Absent on purpose:** models, which are in `models`; the loop, which is in `train`.

mod captions;
pub mod classes;
pub mod cost;
pub mod decode;
pub mod demo;
pub mod diffusion;
pub mod draws;
pub mod feed;
pub mod film;
mod frozen;
pub mod hf;
pub mod judge;
pub mod latents;
pub mod naive;
mod numbers;
mod passes;
mod pictures;
pub mod prepare;
mod prepared;
pub mod readers;
pub mod sampler;
pub mod sheet;
pub mod tasks;
mod texts;

use std::sync::Arc;

pub use feed::Images;
pub use pictures::Pictures;
use tasks::{autoencoding, mixing, pairs, reconstruction};
use train::{TrainError, feed::Feed, metric::MetricKind, objective::Kind, recipe::Recipe};

/// Every objective of images, and what it is judged by.
const KINDS: &[(Kind, MetricKind)] = &[
    (Kind { name: "reconstruction", build: reconstruction::build, feed }, reconstruction::METRIC),
    (Kind { name: "autoencoding", build: autoencoding::build, feed }, autoencoding::METRIC),
    (Kind { name: "classes", build: tasks::classes::build, feed }, tasks::classes::METRIC),
    (Kind { name: "contrastive", build: pairs::build, feed }, pairs::METRIC),
    (Kind { name: "denoising", build: mixing::build, feed }, mixing::METRIC),
];

fn feed(recipe: &Recipe) -> Result<Arc<dyn Feed>, TrainError> {
    Ok(feed::open(recipe)?)
}

/// Whether a recipe learns from images by one of these objectives.
#[must_use]
pub fn reads(recipe: &Recipe) -> bool {
    KINDS.iter().any(|(kind, _)| kind.name == train::objective::name(recipe))
}

/// Make the objectives and metrics of images known to recipes. Calling it again changes nothing.
pub fn register() {
    for (kind, metric) in KINDS {
        train::metric::METRICS.add(*metric);
        train::objective::KINDS.add(*kind);
    }
}
