//! What comes before the steps of a recipe of images: samples are made of files, and frozen models are asked about them.
//!
//! ```text
//! images here -> some decoded and made into samples, timed        none here: a row of the catalogue
//! frozen models of the recipe -> one pass on Meta: FLOPs, memory   the same pass, timed
//! ```
//! **On this machine** the cores that make samples are those that train, so that making them takes time from the steps even though it runs
//! beside them. Beside **accelerators** it hides, as long as the cores of their machines keep up; frozen models run on the accelerators
//! there, as the simulation has it.

use engine::{Array, EngineError, Inputs, NoParams, Options, Pool, Precision, Tape};
use models::encoders::Encoder;
use parallel::Replicated;
use serde::Serialize;
use train::{
    TrainError,
    clock::Clock,
    eval::{inference, pool},
    recipe::Recipe,
};
use vision::{
    cost::{self, Making},
    tasks::{absent, asked},
};

use crate::{
    PlanError,
    catalogue::{Catalogue, ImageRate},
};

/// On this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Before {
    pub feed: Feed,
    /// Images that are here, if any are.
    pub images: Option<u64>,
    /// Of those that stay decoded.
    pub decoded_bytes: u64,
    pub frozen: Vec<Frozen>,
    /// Of all cores, to decode every image once before the first step.
    pub open_secs: f64,
    /// That a step takes longer by, in the mean over the run.
    pub step_secs: f64,
    /// Frozen models that the recipe names and that are not here yet: nothing of them is counted.
    pub not_counted: Vec<String>,
}

/// Samples made of files.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Feed {
    /// Of a step.
    pub samples: u64,
    /// The share of them whose image is decoded anew.
    pub decoded_ratio: f64,
    /// Seconds of one core: to read and decode an image, and to make a sample of it.
    pub decode_core_secs: f64,
    pub make_core_secs: f64,
    /// Where those come from.
    pub source: String,
    /// What the steps would keep busy, and what there is.
    pub cores_needed: f64,
    pub cores: f64,
}

/// A model that is asked and not trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Frozen {
    pub name: &'static str,
    pub params: u64,
    /// Of one sample, forward.
    pub flops: f64,
    pub sample_secs: f64,
    /// How often it is asked in the whole run.
    pub times: f64,
    pub weight_bytes: u64,
    /// Of a pass.
    pub pass_bytes: u64,
    /// Of what it said, which is kept for samples that come again.
    pub kept_bytes: u64,
}

impl Feed {
    fn core_secs(&self) -> f64 {
        self.samples as f64 * (self.decoded_ratio * self.decode_core_secs + self.make_core_secs)
    }

    /// Seconds of a step in which all cores make its samples and do nothing else.
    #[must_use]
    pub fn secs(&self) -> f64 {
        self.core_secs() / self.cores
    }

    /// By a row of the catalogue, each image decoded anew, beside a step of so many seconds.
    /// # Errors
    /// When the catalogue has no such row.
    pub fn by_catalogue(catalogue: &Catalogue, samples: u64, step_secs: f64, cores: f64) -> Result<Self, PlanError> {
        let row = rate(catalogue)?;
        let mut feed = Self {
            samples,
            decoded_ratio: 1.0,
            decode_core_secs: 1.0 / row.decoded_per_sec,
            make_core_secs: 1.0 / row.made_per_sec,
            source: row.name.clone(),
            cores_needed: 0.0,
            cores,
        };
        feed.cores_needed = feed.core_secs() / step_secs;
        Ok(feed)
    }
}

fn rate(catalogue: &Catalogue) -> Result<&ImageRate, PlanError> {
    catalogue.images.first().ok_or_else(|| PlanError::Catalogue { origin: "the catalogue".into(), problem: "has no row `images`".into() })
}

impl Before {
    /// Bytes that are held besides the step's own.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        // Whoever is asked holds the others up, so that there is one pass at a time; its space is let go before the step.
        let frozen = self.frozen.iter().map(|f| f.weight_bytes + f.kept_bytes).sum::<u64>();
        self.decoded_bytes + frozen + self.frozen.iter().map(|f| f.pass_bytes).max().unwrap_or(0)
    }
}

/// That of `recipe`, whose steps take `step_secs` and which measures itself `evals` times; of one that learns from no images none.
/// # Errors
/// When a frozen model is there and cannot be, or memory is short.
pub fn here(recipe: &Recipe, step_secs: f64, evals: f64) -> Result<Option<Before>, TrainError> {
    if !vision::reads(recipe) {
        return Ok(None);
    }
    let (samples, steps) = (recipe.batch.sequences as u64, recipe.train.steps as f64);
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let making = cost::making(recipe);
    let catalogue = || Catalogue::load(None).and_then(|catalogue| Feed::by_catalogue(&catalogue, samples, step_secs, cores));
    let (mut feed, made) = match &making {
        Ok(making) => (of(making, samples, cores), Some(making)),
        Err(error) => {
            let mut feed =
                catalogue().map_err(|e| TrainError::Value { key: "images", problem: e.to_string(), help: "report it".into() })?;
            feed.source = format!("{}, as the catalogue has it: {error}", feed.source);
            (feed, None)
        }
    };
    let images = made.map(|made| made.images);
    let asks = (steps * samples as f64 + evals * recipe.eval.windows as f64).max(1.0);
    let frozen = asked(recipe)?
        .into_iter()
        .map(|asked| {
            let mut frozen = Frozen::of(&asked.encoder)?;
            (frozen.params, frozen.weight_bytes) = (asked.params, 4 * asked.params);
            frozen.times = asks;
            // What comes again is computed once, as far as it may be kept.
            if let Some(images) = images.filter(|_| asked.is_kept) {
                let kept = (images as f64).min((cost::kept_bytes() / asked.said_bytes.max(1)) as f64);
                let kept_ratio = kept / images as f64;
                frozen.times = asks.min(kept + (1.0 - kept_ratio) * asks);
                frozen.kept_bytes = kept as u64 * asked.said_bytes;
            }
            Ok(frozen)
        })
        .collect::<Result<Vec<_>, TrainError>>()?;
    feed.cores_needed = feed.core_secs() / step_secs;
    let frozen_secs: f64 = frozen.iter().map(|f| f.times * f.sample_secs).sum();
    Ok(Some(Before {
        step_secs: feed.secs() + frozen_secs / steps.max(1.0),
        open_secs: made.map_or(0.0, |made| made.images as f64 * made.decode_secs / cores),
        decoded_bytes: made.map_or(0, |made| ((1.0 - feed.decoded_ratio) * (made.images * made.image_bytes) as f64) as u64),
        not_counted: absent(recipe).into_iter().map(|(key, path)| format!("`{key}`: `{}` is not there", path.display())).collect(),
        images,
        feed,
        frozen,
    }))
}

fn of(making: &Making, samples: u64, cores: f64) -> Feed {
    let stay = (making.bound_bytes / making.image_bytes).min(making.images);
    Feed {
        samples,
        decoded_ratio: 1.0 - stay as f64 / making.images as f64,
        decode_core_secs: making.decode_secs,
        make_core_secs: making.make_secs,
        source: "some of the recipe's own images, made now".into(),
        cores_needed: 0.0,
        cores,
    }
}

impl Frozen {
    /// One pass on `Meta`, and the same with numbers.
    fn of(encoder: &Encoder) -> Result<Self, TrainError> {
        let (meta, mut none) = (Pool::meta(), NoParams);
        let (shapes, table) = (encoder.shapes(1), encoder.params());
        let mut tape = Tape::new(&meta, &mut none, table, Options { trace: true, ..inference(Precision::F32) });
        encoder.run(&mut tape, &shapes)?;
        let flops = tape.events().iter().map(|event| event.flops).sum::<u64>() as f64;
        drop(tape);
        let pass_bytes = meta.usage().high_water_bytes;
        let mut store = Replicated::solo(table, |id| table.initial(id, 1));
        let space = pool(pass_bytes)?;
        let inputs = filled(&shapes);
        let mut pass = || {
            let clock = Clock::start();
            encoder.run(&mut Tape::new(&space, &mut store, table, inference(Precision::F32)), &inputs)?;
            Ok::<_, EngineError>(clock.secs())
        };
        // The first touches the memory.
        pass()?;
        let sample_secs = pass()?.min(pass()?);
        Ok(Self {
            name: encoder.name(),
            params: table.elements(),
            flops,
            sample_secs,
            times: 0.0,
            weight_bytes: 4 * table.elements(),
            pass_bytes,
            kept_bytes: 0,
        })
    }
}

/// Arrays of these shapes with numbers in them.
fn filled(shapes: &Inputs) -> Inputs {
    shapes.map(|array| match array {
        Array::F32(shape, _) => Array::F32(*shape, vec![0.5; shape.elements()]),
        Array::U32(shape, _) => Array::U32(*shape, vec![1; shape.elements()]),
    })
}

#[cfg(test)]
mod tests {
    use models::autoencoder::AutoencoderConfig;

    use super::*;

    const MODEL: &str = "[model]\nkind = \"dit\"\nsize = 4\npatch = 2\nchannels = 4\nout_channels = 4\nlayers = 1\nwidth = 32\nheads = 2\n\
        classes = 2\nwaves = 32\n[batch]\nsequences = 4\n[train]\nsteps = 10";

    #[test]
    fn a_pass_costs_what_meta_says_and_the_flops_of_its_windows() {
        let config = AutoencoderConfig { size: 32, ..AutoencoderConfig::stable_diffusion() };
        let frozen = Frozen::of(&Encoder::autoencoder(&config)).unwrap();
        // Its first window alone: 3 to 128 channels, 3 by 3, of each pixel.
        assert!(frozen.flops > (2 * 9 * 3 * 128 * 32 * 32) as f64 && frozen.sample_secs > 0.0, "{frozen:?}");
        assert_eq!(frozen.weight_bytes, 4 * frozen.params);
        assert!(frozen.pass_bytes > 4 * 128 * 32 * 32, "{frozen:?}");
    }

    #[test]
    fn without_images_the_catalogue_says_and_models_that_are_absent_are_named() {
        vision::register();
        let text = format!("{MODEL}\n[data]\npath = \"/nowhere\"\n[objective]\nkind = \"denoising\"\nlatents = \"/nowhere\"");
        let before = here(&Recipe::parse(&text, "test", &[]).unwrap(), 0.1, 1.0).unwrap().unwrap();
        assert!(before.frozen.is_empty() && before.not_counted == ["`objective.latents`: `/nowhere` is not there"], "{before:?}");
        assert!(before.images.is_none() && before.feed.source.contains("as the catalogue has it"), "{before:?}");
        assert!((before.step_secs - before.feed.secs()).abs() < 1e-12 && before.memory_bytes() == 0);
        let text = Recipe::parse("[model]\ndepth = 2\nvocab = 97", "test", &[]).unwrap();
        assert!(here(&text, 0.1, 1.0).unwrap().is_none(), "a model of text");
    }

    #[test]
    fn cores_that_are_too_few_are_waited_for() {
        let catalogue = Catalogue::load(None).unwrap();
        let row = rate(&catalogue).unwrap();
        let each = 1.0 / row.decoded_per_sec + 1.0 / row.made_per_sec;
        let feed = Feed::by_catalogue(&catalogue, 1000, 0.5, 8.0).unwrap();
        assert!((feed.cores_needed - 1000.0 * each / 0.5).abs() < 1e-9 && (feed.secs() - 1000.0 * each / 8.0).abs() < 1e-12, "{feed:?}");
    }
}
