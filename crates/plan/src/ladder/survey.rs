//! What the phases of a project promise and cost, from its file alone; and when some have been climbed, what they taught about the
//! rest.
//!
//! ```text
//! Project -> size, memory, time and price of each phase; loss by a published law
//! + ledger -> predicted beside actual; loss of the rest by a law fitted to the finished, time by how long those took
//! ```
//! Before any phase the loss is that of other people's text ([`crate::laws::Law::chinchilla`]), turned from nats a token into bits a byte by
//! the catalogue's English; after one phase [`crate::ladder::phase_law`] takes its place, as in the gates.

use std::path::Path;

use data::Dataset;
use serde::Serialize;
use train::{
    ledger::{self, Entry},
    recipe::Recipe,
    run,
};

use crate::{
    PlanError,
    ladder::climb,
    ladder::here as machine,
    ladder::lay::Place,
    ladder::phase_law::{self as law, Point, Size},
    ladder::project::Project,
    laws::{Law, train_flops},
    questions::rent,
    simulation::efficiency::{self, Errors},
    simulation::search::Cut,
};

/// A project's phases as they stand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Survey {
    pub name: String,
    pub on: Option<String>,
    pub phases: Vec<Rung>,
    /// Finished phases' time over what was said of it: the geometric mean.
    pub measured_ratio: Option<f64>,
    pub warnings: Vec<String>,
}

/// A phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rung {
    pub name: String,
    pub data_ratio: f64,
    pub params: u64,
    pub tokens: f64,
    pub flops: f64,
    pub steps: u64,
    pub batch_tokens: u64,
    pub lr: f32,
    pub accelerators: usize,
    /// None on this machine.
    pub cut: Option<Cut>,
    /// Of the fullest rank.
    pub memory_bytes: f64,
    /// Before any phase was climbed.
    pub planned: Said,
    /// After those that were; the same when none was.
    pub now: Said,
    pub done: Option<Done>,
    pub gate: String,
}

/// What is said of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Said {
    /// Held-out bits per byte.
    pub loss: f64,
    pub loss_interval: [f64; 2],
    pub secs: f64,
    /// Where four of five runs would lie; none on this machine, which was asked itself.
    pub secs_range: Option<[f64; 2]>,
    pub usd: Option<f64>,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Done {
    pub loss: f64,
    /// What the law said before the phase, once there were two.
    pub loss_interval: Option<[f64; 2]>,
    pub secs: f64,
    pub usd: Option<f64>,
    pub passed: bool,
}

/// Beyond this many powers of ten a published law is worth a word.
const FAR_DECADES: f64 = 0.5;

/// Survey `project` in `folder`, if it has one: on this machine it does, and its data is prepared; `bytes_per_token` is of the published law's text.
/// # Errors
/// When a phase is no recipe, or fits no machine.
pub fn survey(
    project: &Project,
    folder: Option<&Path>,
    place: Place<'_>,
    published: &Law,
    bytes_per_token: f64,
) -> Result<Survey, PlanError> {
    let data = folder.map(|folder| Dataset::open(&folder.join("data")));
    let data = match place {
        Place::Here => data.transpose()?,
        Place::Rented { .. } => data.and_then(Result::ok),
    };
    let entries = folder.map(|folder| ledger::read(&folder.join("ledger.jsonl")).0).unwrap_or_default();
    let folder = folder.unwrap_or(Path::new("."));
    let entry = |index: usize| entries.iter().rfind(|entry| entry.phase == index + 1);
    let mut phases = Vec::new();
    let mut sizes = Vec::new();
    let mut beyond: f64 = 0.0;
    let mut ratios = Vec::new();
    for index in 0..project.phases.len() {
        let (recipe, model) = run::resolve(&project.recipe(index, folder)?, data.as_ref().map(Dataset::vocab))?;
        let size = climb::size(&recipe, &*model, data.as_ref().map_or(f64::INFINITY, |data| data.train().tokens() as f64));
        let params = model.params().elements();
        let bits = 1.0 / std::f64::consts::LN_2 / bytes_per_token;
        let loss = published.predict(params as f64, size.tokens, size.unique_tokens);
        beyond = beyond.max(loss.decades_beyond);
        let cost = match entry(index).and_then(|entry| Cost::known(entry, &recipe, place)) {
            Some(cost) => cost,
            None => Cost::of(&recipe, place, data.as_ref().map(Dataset::vocab))?,
        };
        let planned = cost.said(loss.loss * bits, loss.interval.map(|nats| nats * bits), &[]);
        let done = entry(index).map(|entry| done(entry, &cost));
        if let (Some(done), Some(entry)) = (&done, entry(index)) {
            // Here the clock was asked just before the phase; elsewhere the simulation says the same on any day.
            let said = if cost.usd_per_sec.is_some() { cost.secs } else { entry.predicted.secs };
            ratios.extend((done.secs > 0.0 && said > 0.0).then(|| done.secs / said));
        }
        let before = index.checked_sub(1).map(|i| project.phases[i].name.as_str());
        phases.push(Rung {
            name: project.phases[index].name.clone(),
            data_ratio: recipe.data.fraction,
            params,
            tokens: size.tokens,
            flops: train_flops(params as f64, size.tokens),
            steps: recipe.train.steps,
            batch_tokens: recipe.step_tokens(),
            lr: recipe.optim.lr,
            accelerators: recipe.parallel.ranks,
            cut: cost.cut,
            memory_bytes: cost.memory_bytes,
            planned,
            now: planned,
            done,
            gate: gate(index, before),
        });
        sizes.push((size, cost));
    }
    let points: Vec<Point> = phases
        .iter()
        .zip(&sizes)
        .filter_map(|(phase, (size, _))| Some(Point { size: fitted(*size), loss: phase.done.filter(|done| done.passed)?.loss }))
        .collect();
    for (phase, (size, cost)) in phases.iter_mut().zip(&sizes).filter(|(phase, _)| phase.done.is_none()) {
        let Said { loss, loss_interval, .. } = phase.planned;
        let law = law::guess(&points, fitted(*size));
        let (loss, interval) = law.map_or((loss, loss_interval), |law| (law.loss, law.interval));
        phase.now = cost.said(loss, interval, &ratios);
    }
    Ok(Survey {
        name: project.name.clone(),
        on: project.on.clone(),
        measured_ratio: mean(&ratios),
        warnings: warnings(&phases, beyond),
        phases,
    })
}

/// A law of repeats wants to know how much there is; of a corpus that is not here each token is taken to be seen once.
fn fitted(size: Size) -> Size {
    Size { unique_tokens: size.unique_tokens.min(1e3 * size.tokens), ..size }
}

fn gate(index: usize, before: Option<&str>) -> String {
    match (index, before) {
        (0, _) => "below a trigram".into(),
        (1, Some(before)) => format!("below {before} and a trigram"),
        (_, before) => format!("below {} and in the law's interval", before.unwrap_or("the last")),
    }
}

fn warnings(phases: &[Rung], beyond: f64) -> Vec<String> {
    let mut all = Vec::new();
    if beyond > FAR_DECADES && phases.iter().all(|phase| phase.done.is_none()) {
        all.push(format!(
            "the losses are of other people's text by a law fitted to other sizes: the farthest phase lies {beyond:.1} powers of ten outside; after two phases a law of your own takes its place"
        ));
    }
    for phase in phases.iter().filter(|phase| phase.done.is_some_and(|done| !done.passed)) {
        all.push(format!("phase `{}` did not pass its gates: what follows from it is not planned on", phase.name));
    }
    all
}

/// What a phase's recipe costs where it is climbed.
struct Cost {
    cut: Option<Cut>,
    memory_bytes: f64,
    /// Without an allowance.
    secs: f64,
    /// Of all its machines, where they are rented.
    usd_per_sec: Option<f64>,
}

impl Cost {
    /// Of a phase that was climbed on this machine, where the clock was asked just before it: what was said then, unless its recipe
    /// is another by now.
    fn known(entry: &Entry, recipe: &Recipe, place: Place<'_>) -> Option<Self> {
        let said = &entry.predicted;
        let is_here = matches!(place, Place::Here) && said.secs > 0.0 && climb::is_of(&entry.folder, recipe, None) == Some(true);
        is_here.then_some(Self { cut: None, memory_bytes: said.memory_bytes as f64, secs: said.secs, usd_per_sec: None })
    }

    fn of(recipe: &Recipe, place: Place<'_>, vocab: Option<usize>) -> Result<Self, PlanError> {
        let Place::Rented { catalogue, instance, price, .. } = place else {
            let price = machine::price(recipe, vocab)?;
            return Ok(Self { cut: None, memory_bytes: price.cost.total_bytes() as f64, secs: price.secs, usd_per_sec: None });
        };
        let rented = rent::rent(recipe, catalogue, instance, recipe.parallel.ranks, price, None)?;
        Ok(Self {
            cut: Some(rented.choice.cut),
            memory_bytes: rented.choice.time.bytes.total(),
            secs: rented.secs,
            usd_per_sec: Some(rented.nodes as f64 * price.usd_per_hour / 3600.0),
        })
    }

    /// With `ratios` of finished phases' time over what was said of it. Published runs stand for one's own until there are some, and
    /// each of one's own narrows how far the next may lie off.
    fn said(&self, loss: f64, loss_interval: [f64; 2], ratios: &[f64]) -> Said {
        let Errors { taken_over_said: [fast, allowance, slow], .. } = efficiency::errors();
        let is_rented = self.usd_per_sec.is_some();
        let ratio = mean(ratios).unwrap_or(if is_rented { allowance } else { 1.0 });
        let spread = 1.0 / ((1 + ratios.len()) as f64).sqrt();
        let secs = self.secs * ratio;
        Said {
            loss,
            loss_interval,
            secs,
            secs_range: is_rented.then(|| [fast, slow].map(|taken| secs * (taken / allowance).powf(spread))),
            usd: self.usd_per_sec.map(|usd| usd * secs),
        }
    }
}

fn done(entry: &Entry, cost: &Cost) -> Done {
    Done {
        loss: entry.actual.held_out.map_or(f64::NAN, |metric| metric.value),
        loss_interval: entry.predicted.held_out_interval,
        secs: entry.actual.secs,
        usd: cost.usd_per_sec.map(|usd| usd * entry.actual.secs),
        passed: entry.passed,
    }
}

/// The geometric one.
fn mean(ratios: &[f64]) -> Option<f64> {
    (!ratios.is_empty()).then(|| (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use data::PrepareOptions;
    use train::{ledger::Figures, metric::Metric};

    use super::*;
    use crate::{
        catalogue::{Catalogue, Service, Term},
        ladder::lay::{self as ladder, Target},
    };

    #[test]
    fn what_a_phase_took_and_reached_moves_the_rest() {
        let catalogue = Catalogue::load(None).unwrap();
        let instance = catalogue.instance("p4d.24xlarge").unwrap();
        let price = instance.price(Service::Ec2, Term::OnDemand, None).unwrap();
        let place = Place::Rented { catalogue: &catalogue, instance, nodes: 2, price };
        let recipe =
            "model = { preset = \"gpt2-355m\", vocab = 50304 }\nbatch = { sequences = 512, context = 1024 }\ntrain = { steps = 20000 }";
        let recipe: toml::Table = recipe.parse().unwrap();
        let law = Law::chinchilla();
        let project = ladder::lay(&Target { recipe: &recipe, vocab: None }, place, &law, PrepareOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let look = || survey(&project, Some(folder.path()), place, &law, 4.5).unwrap();
        let fresh = look();
        assert!(fresh.measured_ratio.is_none() && fresh.phases.iter().all(|p| p.now == p.planned && p.done.is_none()));
        assert!(fresh.phases.windows(2).all(|w| w[0].planned.loss > w[1].planned.loss));
        let climbed = |index: usize, loss_ratio: f64, secs_ratio: f64| {
            let phase = &fresh.phases[index];
            let allowance = efficiency::errors().taken_over_said[1];
            let actual = Figures {
                held_out: Some(Metric::bits_per_byte(phase.planned.loss * loss_ratio)),
                secs: phase.planned.secs / allowance * secs_ratio,
                ..Figures::default()
            };
            let entry = Entry {
                phase: index + 1,
                name: phase.name.clone(),
                folder: "x".into(),
                params: phase.params,
                unix_secs: 0.0,
                predicted: Figures::default(),
                actual,
                unit: "tokens".into(),
                baseline: 9.0,
                baseline_of: "a trigram".into(),
                gates: vec![],
                passed: true,
                samples: Vec::new(),
                sample_before: String::new(),
                sample_after: String::new(),
            };
            ledger::append(&folder.path().join("ledger.jsonl"), &entry).unwrap();
        };
        climbed(0, 1.1, 2.0);
        let one = look();
        assert!((one.measured_ratio.unwrap() - 2.0).abs() < 1e-9);
        let (before, after) = (&fresh.phases[3].planned, &one.phases[3].now);
        let holds = |said: &Said| said.loss_interval[0] < 1.1 * before.loss && 1.1 * before.loss < said.loss_interval[1];
        assert!(holds(after), "{after:?}");
        assert!((after.usd.unwrap() / before.usd.unwrap() - 2.0 / efficiency::errors().taken_over_said[1]).abs() < 1e-6);
        let width = |said: &Said| said.secs_range.map(|[fast, slow]| slow / fast).unwrap();
        assert!(width(after) < width(before), "one run of one's own says more than none");
        climbed(1, 1.1, 2.0);
        let two = look();
        assert!(holds(&two.phases[3].now), "{two:?}");
        let breadth = |said: &Said| said.loss_interval[1] - said.loss_interval[0];
        assert!(breadth(&two.phases[3].now) < breadth(after));
        assert!(two.phases[0].done.is_some() && two.phases[2].done.is_none());
    }
}
