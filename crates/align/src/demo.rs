//! The whole loop on a task with an exact judge, in some minutes: sums that a small model learnt from a corpus of which a part is wrong,
//! so that it is right about as often, and is then taught to be right.
//!
//! ```text
//! corpus of sums, some wrong -> base -> four answers a prompt -> ranked by arithmetic -> reward model -> PPO -> judged against the base
//! ```

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use data::{CleanOptions, CorpusOptions, Dataset, DedupOptions, PrepareOptions, Progress, Rule, TokenizerOptions};
use engine::mix;
use serde::Serialize;
use train::{
    TrainError,
    eval::Evaluator,
    feed::{TextWindows, is_held_out},
    generate::Sampling,
    metrics,
    objective::OfModel,
    recipe::Recipe,
    run::{self, Observer},
};

use crate::{
    AlignError,
    judge::{self, Verdict},
    preferences,
    respond::{self, Options, Responses},
    rollouts::Source,
    rows::Encoder,
    signals::{self, SignalOptions},
};

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Of held-out rankings, by the reward model.
    pub reward_accuracy: f64,
    /// Of the base's own held-out corpus, by the base and by the policy.
    pub bits_per_byte_before: f64,
    pub bits_per_byte_after: f64,
    /// Prompts with an answer of each.
    pub samples: Vec<Sample>,
    /// Of each step of PPO: mean reward and divergence of its rollouts.
    pub curve: Vec<Point>,
    pub folder: PathBuf,
}

/// An answer before and after.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    pub prompt: String,
    pub before: String,
    pub after: String,
}

/// Where training stood.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Point {
    pub step: u64,
    pub reward: f64,
    pub kl: f64,
}

/// Largest number of a sum.
const MOST: u64 = 12;
/// Of the corpus's sums, those that are right.
const RIGHT_PERCENT: u64 = 50;
const SUMS: u64 = 60_000;
/// How a sum is asked for.
const ASKED: [(&str, &str); 4] = [("", " ="), ("what is ", "?"), ("so ", " ="), ("the sum ", " =")];
/// Share of the prompts that neither the reward model nor the policy learns from.
const HELD_OUT: f64 = 0.25;

/// Go round the loop in `out`, or on from where a run of it stopped.
/// # Errors
/// What befell a part of it.
pub fn run(
    out: &Path,
    seed: u64,
    stop: &AtomicBool,
    progress: &dyn Progress,
    observer: &mut dyn Observer,
) -> Result<Option<Outcome>, AlignError> {
    crate::register();
    std::fs::create_dir_all(out).map_err(AlignError::io("create", out))?;
    let corpus = out.join("sums.jsonl");
    let prompts = out.join("prompts.jsonl");
    write_corpus(&corpus, &prompts, seed)?;
    let data = out.join("data");
    data::prepare(&prepare_options(&corpus), &data, progress)?;

    let train = |name: &str, text: String, observer: &mut dyn Observer| -> Result<Option<PathBuf>, AlignError> {
        let folder = out.join(name);
        let recipe = Recipe::parse(&text, name, &[])?;
        observer.phase(&format!("{name}: {} steps", recipe.train.steps));
        let outcome = run::train(&recipe, &folder, true, stop, observer)?;
        Ok((!outcome.is_stopped).then_some(folder))
    };
    let base = format!(
        "name = \"base\"\nseed = {seed}\n[model]\ndepth = 2\n[data]\npath = {data:?}\n[batch]\nsequences = 64\nmicro_batch = 64\ncontext = 32\n\
         [train]\nsteps = 700\n[eval]\nevery_steps = 350\nwindows = 64\n[checkpoint]\nevery_steps = 350\n"
    );
    let Some(base) = train("base", base, observer)? else { return Ok(None) };

    let mut loaded = run::load(&base)?;
    let identity = respond::identity(&base)?;
    let answers = out.join("responses.jsonl");
    let (all, _) = crate::rollouts::prompts_of(&prompts)?;
    let options = Options { k: 8, tokens: 6, sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed }, log_probs: false };
    observer.phase(&format!("responses: {} prompts, {} each", all.len(), options.k));
    if !respond::respond(&mut loaded, &identity, &all, &answers, options, None, stop, |_| {})? {
        return Ok(None);
    }
    let arithmetic = || -> Result<Source, AlignError> { Ok(Source::Signal(signals::open(&SignalOptions::Arithmetic)?)) };
    let ranked = out.join("preferences.jsonl");
    if !ranked.exists() {
        let encoder = Encoder::new(&loaded.tokenizer_path, loaded.recipe.batch.context)?;
        preferences::write(&ranked, &respond::rank(&respond::read(&answers)?, &arithmetic()?, "arithmetic", &encoder)?)?;
    }

    let common = |optim: &str| {
        format!(
            "[model]\n[from]\npath = {base:?}\n[optim]\nkind = \"adamw\"\n{optim}\n[schedule]\nwarmup_steps = 10\n[checkpoint]\nevery_steps = 100\n"
        )
    };
    let optim = common("lr = 1e-3");
    let reward = format!(
        "name = \"reward\"\nseed = {seed}\n{optim}[objective]\nkind = \"reward\"\npreferences = {ranked:?}\nk = 8\nheld_out_ratio = {HELD_OUT}\n[batch]\nsequences = 16\ncontext = 32\n\
         [train]\nsteps = 300\n[eval]\nevery_steps = 100\nwindows = 64\n"
    );
    let Some(reward) = train("reward", reward, observer)? else { return Ok(None) };
    let optim = common("lr = 3e-4\nweight_decay = 0.0");
    let policy = format!(
        "name = \"policy\"\nseed = {seed}\n{optim}[objective]\nkind = \"ppo\"\nprompts = {prompts:?}\nheld_out_ratio = {HELD_OUT}\nresponse_tokens = 6\nrollouts = 128\n\
         inner_epochs = 2\nkl_coef = 0.05\nmissing_end_penalty = 1.0\npretrain_data = {data:?}\npretrain_coef = 0.3\n\
         reward = {{ kind = \"model\", path = {reward:?} }}\n[batch]\nsequences = 64\ncontext = 32\nmicro_batch = 64\n\
         [train]\nsteps = 160\n[eval]\nevery_steps = 40\nwindows = 64\n[guard]\naction = \"off\"\n"
    );
    let Some(policy) = train("policy", policy, observer)? else { return Ok(None) };

    observer.phase("judging: the policy against the base");
    let mut after = run::load(&policy)?;
    let held_out: Vec<String> = all.iter().filter(|prompt| is_held_out(seed, prompt, HELD_OUT)).cloned().collect();
    let judged = Options { k: 4, ..options };
    let answer = |loaded: &mut run::Loaded, folder: &Path, name: &str| -> Result<Vec<Responses>, AlignError> {
        let path = out.join(name);
        respond::respond(loaded, &respond::identity(folder)?, &held_out, &path, judged, None, &AtomicBool::new(false), |_| {})?;
        respond::read(&path)
    };
    let (ours, theirs) = (answer(&mut after, &policy, "after.jsonl")?, answer(&mut loaded, &base, "before.jsonl")?);
    let encoder = Encoder::new(&loaded.tokenizer_path, 32)?;
    let row = |prompt: &str, response: &str| encoder.row(prompt, response)?.ok_or_else(|| TrainError::NotLanguage.into());
    let mut verdict = judge::judge(&ours, &theirs, &arithmetic()?, row)?;
    let rows = ours.iter().map(|one| row(&one.prompt, &one.responses[0])).collect::<Result<Vec<_>, _>>()?;
    verdict.kl = Some(judge::divergence(&mut after, &mut loaded, &rows)?);

    let corpus_loss = |loaded: &mut run::Loaded| -> Result<f64, AlignError> {
        let feed = TextWindows::to_measure(std::sync::Arc::new(Dataset::open(&data)?), 32, 256)?;
        let evaluator = Evaluator::new(&*loaded.model, &OfModel, 8, 32, loaded.precision)?;
        Ok(evaluator.held_out(&*loaded.model, &OfModel, &mut loaded.store, loaded.precision, &feed)?.metric.value)
    };
    let last = |folder: &Path| metrics::read(&folder.join("metrics.jsonl")).0;
    let reward_accuracy = last(&reward).iter().rev().find_map(|line| line.held_out).map_or(f64::NAN, |metric| metric.value);
    let curve = last(&policy)
        .iter()
        .filter_map(|line| Some(Point { step: line.step, reward: *line.figures.get("reward")?, kl: *line.figures.get("kl")? }))
        .collect();
    let spread = ours.len() / 8;
    let samples = ours.iter().zip(&theirs).step_by(spread.max(1)).take(8).map(|(after, before)| Sample {
        prompt: after.prompt.clone(),
        before: before.responses[0].clone(),
        after: after.responses[0].clone(),
    });
    Ok(Some(Outcome {
        samples: samples.collect(),
        reward_accuracy,
        bits_per_byte_before: corpus_loss(&mut loaded)?,
        bits_per_byte_after: corpus_loss(&mut after)?,
        verdict,
        curve,
        folder: out.to_owned(),
    }))
}

fn write_corpus(corpus: &Path, prompts: &Path, seed: u64) -> Result<(), AlignError> {
    if corpus.exists() && prompts.exists() {
        return Ok(());
    }
    let draw = |i: u64, what: u64| mix(mix(seed ^ i) ^ what);
    let line = |i: u64| {
        let (a, b) = (draw(i, 1) % (MOST + 1), draw(i, 2) % (MOST + 1));
        // What is wrong is wrong by a little, as it is where people err.
        let wrong = [1, 2, 10][(draw(i, 3) % 3) as usize];
        let answer = if draw(i, 4) % 100 < RIGHT_PERCENT {
            a + b
        } else if draw(i, 5).is_multiple_of(2) {
            a + b + wrong
        } else {
            (a + b).abs_diff(wrong)
        };
        let (before, after) = ASKED[(draw(i, 6) % ASKED.len() as u64) as usize];
        format!("{{\"text\": \"{before}{a} + {b}{after} {answer}\"}}\n")
    };
    let text: String = (0..SUMS).map(line).collect();
    disk::write(corpus, text).map_err(AlignError::io("write", corpus))?;
    let sums = (0..=MOST).flat_map(|a| (0..=MOST).map(move |b| (a, b)));
    let ask = |(a, b)| ASKED.map(|(before, after)| format!("{{\"prompt\": \"{before}{a} + {b}{after}\"}}\n"));
    let all: String = sums.flat_map(ask).collect();
    disk::write(prompts, all).map_err(AlignError::io("write", prompts))
}

fn prepare_options(corpus: &Path) -> PrepareOptions {
    PrepareOptions {
        corpus: CorpusOptions { paths: vec![corpus.display().to_string()], ..CorpusOptions::default() },
        clean: CleanOptions { min_bytes: 1, off: Rule::ALL.to_vec() },
        // Every sum comes many times.
        dedup: DedupOptions { exact: false, near: false },
        tokenizer: TokenizerOptions::Bytes,
        ..PrepareOptions::default()
    }
}
