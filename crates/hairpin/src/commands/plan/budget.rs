//! `hairpin plan --budget-usd`: the chart before the launch.

use std::{path::PathBuf, process::ExitCode};

use ::plan::{
    PlanError,
    catalogue::Catalogue,
    laws::Law,
    questions::budget::{Plan, Question, plan},
    units,
};
use report::{
    Answer, Axis, Chart, Dot, DotKind, Series, Table,
    terminal::{bytes, secs, usd},
};

use super::{Renting, count, given, loss};

#[derive(clap::Args)]
pub(super) struct BudgetArgs {
    /// US dollars for the whole climb, e.g. `2000000` or `2M`
    #[arg(long, value_name = "USD", requires = "on", value_parser = given::count)]
    pub(super) budget_usd: Option<f64>,
    /// Days, or a time such as `2 months`, for the whole climb (default: 60), or for a recipe's run, whose machines it chooses
    #[arg(long = "deadline-days", value_name = "TIME", value_parser = given::secs)]
    pub(super) deadline_secs: Option<f64>,
    /// New tokens, e.g. `1T`, or bytes of text, e.g. `1.9TB`; default: as many as wanted
    #[arg(long, value_name = "AMOUNT", requires = "budget_usd", value_parser = given::amount)]
    data: Option<units::Amount>,
    /// Language of data that is given in bytes: `en`, `de`, ..., `code`
    #[arg(long, default_value = "en", requires = "budget_usd")]
    language: String,
    /// Tokens that the model will serve in its life, paid from the same budget
    #[arg(long, value_name = "TOKENS", requires = "budget_usd", value_parser = given::count)]
    serve: Option<f64>,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 4096, requires = "budget_usd", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    context: u32,
    /// Size of the vocabulary
    #[arg(long, default_value_t = 50_304, requires = "budget_usd", value_parser = clap::value_parser!(u32).range(256..=100_000_000))]
    vocab: u32,
    /// A law of your own, as `hairpin plan fit --json` prints it
    #[arg(long, value_name = "FILE", requires = "budget_usd")]
    law: Option<PathBuf>,
    #[command(flatten)]
    pub(super) renting: Renting,
}

impl BudgetArgs {
    pub(super) fn is_asked(&self) -> bool {
        self.budget_usd.is_some()
    }

    pub(super) fn question(&self, catalogue: &Catalogue) -> Result<Question, PlanError> {
        let language = catalogue.language(&self.language)?;
        let tokens = |amount: units::Amount| match amount {
            units::Amount::Tokens(tokens) => tokens,
            units::Amount::Bytes(bytes) => bytes / language.bytes_per_token.of(self.vocab as usize),
        };
        let instance = self.renting.on.clone().unwrap_or_default();
        Ok(Question {
            budget_usd: self.budget_usd.unwrap_or_default(),
            service: self.renting.service(&instance)?,
            instance,
            term: self.renting.term.into(),
            prices_of: self.renting.prices_of.clone(),
            deadline_secs: self.deadline_secs.unwrap_or(60.0 * 86_400.0),
            unique_tokens: self.data.map(tokens),
            served_tokens: self.serve,
            mfu: self.renting.mfu,
            context: self.context as usize,
            vocab: self.vocab as usize,
        })
    }

    pub(super) fn law(&self) -> Result<Law, PlanError> {
        match &self.law {
            None => Ok(Law::chinchilla()),
            Some(path) => {
                let origin = path.display().to_string();
                let text =
                    disk::read_text(path, 64 << 20).map_err(|e| PlanError::Law { origin: origin.clone(), problem: e.to_string() })?;
                Law::read(&text, &origin)
            }
        }
    }
}

pub(super) fn run(args: &BudgetArgs, json: bool) -> miette::Result<ExitCode> {
    let catalogue = args.renting.showing.catalogue()?;
    let (question, law) = (args.question(&catalogue)?, args.law()?);
    let plan = plan(&question, &catalogue, &law)?;

    args.renting.showing.tell(&answer(&question, &law, &plan), &plan, json)
}

fn answer(question: &Question, law: &Law, plan: &Plan) -> Answer {
    let best = &plan.choices[0];
    let choice = |c: &::plan::questions::budget::Choice| {
        vec![
            c.name.into(),
            count(c.params),
            count(c.tokens),
            format!("{:.0}", c.tokens / c.params),
            format!("{:.1}", c.epochs),
            loss(&c.loss),
            secs(c.secs),
            usd(c.usd),
            format!("{} x {}", c.model.layers, c.model.width),
            format!("{:.2}", c.step_flops_ratio),
            format!("{:.2}", c.served_flops / best.served_flops),
        ]
    };
    let rung = |r: &::plan::questions::budget::Rung| {
        vec![
            r.name.into(),
            format!("{:.0}%", 100.0 * r.data_ratio),
            count(r.params),
            count(r.tokens),
            r.accelerators.to_string(),
            loss(&r.loss),
            format!("{:.1e}", r.setting.lr),
            count(r.setting.batch_tokens),
            format!("{:.0}%", 100.0 * r.mfu.ratio),
            secs(r.secs),
            usd(r.usd),
        ]
    };
    let choice_head =
        vec!["choice", "parameters", "tokens", "tokens each", "epochs", "loss", "time", "cost", "layers x width", "step/6ND", "serving"];
    let rung_head = vec!["phase", "data", "parameters", "tokens", "accelerators", "loss (gate)", "lr", "batch", "MFU", "time", "cost"];
    Answer {
        title: format!("What {} on {} buy", usd(question.budget_usd), plan.instance),
        asked: vec![
            ("budget", usd(question.budget_usd)),
            (
                "on",
                format!(
                    "{} at {}/h ({}, {}, {})",
                    plan.instance,
                    usd(plan.price.usd_per_hour),
                    plan.price.service.name(),
                    plan.price.term.name(),
                    plan.price.when()
                ),
            ),
            ("deadline", secs(question.deadline_secs)),
            ("data", question.unique_tokens.map_or("as wanted".into(), |t| format!("{} new tokens", count(t)))),
            ("context", question.context.to_string()),
        ],
        figures: vec![
            ("cost in all", usd(plan.usd)),
            ("parameters", count(best.params)),
            ("tokens", count(best.tokens)),
            ("loss, nats per token", loss(&best.loss)),
            ("accelerators", format!("{} ({} nodes)", plan.accelerators, plan.nodes)),
            ("last phase", secs(best.secs)),
            ("FLOPs", format!("{:.1e}", plan.flops)),
            ("MFU", format!("{:.0}%", 100.0 * plan.mfu.ratio)),
        ],
        charts: vec![("Loss against compute", chart(question, plan))],
        tables: vec![
            Table { title: "What the last phase may be", head: choice_head, rows: plan.choices.iter().map(choice).collect() },
            Table { title: "The ladder", head: rung_head, rows: plan.ladder.iter().map(rung).collect() },
        ],
        notes: notes(law, plan),
        warnings: plan.warnings.clone(),
        ..Answer::default()
    }
}

fn notes(law: &Law, plan: &Plan) -> Vec<String> {
    let mut notes: Vec<String> = plan.choices.iter().map(|c| format!("{}: {}", c.name, c.why)).collect();
    notes.extend([
        format!(
            "loss: 95% interval of a law fitted to {}; it is of that text and tokenizer, so compare sizes by it, not test scores",
            law.name
        ),
        format!(
            "MFU: {}, {:.0}% to {:.0}%, which would buy {:.1e} to {:.1e} FLOP",
            plan.mfu.source,
            100.0 * plan.mfu.range[0],
            100.0 * plan.mfu.range[1],
            plan.flops_range[0],
            plan.flops_range[1]
        ),
        "phases before the last are as large as is balanced for their data, or as their accelerators hold and train in their time; a machine is paid whole".into(),
        format!("price: {}", plan.price.source),
        format!(
            "failures: one in {} on this cluster; save every {}, {:.1}% of the time is then kept",
            secs(plan.mfu.reliability.secs_between_failures),
            secs(plan.mfu.reliability.interval_secs),
            100.0 * plan.mfu.reliability.goodput_ratio
        ),
        format!("storage of data and checkpoints until the deadline: {}", usd(plan.storage_usd)),
    ]);
    notes.extend(plan.mfu.choice.as_ref().map(|choice| {
        format!(
            "cut: {}, {} of {} an accelerator; the best without a pipeline, `hairpin plan RECIPE --search` looks at all",
            super::cut(&choice.cut),
            bytes(choice.time.bytes.total() as u64),
            bytes((plan.accelerator.memory_gib * 1024_f64.powi(3)) as u64)
        )
    }));
    notes.extend(plan.reached.as_ref().map(|r| {
        let [low, high] = r.range.map(|ratio| 100.0 * ratio);
        format!(
            "for scale: {} published runs on {} reached {:.0}% in the median, stops inside ({low:.0}% to {high:.0}%)",
            r.runs,
            r.on,
            100.0 * r.median
        )
    }));
    notes.extend(plan.energy_kwh.map(|kwh| format!("energy of the accelerators at rated power: {} kWh", count(kwh))));
    notes.push("step/6ND: FLOPs of that decoder's own step, attention included, over 6 N D; serving: FLOPs of a token served, the first choice's being 1".into());
    notes
}

fn chart(question: &Question, plan: &Plan) -> Chart {
    let family = plan.family.iter().map(|c| Series { name: count(c.params), points: c.points.clone(), is_faint: true });
    let envelope = Series { name: "the best size at each compute".into(), points: plan.envelope.clone(), is_faint: false };
    let [from, to] = [plan.envelope[0].0, plan.envelope[plan.envelope.len() - 1].0];
    let runs = plan.runs.iter().filter(|r| (from..=to).contains(&r.flops));
    let mut dots: Vec<Dot> = runs.map(|r| Dot { name: r.name.clone(), x: r.flops, y: r.loss, kind: DotKind::Other }).collect();
    let flops = |params: f64, tokens: f64| ::plan::laws::train_flops(params, tokens);
    let before = &plan.ladder[..plan.ladder.len() - 1];
    dots.extend(before.iter().filter(|r| flops(r.params, r.tokens) >= from).map(|r| Dot {
        name: r.name.into(),
        x: flops(r.params, r.tokens),
        y: r.loss.loss,
        kind: DotKind::Step,
    }));
    dots.extend(plan.choices.iter().map(|c| Dot {
        name: format!("{} {}", c.name, count(c.params)),
        x: flops(c.params, c.tokens),
        y: c.loss.loss,
        kind: DotKind::Chosen,
    }));
    Chart {
        x: Axis::log("training FLOPs (6 N D)"),
        y: Axis::straight("loss, nats per token"),
        series: family.chain([envelope]).collect(),
        dots,
        uprights: vec![(usd(question.budget_usd), plan.flops)],
        ..Chart::default()
    }
}
