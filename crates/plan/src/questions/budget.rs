//! The first question: what do a budget, an instance, a deadline and a corpus buy? How large a model on how much data, for
//! how long, with what loss to expect, and by which steps.
//!
//! Money becomes accelerator-hours by the catalogue's price, hours become FLOPs by [`crate::simulation::efficiency`], FLOPs become a size
//! and a number of tokens by a [`Law`] with repeats priced in. The ladder's first three phases, storage and failures are paid
//! first. FLOPs are `6 N D` throughout, as in the law. How fast a size trains is known when the size is, so both are found in turn.

mod told;

pub use told::{Choice, Curve, Plan, Published, Question, Rung};

use crate::{
    PlanError,
    catalogue::{Accelerator, Catalogue, Instance, Price},
    laws::{self, Law, Repeats, batch},
    simulation::efficiency::{self, Job, Mfu},
    simulation::family::{self, Sized},
    simulation::reliability::CHECKPOINT_BYTES_PER_PARAM,
};

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
/// Tries of a little less where whole steps of what can be built cost more than is there.
const TRIES: usize = 20;
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
    let storage_usd = desk.storage_usd(last.params, last.tokens);
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
        usd: ladder.iter().map(|rung| rung.usd).sum::<f64>() + storage_usd,
        storage_usd,
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
    usd: f64,
}

/// A decoder that can be built, and whole steps of it.
struct Bought {
    model: Sized,
    tokens: f64,
    setting: batch::Setting,
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
                let known: Vec<(Job, Mfu)> = known.into_iter().flatten().collect();
                return self.within(flops, &known);
            }
        }
        unreachable!("the loop above ends by returning")
    }

    /// FLOPs of the last phase, `flops` at most, whose whole steps the budget pays with all before it, and the phases.
    fn within(&self, mut flops: f64, known: &[(Job, Mfu)]) -> Result<(f64, Vec<Rung>), PlanError> {
        for _ in 0..TRIES {
            let (params, tokens) = self.best(flops);
            let mut sketches = self.first_phases(params, tokens);
            sketches.push(self.last_phase(params, tokens));
            let rungs = sketches.iter().zip(known).enumerate();
            let ladder: Vec<Rung> =
                rungs.map(|(phase, (sketch, (job, mfu)))| self.rung(phase, sketch, job, mfu)).collect::<Result<_, _>>()?;
            let usd = ladder.iter().map(|rung| rung.usd).sum::<f64>() + self.storage_usd(ladder[LAST].params, ladder[LAST].tokens);
            if usd <= self.question.budget_usd {
                return Ok((flops, ladder));
            }
            flops *= 0.9995 * self.question.budget_usd / usd;
        }
        Err(PlanError::Impossible {
            problem: format!("{} USD pay for no ladder of whole steps on {}", self.question.budget_usd, self.instance.name),
            relax: "give a larger budget, or take a smaller instance".into(),
        })
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

    fn rung(&self, phase: usize, sketch: &Sketch, job: &Job, mfu: &Mfu) -> Result<Rung, PlanError> {
        let (step, accelerators) = (STEPS[phase], job.accelerators);
        // The batch whose step was simulated.
        let batch_tokens = (job.sequences() * self.question.context) as f64;
        let flops = laws::train_flops(sketch.params, sketch.tokens);
        let Bought { model, tokens, setting } = self.bought(sketch.params, flops, 0.0, batch_tokens)?;
        let params = model.params as f64;
        let (secs, usd) = self.cost(phase, params, tokens, accelerators);
        Ok(Rung {
            name: step.name,
            data_ratio: step.data_ratio,
            accelerators: accelerators as u64,
            params,
            tokens,
            loss: self.law.predict(params, tokens, step.data_ratio * self.unique()),
            setting,
            mfu: mfu.clone(),
            secs,
            usd,
        })
    }

    /// Seconds and dollars of training; a machine is rented whole.
    fn cost(&self, phase: usize, params: f64, tokens: f64, accelerators: usize) -> (f64, f64) {
        let secs = laws::train_flops(params, tokens) / self.rate(phase) / accelerators as f64;
        let nodes = accelerators.div_ceil(self.instance.count as usize);
        (secs, secs / 3600.0 * nodes as f64 * self.price.usd_per_hour)
    }

    /// What `flops` buy of a model of about `params` parameters when `served` tokens are to be paid too: a decoder that can be built, and
    /// whole steps of `batch_tokens`.
    fn bought(&self, params: f64, flops: f64, served: f64, batch_tokens: f64) -> Result<Bought, PlanError> {
        let model = family::sized(params, self.question.vocab, self.question.context)?;
        let params = model.params as f64;
        // 6 N D + 2 N S = C, as arXiv:2401.00448 counts them.
        let flops = (flops - 2.0 * params * served).max(0.0);
        let steps = (flops / (6.0 * params * batch_tokens)).floor().max(1.0);
        Ok(Bought { model, tokens: steps * batch_tokens, setting: batch::Setting { batch_tokens, ..batch::best_setting(flops) } })
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
        Sketch { params, tokens, accelerators: accelerators as usize, usd: work * self.usd_per_sec() }
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
            let (_, usd) = self.cost(phase, params, tokens, accelerators);
            Sketch { params, tokens, accelerators, usd }
        };
        let mut sketches: Vec<Sketch> = STEPS[..LAST].iter().enumerate().rev().map(sketch).collect();
        sketches.reverse();
        sketches
    }

    fn choices(&self, flops: f64, last: &Rung) -> Result<Vec<Choice>, PlanError> {
        let best = self.best(flops);
        let optimal = self.choice("compute-optimal", best.0, flops, 0.0, last, "the lowest loss for the budget")?;
        // Going down from the best size, the loss rises steadily: halve the span until it is 1% above.
        let most_loss = OVERTRAINED_LOSS_RATIO * optimal.loss.loss;
        let (mut small, mut large) = (best.0 / 1e3, best.0);
        for _ in 0..60 {
            let middle = (small * large).sqrt();
            if self.loss((middle, flops / 6.0 / middle)) <= most_loss { large = middle } else { small = middle }
        }
        let over = |params: f64| {
            let why = "the smallest model within 1% of that loss: each token that it serves is cheaper";
            self.choice("over-trained", params, flops, 0.0, last, why)
        };
        let mut small = over(large)?;
        // What can be built may be a little smaller than what was asked for.
        while small.loss.loss > most_loss && large < best.0 {
            large = (1.03 * large).min(best.0);
            small = over(large)?;
        }
        let mut choices = vec![optimal, small];
        if let Some(served) = self.question.served_tokens {
            let most = flops / (2.0 * served);
            let params = |x: f64| x.exp().min(0.999 * most);
            let at = |x: f64| (params(x), (flops - 2.0 * params(x) * served) / (6.0 * params(x)));
            let least = minimum(best.0.min(most).ln() - 9.0, best.0.min(0.999 * most).ln(), |x| self.loss(at(x)));
            let why = "the lowest loss when the budget also pays for the tokens served";
            choices.push(self.choice("with its serving", params(least), flops, served, last, why)?);
        }
        Ok(choices)
    }

    fn choice(
        &self,
        name: &'static str,
        params: f64,
        flops: f64,
        served: f64,
        last: &Rung,
        why: &'static str,
    ) -> Result<Choice, PlanError> {
        let Bought { model, tokens, setting } = self.bought(params, flops, served, last.setting.batch_tokens)?;
        let step_flops_ratio = family::token_flops(&model, self.question.context)? / (6.0 * model.params as f64);
        let params = model.params as f64;
        let secs = laws::train_flops(params, tokens) / self.rate(LAST) / last.accelerators as f64;
        Ok(Choice {
            name,
            params,
            tokens,
            epochs: (tokens / self.unique()).max(1.0),
            loss: self.law.predict(params, tokens, self.unique()),
            secs,
            usd: secs * last.accelerators as f64 * self.usd_per_sec(),
            setting,
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
    use crate::catalogue::{Service, Term};

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
            assert!(usd == plan.usd && usd <= question.budget_usd && usd > 0.99 * question.budget_usd, "{usd}");
            let last = &plan.ladder[LAST];
            let choice = &plan.choices[0];
            assert_eq!((last.params, last.tokens), (choice.params, choice.tokens));
            assert!((last.usd / choice.usd - 1.0).abs() < 1e-12, "{} {}", last.usd, choice.usd);
            if let Some(choice) = &last.mfu.choice {
                assert_eq!(choice.time.tokens as f64, last.setting.batch_tokens, "the batch that is told is the one that was simulated");
            }
            assert!(plan.ladder.iter().map(|r| r.secs).sum::<f64>() <= question.deadline_secs);
            assert!(plan.ladder.windows(2).all(|w| w[0].params <= w[1].params && w[0].loss.loss > w[1].loss.loss));
        }
    }

    #[test]
    fn no_budget_is_surpassed() {
        for budget_usd in [22.0, 25.0, 1e2, 1e3, 1e4, 123_456.0, 1e6, 4e6] {
            let plan = answer(&Question { budget_usd, mfu: Some(0.4), context: 4096, vocab: 50_304, ..question() }).unwrap();
            assert!(plan.usd <= budget_usd && plan.usd > 0.9 * budget_usd, "{} of {budget_usd}", plan.usd);
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
        assert!(spent <= plan.flops && spent > 0.999 * plan.flops, "{spent} of {}", plan.flops);
        for choice in &plan.choices {
            assert_eq!(choice.model.params as f64, choice.params);
            assert_eq!(choice.tokens % choice.setting.batch_tokens, 0.0, "whole steps");
            let cost = choice.secs / 3600.0 * plan.nodes as f64 * plan.price.usd_per_hour;
            assert!((choice.usd / cost - 1.0).abs() < 1e-9, "{choice:?}");
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
