//! What jobs will take, before anything is sent: the planner's own answer for the machines that are asked for.

use std::collections::HashMap;

use plan::{
    PlanError,
    catalogue::{Catalogue, Instance, Service, Term},
    questions::rent::{self, Rented},
};
use serde::{Deserialize, Serialize};
use train::{
    objective,
    recipe::Recipe,
    run,
    step::{self, StepCost, StepOptions},
};

use crate::{LaunchError, job::Machines};

/// Of one job, as it is kept with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quoted {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
    pub steps: u64,
    pub step_tokens: u64,
    /// Between two checkpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_secs: Option<f64>,
}

/// Of all jobs of a command. What is not known is `null`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Quote {
    /// From the first start to the last end, with as many at once as may; waiting for machines aside.
    pub days: Option<f64>,
    pub usd: Option<f64>,
    pub memory_fits: Option<bool>,
    /// Bytes of data and checkpoints, and what keeping them costs until the end.
    pub storage_bytes: Option<f64>,
    pub storage_usd: Option<f64>,
    /// Of one job's machines.
    pub usd_per_hour: Option<f64>,
    /// Of when and where the price is.
    pub price: Option<String>,
    /// The same by other services and terms.
    pub offers: Vec<(String, f64)>,
    pub notes: Vec<String>,
    /// Why it cannot be, where it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// What is found out about one recipe on its machines.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub quoted: Quoted,
    pub memory_fits: Option<bool>,
    pub memory_bytes: Option<u64>,
    pub usd_per_hour: Option<f64>,
    pub price: Option<String>,
    pub rented: Option<Rented>,
    /// Keys of the recipe that lay it out over the machines as it was priced.
    pub layout: Vec<String>,
    pub ranks_each: usize,
    pub notes: Vec<String>,
    /// Why it cannot be, where it cannot.
    pub refusal: Option<String>,
}

/// Answers for recipes that cost the same are found once.
#[derive(Default)]
pub struct Desk {
    found: HashMap<String, Found>,
}

impl Desk {
    /// What `recipe` takes on `machines`.
    /// # Errors
    /// Unknown instances and prices; a model or data that cannot be.
    pub fn ask(&mut self, recipe: &Recipe, machines: &Machines, catalogue: &Catalogue) -> Result<Found, LaunchError> {
        // Neither seeds nor rates nor names cost anything.
        let mut same = Recipe { seed: 0, name: String::new(), ..recipe.clone() };
        (same.optim.lr, same.optim.muon_lr, same.optim.weight_decay) = (0.0, 0.0, 0.0);
        let key = format!("{}\n{machines:?}", same.to_toml());
        if let Some(found) = self.found.get(&key) {
            return Ok(found.clone());
        }
        let found = find(recipe, machines, catalogue)?;
        self.found.insert(key, found.clone());
        Ok(found)
    }
}

fn find(recipe: &Recipe, machines: &Machines, catalogue: &Catalogue) -> Result<Found, LaunchError> {
    let quoted = Quoted { steps: recipe.train.steps, step_tokens: recipe.step_tokens(), ..Quoted::default() };
    let Some(name) = &machines.instance else {
        let found = Found { quoted, ranks_each: ranks_each(recipe, machines)?, layout: ranks_layout(recipe, machines), ..Found::default() };
        return if machines.place == "local" { here(recipe, found) } else { Ok(found) };
    };
    let instance = catalogue.instance(name)?;
    let service = if machines.place == "sagemaker" { Service::Sagemaker } else { Service::of(name, None)? };
    let price = instance.price(service, Term::OnDemand, None)?;
    let usd_per_hour = machines.count as f64 * price.usd_per_hour;
    let told = format!("${}/h each, {} ({}, {})", price.usd_per_hour, price.when(), price.service.name(), price.term.name());
    let found = Found {
        quoted,
        usd_per_hour: Some(usd_per_hour),
        price: Some(told),
        notes: price.warning().into_iter().collect(),
        ..Found::default()
    };
    if instance.accelerator.is_none() {
        return on_cpus(recipe, machines, instance, found);
    }
    let accelerators = machines.count * instance.count.max(1) as usize;
    match rent::rent(recipe, catalogue, instance, accelerators, price, None) {
        Ok(rented) => Ok(on_accelerators(recipe, instance, rented, found)),
        Err(PlanError::Impossible { problem, relax }) => Ok(Found {
            memory_fits: Some(false),
            ranks_each: instance.count.max(1) as usize,
            refusal: Some(format!("{problem}: {relax}")),
            ..found
        }),
        Err(error) => Err(error.into()),
    }
}

fn on_accelerators(recipe: &Recipe, instance: &Instance, rented: Rented, found: Found) -> Found {
    let secs = rented.expected_secs[1];
    let interval_secs = recipe.checkpoint.every_steps.min(rented.steps) as f64 * secs / rented.steps.max(1) as f64;
    let mut notes = found.notes;
    let [fast, _, slow] = rented.expected_secs.map(|secs| secs / 86_400.0);
    notes.push(format!("four of five runs end within {fast:.0} to {slow:.0} days"));
    let layout = if rented.is_recipes { Vec::new() } else { cut_layout(&rented) };
    // What is launched is what was priced, or it is said why not.
    let layout = match Recipe::parse(&recipe.to_toml(), "the recipe", &layout) {
        Ok(_) => layout,
        Err(error) => {
            notes.push(format!("the layout that was priced cannot be the recipe's ({error}): set `[parallel]` by hand"));
            Vec::new()
        }
    };
    Found {
        quoted: Quoted { secs: Some(secs), usd: Some(rented.usd), interval_secs: Some(interval_secs), ..found.quoted },
        memory_fits: Some(true),
        memory_bytes: Some(rented.choice.time.bytes.total() as u64),
        ranks_each: instance.count.max(1) as usize,
        layout,
        notes,
        rented: Some(rented),
        ..found
    }
}

/// The best cut as keys of a recipe.
fn cut_layout(rented: &Rented) -> Vec<String> {
    let cut = &rented.choice.cut;
    let mut keys = vec![
        format!("parallel.ranks={}", rented.accelerators),
        format!("parallel.strategy={}", cut.strategy),
        format!("parallel.mesh.tensor={}", cut.tensor),
        format!("parallel.mesh.pipeline={}", cut.pipeline),
        format!("batch.micro_batch={}", cut.micro_batch),
        format!("batch.lanes={}", cut.data),
        format!("train.recompute={}", cut.recompute),
    ];
    if cut.strategy == "mics" {
        keys.push(format!("parallel.mesh.shard={}", cut.shards));
    }
    if cut.chunks > 1 {
        keys.extend(["parallel.schedule=interleaved".to_owned(), format!("parallel.chunks={}", cut.chunks)]);
    }
    keys
}

fn on_cpus(recipe: &Recipe, machines: &Machines, instance: &Instance, found: Found) -> Result<Found, LaunchError> {
    let mut found = Found { ranks_each: ranks_each(recipe, machines)?, layout: ranks_layout(recipe, machines), ..found };
    let bytes = cost_bytes(recipe, None)?;
    found.memory_bytes = Some(bytes);
    found.memory_fits = Some(bytes as f64 <= instance.memory_gib * (1_u64 << 30) as f64);
    found
        .notes
        .push(format!("{} has no accelerator: its time is not simulated, so days and dollars of the run are not known", instance.name));
    if found.memory_fits == Some(false) {
        found.refusal = Some(format!("a step takes {bytes} bytes, and {} has {} GiB", instance.name, instance.memory_gib));
    }
    Ok(found)
}

/// On this machine, whose memory and data can be looked at.
fn here(recipe: &Recipe, found: Found) -> Result<Found, LaunchError> {
    // What is not prepared, or not of this recipe, is told now and not by the job.
    let feed = objective::feed(recipe)?;
    let bytes = cost_bytes(recipe, feed.tokenizer().map(|tokenizer| tokenizer.vocab()))?;
    let free = limits::available_bytes();
    let memory_fits = free.map(|free| bytes <= free);
    let refusal = (memory_fits == Some(false))
        .then(|| format!("a step takes {} MiB of memory, and {} are free", bytes >> 20, free.unwrap_or_default() >> 20));
    let notes = vec!["no dollars here; `hairpin plan RECIPE` measures how long a step takes on this machine".into()];
    Ok(Found { memory_bytes: Some(bytes), memory_fits, refusal, notes, ..found })
}

/// Of all ranks, which share one machine.
fn cost_bytes(recipe: &Recipe, vocab: Option<usize>) -> Result<u64, LaunchError> {
    let (resolved, model) = run::resolve(recipe, vocab)?;
    let options = StepOptions::of(&resolved);
    let costs = (0..options.mesh.ranks()).map(|rank| step::cost(&*model, &options, options.mesh.place(rank)));
    Ok(costs.map(|cost| cost.map(|cost: StepCost| cost.total_bytes())).sum::<Result<u64, _>>()?)
}

/// Processes of each machine; on one machine ranks are threads of one process.
fn ranks_each(recipe: &Recipe, machines: &Machines) -> Result<usize, LaunchError> {
    let ranks = recipe.parallel.ranks.max(machines.count);
    if machines.count == 1 {
        return Ok(1);
    }
    if !ranks.is_multiple_of(machines.count) {
        let text = format!("{}:{}", machines.place, machines.count);
        return Err(LaunchError::Place {
            text,
            problem: format!("the recipe's {ranks} ranks are no multiple of {} machines", machines.count),
        });
    }
    Ok(ranks / machines.count)
}

/// At least one rank on each machine.
fn ranks_layout(recipe: &Recipe, machines: &Machines) -> Vec<String> {
    if machines.count > recipe.parallel.ranks { vec![format!("parallel.ranks={}", machines.count)] } else { Vec::new() }
}

/// One quote of several jobs, `at_once` at a time.
#[must_use]
pub fn sum(all: &[Found], at_once: Option<usize>) -> Quote {
    let total = |of: &dyn Fn(&Found) -> Option<f64>| all.iter().map(of).sum::<Option<f64>>().filter(|_| !all.is_empty());
    let lanes = at_once.unwrap_or(all.len()).clamp(1, all.len().max(1));
    // Each goes to the lane that is free first.
    let secs = all.iter().map(|found| found.quoted.secs).collect::<Option<Vec<f64>>>().map(|all| {
        let mut free = vec![0.0_f64; lanes];
        for secs in all {
            free.sort_by(f64::total_cmp);
            free[0] += secs;
        }
        free.into_iter().fold(0.0, f64::max)
    });
    let fits: Vec<bool> = all.iter().filter_map(|found| found.memory_fits).collect();
    let of_rented = |of: fn(&Rented) -> f64| total(&|found| found.rented.as_ref().map(of));
    let mut notes: Vec<String> = Vec::new();
    for note in all.iter().flat_map(|found| &found.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    let mut offers: Vec<(String, f64)> = Vec::new();
    for (price, usd) in all.iter().filter_map(|found| found.rented.as_ref()).flat_map(|rented| &rented.offers) {
        let name = format!("{}, {}, {}", price.service.name(), price.term.name(), price.when());
        match offers.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += usd,
            None => offers.push((name, *usd)),
        }
    }
    Quote {
        days: secs.map(|secs| secs / 86_400.0),
        usd: total(&|found| found.quoted.usd),
        memory_fits: (!fits.is_empty()).then(|| fits.iter().all(|fits| *fits)),
        storage_bytes: of_rented(|rented| rented.storage_bytes),
        storage_usd: of_rented(|rented| rented.storage_usd),
        usd_per_hour: all.first().and_then(|found| found.usd_per_hour),
        price: all.first().and_then(|found| found.price.clone()),
        offers,
        notes,
        refusal: all.iter().find_map(|found| found.refusal.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(secs: f64, usd: f64) -> Found {
        Found { quoted: Quoted { secs: Some(secs), usd: Some(usd), ..Quoted::default() }, memory_fits: Some(true), ..Found::default() }
    }

    #[test]
    fn days_are_of_the_longest_lane_and_dollars_of_all() {
        let day = 86_400.0;
        let all = [of(3.0 * day, 30.0), of(day, 10.0), of(day, 10.0), of(day, 10.0)];
        let quote = sum(&all, Some(2));
        assert_eq!((quote.days, quote.usd, quote.memory_fits), (Some(3.0), Some(60.0), Some(true)));
        assert_eq!((sum(&all, None).days, sum(&all, Some(1)).days), (Some(3.0), Some(6.0)));
        let unknown = sum(&[of(day, 1.0), Found::default()], None);
        assert_eq!((unknown.days, unknown.usd), (None, None), "a part that is not known makes the sum unknown");
    }
}
