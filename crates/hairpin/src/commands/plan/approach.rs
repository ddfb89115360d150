//! `hairpin plan approach`: is pretraining the right thing at all?

use std::process::ExitCode;

use ::plan::questions::approach::{Approach, Candidate, Changes, Control, Domain, Plan, Question, Verdict, plan};
use report::{Answer, Axis, Chart, Dot, DotKind, Table, terminal::usd};

use super::{Renting, count, given};

/// Prompting, retrieval, fine-tuning, learning from feedback, continued pretraining or pretraining: what fits, why, and at what price
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan approach --domain-tokens 50B --domain far --examples 20k --language de")]
pub(crate) struct ApproachArgs {
    /// Tokens of text of the domain
    #[arg(long, default_value = "1M", value_parser = given::count)]
    domain_tokens: f64,
    /// How far that text is from what base models have read
    #[arg(long, default_value = "near")]
    domain: DomainArg,
    /// Pairs of input and wished output
    #[arg(long, value_parser = given::count)]
    examples: Option<f64>,
    /// Prompts to which people, a model or a checker rank answers
    #[arg(long, value_parser = given::count)]
    ranked_prompts: Option<f64>,
    /// How often what must be known changes
    #[arg(long, default_value = "never")]
    changes: ChangesArg,
    /// What must be in your own hands
    #[arg(long, default_value = "weights")]
    control: ControlArg,
    /// US dollars that training may cost
    #[arg(long, value_name = "USD", value_parser = given::count)]
    budget_usd: Option<f64>,
    /// Seconds in which a reply must be whole
    #[arg(long, value_parser = given::number)]
    latency_secs: Option<f64>,
    /// Questions that it will answer
    #[arg(long, default_value = "10k", value_parser = given::count)]
    queries_per_day: f64,
    /// Tokens of a question with all that goes with it
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    prompt_tokens: u32,
    /// Tokens of an answer
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    answer_tokens: u32,
    /// Language that the base must know: `en`, `de`, ..., `code`
    #[arg(long, default_value = "en")]
    language: String,
    /// Only bases under a free licence
    #[arg(long)]
    free_licence: bool,
    /// Base whose costs are told; default: the largest that fits on one accelerator
    #[arg(long)]
    base: Option<String>,
    #[command(flatten)]
    renting: Renting,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum DomainArg {
    Near,
    Far,
    New,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ChangesArg {
    Never,
    Monthly,
    Daily,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ControlArg {
    Service,
    Weights,
    Everything,
}

pub(super) fn run(args: &ApproachArgs, json: bool) -> miette::Result<ExitCode> {
    let renting = &args.renting;
    let on = renting.on.clone().unwrap_or_else(|| "p5.48xlarge".into());
    let question = Question {
        examples: args.examples.unwrap_or(0.0),
        ranked_prompts: args.ranked_prompts.unwrap_or(0.0),
        domain_tokens: args.domain_tokens,
        domain: match args.domain {
            DomainArg::Near => Domain::Near,
            DomainArg::Far => Domain::Far,
            DomainArg::New => Domain::New,
        },
        changes: match args.changes {
            ChangesArg::Never => Changes::Never,
            ChangesArg::Monthly => Changes::Monthly,
            ChangesArg::Daily => Changes::Daily,
        },
        control: match args.control {
            ControlArg::Service => Control::Service,
            ControlArg::Weights => Control::Weights,
            ControlArg::Everything => Control::Everything,
        },
        budget_usd: args.budget_usd,
        latency_secs: args.latency_secs,
        queries_per_day: args.queries_per_day,
        prompt_tokens: f64::from(args.prompt_tokens),
        answer_tokens: f64::from(args.answer_tokens),
        language: args.language.clone(),
        free_licence: args.free_licence,
        base: args.base.clone(),
        service: renting.service(&on)?,
        on,
        term: renting.term.into(),
        prices_of: renting.prices_of.clone(),
        mfu: renting.mfu,
    };
    let plan = plan(&question, &renting.showing.catalogue()?)?;
    renting.showing.tell(&answer(&question, &plan), &plan, json)
}

fn answer(question: &Question, plan: &Plan) -> Answer {
    let verdict = |v: Verdict| match v {
        Verdict::Fits => "fits",
        Verdict::Possible => "possible",
        Verdict::No => "no",
    };
    let row = |a: &Approach| {
        vec![a.name.into(), verdict(a.verdict).into(), a.parts.len().to_string(), usd(a.build_usd), usd(a.serve_usd_per_year)]
    };
    let why = |a: &Approach| a.reasons.iter().map(|r| vec![a.name.into(), r.clone()]).collect::<Vec<_>>();
    let dot = |a: &Approach| Dot {
        name: a.name.into(),
        x: a.build_usd + a.serve_usd_per_year,
        y: a.parts.len() as f64,
        kind: match (plan.advice == Some(a.name), a.verdict) {
            (true, _) => DotKind::Chosen,
            (_, Verdict::No) => DotKind::Other,
            _ => DotKind::Step,
        },
    };
    let base = |c: &Candidate| {
        vec![
            c.model.name.clone(),
            count(c.model.params),
            count(c.model.context),
            c.model.tokens.map_or("–".into(), count),
            format!("{:.1} s", c.latency_secs),
            format!("{:.0}", c.accelerators),
            c.model.licence.clone(),
            if c.model.languages.len() > 4 {
                format!("{} and {} more", c.model.languages[..3].join(" "), c.model.languages.len() - 3)
            } else {
                c.model.languages.join(" ")
            },
            c.model.date.clone(),
            if c.lacks.is_empty() { "fits".into() } else { format!("lacks {}", c.lacks.join("; ")) },
        ]
    };
    Answer {
        title: plan.advice.map_or("Nothing fits as asked".into(), |advice| format!("Try {advice} first")),
        asked: vec![
            ("domain tokens", count(question.domain_tokens)),
            ("examples", count(question.examples)),
            ("prompts with ranked answers", count(question.ranked_prompts)),
            ("questions a day", count(question.queries_per_day)),
            ("language", question.language.clone()),
            ("on", format!("{} at {}/h ({})", question.on, usd(plan.price.usd_per_hour), plan.price.when())),
        ],
        figures: vec![("first to try", plan.advice.unwrap_or("none").into()), ("costs are of", plan.base.clone())],
        charts: vec![(
            "Complexity against cost",
            Chart {
                x: Axis::log("US dollars: built, and served for a year"),
                y: Axis::straight("parts to build and keep"),
                dots: plan.approaches.iter().map(dot).collect(),
                ..Chart::default()
            },
        )],
        tables: vec![
            Table {
                title: "Approaches, from the simplest",
                head: vec!["approach", "verdict", "parts", "to build", "a year's serving"],
                rows: plan.approaches.iter().map(row).collect(),
            },
            Table { title: "Why", head: vec!["approach", "because"], rows: plan.approaches.iter().flat_map(why).collect() },
            Table {
                title: "What each is made of",
                head: vec!["approach", "parts"],
                rows: plan.approaches.iter().map(|a| vec![a.name.into(), a.parts.join(", ")]).collect(),
            },
            Table {
                title: "Base models",
                head: vec![
                    "base",
                    "parameters",
                    "context",
                    "tokens seen",
                    "a reply",
                    "accelerators",
                    "licence",
                    "languages",
                    "of",
                    "verdict",
                ],
                rows: plan.candidates.iter().take(15).map(base).collect(),
            },
        ],
        notes: vec![
            "serving is on your own machines, one copy always on; a service that sells tokens has its own prices".into(),
            "pretraining is priced at the base's size and twenty tokens a parameter; people's time is not priced".into(),
            "a reply: seconds alone on the fewest accelerators that hold the base, by the limits of memory and products".into(),
        ],
        warnings: question.prices_of.is_none().then(|| plan.price.warning()).flatten().into_iter().collect(),
        ..Answer::default()
    }
}
