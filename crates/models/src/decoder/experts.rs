//! A mixture of experts in place of a layer's feed-forward part: a router sends each token to a few of many, and adds what
//! they make of it by its weights; *Outrageously Large Neural Networks*, arXiv:1701.06538, as Mixtral, OLMoE, Qwen3 and
//! DeepSeekMoE have it.
//!
//! ```text
//! x -> router -> route, gates;   x -> dispatch -> [gate, up -> gated -> down] of each expert -> combine (+ shared experts)
//! ```
//! Ranks of the tensor axis share the width of every expert, as they do that of one feed-forward part: what comes out is a part of
//! the sum. **Absent on purpose:** a limit on an expert's tokens. None is dropped.

use engine::{
    EngineError, Init, ParamId, ParamKind, Tape, Tensor,
    ops::{Activation, Gating, Limit, Scores},
};

use super::{
    config::{Mixture, Router},
    declare::{Declare, MlpParams},
};

/// See the head of this file.
#[derive(Clone, Copy)]
pub(super) struct Experts {
    mixture: Mixture,
    activation: Activation,
    router: ParamId,
    /// Of each expert's score, in the choice alone. It has no gradient and stays as it came: a balancing loss trains in its place.
    bias: Option<ParamId>,
    gate: ParamId,
    up: ParamId,
    down: ParamId,
    shared: Option<MlpParams>,
}

impl Experts {
    /// Declare those of one layer.
    pub fn new(declare: &mut Declare<'_>, mixture: Mixture) -> Self {
        let ([std, residual_std], model) = (declare.stds(), declare.config.model);
        let Mixture { experts, ffn, .. } = mixture;
        let table = &mut *declare.table;
        let router = table.add("mlp.router.weight", &[experts, model], Init::Normal { std }, ParamKind::Matrix);
        let bias = mixture.has_bias.then(|| table.add("mlp.router.bias", &[experts], Init::Zeros, ParamKind::Vector));
        let mut matrices = |name: &str, [out, inner]: [usize; 2], std: f32, cut: usize| {
            let id = table.add(&format!("mlp.experts.{name}.weight"), &[experts, out, inner], Init::Normal { std }, ParamKind::Matrix);
            table.may_cut(id, cut, 1);
            table.routed(id, mixture.per_token);
            id
        };
        let (gate, up) = (matrices("gate", [ffn, model], std, 1), matrices("up", [ffn, model], std, 1));
        let down = matrices("down", [model, ffn], residual_std, 2);
        let shared = (mixture.shared_ffn > 0).then(|| declare.mlp("mlp.shared", mixture.shared_ffn));
        Self { mixture, activation: declare.config.mlp.activation().0, router, bias, gate, up, down, shared }
    }

    /// `x` `[batch, seq, model]` to the same, each token on its own.
    pub fn run(&self, tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let Mixture { per_token, router, groups: [groups, top_groups], scale, balance, .. } = self.mixture;
        let (scores, is_normalised) = match router {
            Router::Softmax => (Scores::Softmax, false),
            Router::SoftmaxNormalised => (Scores::Softmax, true),
            Router::Sigmoid => (Scores::Sigmoid, false),
            Router::SigmoidNormalised => (Scores::Sigmoid, true),
        };
        // In 32 bits, because rounding would change who is chosen.
        let logits = tape.linear_f32(x, &tape.param(self.router), None)?;
        let routes = if self.bias.is_some() || groups > 1 {
            // As DeepSeek-V2 weighs a group, and as V3 does.
            let limit = Limit { scores, groups, top_groups, largest: if scores == Scores::Sigmoid { 2 } else { 1 } };
            let bias = self.bias.map(|bias| tape.param(bias));
            tape.route_limited(&logits, per_token, limit, bias.as_ref())?
        } else {
            tape.route(&logits, per_token)?
        };
        if tape.is_training() && balance > 0.0 {
            let uneven = tape.balance(&logits, &routes, scores, balance)?;
            tape.add_loss(&uneven)?;
        }
        let gates = tape.gates(&logits, &routes, Gating { scores, is_normalised, scale })?;
        drop(logits);
        let sent = tape.dispatch(x, &routes)?;
        let gate = tape.expert_linear(&sent, &tape.param(self.gate), &routes)?;
        let up = tape.expert_linear(&sent, &tape.param(self.up), &routes)?;
        drop(sent);
        let middle = tape.gated(self.activation, &gate, &up)?;
        drop((gate, up));
        let made = tape.expert_linear(&middle, &tape.param(self.down), &routes)?;
        drop(middle);
        let sum = tape.combine(&made, &gates, &routes)?.reshape(x.shape().dims())?;
        drop(made);
        match &self.shared {
            Some(shared) => {
                let shared = shared.run(tape, self.activation, x)?;
                tape.add(&sum, &shared)
            }
            None => Ok(sum),
        }
    }
}
