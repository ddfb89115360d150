//! What can be rented, what it has cost, what was trained before, and which base models there are: data files with a source
//! and a date in every row, embedded here; a user's own file adds rows or takes the place of those of the same name.
//!
//! Nothing is looked up on a network: prices grow old, and every answer says of when its price is ([`Price::months_old`]).

mod check;
mod images;

pub use images::ImageRate;
use serde::{Deserialize, Serialize};
use train::clock::unix_secs;

use crate::PlanError;

const FILES: [(&str, &str); 6] = [
    ("accelerators.toml", include_str!("catalogue/accelerators.toml")),
    ("instances.toml", include_str!("catalogue/instances.toml")),
    ("languages.toml", include_str!("catalogue/languages.toml")),
    ("models.toml", include_str!("catalogue/models.toml")),
    ("pipeline.toml", include_str!("catalogue/pipeline.toml")),
    ("runs.toml", include_str!("catalogue/runs.toml")),
];

/// A price as old as this is worth a word.
const OLD_MONTHS: u32 = 12;

/// All rows; the names of the tables are those of the files.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Catalogue {
    #[serde(rename = "accelerator")]
    pub accelerators: Vec<Accelerator>,
    #[serde(rename = "images")]
    pub images: Vec<ImageRate>,
    #[serde(rename = "instance")]
    pub instances: Vec<Instance>,
    #[serde(rename = "language")]
    pub languages: Vec<Language>,
    #[serde(rename = "model")]
    pub models: Vec<BaseModel>,
    #[serde(rename = "run")]
    pub runs: Vec<Run>,
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
    #[serde(rename = "storage")]
    pub storage: Vec<Storage>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accelerator {
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    pub memory_gib: f64,
    /// Dense products of 16-bit numbers.
    pub peak_tflops: f64,
    /// The best product measured, where known.
    pub attainable_tflops: Option<f64>,
    /// Units among which a product is shared out.
    pub units: f64,
    pub memory_gb_per_sec: f64,
    /// To the others of its node, one direction; of PCIe where there is nothing faster.
    pub link_gb_per_sec: Option<f64>,
    pub pci_gb_per_sec: Option<f64>,
    /// Of the link's rate, what is left when a node's switch adds; none where it cannot.
    pub switch_share: Option<f64>,
    /// Of the peak, what instructions of the generation before reach; none where there are no newer ones.
    pub mma_share: Option<f64>,
    /// Products of 32-bit numbers without tensor units.
    pub single_tflops: Option<f64>,
    pub watts: Option<f64>,
    pub source: String,
    pub date: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    pub name: String,
    /// A name of [`Catalogue::accelerators`]; none on instances of CPUs alone.
    pub accelerator: Option<String>,
    #[serde(default)]
    pub count: u64,
    pub cpu: Option<String>,
    pub net_gbps: f64,
    pub vcpus: u64,
    pub memory_gib: f64,
    pub prices: Vec<Price>,
}

/// Who rents it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    Ec2,
    Sagemaker,
}

/// On which terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Term {
    OnDemand,
    #[serde(rename = "reserved-1y")]
    Reserved1y,
    #[serde(rename = "reserved-3y")]
    Reserved3y,
    CapacityBlock,
}

/// Of one instance for an hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub usd_per_hour: f64,
    /// Year and month, `2020-11`.
    pub from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The newest month in which a price list was seen to have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    pub service: Service,
    pub term: Term,
    pub source: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Language {
    pub name: String,
    pub bytes_per_token: BytesPerToken,
    pub source: String,
    pub date: String,
}

/// By size of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BytesPerToken {
    #[serde(rename = "50k")]
    pub of_50k: f64,
    #[serde(rename = "100k")]
    pub of_100k: f64,
    #[serde(rename = "200k")]
    pub of_200k: f64,
}

/// What its owner lets one do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permits {
    Open,
    Terms,
    Research,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseModel {
    pub name: String,
    pub params: f64,
    pub active_params: Option<f64>,
    /// Tokens
    pub context: f64,
    /// Seen in training.
    pub tokens: Option<f64>,
    pub licence: String,
    pub permits: Permits,
    pub languages: Vec<String>,
    pub source: String,
    pub date: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub name: String,
    pub year: u32,
    /// `llm`, `moe`, `diffusion`, `vit` or `vlm`.
    pub kind: String,
    /// Active for a token.
    pub params: f64,
    pub tokens: Option<f64>,
    pub samples: Option<f64>,
    pub accelerator: Option<String>,
    pub instance: Option<String>,
    pub count: Option<u64>,
    pub days: Option<f64>,
    /// Of accelerators.
    pub hours: Option<f64>,
    /// Why it is no example of pretraining speed.
    pub unlike: Option<String>,
    pub source: String,
    pub confidence: String,
}

/// A stage of preparing data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub name: String,
    /// Of text, on one vCPU.
    pub mb_per_sec: f64,
    pub source: String,
    pub date: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    pub name: String,
    pub usd_per_gb_month: f64,
    pub source: String,
    pub date: String,
}

impl Catalogue {
    /// The embedded rows, and over them those of `own`, a file's path.
    /// # Errors
    /// [`PlanError::Catalogue`] when that file is none.
    pub fn load(own: Option<&std::path::Path>) -> Result<Self, PlanError> {
        let mut all = Self::default();
        for (name, text) in FILES {
            all.lay_over(Self::parse(text, name)?);
        }
        if let Some(path) = own {
            let origin = path.display().to_string();
            let text =
                disk::read_text(path, 16 << 20).map_err(|e| PlanError::Catalogue { origin: origin.clone(), problem: e.to_string() })?;
            all.lay_over(Self::parse(&text, &origin)?);
        }
        Ok(all)
    }

    fn parse(text: &str, origin: &str) -> Result<Self, PlanError> {
        let catalogue: Self = toml::from_str(text).map_err(|e| PlanError::Catalogue { origin: origin.into(), problem: e.to_string() })?;
        catalogue.check().map_err(|problem| PlanError::Catalogue { origin: origin.into(), problem })?;
        Ok(catalogue)
    }

    fn lay_over(&mut self, over: Self) {
        fn rows<T>(below: &mut Vec<T>, over: Vec<T>, name: fn(&T) -> &str) {
            below.retain(|b| over.iter().all(|o| name(o) != name(b)));
            below.extend(over);
        }
        rows(&mut self.accelerators, over.accelerators, |r| &r.name);
        rows(&mut self.images, over.images, |r| &r.name);
        rows(&mut self.instances, over.instances, |r| &r.name);
        rows(&mut self.languages, over.languages, |r| &r.name);
        rows(&mut self.models, over.models, |r| &r.name);
        rows(&mut self.runs, over.runs, |r| &r.name);
        rows(&mut self.stages, over.stages, |r| &r.name);
        rows(&mut self.storage, over.storage, |r| &r.name);
    }

    /// `p4d.24xlarge:64`: an instance, and how many of it where that is said.
    /// # Errors
    /// [`PlanError::Unknown`]; [`PlanError::Unit`] when what is said is no number of machines.
    pub fn machines(&self, on: &str) -> Result<(&Instance, Option<usize>), PlanError> {
        let Some((name, nodes)) = on.split_once(':') else { return Ok((self.instance(on)?, None)) };
        let wrong = || PlanError::Unit { text: on.into(), problem: "names no number of nodes".into(), example: "p4d.24xlarge:64" };
        let nodes = nodes.trim().parse().ok().filter(|n| (1..=100_000).contains(n)).ok_or_else(wrong)?;
        Ok((self.instance(name)?, Some(nodes)))
    }

    /// The instance called `name`, whatever its case, with or without SageMaker's `ml.` before it.
    /// # Errors
    /// [`PlanError::Unknown`] with the closest names.
    pub fn instance(&self, name: &str) -> Result<&Instance, PlanError> {
        let bare = sagemakers(name).unwrap_or(name.trim());
        let found = self.instances.iter().find(|i| i.name.eq_ignore_ascii_case(bare));
        // One that is named by its accelerators is meant too.
        let by_accelerator = self.instances.iter().filter_map(|i| Some((i.accelerator.as_deref()?, i.name.as_str())));
        let names = self.instances.iter().map(|i| (i.name.as_str(), i.name.as_str())).chain(by_accelerator);
        found.ok_or_else(|| unknown("instance", "instances", bare, names))
    }

    /// An instance's accelerator.
    /// # Errors
    /// [`PlanError::Unknown`] when the instance has none, or one that no row describes.
    pub fn accelerator_of(&self, instance: &Instance) -> Result<&Accelerator, PlanError> {
        let with = self.instances.iter().filter(|i| i.accelerator.is_some()).map(|i| (i.name.as_str(), i.name.as_str()));
        let none = || unknown("instance with accelerators", "instances", &instance.name, with);
        let name = instance.accelerator.as_deref().ok_or_else(none)?;
        self.accelerator(name)
    }

    /// The accelerator called `name`.
    /// # Errors
    /// [`PlanError::Unknown`] with the closest names.
    pub fn accelerator(&self, name: &str) -> Result<&Accelerator, PlanError> {
        let is_it = |a: &&Accelerator| a.name.eq_ignore_ascii_case(name) || a.aliases.iter().any(|n| n.eq_ignore_ascii_case(name));
        let names =
            self.accelerators.iter().flat_map(|a| std::iter::once(&a.name).chain(&a.aliases).map(|n| (n.as_str(), a.name.as_str())));
        self.accelerators.iter().find(is_it).ok_or_else(|| unknown("accelerator", "accelerators", name, names))
    }

    /// The base model called `name`.
    /// # Errors
    /// [`PlanError::Unknown`] with the closest names.
    pub fn model(&self, name: &str) -> Result<&BaseModel, PlanError> {
        let found = self.models.iter().find(|m| m.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| unknown("base model", "models", name, self.models.iter().map(|m| (m.name.as_str(), m.name.as_str()))))
    }

    /// The language called `name` (`en`, `de`, `code`).
    /// # Errors
    /// [`PlanError::Unknown`] with the closest names.
    pub fn language(&self, name: &str) -> Result<&Language, PlanError> {
        let found = self.languages.iter().find(|l| l.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| unknown("language", "languages", name, self.languages.iter().map(|l| (l.name.as_str(), l.name.as_str()))))
    }
}

impl Instance {
    /// What it costs: the newest price, or the one that held in the month `at`.
    /// # Errors
    /// [`PlanError::Impossible`] when it is not sold so, with the ways in which it is.
    pub fn price(&self, service: Service, term: Term, at: Option<&str>) -> Result<&Price, PlanError> {
        let at = match at {
            None => None,
            Some(text) => {
                Some(month(text).ok_or_else(|| PlanError::Unit { text: text.into(), problem: "is no month".into(), example: "2023-03" })?)
            }
        };
        let held = |p: &&Price| {
            at.is_none_or(|at| {
                month(&p.from).is_some_and(|from| from <= at) && p.until.as_deref().and_then(month).is_none_or(|until| at <= until)
            })
        };
        let sold = self.prices.iter().filter(|p| p.service == service && p.term == term);
        sold.filter(held).max_by_key(|p| month(&p.from)).ok_or_else(|| {
            let ways: Vec<String> = self
                .prices
                .iter()
                .map(|p| {
                    format!("{} ({}, {}) from {}", p.usd_per_hour, p.service.name(), p.term.name(), p.from)
                        + &p.until.as_ref().map_or(String::new(), |u| format!(" until {u}"))
                })
                .collect();
            PlanError::Impossible {
                problem: format!(
                    "no price of `{}` is known for {}, {}{}",
                    self.name,
                    service.name(),
                    term.name(),
                    at.map_or(String::new(), |at| format!(", in {}-{:02}", at / 12, at % 12 + 1))
                ),
                relax: if ways.is_empty() {
                    "add its price with `--catalogue mine.toml`".into()
                } else {
                    format!("known in US dollars an hour: {}", ways.join("; "))
                },
            }
        })
    }
}

impl Instance {
    /// The newest price of every service and term that it is sold on, the dearest first.
    #[must_use]
    pub fn newest_prices(&self) -> Vec<&Price> {
        let is_newest = |p: &&Price| {
            let same = self.prices.iter().filter(|q| q.service == p.service && q.term == p.term);
            same.max_by_key(|q| month(&q.from)).is_some_and(|q| std::ptr::eq(q, *p))
        };
        let mut all: Vec<&Price> = self.prices.iter().filter(is_newest).collect();
        all.sort_by(|a, b| b.usd_per_hour.total_cmp(&a.usd_per_hour));
        all
    }
}

impl BytesPerToken {
    /// For a vocabulary of `vocab`: straight in its logarithm between the measured ones, and level beyond them.
    #[must_use]
    pub fn of(&self, vocab: usize) -> f64 {
        let doublings = (vocab as f64 / 50_257.0).log2().clamp(0.0, 2.0);
        if doublings < 1.0 {
            self.of_50k + doublings * (self.of_100k - self.of_50k)
        } else {
            self.of_100k + (doublings - 1.0) * (self.of_200k - self.of_100k)
        }
    }
}

impl Service {
    /// Who rents out what is called `on`: SageMaker calls an instance `ml.p4d.24xlarge`; else who is `asked`, or EC2.
    /// # Errors
    /// [`PlanError::Impossible`] when the name says another than is asked.
    pub fn of(on: &str, asked: Option<Self>) -> Result<Self, PlanError> {
        match (sagemakers(on), asked) {
            (Some(bare), Some(asked @ Self::Ec2)) => Err(PlanError::Impossible {
                problem: format!("`{on}` is SageMaker's name of an instance, and `--service {}` is asked", asked.name()),
                relax: format!("write `{bare}`, or leave `--service` out"),
            }),
            (Some(_), _) => Ok(Self::Sagemaker),
            (None, asked) => Ok(asked.unwrap_or(Self::Ec2)),
        }
    }

    /// What it writes before the name of an instance.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Ec2 => "",
            Self::Sagemaker => SAGEMAKERS,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Sagemaker => "sagemaker",
        }
    }
}

impl Term {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Reserved1y => "reserved-1y",
            Self::Reserved3y => "reserved-3y",
            Self::CapacityBlock => "capacity-block",
        }
    }
}

impl Price {
    /// `2025-06, seen 2026-09`, or `2020-11 to 2025-05`.
    #[must_use]
    pub fn when(&self) -> String {
        match (&self.until, &self.seen) {
            (Some(until), _) => format!("{} to {until}", self.from),
            (None, Some(seen)) => format!("{}, seen {seen}", self.from),
            (None, None) => self.from.clone(),
        }
    }

    /// Months since it began, was last seen or, when it has ended, since it ended.
    #[must_use]
    pub fn months_old(&self) -> u32 {
        let now = (1970.0 + unix_secs() / 31_556_952.0) * 12.0;
        let of = self.until.as_deref().or(self.seen.as_deref()).unwrap_or(&self.from);
        month(of).map_or(0, |m| (now as u32).saturating_sub(m))
    }

    /// What to say of a price that is meant to hold today and is old.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let months = self.months_old();
        (months >= OLD_MONTHS).then(|| format!("the price is of {} and {months} months old: check it before you pay", self.when()))
    }
}

impl Run {
    /// Training FLOPs by `6 N D`, of runs on text.
    #[must_use]
    pub fn flops(&self) -> Option<f64> {
        self.tokens.map(|tokens| crate::laws::train_flops(self.params, tokens))
    }
}

/// Cells of the rows of a table of measurements that comes with hairpin; comments and its head are left out.
pub(crate) fn cells(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    table.lines().filter(|line| !line.starts_with('#')).skip(1).map(|line| line.split(',').collect())
}

/// Months since year 0 of `2020-11`.
fn month(text: &str) -> Option<u32> {
    let (year, month) = text.split_once('-')?;
    let (year, month): (u32, u32) = (year.parse().ok()?, month.parse().ok()?);
    ((1950..2200).contains(&year) && (1..=12).contains(&month)).then_some(year * 12 + month - 1)
}

/// Before SageMaker's names of instances.
const SAGEMAKERS: &str = "ml.";

/// What follows `ml.` in a name of SageMaker's.
fn sagemakers(name: &str) -> Option<&str> {
    let (start, bare) = name.trim().split_at_checked(SAGEMAKERS.len())?;
    start.eq_ignore_ascii_case(SAGEMAKERS).then_some(bare)
}

/// No such name; `names` are what each could be called, and what it is.
fn unknown<'a>(kind: &'static str, list: &'static str, name: &str, names: impl Iterator<Item = (&'a str, &'a str)>) -> PlanError {
    let near = models::nearest(name, names);
    let near = if near.is_empty() { String::new() } else { format!("the nearest are `{}`; ", near.join("`, `")) };
    PlanError::Unknown { kind, name: name.into(), near, list }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_name_one_another_and_their_sources() {
        let all = Catalogue::load(None).unwrap();
        assert!(all.instances.len() > 30 && all.runs.len() > 50 && all.models.len() > 25);
        for i in all.instances.iter().filter(|i| i.accelerator.is_some()) {
            all.accelerator_of(i).unwrap();
        }
        for run in &all.runs {
            assert!(!run.source.is_empty());
            run.accelerator.iter().for_each(|a| assert!(all.accelerator(a).is_ok(), "{a}"));
            run.instance.iter().for_each(|i| assert!(all.instance(i).is_ok(), "{i}"));
            // Printed days, accelerators and hours belong together.
            if let (Some(count), Some(days), Some(hours), None) = (run.count, run.days, run.hours, &run.unlike) {
                let ratio = hours / (count as f64 * days * 24.0);
                assert!((0.85..1.2).contains(&ratio) || run.kind == "vlm", "{}: {ratio}", run.name);
            }
        }
        for model in &all.models {
            assert!(!model.source.is_empty() && !model.languages.is_empty() && month(&model.date).is_some(), "{}", model.name);
        }
    }

    #[test]
    fn unknown_names_suggest_the_nearest() {
        let all = Catalogue::load(None).unwrap();
        fn near<T: std::fmt::Debug>(found: Result<T, PlanError>) -> String {
            match found.unwrap_err() {
                PlanError::Unknown { near, .. } => near,
                other => panic!("{other}"),
            }
        }
        for name in ["p4d.24xlrage", "p4d", "P4D.24", "ml.p4d"] {
            assert!(near(all.instance(name)).starts_with("the nearest are `p4d.24xlarge`"), "{name}");
        }
        assert!(near(all.instance("p4.24xlarge")).contains("p4d.24xlarge"));
        assert!(near(all.instance("H100")).contains("p5.48xlarge"), "an instance by its accelerator");
        assert!(near(all.accelerator("A100-4")).contains("A100-40"));
        assert!(near(all.language("klingon")).is_empty(), "what is near to nothing suggests nothing");
        assert_eq!(all.instance("ml.P4D.24xlarge").unwrap().name, "p4d.24xlarge");
        assert!(all.accelerator_of(all.instance("m5.xlarge").unwrap()).is_err());
    }

    #[test]
    fn sagemakers_names_have_sagemakers_prices() {
        assert_eq!(Service::of("ml.p4d.24xlarge:8", None).unwrap(), Service::Sagemaker);
        assert_eq!(Service::of("ML.P4D.24xlarge", Some(Service::Sagemaker)).unwrap(), Service::Sagemaker);
        assert_eq!(Service::of("p4d.24xlarge", None).unwrap(), Service::Ec2);
        assert_eq!(Service::of("p4d.24xlarge", Some(Service::Sagemaker)).unwrap(), Service::Sagemaker);
        let both = Service::of("ml.p4d.24xlarge", Some(Service::Ec2)).unwrap_err();
        assert!(matches!(both, PlanError::Impossible { ref relax, .. } if relax.contains("`p4d.24xlarge`")), "{both:?}");
    }

    #[test]
    fn a_price_is_of_its_day() {
        let all = Catalogue::load(None).unwrap();
        let p4d = all.instance("p4d.24xlarge").unwrap();
        let usd = |at| p4d.price(Service::Ec2, Term::OnDemand, at).unwrap().usd_per_hour;
        assert_eq!((usd(Some("2023-03")), usd(Some("2025-05")), usd(Some("2025-06")), usd(None)), (32.7726, 32.7726, 21.957642, 21.957642));
        let when = |service, term| p4d.price(service, term, None).unwrap().when();
        assert_eq!(when(Service::Ec2, Term::OnDemand), "2025-06, seen 2026-09");
        assert_eq!(when(Service::Ec2, Term::Reserved1y), "2021-06 to 2025-03");
        let ratio = p4d.price(Service::Sagemaker, Term::OnDemand, None).unwrap().usd_per_hour / usd(None);
        assert!((ratio - 1.15).abs() < 1e-4, "SageMaker's is 1.15 times EC2's of the same day: {ratio}");
        let never = p4d.price(Service::Ec2, Term::OnDemand, Some("2019-01")).unwrap_err();
        assert!(matches!(never, PlanError::Impossible { ref relax, .. } if relax.contains("2020-11")), "{never:?}");
        assert!(p4d.price(Service::Ec2, Term::OnDemand, Some("soon")).is_err());
        let blocks = all.instance("p5e.48xlarge").unwrap().price(Service::Ec2, Term::OnDemand, None).unwrap_err();
        assert!(matches!(blocks, PlanError::Impossible { ref relax, .. } if relax.contains("capacity-block")), "{blocks:?}");
    }

    #[test]
    fn a_users_file_adds_and_replaces_and_is_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let row =
            "[[instance]]\nname = \"p4d.24xlarge\"\naccelerator = \"A100-40\"\ncount = 8\nnet_gbps = 400\nvcpus = 96\nmemory_gib = 1152\n";
        let price =
            "prices = [{ usd_per_hour = 10, from = \"2026-11\", service = \"ec2\", term = \"on-demand\", source = \"a contract\" }]\n";
        std::fs::write(&path, format!("{row}{price}")).unwrap();
        let all = Catalogue::load(Some(&path)).unwrap();
        assert_eq!(all.instance("p4d.24xlarge").unwrap().prices.len(), 1);
        assert!(all.instance("p5.48xlarge").is_ok());
        for bad in [
            format!("{row}{}", price.replace("10,", "0,")),
            format!("{row}{}", price.replace("2026-11", "November")),
            format!("{row}colour = 1\n{price}"),
            format!("{row}{price}{row}{price}"),
            format!("{row}{}", price.replace("10,", "nan,")),
            format!("{row}{}", price.replace("10,", "1e300,")),
            format!("{row}{price}").replace("1152", "0"),
            format!("{row}{price}")[..90].to_owned(),
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Catalogue::load(Some(&path)), Err(PlanError::Catalogue { .. })));
        }
        assert!(Catalogue::load(Some(&folder.path().join("none.toml"))).is_err());
    }
}
