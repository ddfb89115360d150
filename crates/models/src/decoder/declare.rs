//! The parameters of a layer's parts by name, how they start, and what ranks may share of them.

use engine::{EngineError, Init, ParamId, ParamKind, ParamTable, Tape, Tensor, ops::Activation};

use super::config::{DecoderConfig, Norm};

/// Declares parameters by name.
pub(super) struct Declare<'a> {
    pub table: &'a mut ParamTable,
    pub config: &'a DecoderConfig,
}

impl Declare<'_> {
    /// Ranks may share the outputs, and the bias with them, or the inputs.
    pub fn linear(&mut self, name: &str, out: usize, inner: usize, std: f32, shared: Shared) -> LinearParams {
        let unit = if name.starts_with("attn.") { self.config.head_dim } else { 1 };
        let weight = self.table.add(&format!("{name}.weight"), &[out, inner], Init::Normal { std }, ParamKind::Matrix);
        let c = self.config;
        let has_own = match name {
            "attn.q" | "attn.k" | "attn.v" => c.qkv_bias,
            "attn.out" => c.out_bias,
            _ => c.mlp_bias,
        };
        let has_bias = c.bias || has_own;
        let bias = has_bias.then(|| self.table.add(&format!("{name}.bias"), &[out], Init::Zeros, ParamKind::Vector));
        self.table.may_cut(weight, shared as usize, unit);
        if let Some(bias) = bias.filter(|_| shared == Shared::Outputs) {
            self.table.may_cut(bias, 0, unit);
        }
        LinearParams { weight, bias }
    }

    /// Standard deviations at the start: of a matrix, and of one that writes to the residual.
    pub fn stds(&self) -> [f32; 2] {
        let c = self.config;
        [c.init_std, if c.zero_init { 0.0 } else { c.init_std / (2.0 * c.layers as f32).sqrt() }]
    }

    pub fn mlp(&mut self, name: &str, ffn: usize) -> MlpParams {
        let (c, [std, residual_std]) = (self.config, self.stds());
        MlpParams {
            gate: c.mlp.activation().1.then(|| self.linear(&format!("{name}.gate"), ffn, c.model, std, Shared::Outputs)),
            up: self.linear(&format!("{name}.up"), ffn, c.model, std, Shared::Outputs),
            down: self.linear(&format!("{name}.down"), c.model, ffn, residual_std, Shared::Inputs),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) struct NormParams {
    pub weight: ParamId,
    pub bias: Option<ParamId>,
}

#[derive(Clone, Copy)]
pub(super) struct LinearParams {
    pub weight: ParamId,
    pub bias: Option<ParamId>,
}

impl NormParams {
    pub fn new(table: &mut ParamTable, c: &DecoderConfig, name: &str) -> Self {
        let weight = table.add(&format!("{name}.weight"), &[c.model], Init::Ones, ParamKind::Vector);
        let bias = (c.norm == Norm::LayerNorm && c.norm_bias)
            .then(|| table.add(&format!("{name}.bias"), &[c.model], Init::Zeros, ParamKind::Vector));
        Self { weight, bias }
    }
}

/// A feed-forward part.
#[derive(Clone, Copy)]
pub(super) struct MlpParams {
    gate: Option<LinearParams>,
    up: LinearParams,
    down: LinearParams,
}

impl MlpParams {
    pub fn run(&self, tape: &mut Tape<'_>, activation: Activation, x: &Tensor) -> Result<Tensor, EngineError> {
        let up = linear(tape, self.up, x)?;
        let middle = match self.gate {
            Some(gate) => {
                let gate = linear(tape, gate, x)?;
                tape.gated(activation, &gate, &up)?
            }
            None => tape.activation(activation, &up)?,
        };
        drop(up);
        linear_share(tape, self.down, &middle)
    }
}

pub(super) fn linear(tape: &mut Tape<'_>, params: LinearParams, x: &Tensor) -> Result<Tensor, EngineError> {
    let bias = params.bias.map(|bias| tape.param(bias));
    tape.linear(x, &tape.param(params.weight), bias.as_ref())
}

/// `linear` over an inner axis that ranks may share: a part of the sum.
pub(super) fn linear_share(tape: &mut Tape<'_>, params: LinearParams, x: &Tensor) -> Result<Tensor, EngineError> {
    let bias = params.bias.map(|bias| tape.param(bias));
    tape.linear_share(x, &tape.param(params.weight), bias.as_ref())
}

/// The axis of a matrix `[out, in]` along which ranks may share it.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shared {
    Outputs = 0,
    Inputs = 1,
}
