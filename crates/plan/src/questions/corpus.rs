//! What a corpus holds and costs: tokens from bytes, what repeats add, storage, and the time to clean and tokenise it on a
//! cluster of CPUs, from rates measured on one vCPU of ours.

use serde::Serialize;

use crate::{
    PlanError,
    catalogue::{Catalogue, Price, Service, Term},
    laws::Repeats,
    units,
};

/// One source, as `name=language:amount`, with `x4` behind it to repeat it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Source {
    pub name: String,
    pub language: String,
    pub bytes: f64,
    pub tokens: f64,
    pub epochs: f64,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub sources: Vec<Source>,
    /// Share of the bytes that cleaning and dropping duplicates leave.
    pub kept_ratio: f64,
    pub vocab: usize,
    /// Instance and number.
    pub on: String,
    pub nodes: u64,
    pub months: f64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub sources: Vec<Source>,
    /// Seen once, after cleaning.
    pub unique_tokens: f64,
    pub seen_tokens: f64,
    /// New tokens that those are worth, source by source: arXiv:2305.16264.
    pub worth_tokens: f64,
    /// (epochs of everything, tokens seen, worth)
    pub repeats: Vec<(f64, f64, f64)>,
    pub stages: Vec<Stage>,
    pub secs: f64,
    pub usd: f64,
    pub price: Price,
    pub stores: Vec<Store>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    pub name: String,
    pub bytes: f64,
    pub secs: f64,
    /// `vCPUs` or `network`.
    pub bound: &'static str,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Store {
    pub name: String,
    pub raw_bytes: f64,
    pub shard_bytes: f64,
    pub usd: f64,
}

impl Source {
    /// Read `web=en:1.9TB`, `books=de:300GB x4` or `code=code:200B tokens`.
    /// # Errors
    /// [`PlanError::Unit`], or an unknown language.
    pub fn parse(text: &str, catalogue: &Catalogue, vocab: usize) -> Result<Self, PlanError> {
        let wrong =
            |problem: &str| PlanError::Unit { text: text.into(), problem: problem.into(), example: "web=en:1.9TB, or books=de:300GB x4" };
        let (name, rest) = text.split_once('=').ok_or_else(|| wrong("has no `=` after the source's name"))?;
        let (language, rest) = rest.split_once(':').ok_or_else(|| wrong("has no `:` after the language"))?;
        let (amount, epochs) = match rest.rsplit_once(" x") {
            Some((amount, epochs)) => {
                let times = units::count(epochs)?;
                (
                    amount,
                    Some(times)
                        .filter(|times| (0.01..=1000.0).contains(times))
                        .ok_or_else(|| wrong("is seen no number of times from 0.01 to 1000"))?,
                )
            }
            None => (rest, 1.0),
        };
        let bytes_per_token = catalogue.language(language.trim())?.bytes_per_token.of(vocab);
        let (bytes, tokens) = match units::amount(amount)? {
            units::Amount::Bytes(bytes) => (bytes, bytes / bytes_per_token),
            units::Amount::Tokens(tokens) => (tokens * bytes_per_token, tokens),
        };
        Ok(Self { name: name.trim().into(), language: language.trim().into(), bytes, tokens, epochs })
    }
}

/// Answer `question`.
/// # Errors
/// An unknown instance, or a share that is none.
pub fn plan(question: &Question, catalogue: &Catalogue) -> Result<Plan, PlanError> {
    let kept = question.kept_ratio;
    if !(kept > 0.0 && kept <= 1.0) {
        return Err(PlanError::Unit { text: kept.to_string(), problem: "is no share of the text".into(), example: "0.5" });
    }
    let instance = catalogue.instance(&question.on)?;
    let price = instance.price(Service::of(&question.on, None)?, Term::OnDemand, None)?;
    let raw: f64 = question.sources.iter().map(|s| s.bytes).sum();
    let sum = |of: &dyn Fn(&Source) -> f64| question.sources.iter().map(of).sum::<f64>() * kept;
    let unique = sum(&|s| s.tokens);
    let nodes = question.nodes as f64;
    // Every byte comes in over the network once, at four fifths of its rate.
    let network = nodes * instance.net_gbps * 1e9 / 8.0 * 0.8;
    // Cleaning sees all text, what follows it sees what it keeps.
    let stage = |(i, stage): (usize, &crate::catalogue::Stage)| {
        let bytes = if i == 0 { raw } else { raw * kept };
        let vcpus = nodes * instance.vcpus as f64 * stage.mb_per_sec * 1e6;
        let (rate, bound) = if vcpus < network { (vcpus, "vCPUs") } else { (network, "network") };
        Stage { name: stage.name.clone(), bytes, secs: bytes / rate, bound }
    };
    let stages: Vec<Stage> = catalogue.stages.iter().enumerate().map(stage).collect();
    let secs: f64 = stages.iter().map(|s| s.secs).sum();
    let shard_bytes = unique * if question.vocab <= 1 << 16 { 2.0 } else { 4.0 };
    let store = |s: &crate::catalogue::Storage| Store {
        name: s.name.clone(),
        raw_bytes: raw,
        shard_bytes,
        usd: (raw + shard_bytes) / 1e9 * s.usd_per_gb_month * question.months,
    };
    let repeats = [1.0, 2.0, 4.0, 8.0, 16.0, 40.0];
    Ok(Plan {
        unique_tokens: unique,
        seen_tokens: sum(&|s| s.tokens * s.epochs),
        worth_tokens: sum(&|s| Repeats::PUBLISHED.worth(s.tokens * s.epochs, s.tokens)),
        repeats: repeats.map(|epochs| (epochs, unique * epochs, Repeats::PUBLISHED.worth(unique * epochs, unique))).to_vec(),
        stages,
        secs,
        usd: secs / 3600.0 * nodes * price.usd_per_hour,
        price: price.clone(),
        stores: catalogue.storage.iter().map(store).collect(),
        sources: question.sources.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_and_summed() {
        let catalogue = Catalogue::load(None).unwrap();
        let source = |text: &str| Source::parse(text, &catalogue, 50_257);
        let web = source("web=en:1.9TB").unwrap();
        assert!((web.tokens - 1.9e12 / 4.68).abs() < 1e6);
        let books = source("books = de: 100B tokens x4").unwrap();
        assert_eq!((books.tokens, books.epochs), (1e11, 4.0));
        for bad in ["web", "web=en", "web=en:", "web=xx:1TB", "web=en:1TB xmany", "web=en:1TB x1e18", "=en:-1TB"] {
            assert!(source(bad).is_err(), "{bad}");
        }
        let question =
            Question { sources: vec![web, books], kept_ratio: 0.5, vocab: 50_257, on: "c7i.48xlarge".into(), nodes: 4, months: 2.0 };
        let plan = plan(&question, &catalogue).unwrap();
        assert!(plan.worth_tokens < plan.seen_tokens && plan.worth_tokens > plan.unique_tokens);
        assert!(plan.stages.iter().all(|s| s.secs > 0.0) && plan.secs > 60.0 && plan.secs < 86_400.0, "{}", plan.secs);
        assert!(super::plan(&Question { kept_ratio: 1.5, ..question }, &catalogue).is_err());
    }
}
