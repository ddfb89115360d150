//! What making samples of images takes, for the planner: some of the recipe's own images, read, decoded, cut and made into samples, each
//! on one core. What frozen models take, the planner tells by the models themselves ([`crate::tasks::asked`]).

use train::{TrainError, clock::Clock, recipe::Recipe};

use crate::{
    draws::Draws,
    feed::{self, some},
    frozen,
    pictures::{self, Pictures},
    readers,
    tasks::{self, About},
};

/// Images that are timed, at the most.
const TIMED: usize = 64;

/// See the head of this file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Making {
    /// What the folder holds.
    pub images: u64,
    /// Seconds of one core: to read an image and decode it, and to make a sample of it.
    pub decode_secs: f64,
    pub make_secs: f64,
    /// Of a decoded image, and what all those that stay decoded may have.
    pub image_bytes: u64,
    pub bound_bytes: u64,
}

/// Time it.
/// # Errors
/// When there are no images here that the recipe's model can learn from, or a frozen model that it names is not here.
pub fn making(recipe: &Recipe) -> Result<Making, TrainError> {
    let mut task = tasks::of(recipe)?;
    let side = feed::side(&*task);
    let (sink, _) = readers::list(&recipe.data.path);
    let all: Vec<_> = sink.entries.into_iter().filter(|entry| task.wants(entry).is_ok()).collect();
    let places: Vec<usize> = (0..all.len()).collect();
    let timed: Vec<_> = some(&places, TIMED).into_iter().map(|at| &all[at]).collect();
    let captions: Vec<&str> = timed.iter().filter_map(|entry| entry.caption.as_deref()).collect();
    task.prepare(&[], &captions)?;
    let (mut count, mut decode_secs, mut make_secs) = (0.0, 0.0, 0.0);
    for (key, entry) in (0..).zip(timed) {
        let clock = Clock::start();
        let Ok(whole) = pictures::fetch(entry, side) else { continue };
        decode_secs += clock.secs();
        let (clock, mut draws) = (Clock::start(), Draws::new(key));
        let pixels = feed::crop(&whole, &*task, &mut draws);
        task.sample(&pixels, About { class: 0, caption: entry.caption.as_deref(), is_measured: false }, &mut draws)?;
        make_secs += clock.secs();
        count += 1.0;
    }
    if count == 0.0 {
        let problem = format!("`{}` holds no image that can be used", recipe.data.path.display());
        return Err(TrainError::Value { key: "data.path", problem, help: "give a folder of images".into() });
    }
    Ok(Making {
        images: all.len() as u64,
        decode_secs: decode_secs / count,
        make_secs: make_secs / count,
        image_bytes: pictures::bytes(side),
        bound_bytes: Pictures::bound_bytes(),
    })
}

/// What each frozen model's answers may have, so that they need not be computed again.
#[must_use]
pub fn kept_bytes() -> u64 {
    frozen::kept_bytes()
}
