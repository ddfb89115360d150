//! Commands on models of images: their demo, what they are worth, what they draw.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::train::{TrainError, eval::Evaluator, feed::Feed, run::Loaded};
use ::vision::{
    classes, demo as three, feed,
    judge::{self, Findings},
    naive, prepare,
    sampler::{Drawing, Sampler, in_turn},
    sheet,
    tasks::Condition,
};
use plan::ladder::project::Project;
use report::{Answer, Picture, Table, terminal::secs};
use serde_json::{Value, json};

use crate::{CLOCK, STOP, print, progress::Follow};

/// Of diffusion alone
#[derive(clap::Args)]
pub(crate) struct DrawingArgs {
    /// Of diffusion: how many images it draws
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    images: u16,
    /// Of diffusion: the class that is drawn, by name or number; default: each in turn
    #[arg(long)]
    class: Option<String>,
    /// Of diffusion that was trained with captions: what is drawn; default: nothing in particular
    #[arg(long, value_name = "TEXT", conflicts_with = "class")]
    caption: Option<String>,
    /// Of diffusion: how loud the class or caption is; 1 as it was learnt
    #[arg(long, default_value_t = 2.0)]
    guidance: f64,
    /// Of diffusion: steps from noise to image
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: u16,
    /// Of diffusion: the PNG to write
    #[arg(long, default_value = "drawings.png")]
    out: PathBuf,
}

/// Draw a sheet of images.
pub(crate) fn draw(run: &Path, args: &DrawingArgs, seed: u64, json: bool) -> miette::Result<ExitCode> {
    let mut sampler = Sampler::load(run)?;
    let names = classes::of(run);
    let count = usize::from(args.images);
    let conditions = match (&args.class, &args.caption) {
        (_, Some(caption)) => vec![sampler.caption(caption)?; count],
        (Some(class), None) => vec![Condition::Class(number(class, &names, sampler.classes())?); count],
        (None, None) => in_turn(count, if names.is_empty() { sampler.classes() } else { names.len().min(sampler.classes()) }),
    };
    let drawing = Drawing { conditions, steps: usize::from(args.steps), guidance: args.guidance, seed };
    let images = sampler.draw(&drawing, |_, _| {})?;
    let is_by_class = args.class.is_none() && sampler.classes() > 0;
    let columns = if is_by_class && (2..=16).contains(&names.len()) { names.len() } else { (count as f64).sqrt().ceil() as usize };
    sheet::save(&args.out, &sheet::sheet(&images, columns))?;
    if json {
        print::json(
            &json!({"file": args.out, "images": count, "steps": args.steps, "guidance": args.guidance, "averaged": sampler.is_averaged}),
        )?;
    } else {
        let weights = if sampler.is_averaged { " by the running average of its weights" } else { "" };
        print::result(&format!("{count} images{weights} in {}", args.out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn number(class: &str, names: &[String], most: usize) -> miette::Result<u32> {
    let by_name = names.iter().position(|name| name == class);
    let number = by_name.or_else(|| class.parse().ok()).filter(|number| *number < most);
    let wrong = || {
        let known = if names.is_empty() { format!("0 to {}", most.saturating_sub(1)) } else { names.join("`, `") };
        let problem = format!("there is no class `{class}`");
        TrainError::Value { key: "--class", problem, help: format!("use one of `{known}`") }
    };
    Ok(number.ok_or_else(wrong)? as u32)
}

/// A model of images on its objective's own held-out samples, and what else it is worth.
pub(crate) fn eval(run: &Path, mut loaded: Loaded, options: &judge::Options, to: Option<&Path>, json: bool) -> miette::Result<ExitCode> {
    let recipe = judge::recipe(run, &loaded, options);
    let (feed, objective) = (feed::open(&recipe)?, loaded.objective.clone());
    let evaluator = Evaluator::new(&*loaded.model, &*objective, 8, 1, loaded.precision)?;
    let measured = evaluator.held_out(&*loaded.model, &*objective, &mut loaded.store, loaded.precision, &*feed)?;
    let (naive, whose) = naive::baseline(&recipe)?;
    let (metric, error, samples) = (measured.metric, measured.standard_error(), feed.held_out());
    let findings = judge::judge(run, options)?;
    if let Some(path) = to {
        page(&format!("{} at step {}", loaded.recipe.name, loaded.step), &[("What it has learnt", &findings)], Vec::new()).write(path)?;
    }
    if json {
        let mut all = json!({
            "step": loaded.step, (metric.kind.name): metric.value, "standard_error": error, "samples": samples, "baseline": naive.metric.value,
        });
        findings.figures.iter().for_each(|(name, value)| all[*name] = json!(value));
        print::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let error = error.map_or(String::new(), |error| format!(" ± {error:.4}"));
    let mut text = format!(
        "step {}: {:.4}{error} {} over {samples} samples; that {whose} is {:.4}\n",
        loaded.step, metric.value, metric.kind.unit, naive.metric.value
    );
    findings.figures.iter().for_each(|(name, value)| text += &format!("{name:>22}  {value:.4}\n"));
    findings.notes.iter().for_each(|note| text += &format!("{note}\n"));
    if let Some(path) = to {
        text += &format!("page: {}\n", path.display());
    }
    print::result(&text);
    Ok(ExitCode::SUCCESS)
}

/// Prepare the images of a project.
pub(crate) fn prepare(
    project: &Project,
    folder: &Path,
    publish: impl FnOnce(&Path) -> miette::Result<()>,
    json: bool,
) -> miette::Result<ExitCode> {
    let (Some(from), out) = (project.data.corpus.paths.first(), folder.join("data")) else {
        let help = "name a folder, shard or list of images".into();
        return Err(TrainError::Value { key: "data.corpus.paths", problem: "it is empty".into(), help }.into());
    };
    let manifest = prepare::prepare(Path::new(from), &project.images, &out, &|what| crate::progress::busy(what))?;
    publish(&out)?;
    if json {
        print::json(&manifest)?;
        return Ok(ExitCode::SUCCESS);
    }
    let standing = if manifest.is_reused { "; as it stood there" } else { "" };
    print::result(&format!("{}in {}{standing}", report::images::text(&manifest), out.display()));
    Ok(ExitCode::SUCCESS)
}

/// Three models from handwritten digits in some minutes.
pub(crate) fn demo(out: &Path, json: bool) -> miette::Result<ExitCode> {
    let mut follow = Follow::new();
    let outcome = three::run(out, 1, &STOP, &mut follow);
    follow.end();
    let Some(outcome) = outcome? else {
        print::talk("stopped; the same command goes on from here");
        return Ok(ExitCode::from(3));
    };
    let figures = vec![
        ("error of the masked autoencoder", format!("{:.3}", outcome.mae.loss)),
        ("probe of its features", format!("{:.1}%", 100.0 * outcome.mae.probe_accuracy)),
        ("captions found by CLIP", format!("{:.1}%", 100.0 * outcome.clip.recall_at_1)),
        ("distance of drawings", format!("{:.2}", outcome.diffusion.distance)),
    ];
    let titles = ["A masked autoencoder", "CLIP", "Diffusion"];
    let parts: Vec<(&'static str, &Findings)> = titles.into_iter().zip(&outcome.findings).collect();
    let path = out.join("report.html");
    let page = page("digits: a masked autoencoder, CLIP and diffusion", &parts, figures);
    page.write(&path)?;
    let path = path.canonicalize().unwrap_or(path);
    if json {
        let mut all = serde_json::to_value(&outcome).unwrap_or(Value::Null);
        all["report"] = json!(path);
        print::json(&all)?;
    } else {
        print::result(&format!("{}\n{} in all\nreport: {}", page.text(), secs(CLOCK.secs()), path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// A page of findings with their pictures.
fn page(title: &str, parts: &[(&'static str, &Findings)], figures: Vec<(&'static str, String)>) -> Answer {
    let picture = |shown: &judge::Shown| Picture { title: shown.title.clone(), text: shown.text.clone(), png: sheet::png(&shown.image) };
    let row = |(name, value): &judge::Figure| vec![(*name).to_owned(), format!("{value:.4}")];
    let table = |(title, findings): &(&'static str, &Findings)| Table {
        title,
        head: vec!["figure", "value"],
        rows: findings.figures.iter().map(row).collect(),
    };
    Answer {
        title: title.to_owned(),
        figures,
        pictures: parts.iter().map(|(title, findings)| (*title, findings.shown.iter().map(picture).collect())).collect(),
        tables: parts.iter().map(table).collect(),
        notes: parts.iter().flat_map(|(_, findings)| findings.notes.clone()).collect(),
        ..Answer::default()
    }
}
