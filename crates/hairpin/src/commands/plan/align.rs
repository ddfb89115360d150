//! `hairpin plan align`: what learning from human feedback costs.

use std::process::ExitCode;

use ::plan::{
    PlanError,
    align::{Plan, Question, Step, instruct_gpt, plan},
    units,
};
use report::{
    Answer, Axis, Chart, Dot, DotKind, Table,
    terminal::{bytes, secs, usd},
};

use super::{Renting, count};

/// Cost and time of the reward model, of keeping the original's replies, and of PPO
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin plan align --actor 40B --reward 6B --on p4d.24xlarge --nodes 8

What is left out is as InstructGPT had it (arXiv:2203.02155).")]
pub(crate) struct AlignArgs {
    /// Parameters of the model that learns
    #[arg(long)]
    actor: String,
    /// Parameters of the reward model
    #[arg(long, default_value = "6B")]
    reward: String,
    /// Written examples
    #[arg(long, default_value = "13k")]
    examples: String,
    /// Prompts whose answers people rank
    #[arg(long, default_value = "33k")]
    ranked_prompts: String,
    /// Answers to each of them
    #[arg(long, default_value_t = 6.5)]
    answers: f64,
    /// Prompts of PPO
    #[arg(long, default_value = "31k")]
    prompts: String,
    /// Replies that PPO writes in all
    #[arg(long, default_value = "256k")]
    episodes: String,
    /// Pretraining sequences mixed in for each reply; InstructGPT took 8
    #[arg(long, default_value_t = 0.0)]
    pretraining_mix: f64,
    #[arg(long, default_value_t = 512)]
    prompt_tokens: u32,
    #[arg(long, default_value_t = 512)]
    answer_tokens: u32,
    #[arg(long, default_value_t = 1)]
    nodes: u64,
    #[command(flatten)]
    renting: Renting,
}

pub(super) fn run(args: &AlignArgs, json: bool) -> miette::Result<ExitCode> {
    let renting = &args.renting;
    let on = renting.on.as_deref().unwrap_or("p4d.24xlarge");
    for (value, name) in [(args.nodes as f64, "--nodes"), (args.answers, "--answers"), (f64::from(args.answer_tokens), "--answer-tokens")] {
        if !(value > 0.0 && value.is_finite()) {
            return Err(PlanError::Unit { text: value.to_string(), problem: format!("is nothing for {name}"), example: "1" }.into());
        }
    }
    let question = Question {
        actor_params: units::count(&args.actor)?,
        reward_params: units::count(&args.reward)?,
        examples: units::count(&args.examples)?,
        ranked_prompts: units::count(&args.ranked_prompts)?,
        answers: args.answers,
        prompts: units::count(&args.prompts)?,
        episodes: units::count(&args.episodes)?,
        pretraining_mix: args.pretraining_mix.max(0.0),
        prompt_tokens: f64::from(args.prompt_tokens),
        answer_tokens: f64::from(args.answer_tokens),
        nodes: args.nodes,
        service: renting.service.into(),
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
            ("on", format!("{} x {} at {}/h ({})", question.nodes, question.on, usd(plan.price.usd_per_hour), plan.price.from)),
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
        warnings: vec![],
    }
}
