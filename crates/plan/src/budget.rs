//! The first question: what do a budget, an instance, a deadline and a corpus buy? How large a model on how much data, for
//! how long, with what loss to expect, and by which steps.
//!
//! Money becomes accelerator-hours by the catalogue's price, hours become FLOPs by [`crate::efficiency`], FLOPs become a size
//! and a number of tokens by a [`Law`] with repeats priced in. The ladder's first three phases, storage and failures are paid
//! first. FLOPs are `6 N D` throughout, as in the law. How fast a size trains is known when the size is, so both are found in turn.

use serde::Serialize;

use crate::{
    PlanError,
    catalogue::{Accelerator, Catalogue, Instance, Price, Service, Term},
    efficiency::{self, Job, Mfu, Reached},
    family::{self, Sized},
    laws::{self, Law, Prediction, Repeats, batch},
    reliability::CHECKPOINT_BYTES_PER_PARAM,
};

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub budget_usd: f64,
    pub instance: String,
    pub service: Service,
    pub term: Term,
    /// The month whose prices count; none: the newest.
    pub prices_of: Option<String>,
    /// Of the whole climb.
    pub deadline_secs: f64,
    /// New tokens that there are; none: as many as wanted.
    pub unique_tokens: Option<f64>,
    /// Tokens that the model will write and read in its life, when they are to be paid from the same budget.
    pub served_tokens: Option<f64>,
    /// A share of peak in place of [`efficiency`]'s.
    pub mfu: Option<f64>,
    pub context: usize,
    pub vocab: usize,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub instance: String,
    pub accelerator: Accelerator,
    pub price: Price,
    /// Of the last phase.
    pub mfu: Mfu,
    /// Published runs, for scale.
    pub reached: Option<Reached>,
    pub nodes: u64,
    pub accelerators: u64,
    /// For the last phase.
    pub flops: f64,
    /// The same at the lower and upper end of the efficiency's range.
    pub flops_range: [f64; 2],
    pub choices: Vec<Choice>,
    pub ladder: Vec<Rung>,
    pub storage_usd: f64,
    /// Accelerators alone, at their rated power.
    pub energy_kwh: Option<f64>,
    pub family: Vec<Curve>,
    /// (FLOPs, loss) of the best size at each compute.
    pub envelope: Vec<(f64, f64)>,
    pub runs: Vec<Published>,
    pub warnings: Vec<String>,
}

/// A size and an amount of data for the whole budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    pub name: &'static str,
    pub params: f64,
    pub tokens: f64,
    pub epochs: f64,
    pub loss: Prediction,
    pub secs: f64,
    pub usd: f64,
    pub setting: batch::Setting,
    /// A decoder of about that size.
    pub model: Sized,
    /// FLOPs of its step on `Meta` over `6 N D`.
    pub step_flops_ratio: f64,
    /// FLOPs to serve a token.
    pub served_flops: f64,
    pub why: &'static str,
}

/// A phase of the ladder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rung {
    pub name: &'static str,
    pub data_ratio: f64,
    pub accelerators: u64,
    pub params: f64,
    pub tokens: f64,
    pub loss: Prediction,
    pub setting: batch::Setting,
    pub mfu: Mfu,
    pub secs: f64,
    pub usd: f64,
}

/// Loss of one size over compute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    pub params: f64,
    pub points: Vec<(f64, f64)>,
}

/// A published run at the loss that the law gives its size and data: its own loss is of other text and another tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Published {
    pub name: String,
    pub flops: f64,
    pub loss: f64,
}

/// A phase as every ladder has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub name: &'static str,
    /// Of the last phase's tokens.
    pub data_ratio: f64,
    /// Of the whole time, at most.
    pub time_ratio: f64,
    /// None: all of the cluster.
    pub accelerators: Option<usize>,
}

/// Of two months the times are a day, six days, twenty days and the rest.
pub const STEPS: [Step; 4] = [
    Step { name: "base", data_ratio: 0.01, time_ratio: 1.0 / 60.0, accelerators: Some(1) },
    Step { name: "medium", data_ratio: 0.05, time_ratio: 1.0 / 10.0, accelerators: Some(8) },
    Step { name: "large", data_ratio: 0.5, time_ratio: 1.0 / 3.0, accelerators: Some(16) },
    Step { name: "jumbo", data_ratio: 1.0, time_ratio: 0.55, accelerators: None },
];
pub(crate) const LAST: usize = STEPS.len() - 1;
/// Where the search for size and speed begins, and when it is at its end: a size within this trains as fast.
const FIRST_MFU: f64 = 0.4;
const SAME_SIZE: f64 = 1.03;
const MOST_ROUNDS: usize = 8;
/// How much smaller a model is tried next that its phase's accelerators do not hold.
const SHRINK: f64 = 0.7;
/// Checkpoints that are kept.
const CHECKPOINTS: f64 = 20.0;
/// How much loss the over-trained choice gives away.
const OVERTRAINED_LOSS_RATIO: f64 = 1.01;

/// Answer `question` under `law`.
/// # Errors
/// [`PlanError::Impossible`] with what is nearest when nothing fits; unknown names; a stated efficiency that is none.
pub fn plan(question: &Question, catalogue: &Catalogue, law: &Law) -> Result<Plan, PlanError> {
    let instance = catalogue.instance(&question.instance)?;
    let accelerator = catalogue.accelerator_of(instance)?;
    let price = instance.price(question.service, question.term, question.prices_of.as_deref())?;
    if question.budget_usd < price.usd_per_hour {
        return Err(PlanError::Impossible {
            problem: format!("{} USD are less than one hour of one {}", question.budget_usd, instance.name),
            relax: format!("give at least {:.2} USD, or take a smaller instance", price.usd_per_hour),
        });
    }
    let storage_usd_per_gb_month = catalogue.storage.first().map_or(0.0, |s| s.usd_per_gb_month);
    let mut desk = Desk {
        question,
        catalogue,
        law,
        instance,
        accelerator,
        price,
        storage_usd_per_gb_month,
        kept: [FIRST_MFU; STEPS.len()],
        most_params: [f64::INFINITY; LAST],
    };
    let (flops, ladder) = desk.settle()?;
    let last = &ladder[LAST];
    let choices = desk.choices(flops, last)?;
    Ok(Plan {
        instance: instance.name.clone(),
        accelerator: accelerator.clone(),
        price: price.clone(),
        reached: efficiency::reached(catalogue, accelerator),
        nodes: last.accelerators / instance.count,
        accelerators: last.accelerators,
        flops,
        flops_range: last.mfu.range.map(|ratio| flops * ratio / last.mfu.ratio),
        warnings: desk.warnings(&choices),
        storage_usd: desk.storage_usd(last.params, last.tokens),
        energy_kwh: accelerator.watts.map(|watts| watts * last.accelerators as f64 * last.secs / 3.6e6),
        family: desk.family(last.params, flops),
        envelope: span(flops).map(|c| (c, desk.loss(desk.best(c)))).collect(),
        runs: desk.runs(catalogue),
        mfu: last.mfu.clone(),
        choices,
        ladder,
    })
}

/// What is at hand while a plan is made.
struct Desk<'a> {
    question: &'a Question,
    catalogue: &'a Catalogue,
    law: &'a Law,
    instance: &'a Instance,
    accelerator: &'a Accelerator,
    price: &'a Price,
    storage_usd_per_gb_month: f64,
    /// Of each phase, the share of the peak that is training kept.
    kept: [f64; STEPS.len()],
    /// The largest model that a phase's accelerators hold.
    most_params: [f64; LAST],
}

/// Size, data and time of one phase.
#[derive(Debug, Clone, Copy)]
struct Sketch {
    params: f64,
    tokens: f64,
    accelerators: usize,
    secs: f64,
    usd: f64,
}

impl Desk<'_> {
    /// Training FLOPs of an accelerator in a second.
    fn rate(&self, phase: usize) -> f64 {
        self.accelerator.peak_tflops * 1e12 * self.kept[phase]
    }

    fn usd_per_sec(&self) -> f64 {
        self.price.usd_per_hour / 3600.0 / self.instance.count as f64
    }

    /// FLOPs of the last phase, and all phases: sizes from speeds and speeds from sizes in turn, until both stay.
    fn settle(&mut self) -> Result<(f64, Vec<Rung>), PlanError> {
        let mut known: [Option<(Job, Mfu)>; STEPS.len()] = Default::default();
        for round in 0.. {
            let flops = self.affordable();
            let (params, tokens) = self.best(flops);
            let mut sketches = self.first_phases(params, tokens);
            sketches.push(self.last_phase(params, tokens));
            self.check_batch(&sketches[LAST])?;
            let mut is_settled = true;
            for (phase, sketch) in sketches.iter().enumerate() {
                let job = self.job(sketch);
                if known[phase].as_ref().is_some_and(|(before, _)| is_like(before, &job)) {
                    continue;
                }
                is_settled = false;
                match efficiency::mfu(self.catalogue, self.instance, &job, self.question.mfu) {
                    Ok(mfu) => {
                        self.kept[phase] = mfu.kept();
                        known[phase] = Some((job, mfu));
                    }
                    // An early phase takes a model that its few accelerators hold.
                    Err(PlanError::Impossible { .. }) if phase < LAST && round + 1 < MOST_ROUNDS => {
                        self.most_params[phase] = SHRINK * sketch.params;
                    }
                    Err(e) => return Err(e),
                }
            }
            if is_settled || round == MOST_ROUNDS {
                let mfus = known.into_iter().flatten().map(|(_, mfu)| mfu);
                let ladder = sketches.iter().zip(mfus).zip(STEPS).map(|((sketch, mfu), step)| self.rung(step, sketch, mfu)).collect();
                return Ok((flops, ladder));
            }
        }
        unreachable!("the loop above ends by returning")
    }

    fn job(&self, sketch: &Sketch) -> Job {
        Job {
            params: sketch.params,
            vocab: self.question.vocab,
            context: self.question.context,
            batch_tokens: batch::best_setting(laws::train_flops(sketch.params, sketch.tokens)).batch_tokens,
            accelerators: sketch.accelerators,
        }
    }

    fn rung(&self, step: Step, sketch: &Sketch, mfu: Mfu) -> Rung {
        let &Sketch { params, tokens, accelerators, secs, usd } = sketch;
        Rung {
            name: step.name,
            data_ratio: step.data_ratio,
            accelerators: accelerators as u64,
            params,
            tokens,
            loss: self.law.predict(params, tokens, step.data_ratio * self.unique()),
            setting: batch::best_setting(laws::train_flops(params, tokens)),
            mfu,
            secs,
            usd,
        }
    }

    fn unique(&self) -> f64 {
        self.question.unique_tokens.unwrap_or(f64::INFINITY)
    }

    fn loss(&self, (params, tokens): (f64, f64)) -> f64 {
        Repeats::PUBLISHED.loss(&self.law.best, params, tokens, self.unique())
    }

    /// Parameters and tokens of least loss for `flops`, by golden section over the logarithm of the size.
    fn best(&self, flops: f64) -> (f64, f64) {
        let at = |ln_params: f64| (ln_params.exp(), flops / 6.0 / ln_params.exp());
        let around = self.law.best.optimum(flops).0.ln();
        let least = minimum(around - 7.0, around + 7.0, |x| self.loss(at(x)));
        at(least)
    }

    /// The last phase on the fewest machines that meet the deadline.
    fn last_phase(&self, params: f64, tokens: f64) -> Sketch {
        let work = laws::train_flops(params, tokens) / self.rate(LAST);
        let last_secs = self.question.deadline_secs * STEPS[LAST].time_ratio;
        // What is a whole number but for rounding is no machine more.
        let nodes = (work / last_secs / self.instance.count as f64 - 1e-6).ceil().max(1.0);
        let accelerators = nodes * self.instance.count as f64;
        Sketch { params, tokens, accelerators: accelerators as usize, secs: work / accelerators, usd: work * self.usd_per_sec() }
    }

    fn storage_usd(&self, params: f64, tokens: f64) -> f64 {
        let bytes = CHECKPOINTS * CHECKPOINT_BYTES_PER_PARAM * params + 4.0 * tokens.min(self.unique());
        bytes / 1e9 * self.storage_usd_per_gb_month * self.question.deadline_secs / (30.44 * 86_400.0)
    }

    /// FLOPs of the last phase at which all that is to be paid is the budget.
    fn affordable(&self) -> f64 {
        let usd = |flops: f64| {
            let (params, tokens) = self.best(flops);
            let before: f64 = self.first_phases(params, tokens).iter().map(|sketch| sketch.usd).sum();
            self.last_phase(params, tokens).usd + before + self.storage_usd(params, tokens)
        };
        let most = self.question.budget_usd / self.usd_per_sec() * self.rate(LAST);
        let (mut low, mut high) = ((most / 100.0).ln(), most.ln());
        for _ in 0..40 {
            let middle = f64::midpoint(low, high);
            if usd(middle.exp()) < self.question.budget_usd { low = middle } else { high = middle }
        }
        low.exp()
    }

    /// The phases before the last: of a size that is best for their share of the data, or the largest that their accelerators
    /// hold and train in their time, and none larger than the next.
    fn first_phases(&self, params: f64, tokens: f64) -> Vec<Sketch> {
        let mut next_params = params;
        let sketch = |(phase, step): (usize, &Step)| {
            let accelerators = step.accelerators.unwrap_or(1);
            let tokens = step.data_ratio * tokens;
            let flops = self.rate(phase) * self.question.deadline_secs * step.time_ratio * accelerators as f64;
            let balanced = self.law.best.balanced(params, step.data_ratio);
            next_params = [balanced, flops / 6.0 / tokens, self.most_params[phase]].into_iter().fold(next_params, f64::min);
            let params = next_params;
            let secs = laws::train_flops(params, tokens) / self.rate(phase) / accelerators as f64;
            // A machine is rented whole.
            let nodes = accelerators.div_ceil(self.instance.count as usize);
            Sketch { params, tokens, accelerators, secs, usd: secs / 3600.0 * nodes as f64 * self.price.usd_per_hour }
        };
        let mut sketches: Vec<Sketch> = STEPS[..LAST].iter().enumerate().rev().map(sketch).collect();
        sketches.reverse();
        sketches
    }

    fn choices(&self, flops: f64, last: &Rung) -> Result<Vec<Choice>, PlanError> {
        let best = self.best(flops);
        let mut choices = vec![self.choice("compute-optimal", best, last, "the lowest loss for the budget")?];
        // Going down from the best size, the loss rises steadily: halve the span until it is 1% above.
        let (mut small, mut large) = (best.0 / 1e3, best.0);
        for _ in 0..60 {
            let middle = (small * large).sqrt();
            let is_near = self.loss((middle, flops / 6.0 / middle)) <= OVERTRAINED_LOSS_RATIO * self.loss(best);
            if is_near { large = middle } else { small = middle }
        }
        let why = "the smallest model within 1% of that loss: each token that it serves is cheaper";
        choices.push(self.choice("over-trained", (large, flops / 6.0 / large), last, why)?);
        if let Some(served) = self.question.served_tokens {
            // 6 N D + 2 N S = C, as arXiv:2401.00448 counts them.
            let tokens = |params: f64| (flops - 2.0 * params * served) / (6.0 * params);
            let most = flops / (2.0 * served);
            let at = |x: f64| {
                let params = x.exp().min(0.999 * most);
                (params, tokens(params))
            };
            let least = minimum(best.0.min(most).ln() - 9.0, best.0.min(0.999 * most).ln(), |x| self.loss(at(x)));
            choices.push(self.choice(
                "with its serving",
                at(least),
                last,
                "the lowest loss when the budget also pays for the tokens served",
            )?);
        }
        Ok(choices)
    }

    fn choice(&self, name: &'static str, (params, tokens): (f64, f64), last: &Rung, why: &'static str) -> Result<Choice, PlanError> {
        let model = family::sized(params, self.question.vocab, self.question.context)?;
        let step_flops_ratio = family::token_flops(&model, self.question.context)? / (6.0 * model.params as f64);
        let work = laws::train_flops(params, tokens);
        let secs = work / self.rate(LAST) / last.accelerators as f64;
        Ok(Choice {
            name,
            params,
            tokens,
            epochs: (tokens / self.unique()).max(1.0),
            loss: self.law.predict(params, tokens, self.unique()),
            secs,
            usd: secs * last.accelerators as f64 * self.usd_per_sec(),
            setting: batch::best_setting(work),
            model,
            step_flops_ratio,
            served_flops: 2.0 * params,
            why,
        })
    }

    /// A batch has one sequence for each accelerator at least, and beyond the critical batch more accelerators buy no time.
    fn check_batch(&self, last: &Sketch) -> Result<(), PlanError> {
        let critical = batch::critical_tokens(self.loss((last.params, last.tokens)));
        let most = (critical / self.question.context as f64).floor();
        let accelerators = last.accelerators as f64;
        if accelerators <= most {
            return Ok(());
        }
        let days = (self.question.deadline_secs * accelerators / most / 86_400.0).ceil();
        Err(PlanError::Impossible {
            problem: format!(
                "the deadline asks for {accelerators:.0} accelerators, and a batch larger than {:.1}M tokens ({most:.0} sequences of {}) no longer buys time at this loss",
                critical / 1e6,
                self.question.context
            ),
            relax: format!(
                "the nearest deadline is {days:.0} days on {most:.0} accelerators: give `--deadline-days {days:.0}`, a smaller budget, or a shorter `--context`"
            ),
        })
    }

    fn family(&self, params: f64, flops: f64) -> Vec<Curve> {
        let sizes = (-5..=2).map(|i| params * 4_f64.powi(i));
        let curve = |params: f64| {
            // Fewer tokens than parameters are nobody's run.
            let points = span(flops).map(|c| (c, c / 6.0 / params)).filter(|(_, tokens)| *tokens >= params);
            Curve { params, points: points.map(|(c, tokens)| (c, self.loss((params, tokens)))).collect() }
        };
        sizes.map(curve).filter(|c| c.points.len() > 1).collect()
    }

    fn runs(&self, catalogue: &Catalogue) -> Vec<Published> {
        let known = catalogue.runs.iter().filter(|r| r.unlike.is_none()).filter_map(|r| Some((r, r.tokens?, r.flops()?)));
        known.map(|(r, tokens, flops)| Published { name: r.name.clone(), flops, loss: self.law.best.loss(r.params, tokens) }).collect()
    }

    fn warnings(&self, choices: &[Choice]) -> Vec<String> {
        let mut all = Vec::new();
        for (step, _) in STEPS.iter().zip(self.most_params).filter(|(_, most)| most.is_finite()) {
            all.push(format!("{}: what would be balanced for its data does not fit its accelerators, so it is smaller", step.name));
        }
        let (price, best) = (self.price, &choices[0]);
        if self.question.prices_of.is_none() {
            all.extend(price.warning());
        }
        if best.loss.decades_beyond > 0.0 {
            all.push(format!(
                "the loss is extrapolated: the largest run behind the law had {:.1e} FLOP, and this lies {:.1} powers of ten beyond",
                self.law.fitted.flops[1], best.loss.decades_beyond
            ));
        }
        for choice in choices.iter().filter(|c| c.epochs > 4.0) {
            all.push(format!("{}: the data is seen {:.1} times; beyond 4 repeats lose their worth quickly", choice.name, choice.epochs));
        }
        all
    }
}

/// Whether what is known of one holds of the other.
fn is_like(a: &Job, b: &Job) -> bool {
    a.accelerators == b.accelerators && (a.params / b.params).ln().abs() < SAME_SIZE.ln()
}

/// Computes to draw curves at: more than five powers of ten up to `flops`, and one beyond.
fn span(flops: f64) -> impl Iterator<Item = f64> {
    (0..=75).map(move |i| flops * 10_f64.powf(-5.25 + f64::from(i) / 12.0))
}

/// Where `f` is lowest between `low` and `high`, when it falls and then rises: golden section.
fn minimum(mut low: f64, mut high: f64, f: impl Fn(f64) -> f64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_75;
    for _ in 0..48 {
        let (left, right) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
        if f(left) < f(right) { high = right } else { low = left }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question {
            budget_usd: 2e6,
            instance: "p4d.24xlarge".into(),
            service: Service::Ec2,
            term: Term::OnDemand,
            prices_of: None,
            deadline_secs: 60.0 * 86_400.0,
            unique_tokens: Some(1e12),
            served_tokens: None,
            mfu: None,
            context: 2048,
            vocab: 32_000,
        }
    }

    fn answer(question: &Question) -> Result<Plan, PlanError> {
        plan(question, &Catalogue::load(None).unwrap(), &Law::chinchilla())
    }

    #[test]
    fn the_budget_is_spent_and_the_deadline_kept() {
        for (mfu, prices_of) in [(None, None), (Some(0.4), None), (None, Some("2023-03".to_owned()))] {
            let question = Question { mfu, prices_of, ..question() };
            let plan = answer(&question).unwrap();
            let usd: f64 = plan.ladder.iter().map(|r| r.usd).sum::<f64>() + plan.storage_usd;
            assert!((usd / question.budget_usd - 1.0).abs() < 0.01, "{usd}");
            assert!(plan.ladder.iter().map(|r| r.secs).sum::<f64>() <= question.deadline_secs);
            assert!(plan.ladder.windows(2).all(|w| w[0].params <= w[1].params && w[0].loss.loss > w[1].loss.loss));
        }
    }

    #[test]
    fn dearer_hours_buy_less_and_scarce_data_a_larger_loss() {
        let plan = answer(&question()).unwrap();
        let then = answer(&Question { prices_of: Some("2023-03".into()), ..question() }).unwrap();
        // Dearer hours are fewer accelerators, which train a smaller model nearly as fast.
        assert!((plan.flops / then.flops / (32.7726 / 21.957642) - 1.0).abs() < 0.1);
        let scarce = answer(&Question { unique_tokens: Some(2e10), ..question() }).unwrap();
        assert!(scarce.choices[0].epochs > 4.0 && scarce.choices[0].loss.loss > plan.choices[0].loss.loss);
        assert!(scarce.warnings.iter().any(|w| w.contains("times")), "{:?}", scarce.warnings);
    }

    #[test]
    fn a_smaller_model_serves_within_one_percent_and_serving_shrinks_it() {
        let plan = answer(&Question { served_tokens: Some(2e12), ..question() }).unwrap();
        let [best, over, served] = &plan.choices[..] else { panic!("{}", plan.choices.len()) };
        assert!(over.params < 0.6 * best.params && over.loss.loss <= 1.0101 * best.loss.loss);
        assert!(served.params < best.params);
        let spent = laws::train_flops(served.params, served.tokens) + 2.0 * served.params * 2e12;
        assert!((spent / plan.flops - 1.0).abs() < 1e-6);
        for choice in &plan.choices {
            assert!((choice.model.params as f64 / choice.params - 1.0).abs() < 0.1, "{choice:?}");
            assert!((0.9..1.4).contains(&choice.step_flops_ratio), "{}", choice.step_flops_ratio);
        }
    }

    #[test]
    fn what_cannot_be_says_what_is_nearest() {
        let cheap = answer(&Question { budget_usd: 5.0, ..question() }).unwrap_err();
        assert!(matches!(cheap, PlanError::Impossible { ref relax, .. } if relax.contains("21.96")), "{cheap:?}");
        let PlanError::Impossible { relax, .. } = answer(&Question { deadline_secs: 86_400.0, ..question() }).unwrap_err() else {
            panic!("one day")
        };
        let days: f64 = relax.split("--deadline-days ").nth(1).unwrap().split('`').next().unwrap().parse().unwrap();
        assert!(answer(&Question { deadline_secs: (days + 1.0) * 86_400.0, ..question() }).is_ok(), "{relax}");
        assert!(answer(&Question { instance: "p4d.24xl".into(), ..question() }).is_err());
    }

    #[test]
    fn far_beyond_the_fitted_range_is_said() {
        let plan = answer(&question()).unwrap();
        assert!(plan.choices[0].loss.decades_beyond > 0.5 && plan.warnings.iter().any(|w| w.contains("extrapolated")));
    }
}
