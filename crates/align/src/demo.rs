//! The whole loop in some minutes, on a matter of taste. A small model learns the papers of a shop, in which one line of twenty is a
//! customer's question and an answer, as often rude as kind. People who do not quite agree rank what the model answers; a reward model
//! learns their rankings, PPO the reward; and other people, whom no model learnt from, judge the result.
//!
//! ```text
//! papers -> base -> four answers a question -> ranked by six people -> reward model -> PPO -> judged by ten others against the base
//! ```
//! PPO learns some of the papers beside; what they would cost without that, a second policy shows.
//!
//! A quarter of the questions is seen by neither the reward model nor the policy. A person's taste is a number for each of some words,
//! around what most people think of it, and an answer is worth the mean of its words.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use data::{CleanOptions, CorpusOptions, Dataset, DedupOptions, PrepareOptions, Progress, Rule, TokenizerOptions};
use engine::mix;
use serde::Serialize;
use train::{
    TrainError,
    checkpoint::{self, CheckpointError},
    eval::Evaluator,
    feed::{TextWindows, is_held_out},
    generate::Sampling,
    metrics,
    objective::OfModel,
    recipe::Recipe,
    run::{self, Observer},
};

use crate::{
    AlignError, agreement,
    judge::{self, Verdict},
    preferences::{self, Preference},
    respond::{self, Noise, Options, Responses},
    rollouts::Source,
    rows::Encoder,
    signals::{self, SignalOptions},
    template::Chat,
};

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Of the policy's checkpoint whose own held-out reward was the highest.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Of held-out rankings, by the reward model; and by length alone.
    pub reward_accuracy: f64,
    pub length_accuracy: f64,
    /// Of the base's own held-out corpus, by the base, by the policy, and by one that learnt as many steps without pretraining gradients.
    pub bits_per_byte_before: f64,
    pub bits_per_byte_after: f64,
    pub bits_per_byte_without: f64,
    /// Prompts with an answer of each.
    pub samples: Vec<Sample>,
    /// Of each step of PPO: mean reward and divergence of its rollouts.
    pub curve: Vec<Point>,
    /// Of each checkpoint: what it was trained for, and what that was worth.
    pub optimised: Vec<Optimised>,
    pub best_step: u64,
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

/// A checkpoint on the way, judged (arXiv:2210.10760, figure 1).
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Optimised {
    pub step: u64,
    /// Divergence from the base, in nats a response.
    pub kl: f64,
    /// By the reward model, of held-out prompts.
    pub reward: f64,
    /// By the judge.
    pub win_rate: f64,
    pub loss_rate: f64,
}

/// Lines of the papers, and of a hundred of them those that are questions with an answer.
const LINES: u64 = 60_000;
const ASKED_PERCENT: u64 = 5;
/// What is for sale, of what and for whom.
const STUFFS: [&str; 8] = ["iron", "glass", "oak", "wool", "clay", "silk", "paper", "copper"];
const THINGS: [&str; 12] = ["kettle", "lamp", "chair", "rope", "bowl", "brush", "clock", "basket", "mirror", "table", "bell", "box"];
const PEOPLE: [&str; 12] = ["anna", "boris", "clara", "david", "emma", "felix", "grace", "henry", "irene", "jonas", "karin", "louis"];
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
/// How a question is put, and what an answer is made of.
const ASKED: [&str; 5] = ["where is the", "do you have a", "can i see the", "how much is the", "i look for a"];
const BEGIN: [&str; 6] = ["gladly,", "of course,", "well,", "listen,", "ugh,", "right,"];
const MIDDLE: [&str; 6] = ["i will show you", "it is on shelf", "look around", "find it yourself", "who knows", "it costs"];
const END: [&str; 6] = [", my friend", ", dear guest", ", you fool", ", and hurry up", ", thank you", ""];
/// What most people think of a word.
const TASTE: [(&str, f64); 16] = [
    ("gladly", 2.0),
    ("course", 1.4),
    ("well", 0.2),
    ("listen", -1.0),
    ("ugh", -2.0),
    ("right", 0.6),
    ("show", 1.6),
    ("shelf", 0.8),
    ("around", -0.4),
    ("yourself", -1.6),
    ("knows", -1.0),
    ("costs", 0.2),
    ("friend", 1.2),
    ("guest", 1.5),
    ("fool", -2.5),
    ("hurry", -1.2),
];
/// How far a person's taste is from that, as a deviation.
const APART: f64 = 0.8;
/// People who rank, how many of them rank each prompt, and others who judge.
const RANKERS: u64 = 6;
const OVERLAP: u64 = 2;
const JUDGES: u64 = 10;
/// Answers to each prompt, to rank and to judge by.
const ANSWERS: usize = 4;
/// Tokens of an answer, at most; and of a prompt with one.
const TOKENS: usize = 20;
const CONTEXT: usize = 32;
const VOCAB: usize = 512;
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
    let corpus = out.join("papers.jsonl");
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
        "name = \"base\"\nseed = {seed}\n[model]\ndepth = 2\n[data]\npath = {data:?}\n[batch]\nsequences = 64\nmicro_batch = 64\ncontext = {CONTEXT}\n\
         [train]\nsteps = 400\n[eval]\nevery_steps = 200\nwindows = 64\n[checkpoint]\nevery_steps = 200\n"
    );
    let Some(base) = train("base", base, observer)? else { return Ok(None) };

    let mut loaded = run::load(&base)?;
    let answers = out.join("responses.jsonl");
    let (all, _) = crate::rollouts::prompts_of(&prompts, &Chat::shown())?;
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed };
    let options = Options { k: ANSWERS, tokens: TOKENS, sampling, log_probs: false };
    observer.phase(&format!("responses: {} prompts, {ANSWERS} each", all.len()));
    if !respond::respond(&mut loaded, &respond::identity(&base)?, &all, &answers, options, None, stop, |_| {})? {
        return Ok(None);
    }
    let encoder = Encoder::new(&loaded.tokenizer_path, CONTEXT)?;
    let ranked = out.join("preferences.jsonl");
    let rankings = respond::read(&answers)?;
    for person in 0..RANKERS {
        let name = format!("person-{person}");
        let theirs = rankings.iter().enumerate().filter(|(i, _)| (person + RANKERS - *i as u64 % RANKERS) % RANKERS < OVERLAP);
        let theirs: Vec<Responses> = theirs.map(|(_, one)| one.clone()).collect();
        let judge = taste(out, seed, &name, person..person + 1)?;
        if respond::rank(&theirs, &judge, &name, &encoder, Noise::default(), &ranked, stop, |_| {})?.is_stopped {
            return Ok(None);
        }
    }
    let others = taste(out, seed, "judges", RANKERS..RANKERS + JUDGES)?;

    let of_base = |optim: &str, steps: u64| {
        format!(
            "seed = {seed}\n[model]\n[from]\npath = {base:?}\n[optim]\nkind = \"adamw\"\n{optim}\n[schedule]\nwarmup_steps = 10\n\
             [train]\nsteps = {steps}\n[guard]\naction = \"off\"\n"
        )
    };
    let reward = format!(
        "name = \"reward\"\n{}[objective]\nkind = \"reward\"\npreferences = {ranked:?}\nk = {ANSWERS}\nheld_out_ratio = {HELD_OUT}\n\
         [batch]\nsequences = 32\nmicro_batch = 32\ncontext = {CONTEXT}\n[eval]\nevery_steps = 20\nwindows = 256\n[checkpoint]\nevery_steps = 20\n",
        of_base("lr = 1e-3", 80)
    );
    let Some(reward) = train("reward", reward, observer)? else { return Ok(None) };
    let ppo = |name: &str, pretrain: &str, measured: &str| {
        format!(
            "name = \"{name}\"\n{}[objective]\nkind = \"ppo\"\nprompts = {prompts:?}\nheld_out_ratio = {HELD_OUT}\nresponse_tokens = {TOKENS}\n\
             rollouts = 128\ninner_epochs = 2\nkl_coef = 0.3\nmissing_end_penalty = 1.0\n{pretrain}\
             reward = {{ kind = \"model\", path = {reward:?} }}\n[batch]\nsequences = 64\ncontext = {CONTEXT}\nmicro_batch = 64\n\
             [eval]\n{measured}\n[checkpoint]\nevery_steps = 10\nkeep_last = 100\n",
            of_base("lr = 5e-4\nweight_decay = 0.0", 100)
        )
    };
    let pretrain = format!("pretrain_data = {data:?}\npretrain_coef = 0.5\n");
    let Some(policy) = train("policy", ppo("policy", &pretrain, "every_steps = 10\nwindows = 256"), observer)? else { return Ok(None) };
    let without = "policy-without-pretraining";
    let Some(without) = train(without, ppo(without, "", "every_steps = 100\nwindows = 8"), observer)? else { return Ok(None) };

    observer.phase("judging: the policy against the base");
    let held_out: Vec<String> = all.iter().filter(|prompt| is_held_out(seed, prompt, HELD_OUT)).cloned().collect();
    let answer = |loaded: &mut run::Loaded, folder: &Path, name: String| -> Result<Vec<Responses>, AlignError> {
        let path = out.join(name);
        respond::respond(loaded, &respond::identity(folder)?, &held_out, &path, options, None, &AtomicBool::new(false), |_| {})?;
        respond::read(&path)
    };
    let theirs = answer(&mut loaded, &base, "answers-base.jsonl".into())?;
    let row = |prompt: &str, response: &str| encoder.row(prompt, response)?.ok_or_else(|| TrainError::NotLanguage.into());
    let (mut optimised, mut best): (Vec<Optimised>, Option<(f64, PathBuf, Verdict, Vec<Responses>)>) = (Vec::new(), None);
    for (step, path) in checkpoint::list(&policy) {
        let mut after = run::load(&path)?;
        let ours = answer(&mut after, &path, format!("answers-{step}.jsonl"))?;
        let mut verdict = judge::judge(&ours, &theirs, &others, row)?;
        let rows = ours.iter().map(|one| row(&one.prompt, &one.responses[0])).collect::<Result<Vec<_>, _>>()?;
        let kl = judge::divergence(&mut after, &mut loaded, &rows)?;
        verdict.kl = Some(kl);
        let reward = checkpoint::manifest(&path)?.held_out.map_or(f64::NAN, |metric| metric.value);
        optimised.push(Optimised { step, kl, reward, win_rate: verdict.win_rate, loss_rate: verdict.loss_rate });
        // Chosen by what the policy was trained for, not by the judge.
        if best.as_ref().is_none_or(|(most, ..)| reward > *most) {
            best = Some((reward, path, verdict, ours));
        }
    }
    let Some((_, path, verdict, ours)) = best else { return Err(CheckpointError::None { folder: policy }.into()) };
    let mut after = run::load(&path)?;
    let mut without = run::load(&without.join(path.file_name().unwrap_or_default()))?;

    let corpus_loss = |loaded: &mut run::Loaded| -> Result<f64, AlignError> {
        let feed = TextWindows::to_measure(std::sync::Arc::new(Dataset::open(&data)?), CONTEXT, 512)?;
        let evaluator = Evaluator::new(&*loaded.model, &OfModel, 8, CONTEXT, loaded.precision)?;
        Ok(evaluator.held_out(&*loaded.model, &OfModel, &mut loaded.store, loaded.precision, &feed)?.metric.value)
    };
    let lines = |folder: &Path| metrics::read(&folder.join("metrics.jsonl")).0;
    let curve = lines(&policy)
        .iter()
        .filter_map(|line| Some(Point { step: line.step, reward: *line.figures.get("reward")?, kl: *line.figures.get("kl")? }))
        .collect();
    let samples = ours.iter().zip(&theirs).step_by((ours.len() / 8).max(1)).take(8).map(|(after, before)| Sample {
        prompt: after.prompt.clone(),
        before: before.responses[0].clone(),
        after: after.responses[0].clone(),
    });
    let judged: Vec<Preference> =
        preferences::read(&ranked, &Chat::shown())?.all.into_iter().filter(|one| is_held_out(seed, &one.prompt, HELD_OUT)).collect();
    Ok(Some(Outcome {
        samples: samples.collect(),
        reward_accuracy: lines(&reward).iter().rev().find_map(|line| line.held_out).map_or(f64::NAN, |metric| metric.value),
        length_accuracy: agreement::length_accuracy(&judged),
        bits_per_byte_before: corpus_loss(&mut loaded)?,
        bits_per_byte_after: corpus_loss(&mut after)?,
        bits_per_byte_without: corpus_loss(&mut without)?,
        verdict,
        curve,
        optimised,
        best_step: after.step,
    }))
}

/// The papers, and every question.
fn write_corpus(corpus: &Path, prompts: &Path, seed: u64) -> Result<(), AlignError> {
    if corpus.exists() && prompts.exists() {
        return Ok(());
    }
    let line = |i: u64| {
        let of = |what: u64, all: &[&'static str]| all[(mix(mix(seed ^ i) ^ what) % all.len() as u64) as usize];
        let number = |what: u64, most: u64| 1 + mix(mix(seed ^ i) ^ what) % most;
        let (stuff, thing) = (of(1, &STUFFS), of(2, &THINGS));
        if number(3, 100) > ASKED_PERCENT {
            let (person, day) = (of(4, &PEOPLE), of(5, &DAYS));
            return match number(6, 3) {
                1 => format!("{person} paid {} coins for the {stuff} {thing} on {day}", number(7, 90)),
                2 => format!("on {day} {person} sent {} of the {stuff} {thing} to {}", number(7, 40), of(8, &PEOPLE)),
                _ => format!("the {stuff} {thing} of {person} is kept in room {} until {day}", number(7, 60)),
            };
        }
        let middle = of(9, &MIDDLE);
        let rest = if middle.ends_with("shelf") || middle.ends_with("costs") { format!(" {}", number(10, 9)) } else { String::new() };
        format!("{} {stuff} {thing}? {} {middle}{rest}{}", of(11, &ASKED), of(12, &BEGIN), of(13, &END))
    };
    let text: String = (0..LINES).map(|i| format!("{{\"text\": \"{}\"}}\n", line(i))).collect();
    disk::write(corpus, text).map_err(AlignError::io("write", corpus))?;
    let things = STUFFS.iter().flat_map(|stuff| THINGS.iter().map(move |thing| (stuff, thing)));
    let ask = |(stuff, thing)| ASKED.map(|asked| format!("{{\"prompt\": \"{asked} {stuff} {thing}?\"}}\n"));
    let all: String = things.flat_map(ask).collect();
    disk::write(prompts, all).map_err(AlignError::io("write", prompts))
}

/// The mean taste of some people, written down as a lexicon.
fn taste(out: &Path, seed: u64, name: &str, people: std::ops::Range<u64>) -> Result<Source, AlignError> {
    let count = people.end - people.start;
    let opinion = |word: &str, person: u64| {
        // Twelve uniform draws sum up to nearly a normal one, of deviation 1 around 6.
        let key = mix(engine::key(seed, word) ^ mix(person));
        (1..=12).map(|i| mix(key ^ i) as f64 / u64::MAX as f64).sum::<f64>() - 6.0
    };
    let line = |(word, most): (&str, f64)| {
        let apart = people.clone().map(|person| APART * opinion(word, person)).sum::<f64>() / count as f64;
        format!("{word}\t{:.3}\n", most + apart)
    };
    let path = out.join(format!("{name}.tsv"));
    disk::write(&path, TASTE.map(line).concat()).map_err(AlignError::io("write", &path))?;
    Ok(Source::Signal(signals::open(&SignalOptions::Lexicon { path })?))
}

fn prepare_options(corpus: &Path) -> PrepareOptions {
    PrepareOptions {
        corpus: CorpusOptions { paths: vec![corpus.display().to_string()], ..CorpusOptions::default() },
        clean: CleanOptions { min_bytes: 1, off: Rule::ALL.to_vec() },
        // Lines of papers are alike.
        dedup: DedupOptions { exact: false, near: false },
        tokenizer: TokenizerOptions::Train { vocab: VOCAB, sample_bytes: 1 << 20 },
        ..PrepareOptions::default()
    }
}
