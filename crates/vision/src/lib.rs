//! Images to train on: a folder of files as the feed of masked autoencoders, classifiers and diffusion transformers.
//!
//! ```text
//! folder -> decode, orient, square -> pixels in memory -> crop and flip by (seed, position) -> inputs
//! ```
//! [`register`] makes the objectives known to recipes; a recipe names the folder as `data.path`.
//!
//! **Absent on purpose:** models, which are in `models`; the loop, which is in `train`.

mod feed;
mod pictures;

pub use pictures::{Picture, Pictures};

/// Make the objectives and metrics of images known to recipes. Calling it again changes nothing.
pub fn register() {
    for (kind, metric) in feed::KINDS.iter().zip(feed::METRICS) {
        train::metric::METRICS.add(*metric);
        train::objective::KINDS.add(*kind);
    }
}
