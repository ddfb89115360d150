//! Objectives: what is learnt from a model's outputs. A model is a trunk and heads; an objective turns what a head gives into one
//! loss, and tells what held-out samples are judged by.
//!
//! A recipe names one as `[objective] kind = "NAME"`; without that it is the one of the model's kind. To add one: a type that
//! implements [`Objective`] and its [`Kind`] in [`KINDS`], or from a crate above `KINDS.add`.

use std::sync::Arc;

use engine::{EngineError, Inputs, ParamStore, Tape, Tensor};
use models::{Model, decoder::Head, encoders::Encoder};
use registry::{Named, Registry};

use crate::{
    TrainError,
    feed::{Feed, TextWindows},
    metric::{BITS_PER_BYTE, LOSS, MetricKind},
    recipe::Recipe,
};

/// What is learnt from a model's outputs.
pub trait Objective: Send + Sync {
    /// The loss of one micro-batch, from what the trunk gave: `scale` times a sum over its samples or tokens, one number, whose
    /// gradient must be one. Unless said, that of the model's own head.
    /// # Errors
    /// When an input is missing or of another shape, or memory is short.
    fn loss<'m>(
        &'m self,
        model: &'m dyn Model,
        tape: &mut Tape<'m>,
        inputs: &Inputs,
        x: &Tensor,
        scale: f32,
    ) -> Result<Tensor, EngineError> {
        model.head_loss(tape, inputs, x, scale)
    }

    /// Figures whose sum over held-out samples is what [`Objective::metric`] is made of: one or more for each sample, those of one
    /// sample together. Unless said, those of the model's own head.
    /// # Errors
    /// As [`Objective::loss`].
    fn measure<'m>(&'m self, model: &'m dyn Model, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor) -> Result<Tensor, EngineError> {
        match model.language() {
            Some(language) => language.head_nll(tape, inputs, x),
            None => model.head_loss(tape, inputs, x, 1.0),
        }
    }

    /// What held-out samples are judged by.
    fn metric(&self, model: &dyn Model) -> &'static MetricKind;

    /// What a decoder has to end in for it, unless a recipe says.
    fn head(&self) -> Option<Head> {
        None
    }

    /// Inputs of the right shapes for `batch` samples of `length`, without data: what `Meta` is fed.
    fn shapes(&self, model: &dyn Model, batch: usize, length: usize) -> Inputs {
        model.shapes(batch, length)
    }

    /// Samples `first..first + batch` of `length` with made-up numbers, to measure speed with.
    fn made_up(&self, model: &dyn Model, first: usize, batch: usize, length: usize) -> Inputs {
        model.made_up(first, batch, length)
    }

    /// Of a loss between samples: how many numbers of each the whole batch has to see, the rows of what the trunk gives. Absent: the loss
    /// of a sample is its own.
    fn shared_width(&self, _model: &dyn Model) -> Option<usize> {
        None
    }

    /// What each micro-batch is given besides its own inputs, from `rows` `[samples, shared_width]` of the whole batch, of all ranks. With
    /// it [`Objective::loss`] is the part that the micro-batch has of the whole batch's loss, and its gradient to the micro-batch's own
    /// rows is that of the whole. `own` `[batch]`, the places of the micro-batch's samples among all, is added to it.
    /// # Errors
    /// When a rank that holds a parameter does not answer.
    fn share(&self, _model: &dyn Model, _store: &mut dyn ParamStore, _rows: Vec<f32>) -> Result<Inputs, EngineError> {
        Ok(Inputs::new())
    }

    /// Frozen models that are asked about each sample before the step, for the planner: without weights. Absent: those of the model.
    /// # Errors
    /// When one that a recipe names is there and cannot be read.
    fn encoders(&self) -> Result<Vec<Encoder>, TrainError> {
        Ok(Vec::new())
    }

    /// Why its samples cannot be cut along their tokens, if they cannot.
    fn whole_samples(&self) -> Option<&'static str> {
        None
    }
}

/// One line of [`KINDS`].
#[derive(Clone, Copy)]
pub struct Kind {
    /// As recipes call it.
    pub name: &'static str,
    pub build: fn(&Recipe) -> Result<Arc<dyn Objective>, TrainError>,
    /// Opens what a recipe of this objective learns from.
    pub feed: fn(&Recipe) -> Result<Arc<dyn Feed>, TrainError>,
}

impl Named for Kind {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// Every objective that something here can feed.
pub static KINDS: Registry<Kind> = Registry::new(&[Kind {
    name: "next_token",
    build: |_| Ok(Arc::new(OfModel)),
    feed: |recipe| Ok(Arc::new(TextWindows::open(recipe)?)),
}]);

/// The name of a recipe's objective: its own, or that of its model's kind.
#[must_use]
pub fn name(recipe: &Recipe) -> &str {
    let own = recipe.objective.get("kind").and_then(toml::Value::as_str);
    own.unwrap_or(models::kind(&recipe.model).objective)
}

/// The objective of a recipe that [`Recipe::parse`] has looked at. Where nothing here can feed it, that of the model itself, so that
/// it can be planned.
#[must_use]
pub fn of(recipe: &Recipe) -> Arc<dyn Objective> {
    let built = KINDS.find(name(recipe)).and_then(|kind| (kind.build)(recipe).ok());
    built.unwrap_or_else(|| Arc::new(OfModel))
}

/// Open what a recipe learns from.
/// # Errors
/// When nothing here reads it, or its data cannot be read or are too few.
pub fn feed(recipe: &Recipe) -> Result<Arc<dyn Feed>, TrainError> {
    match KINDS.find(name(recipe)) {
        Some(kind) => (kind.feed)(recipe),
        None => Err(TrainError::NoReader { unit: models::unit(&recipe.model) }),
    }
}

/// Refuse a table `[objective]` of no known kind, or one that its kind cannot be built from.
pub(crate) fn check(recipe: &Recipe) -> Result<(), TrainError> {
    if recipe.objective.is_empty() {
        return Ok(());
    }
    let wrong = |problem: String| {
        let help = format!("use one of `{}`, or leave `[objective]` out for that of the model's kind", KINDS.names().join("`, `"));
        TrainError::Value { key: "objective.kind", problem, help }
    };
    match recipe.objective.get("kind").map(|kind| (kind.as_str(), kind)) {
        None => Err(wrong("it is not set".into())),
        Some((None, other)) => Err(wrong(format!("{other} is not a string"))),
        Some((Some(name), _)) => {
            let kind = KINDS.find(name).ok_or_else(|| wrong(format!("there is no objective `{name}`")))?;
            (kind.build)(recipe).map(|_| ())
        }
    }
}

/// The loss of the model's own head: the next token of text, the reconstruction of an image.
pub struct OfModel;

impl Objective for OfModel {
    fn metric(&self, model: &dyn Model) -> &'static MetricKind {
        if model.language().is_some() { &BITS_PER_BYTE } else { &LOSS }
    }
}
