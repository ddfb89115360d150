//! Commands on a project: init, data, climb, report.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::train::{
    ledger::{self, Entry},
    metric::{BITS_PER_BYTE, Metric},
    recipe::Recipe,
    run::Observer,
};
use data::CorpusOptions;
use miette::IntoDiagnostic;
use plan::{
    ladder::climb::{Elsewhere, Outcome},
    ladder::project::Project,
};
use report::terminal::{bytes, count, secs, table};
use serde_json::json;

use super::elsewhere::ElsewhereArgs;
use crate::{STOP, print, progress::Follow};

/// Write a project: a ladder of three small phases over a corpus, sized by how much text there is
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin init my-model --corpus notes/ --corpus 'books/**/*.txt'\n\nThe project file holds the corpus, the tables of a recipe that all phases share ([recipe.batch],\n[recipe.optim], [recipe.schedule], ...) and the [[phases]]. Paths in it are seen from its folder."
)]
pub(crate) struct InitArgs {
    /// Folder of the project
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Folder, file, glob or URL of text; repeat for more. Default: the sources that cargo fetched
    #[arg(long)]
    corpus: Vec<String>,
}

pub(crate) fn init(args: &InitArgs, json: bool) -> miette::Result<ExitCode> {
    let path = args.folder.join("hairpin.toml");
    if path.exists() {
        miette::bail!(code = "init::exists", help = "edit it, or give another folder", "`{}` is there already", path.display());
    }
    let paths = corpus(&args.corpus)?;
    let is_remote = paths.iter().any(|path| path.contains("://"));
    let text_bytes = CorpusOptions { paths: paths.clone(), ..CorpusOptions::default() }.local_bytes()?;
    let project = Project::small(paths, if is_remote { text_bytes.max(plan::ladder::project::DEMO_BYTES) } else { text_bytes });
    std::fs::create_dir_all(&args.folder).into_diagnostic()?;
    disk::write(&path, project.to_toml()).into_diagnostic()?;
    if json {
        print::json(&json!({"project": path, "text_bytes": text_bytes}))?;
    } else {
        let fetched = if is_remote { ", and what is fetched" } else { "" };
        print::result(&format!(
            "wrote {} for {} of files{fetched}\nnext: hairpin climb {}",
            path.display(),
            bytes(text_bytes),
            args.folder.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What was asked for, or what every machine with Rust has.
pub(crate) fn corpus(given: &[String]) -> miette::Result<Vec<String>> {
    if !given.is_empty() {
        // In a project's file they are seen from its folder, here from where the command runs.
        let absolute = |path: &String| std::path::absolute(path).map_or_else(|_| path.clone(), |path| path.display().to_string());
        return Ok(given.iter().map(|path| if path.contains("://") { path.clone() } else { absolute(path) }).collect());
    }
    match data::cargo_sources() {
        Some(path) => Ok(vec![path.display().to_string()]),
        None => {
            miette::bail!(code = "data::no_files", help = "give text with `--corpus PATH`", "cargo has fetched no sources on this machine")
        }
    }
}

/// Prepare a project's data: read, clean, deduplicate, tokenise, shard; of images by the rules under `[images]`, into shards
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin data my-model --memory 4GB\n         hairpin data my-model --out s3://my-bucket/data\n\nA corpus may be larger than memory: it is sorted through `my-model/data.tmp`, which takes as much room as the text. Stopped or\nkilled, the same command goes on from there."
)]
pub(crate) struct DataArgs {
    /// Folder of the project
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Memory to work in, such as `1GB`; what comes out does not depend on it. Default: a quarter of what is free
    #[arg(long, value_parser = size)]
    memory: Option<u64>,
    /// Publish it at a URL too, which a recipe's `data.path` then names: s3://, gs://, az://, file://
    #[arg(long, value_name = "URL")]
    out: Option<PathBuf>,
}

pub(crate) fn size(text: &str) -> Result<u64, String> {
    plan::units::bytes(text).map(|bytes| bytes as u64).map_err(|e| e.to_string())
}

pub(crate) fn data(args: &DataArgs, json: bool) -> miette::Result<ExitCode> {
    let project = Project::read(&args.folder)?;
    if project.is_of_images() {
        return super::vision::prepare(&project, &args.folder, |out| publish_at(args, out), json);
    }
    let follow = Follow::new();
    let (options, out) = (&project.data, args.folder.join("data"));
    let stats = match args.memory {
        Some(bytes) => data::prepare_within(bytes, options, &out, &follow),
        None => data::prepare(options, &out, &follow),
    }?;
    follow.end();
    publish_at(args, &out)?;
    if json {
        print::json(&stats)?;
        return Ok(ExitCode::SUCCESS);
    }
    print::result(&report::corpus::text(&stats));
    let rates: Vec<String> = stats.rates().map(|(stage, rate)| format!("{stage} {rate:.1}")).collect();
    if !stats.is_reused {
        print::talk(&format!("MB/s on {} threads: {}", stats.threads, rates.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}

/// Publish what was prepared, if that was asked for.
fn publish_at(args: &DataArgs, out: &Path) -> miette::Result<()> {
    let Some(url) = &args.out else { return Ok(()) };
    crate::progress::busy("publishing");
    publish(out, url)
}

fn publish(folder: &Path, url: &Path) -> miette::Result<()> {
    if !store::is_url(url) {
        let problem = "it is no URL".to_owned();
        return Err(store::StoreError::Url { url: url.display().to_string(), problem }.into());
    }
    store::open(url)?.publish(folder, "")?;
    print::talk(&format!("published at {}", disk::printable_line(&url.to_string_lossy())));
    Ok(())
}

/// Climb a project's ladder: every phase trained and gated, going on where it stopped
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin climb my-model\n         hairpin climb my-model --on slurm:2\n\nElsewhere each phase is a job of `hairpin launch`: Ctrl-C leaves it running, and the same command goes on from there."
)]
pub(crate) struct ClimbArgs {
    /// Folder of the project
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Train this phase again from its beginning, and keep its old run beside it; repeat for more
    #[arg(long, value_name = "PHASE")]
    anew: Vec<String>,
    #[command(flatten)]
    elsewhere: ElsewhereArgs,
}

pub(crate) fn climb(args: &ClimbArgs, json: bool) -> miette::Result<ExitCode> {
    let project = Project::read(&args.folder)?;
    let elsewhere = args.elsewhere.of(&args.folder)?;
    let train = |recipe: &Recipe, out: &Path, observer: &mut dyn Observer| match &elsewhere {
        Some(elsewhere) => elsewhere.train(recipe, out, observer),
        None => Ok(true),
    };
    climb_and_tell(&project, &args.folder, &args.anew, elsewhere.is_some().then_some(&train), json)
}

/// Shared with the demo.
pub(crate) fn climb_and_tell(
    project: &Project,
    folder: &Path,
    anew: &[String],
    elsewhere: Option<Elsewhere<'_>>,
    json: bool,
) -> miette::Result<ExitCode> {
    let (follow, mut observer) = (Follow::new(), Follow::new());
    let outcome = plan::ladder::climb::climb(project, folder, anew, elsewhere, &STOP, &follow, &mut observer);
    follow.end();
    observer.end();
    let outcome = outcome?;
    let report::Written { path: page, damage } = report::write(folder)?;
    damage.iter().for_each(|line| print::talk(line));
    if !json {
        print::result(&tell(&outcome, &page));
    } else {
        let last = outcome.entries.last();
        // As it is called: `bits_per_byte` of text, and of images whatever they are judged by.
        let name = last.and_then(|e| e.actual.held_out).map_or("bits_per_byte", |metric| metric.kind.name);
        let value = |e: &Entry| e.actual.held_out.map(|metric| metric.value);
        let gates = |e: &Entry| json!({"phase": e.phase, "name": e.name, "passed": e.passed, "gates": e.gates, (name): value(e)});
        print::json(&json!({
            "gates": outcome.entries.iter().map(gates).collect::<Vec<_>>(),
            (name): last.and_then(value),
            (format!("baseline_{name}")): last.map(|e| e.baseline),
            "passed": outcome.passed,
            "stopped": outcome.is_stopped,
            "report": page,
        }))?;
    }
    if outcome.is_stopped {
        print::talk("stopped; the same command goes on from here");
        return Ok(ExitCode::from(3));
    }
    Ok(if outcome.passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn tell(outcome: &Outcome, page: &Path) -> String {
    let mut out = String::new();
    if let Some(first) = outcome.entries.first() {
        out += &format!("\nbefore training:\n{}\n", indent(&first.sample_before));
    }
    if let Some(last) = outcome.entries.last() {
        out += &format!("\nafter phase {} `{}`:\n{}\n\n", last.phase, last.name, indent(&last.sample_after));
    }
    let judged: BTreeSet<&str> = outcome.entries.iter().filter_map(|e| Some(e.actual.held_out?.kind.name)).collect();
    let beaten: BTreeSet<&str> = outcome.entries.iter().map(|e| e.baseline_of.as_str()).collect();
    let is_of_text = judged.iter().all(|name| *name == BITS_PER_BYTE.name);
    let mut rows = Vec::new();
    for e in &outcome.entries {
        // Phases that are judged by different things say by what.
        let number = |metric: Option<Metric>| match metric {
            Some(metric) if judged.len() > 1 => metric.to_string(),
            metric => metric.map_or("–".to_owned(), |metric| format!("{:.3}", metric.value)),
        };
        let interval = e.predicted.held_out_interval.map_or(String::new(), |[low, high]| format!(" ({low:.2}–{high:.2})"));
        rows.push(vec![
            format!("{} {}", e.phase, e.name),
            count(e.params),
            count(e.actual.tokens),
            number(e.predicted.held_out) + &interval,
            number(e.actual.held_out),
            format!("{:.3}", e.baseline),
            secs(e.predicted.secs),
            secs(e.actual.secs),
            bytes(e.predicted.memory_bytes),
            bytes(e.actual.memory_bytes),
            if e.passed { "passed" } else { "FAILED" }.into(),
        ]);
    }
    let head = [
        "phase",
        "params",
        ledger::unit(&outcome.entries),
        match judged.len() {
            0 | 1 if is_of_text => "bits/byte predicted",
            0 | 1 => "loss predicted",
            _ => "held-out predicted",
        },
        "actual",
        if beaten.iter().all(|of| *of == "a trigram") { "trigram" } else { "baseline" },
        "time predicted",
        "actual",
        "memory predicted",
        "actual",
        "gates",
    ];
    out += &table(&head, &rows);
    for e in &outcome.entries {
        for gate in e.gates.iter().filter(|gate| !gate.passed) {
            out += &format!(
                "\nphase {} failed gate `{}`: measured {}, wanted {}\n  try: {}\n",
                e.phase, gate.name, gate.measured, gate.wanted, gate.help
            );
        }
    }
    out + &format!("\nreport: {}", page.display())
}

fn indent(text: &str) -> String {
    text.lines().take(14).map(|line| format!("  │ {line}\n")).collect()
}

/// Write a project's report: one HTML file that needs no network
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin report my-model")]
pub(crate) struct ReportArgs {
    /// Folder of a project or a run
    #[arg(default_value = ".")]
    folder: PathBuf,
}

pub(crate) fn report(args: &ReportArgs, json: bool) -> miette::Result<ExitCode> {
    let report::Written { path: page, damage } = report::write(&args.folder)?;
    damage.iter().for_each(|line| print::talk(line));
    if json {
        print::json(&json!({"report": page, "damage": damage}))?
    } else {
        print::result(&page.display().to_string())
    }
    Ok(ExitCode::SUCCESS)
}
