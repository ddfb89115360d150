//! Images as samples: which are held out, how they are cut and mirrored, and made beside training on threads of their own.
//!
//! All draws are by (seed, position), of held-out images by the image's number, so that bits depend on neither threads nor ranks. While a
//! micro-batch is learnt from, the samples at the same places of the next step are made; whoever asks for one that is not ready makes it
//! himself, to the same bits.

use std::{
    collections::HashMap,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use data::{Content, Sampler, Tokenizer};
use engine::{Inputs, ParamStore, Precision, mix};
use image::{RgbImage, imageops};
use models::Model;
use rayon::prelude::*;
use train::{
    TrainError,
    checkpoint::TokenizerFiles,
    eval::HeldOut,
    feed::{Feed, InTraining, Pick, is_held_out},
    recipe::Recipe,
};

use crate::{
    classes, decode,
    draws::Draws,
    film,
    latents::MEASURED,
    pictures::Pictures,
    prepared,
    tasks::{self, About, Captions, HeldOutImages, Sample, Task},
};

/// Share of the images that are held out.
pub(crate) const HELD_OUT: f64 = 0.1;
/// How much more of an image is kept than a crop shows, in parts of its side.
const ROOM: f64 = 1.25;
/// Of the threads of this process, one in so many makes samples.
const SHARE_OF_THREADS: usize = 4;

/// See the head of this file.
pub struct Images(Arc<Inner>);

struct Inner {
    task: Box<dyn Task>,
    pictures: Pictures,
    class_names: Vec<String>,
    classes: Vec<u32>,
    train: Vec<usize>,
    held_out: Vec<usize>,
    sampler: Sampler,
    content: Content,
    notes: Vec<String>,
    seed: u64,
    /// Samples of a step.
    batch: u64,
    /// By position: made ahead, or being made.
    ahead: Mutex<HashMap<u64, Option<Sample>>>,
    makers: Option<rayon::ThreadPool>,
}

/// Open the images of a recipe.
/// # Errors
/// When they cannot be read, are too few, or the model cannot learn from them.
pub fn open(recipe: &Recipe) -> Result<Arc<Images>, TrainError> {
    open_within(recipe, Pictures::bound_bytes())
}

/// The same with so many bytes for decoded images.
/// # Errors
/// As [`open`].
pub fn open_within(recipe: &Recipe, bound_bytes: u64) -> Result<Arc<Images>, TrainError> {
    let mut task = tasks::of(recipe)?;
    let pictures = Pictures::read(&recipe.data.path, side(&*task), bound_bytes, |entry| task.wants(entry))?;
    let class_names = pictures.classes();
    let classes: Vec<u32> = pictures.entries.iter().map(|entry| class_names.binary_search(&entry.class).unwrap_or(0) as u32).collect();
    let [train, mut held_out] = split(recipe, &pictures);
    // Spread over all classes, however many are measured.
    held_out.sort_by_key(|i| mix(engine::key(recipe.seed, &pictures.entries[*i].name)));
    held_out.truncate(recipe.eval.windows as usize);
    held_out.sort_unstable();
    if train.len() < recipe.batch.sequences || held_out.is_empty() {
        let problem = format!(
            "`{}` gives {} images to train on and {} to measure on; a batch takes {}, and one has to be held out",
            recipe.data.path.display(),
            train.len(),
            held_out.len(),
            recipe.batch.sequences
        );
        let help = "give more images, or a smaller `batch.sequences`".into();
        return Err(TrainError::Value { key: "data.path", problem, help });
    }
    let captions: Vec<&str> = train.iter().filter_map(|i| pictures.entries[*i].caption.as_deref()).collect();
    let mut notes = pictures.notes.clone();
    notes.append(&mut task.prepare(&class_names, &captions)?);
    notes.push(format!("{} images to train on, {} held out, {}", train.len(), held_out.len(), classes::counted(class_names.len())));
    let tokenizer_blake3 = match task.captions() {
        Some(captions) => hash_of(&captions.tokenizer.files()?),
        None => String::new(),
    };
    let mut hasher = blake3::Hasher::new();
    for ((entry, hash), class) in pictures.entries.iter().zip(&pictures.hashes).zip(&classes) {
        hasher.update(&class.to_le_bytes());
        hasher.update(hash);
        hasher.update(blake3::hash(entry.caption.as_deref().unwrap_or_default().as_bytes()).as_bytes());
    }
    task.frozen().into_iter().for_each(|frozen| {
        hasher.update(frozen.as_bytes());
    });
    let content = Content { tokens_blake3: hasher.finalize().to_hex().to_string(), tokenizer_blake3 };
    let threads = (rayon::current_num_threads() / SHARE_OF_THREADS).max(1);
    notes.append(&mut show(&mut *task, &pictures, &train)?);
    Ok(Arc::new(Images(Arc::new(Inner {
        sampler: Sampler::new(recipe.seed, train.len() as u64),
        task,
        class_names,
        classes,
        train,
        held_out,
        pictures,
        content,
        notes,
        seed: recipe.seed,
        batch: recipe.batch.sequences as u64,
        ahead: Mutex::default(),
        // Where the system gives no more threads, samples are made as they are asked for.
        makers: rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("images {i}")).build().ok(),
    }))))
}

/// Side of what is kept of an image: without crops as it is read, and no more of it.
pub(crate) fn side(task: &dyn Task) -> u32 {
    let room = if task.augment().least_area < 1.0 { ROOM } else { 1.0 };
    (task.size() as f64 * room).round() as u32
}

/// A crop of `whole` that is drawn, of the model's size, mirrored or not.
pub(crate) fn crop(whole: &RgbImage, task: &dyn Task, draws: &mut Draws) -> RgbImage {
    let (side, augment) = (f64::from(whole.width()), task.augment());
    let least = side * augment.least_area.sqrt();
    let crop = (least + draws.uniform() * (side - least)).round().min(side);
    let mut place = || (draws.uniform() * (side - crop)).round() as u32;
    let at = [place(), place()];
    let mut pixels = decode::part(whole, at, crop as u32, task.size() as u32);
    if augment.flip && draws.uniform() < 0.5 {
        imageops::flip_horizontal_in_place(&mut pixels);
    }
    pixels
}

/// What is learnt from and what is held out. Shares are nested: whatever is in the first hundredth is in the first half too.
fn split(recipe: &Recipe, pictures: &Pictures) -> [Vec<usize>; 2] {
    let (all, fraction) = (0..pictures.entries.len(), recipe.data.fraction);
    let name = |i: usize| &pictures.entries[i].name[..];
    if prepared::manifest(&recipe.data.path).is_some() {
        // Split and shuffled when they were prepared.
        let (held_out, mut train): (Vec<usize>, Vec<usize>) = all.partition(|i| name(*i).starts_with(prepared::HELD_OUT));
        train.truncate((train.len() as f64 * fraction).ceil() as usize);
        return [train, held_out];
    }
    let (held_out, mut train): (Vec<usize>, Vec<usize>) = all.partition(|i| is_held_out(recipe.seed, name(*i), HELD_OUT));
    train.retain(|i| is_held_out(mix(recipe.seed), name(*i), fraction));
    [train, held_out]
}

/// Let a task look at some of the pictures that are learnt from.
fn show(task: &mut dyn Task, pictures: &Pictures, train: &[usize]) -> Result<Vec<String>, TrainError> {
    let size = task.size() as u32;
    let whole = |picture: usize| {
        let whole = pictures.pixels(picture)?;
        Ok(decode::part(&whole, [0, 0], whole.width(), size))
    };
    task.look(&mut some(train, MEASURED).into_iter().map(whole))
}

/// So many of `all`, evenly spread.
pub(crate) fn some(all: &[usize], most: usize) -> Vec<usize> {
    let count = all.len().min(most);
    (0..count).map(|i| all[i * all.len() / count]).collect()
}

fn hash_of(files: &TokenizerFiles) -> String {
    let mut hasher = blake3::Hasher::new();
    files.iter().for_each(|(_, bytes)| {
        hasher.update(bytes);
    });
    hasher.finalize().to_hex().to_string()
}

impl Inner {
    /// An image of the model's size, whole or as a crop that is drawn.
    fn pixels(&self, picture: usize, draws: Option<&mut Draws>) -> Result<RgbImage, TrainError> {
        let whole = self.pictures.pixels(picture)?;
        Ok(match draws {
            Some(draws) => crop(&whole, &*self.task, draws),
            None => decode::part(&whole, [0, 0], whole.width(), self.task.size() as u32),
        })
    }

    /// One sample of a picture by the key of its draws; `is_whole` shows all of it.
    fn sample(&self, picture: usize, key: u64, is_whole: bool) -> Result<Sample, TrainError> {
        let mut draws = Draws::new(key);
        let pixels = self.pixels(picture, (!is_whole).then_some(&mut draws))?;
        let caption = self.pictures.entries[picture].caption.as_deref();
        let about = About { class: self.classes[picture], caption, is_measured: is_whole };
        self.task.sample(&pixels, about, &mut draws)
    }

    fn sample_at(&self, position: u64) -> Result<Sample, TrainError> {
        let key = mix(engine::key(self.seed, "images") ^ mix(position));
        self.sample(self.train[self.sampler.at(position) as usize], key, false)
    }

    fn ahead(&self) -> MutexGuard<'_, HashMap<u64, Option<Sample>>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Images {
    /// Begin to make the samples at the same places of the next step.
    fn make_ahead(&self, picks: &[Pick]) {
        let Some(makers) = &self.0.makers else { return };
        // Those that a run went back from, or that another rank took, are asked for no more.
        if self.0.ahead().len() as u64 > 4 * self.0.batch {
            self.0.ahead().clear();
        }
        for pick in picks {
            let position = pick.position + self.0.batch;
            if self.0.ahead().insert(position, None).is_some() {
                continue;
            }
            let inner = Arc::downgrade(&self.0);
            makers.spawn(move || {
                let Some(inner) = inner.upgrade() else { return };
                // Whoever asked in between has taken the place away and makes it himself.
                if inner.ahead().contains_key(&position)
                    && let Ok(sample) = inner.sample_at(position)
                    && let Some(place) = inner.ahead().get_mut(&position)
                {
                    *place = Some(sample);
                }
            });
        }
    }

    /// The names of classes, in the order of their numbers.
    #[must_use]
    pub fn class_names(&self) -> &[String] {
        &self.0.class_names
    }

    /// Pictures that are learnt from, and those that are measured, by their numbers.
    #[must_use]
    pub fn split(&self) -> [&[usize]; 2] {
        [&self.0.train, &self.0.held_out]
    }

    /// The class of a picture.
    #[must_use]
    pub fn class(&self, picture: usize) -> u32 {
        self.0.classes[picture]
    }

    /// What is said of a picture.
    #[must_use]
    pub fn caption(&self, picture: usize) -> Option<&str> {
        self.0.pictures.entries[picture].caption.as_deref()
    }

    /// A picture as a model sees it, whole.
    /// # Errors
    /// When it can no longer be read.
    pub fn picture(&self, picture: usize) -> Result<RgbImage, TrainError> {
        self.0.pixels(picture, None)
    }

    /// What a model reads of pictures, whole.
    /// # Errors
    /// When they can no longer be read.
    pub fn whole(&self, pictures: &[usize]) -> Result<Inputs, TrainError> {
        let key = |picture: usize| mix(engine::key(self.0.seed, "whole") ^ mix(picture as u64));
        let samples = pictures.par_iter().map(|picture| self.0.sample(*picture, key(*picture), true)).collect::<Result<Vec<_>, _>>()?;
        self.0.task.stack(samples)
    }

    /// Let another task look at the same pictures as the feed's own did.
    pub(crate) fn show_to(&self, task: &mut dyn Task) -> Result<(), TrainError> {
        show(task, &self.0.pictures, &self.0.train).map(|_| ())
    }

    /// How captions become tokens, where they do.
    #[must_use]
    pub fn captions(&self) -> Option<&Captions> {
        self.0.task.captions()
    }
}

impl Feed for Images {
    fn picks(&self, positions: Range<u64>) -> Vec<Pick> {
        positions.map(|position| Pick { sample: self.0.sampler.at(position), position }).collect()
    }

    fn inputs(&self, picks: &[Pick]) -> Result<Inputs, TrainError> {
        let ready: Vec<Option<Sample>> = picks.iter().map(|pick| self.0.ahead().remove(&pick.position).flatten()).collect();
        let make = |(pick, ready): (&Pick, Option<Sample>)| ready.map_or_else(|| self.0.sample_at(pick.position), Ok);
        let samples = picks.par_iter().zip(ready).map(make).collect::<Result<Vec<_>, _>>()?;
        self.make_ahead(picks);
        self.0.task.stack(samples)
    }

    fn look(&self, step: u64, trainer: &mut dyn InTraining, folder: &Path) -> Result<Vec<String>, TrainError> {
        if !self.0.task.makes_pictures() {
            return Ok(Vec::new());
        }
        let precision = trainer.precision();
        let Some(mut store) = trainer.weights()? else { return Ok(Vec::new()) };
        let captions = self.split()[1].iter().filter_map(|picture| self.caption(*picture)).collect();
        let held_out = HeldOutImages { feed: self, captions, classes: self.class_names().len() };
        let looked = self.0.task.line(&held_out, trainer.model(), &mut store, precision).and_then(|line| film::keep(folder, step, &line));
        // Nothing is learnt from them: a run goes on without.
        Ok(looked.err().map(|error| format!("there are no pictures of step {step}: {error}")).into_iter().collect())
    }

    fn weight(&self, picks: &[Pick]) -> u64 {
        picks.len() as u64
    }

    fn name(&self, sample: u64) -> Option<String> {
        self.0.train.get(sample as usize).map(|picture| self.0.pictures.entries[*picture].name.clone())
    }

    fn held_out(&self) -> u64 {
        self.0.held_out.len() as u64
    }

    fn held_out_inputs(&self, samples: Range<u64>) -> Result<Inputs, TrainError> {
        let key = |sample: u64| mix(engine::key(self.0.seed, "held out") ^ mix(sample));
        let samples: Vec<u64> = samples.collect();
        let make = |sample: &u64| self.0.sample(self.0.held_out[*sample as usize], key(*sample), true);
        self.0.task.stack(samples.par_iter().map(make).collect::<Result<Vec<_>, _>>()?)
    }

    fn held_out_weight(&self, _sample: u64) -> u64 {
        1
    }

    fn content(&self) -> &Content {
        &self.0.content
    }

    fn tokenizer_files(&self) -> Result<TokenizerFiles, TrainError> {
        let mut files = self.captions().map(|captions| captions.tokenizer.files()).transpose()?.unwrap_or_default();
        files.extend(classes::files(self.class_names()));
        files.extend(self.0.task.files());
        Ok(files)
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.captions().map(|captions| &captions.tokenizer)
    }

    fn notes(&self) -> Vec<String> {
        self.0.notes.clone()
    }

    fn judge(&self, model: &dyn Model, store: &mut dyn ParamStore, precision: Precision) -> Result<Option<HeldOut>, TrainError> {
        self.0.task.judge(self, model, store, precision)
    }

    fn is_judge(&self) -> bool {
        self.0.task.is_judge()
    }
}
