//! `hairpin plan align`: what learning from feedback costs.

use std::{path::PathBuf, process::ExitCode};

use ::plan::questions::align::{Plan, Question, Sizes, Step, here, rented};
use report::{
    Answer, Axis, Bars, Chart, Dot, DotKind, Table,
    terminal::{bytes, secs, usd},
};
use train::recipe::Recipe;

use super::{Renting, count, given};

/// Cost, time and memory of the loop of feedback: answers to rank, the reward model, kept replies, the policy
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan align reward.toml ppo.toml --ranked-prompts 500 --prompts 500
         hairpin plan align ppo.toml --on p4d.24xlarge --nodes 2
         hairpin plan align --actor 40B --reward 6B --on p4d.24xlarge --nodes 8

Recipes are priced on this machine unless `--on` says. Of a size alone, what is left out is as InstructGPT had it (arXiv:2203.02155).")]
pub(crate) struct AlignArgs {
    /// Recipes of the loop's parts, each objective once: `sft`, `reward`, and `dpo`, `ppo` or `grpo`
    #[arg(value_name = "RECIPE", required_unless_present = "actor")]
    recipes: Vec<PathBuf>,
    /// In place of recipes: parameters of the model that learns
    #[arg(long, value_parser = given::count, conflicts_with = "recipes")]
    actor: Option<f64>,
    /// Parameters of the reward model
    #[arg(long, default_value = "6B", value_parser = given::count, requires = "actor")]
    reward: f64,
    /// Written examples
    #[arg(long, default_value = "13k", value_parser = given::count, requires = "actor")]
    examples: f64,
    /// Prompts whose answers people rank; default: 33k, and with recipes none
    #[arg(long, value_parser = given::count)]
    ranked_prompts: Option<f64>,
    /// Answers to each of them
    #[arg(long, default_value_t = 6.5, value_parser = given::number)]
    answers: f64,
    /// Prompts to which the original's replies are kept; default: 31k, and with recipes none
    #[arg(long, value_parser = given::count)]
    prompts: Option<f64>,
    /// Replies that PPO writes in all
    #[arg(long, default_value = "256k", value_parser = given::count, requires = "actor")]
    episodes: f64,
    /// Pretraining windows beside each reply; InstructGPT took 8
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64), requires = "actor")]
    pretraining_mix: u32,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    prompt_tokens: u32,
    /// Tokens of an answer; of a recipe's policy it is `objective.response_tokens`
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    answer_tokens: u32,
    /// How many of the instance
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    nodes: u64,
    #[command(flatten)]
    renting: Renting,
}

pub(super) fn run(args: &AlignArgs, json: bool) -> miette::Result<ExitCode> {
    let renting = &args.renting;
    let question = question(args)?;
    let on = renting.on.as_deref().or(args.actor.map(|_| "p4d.24xlarge"));
    let plan = match on {
        None => here(&question)?,
        Some(on) => {
            let catalogue = renting.showing.catalogue()?;
            let price = catalogue.instance(on)?.price(renting.service(on)?, renting.term.into(), renting.prices_of.as_deref())?.clone();
            let on = ::plan::questions::align::Renting { on: on.into(), nodes: args.nodes, price, mfu: renting.mfu };
            rented(&question, &catalogue, &on)?
        }
    };
    let mut answer = answer(&question, &plan);
    if renting.prices_of.is_none() {
        answer.warnings.extend(plan.price.as_ref().and_then(|price| price.warning()));
    }
    renting.showing.tell(&answer, &plan, json)
}

fn question(args: &AlignArgs) -> miette::Result<Question> {
    let [prompt_tokens, reply_tokens] = [args.prompt_tokens, args.answer_tokens].map(|tokens| tokens as usize);
    let Some(actor_params) = args.actor else {
        let recipes = args.recipes.iter().map(|path| Recipe::read(path, &[])).collect::<Result<Vec<_>, _>>()?;
        let (ranked_prompts, prompts) = (args.ranked_prompts.unwrap_or(0.0), args.prompts.unwrap_or(0.0));
        return Ok(Question { recipes, ranked_prompts, answers: args.answers, prompts, prompt_tokens, reply_tokens });
    };
    let usual = Sizes::instruct_gpt(actor_params);
    let sizes = Sizes {
        reward_params: args.reward,
        examples: args.examples,
        ranked_prompts: args.ranked_prompts.unwrap_or(usual.ranked_prompts),
        answers: args.answers,
        prompts: args.prompts.unwrap_or(usual.prompts),
        episodes: args.episodes,
        pretraining_mix: args.pretraining_mix,
        prompt_tokens,
        reply_tokens,
        ..usual
    };
    Ok(sizes.question()?)
}

fn answer(question: &Question, plan: &Plan) -> Answer {
    let sum = |of: &dyn Fn(&Step) -> f64| plan.steps.iter().map(of).sum::<f64>();
    let cost = |s: &Step| s.usd.map_or("–".into(), usd);
    let row = |s: &Step| {
        vec![
            s.name.into(),
            format!("{:.1e}", s.flops()),
            bytes(s.memory_bytes()),
            secs(s.train_secs),
            secs(s.say_secs),
            secs(s.write_secs),
            secs(s.secs()),
            cost(s),
        ]
    };
    let kind = |s: &Step| if Some(s.name) == plan.steps.last().map(|s| s.name) { DotKind::Chosen } else { DotKind::Step };
    let dot = |s: &Step| Dot { name: s.name.into(), x: s.flops(), y: s.secs(), kind: kind(s) };
    let largest = plan.steps.iter().max_by_key(|s| s.memory_bytes());
    let memory =
        largest.map(|s| Bars { rows: s.memory.iter().map(|(what, n)| ((*what).to_owned(), *n as f64, bytes(*n))).collect(), full: None });
    let on = match &plan.price {
        Some(price) => format!("{} at {}/h ({})", plan.on, usd(price.usd_per_hour), price.when()),
        None => plan.on.clone(),
    };
    let mut figures = vec![("time", secs(sum(&Step::secs)))];
    if plan.price.is_some() {
        figures.insert(0, ("in all", usd(sum(&|s| s.usd.unwrap_or(0.0)))));
    }
    if plan.comparisons > 0.0 {
        figures.push(("comparisons by people", count(plan.comparisons)));
    }
    let mut notes = vec![
        "FLOPs and memory by a run of these very passes without numbers; memory is the first rank's, in the numbers of this machine".into(),
        "people's time to rank is not priced".into(),
    ];
    notes.push(match plan.price {
        None => "time by a few steps, rows and tokens of each, run now; replies of the policy are taken as long as they may be".into(),
        Some(_) => {
            "time of steps by their simulation there, of asking at the rate of steps, of writing by reading weights and keys from memory"
                .into()
        }
    });
    if question.ranked_prompts == 0.0 || question.prompts == 0.0 {
        notes.push("answers to rank are priced with `--ranked-prompts`, the original's kept replies with `--prompts`".into());
    }
    Answer {
        title: format!("Learning from feedback: {} parameters", count(plan.params as f64)),
        asked: vec![
            ("parts", plan.steps.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")),
            ("ranked prompts", count(question.ranked_prompts)),
            ("on", on),
        ],
        figures,
        bars: memory.map(|bars| ("What fills the first rank of the largest part", bars)).into_iter().collect(),
        charts: vec![(
            "Time of each part",
            Chart { x: Axis::log("FLOPs"), y: Axis::log("seconds"), dots: plan.steps.iter().map(dot).collect(), ..Chart::default() },
        )],
        tables: vec![Table {
            title: "Parts",
            head: vec!["part", "FLOPs", "memory", "training", "asking", "writing", "time", "cost"],
            rows: plan.steps.iter().map(row).collect(),
        }],
        notes,
        ..Answer::default()
    }
}
