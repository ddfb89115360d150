//! What becomes of launched jobs: jobs, logs, stop, resume, cost, compare.

use std::{
    io::{IsTerminal, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::atomic::Ordering,
    time::Duration,
};

use ::launch::{
    LaunchError,
    places::{self, Logs, PLACES},
    progress::{self as steps, Progress},
    record::{Record, State},
    store::{Order, Store},
};
use ::train::{clock::unix_secs, metrics, recipe::Recipe};
use miette::IntoDiagnostic;
use report::{
    Answer, Axis, Chart, Series, Table,
    terminal::{count, secs, table, usd},
};
use serde_json::json;

use super::{
    kept::StoreArgs,
    launch::{list, until_told, wake, wake_if_needed},
};
use crate::{STOP, print};

/// All launched jobs: state, step, loss, rate, time left and dollars so far
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin jobs\n         hairpin jobs --watch")]
pub(crate) struct JobsArgs {
    /// Show anew until all have ended; Ctrl-C leaves them running
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Between two looks at the store.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) fn jobs(args: &JobsArgs, json: bool) -> miette::Result<ExitCode> {
    let store = args.store.open()?;
    let records = list(&store)?;
    wake_if_needed(&store, &records)?;
    if json {
        print::json(&records.iter().map(Told::of).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    if records.is_empty() {
        print::talk("no job was launched from here; `hairpin launch RECIPE` does");
        return Ok(ExitCode::SUCCESS);
    }
    let mut shown = jobs_table(&records);
    print::result(&shown);
    if args.watch {
        until_told();
        let is_terminal = std::io::stdout().is_terminal();
        loop {
            let records = list(&store)?;
            let now = jobs_table(&records);
            if now != shown {
                if is_terminal {
                    print::instead(&shown, &now)
                } else {
                    print::result(&now)
                }
                shown = now;
            }
            if records.iter().all(|record| record.state.is_ended()) {
                break;
            }
            if STOP.load(Ordering::Relaxed) {
                print::talk("the jobs go on");
                break;
            }
            std::thread::sleep(LOOK);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A job as it is shown.
#[derive(serde::Serialize)]
struct Told<'a> {
    name: &'a str,
    place: &'a str,
    state: State,
    step: u64,
    steps: u64,
    loss: Option<f64>,
    tokens_per_sec: Option<f64>,
    left_secs: Option<f64>,
    held_secs: f64,
    usd: f64,
    quoted_usd: Option<f64>,
    launched_unix: f64,
    attempts: &'a [launch::record::Attempt],
    note: Option<&'a str>,
}

impl<'a> Told<'a> {
    fn of(record: &'a Record) -> Self {
        let now = unix_secs();
        let Progress { step, loss, tokens_per_sec } = progress_of(record).unwrap_or_default();
        let left_tokens = record.quoted.steps.saturating_sub(step) * record.quoted.step_tokens;
        let is_running = record.state == State::Running;
        Self {
            name: &record.job.name,
            place: &record.job.machines.place,
            state: record.state,
            step,
            steps: record.quoted.steps,
            loss,
            tokens_per_sec,
            left_secs: tokens_per_sec.filter(|rate| is_running && *rate > 0.0).map(|rate| left_tokens as f64 / rate),
            held_secs: record.held_secs(now),
            usd: record.usd(now),
            quoted_usd: record.quoted.usd,
            launched_unix: record.launched_unix,
            attempts: &record.attempts,
            note: record.note.as_deref(),
        }
    }
}

fn shares_files(record: &Record) -> bool {
    PLACES.find(&record.job.machines.place).is_some_and(|place| place.shares_files)
}

fn progress_of(record: &Record) -> Option<Progress> {
    if shares_files(record) { steps::of_folder(&record.job.run_folder()) } else { record.progress.clone() }
}

fn jobs_table(records: &[Record]) -> String {
    let dash = || "–".to_owned();
    let row = |record: &Record| {
        let told = Told::of(record);
        vec![
            told.name.to_owned(),
            told.place.to_owned(),
            told.state.name().to_owned(),
            if told.step == 0 { dash() } else { format!("{} of {}", told.step, told.steps) },
            told.loss.map_or_else(dash, |loss| format!("{loss:.3}")),
            told.tokens_per_sec.map_or_else(dash, |rate| count(rate as u64)),
            told.left_secs.map_or_else(dash, secs),
            if told.held_secs > 0.0 { secs(told.held_secs) } else { dash() },
            if record.job.machines.usd_per_hour.is_some() { usd(told.usd) } else { dash() },
            told.note.unwrap_or_default().chars().take(80).collect(),
        ]
    };
    let rows: Vec<Vec<String>> = records.iter().map(row).collect();
    table(&["job", "place", "state", "step", "loss", "tokens/s", "left", "time", "dollars", ""], &rows)
}

/// What a job says; `-f` goes on until it has ended
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin logs small-1a2b3c4d -f")]
pub(crate) struct LogsArgs {
    /// The job
    name: String,
    /// Go on as it says more; Ctrl-C leaves it running
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn logs(args: &LogsArgs) -> miette::Result<ExitCode> {
    let store = args.store.open()?;
    let record = store.find(&args.name)?;
    wake_if_needed(&store, std::slice::from_ref(&record))?;
    let launcher = places::launcher(&record.job.machines.place);
    let logs = launcher.zip(record.attempts.last()).map(|(launcher, attempt)| launcher.logs(&record.job, attempt));
    until_told();
    match logs {
        Some(Logs::Commands { once, follow }) => {
            let argv = if args.follow { follow } else { once };
            let status = Command::new(&argv[0]).args(&argv[1..]).status();
            let status = status.map_err(|_| LaunchError::Client {
                program: argv[0].clone(),
                place: "its log",
                help: "install it, or look at the place itself".into(),
            })?;
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::from(3) });
        }
        Some(Logs::File(path)) => follow_file(&store, &record, &path, args.follow)?,
        None => follow_file(&store, &record, &record.job.log(), args.follow)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn follow_file(store: &Store, record: &Record, path: &Path, follow: bool) -> miette::Result<()> {
    let mut at = 0;
    loop {
        let has_ended = store.find(&record.job.name)?.state.is_ended();
        if let Ok(mut file) = disk::open(path) {
            let mut text = Vec::new();
            file.seek(SeekFrom::Start(at)).and_then(|_| file.read_to_end(&mut text)).into_diagnostic()?;
            // Up to the last whole line, so that no character is cut.
            let whole = if has_ended || !follow { text.len() } else { text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1) };
            at += whole as u64;
            if whole > 0 {
                print::piece(&String::from_utf8_lossy(&text[..whole]));
            }
        }
        if !follow || has_ended {
            return Ok(());
        }
        if STOP.load(Ordering::Relaxed) {
            print::talk(&format!("{} goes on; `hairpin stop {}` stops it", record.job.name, record.job.name));
            return Ok(());
        }
        std::thread::sleep(LOOK / 2);
    }
}

/// Stop jobs: what they have done is saved, and `resume` goes on from there
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin stop small-1a2b3c4d\n         hairpin stop --all")]
pub(crate) struct StopArgs {
    /// Jobs
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All that have not ended
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// At once, without saving: what was done since the last checkpoint is lost
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn stop(args: &StopArgs, json: bool) -> miette::Result<ExitCode> {
    let store = args.store.open()?;
    let names = named(&store, &args.names, args.all, &|record| !record.state.is_ended())?;
    store.order(&Order::Stop { names: names.clone(), kill: args.now })?;
    wake(&store)?;
    tell(&names, "stopping", json)
}

/// Go on with jobs that were stopped or have failed, from their checkpoints
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin resume small-1a2b3c4d\n         hairpin resume --all")]
pub(crate) struct ResumeArgs {
    /// Jobs
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All that were stopped or have failed
    #[arg(long, conflicts_with = "names")]
    all: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn resume(args: &ResumeArgs, json: bool) -> miette::Result<ExitCode> {
    let store = args.store.open()?;
    let names = named(&store, &args.names, args.all, &|record| matches!(record.state, State::Stopped | State::Failed))?;
    store.order(&Order::Resume { names: names.clone() })?;
    wake(&store)?;
    tell(&names, "going on", json)
}

/// Jobs by name, or all of which `is_meant`.
fn named(store: &Store, names: &[String], all: bool, is_meant: &dyn Fn(&Record) -> bool) -> miette::Result<Vec<String>> {
    if all {
        return Ok(list(store)?.into_iter().filter(|record| is_meant(record)).map(|record| record.job.name).collect());
    }
    for name in names {
        let record = store.find(name)?;
        if !is_meant(&record) {
            print::talk(&format!("{name} is {}: there is nothing to do", record.state.name()));
        }
    }
    Ok(names.to_vec())
}

fn tell(names: &[String], what: &str, json: bool) -> miette::Result<ExitCode> {
    if json {
        print::json(&json!({"jobs": names}))?;
    } else {
        names.iter().for_each(|name| print::result(&format!("{what}: {name}")));
    }
    Ok(ExitCode::SUCCESS)
}

/// What jobs have cost so far, beside what was quoted
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin cost")]
pub(crate) struct CostArgs {
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn cost(args: &CostArgs, json: bool) -> miette::Result<ExitCode> {
    let records = list(&args.store.open()?)?;
    let told: Vec<Told> = records.iter().map(Told::of).collect();
    let sum: f64 = 0.0 + told.iter().map(|told| told.usd).sum::<f64>();
    if json {
        let jobs: Vec<_> =
            told.iter().map(|t| json!({"name": t.name, "held_secs": t.held_secs, "usd": t.usd, "quoted_usd": t.quoted_usd})).collect();
        print::json(&json!({"usd": sum, "jobs": jobs}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let dollars = |value: Option<f64>| value.map_or("–".to_owned(), usd);
    let mut rows: Vec<Vec<String>> = records
        .iter()
        .zip(&told)
        .map(|(record, told)| {
            let machines = &record.job.machines;
            let on = machines.instance.clone().unwrap_or_else(|| machines.place.clone());
            let price = machines.usd_per_hour;
            vec![
                told.name.into(),
                format!("{} x {on}", machines.count),
                dollars(price),
                secs(told.held_secs),
                dollars(price.map(|_| told.usd)),
                dollars(told.quoted_usd),
            ]
        })
        .collect();
    rows.push(vec!["all".into(), String::new(), String::new(), secs(told.iter().map(|t| t.held_secs).sum()), usd(sum), String::new()]);
    print::result(&table(&["job", "machines", "an hour", "time", "so far", "quoted"], &rows));
    print::talk("from machine hours at the price of the quote; the bill is the place's");
    Ok(ExitCode::SUCCESS)
}

/// Jobs side by side: a table, and one page with all their curves
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin compare\n         hairpin compare small-1a2b3c4d small-5e6f7a8b --page compare.html")]
pub(crate) struct CompareArgs {
    /// Jobs; default: all
    names: Vec<String>,
    /// The page; default: compare.html in the store
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Points of a curve on the page.
const POINTS: usize = 400;

pub(crate) fn compare(args: &CompareArgs, json: bool) -> miette::Result<ExitCode> {
    let store = args.store.open()?;
    let mut records =
        if args.names.is_empty() { list(&store)? } else { args.names.iter().map(|name| store.find(name)).collect::<Result<_, _>>()? };
    let curves: Vec<Curve> = records.iter().map(Curve::of).collect();
    // The best first; what has no held-out loss last.
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by(|a, b| curves[*a].rank().total_cmp(&curves[*b].rank()));
    let curves: Vec<&Curve> = order.iter().map(|i| &curves[*i]).collect();
    records = order.iter().map(|i| records[*i].clone()).collect();
    let page = args.page.clone().unwrap_or_else(|| store.folder().join("compare.html"));
    let answer = comparison(&records, &curves);
    answer.write(&page)?;
    if json {
        let told = |(record, curve): (&Record, &&Curve)| json!({"name": record.job.name, "state": record.state, "step": curve.step, "loss": curve.loss, "held_out": curve.held_out.map(|m| m.value), "differs": curve.differs, "secs": record.held_secs(unix_secs()), "usd": record.usd(unix_secs())});
        print::json(&json!({"jobs": records.iter().zip(&curves).map(told).collect::<Vec<_>>(), "page": page}))?;
    } else {
        print::result(&answer.text());
        print::result(&format!("page: {}", page.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a job has learnt, and by what it differs from the others.
#[derive(Default)]
struct Curve {
    points: Vec<(f64, f64)>,
    held_out_points: Vec<(f64, f64)>,
    step: u64,
    loss: Option<f64>,
    held_out: Option<::train::metric::Metric>,
    differs: String,
}

impl Curve {
    fn of(record: &Record) -> Self {
        let (lines, _) =
            if shares_files(record) { metrics::read(&record.job.run_folder().join("metrics.jsonl")) } else { Default::default() };
        let every = lines.len().div_ceil(POINTS).max(1);
        let all: Vec<(f64, f64)> = lines.iter().map(|line| (line.step as f64, f64::from(line.loss))).collect();
        // Of each stretch the mean, so that no step is left out.
        let mean = |part: &[(f64, f64)]| (part[part.len() - 1].0, part.iter().map(|p| p.1).sum::<f64>() / part.len() as f64);
        let last = progress_of(record).unwrap_or_default();
        Self {
            points: all.chunks(every).map(mean).collect(),
            held_out_points: lines.iter().filter_map(|line| Some((line.step as f64, line.held_out?.value))).collect(),
            step: last.step,
            loss: last.loss,
            held_out: lines.iter().rev().find_map(|line| line.held_out),
            differs: differs(record),
        }
    }

    fn rank(&self) -> f64 {
        self.held_out.map(|m| m.value).or(self.loss.map(|loss| 1e6 + loss)).unwrap_or(f64::INFINITY)
    }
}

/// The keys that people turn, of a job's recipe.
fn differs(record: &Record) -> String {
    let text = record.job.files.get("recipe.toml").map(String::as_str).unwrap_or_default();
    let recipe = Recipe::parse(text, &record.job.name, &[]).ok();
    recipe.map_or(String::new(), |r| {
        format!("seed {}, lr {}, {} steps of {} sequences", r.seed, r.optim.lr, r.train.steps, r.batch.sequences)
    })
}

fn comparison(records: &[Record], curves: &[&Curve]) -> Answer {
    let now = unix_secs();
    let dash = || "–".to_owned();
    let row = |(record, curve): (&Record, &&Curve)| {
        vec![
            record.job.name.clone(),
            curve.differs.clone(),
            record.state.name().into(),
            curve.step.to_string(),
            curve.loss.map_or_else(dash, |loss| format!("{loss:.4}")),
            curve.held_out.map_or_else(dash, |metric| format!("{:.4} {}", metric.value, metric.kind.unit)),
            secs(record.held_secs(now)),
            record.job.machines.usd_per_hour.map_or_else(dash, |_| usd(record.usd(now))),
        ]
    };
    let chart = |label: &str, of: &dyn Fn(&Curve) -> Vec<(f64, f64)>| {
        let series = records.iter().zip(curves).map(|(record, curve)| Series {
            name: record.job.name.clone(),
            points: of(curve),
            is_faint: curves.len() > 8,
        });
        Chart {
            x: Axis::straight("step"),
            y: Axis::straight(label),
            series: series.filter(|s| s.points.len() > 1).collect(),
            ..Chart::default()
        }
    };
    let charts = [
        ("Training loss", chart("loss", &|curve| curve.points.clone())),
        ("Held out", chart("held out", &|curve| curve.held_out_points.clone())),
    ];
    let best = curves.first().and_then(|curve| curve.held_out).zip(records.first());
    Answer {
        title: format!("{} jobs", records.len()),
        figures: best.map(|(metric, record)| vec![("best", record.job.name.clone()), ("held out", metric.to_string())]).unwrap_or_default(),
        charts: charts.into_iter().filter(|(_, chart)| !chart.series.is_empty()).collect(),
        tables: vec![Table {
            title: "The best first",
            head: vec!["job", "what", "state", "step", "loss", "held out", "time", "dollars"],
            rows: records.iter().zip(curves).map(row).collect(),
        }],
        ..Answer::default()
    }
}
