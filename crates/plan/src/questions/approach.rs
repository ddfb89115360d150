//! Is pretraining the right thing at all? Prompting, retrieval, fine-tuning, learning from feedback, continued pretraining and
//! pretraining, each with its cost over a year, what has to be built and kept for it, and whether the data, the domain, the budget, the wish for
//! control and the latency speak for it.
//!
//! Thresholds are what published work did with, named beside each: they are examples, not laws. The simplest approach that
//! fits is the one to try first, since the next one up needs most of what it builds.

use serde::Serialize;

use crate::{
    PlanError,
    catalogue::{Accelerator, BaseModel, Catalogue, Permits, Price, Service, Term},
    laws::train_flops,
    questions::{align, serving::Replica},
    simulation::efficiency,
    units,
};

/// How far the texts are from what base models have read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Everyday language and well-known facts.
    Near,
    /// A trade with words and forms of its own.
    Far,
    /// A language, or a kind of sequence, that no base model knows.
    New,
}

/// How often what must be known changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    Never,
    Monthly,
    Daily,
}

/// What must be in one's own hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Control {
    /// Nothing: someone else's service will do.
    Service,
    /// The weights, on one's own machines.
    Weights,
    /// All that went into them: data, tokenizer, training.
    Everything,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Pairs of input and wished output.
    pub examples: f64,
    /// Prompts to which people, a model or a checker rank answers.
    pub ranked_prompts: f64,
    /// Text of the domain.
    pub domain_tokens: f64,
    pub domain: Domain,
    pub changes: Changes,
    pub control: Control,
    pub budget_usd: Option<f64>,
    pub latency_secs: Option<f64>,
    pub queries_per_day: f64,
    pub prompt_tokens: f64,
    pub answer_tokens: f64,
    pub language: String,
    pub free_licence: bool,
    /// The base to price; none: the largest that fits on one accelerator, or the smallest that fits at all.
    pub base: Option<String>,
    pub on: String,
    pub service: Service,
    pub term: Term,
    pub prices_of: Option<String>,
    pub mfu: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Fits,
    Possible,
    No,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Approach {
    pub name: &'static str,
    pub verdict: Verdict,
    /// Why, with numbers; the deciding one first.
    pub reasons: Vec<String>,
    /// What has to be built and kept: their number is its complexity.
    pub parts: Vec<&'static str>,
    pub build_usd: f64,
    pub serve_usd_per_year: f64,
}

/// A base model, and why it does not fit if it does not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    pub model: BaseModel,
    pub latency_secs: f64,
    pub accelerators: f64,
    pub lacks: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// From the simplest to the hardest.
    pub approaches: Vec<Approach>,
    /// The first to try; none when nothing fits.
    pub advice: Option<&'static str>,
    /// The base that costs are told for.
    pub base: String,
    pub candidates: Vec<Candidate>,
    pub price: Price,
}

/// 1,000 examples taught a base its manner: LIMA, arXiv:2305.11206.
const ENOUGH_EXAMPLES: f64 = 1000.0;
/// Fewer than this fit into a prompt: GPT-3 took 10 to 100, arXiv:2005.14165.
const PROMPT_EXAMPLES: f64 = 100.0;
/// Continued pretraining in print: Minerva 38.5B tokens (arXiv:2206.14858), Code Llama 500B (arXiv:2308.12950); below a
/// billion it is fine-tuning by another name.
const CONTINUED_TOKENS: [f64; 2] = [1e9, 30e9];
/// From scratch on a domain: BloombergGPT had 363B tokens of finance in 708B, arXiv:2303.17564.
const SCRATCH_TOKENS: [f64; 2] = [20e9, 300e9];
/// Learning from rankings: 5,000 comparisons changed a style (arXiv:1909.08593), InstructGPT's reward model had 33,000 prompts
/// (arXiv:2203.02155, table 6); replies that PPO wrote to each prompt of its own there.
const RANKED_PROMPTS: [f64; 2] = [5000.0, 33_000.0];
const EPISODES_PER_PROMPT: f64 = 256.0 / 31.0;
const RANKED_ANSWERS: f64 = 4.0;
/// Encoder of passages, their length, and those that are put before a question.
const ENCODER_PARAMS: f64 = 0.34e9;
const PASSAGE_TOKENS: f64 = 256.0;
const PASSAGES: f64 = 8.0;
/// Epochs of fine-tuning, and general text replayed in continued pretraining (arXiv:2403.08763).
const TUNE_EPOCHS: f64 = 3.0;
const REPLAY_RATIO: f64 = 0.05;

/// Answer `question`.
/// # Errors
/// Unknown names; [`PlanError::Impossible`] when no base model of the catalogue fits, with the nearest.
pub fn plan(question: &Question, catalogue: &Catalogue) -> Result<Plan, PlanError> {
    let q = question;
    let instance = catalogue.instance(&q.on)?;
    // A language that neither a base nor the catalogue knows is misspelt.
    if !catalogue.models.iter().any(|model| model.languages.contains(&q.language)) {
        catalogue.language(&q.language)?;
    }
    let accelerator = catalogue.accelerator_of(instance)?;
    let price = instance.price(q.service, q.term, q.prices_of.as_deref())?;
    let mut candidates: Vec<Candidate> = catalogue.models.iter().map(|m| candidate(q, m, accelerator, instance.count as f64)).collect();
    // What fits first, and of those the largest.
    candidates.sort_by(|a, b| a.lacks.len().cmp(&b.lacks.len()).then(b.model.params.total_cmp(&a.model.params)));
    let fitting = || candidates.iter().filter(|c| c.lacks.is_empty() || q.domain == Domain::New);
    let own = match &q.base {
        Some(name) => Some(catalogue.model(name)?).and_then(|m| candidates.iter().find(|c| c.model.name == m.name)),
        None => None,
    };
    let base = own.or_else(|| fitting().find(|c| c.accelerators == 1.0)).or_else(|| fitting().next_back()).ok_or_else(|| {
        let nearest = candidates.first().map(|c| format!("the nearest is {}: it lacks {}", c.model.name, c.lacks.join(", ")));
        PlanError::Impossible {
            problem: "no base model of the catalogue fits".into(),
            relax: nearest.unwrap_or_else(|| "add models with `--catalogue mine.toml`".into()),
        }
    })?;
    let usd_per_sec = price.usd_per_hour / 3600.0 / instance.count as f64;
    let params = base.model.active_params.unwrap_or(base.model.params);
    let mfu = efficiency::on_fewest(catalogue, instance, params, base.model.context, q.mfu)?;
    let desk = Desk { q, base, params, accelerator, usd_per_sec, flops_per_usd: accelerator.peak_tflops * 1e12 * mfu.kept() / usd_per_sec };
    let approaches = vec![desk.prompting(), desk.retrieval(), desk.tuning(), desk.feedback()?, desk.continued(), desk.scratch()];
    let first = |verdict: Verdict| approaches.iter().find(|a| a.verdict == verdict).map(|a| a.name);
    Ok(Plan {
        advice: first(Verdict::Fits).or_else(|| first(Verdict::Possible)),
        approaches,
        base: base.model.name.clone(),
        candidates,
        price: price.clone(),
    })
}

fn candidate(q: &Question, model: &BaseModel, accelerator: &Accelerator, node: f64) -> Candidate {
    let tokens = q.prompt_tokens + q.answer_tokens;
    let replica = Replica::of(model.params, tokens, accelerator);
    // Of a mixture of experts only the active share is read for a single reply.
    let share = model.active_params.map_or(1.0, |active| active / model.params);
    let latency_secs = share * replica.latency_secs(q.prompt_tokens, q.answer_tokens);
    let mut lacks = Vec::new();
    if !model.languages.contains(&q.language) {
        lacks.push(format!("the language {}", q.language));
    }
    if model.context < tokens {
        lacks.push(format!("context: {} of {tokens} tokens", model.context));
    }
    if q.free_licence && model.permits != Permits::Open || model.permits == Permits::Research {
        lacks.push(format!("a free enough licence ({})", model.licence));
    }
    if replica.accelerators > node {
        lacks.push(format!("room: {} accelerators, and the instance has {node}", replica.accelerators));
    }
    if let Some(limit) = q.latency_secs.filter(|limit| latency_secs > *limit) {
        lacks.push(format!("speed: {latency_secs:.1} s a reply at best, {limit} s wished"));
    }
    Candidate { model: model.clone(), latency_secs, accelerators: replica.accelerators, lacks }
}

struct Desk<'a> {
    q: &'a Question,
    base: &'a Candidate,
    /// Of the base, at work for a token.
    params: f64,
    accelerator: &'a Accelerator,
    usd_per_sec: f64,
    flops_per_usd: f64,
}

/// What going on from a base takes.
struct Training {
    name: &'static str,
    /// Whether it can teach what no base knows.
    teaches_language: bool,
    /// What there is to learn from, and where it begins to pay and is enough.
    amount: f64,
    range: [f64; 2],
    /// What is said of too little, of little and of enough.
    words: [String; 3],
    doubt: Option<&'static str>,
    tokens: f64,
    parts: Vec<&'static str>,
}

const DAYS: f64 = 365.25;

impl Desk<'_> {
    /// A year of answers on own machines, `more` tokens put before each prompt; at least one replica is always on.
    fn serve(&self, more: f64) -> f64 {
        let q = self.q;
        let prompt = q.prompt_tokens + more;
        let replica = Replica::of(self.base.model.params, prompt + q.answer_tokens, self.accelerator);
        let busy = q.queries_per_day * DAYS * replica.accelerator_secs(prompt, q.answer_tokens);
        busy.max(replica.accelerators * DAYS * 86_400.0) * self.usd_per_sec
    }

    fn build(&self, flops: f64) -> f64 {
        flops / self.flops_per_usd
    }

    fn affordable(&self, build_usd: f64, verdict: &mut Verdict, reasons: &mut Vec<String>) {
        if let Some(budget) = self.q.budget_usd.filter(|budget| build_usd > *budget) {
            *verdict = Verdict::No;
            reasons.insert(0, format!("training costs {build_usd:.0} USD, {:.1} times the budget", build_usd / budget));
        }
    }

    /// Own weights need a say over them; a new language needs training.
    fn ground(&self, reasons: &mut Vec<String>, is_trained: bool) -> Verdict {
        if self.q.domain == Domain::New && !is_trained {
            reasons.push("no base model knows this language or kind of sequence".into());
            return Verdict::No;
        }
        if self.q.control == Control::Everything {
            reasons.push("control over all that went into the weights is only had from scratch".into());
            return Verdict::No;
        }
        Verdict::Fits
    }

    fn prompting(&self) -> Approach {
        let (q, mut reasons) = (self.q, Vec::new());
        let mut verdict = self.ground(&mut reasons, false);
        let room = self.base.model.context - q.prompt_tokens - q.answer_tokens;
        if verdict == Verdict::Fits {
            if q.domain_tokens > room {
                verdict = Verdict::No;
                reasons.push(format!(
                    "{} tokens of the domain do not go into the {} that a prompt has left",
                    units::short(q.domain_tokens),
                    units::short(room)
                ));
            } else {
                reasons.push("what must be known goes into the prompt".into());
            }
            if q.domain == Domain::Far {
                verdict = verdict.min_of(Verdict::Possible);
                reasons.push("a trade's own words and forms are understood in part".into());
            }
        }
        let shown = if q.domain_tokens <= room { q.domain_tokens } else { 0.0 };
        let more = shown + q.examples.min(10.0) * (q.prompt_tokens + q.answer_tokens).min(500.0);
        Approach {
            name: "prompting",
            verdict,
            reasons,
            parts: vec!["prompts", "evaluation"],
            build_usd: 0.0,
            serve_usd_per_year: self.serve(more.min(room.max(0.0))),
        }
    }

    fn retrieval(&self) -> Approach {
        let (q, mut reasons) = (self.q, Vec::new());
        let mut verdict = self.ground(&mut reasons, false);
        if verdict == Verdict::Fits {
            match q.changes {
                Changes::Daily => reasons.push("what changes daily can be looked up, not trained in".into()),
                Changes::Monthly => reasons.push("what changes monthly is put into an index, without training".into()),
                Changes::Never => reasons.push("an index answers from named passages".into()),
            }
            if q.domain_tokens < 1e4 {
                verdict = Verdict::Possible;
                reasons.push(format!("{} tokens need no index: a prompt holds them", units::short(q.domain_tokens)));
            }
            if q.domain == Domain::Far {
                verdict = verdict.min_of(Verdict::Possible);
                reasons.push("passages are found, and a trade's words are understood in part".into());
            }
        }
        let vector_bytes = q.domain_tokens / PASSAGE_TOKENS * 1024.0 * 2.0;
        reasons.push(format!("an index of {:.1} GB", vector_bytes / 1e9));
        let build_usd = self.build(2.0 * ENCODER_PARAMS * q.domain_tokens);
        self.affordable(build_usd, &mut verdict, &mut reasons);
        Approach {
            name: "retrieval",
            verdict,
            reasons,
            parts: vec!["prompts", "evaluation", "cleaning", "index", "search", "refresh"],
            build_usd,
            serve_usd_per_year: self.serve(PASSAGES * PASSAGE_TOKENS),
        }
    }

    fn tuning(&self) -> Approach {
        let q = self.q;
        let few = format!("{:.0} examples", q.examples);
        self.trained(Training {
            name: "fine-tuning",
            teaches_language: false,
            amount: q.examples,
            range: [PROMPT_EXAMPLES, ENOUGH_EXAMPLES],
            words: [
                format!("{few} go into a prompt; tuning begins to pay at about {ENOUGH_EXAMPLES}"),
                format!("{few} are few: {ENOUGH_EXAMPLES} taught a base its manner in LIMA"),
                format!("{few}: {ENOUGH_EXAMPLES} were enough for manner in LIMA"),
            ],
            doubt: (q.changes == Changes::Daily).then_some("it teaches manner, not what changes daily"),
            tokens: q.examples * (q.prompt_tokens + q.answer_tokens) * TUNE_EPOCHS,
            parts: vec!["prompts", "evaluation", "cleaning", "examples", "training", "gates", "own weights to serve"],
        })
    }

    /// The loop of rankings, a reward model as large as the base, and PPO, by its passes on `Meta`.
    fn feedback(&self) -> Result<Approach, PlanError> {
        let q = self.q;
        let mut reasons = Vec::new();
        let mut verdict = self.ground(&mut reasons, false);
        if verdict == Verdict::Fits {
            let few = format!("{} prompts with ranked answers", units::short(q.ranked_prompts));
            let [least, enough] = RANKED_PROMPTS;
            let (word, of_amount) = match q.ranked_prompts {
                n if n < least => (format!("{few}; a style was changed with {}", units::short(least)), Verdict::No),
                n if n < enough => (format!("{few}; InstructGPT had {}", units::short(enough)), Verdict::Possible),
                _ => (format!("{few}: InstructGPT had {}", units::short(enough)), Verdict::Fits),
            };
            reasons.push(word);
            verdict = of_amount;
            reasons.push("it teaches what is preferred where nobody can write it down; examples first, where there are any".into());
            if q.domain == Domain::Far {
                verdict = verdict.min_of(Verdict::Possible);
                reasons.push("it brings out what the base can say already".into());
            }
        }
        let prompts = q.ranked_prompts.max(1.0);
        let sizes = align::Sizes {
            reward_params: self.params,
            examples: q.examples.max(1.0),
            example_epochs: TUNE_EPOCHS,
            ranked_prompts: prompts,
            answers: RANKED_ANSWERS,
            prompts,
            episodes: EPISODES_PER_PROMPT * prompts,
            prompt_tokens: q.prompt_tokens as usize,
            reply_tokens: q.answer_tokens as usize,
            ..align::Sizes::instruct_gpt(self.params)
        };
        let replies = prompts * (RANKED_ANSWERS + 1.0 + EPISODES_PER_PROMPT);
        let replica = Replica::of(self.params, q.prompt_tokens + q.answer_tokens, self.accelerator);
        let writing_usd = replies * replica.accelerator_secs(q.prompt_tokens, q.answer_tokens) * self.usd_per_sec;
        let build_usd = self.build(align::flops_without_writing(&sizes.question()?)?) + writing_usd;
        self.affordable(build_usd, &mut verdict, &mut reasons);
        Ok(Approach {
            name: "learning from feedback",
            verdict,
            reasons,
            parts: vec![
                "prompts",
                "evaluation",
                "cleaning",
                "examples",
                "rankings",
                "reward model",
                "training",
                "gates",
                "own weights to serve",
            ],
            build_usd,
            serve_usd_per_year: self.serve(0.0),
        })
    }

    fn continued(&self) -> Approach {
        let q = self.q;
        let few = format!("{} tokens of the domain", units::short(q.domain_tokens));
        self.trained(Training {
            name: "continued pretraining",
            teaches_language: true,
            amount: q.domain_tokens,
            range: CONTINUED_TOKENS,
            words: [
                format!("{few}; it begins to pay at about {}", units::short(CONTINUED_TOKENS[0])),
                format!("{few}; Minerva had 38.5B"),
                format!("{few}: Minerva had 38.5B"),
            ],
            doubt: (q.domain == Domain::Near).then_some("the base has read much like it already"),
            tokens: q.domain_tokens * (1.0 + REPLAY_RATIO),
            parts: vec![
                "prompts",
                "evaluation",
                "cleaning",
                "duplicates",
                "shards",
                "training",
                "gates",
                "cluster",
                "checkpoints",
                "own weights to serve",
            ],
        })
    }

    /// Going on from the base.
    fn trained(&self, t: Training) -> Approach {
        let mut reasons = Vec::new();
        let mut verdict = self.ground(&mut reasons, t.teaches_language);
        if verdict == Verdict::Fits {
            let [too_few, few, enough] = t.words;
            let (word, of_amount) = match t.amount {
                n if n < t.range[0] => (too_few, Verdict::No),
                n if n < t.range[1] => (few, Verdict::Possible),
                _ => (enough, Verdict::Fits),
            };
            reasons.push(word);
            verdict = of_amount;
            if let Some(doubt) = t.doubt {
                verdict = verdict.min_of(Verdict::Possible);
                reasons.push(doubt.into());
            }
        }
        let build_usd = self.build(train_flops(self.params, t.tokens));
        self.affordable(build_usd, &mut verdict, &mut reasons);
        Approach { name: t.name, verdict, reasons, parts: t.parts, build_usd, serve_usd_per_year: self.serve(0.0) }
    }

    fn scratch(&self) -> Approach {
        let (q, mut reasons) = (self.q, Vec::new());
        let [least, enough] = SCRATCH_TOKENS;
        let mut verdict = if q.control == Control::Everything {
            reasons.push("all that goes into the weights is one's own choice".into());
            Verdict::Fits
        } else if q.domain == Domain::New {
            reasons.push("no base model knows this language or kind of sequence".into());
            Verdict::Fits
        } else {
            reasons.push("a base that is there already has seen more than this budget buys".into());
            Verdict::Possible
        };
        if q.domain_tokens < least {
            verdict = Verdict::No;
            reasons.insert(
                0,
                format!("{} tokens of one's own; the smallest useful models saw {}", units::short(q.domain_tokens), units::short(least)),
            );
        } else if q.domain_tokens < enough {
            reasons.push(format!(
                "{} tokens of one's own, and general text for the rest: BloombergGPT had 363B of 708B",
                units::short(q.domain_tokens)
            ));
        }
        // As good as the base: its size, and as many tokens as that size is best for.
        let build_usd = self.build(train_flops(self.params, 20.0 * self.params));
        self.affordable(build_usd, &mut verdict, &mut reasons);
        Approach {
            name: "pretraining",
            verdict,
            reasons,
            parts: vec![
                "prompts",
                "evaluation",
                "cleaning",
                "duplicates",
                "tokenizer",
                "shards",
                "architecture",
                "ladder",
                "training",
                "gates",
                "cluster",
                "checkpoints",
                "alignment",
                "own weights to serve",
            ],
            build_usd,
            serve_usd_per_year: self.serve(0.0),
        }
    }
}

impl Verdict {
    /// The worse of two.
    fn min_of(self, other: Self) -> Self {
        if self == Self::No || other == Self::Fits { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question {
            examples: 0.0,
            ranked_prompts: 0.0,
            domain_tokens: 2000.0,
            domain: Domain::Near,
            changes: Changes::Never,
            control: Control::Weights,
            budget_usd: None,
            latency_secs: None,
            queries_per_day: 10_000.0,
            prompt_tokens: 500.0,
            answer_tokens: 300.0,
            language: "en".into(),
            free_licence: false,
            base: None,
            on: "p5.48xlarge".into(),
            service: Service::Ec2,
            term: Term::OnDemand,
            prices_of: None,
            mfu: None,
        }
    }

    fn advice(question: &Question) -> Option<&'static str> {
        plan(question, &Catalogue::load(None).unwrap()).unwrap().advice
    }

    #[test]
    fn the_simplest_that_fits_is_advised() {
        assert_eq!(advice(&question()), Some("prompting"));
        assert_eq!(advice(&Question { domain_tokens: 1e8, changes: Changes::Daily, ..question() }), Some("retrieval"));
        let far = Question { domain_tokens: 5e7, domain: Domain::Far, examples: 2e4, ..question() };
        assert_eq!(advice(&far), Some("fine-tuning"));
        let ranked = Question { domain_tokens: 5e7, ranked_prompts: 4e4, ..question() };
        let plan = plan(&Question { changes: Changes::Never, ..ranked }, &Catalogue::load(None).unwrap()).unwrap();
        let feedback = plan.approaches.iter().find(|a| a.name == "learning from feedback").unwrap();
        assert!(feedback.verdict == Verdict::Fits && feedback.build_usd > 100.0, "{feedback:?}");
        assert_eq!(advice(&Question { domain_tokens: 5e10, domain: Domain::Far, ..question() }), Some("continued pretraining"));
        let own = Question { domain_tokens: 4e11, domain: Domain::Far, control: Control::Everything, ..question() };
        assert_eq!(advice(&own), Some("pretraining"));
        assert_eq!(advice(&Question { budget_usd: Some(1000.0), ..own }), None);
    }

    #[test]
    fn complexity_and_cost_rise_together_and_reasons_are_given() {
        let plan = plan(&Question { domain_tokens: 5e10, examples: 2e4, ..question() }, &Catalogue::load(None).unwrap()).unwrap();
        assert!(plan.approaches.windows(2).all(|w| w[0].parts.len() < w[1].parts.len()));
        assert!(plan.approaches.iter().all(|a| !a.reasons.is_empty() && a.serve_usd_per_year > 0.0));
        assert!(plan.approaches[5].build_usd > plan.approaches[2].build_usd);
    }

    #[test]
    fn bases_are_told_with_what_they_lack() {
        let catalogue = Catalogue::load(None).unwrap();
        let strict = Question { language: "de".into(), free_licence: true, latency_secs: Some(4.0), ..question() };
        let plan = plan(&strict, &catalogue).unwrap();
        for c in plan.candidates.iter().filter(|c| c.lacks.is_empty()) {
            assert!(c.model.languages.contains(&"de".to_owned()) && c.model.permits == Permits::Open && c.latency_secs <= 4.0);
        }
        assert!(plan.candidates.iter().any(|c| c.lacks.iter().any(|l| l.contains("licence"))));
        let own = super::plan(&Question { base: Some("llama-2-70b".into()), ..question() }, &catalogue).unwrap();
        assert_eq!(own.base, "Llama-2-70B");
        let none = super::plan(&Question { latency_secs: Some(1e-4), ..question() }, &catalogue).unwrap_err();
        assert!(matches!(none, PlanError::Impossible { ref relax, .. } if relax.contains("nearest")), "{none:?}");
    }
}
