//! Optimisers: AdamW for all parameters, or Muon for matrices and AdamW for the rest. State is kept by parameter and
//! named for checkpoints: `optim/m/...`, `optim/v/...`, `optim/momentum/...`.

mod muon;

use engine::{ParamId, ParamKind, ParamTable, Precision, Shape};
use rayon::prelude::*;

use crate::recipe::{Optim, OptimKind};

/// One step's constants.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// From 1.
    pub step: u64,
    /// Share of the peak learning rate.
    pub lr_share: f32,
    /// What gradients are multiplied by: the clip factor.
    pub grad_scale: f32,
}

/// The state of every parameter.
pub struct Optimiser {
    options: Optim,
    precision: Precision,
    states: Vec<State>,
}

enum State {
    AdamW { m: Vec<f32>, v: Vec<f32>, decays: bool },
    Muon { momentum: Vec<f32>, shape: Shape },
}

impl State {
    fn update(&mut self, o: &Optim, precision: Precision, update: Update, w: &mut [f32], g: &mut [f32]) {
        match self {
            Self::AdamW { m, v, decays } => kernels::adamw::AdamW {
                lr: o.lr * update.lr_share,
                beta1: o.beta1,
                beta2: o.beta2,
                eps: o.eps,
                weight_decay: if *decays { o.weight_decay } else { 0.0 },
                step: update.step,
                grad_scale: update.grad_scale,
            }
            .update(w, g, m, v),
            // A gradient from bf16 products knows no more digits than they do.
            Self::Muon { momentum: buffer, shape } => muon::Muon {
                lr: o.muon_lr * update.lr_share,
                momentum: o.momentum,
                weight_decay: o.weight_decay,
                grad_scale: update.grad_scale,
                precision,
            }
            .update(w, g, buffer, *shape),
        }
    }
}

impl Optimiser {
    /// `precision` is that of the step's products, and of Muon's.
    #[must_use]
    pub fn new(options: &Optim, table: &ParamTable, precision: Precision) -> Self {
        let state = |id: ParamId| {
            let spec = table.spec(id);
            let zeros = || vec![0.0; spec.shape.elements()];
            match (options.kind, spec.kind) {
                (OptimKind::Muon, ParamKind::Matrix) => State::Muon { momentum: zeros(), shape: spec.shape },
                (_, kind) => State::AdamW { m: zeros(), v: zeros(), decays: kind != ParamKind::Vector },
            }
        };
        Self { options: options.clone(), precision, states: table.ids().map(state).collect() }
    }

    /// Bytes of state for `table`.
    #[must_use]
    pub fn bytes(options: &Optim, table: &ParamTable) -> u64 {
        let copies = |kind| if options.kind == OptimKind::Muon && kind == ParamKind::Matrix { 1 } else { 2 };
        table.specs().iter().map(|spec| copies(spec.kind) * spec.shape.bytes()).sum()
    }

    /// Operations of one step's products: Muon's rounds. What AdamW does to each number is not counted, as is usual.
    #[must_use]
    pub fn flops(options: &Optim, table: &ParamTable) -> u64 {
        let is_muon = |spec: &&engine::ParamSpec| options.kind == OptimKind::Muon && spec.kind == ParamKind::Matrix;
        table.specs().iter().filter(is_muon).map(|spec| muon::flops(spec.shape)).sum()
    }

    /// Bytes that it really holds.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let len = |state: &State| match state {
            State::AdamW { m, v, .. } => m.len() + v.len(),
            State::Muon { momentum, .. } => momentum.len(),
        };
        4 * self.states.iter().map(len).sum::<usize>() as u64
    }

    /// Move every parameter by its gradient: `parts` are values and gradients in the order of the table. Parameters are
    /// shared out among threads; a small product alone would keep few of them busy.
    pub fn update(&mut self, update: Update, parts: Vec<(&mut [f32], &mut [f32])>) {
        let (o, precision) = (&self.options, self.precision);
        self.states.par_iter_mut().zip(parts).with_max_len(1).for_each(|(state, (w, g))| state.update(o, precision, update, w, g));
    }

    /// State as named arrays, in the order of the table.
    #[must_use]
    pub fn tensors(&self, table: &ParamTable) -> Vec<(String, Shape, Vec<f32>)> {
        let mut all = Vec::new();
        for (spec, state) in table.specs().iter().zip(&self.states) {
            let mut add = |kind: &str, values: &Vec<f32>| all.push((format!("optim/{kind}/{}", spec.name), spec.shape, values.clone()));
            match state {
                State::AdamW { m, v, .. } => {
                    add("m", m);
                    add("v", v);
                }
                State::Muon { momentum, .. } => add("momentum", momentum),
            }
        }
        all
    }

    /// Take state from named arrays; the name of the first that is missing or of another length.
    pub fn restore(&mut self, table: &ParamTable, mut find: impl FnMut(&str) -> Option<Vec<f32>>) -> Result<(), String> {
        for (spec, state) in table.specs().iter().zip(&mut self.states) {
            let mut take = |kind: &str, into: &mut Vec<f32>| {
                let name = format!("optim/{kind}/{}", spec.name);
                match find(&name) {
                    Some(values) if values.len() == into.len() => {
                        *into = values;
                        Ok(())
                    }
                    _ => Err(name),
                }
            };
            match state {
                State::AdamW { m, v, .. } => {
                    take("m", m)?;
                    take("v", v)?;
                }
                State::Muon { momentum, .. } => take("momentum", momentum)?,
            }
        }
        Ok(())
    }
}
