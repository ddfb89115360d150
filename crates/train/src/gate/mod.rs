//! Gates: what a checkpoint must pass before the next phase is launched. One file each, named in [`GATES`]; a crate above adds its own
//! with `GATES.add`.
//!
//! A gate is handed what it needs as data; it knows no laws. It says what it measured, what was wanted and what to try.

mod exports;
mod generates;
mod loss;
mod reloads;

use std::path::Path;

use registry::{Named, Registry};
use serde::{Deserialize, Serialize};

use crate::{TrainError, feed::Feed, held_out::HeldOut, run::Loaded};

/// What earlier phases lead to expect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expected {
    /// The held-out metric, lowest and highest, once two phases have been.
    pub interval: Option<[f64; 2]>,
    /// What the phase before reached.
    pub before: Option<HeldOut>,
    /// What a naive model of the same data reaches, and what that model is.
    pub baseline: Option<(HeldOut, &'static str)>,
}

/// What gates look at.
pub struct Subject<'a> {
    pub folder: &'a Path,
    pub loaded: Loaded,
    pub feed: &'a dyn Feed,
    /// As measured at the end of training; sample by sample once the first gate has measured it again.
    pub held_out: HeldOut,
    pub expected: Expected,
}

/// A gate's word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateResult {
    pub name: String,
    pub passed: bool,
    pub measured: String,
    pub wanted: String,
    /// What to try when it failed.
    pub help: String,
}

/// A question that a checkpoint has to pass.
#[derive(Clone, Copy)]
pub struct Gate {
    pub name: &'static str,
    /// Of which checkpoints it is asked.
    pub is_for: fn(&Subject<'_>) -> bool,
    pub pass: fn(&mut Subject<'_>) -> Result<GateResult, TrainError>,
}

impl Named for Gate {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// Every gate, in the order in which they are passed.
pub static GATES: Registry<Gate> = Registry::new(&[
    Gate { name: "reloads", is_for: any, pass: reloads::gate },
    Gate { name: "finite", is_for: any, pass: loss::is_finite },
    Gate { name: "better_than_before", is_for: any, pass: loss::better_than_before },
    Gate { name: "better_than_ngram", is_for: has_baseline, pass: loss::better_than_baseline },
    Gate { name: "as_expected", is_for: any, pass: loss::as_expected },
    Gate { name: "generates", is_for: writes_text, pass: generates::gate },
    Gate { name: "exports", is_for: writes_text, pass: exports::gate },
]);

fn any(_: &Subject<'_>) -> bool {
    true
}

fn has_baseline(s: &Subject<'_>) -> bool {
    s.expected.baseline.is_some()
}

fn writes_text(s: &Subject<'_>) -> bool {
    s.loaded.model.language().is_some_and(|language| language.head().has_tokens()) && s.feed.tokenizer().is_some()
}

/// Pass through all gates that are for the subject; an error inside one is that gate's failure.
#[must_use]
pub fn pass(subject: &mut Subject<'_>) -> Vec<GateResult> {
    let gates: Vec<&'static Gate> = GATES.all().into_iter().filter(|gate| (gate.is_for)(subject)).collect();
    let one = |gate: &'static Gate| {
        (gate.pass)(subject).unwrap_or_else(|error| GateResult {
            name: gate.name.to_owned(),
            passed: false,
            measured: error.to_string(),
            wanted: "no error".into(),
            help: miette::Diagnostic::help(&error).map_or_else(String::new, |help| help.to_string()),
        })
    };
    gates.into_iter().map(one).collect()
}

/// What a gate found.
#[must_use]
pub fn result(name: &str, passed: bool, measured: String, wanted: String, help: &str) -> GateResult {
    GateResult { name: name.to_owned(), passed, measured, wanted, help: help.to_owned() }
}
