//! The four phases that lead to a large model, as a project that `hairpin climb` runs: from the last phase's recipe, down.
//!
//! ```text
//! target recipe -> share of the data -> balanced size -> batch, steps, learning rate -> cut and time on its machines -> Project
//! ```
//! Sizes go down the target's own family so that each is as well balanced with its share of the data as the target is with all of it
//! ([`crate::laws::Parametric::balanced`]). On a rented cluster an early phase has few accelerators and little time, and is no
//! larger than they hold and train. What the phases cost and promise is [`crate::ladder::survey`]'s to say, from the project alone.

use data::PrepareOptions;
use train::recipe::{OptimKind, Recipe};

use crate::{
    PlanError,
    catalogue::{Catalogue, Instance, Price},
    ladder::project::{Phase, Project},
    laws::{Law, train_flops},
    questions::budget::{LAST, STEPS},
    questions::rent::{self, Rented},
    simulation::family,
    simulation::search::{Cut, Settled},
};

/// The machines that the ladder is climbed on.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// This one.
    Here,
    /// So many rented ones.
    Rented { catalogue: &'a Catalogue, instance: &'a Instance, nodes: usize, price: &'a Price },
}

/// The last phase.
pub struct Target<'a> {
    /// A recipe as it is written, without defaults.
    pub recipe: &'a toml::Table,
    /// Of the tokenizer, where the recipe leaves it to the data.
    pub vocab: Option<usize>,
}

/// A phase has so many steps at least, as the dial gives; its share of the data is larger where it must.
const LEAST_STEPS: f64 = 100.0;
/// A batch shrinks no further than this, or the target's own.
const LEAST_BATCH_TOKENS: f64 = 2048.0;
/// How batch and learning rate go with compute: arXiv:2401.02954, eq. 1, from the target's own values.
const BATCH_EXPONENT: f64 = 0.3271;
const LR_EXPONENT: f64 = -0.125;
/// Tries of a smaller model where one does not fit or takes too long, and how much smaller.
const TRIES: usize = 8;
const SHRINK: f64 = 0.7;
/// Ranks of a pipeline that a search looks at.
const MOST_STAGES: usize = 16;

impl Place<'_> {
    /// All accelerators that there are; this machine counts as one.
    #[must_use]
    pub fn accelerators(&self) -> usize {
        match self {
            Self::Here => 1,
            Self::Rented { instance, nodes, .. } => nodes * instance.count.max(1) as usize,
        }
    }
}

/// The most of at most `nodes` machines whose accelerators a recipe can share out: a power of two, times the stages of a pipeline.
#[must_use]
pub fn named_nodes(instance: &Instance, nodes: usize) -> usize {
    let is_named = |nodes: &usize| odd_part(nodes * instance.count.max(1) as usize) <= MOST_STAGES;
    (1..=nodes.max(1)).rev().find(is_named).unwrap_or(1)
}

fn odd_part(n: usize) -> usize {
    n >> n.trailing_zeros()
}

/// A project of four phases over `data`, the last of which is `target`.
/// # Errors
/// When the target is no recipe, has too few tokens for a ladder, or fits no cut of the machines.
pub fn lay(target: &Target<'_>, place: Place<'_>, law: &Law, data: PrepareOptions) -> Result<Project, PlanError> {
    if let Place::Rented { instance, nodes, .. } = place
        && named_nodes(instance, nodes) != nodes
    {
        return Err(PlanError::Impossible {
            problem: format!(
                "{} accelerators are no power of two times up to {MOST_STAGES} stages, as a recipe shares them out",
                place.accelerators()
            ),
            relax: format!("the nearest is `--on {}:{}`", instance.name, named_nodes(instance, nodes)),
        });
    }
    let desk = Desk::of(target, place, law)?;
    let mut phases = vec![desk.last()?];
    // What the last phase takes says how long the others may.
    let limits = phases[0].secs.map(|secs| STEPS.map(|step| secs * step.time_ratio / STEPS[LAST].time_ratio));
    let mut most_params = desk.params;
    for index in (0..LAST).rev() {
        let phase = desk.phase(index, most_params, limits.map(|limits| limits[index]))?;
        most_params = phase.params;
        phases.insert(0, phase);
    }
    let on = match place {
        Place::Here => None,
        Place::Rented { instance, nodes, price, .. } => Some(format!("{}{}:{nodes}", price.service.prefix(), instance.name)),
    };
    let name = target.recipe.get("name").and_then(toml::Value::as_str).unwrap_or("ladder").to_owned();
    Ok(Project {
        name,
        on,
        budget_secs: None,
        data,
        images: Default::default(),
        recipe: desk.shared(),
        phases: phases.into_iter().map(|p| p.phase).collect(),
    })
}

struct Desk<'a> {
    target: &'a Target<'a>,
    place: Place<'a>,
    law: &'a Law,
    /// The target with its defaults, and what follows from it.
    recipe: Recipe,
    params: f64,
    tokens: f64,
    /// Of the data, by phase.
    shares: [f64; STEPS.len()],
}

/// A phase, its size, and how long its machines take when they are rented.
struct Laid {
    phase: Phase,
    params: f64,
    secs: Option<f64>,
}

impl<'a> Desk<'a> {
    fn of(target: &'a Target<'a>, place: Place<'a>, law: &'a Law) -> Result<Self, PlanError> {
        let recipe = Recipe::parse(&target.recipe.to_string(), "the ladder's target", &[])?;
        let (_, model) = train::run::resolve(&recipe, target.vocab)?;
        let tokens = (recipe.train.steps * recipe.step_tokens()) as f64;
        let least_batch = LEAST_BATCH_TOKENS.min(recipe.step_tokens() as f64);
        let first = STEPS[0].data_ratio.max(LEAST_STEPS * least_batch / tokens);
        if first > 0.5 {
            return Err(PlanError::Impossible {
                problem: format!("the target trains on {tokens:.0} tokens in {} steps, too few for a ladder", recipe.train.steps),
                relax: format!("raise `train.steps` to {:.0} or more, or give more text", (2.0 * first * recipe.train.steps as f64).ceil()),
            });
        }
        // Where the first share is larger than usual, the others lie evenly between it and all.
        let share = |index: usize| STEPS[index].data_ratio.max(first.powf((LAST - index) as f64 / LAST as f64));
        let shares = std::array::from_fn(share);
        Ok(Self { target, place, law, params: model.params().active_elements() as f64, recipe, tokens, shares })
    }

    /// What all phases have alike.
    fn shared(&self) -> toml::Table {
        let mut table = self.target.recipe.clone();
        for key in ["name", "model", "data", "parallel"] {
            table.remove(key);
        }
        for (of, keys) in [
            ("train", &["steps"][..]),
            ("optim", &["lr"]),
            ("batch", &["sequences", "micro_batch", "lanes"]),
            ("schedule", &["warmup_steps"]),
        ] {
            if let Some(toml::Value::Table(table)) = table.get_mut(of) {
                keys.iter().for_each(|key| drop(table.remove(*key)));
            }
        }
        table
    }

    fn last(&self) -> Result<Laid, PlanError> {
        self.priced(LAST, self.target.recipe.get("model").and_then(toml::Value::as_table).cloned().unwrap_or_default(), self.params)
    }

    /// Phase `index`, balanced for its data, and no larger than the next, its accelerators and its time allow.
    fn phase(&self, index: usize, most_params: f64, limit_secs: Option<f64>) -> Result<Laid, PlanError> {
        let model = self.target.recipe.get("model").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        let mut params = self.law.best.balanced(self.params, self.shares[index]).min(most_params);
        for attempt in 0.. {
            let sized = family::shrunk(&model, params, self.target.vocab)?;
            let made = sized.params as f64;
            match (self.priced(index, sized.table, made), limit_secs) {
                (Ok(laid), Some(limit)) if attempt < TRIES && laid.secs.is_some_and(|secs| secs > 1.1 * limit) => {
                    params = made * (limit / laid.secs.unwrap_or(limit)).max(0.1);
                }
                (Err(PlanError::Impossible { .. }), _) if attempt < TRIES => params = SHRINK * made,
                (result, _) => return result,
            }
        }
        unreachable!("the loop above ends by returning")
    }

    /// Phase `index` with this model: its batch and learning rate, and on rented machines its cut.
    fn priced(&self, index: usize, model: toml::Table, params: f64) -> Result<Laid, PlanError> {
        let accelerators = STEPS[index].accelerators.map_or(self.place.accelerators(), |n| n.min(self.place.accelerators()));
        let tokens = self.shares[index] * self.tokens;
        let compute_ratio = train_flops(params, tokens) / train_flops(self.params, self.tokens);
        let batch = (self.recipe.step_tokens() as f64 * compute_ratio.powf(BATCH_EXPONENT))
            .max(LEAST_BATCH_TOKENS.min(self.recipe.step_tokens() as f64));
        // Ranks that see other data divide a batch.
        let divisor = (accelerators / odd_part(accelerators)).max(self.recipe.batch.lanes);
        let sequences = ((batch / (self.recipe.batch.context * divisor) as f64).round() as usize).max(1) * divisor;
        let steps = (tokens / (sequences * self.recipe.batch.context) as f64).round().max(1.0) as u64;
        let mut table = toml::Table::new();
        table.insert("model".into(), model.into());
        set(&mut table, "batch", "sequences", sequences as i64);
        set(&mut table, "batch", "micro_batch", self.recipe.batch.micro_batch.min(sequences) as i64);
        set(&mut table, "batch", "lanes", self.recipe.batch.lanes as i64);
        set(&mut table, "train", "steps", steps as i64);
        set(
            &mut table,
            "schedule",
            "warmup_steps",
            ((self.recipe.schedule.warmup_steps as f64 * steps as f64 / self.recipe.train.steps as f64).ceil() as i64).max(1),
        );
        // Of a dialled model whose rate is not written the dial gives it.
        let is_written = self.target.recipe.get("optim").and_then(|optim| optim.get("lr")).is_some();
        if is_written || self.target.recipe.get("model").is_none_or(|model| model.get("depth").is_none()) {
            let lr = f64::from(self.recipe.optim.lr) * compute_ratio.powf(LR_EXPONENT);
            // Three digits are more than any law knows.
            let lr: f64 = format!("{lr:.2e}").parse().unwrap_or(lr);
            set(&mut table, "optim", "lr", lr);
        }
        let mut phase = Phase { name: STEPS[index].name.into(), data_fraction: (1e6 * self.shares[index]).round() / 1e6, recipe: table };
        let Place::Rented { catalogue, instance, price, .. } = self.place else {
            return Ok(Laid { phase, params, secs: None });
        };
        // Muon needs whole matrices.
        let tensor = (self.recipe.optim.kind == OptimKind::Muon).then_some(1);
        let settled = Settled { tensor, is_for_recipe: true, ..Settled::default() };
        let recipe = self.whole(&phase)?;
        let rented = rent::rent(&recipe, catalogue, instance, accelerators, price, Some(&settled))?;
        cut(&mut phase.recipe, &rented);
        Ok(Laid { phase, params, secs: Some(rented.expected_secs[1]) })
    }

    /// The recipe of a phase as the project will give it.
    fn whole(&self, phase: &Phase) -> Result<Recipe, PlanError> {
        let project = Project {
            name: String::new(),
            on: None,
            budget_secs: None,
            data: PrepareOptions::default(),
            images: Default::default(),
            recipe: self.shared(),
            phases: vec![phase.clone()],
        };
        project.recipe(0, std::path::Path::new("."))
    }
}

/// Write the cut of `rented` into a phase's tables, and save as often as its failures ask.
fn cut(table: &mut toml::Table, rented: &Rented) {
    let Cut { tensor, pipeline, data, strategy, shards, chunks, micro_batch, recompute, .. } = rented.choice.cut;
    set(table, "batch", "micro_batch", micro_batch as i64);
    set(table, "batch", "lanes", data as i64);
    set(table, "train", "recompute", recompute);
    set(table, "train", "precision", rented.precision);
    let steps = (rented.reliability.interval_secs / rented.choice.time.step_secs).round().clamp(1.0, rented.steps as f64);
    set(table, "checkpoint", "every_steps", steps as i64);
    if rented.accelerators == 1 {
        return;
    }
    set(table, "parallel", "ranks", rented.accelerators as i64);
    set(table, "parallel", "strategy", strategy);
    // Over so many ranks the order of a sum is the network's.
    set(table, "parallel", "reduce", "fast");
    if chunks > 1 {
        set(table, "parallel", "schedule", "interleaved");
        set(table, "parallel", "chunks", chunks as i64);
    }
    let mut mesh = toml::Table::new();
    for (axis, ranks) in [("tensor", tensor), ("pipeline", pipeline)] {
        mesh.insert(axis.into(), (ranks as i64).into());
    }
    if strategy == "mics" {
        mesh.insert("shard".into(), (shards as i64).into());
    }
    set(table, "parallel", "mesh", mesh);
}

fn set(table: &mut toml::Table, of: &str, key: &str, value: impl Into<toml::Value>) {
    if let Some(table) = table.entry(of).or_insert_with(|| toml::Table::new().into()).as_table_mut() {
        table.insert(key.into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Service, Term};

    #[test]
    fn four_phases_lead_to_a_published_model_and_each_is_a_recipe() {
        let catalogue = Catalogue::load(None).unwrap();
        let instance = catalogue.instance("p4d.24xlarge").unwrap();
        let price = instance.price(Service::Ec2, Term::OnDemand, None).unwrap();
        let recipe = "name = \"small\"\nmodel = { preset = \"gpt2-1.5b\", vocab = 50304, heads = 20, head_dim = 80 }\n\
            batch = { sequences = 512, context = 1024 }\ntrain = { steps = 60000 }\noptim = { lr = 2e-4 }";
        let recipe: toml::Table = recipe.parse().unwrap();
        let place = Place::Rented { catalogue: &catalogue, instance, nodes: 4, price };
        let target = Target { recipe: &recipe, vocab: None };
        let project = lay(&target, place, &Law::chinchilla(), PrepareOptions::default()).unwrap();
        let again: Project = toml::from_str(&project.to_toml()).unwrap();
        assert_eq!((again.on.as_deref(), again.phases.len()), (Some("p4d.24xlarge:4"), 4));
        let recipes: Vec<Recipe> = (0..4).map(|i| again.recipe(i, std::path::Path::new("p")).unwrap()).collect();
        let ranks: Vec<usize> = recipes.iter().map(|r| r.parallel.ranks).collect();
        assert_eq!(ranks, [1, 8, 16, 32]);
        let params: Vec<u64> = recipes.iter().map(|r| models::build(&r.model).unwrap().params().elements()).collect();
        assert!(params.windows(2).all(|w| w[0] <= w[1]) && params[0] < params[3] / 20, "{params:?}");
        for (recipe, step) in recipes.iter().zip(STEPS) {
            let tokens = (recipe.train.steps * recipe.step_tokens()) as f64;
            assert!((tokens / (step.data_ratio * 512.0 * 1024.0 * 60_000.0) - 1.0).abs() < 0.01, "{tokens}");
        }
        assert!(recipes.windows(2).all(|w| w[0].optim.lr > w[1].optim.lr && w[0].step_tokens() <= w[1].step_tokens()));
        assert_eq!(recipes[3].optim.lr, 2e-4);
    }

    #[test]
    fn machines_that_no_recipe_can_share_out_name_the_nearest() {
        let catalogue = Catalogue::load(None).unwrap();
        let instance = catalogue.instance("p4d.24xlarge").unwrap();
        assert_eq!([48, 37, 114, 1].map(|nodes| named_nodes(instance, nodes)), [48, 36, 112, 1]);
        let price = instance.price(Service::Ec2, Term::OnDemand, None).unwrap();
        let recipe: toml::Table = "model = { depth = 4 }".parse().unwrap();
        let place = Place::Rented { catalogue: &catalogue, instance, nodes: 37, price };
        let target = Target { recipe: &recipe, vocab: None };
        let refusal = lay(&target, place, &Law::chinchilla(), PrepareOptions::default()).unwrap_err();
        assert!(matches!(refusal, PlanError::Impossible { ref relax, .. } if relax.contains("p4d.24xlarge:36")), "{refusal:?}");
    }

    #[test]
    fn little_text_makes_the_first_shares_larger() {
        let recipe: toml::Table =
            "model = { depth = 3 }\nbatch = { sequences = 8, context = 256 }\ntrain = { steps = 1600 }".parse().unwrap();
        let target = Target { recipe: &recipe, vocab: Some(4096) };
        let project = lay(&target, Place::Here, &Law::chinchilla(), PrepareOptions::default()).unwrap();
        let shares: Vec<f64> = project.phases.iter().map(|p| p.data_fraction).collect();
        assert_eq!(shares[0], 0.0625);
        assert!(shares.windows(2).all(|w| w[0] < w[1]) && shares[2] == 0.5 && shares[3] == 1.0, "{shares:?}");
        let few: toml::Table = "model = { depth = 3 }\ntrain = { steps = 90 }".parse().unwrap();
        let target = Target { recipe: &few, vocab: Some(4096) };
        assert!(lay(&target, Place::Here, &Law::chinchilla(), PrepareOptions::default()).is_err());
    }
}
