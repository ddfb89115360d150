//! What learning from human feedback costs: fine-tuning on written examples, answers to compare, the reward model, the
//! original model's replies kept beforehand, and PPO.
//!
//! FLOPs of a token: forward 2 N, training 6 N. A PPO token is written by the actor, read by the original, the reward model
//! and the critic, and trained on by actor and critic. Writing takes the time that [`crate::questions::serving`] says, everything else
//! that of training.

use serde::Serialize;

use crate::{
    PlanError,
    catalogue::{Catalogue, Price, Service, Term},
    questions::serving::Replica,
    simulation::efficiency::{self, Job, Mfu},
    simulation::reliability::CHECKPOINT_BYTES_PER_PARAM,
};

/// GPT-3's vocabulary, and episodes of a batch of PPO: arXiv:2203.02155, appendix C.4.
const VOCAB: usize = 50_257;
const PPO_BATCH: f64 = 512.0;

/// What is asked; the defaults of the command are InstructGPT's, arXiv:2203.02155, appendix C.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub actor_params: f64,
    pub reward_params: f64,
    /// Written examples and how often each is seen.
    pub examples: f64,
    pub example_epochs: f64,
    /// Prompts whose answers people ranked, and answers to each.
    pub ranked_prompts: f64,
    pub answers: f64,
    /// Prompts of PPO, and how many replies are written to them in all.
    pub prompts: f64,
    pub episodes: f64,
    pub ppo_epochs: f64,
    /// Pretraining sequences mixed in for each episode (PPO-ptx).
    pub pretraining_mix: f64,
    pub prompt_tokens: f64,
    pub answer_tokens: f64,
    pub on: String,
    pub nodes: u64,
    pub service: Service,
    pub term: Term,
    pub prices_of: Option<String>,
    pub mfu: Option<f64>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub mfu: Mfu,
    pub price: Price,
    pub accelerators: u64,
    /// Weights, gradients and moments of actor and critic, weights of original and reward model.
    pub ppo_bytes: f64,
    /// Human rankings: pairs among the answers to each prompt.
    pub comparisons: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub flops: f64,
    /// Of which writing, token by token, in seconds of the whole cluster.
    pub writing_secs: f64,
    pub secs: f64,
    pub usd: f64,
}

/// FLOPs of each step: examples, answers to compare, reward model, originals, PPO.
///
/// ```
/// // InstructGPT 175B printed 4.9 and 60 PF-days for examples and PPO-ptx (arXiv:2203.02155, section 5.1), at sequences of up
/// // to 2,048 tokens.
/// let [examples, .., ppo] = plan::questions::align::flops(&plan::questions::align::instruct_gpt("p4d.24xlarge"));
/// assert!((examples / 8.64e19 / 4.9 - 1.0).abs() < 0.10);
/// assert!((ppo / 8.64e19 / 60.0 - 1.0).abs() < 0.10);
/// ```
#[must_use]
pub fn flops(q: &Question) -> [f64; 5] {
    let (actor, reward, tokens) = (q.actor_params, q.reward_params, q.prompt_tokens + q.answer_tokens);
    let ppo_token = 2.0 * actor + 2.0 * actor + 2.0 * reward + 2.0 * reward + q.ppo_epochs * 6.0 * (actor + reward);
    [
        6.0 * actor * q.examples * q.example_epochs * tokens,
        2.0 * actor * q.ranked_prompts * q.answers * tokens,
        6.0 * reward * q.ranked_prompts * q.answers * tokens,
        2.0 * actor * q.prompts * tokens,
        q.episodes * tokens * (ppo_token + q.pretraining_mix * 6.0 * actor),
    ]
}

/// InstructGPT's largest run on one instance.
#[must_use]
pub fn instruct_gpt(on: &str) -> Question {
    Question {
        actor_params: 175e9,
        reward_params: 6e9,
        examples: 13_000.0,
        example_epochs: 16.0,
        ranked_prompts: 33_000.0,
        answers: 6.5,
        prompts: 31_000.0,
        episodes: 256_000.0,
        ppo_epochs: 1.0,
        pretraining_mix: 8.0,
        prompt_tokens: 1024.0,
        answer_tokens: 1024.0,
        on: on.into(),
        nodes: 1,
        service: Service::Ec2,
        term: Term::OnDemand,
        prices_of: None,
        mfu: None,
    }
}

/// Answer `question`.
/// # Errors
/// Unknown names, and [`PlanError::Impossible`] when the cluster cannot hold PPO's four models.
pub fn plan(question: &Question, catalogue: &Catalogue) -> Result<Plan, PlanError> {
    let q = question;
    let instance = catalogue.instance(&q.on)?;
    let accelerator = catalogue.accelerator_of(instance)?;
    let price = instance.price(q.service, q.term, q.prices_of.as_deref())?;
    let accelerators = (q.nodes * instance.count) as f64;
    // Gradients in 16 bits beside what a checkpoint holds.
    let ppo_bytes = (CHECKPOINT_BYTES_PER_PARAM + 2.0) * (q.actor_params + q.reward_params) + 2.0 * (q.actor_params + q.reward_params);
    let node_bytes = instance.count as f64 * accelerator.memory_gib * 1024_f64.powi(3) * 0.9;
    let context = (q.prompt_tokens + q.answer_tokens) as usize;
    let on = |nodes: u64| {
        let held_bytes = node_bytes * nodes as f64;
        if ppo_bytes > held_bytes {
            let [needed, held] = [ppo_bytes, held_bytes].map(|bytes| bytes / 1e9);
            let problem = format!(
                "PPO holds {needed:.0} GB of weights, gradients and moments, and {nodes} x {} have room for {held:.0} GB",
                instance.name
            );
            return Err(PlanError::Impossible { problem, relax: "take a smaller actor".into() });
        }
        let accelerators = (nodes * instance.count) as usize;
        let job = Job { params: q.actor_params, vocab: VOCAB, context, batch_tokens: PPO_BATCH * context as f64, accelerators };
        efficiency::mfu(catalogue, instance, &job, q.mfu)
    };
    let mfu = on(q.nodes).map_err(|e| match (e, fewest(q.nodes, |nodes| on(nodes).is_ok())) {
        (PlanError::Impossible { problem, .. }, Some(need)) => {
            PlanError::Impossible { problem, relax: format!("the nearest that holds it is `--nodes {need}`, or a smaller actor") }
        }
        (e, _) => e,
    })?;
    let replica = Replica::of(q.actor_params, q.prompt_tokens + q.answer_tokens, accelerator);
    let replicas = (accelerators / replica.accelerators).floor().max(1.0);
    let writing = |replies: f64| replies * q.answer_tokens * replica.step_secs / replica.batch / replicas;
    let replies = [0.0, q.ranked_prompts * q.answers, 0.0, q.prompts, q.episodes];
    let names = ["fine-tune on examples", "write answers to rank", "train the reward model", "keep the original's replies", "PPO"];
    let rate = accelerators * accelerator.peak_tflops * 1e12 * mfu.kept();
    let steps = names.into_iter().zip(flops(q)).zip(replies).map(|((name, flops), replies)| {
        let writing_secs = writing(replies);
        // What is written is not multiplied a second time.
        let written = 2.0 * q.actor_params * replies * q.answer_tokens;
        let secs = writing_secs + (flops - written) / rate;
        Step { name, flops, writing_secs, secs, usd: secs / 3600.0 * q.nodes as f64 * price.usd_per_hour }
    });
    Ok(Plan {
        steps: steps.collect(),
        mfu,
        price: price.clone(),
        accelerators: accelerators as u64,
        ppo_bytes,
        comparisons: q.ranked_prompts * q.answers * (q.answers - 1.0) / 2.0,
    })
}

/// The fewest above `held_not` that `holds`, when more always do; none when a thousand times as many do not.
fn fewest(held_not: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    let mut high = (1..=10).map(|i| held_not << i).find(|nodes| holds(*nodes))?;
    let mut low = held_not;
    while high - low > 1 {
        let middle = u64::midpoint(low, high);
        if holds(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_says_what_would() {
        let catalogue = Catalogue::load(None).unwrap();
        let question = Question { nodes: 1, ..instruct_gpt("p4d.24xlarge") };
        let PlanError::Impossible { relax, .. } = plan(&question, &catalogue).unwrap_err() else { panic!("it fits") };
        let nodes: u64 = relax.split("--nodes ").nth(1).unwrap().split('`').next().unwrap().parse().unwrap();
        let fits = plan(&Question { nodes, ..question.clone() }, &catalogue).unwrap();
        assert!(plan(&Question { nodes: nodes - 1, ..question }, &catalogue).is_err());
        let ppo = &fits.steps[4];
        assert!(ppo.writing_secs > 0.0 && ppo.writing_secs < ppo.secs && fits.steps[0].writing_secs == 0.0);
        assert!(fits.comparisons > 33_000.0);
    }
}
