//! `hairpin launch`: quote, confirm, hand over to the queue, return. And what runs behind it: the queue and the jobs' own process.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::atomic::Ordering,
    time::Duration,
};

use ::launch::{
    LaunchError,
    ask::{self, Ask},
    batch,
    outside::Request,
    places,
    queue::Queue,
    quote::Quote,
    record::Record,
    store::{Order, Store},
    sweep, wake, work,
};
use ::train::clock::{Clock, unix_secs};
use miette::IntoDiagnostic;
use plan::catalogue::Catalogue;
use report::terminal::{bytes, secs, usd};
use serde_json::json;

use super::kept::StoreArgs;
use crate::{SAVES, STOP, print, progress};

/// Launch recipes as jobs: in the background here, on hosts, Slurm, SageMaker or Kubernetes; quoted first, then on their own
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin launch recipes/small.toml --sweep optim.lr=1e-3,3e-3 --sweep seed=1..4 --at-once 2\n         hairpin launch a.toml b.toml c.toml --on slurm:8 --at-once 2\n         hairpin launch recipes/llm-30b.toml --on sagemaker:ml.p4d.24xlarge:16 --dry-run --json\n\nThe same command twice launches once. Jobs go on when the terminal closes: see `hairpin jobs --watch`. What a place has to be told\n(role, image, bucket, partition, claims, ...) stands in places.toml; docs/launch.md goes from nothing to a first job at each place."
)]
pub(crate) struct LaunchArgs {
    /// Recipes, one job each
    #[arg(required = true)]
    recipes: Vec<PathBuf>,
    /// Where: `local`, `hosts:a,b`, `slurm:8`, `sagemaker:ml.p4d.24xlarge:16`, `kubernetes:4`; an instance also prices a cluster of your own: `slurm:p4d.24xlarge:8`
    #[arg(long, value_name = "PLACE", default_value = "local")]
    on: String,
    /// Change one key of every recipe, e.g. `optim.lr=3e-4`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A job for each value, e.g. `optim.lr=1e-3,3e-3` or `seed=1..4`; several sweeps are multiplied
    #[arg(long, value_name = "KEY=VALUES")]
    sweep: Vec<String>,
    /// What it is called; default: after the recipe and what is in it
    #[arg(long)]
    name: Option<String>,
    /// Where prepared data is: a folder, an `s3://` URL, a folder in a claim; default: where the recipe says
    #[arg(long, value_name = "PATH")]
    data: Option<String>,
    /// Folder or URL under which each job has its checkpoints, by its name; default: the job's own folder, or where the place is told
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Most jobs at a time; default: 1 on this machine, and elsewhere as many as the place takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    at_once: Option<u32>,
    /// Higher goes first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i64,
    /// Most US dollars of these jobs together: refused before, stopped and saved during
    #[arg(long, value_name = "USD")]
    max_usd: Option<f64>,
    /// Change one option of the place, e.g. `spot=true`
    #[arg(long, value_name = "KEY=VALUE")]
    place: Vec<String>,
    /// File of the places' options; default: `places.toml`, where there is one
    #[arg(long, value_name = "FILE")]
    places: Option<PathBuf>,
    /// A TOML file of your own instances and prices, in the form of crates/plan/src/catalogue
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    /// Launch without asking, whatever it costs
    #[arg(long)]
    yes: bool,
    /// Show the quote and exactly what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn run(args: &LaunchArgs, json: bool) -> miette::Result<ExitCode> {
    let sweeps = args.sweep.iter().map(|text| sweep::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let ask = Ask {
        recipes: args.recipes.iter().map(|path| text(path)).collect::<Result<_, _>>()?,
        sets: args.set.clone(),
        sweeps,
        on: args.on.clone(),
        name: args.name.clone(),
        data: args.data.clone(),
        at_once: args.at_once.map(|n| n as usize),
        max_usd: args.max_usd,
        priority: args.priority,
        places: args.places.clone(),
        place_sets: args.place.clone(),
        out: None,
        runs: args.out.clone(),
    };
    let store = Store::at(&args.store.store)?;
    let (records, quote) = ask::jobs(&ask, &store, &Catalogue::load(args.catalogue.as_deref())?)?;
    if args.dry_run {
        return show(&records, &quote, json);
    }
    if !json {
        print::result(&quote_text(&records, &quote));
    }
    let launched = send(&store, records, &quote, args.yes)?;
    let names: Vec<&str> = launched.iter().map(|(record, _)| record.job.name.as_str()).collect();
    if json {
        let jobs: Vec<_> =
            launched.iter().map(|(record, is_new)| json!({"name": record.job.name, "state": record.state, "is_new": is_new})).collect();
        print::json(&json!({"quote": quote, "jobs": jobs}))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (record, is_new) in &launched {
        let was = if *is_new { String::new() } else { format!(": was launched before, and is {}", record.state.name()) };
        print::result(&format!("{}{was}", record.job.name));
    }
    print::talk(&format!(
        "launched; they go on by themselves\nsee them: hairpin jobs --watch{}\n  one of them: hairpin logs {} -f",
        args.store.told(),
        names.first().copied().unwrap_or("NAME")
    ));
    Ok(ExitCode::SUCCESS)
}

/// A recipe's file, and its text.
fn text(path: &Path) -> Result<(String, String), LaunchError> {
    let read = disk::read_text(path, 1 << 20);
    let text = read.map_err(|source| LaunchError::Io { action: "read the recipe", path: path.to_owned(), source })?;
    Ok((path.display().to_string(), text))
}

/// Hand jobs over to the queue once their cost is agreed to; each with whether it is new.
pub(super) fn send(store: &Store, records: Vec<Record>, quote: &Quote, yes: bool) -> miette::Result<Vec<(Record, bool)>> {
    if let Some(problem) = &quote.refusal {
        return Err(LaunchError::DoesNotFit { problem: problem.clone() }.into());
    }
    let store = Store::open(store.folder())?;
    let (mut new, mut all) = (Vec::new(), Vec::new());
    for record in records {
        if let Some(launcher) = places::launcher(&record.job.machines.place) {
            launcher.check(&record.job)?;
        }
        let known = store.known(&record)?;
        all.push((record.job.name.clone(), known.is_none()));
        new.extend(known.is_none().then_some(record));
    }
    if !new.is_empty() {
        confirm(quote, yes)?;
        store.order(&Order::Launch(new))?;
    }
    wake(&store)?;
    let taken = |name: &str| {
        let since = Clock::start();
        loop {
            match store.find(name) {
                Err(LaunchError::NoJob { .. }) if since.secs() < 10.0 => std::thread::sleep(Duration::from_millis(2)),
                found => return found,
            }
        }
    };
    all.into_iter().map(|(name, is_new)| Ok((taken(&name)?, is_new))).collect()
}

/// What costs money is agreed to.
fn confirm(quote: &Quote, yes: bool) -> miette::Result<()> {
    // What is not known may be much.
    let is_free = quote.usd_per_hour.is_none();
    if yes || is_free {
        return Ok(());
    }
    let refused = LaunchError::Unconfirmed { usd: quote.usd.unwrap_or_default() };
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(refused.into());
    }
    let _ = write!(std::io::stderr(), "launch this? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).into_diagnostic()?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(refused.into()) }
}

/// Quote and requests, as they would be sent.
fn show(records: &[Record], quote: &Quote, json: bool) -> miette::Result<ExitCode> {
    let requests = batch::requests(records)?;
    if json {
        let names: Vec<&str> = records.iter().map(|record| record.job.name.as_str()).collect();
        let requests: Vec<_> = requests.iter().map(Request::to_json).collect();
        print::json(&json!({"quote": quote, "requests": requests, "jobs": names}))?;
    } else {
        print::result(&quote_text(records, quote));
        requests.iter().for_each(|request| print::result(&request.text()));
        print::talk("nothing was sent");
    }
    Ok(ExitCode::SUCCESS)
}

fn quote_text(records: &[Record], quote: &Quote) -> String {
    let first = records.first().map(|record| &record.job.machines);
    let machines = first.map_or(String::new(), |m| {
        let kind = m.instance.as_ref().map_or(String::new(), |instance| format!(" {instance}"));
        format!("{}{kind}{}", m.place, if m.count > 1 { format!(" x {}", m.count) } else { String::new() })
    });
    let jobs = if records.len() == 1 { "1 job".to_owned() } else { format!("{} jobs", records.len()) };
    let at_once = records.first().and_then(|record| record.group.at_once).filter(|n| *n < records.len());
    let mut parts = vec![format!("{jobs} on {machines}{}", at_once.map_or(String::new(), |n| format!(", {n} at a time")))];
    parts.extend(quote.days.map(|days| format!("{} to expect", secs(days * 86_400.0))));
    parts.extend(quote.usd.map(usd));
    parts.extend(quote.memory_fits.map(|fits| if fits { "memory fits" } else { "memory does NOT fit" }.to_owned()));
    let mut text = parts.join(" · ") + "\n";
    let mut line = |line: String| text += &format!("  {line}\n");
    quote
        .price
        .iter()
        .for_each(|price| line(format!("price: {price}; these machines {} an hour", usd(quote.usd_per_hour.unwrap_or_default()))));
    if let (Some(n), Some(cost)) = (quote.storage_bytes, quote.storage_usd) {
        line(format!("data and checkpoints: {}, {} more", bytes(n as u64), usd(cost)));
    }
    if quote.offers.len() > 1 {
        let offers: Vec<String> = quote.offers.iter().map(|(name, cost)| format!("{} ({name})", usd(*cost))).collect();
        line(format!("by how it is rented: {}", offers.join(", ")));
    }
    quote.notes.iter().for_each(|note| line(note.clone()));
    text
}

/// See to it that somebody looks after the jobs.
pub(super) fn wake(store: &Store) -> miette::Result<()> {
    // Whoever holds the lock looks once more after letting go of it.
    if store.lock()?.is_none() {
        return Ok(());
    }
    let log = store.folder().join("queue.log");
    let open = || std::fs::OpenOptions::new().create(true).append(true).open(&log).into_diagnostic();
    let program = std::env::current_exe().into_diagnostic()?;
    let mut command = Command::new(program);
    command.arg("supervise").arg("--store").arg(store.folder()).stdin(Stdio::null()).stdout(open()?).stderr(open()?);
    // Not to be waited for: it outlives us.
    command.spawn().map(|_| ()).into_diagnostic()
}

/// The queue of a store, until all its jobs have ended; started by `hairpin launch`
#[derive(clap::Args)]
#[command(hide = true, after_help = "Example: hairpin supervise --store jobs")]
pub(crate) struct SuperviseArgs {
    #[command(flatten)]
    store: StoreArgs,
}

/// Between two looks, at least and at most.
const LOOKS: [f64; 2] = [0.005, 0.05];
/// For a lock that is held only to look.
const LOCKED_SECS: f64 = 0.5;
/// After a pass that failed, a full disk, say.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

pub(crate) fn supervise(args: &SuperviseArgs) -> miette::Result<ExitCode> {
    until_told();
    work::detach();
    let store = Store::open(&args.store.store)?;
    let find = |place: &str| places::launcher(place).map(|launcher| launcher as &dyn places::Launcher);
    let mut since = Clock::start();
    loop {
        let Some(mut queue) = Queue::open(&store, &find)? else {
            // Whoever looks whether there is a writer holds the lock for a moment; another queue holds it for good.
            if since.secs() > LOCKED_SECS {
                return Ok(ExitCode::SUCCESS);
            }
            std::thread::sleep(Duration::from_secs_f64(LOOKS[1]));
            continue;
        };
        let ended = loop {
            // Jobs go on without us.
            if STOP.load(Ordering::Relaxed) {
                return Ok(ExitCode::SUCCESS);
            }
            match queue.pass(unix_secs()) {
                Ok(left) if left.alive == 0 => break Ok(()),
                Ok(left) => {
                    if wake::wait(Duration::from_secs_f64((left.next_unix - unix_secs()).clamp(LOOKS[0], LOOKS[1]))) {
                        queue.look_here();
                    }
                }
                Err(error) => break Err(error),
            }
        };
        drop(queue);
        since = Clock::start();
        match ended {
            Ok(()) if store.orders()?.is_empty() => return Ok(ExitCode::SUCCESS),
            Ok(()) => {}
            Err(error) => {
                print::error(&error.into());
                std::thread::sleep(AFTER_FAILURE);
            }
        }
    }
}

/// Run one attempt of a job, or what a container was given; started by `hairpin launch`
#[derive(clap::Args)]
#[command(hide = true, after_help = "Example: hairpin work jobs/small-1a2b3c4d 1 -- hairpin train recipes/small.toml --out runs/small")]
pub(crate) struct WorkArgs {
    /// The job's folder; none: this is a container
    home: Option<PathBuf>,
    attempt: Option<u32>,
    #[arg(last = true)]
    argv: Vec<String>,
}

pub(crate) fn work(args: &WorkArgs) -> miette::Result<ExitCode> {
    until_told();
    let code = match (&args.home, args.attempt) {
        (Some(home), Some(attempt)) => {
            work::detach();
            work::attempt(home, attempt, &args.argv, &STOP)?
        }
        _ => work::Contract::read(Path::new("/"), &|name| std::env::var(name).ok())?.run(&STOP)?,
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(3)))
}

/// A first wish to stop ends nothing by itself: whoever is at work looks at [`STOP`].
pub(super) fn until_told() {
    SAVES.store(true, Ordering::Relaxed);
    progress::ENDS_ITSELF.store(true, Ordering::Relaxed);
}

/// See to it that jobs that have not ended are looked after, also after this machine was off.
pub(super) fn wake_if_needed(store: &Store, records: &[Record]) -> miette::Result<()> {
    let is_needed = records.iter().any(|record| !record.state.is_ended()) || !store.orders()?.is_empty();
    if is_needed { wake(store) } else { Ok(()) }
}

/// All jobs of a store, oldest first; what cannot be read is told.
pub(super) fn list(store: &Store) -> miette::Result<Vec<Record>> {
    let (records, damaged) = store.list()?;
    damaged.into_iter().for_each(|error| print::error(&error.into()));
    Ok(records)
}
