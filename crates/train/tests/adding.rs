//! One of each thing, added from outside the crates that hold them (docs/adding.md), and a run that uses them all: an op, a model, an
//! objective with its metric and feed, a strategy and a gate.

mod text;

use std::{
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

use engine::{
    EngineError, Inputs, ParamTable, Shape, ShapeError, Tape, Tensor,
    ops::{Backward, Class, Cost, Forward, Op, Saves},
};
use models::{LanguageModel, Model};
use text::prepare;
use train::{
    eval::HeldOut,
    feed::TextWindows,
    gate::{self, Expected, Gate, Subject},
    metric::{Better, METRICS, MetricKind},
    objective::{self, Objective},
    recipe::Recipe,
    run::{self, Quiet},
};

/// An op: `y = 2 x`.
struct Double;

impl Op for Double {
    fn name(&self) -> &'static str {
        "double"
    }
    fn class(&self) -> Class {
        Class::Other
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        Cost::elementwise(x[0].elements(), 1, 2)
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn forward(&self, f: &mut Forward<'_>) {
        f.output.f32s().iter_mut().zip(f.inputs[0].f32s()).for_each(|(y, x)| *y = 2.0 * x);
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if let Some(mut dx) = b.grads[0].take() {
            dx.data.f32s().iter_mut().zip(b.dy.f32s()).for_each(|(to, dy)| *to = 2.0 * dy + if dx.accumulate { *to } else { 0.0 });
        }
    }
}

/// A model: a decoder whose residual is doubled before its head.
struct Doubled(Box<dyn Model>);

impl Model for Doubled {
    fn config(&self) -> toml::Table {
        let mut table = self.0.config();
        table.insert("kind".into(), "doubled".into());
        table
    }
    fn params(&self) -> &ParamTable {
        self.0.params()
    }
    fn trunk<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: Option<Tensor>, blocks: Range<usize>) -> Result<Tensor, EngineError> {
        let x = self.0.trunk(tape, inputs, x, blocks)?;
        tape.apply(Double, &[&x])
    }
    fn head_loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        self.0.head_loss(tape, inputs, x, scale)
    }
    fn between(&self, batch: usize, length: usize) -> Shape {
        self.0.between(batch, length)
    }
    fn shapes(&self, batch: usize, length: usize) -> Inputs {
        self.0.shapes(batch, length)
    }
    fn made_up(&self, first: usize, batch: usize, length: usize) -> Inputs {
        self.0.made_up(first, batch, length)
    }
    fn is_whole(&self) -> bool {
        true
    }
}

fn build(mut table: toml::Table) -> Result<Box<dyn Model>, models::ModelError> {
    table.insert("kind".into(), "decoder".into());
    Ok(Box::new(Doubled(models::build(&table)?)))
}

/// An objective: the next token, judged by how many are certain.
struct Certain;

const CERTAIN: MetricKind = MetricKind { name: "certain", unit: "of tokens certain", better: Better::Higher, divisor: 1.0 };

impl Objective for Certain {
    fn metric(&self, _model: &dyn Model) -> &'static MetricKind {
        METRICS.find(CERTAIN.name).expect("added")
    }
}

#[test]
fn one_of_each_is_added_from_outside_and_works() {
    METRICS.add(CERTAIN);
    models::KINDS.add(models::Kind { name: "doubled", unit: "tokens", objective: "certain", presets: &[], build });
    objective::KINDS.add(objective::Kind {
        name: "certain",
        build: |_| Ok(Arc::new(Certain)),
        feed: |recipe| Ok(Arc::new(TextWindows::open(recipe)?)),
    });
    parallel::STRATEGIES.add(parallel::Kind { name: "own", ..parallel::replicated::KIND });
    gate::GATES.add(Gate {
        name: "is_doubled",
        is_for: |s| s.loaded.recipe.model.get("kind").and_then(toml::Value::as_str) == Some("doubled"),
        pass: |s| Ok(gate::result("is_doubled", s.loaded.model.is_whole(), "whole".into(), "whole".into(), "")),
    });
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let text = format!(
        "[model]\nkind = \"doubled\"\ndepth = 1\n[data]\npath = {:?}\n[batch]\nsequences = 4\nlanes = 2\ncontext = 32\n[train]\nsteps = 4\n\
         [parallel]\nranks = 2\nstrategy = \"own\"\n[eval]\nwindows = 2\n",
        folder.path().join("data").display().to_string()
    );
    let recipe = Recipe::parse(&text, "test", &[]).unwrap();
    let out = folder.path().join("out");
    let outcome = run::train(&recipe, &out, false, &AtomicBool::new(false), &mut Quiet).unwrap();
    let metric = outcome.held_out.unwrap();
    assert_eq!(metric.kind.name, "certain");
    let loaded = run::load(&out).unwrap();
    let feed = TextWindows::open(&loaded.recipe).unwrap();
    let held_out = HeldOut { metric, samples: Vec::new() };
    let mut subject = Subject { folder: &out, loaded, feed: &feed, held_out, expected: Expected::default() };
    let passed: Vec<(String, bool)> = gate::pass(&mut subject).into_iter().map(|gate| (gate.name, gate.passed)).collect();
    assert!(passed.contains(&("is_doubled".into(), true)) && passed.contains(&("reloads".into(), true)), "{passed:?}");
    assert!(passed.iter().all(|(name, _)| name != "exports"), "what is no language model is not asked to write: {passed:?}");
    let _: Option<&dyn LanguageModel> = subject.loaded.model.language();
}
