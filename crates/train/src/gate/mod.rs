//! Gates: what a checkpoint must pass before the next phase is launched. One file each, named in [`GATES`].
//!
//! A gate is handed what it needs as data; it knows no laws. It says what it measured, what was wanted and what to try.

mod exports;
mod generates;
mod loss;
mod reloads;

use std::path::Path;

use data::Dataset;
use serde::{Deserialize, Serialize};

use crate::{
    TrainError,
    eval::{HeldOut, WindowLoss},
    run::Loaded,
};

/// What earlier phases lead to expect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expected {
    /// Held-out bits per byte, lowest and highest, once two phases have been.
    pub bits_per_byte: Option<[f64; 2]>,
    /// What the phase before reached.
    pub before: Option<HeldOut>,
    /// What an n-gram model of the same data reaches.
    pub baseline: HeldOut,
}

/// What gates look at.
pub struct Subject<'a> {
    pub folder: &'a Path,
    pub loaded: Loaded,
    pub data: &'a Dataset,
    /// As measured at the end of training.
    pub bits_per_byte: f64,
    /// The same window by window, once it was measured again.
    pub windows: Vec<WindowLoss>,
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

type Gate = fn(&mut Subject<'_>) -> Result<GateResult, TrainError>;

/// Every gate, in the order in which they are passed.
const GATES: &[(&str, Gate)] = &[
    ("reloads", reloads::gate),
    ("finite", loss::is_finite),
    ("better_than_before", loss::better_than_before),
    ("better_than_ngram", loss::better_than_ngram),
    ("as_expected", loss::as_expected),
    ("generates", generates::gate),
    ("exports", exports::gate),
];

/// Their names, in that order.
pub fn names() -> impl Iterator<Item = &'static str> {
    GATES.iter().map(|(name, _)| *name)
}

/// Pass through all gates; an error inside one is that gate's failure.
#[must_use]
pub fn pass(subject: &mut Subject<'_>) -> Vec<GateResult> {
    let one = |(name, gate): &(&str, Gate)| {
        gate(subject).unwrap_or_else(|error| GateResult {
            name: (*name).to_owned(),
            passed: false,
            measured: error.to_string(),
            wanted: "no error".into(),
            help: miette::Diagnostic::help(&error).map_or_else(String::new, |help| help.to_string()),
        })
    };
    GATES.iter().map(one).collect()
}

fn result(name: &str, passed: bool, measured: String, wanted: String, help: &str) -> GateResult {
    GateResult { name: name.to_owned(), passed, measured, wanted, help: help.to_owned() }
}
