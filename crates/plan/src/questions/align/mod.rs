//! What learning from feedback costs: fine-tuning on written examples, answers to compare, the reward model, the original model's
//! replies kept beforehand, and the policy.
//!
//! ```text
//! recipes -> their steps on Meta                    FLOPs, memory
//!         -> align::cost: what they write and ask   FLOPs, memory
//! -> here: a few of each, timed                     or rented: the step simulated, writing by the memory's rate
//! ```
//! Without recipes they are made from numbers of parameters ([`Sizes`]). The value is a second head of the policy, as this code has it.

mod here;
mod rented;
mod sizes;

use std::{path::Path, rc::Rc};

use align::cost::{Asking, Beside, beside, saying, writing};
use engine::Precision;
pub use here::here;
use models::Model;
pub use rented::{Renting, rented};
use serde::Serialize;
pub use sizes::Sizes;
use train::{
    checkpoint, objective,
    recipe::Recipe,
    run,
    step::{StepOptions, cost},
};

use crate::{PlanError, catalogue::Price};

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Of the loop's parts, each objective once: `sft`, `reward`, and of a policy `dpo`, `ppo` or `grpo`.
    pub recipes: Vec<Recipe>,
    /// Prompts whose answers are ranked, and answers to each.
    pub ranked_prompts: f64,
    pub answers: f64,
    /// Prompts to which the original's replies are kept.
    pub prompts: f64,
    pub prompt_tokens: usize,
    /// Of answers to rank, and of replies that are kept.
    pub reply_tokens: usize,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Of the policy, with its heads.
    pub params: u64,
    /// Human rankings: pairs among the answers to each prompt.
    pub comparisons: f64,
    /// Where it is priced: this machine, or so many accelerators at this price.
    pub on: String,
    pub accelerators: Option<u64>,
    pub price: Option<Price>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub name: &'static str,
    /// Of training, of rows that models are asked about, and of replies that are written; by `Meta`.
    pub train_flops: f64,
    pub say_flops: f64,
    pub write_flops: f64,
    /// What the first rank holds at a time, in the numbers of this machine.
    pub memory: Vec<(&'static str, u64)>,
    pub train_secs: f64,
    pub say_secs: f64,
    pub write_secs: f64,
    pub usd: Option<f64>,
}

impl Step {
    #[must_use]
    pub fn flops(&self) -> f64 {
        self.train_flops + self.say_flops + self.write_flops
    }

    #[must_use]
    pub fn secs(&self) -> f64 {
        self.train_secs + self.say_secs + self.write_secs
    }

    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// A model that is asked or lets write.
struct Teller {
    model: Rc<dyn Model>,
    precision: Precision,
    /// Tokens of a row that it is asked about.
    row_tokens: usize,
}

impl Teller {
    fn saying(&self) -> Result<Asking, PlanError> {
        Ok(saying(&*self.model, self.precision, self.row_tokens)?)
    }
}

/// A part of the loop before it has a time.
struct Work {
    step: Step,
    /// What is trained, completed by its model.
    recipe: Option<Recipe>,
    /// Rows by whom.
    says: Vec<(Rc<Teller>, f64)>,
    /// Replies by whom, and their tokens.
    writes: Option<(Rc<Teller>, f64, usize)>,
}

/// `recipe` with the model that it begins with, where that is here.
fn completed(recipe: &Recipe) -> Result<(Recipe, Box<dyn Model>), PlanError> {
    let is_there = recipe.from.as_ref().is_some_and(|from| from.path.exists());
    let recipe = if is_there { run::with_its_model(recipe, Path::new(""))? } else { recipe.clone() };
    Ok(run::resolve(&recipe, None)?)
}

fn teller(recipe: &Recipe, model: Box<dyn Model>) -> Rc<Teller> {
    Rc::new(Teller { model: model.into(), precision: recipe.train.precision.resolve(), row_tokens: recipe.batch.context })
}

/// The model of `recipe` as it is before it has the heads of an objective.
fn original(recipe: &Recipe) -> Result<Rc<Teller>, PlanError> {
    let mut table = recipe.model.clone();
    table.remove("head");
    Ok(teller(recipe, models::build(&table).map_err(train::TrainError::from)?))
}

/// The reward model: that of a recipe of the question, or of the run that the policy's recipe names.
fn judge(recipes: &[Recipe], named: Option<&Path>) -> Result<Option<Rc<Teller>>, PlanError> {
    if let Some(recipe) = recipes.iter().find(|recipe| objective::name(recipe) == "reward") {
        let (recipe, model) = completed(recipe)?;
        return Ok(Some(teller(&recipe, model)));
    }
    let Some(path) = named else { return Ok(None) };
    let found = checkpoint::list(path).pop().and_then(|(_, path)| checkpoint::manifest(&path).ok());
    let Some(manifest) = found.or_else(|| checkpoint::manifest(path).ok()) else {
        return Err(PlanError::Impossible {
            problem: format!("the reward model `{}` is not trained yet, and its recipe is not among those given", path.display()),
            relax: "give it too: `hairpin plan align reward.toml ppo.toml`".into(),
        });
    };
    let recipe = Recipe::parse(&manifest.recipe, &path.display().to_string(), &[])?;
    let model = models::build(&recipe.model).map_err(train::TrainError::from)?;
    Ok(Some(teller(&recipe, model)))
}

/// The parts of the loop in their order, with FLOPs and bytes and without times, and the parameters of the policy.
fn parts(q: &Question) -> Result<(Vec<Work>, u64), PlanError> {
    let named = |names: &[&str]| q.recipes.iter().find(|recipe| names.contains(&objective::name(recipe)));
    let policy = named(&["ppo", "grpo", "dpo"]).or(q.recipes.first()).ok_or_else(|| PlanError::Impossible {
        problem: "there is no recipe to price".into(),
        relax: "give recipes of the loop, e.g. `hairpin plan align reward.toml ppo.toml`, or `--actor 40B`".into(),
    })?;
    let (policy, model) = completed(policy)?;
    let params = model.params().elements();
    let original = original(&policy)?;
    let beside = beside(&policy)?;
    let judge = judge(&q.recipes, beside.judge.as_deref())?;
    let mut all = Vec::new();
    if let Some(recipe) = named(&["sft"]) {
        all.push(trained("fine-tune on examples", recipe)?);
    }
    if q.ranked_prompts > 0.0 {
        all.push(written("write answers to rank", q, &original, q.ranked_prompts * q.answers, &[])?);
    }
    if let Some(recipe) = named(&["reward"]) {
        all.push(trained("train the reward model", recipe)?);
    }
    if q.prompts > 0.0 {
        let said: Vec<&Rc<Teller>> = std::iter::once(&original).chain(&judge).collect();
        all.push(written("keep the original's replies", q, &original, q.prompts, &said)?);
    }
    let name = match objective::name(&policy) {
        "ppo" => "PPO",
        "grpo" => "GRPO",
        "dpo" => "DPO",
        _ => return Ok((all, params)),
    };
    let mut work = trained(name, &policy)?;
    let of_policy = teller(&policy, model);
    add_asking(&mut work, q, &beside, [&of_policy, &original], judge.as_ref())?;
    all.push(work);
    Ok((all, params))
}

/// What `recipe` trains, by its steps on `Meta`.
fn trained(name: &'static str, recipe: &Recipe) -> Result<Work, PlanError> {
    let (recipe, model) = completed(recipe)?;
    let options = StepOptions::of(&recipe);
    let cost = cost(&*model, &options, options.mesh.place(0))?;
    let samples = recipe.batch.sequences as f64 * recipe.train.steps as f64;
    let step = Step {
        name,
        train_flops: cost.micro_batch_flops as f64 / options.micro_batch as f64 * samples,
        memory: vec![
            ("weights, gradients, optimiser", cost.weight_bytes + cost.grad_bytes + cost.optimiser_bytes + cost.packed_bytes),
            ("activations and work", cost.pool_bytes + cost.message_bytes + cost.kernel_bytes),
        ],
        ..Step::nothing(name)
    };
    Ok(Work { step, recipe: Some(recipe), says: Vec::new(), writes: None })
}

impl Step {
    fn nothing(name: &'static str) -> Self {
        Self {
            name,
            train_flops: 0.0,
            say_flops: 0.0,
            write_flops: 0.0,
            memory: Vec::new(),
            train_secs: 0.0,
            say_secs: 0.0,
            write_secs: 0.0,
            usd: None,
        }
    }
}

/// So many replies by `writer`, of which each of `said` is asked.
fn written(name: &'static str, q: &Question, writer: &Rc<Teller>, replies: f64, said: &[&Rc<Teller>]) -> Result<Work, PlanError> {
    let mut work = Work { step: Step::nothing(name), recipe: None, says: Vec::new(), writes: None };
    let cost = writing(&*writer.model, writer.precision, q.prompt_tokens, q.reply_tokens)?;
    work.step.write_flops = replies * cost.flops;
    work.step.memory.push(("the model that writes", cost.weight_bytes));
    let mut pass_bytes = cost.pass_bytes;
    for (i, teller) in said.iter().enumerate() {
        let asking = teller.saying()?;
        work.step.say_flops += replies * asking.flops;
        pass_bytes = pass_bytes.max(asking.pass_bytes);
        if i > 0 {
            work.step.memory.push(("the reward model", asking.weight_bytes));
        }
        work.says.push((Rc::clone(teller), replies));
    }
    work.step.memory.push(("passes that write and ask", pass_bytes));
    work.writes = Some((Rc::clone(writer), replies, q.reply_tokens));
    Ok(work)
}

/// What a policy's recipe writes and asks besides its steps. The first rank holds a copy of the policy that writes, the original where it
/// is asked, and the reward model.
fn add_asking(
    work: &mut Work,
    q: &Question,
    beside: &Beside,
    [policy, original]: [&Rc<Teller>; 2],
    judge: Option<&Rc<Teller>>,
) -> Result<(), PlanError> {
    let mut pass_bytes = 0;
    if beside.replies > 0 {
        let cost = writing(&*policy.model, policy.precision, q.prompt_tokens, beside.reply_tokens)?;
        work.step.write_flops = beside.replies as f64 * cost.flops;
        work.step.memory.push(("the policy's copy that writes", cost.weight_bytes));
        work.writes = Some((Rc::clone(policy), beside.replies as f64, beside.reply_tokens));
        pass_bytes = cost.pass_bytes;
    }
    let tellers = [
        ("", Some(policy), beside.of_policy),
        ("the original", Some(original), beside.of_original),
        ("the reward model", judge, beside.of_judge),
    ];
    for (what, teller, rows) in tellers {
        let Some(teller) = teller.filter(|_| rows > 0) else { continue };
        let asking = teller.saying()?;
        work.step.say_flops += rows as f64 * asking.flops;
        pass_bytes = pass_bytes.max(asking.pass_bytes);
        if !what.is_empty() {
            work.step.memory.push((what, asking.weight_bytes));
        }
        work.says.push((Rc::clone(teller), rows as f64));
    }
    if pass_bytes > 0 {
        work.step.memory.push(("passes that write and ask", pass_bytes));
    }
    Ok(())
}

/// FLOPs of each part, by `Meta`.
///
/// ```
/// // InstructGPT 175B printed 4.9 and 60 PF-days for examples and PPO-ptx (arXiv:2203.02155, section 5.1), at sequences of up to 2,048
/// // tokens. This code's also counts attention, asks the policy once more for its log-probabilities, and has no critic of its own.
/// let sizes = plan::questions::align::Sizes { pretraining_mix: 8, ..plan::questions::align::Sizes::instruct_gpt(175e9) };
/// let parts = plan::questions::align::flops(&sizes.question()?)?;
/// let [(_, examples), .., (_, ppo)] = &parts[..] else { panic!("{parts:?}") };
/// assert!((examples / 8.64e19 / 4.9 - 1.0).abs() < 0.15, "{}", examples / 8.64e19);
/// assert!((ppo / 8.64e19 / 60.0 - 1.0).abs() < 0.15, "{}", ppo / 8.64e19);
/// # Ok::<(), plan::PlanError>(())
/// ```
/// # Errors
/// As [`here()`].
pub fn flops(question: &Question) -> Result<Vec<(&'static str, f64)>, PlanError> {
    Ok(parts(question)?.0.into_iter().map(|work| (work.step.name, work.step.flops())).collect())
}

/// FLOPs of all parts together, but for those of writing, which is bound by memory.
/// # Errors
/// As [`here()`].
pub fn flops_without_writing(question: &Question) -> Result<f64, PlanError> {
    Ok(parts(question)?.0.iter().map(|work| work.step.train_flops + work.step.say_flops).sum())
}

/// Pairs among the answers to each prompt.
fn comparisons(q: &Question) -> f64 {
    q.ranked_prompts * q.answers * (q.answers - 1.0) / 2.0
}
