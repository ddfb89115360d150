//! `hairpin plan list`: every name that the planner knows.

use std::process::ExitCode;

use ::plan::catalogue::{Accelerator, BaseModel, Catalogue, Instance, Language, Service, Term};
use report::{Answer, Table, terminal::usd};

use super::{Showing, count};

/// Names that can be asked for: instances with their newest prices, accelerators, base models, languages, presets
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan list instances")]
pub(crate) struct ListArgs {
    /// One list; default: all
    what: Option<What>,
    #[command(flatten)]
    showing: Showing,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// For `--on`
    Instances,
    /// That instances have
    Accelerators,
    /// For `plan approach --base`
    Models,
    /// For `--language` and `plan data`
    Languages,
    /// For `model.preset` of a recipe
    Presets,
}

pub(super) fn run(args: &ListArgs, json: bool) -> miette::Result<ExitCode> {
    let catalogue = args.showing.catalogue()?;
    let (mut tables, mut value) = (Vec::new(), serde_json::Map::new());
    let lists: [(What, fn(&Catalogue) -> (Table, serde_json::Value)); 5] = [
        (What::Instances, instances),
        (What::Accelerators, accelerators),
        (What::Models, models),
        (What::Languages, languages),
        (What::Presets, presets),
    ];
    for (what, list) in lists {
        if args.what.is_none_or(|asked| asked == what) {
            let (table, rows) = list(&catalogue);
            value.insert(table.title.to_lowercase().replace(' ', "_"), rows);
            tables.push(table);
        }
    }
    args.showing.tell(&Answer { title: "What can be named".into(), tables, ..Answer::default() }, &value, json)
}

fn instances(all: &Catalogue) -> (Table, serde_json::Value) {
    let row = |i: &Instance| {
        let price = |service| i.price(service, Term::OnDemand, None).map_or("–".into(), |price| usd(price.usd_per_hour));
        let mut terms: Vec<&str> =
            i.newest_prices().iter().map(|price| price.term.name()).filter(|term| *term != Term::OnDemand.name()).collect();
        terms.sort_unstable();
        terms.dedup();
        vec![
            i.name.clone(),
            i.accelerator.as_ref().map_or("none".into(), |accelerator| format!("{} x {accelerator}", i.count)),
            format!("{:.0}", i.net_gbps),
            price(Service::Ec2),
            price(Service::Sagemaker),
            terms.join(", "),
        ]
    };
    let head = vec!["instance", "accelerators", "Gbit/s", "an hour on EC2", "on SageMaker", "other terms"];
    (Table { title: "Instances", head, rows: all.instances.iter().map(row).collect() }, serde_json::json!(all.instances))
}

fn accelerators(all: &Catalogue) -> (Table, serde_json::Value) {
    let row = |a: &Accelerator| vec![a.name.clone(), a.aliases.join(", "), format!("{:.0}", a.memory_gib), format!("{:.0}", a.peak_tflops)];
    let head = vec!["accelerator", "also", "GiB", "TFLOPS in 16 bits"];
    (Table { title: "Accelerators", head, rows: all.accelerators.iter().map(row).collect() }, serde_json::json!(all.accelerators))
}

fn models(all: &Catalogue) -> (Table, serde_json::Value) {
    let row = |m: &BaseModel| vec![m.name.clone(), count(m.params), count(m.context), m.licence.clone(), m.date.clone()];
    let head = vec!["base", "parameters", "context", "licence", "of"];
    (Table { title: "Base models", head, rows: all.models.iter().map(row).collect() }, serde_json::json!(all.models))
}

fn languages(all: &Catalogue) -> (Table, serde_json::Value) {
    let row = |l: &Language| vec![l.name.clone(), format!("{:.2}", l.bytes_per_token.of(50_257))];
    let head = vec!["language", "bytes per token of a vocabulary of 50k"];
    (Table { title: "Languages", head, rows: all.languages.iter().map(row).collect() }, serde_json::json!(all.languages))
}

fn presets(_: &Catalogue) -> (Table, serde_json::Value) {
    let row = |(kind, preset): (&str, &str)| vec![preset.to_owned(), kind.to_owned()];
    let value = ::models::presets().map(|(kind, preset)| serde_json::json!({"name": preset, "kind": kind})).collect();
    (Table { title: "Presets", head: vec!["preset", "kind"], rows: ::models::presets().map(row).collect() }, value)
}
