//! `hairpin plan ladder`: the phases before they are climbed, the project that climbs them, and what the finished ones say of the
//! rest.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::plan::{
    PlanError,
    catalogue::Catalogue,
    ladder::lay::{self as ladder, Place, Target},
    ladder::project::Project,
    ladder::survey::{Rung, Said, Survey, survey},
    laws::Law,
    questions::budget,
};
use data::{Dataset, PrepareOptions, TokenizerOptions};
use miette::IntoDiagnostic;
use report::{
    Answer, Axis, Chart, Dot, DotKind, Series, Table,
    terminal::{bytes, secs, usd},
};
use train::recipe::Recipe;

use super::{budget::BudgetArgs, count, cut};
use crate::{commands::project::corpus, print, progress::Follow};

/// Four phases up to a large model, written as a project that `hairpin climb` runs; of a begun one, what the finished say of the rest
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin plan ladder recipes/falcon-40b.toml --on p4d.24xlarge:48 --corpus 's3://texts/web' --out falcon\n         hairpin plan ladder --budget-usd 2M --on p4d.24xlarge --deadline-days 60 --data 1T\n         hairpin plan ladder --corpus notes/ --out notes-model && hairpin climb notes-model\n         hairpin plan ladder notes-model\n\nThe target is a recipe, or what a budget buys, or, of a corpus on this machine, a model as large as its text is enough for.\nPhases see 1%, 5%, 50% and all of the data; on rented machines they have 1, 8, 16 and all of the accelerators."
)]
pub(crate) struct LadderArgs {
    /// The last phase's recipe, or the folder of a project that was begun
    path: Option<PathBuf>,
    /// Change one key of the recipe, e.g. `train.steps=9000`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder, file, glob or URL of text; repeat for more
    #[arg(long)]
    corpus: Vec<String>,
    /// Folder of the project that it writes
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    budget: BudgetArgs,
}

/// Tokens for each parameter of the blocks of the default target here: arXiv:2203.15556, table 3.
const TOKENS_PER_PARAM: f64 = 20.0;
/// Text is seen so often at most, beyond which it loses its worth: arXiv:2305.16264.
const MOST_EPOCHS: f64 = 4.0;
/// Below, the phases before it would all have one layer.
const LEAST_DEPTH: f64 = 4.0;
/// Steps of the default target here, at least.
const LEAST_STEPS: f64 = 400.0;

pub(super) fn run(args: &LadderArgs, json: bool) -> miette::Result<ExitCode> {
    let catalogue = args.budget.renting.showing.catalogue()?;
    let law = args.budget.law()?;
    if let Some(folder) = args.path.as_ref().filter(|path| path.is_dir()) {
        let project = Project::read(folder)?;
        let on = args.budget.renting.on.clone().or(project.on.clone());
        return tell(args, &catalogue, &law, &project, Some(folder), on.as_deref(), json);
    }
    if let Some(folder) = args.out.as_ref().filter(|folder| folder.join("hairpin.toml").exists()) {
        let help = format!("look at it with `hairpin plan ladder {}`, or give another folder", folder.display());
        miette::bail!(code = "init::exists", help = help, "`{}` is there already", folder.join("hairpin.toml").display());
    }
    let mut data = PrepareOptions::default();
    let project = if let Some(on) = &args.budget.renting.on {
        if !args.corpus.is_empty() {
            data.corpus.paths = corpus(&args.corpus)?;
        }
        let (recipe, nodes) = target(args, &catalogue, &law, on)?;
        let (instance, _) = catalogue.machines(on)?;
        let vocab = train::run::resolve(&Recipe::parse(&recipe.to_string(), "the target", &[])?, None)?
            .1
            .language()
            .map(models::LanguageModel::vocab);
        if let (TokenizerOptions::Train { vocab: size, .. }, Some(vocab)) = (&mut data.tokenizer, vocab) {
            *size = vocab;
        }
        let place = Place::Rented { catalogue: &catalogue, instance, nodes, price: price(args, instance, on)? };
        ladder::lay(&Target { recipe: &recipe, vocab: None }, place, &law, data)?
    } else {
        let Some(folder) = &args.out else {
            let help = "give a folder with `--out`, or rented machines with `--on`";
            miette::bail!(
                code = "data::no_folder",
                help = help,
                "a ladder on this machine is planned from its prepared text, which needs a folder"
            );
        };
        data.corpus.paths = corpus(&args.corpus)?;
        data.held_out_ratio = 0.03;
        let follow = Follow::new();
        ::data::prepare(&data, &folder.join("data"), &follow)?;
        follow.end();
        let prepared = Dataset::open(&folder.join("data"))?;
        let recipe = match &args.path {
            Some(path) => written(path, &args.set)?,
            None => of_corpus(prepared.train().tokens() as f64),
        };
        ladder::lay(&Target { recipe: &recipe, vocab: Some(prepared.vocab()) }, Place::Here, &law, data)?
    };
    if let Some(folder) = &args.out {
        let file = folder.join("hairpin.toml");
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, project.to_toml()));
        written.map_err(|source| train::TrainError::Io { action: "write", path: file.clone(), source })?;
        print::talk(&format!("wrote {}; next: hairpin climb {}", file.display(), folder.display()));
    }
    tell(args, &catalogue, &law, &project, args.out.as_deref(), project.on.as_deref(), json)
}

/// A recipe as it is written, `sets` laid over it.
fn written(path: &Path, sets: &[String]) -> miette::Result<toml::Table> {
    // Read once through all checks, which name what is wrong and where.
    let whole = Recipe::read(path, sets)?;
    if sets.is_empty() {
        return disk::read_text(path, 1 << 20).into_diagnostic()?.parse().into_diagnostic();
    }
    whole.to_toml().parse().into_diagnostic()
}

/// The last phase on rented machines, and how many of them.
fn target(args: &LadderArgs, catalogue: &Catalogue, law: &Law, on: &str) -> miette::Result<(toml::Table, usize)> {
    let (instance, nodes) = catalogue.machines(on)?;
    if !args.budget.is_asked() {
        let path = args.path.as_ref().ok_or_else(|| PlanError::Impossible {
            problem: "there is nothing to lead up to".into(),
            relax: "give the last phase's recipe, or `--budget-usd`".into(),
        })?;
        let recipe = written(path, &args.set)?;
        let nodes = match (nodes, args.budget.deadline_secs) {
            // The last phase's share of the time, on the fewest machines that end in it.
            (None, Some(deadline)) => {
                let secs = deadline * budget::STEPS.last().map_or(1.0, |step| step.time_ratio);
                let whole = Recipe::read(path, &args.set)?;
                let found = ::plan::questions::rent::cheapest(&whole, catalogue, instance, price(args, instance, on)?, secs)?;
                ladder::named_nodes(instance, found.nodes)
            }
            (nodes, _) => nodes.unwrap_or(1),
        };
        return Ok((recipe, nodes));
    }
    let question = budget::Question { instance: instance.name.clone(), ..args.budget.question(catalogue)? };
    let plan = budget::plan(&question, catalogue, law)?;
    let best = &plan.choices[0];
    let nodes = ladder::named_nodes(instance, nodes.unwrap_or(plan.nodes as usize));
    let sequences = (best.setting.batch_tokens / question.context as f64).round().max(1.0);
    let steps = (best.tokens / sequences / question.context as f64).round();
    let text = format!(
        "name = \"budget\"\n[batch]\nsequences = {sequences}\ncontext = {}\n[train]\nsteps = {steps}\nprecision = \"bf16\"\n\
         [optim]\nkind = \"adamw\"\nlr = {:e}\n[schedule]\nkind = \"cosine\"\nwarmup_steps = {:.0}\n[model]\n{}",
        question.context,
        best.setting.lr,
        (steps / 100.0).clamp(1.0, 2000.0),
        best.model.table
    );
    Ok((text.parse().into_diagnostic()?, nodes))
}

/// The default target here: the dial at the depth that so many tokens are enough for, with the small ladder's other choices.
fn of_corpus(tokens: f64) -> toml::Table {
    let mut table = Project::demo(vec![]).recipe;
    let batch = 8.0 * 256.0;
    let epochs = (LEAST_STEPS * batch / tokens).clamp(1.0, MOST_EPOCHS);
    let tokens = epochs * tokens;
    // Twelve matrices of width by width in each layer, 64 to a layer.
    let depth = (tokens / TOKENS_PER_PARAM / (12.0 * 64.0 * 64.0)).cbrt().round().max(LEAST_DEPTH);
    let text = format!("model = {{ depth = {depth} }}\ntrain = {{ steps = {:.0} }}\nname = \"corpus\"", (tokens / batch).max(1.0));
    table.extend(text.parse::<toml::Table>().unwrap_or_default());
    table
}

fn price<'a>(args: &LadderArgs, instance: &'a ::plan::catalogue::Instance, on: &str) -> Result<&'a ::plan::catalogue::Price, PlanError> {
    let renting = &args.budget.renting;
    instance.price(renting.service(on)?, renting.term.into(), renting.prices_of.as_deref())
}

fn tell(
    args: &LadderArgs,
    catalogue: &Catalogue,
    law: &Law,
    project: &Project,
    folder: Option<&Path>,
    on: Option<&str>,
    json: bool,
) -> miette::Result<ExitCode> {
    let place = match on {
        None => Place::Here,
        Some(on) => {
            let (instance, nodes) = catalogue.machines(on)?;
            Place::Rented { catalogue, instance, nodes: nodes.unwrap_or(1), price: price(args, instance, on)? }
        }
    };
    // The published law counts tokens of English in a vocabulary of 32,000.
    let bytes_per_token = catalogue.language("en")?.bytes_per_token.of(32_000);
    let survey = survey(project, folder, place, law, bytes_per_token)?;
    let old = match place {
        Place::Rented { price, .. } if args.budget.renting.prices_of.is_none() => price.warning(),
        _ => None,
    };
    let mut answer = answer(&survey, law, bytes_per_token);
    answer.warnings.extend(old);
    let usd_in_all: f64 = survey.phases.iter().filter_map(|phase| phase.now.usd).sum();
    if let Some(budget_usd) = args.budget.budget_usd.filter(|budget| usd_in_all > 1.02 * budget) {
        answer.warnings.push(format!(
            "this ladder takes {} of {}: a recipe shares out ranks by powers of two, which cuts less well here than what the budget was reckoned with; take another number of machines, or a smaller budget to plan with",
            usd(usd_in_all),
            usd(budget_usd)
        ));
    }
    answer.warnings.extend(args.budget.deadline_secs.and_then(|deadline| late(&survey, deadline)));
    args.budget.renting.showing.tell(&answer, &survey, json)
}

/// What to say of a ladder that ends after its deadline.
fn late(survey: &Survey, deadline_secs: f64) -> Option<String> {
    let taken: f64 = survey.phases.iter().map(|phase| phase.done.map_or(phase.now.secs, |done| done.secs)).sum();
    let longest = survey.phases.iter().filter(|phase| phase.done.is_none()).max_by(|a, b| a.now.secs.total_cmp(&b.now.secs))?;
    (taken > deadline_secs).then(|| {
        format!(
            "this ladder takes {} and the deadline is {}: `{}` is {} of it; give it more machines or fewer steps, or allow `--deadline-days {:.0}`",
            secs(taken),
            secs(deadline_secs),
            longest.name,
            secs(longest.now.secs),
            (taken / 86_400.0).ceil()
        )
    })
}

/// What guessing bytes reaches: where a law says more, it was never meant for such a size.
const GUESSING_BITS: f64 = 8.0;

fn loss(said: &Said) -> String {
    if said.loss_interval[1] > GUESSING_BITS {
        return "no law so small".into();
    }
    let [low, high] = said.loss_interval;
    format!("{:.3} ({low:.2}–{high:.2})", said.loss)
}

fn time(said: &Said) -> String {
    said.secs_range.map_or_else(|| secs(said.secs), |[fast, slow]| format!("{} ({}–{})", secs(said.secs), secs(fast), secs(slow)))
}

fn answer(s: &Survey, law: &Law, bytes_per_token: f64) -> Answer {
    let is_begun = s.phases.iter().any(|phase| phase.done.is_some());
    let cost = |said: &Said| said.usd.map_or("–".into(), usd);
    let row = |p: &Rung| {
        vec![
            p.name.clone(),
            format!("{:.3}%", 100.0 * p.data_ratio).replace(".000%", "%"),
            count(p.params as f64),
            count(p.tokens),
            p.accelerators.to_string(),
            p.cut.as_ref().map_or("this machine".into(), cut),
            bytes(p.memory_bytes as u64),
            count(p.batch_tokens as f64),
            format!("{:.1e}", p.lr),
            loss(&p.planned),
            time(&p.planned),
            cost(&p.planned),
            p.gate.clone(),
        ]
    };
    let head =
        vec!["phase", "data", "parameters", "tokens", "on", "cut", "memory", "batch", "lr", "bits/byte", "time", "cost", "loss gate"];
    let mut tables = vec![Table { title: "The ladder, as planned", head, rows: s.phases.iter().map(row).collect() }];
    if is_begun {
        let row = |p: &Rung| {
            let none = || "–".to_owned();
            let done = p.done.as_ref();
            vec![
                p.name.clone(),
                loss(&p.planned),
                done.map_or_else(|| loss(&p.now), |d| d.loss_interval.map_or_else(none, |[low, high]| format!("{low:.2}–{high:.2}"))),
                done.map_or_else(none, |d| format!("{:.3}", d.loss)),
                time(&p.planned),
                done.map_or_else(|| time(&p.now), |_| none()),
                done.map_or_else(none, |d| secs(d.secs)),
                cost(&p.planned),
                done.map_or_else(|| cost(&p.now), |d| d.usd.map_or_else(none, usd)),
                done.map_or("to climb", |d| if d.passed { "passed" } else { "FAILED" }).into(),
            ]
        };
        let head = vec![
            "phase",
            "bits/byte planned",
            "said since",
            "actual",
            "time planned",
            "said since",
            "actual",
            "cost planned",
            "now",
            "state",
        ];
        tables.insert(0, Table { title: "Planned, said since, and actual", head, rows: s.phases.iter().map(row).collect() });
    }
    let sum = |of: &dyn Fn(&Rung) -> f64| s.phases.iter().map(of).sum::<f64>();
    let now = |p: &Rung| p.done.map_or(p.now.secs, |done| done.secs);
    let usd_now = sum(&|p| p.done.and_then(|done| done.usd).or(p.now.usd).unwrap_or(0.0));
    let last = s.phases.last();
    let mut figures = vec![
        ("last phase", last.map_or(String::new(), |p| count(p.params as f64))),
        ("tokens", last.map_or(String::new(), |p| count(p.tokens))),
        ("time in all", secs(sum(&now))),
    ];
    figures.extend((usd_now > 0.0).then(|| ("cost in all", usd(usd_now))));
    figures.extend(s.measured_ratio.map(|ratio| ("taken over said", format!("{ratio:.2}"))));
    Answer {
        title: format!("The ladder of {}", s.name),
        asked: vec![("on", s.on.clone().unwrap_or_else(|| "this machine".into()))],
        figures,
        charts: vec![("Loss against compute", chart(s, law, bytes_per_token))],
        tables,
        notes: notes(s, law),
        warnings: s.warnings.clone(),
        ..Answer::default()
    }
}

fn notes(s: &Survey, law: &Law) -> Vec<String> {
    let gates = train::gate::GATES.names();
    let mut notes = vec![
        format!("planned bits per byte: 95% interval of a law fitted to {}, of English web text; your corpus will differ", law.name),
        format!("a phase passes when every gate does: {}", gates.join(", ")),
    ];
    if s.on.is_some() {
        notes.push(
            "time: the step simulated, stops and checkpoints, times what published runs took over what is said of them; four of five lie in the range; a machine is paid whole".into(),
        );
    } else {
        notes.push("time: a few steps of each phase on this machine, run now".into());
    }
    if s.measured_ratio.is_some() {
        notes.push(
            "said since: loss by a law fitted to the finished phases, from one alone mostly by belief; time by how long they took".into(),
        );
    }
    notes
}

fn chart(s: &Survey, law: &Law, bytes_per_token: f64) -> Chart {
    let bits = |nats: f64| nats / std::f64::consts::LN_2 / bytes_per_token;
    let [least, most] = s.phases.iter().fold([f64::INFINITY, 0.0_f64], |[l, h], p| [l.min(p.flops), h.max(p.flops)]);
    let steps = 60;
    let curve = (0..=steps).map(|i| least / 3.0 * (9.0 * most / least).powf(f64::from(i) / f64::from(steps)));
    let envelope = curve.map(|flops| {
        let (params, tokens) = law.best.optimum(flops);
        (flops, bits(law.best.loss(params, tokens)))
    });
    let of = |name: &str, of: &dyn Fn(&Rung) -> f64| Series {
        name: name.into(),
        points: s.phases.iter().map(|p| (p.flops, of(p))).filter(|(_, bits)| *bits <= GUESSING_BITS).collect(),
        is_faint: false,
    };
    let is_begun = s.phases.iter().any(|p| p.done.is_some());
    let mut series = vec![Series {
        name: "the best size at each compute, published law".into(),
        points: envelope.filter(|(_, bits)| *bits <= GUESSING_BITS).collect(),
        is_faint: false,
    }];
    series.extend(is_begun.then(|| of("said since", &|p| p.done.map_or(p.now.loss, |done| done.loss))));
    let planned = s.phases.iter().filter(|p| p.planned.loss_interval[1] <= GUESSING_BITS).map(|p| Dot {
        name: format!("{} {}", p.name, count(p.params as f64)),
        x: p.flops,
        y: p.planned.loss,
        kind: DotKind::Step,
    });
    let actual = s
        .phases
        .iter()
        .filter_map(|p| Some(Dot { name: format!("{}, actual", p.name), x: p.flops, y: p.done?.loss, kind: DotKind::Chosen }));
    Chart {
        x: Axis::log("training FLOPs (6 N D)"),
        y: Axis::straight("held-out bits per byte"),
        series,
        dots: planned.chain(actual).collect(),
        ..Chart::default()
    }
}
