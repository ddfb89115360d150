//! The loop on rented machines: steps by their simulation there, rows that models are asked about at the rate of these steps, and writing as
//! [`crate::questions::serving`] says, one copy of the policy on as few accelerators as hold it.

use super::{Plan, Question, Work, comparisons, parts};
use crate::{
    PlanError,
    catalogue::{Catalogue, Price},
    questions::{rent, serving::Replica},
    simulation::reliability::{self, CHECKPOINT_BYTES_PER_PARAM},
    simulation::search::Settled,
};

/// Of 16-bit weights.
const WEIGHT_BYTES: f64 = 2.0;
/// Of the memory, what models may fill: the rest is for activations.
const MEMORY_RATIO: f64 = 0.9;

/// On what, and at what price.
#[derive(Debug, Clone, PartialEq)]
pub struct Renting {
    pub on: String,
    pub nodes: u64,
    pub price: Price,
    /// Share of the peak that training uses, where it is stated; else of the step simulated.
    pub mfu: Option<f64>,
}

/// Price `question` on `renting`.
/// # Errors
/// Unknown names, and [`PlanError::Impossible`] when the machines cannot hold all models of a part.
pub fn rented(question: &Question, catalogue: &Catalogue, renting: &Renting) -> Result<Plan, PlanError> {
    let (mut works, params) = parts(question)?;
    let instance = catalogue.instance(&renting.on)?;
    let accelerator = catalogue.accelerator_of(instance)?;
    let accelerators = (renting.nodes * instance.count) as usize;
    let node_bytes = instance.count as f64 * accelerator.memory_gib * 1024_f64.powi(3) * MEMORY_RATIO;
    check(&works, renting.nodes, node_bytes, &instance.name)?;
    let reliability = reliability::usual(params as f64, accelerators as f64, renting.nodes as f64)?;
    let stated = renting.mfu.map(|mfu| accelerators as f64 * accelerator.peak_tflops * 1e12 * mfu * reliability.goodput_ratio);
    // What trains tells the rate at which models are asked; the policy stands last, and its rate is that of parts that train nothing.
    let mut rate = stated;
    for work in works.iter_mut().rev() {
        if let (None, Some(recipe)) = (stated, &work.recipe) {
            let told = rent::rent(recipe, catalogue, instance, accelerators, &renting.price, Some(&Settled::default()))?;
            work.step.train_secs = told.expected_secs[1];
            rate = Some(work.step.train_flops / told.expected_secs[1]);
        } else if let Some(rate) = stated {
            work.step.train_secs = work.step.train_flops / rate;
        }
        let Some(rate) = rate else { continue };
        work.step.say_secs = work.step.say_flops / rate;
        if let Some((teller, replies, tokens)) = &work.writes {
            let params = teller.model.params().active_elements() as f64;
            let [prompt, reply] = [question.prompt_tokens as f64, *tokens as f64];
            work.step.write_secs =
                replies * Replica::of(params, prompt + reply, accelerator).accelerator_secs(prompt, reply) / accelerators as f64;
        }
        work.step.usd = Some(work.step.secs() / 3600.0 * renting.nodes as f64 * renting.price.usd_per_hour);
    }
    Ok(Plan {
        steps: works.into_iter().map(|work| work.step).collect(),
        params,
        comparisons: comparisons(question),
        on: format!("{} x {}", renting.nodes, instance.name),
        accelerators: Some(accelerators as u64),
        price: Some(renting.price.clone()),
    })
}

/// Refuse machines that do not hold the models of every part, naming the part that holds most.
fn check(works: &[Work], nodes: u64, node_bytes: f64, instance: &str) -> Result<(), PlanError> {
    let needs = works.iter().map(|work| Ok((work, held_bytes(work)?))).collect::<Result<Vec<_>, PlanError>>()?;
    let Some((work, needed)) = needs.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)) else { return Ok(()) };
    if needed <= node_bytes * nodes as f64 {
        return Ok(());
    }
    let [needed_gb, held_gb] = [needed, node_bytes * nodes as f64].map(|bytes| bytes / 1e9);
    Err(PlanError::Impossible {
        problem: format!(
            "{} holds {needed_gb:.0} GB of weights, gradients and moments, and {nodes} x {instance} have room for {held_gb:.0} GB",
            work.step.name
        ),
        relax: format!("the nearest that holds it is `--nodes {}`, or a smaller model", (needed / node_bytes).ceil()),
    })
}

/// Weights, gradients and moments of what is trained, weights of what is asked: whoever writes is the policy itself or the original, which
/// is asked too.
fn held_bytes(work: &Work) -> Result<f64, PlanError> {
    let trained = work.recipe.as_ref().map(|recipe| models::build(&recipe.model)).transpose().map_err(train::TrainError::from)?;
    let trained_bytes = trained.map_or(0.0, |model| (CHECKPOINT_BYTES_PER_PARAM + WEIGHT_BYTES) * model.params().elements() as f64);
    let asked: f64 = work.says.iter().map(|(teller, _)| WEIGHT_BYTES * teller.model.params().elements() as f64).sum();
    Ok(trained_bytes + asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalogue::{Service, Term},
        questions::align::Sizes,
    };

    #[test]
    fn what_does_not_fit_says_what_would() {
        let catalogue = Catalogue::load(None).unwrap();
        let price = catalogue.instance("p4d.24xlarge").unwrap().price(Service::Ec2, Term::OnDemand, None).unwrap().clone();
        let question = Sizes::instruct_gpt(13e9).question().unwrap();
        // The share of peak is stated: what is asked is what fits, and not how fast it is.
        let on = |nodes: u64, q: &Question| {
            rented(q, &catalogue, &Renting { on: "p4d.24xlarge".into(), nodes, price: price.clone(), mfu: Some(0.3) })
        };
        let large = Sizes::instruct_gpt(175e9).question().unwrap();
        let PlanError::Impossible { relax, .. } = on(1, &large).unwrap_err() else { panic!("it fits") };
        let nodes: u64 = relax.split("--nodes ").nth(1).unwrap().split('`').next().unwrap().parse().unwrap();
        assert!(on(nodes, &large).is_ok() && on(nodes - 1, &large).is_err());
        let fits = on(1, &question).unwrap();
        let [examples, answers, .., ppo] = &fits.steps[..] else { panic!("{fits:?}") };
        assert!(ppo.write_secs > 0.0 && ppo.write_secs < ppo.secs() && examples.write_secs == 0.0 && answers.train_secs == 0.0);
        assert!(fits.comparisons > 33_000.0);
        // The policy writes, and it, the original and the reward model are asked about every reply.
        let what: Vec<&str> = ppo.memory.iter().map(|(what, _)| *what).collect();
        assert!(what.contains(&"the original") && what.contains(&"the reward model"), "{what:?}");
    }
}
