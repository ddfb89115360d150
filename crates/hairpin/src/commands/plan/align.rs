//! `hairpin plan align`: what learning from human feedback costs.

use std::process::ExitCode;

use ::plan::questions::align::{Plan, Question, Step, instruct_gpt, plan};
use report::{
    Answer, Axis, Chart, Dot, DotKind, Table,
    terminal::{bytes, secs, usd},
};

use super::{Renting, count, given};

/// Cost and time of the reward model, of keeping the original's replies, and of PPO
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan align --actor 40B --reward 6B --on p4d.24xlarge --nodes 8

What is left out is as InstructGPT had it (arXiv:2203.02155).")]
pub(crate) struct AlignArgs {
    /// Parameters of the model that learns
    #[arg(long, value_parser = given::count)]
    actor: f64,
    /// Parameters of the reward model
    #[arg(long, default_value = "6B", value_parser = given::count)]
    reward: f64,
    /// Written examples
    #[arg(long, default_value = "13k", value_parser = given::count)]
    examples: f64,
    /// Prompts whose answers people rank
    #[arg(long, default_value = "33k", value_parser = given::count)]
    ranked_prompts: f64,
    /// Answers to each of them
    #[arg(long, default_value_t = 6.5, value_parser = given::number)]
    answers: f64,
    /// Prompts of PPO
    #[arg(long, default_value = "31k", value_parser = given::count)]
    prompts: f64,
    /// Replies that PPO writes in all
    #[arg(long, default_value = "256k", value_parser = given::count)]
    episodes: f64,
    /// Pretraining sequences mixed in for each reply; InstructGPT took 8; default: none
    #[arg(long, value_parser = given::number)]
    pretraining_mix: Option<f64>,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    prompt_tokens: u32,
    /// Tokens of an answer
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
    let on = renting.on.as_deref().unwrap_or("p4d.24xlarge");
    let question = Question {
        actor_params: args.actor,
        reward_params: args.reward,
        examples: args.examples,
        ranked_prompts: args.ranked_prompts,
        answers: args.answers,
        prompts: args.prompts,
        episodes: args.episodes,
        pretraining_mix: args.pretraining_mix.unwrap_or(0.0),
        prompt_tokens: f64::from(args.prompt_tokens),
        answer_tokens: f64::from(args.answer_tokens),
        nodes: args.nodes,
        service: renting.service(on)?,
        term: renting.term.into(),
        prices_of: renting.prices_of.clone(),
        mfu: renting.mfu,
        ..instruct_gpt(on)
    };
    let plan = plan(&question, &renting.showing.catalogue()?)?;
    renting.showing.tell(&answer(&question, &plan), &plan, json)
}

fn answer(question: &Question, plan: &Plan) -> Answer {
    let sum = |of: &dyn Fn(&Step) -> f64| plan.steps.iter().map(of).sum::<f64>();
    let row = |s: &Step| {
        vec![s.name.into(), format!("{:.1e}", s.flops), format!("{:.2}", s.flops / 8.64e19), secs(s.writing_secs), secs(s.secs), usd(s.usd)]
    };
    let dot =
        |s: &Step| Dot { name: s.name.into(), x: s.flops, y: s.usd, kind: if s.name == "PPO" { DotKind::Chosen } else { DotKind::Step } };
    Answer {
        title: format!("Aligning {} parameters", count(question.actor_params)),
        asked: vec![
            ("reward model", count(question.reward_params)),
            ("ranked prompts", count(question.ranked_prompts)),
            ("episodes", count(question.episodes)),
            ("on", format!("{} x {} at {}/h ({})", question.nodes, question.on, usd(plan.price.usd_per_hour), plan.price.when())),
        ],
        figures: vec![
            ("in all", usd(sum(&|s| s.usd))),
            ("time", secs(sum(&|s| s.secs))),
            ("comparisons by people", count(plan.comparisons)),
            ("memory of PPO's four models", bytes(plan.ppo_bytes as u64)),
        ],
        charts: vec![(
            "Cost of each step",
            Chart { x: Axis::log("FLOPs"), y: Axis::log("US dollars"), dots: plan.steps.iter().map(dot).collect(), ..Chart::default() },
        )],
        tables: vec![Table {
            title: "Steps",
            head: vec!["step", "FLOPs", "PF-days", "of it writing", "time", "cost"],
            rows: plan.steps.iter().map(row).collect(),
        }],
        notes: vec![
            format!("MFU of training {:.0}%: {}", 100.0 * plan.mfu.ratio, plan.mfu.source),
            "writing is bound by reading weights and keys from memory; people's time to rank is not priced".into(),
        ],
        warnings: question.prices_of.is_none().then(|| plan.price.warning()).flatten().into_iter().collect(),
        ..Answer::default()
    }
}
