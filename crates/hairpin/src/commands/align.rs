//! Learning from feedback: responses, rankings, what rankers agree on, who is preferred, and the whole loop as a demo.

mod demo;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::Ordering,
};

use ::align::{
    agreement::{self, Statistics},
    judge, originals, preferences, respond,
    rollouts::{Group, Source, prompts_of, source_options},
    rows::{Encoder, Row, tokenizer_blake3},
    scorecard,
    template::Chat,
};
use ::train::{
    TrainError,
    generate::Sampling,
    recipe::Recipe,
    run::{Loaded, load_averaged},
};
use data::Progress;
use report::terminal::table;
use serde_json::json;

#[cfg(feature = "page")]
use crate::SAVES;
use crate::{STOP, print, progress::Follow};

/// Learn from people's, models' or signals' judgements
#[derive(clap::Subcommand)]
#[command(
    after_help = "Example: hairpin align demo\n\nThe loop: `sample` responses, `rank` them, train a recipe with `[objective] kind = \"reward\"`, then one with `kind = \"ppo\"`\n(or \"dpo\", \"grpo\", \"sft\") by `hairpin train`, and `judge` the result against what it began as. docs/align.md walks through it."
)]
pub(crate) enum AlignCommand {
    Sample(SampleArgs),
    Originals(OriginalsArgs),
    Rank(RankArgs),
    Stats(StatsArgs),
    Inspect(InspectArgs),
    Judge(JudgeArgs),
    Demo(demo::DemoArgs),
}

pub(crate) fn run(command: &AlignCommand, json: bool) -> miette::Result<ExitCode> {
    match command {
        AlignCommand::Sample(args) => sample(args, json),
        AlignCommand::Originals(args) => keep(args, json),
        AlignCommand::Rank(args) => rank(args, json),
        AlignCommand::Stats(args) => stats(args, json),
        AlignCommand::Inspect(args) => inspect(args, json),
        AlignCommand::Judge(args) => judged(args, json),
        AlignCommand::Demo(args) => demo::run(args, json),
    }
}

#[derive(clap::Args)]
struct Writing {
    /// A file of prompts: a text a line, or JSON lines with a `prompt`
    #[arg(long)]
    prompts: PathBuf,
    /// Tokens of a response, at most
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Writing {
    fn options(&self, k: usize, log_probs: bool) -> respond::Options {
        let sampling = Sampling { temperature: self.temperature, top_k: 0, top_p: 1.0, seed: self.seed };
        respond::Options { k, tokens: self.tokens, sampling, log_probs }
    }
}

#[derive(clap::Args)]
struct By {
    /// Who judges: a signal (`arithmetic`, `json`, `rust`, `compiles`, `tests=FILE`, `regex=PATTERN`, `length=CHARS`, `lexicon=FILE`,
    /// `command=PROGRAM`), `chat=MODEL@URL` (an endpoint of chat completions, with its key in `HAIRPIN_CHAT_KEY`), or the folder of a reward model
    #[arg(long)]
    by: String,
}

impl By {
    /// The judge, for texts of the tokenizer with this hash.
    fn open(&self, tokenizer_blake3: &str) -> miette::Result<Source> {
        let (name, value) = self.by.split_once('=').unwrap_or((&self.by, ""));
        if name == "chat" {
            return chat(value);
        }
        let mut table = toml::Table::new();
        let mut set = |key: &str, value: toml::Value| table.insert(key.into(), value);
        set("kind", "signal".into());
        match name {
            "arithmetic" | "json" | "rust" | "compiles" => {
                set("name", name.into());
            }
            "regex" => {
                set("name", name.into());
                set("pattern", value.into());
            }
            "length" => {
                set("name", name.into());
                set("chars", value.parse::<i64>().map_or_else(|_| value.into(), Into::into));
            }
            "lexicon" | "tests" => {
                set("name", name.into());
                set("path", value.into());
            }
            "command" => {
                set("name", name.into());
                set("argv", toml::Value::Array(value.split_whitespace().map(Into::into).collect()));
            }
            path => {
                set("kind", "model".into());
                set("path", path.into());
            }
        }
        Ok(Source::open(&source_options(&table)?, tokenizer_blake3)?)
    }
}

#[cfg(feature = "chat")]
fn chat(name: &str) -> miette::Result<Source> {
    Ok(Source::Chat(Box::new(::align::endpoint::Endpoint::open(name)?)))
}

#[cfg(not(feature = "chat"))]
fn chat(_name: &str) -> miette::Result<Source> {
    miette::bail!(code = "align::chat", help = "build it with `--features chat`", "this program is built without endpoints that judge")
}

/// Write responses to prompts, several to each; stopped, the same command goes on
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin align sample runs/base --prompts prompts.jsonl --k 4 --out responses.jsonl")]
pub(crate) struct SampleArgs {
    /// A run's folder, or one checkpoint
    run: PathBuf,
    #[command(flatten)]
    writing: Writing,
    /// Responses to each prompt
    #[arg(long, default_value_t = 4)]
    k: usize,
    /// The file to write, or to go on with
    #[arg(long)]
    out: PathBuf,
}

fn sample(args: &SampleArgs, json: bool) -> miette::Result<ExitCode> {
    write(&args.run, &args.writing.options(args.k.max(1), false), &args.writing.prompts, &args.out, None, json)
}

/// Write the original model's responses ahead of time, with log-probabilities and rewards, for the loops that need them
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin align originals runs/base --prompts prompts.jsonl --by runs/reward --out originals.jsonl\n         hairpin align originals runs/base --prompts prompts.jsonl --by runs/reward --out s3://bucket/originals"
)]
pub(crate) struct OriginalsArgs {
    /// A run's folder, or one checkpoint
    run: PathBuf,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    by: By,
    /// A file of JSON lines (`.jsonl`), or a folder or URL for parts in parquet, to which many workers may write at once; to write, or to go
    /// on with
    #[arg(long)]
    out: PathBuf,
}

fn keep(args: &OriginalsArgs, json: bool) -> miette::Result<ExitCode> {
    let options = args.writing.options(1, true);
    if !store::is_url(&args.out) && args.out.extension().is_some_and(|ext| ext == "jsonl") {
        return write(&args.run, &options, &args.writing.prompts, &args.out, Some(&args.by), json);
    }
    let mut loaded = load(&args.run)?;
    let prompts = prompts(&args.writing.prompts, &loaded)?;
    let judge = args.by.open(&tokenizer_blake3(&loaded.tokenizer_path)?)?;
    let follow = Follow::new();
    follow.stage("parts", prompts.len().div_ceil(originals::PROMPTS) as u64);
    let (each, model) = (counter(&follow), respond::identity(&args.run)?);
    // A reward model is its weights, wherever it lies.
    let by = if let Source::Model(_) = &judge { respond::identity(Path::new(&args.by.by))? } else { args.by.by.clone() };
    let parts = originals::keep(&mut loaded, &model, &prompts, &args.out, options, (Some(&judge), &by), &STOP, each)?;
    follow.end();
    let is_stopped = parts.there < parts.of;
    if json {
        print::json(&json!({"out": args.out, "prompts": prompts.len(), "parts": parts, "is_stopped": is_stopped}))?;
    } else {
        let originals::Parts { written, there, of } = parts;
        print::result(&format!("{there} of {of} parts are in {}, {written} of them written here", args.out.display()));
    }
    Ok(if is_stopped { stopped() } else { ExitCode::SUCCESS })
}

/// Prompts as the model reads them.
fn prompts(path: &Path, loaded: &Loaded) -> miette::Result<Vec<String>> {
    let (prompts, bad) = prompts_of(path, &Chat::of(&loaded.tokenizer()?))?;
    if bad > 0 {
        print::talk(&format!("{bad} lines hold no prompt and are left out"));
    }
    Ok(prompts)
}

fn write(run: &Path, options: &respond::Options, prompts: &Path, out: &Path, by: Option<&By>, json: bool) -> miette::Result<ExitCode> {
    let mut loaded = load(run)?;
    let prompts = self::prompts(prompts, &loaded)?;
    let judge = by.map(|by| by.open(&tokenizer_blake3(&loaded.tokenizer_path)?)).transpose()?;
    let follow = Follow::new();
    follow.stage("responses", prompts.len() as u64);
    let each = counter(&follow);
    let finished = respond::respond(&mut loaded, &respond::identity(run)?, &prompts, out, *options, judge.as_ref(), &STOP, each)?;
    follow.end();
    let all = respond::read(out)?;
    if json {
        print::json(
            &json!({"out": out, "prompts": all.len(), "responses": all.iter().map(|one| one.responses.len()).sum::<usize>(), "is_stopped": !finished}),
        )?;
    } else {
        print::result(&format!("{} prompts have their responses in {}", all.len(), out.display()));
    }
    Ok(if finished { ExitCode::SUCCESS } else { stopped() })
}

/// A model as it is used: with the average of its weights, where its run keeps one.
fn load(run: &Path) -> Result<Loaded, TrainError> {
    Ok(load_averaged(run)?.0)
}

/// Tells how many are done in all.
fn counter(follow: &Follow) -> impl FnMut(usize) + '_ {
    let mut before = 0;
    move |done: usize| {
        follow.advance((done - before) as u64);
        before = done;
    }
}

fn stopped() -> ExitCode {
    print::talk("stopped; nothing finished was lost, and the same command goes on from here");
    ExitCode::from(3)
}

/// Rank responses: by people on a page of this machine, by a signal, or by a reward model
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin align rank responses.jsonl --serve --out preferences.jsonl\n         hairpin align rank responses.jsonl --by arithmetic --run runs/base --out preferences.jsonl"
)]
pub(crate) struct RankArgs {
    /// A file that `hairpin align sample` wrote
    responses: PathBuf,
    /// Who judges, as for `hairpin align judge`
    #[arg(long, required_unless_present = "serve", requires = "run")]
    by: Option<String>,
    /// The run that wrote them, for its tokenizer
    #[arg(long)]
    run: Option<PathBuf>,
    /// People judge, on a page at an address that is printed; Ctrl-C ends it
    #[arg(long, conflicts_with = "by")]
    serve: bool,
    /// Of the page; 0 takes any that is free
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// People who judge each prompt
    #[arg(long, default_value_t = 1)]
    overlap: usize,
    /// How much a judge errs: draws of this scale are added to its numbers, as a Plackett-Luce ranker of that temperature ranks
    #[arg(long, default_value_t = 0.0, requires = "by")]
    noise: f64,
    /// Of these draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The file of preferences to write, or to add this judge's to
    #[arg(long)]
    out: PathBuf,
}

fn rank(args: &RankArgs, json: bool) -> miette::Result<ExitCode> {
    let all = respond::read(&args.responses)?;
    if all.is_empty() {
        let help = "write them with `hairpin align sample`".into();
        return Err(::align::AlignError::TooFew { path: args.responses.clone(), problem: "no response to rank".into(), help }.into());
    }
    let (Some(by), Some(run)) = (&args.by, &args.run) else { return serve(args, all, json) };
    let by = By { by: by.clone() };
    let path = ::train::run::tokenizer_of(run)?;
    let judge = by.open(&tokenizer_blake3(&path)?)?;
    let encoder = Encoder::new(&path, usize::MAX / 2)?;
    let noise = respond::Noise { scale: args.noise, seed: args.seed };
    let follow = Follow::new();
    follow.stage("rankings", all.len() as u64);
    let each = counter(&follow);
    let told = respond::rank(&all, &judge, &by.by, &encoder, noise, &args.out, &STOP, each)?;
    follow.end();
    for (count, why) in [(told.too_long, "are as long as the context"), (told.without_judgement, "got no judgement")] {
        if count > 0 {
            print::talk(&format!("{count} prompts {why} and are left out"));
        }
    }
    if told.is_stopped {
        return Ok(stopped());
    }
    tell_of(&args.out, json)
}

/// What was judged, if anything was.
fn tell_of(out: &Path, json: bool) -> miette::Result<ExitCode> {
    if !out.exists() {
        print::talk("nothing was judged");
        return Ok(ExitCode::SUCCESS);
    }
    tell(&agreement::statistics(&preferences::read(out, &Chat::shown())?.all), out, json)
}

#[cfg(feature = "page")]
fn serve(args: &RankArgs, all: Vec<respond::Responses>, json: bool) -> miette::Result<ExitCode> {
    SAVES.store(true, Ordering::Relaxed);
    let tell_address =
        |address: &str| print::talk(&format!("rank at {address}\nCtrl-C ends; every judgement is in {} by then", args.out.display()));
    ::align::page::serve(all, &args.out, args.port, args.overlap, tell_address, || STOP.load(Ordering::Relaxed))?;
    tell_of(&args.out, json)
}

#[cfg(not(feature = "page"))]
fn serve(_args: &RankArgs, _all: Vec<respond::Responses>, _json: bool) -> miette::Result<ExitCode> {
    miette::bail!(
        code = "align::page",
        help = "build it with `--features page`",
        "this program is built without the page on which people rank"
    )
}

/// What a file of preferences is like: agreement of rankers, ties, what rankings lean on
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin align stats preferences.jsonl")]
pub(crate) struct StatsArgs {
    /// A file of preferences, in any layout that is read
    preferences: PathBuf,
}

fn stats(args: &StatsArgs, json: bool) -> miette::Result<ExitCode> {
    let read = preferences::read(&args.preferences, &Chat::shown())?;
    if read.left_out > 0 {
        print::talk(&format!("{} lines are no rankings and left out:\n{}", read.left_out, read.reasons.join("\n")));
    }
    tell(&agreement::statistics(&read.all), &args.preferences, json)
}

fn tell(found: &Statistics, path: &Path, json: bool) -> miette::Result<ExitCode> {
    if json {
        print::json(&json!({"preferences": path, "statistics": found}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let share = |share: f64| format!("{:.1}%", 100.0 * share);
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3}"));
    let rows = [
        ("rankings", found.rankings.to_string()),
        ("prompts", found.prompts.to_string()),
        ("pairs with a better one", found.pairs.to_string()),
        ("ties", share(found.tie_share)),
        ("the longer is better", share(found.longer_is_better)),
        ("the first is better", share(found.first_is_better)),
        ("duplicates", found.duplicates.to_string()),
        ("prompts that several ranked", found.shared_prompts.to_string()),
        ("Kendall's W", number(found.kendall_w)),
        ("Krippendorff's alpha", number(found.krippendorff_alpha)),
        ("rankers", found.rankers.iter().map(|(name, count)| format!("{name} ({count})")).collect::<Vec<_>>().join(", ")),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    print::result(&format!("{}\n{}", path.display(), table(&["preferences", ""], &rows)));
    Ok(ExitCode::SUCCESS)
}

/// What reward models are worth on rankings of prompts that they held out: accuracy, length, certainty, disagreement
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin align inspect runs/reward runs/reward-2 --preferences preferences.jsonl")]
pub(crate) struct InspectArgs {
    /// Reward models: runs' folders, or checkpoints; of several the mean judges, and their disagreement is told
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// A file of preferences, in any layout that is read
    #[arg(long)]
    preferences: PathBuf,
}

fn inspect(args: &InspectArgs, json: bool) -> miette::Result<ExitCode> {
    let loaded = args.runs.iter().map(|run| Ok(load(run)?)).collect::<miette::Result<Vec<_>>>()?;
    let chat = Chat::of(&loaded[0].tokenizer()?);
    let recipes: Vec<Recipe> = loaded.into_iter().map(|loaded| loaded.recipe).collect();
    let mut all = preferences::read(&args.preferences, &chat)?.all;
    let before = all.len();
    let mut rewards = Vec::new();
    for recipe in &recipes {
        let ratio = recipe.objective.get("held_out_ratio").and_then(|ratio| ratio.as_float()).unwrap_or(0.1);
        all.retain(|one| ::train::feed::is_held_out(recipe.seed, &one.prompt, ratio));
    }
    print::talk(&format!("{} of {before} rankings are of prompts that no model learnt from", all.len()));
    if all.is_empty() {
        miette::bail!(
            code = "align::too_few",
            help = "models to be compared need one `seed` and one `held_out_ratio`",
            "no ranking was held out by all of these models"
        );
    }
    for run in &args.runs {
        let path = ::train::run::tokenizer_of(run)?;
        let encoder = Encoder::new(&path, usize::MAX / 2)?;
        let judge = Source::open(&::align::rollouts::SourceOptions::Model(run.clone()), &tokenizer_blake3(&path)?)?;
        let mut groups = Vec::with_capacity(all.len());
        for one in &all {
            let rows = one.responses.iter().map(|response| encoder.row(&one.prompt, response)).collect::<Result<Option<Vec<Row>>, _>>()?;
            let responses = one.responses.iter().map(String::as_str).collect();
            groups.push(Group { prompt: &one.prompt, responses, rows: rows.unwrap_or_default() });
        }
        rewards.push(judge.order(&groups)?.into_iter().flatten().collect::<Vec<_>>());
    }
    let card = scorecard::scorecard(&rewards, &all);
    if json {
        print::json(&card)?;
        return Ok(ExitCode::SUCCESS);
    }
    let share = |share: f64| format!("{:.1}%", 100.0 * share);
    let maybe = |value: Option<f64>| value.map_or("–".to_owned(), share);
    let mut rows = vec![
        ("pairs", card.pairs.to_string()),
        ("ordered right", share(card.accuracy)),
        ("ordered right by length alone", share(card.length_accuracy)),
        ("where the longer is better", maybe(card.accuracy_if_longer)),
        ("where the shorter is better", maybe(card.accuracy_if_shorter)),
        ("calibration error", share(card.calibration_error)),
    ];
    if card.disagreement.is_some() {
        rows.insert(2, ("each by itself", card.accuracy_of_each.iter().map(|one| share(*one)).collect::<Vec<_>>().join(", ")));
        rows.push(("disagreement", maybe(card.disagreement)));
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let rankers: Vec<Vec<String>> =
        card.by_ranker.iter().map(|(name, of)| vec![name.clone(), of.pairs.to_string(), share(of.accuracy)]).collect();
    let bins: Vec<Vec<String>> =
        card.calibration.iter().map(|bin| vec![bin.pairs.to_string(), share(bin.predicted), share(bin.observed)]).collect();
    print::result(&format!(
        "{}\n{}\n{}",
        table(&["held out", ""], &rows),
        table(&["ranker", "pairs", "ordered right"], &rankers),
        table(&["pairs", "as sure as", "ordered right"], &bins)
    ));
    Ok(ExitCode::SUCCESS)
}

/// Let two models answer the same prompts, and somebody say which answer is better
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin align judge runs/policy runs/base --prompts held-out.jsonl --by arithmetic --out judged\n         hairpin align judge runs/policy s3://bucket/originals --prompts held-out.jsonl --by arithmetic --out judged"
)]
pub(crate) struct JudgeArgs {
    /// The first model: a run's folder, or one checkpoint
    ours: PathBuf,
    /// The second; or its answers, as `hairpin align originals` or `sample` keeps them: a file, or a folder or URL of parts
    theirs: PathBuf,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    by: By,
    /// Answers of each to each prompt
    #[arg(long, default_value_t = 1)]
    k: usize,
    /// Folder for the answers of both
    #[arg(long)]
    out: PathBuf,
}

fn judged(args: &JudgeArgs, json: bool) -> miette::Result<ExitCode> {
    let options = args.writing.options(args.k.max(1), false);
    let is_kept = originals::are_kept(&args.theirs)?;
    let (mut ours, mut theirs) = (load(&args.ours)?, if is_kept { None } else { Some(load(&args.theirs)?) });
    let prompts = prompts(&args.writing.prompts, &ours)?;
    std::fs::create_dir_all(&args.out).map_err(|source| ::align::AlignError::Io { action: "create", path: args.out.clone(), source })?;
    let answers = |loaded: &mut Loaded, run: &Path, name: &str| -> miette::Result<Option<Vec<respond::Responses>>> {
        let path = args.out.join(name);
        let is_finished = respond::respond(loaded, &respond::identity(run)?, &prompts, &path, options, None, &STOP, |_| {})?;
        Ok(if is_finished { Some(respond::read(&path)?) } else { None })
    };
    let Some(our_answers) = answers(&mut ours, &args.ours, "ours.jsonl")? else { return Ok(stopped()) };
    let their_answers = match &mut theirs {
        Some(theirs) => answers(theirs, &args.theirs, "theirs.jsonl")?,
        None => Some(originals::read(&args.theirs)?),
    };
    let Some(their_answers) = their_answers else { return Ok(stopped()) };
    let answered: HashSet<&str> = their_answers.iter().map(|one| one.prompt.as_str()).collect();
    let missing = prompts.iter().filter(|prompt| !answered.contains(prompt.as_str())).count();
    if missing > 0 {
        print::talk(&format!("`{}` holds no answer to {missing} of {} prompts: they are left out", args.theirs.display(), prompts.len()));
    }
    let judge_by = args.by.open(&tokenizer_blake3(&ours.tokenizer_path)?)?;
    let context = ours.recipe.batch.context;
    let encoder = Encoder::new(&ours.tokenizer_path, context)?;
    let row = |prompt: &str, response: &str| -> Result<Row, ::align::AlignError> {
        let problem = format!("a prompt is as long as the context of {context} tokens");
        encoder.row(prompt, response)?.ok_or_else(|| ::align::AlignError::Signal {
            name: "judge".into(),
            problem,
            help: "give shorter prompts".into(),
        })
    };
    let mut verdict = judge::judge(&our_answers, &their_answers, &judge_by, row)?;
    if let Some(theirs) = &mut theirs
        && tokenizer_blake3(&ours.tokenizer_path)? == tokenizer_blake3(&theirs.tokenizer_path)?
    {
        let rows = our_answers.iter().map(|one| row(&one.prompt, &one.responses[0])).collect::<Result<Vec<_>, _>>()?;
        verdict.kl = Some(judge::divergence(&mut ours, theirs, &rows)?);
    }
    if json {
        print::json(&verdict)?
    } else {
        print::result(&of_verdict(&verdict))
    }
    Ok(ExitCode::SUCCESS)
}

fn of_verdict(v: &judge::Verdict) -> String {
    let ([low, high], [least, most]) = (v.margin_interval, v.ratio_interval);
    format!(
        "of {} pairs of answers the first wins {:.1}%, loses {:.1}% and ties {:.1}%: {:.2} wins to a loss ({least:.2} to {most:.2}, 95%; wins less \
         losses {:+.3} to {:+.3}){}\n\
         characters of a response: {:.0} against {:.0}{}",
        v.pairs,
        100.0 * v.win_rate,
        100.0 * v.loss_rate,
        100.0 * v.tie_rate,
        v.ratio,
        low,
        high,
        if v.without_judgement > 0 { format!("; of {} more the judge said nothing", v.without_judgement) } else { String::new() },
        v.chars[0],
        v.chars[1],
        v.kl.map_or(String::new(), |kl| format!("; divergence {kl:.2} nats a response"))
    )
}
