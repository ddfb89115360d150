//! What a ladder stands on: prepared text, or images as they lie. It says what phases learn from, what a naive model of that reaches, and
//! shows what a phase came to.

use std::{path::Path, sync::Arc};

use data::{Content, Dataset, Ngram, Progress};
use train::{
    TrainError,
    eval::{HeldOut, SampleLoss},
    feed::{Feed, TextWindows, held_out_windows},
    generate::{Request, Sampling, Writer},
    metric::BITS_PER_BYTE,
    objective,
    recipe::Recipe,
    run::{self, Loaded, Observer},
};

use crate::{
    PlanError,
    ladder::phase_law::{self as law, Point, Size},
    ladder::project::Project,
};

/// Tokens from which the n-gram baseline counts, at most.
const BASELINE_TOKENS: u64 = 4 << 20;

/// See the head of this file.
pub(crate) enum Ground {
    Text(Arc<Dataset>),
    Images,
}

impl Ground {
    /// What is there.
    pub fn open(project: &Project, folder: &Path) -> Result<Self, PlanError> {
        if project.is_of_images() { Ok(Self::Images) } else { Ok(Self::Text(Arc::new(Dataset::open(&folder.join("data"))?))) }
    }

    /// The same, prepared where it has to be.
    pub fn prepare(project: &Project, folder: &Path, progress: &dyn Progress, observer: &mut dyn Observer) -> Result<Self, PlanError> {
        if !project.is_of_images() {
            let stats = data::prepare(&project.data, &folder.join("data"), progress)?;
            if stats.is_reused {
                observer.note("the data was prepared before from the same text and options, and is used again");
            }
        }
        Self::open(project, folder)
    }

    pub fn vocab(&self) -> Option<usize> {
        match self {
            Self::Text(data) => Some(data.vocab()),
            Self::Images => None,
        }
    }

    /// What the data are, where that is known before a feed is opened; of images the run itself sees to it.
    pub fn content(&self) -> Option<&Content> {
        match self {
            Self::Text(data) => Some(data.content()),
            Self::Images => None,
        }
    }

    /// Tokens of the corpus that can be learnt from; of images nobody has counted them yet.
    pub fn tokens(&self) -> f64 {
        match self {
            Self::Text(data) => data.train().tokens() as f64,
            Self::Images => f64::INFINITY,
        }
    }

    /// What earlier phases lead to expect. Its form is that of bits of text, and nobody has held it against images.
    pub fn predict(&self, points: &[Point], size: Size) -> Option<law::Prediction> {
        match self {
            Self::Text(_) => law::predict(points, size),
            Self::Images => None,
        }
    }

    pub fn feed(&self, recipe: &Recipe) -> Result<Arc<dyn Feed>, TrainError> {
        match self {
            Self::Text(_) if is_of_feedback(recipe) => objective::feed(recipe),
            Self::Text(data) => Ok(Arc::new(TextWindows::of(data.clone(), recipe)?)),
            Self::Images => objective::feed(recipe),
        }
    }

    /// What a naive model reaches on the held-out samples of `recipe`, and whose that is: of text a trigram that saw as many tokens of the
    /// phase's share as the model was trained on.
    pub fn baseline(&self, recipe: &Recipe) -> Result<(HeldOut, &'static str), PlanError> {
        let Self::Text(data) = self else { return Ok(vision::naive::baseline(recipe)?) };
        if is_of_feedback(recipe) {
            return Ok(align::naive::baseline(recipe, &*objective::feed(recipe)?)?);
        }
        let train = data.train();
        let share = (train.tokens() as f64 * recipe.data.fraction) as u64;
        let share = share.min(recipe.train.steps * recipe.step_tokens());
        let read = train.read(0, share.min(BASELINE_TOKENS) as usize)?;
        let ngram = Ngram::train(&read, data.vocab());
        let windows = held_out_windows(data, recipe.batch.context, recipe.eval.windows);
        let loss = |window: &Vec<u32>| SampleLoss { loss: ngram.window_bits(window), weight: data.target_bytes(window) };
        Ok((HeldOut::of(&BITS_PER_BYTE, windows?.iter().map(loss).collect()), "of a trigram"))
    }

    /// What a model shows before it is trained: one that begins with another's weights shows what they do.
    pub fn sample_untrained(&self, recipe: &Recipe, model: Box<dyn models::Model>) -> Result<String, PlanError> {
        let Self::Text(data) = self else { return Ok(String::new()) };
        if let Some(from) = &recipe.from {
            return written(data, &mut run::load(&from.path)?);
        }
        let store = parallel::Replicated::solo(model.params(), |id| model.params().initial(id, recipe.seed));
        let precision = recipe.train.precision.resolve();
        let (objective, tokenizer_path) = (objective::of(recipe), data.tokenizer_path());
        let recipe = recipe.clone();
        let mut loaded = Loaded { model, objective, recipe, store, precision, step: 0, tokenizer_path, passed_over: Vec::new() };
        written(data, &mut loaded)
    }

    /// What a model shows: of text what it writes, of images what its features, captions or drawings are worth.
    pub fn sample(&self, loaded: &mut Loaded, folder: &Path) -> Result<String, PlanError> {
        match self {
            Self::Text(data) => written(data, loaded),
            Self::Images => {
                let options = vision::judge::Options { drawings: 64, steps: 25, ..vision::judge::Options::default() };
                let found = vision::judge::judge(folder, &options)?;
                Ok(found.figures.iter().map(|(name, value)| format!("{name:>22}  {value:.4}\n")).collect())
            }
        }
    }
}

/// Whether a phase of text learns from something else than the text itself.
pub(crate) fn is_of_feedback(recipe: &Recipe) -> bool {
    objective::name(recipe) != "next_token"
}

/// What the model writes after the beginning of a held-out document.
fn written(data: &Dataset, loaded: &mut Loaded) -> Result<String, PlanError> {
    let language = loaded.model.language().ok_or(TrainError::NotLanguage)?;
    if !language.head().has_tokens() {
        // A reward model writes nothing.
        return Ok(String::new());
    }
    let held_out = data.held_out();
    let prompt = held_out.read(0, 24.min(held_out.tokens() as usize).min(language.context() / 2).max(1))?;
    let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
    let count = 96.min(language.context() - prompt.len());
    let request = Request { prompt, count, stops: data.tokenizer().ends().stops.clone(), sampling };
    let (table, store, precision) = (loaded.model.params(), &mut loaded.store, loaded.precision);
    let drawn = Writer { language, table, store, precision }.write_one(&request, |_| {})?;
    let tokens: Vec<u32> = request.prompt.into_iter().chain(drawn.iter().map(|d| d.token)).collect();
    Ok(data.tokenizer().decode(&tokens))
}
