//! Latent attention: keys and values of all heads are made of one short vector a token, and what tells places is a part of its
//! own, of keys one for all heads; *DeepSeek-V2*, arXiv:2405.04434, section 2.1, eq. 9-19 and 37-47.
//!
//! ```text
//! x -> q_down -> norm -> q, q_rope          of each head: [q | rope q_rope]
//! x -> kv_down -> norm -> k, v              of each head: [k | rope k_rope], the second alike in all
//! x -> k_rope
//! ```
//! Attention reads values as wide as keys, so that they go with zeros behind them. **Absent on purpose:** a cache of the short
//! vectors; what is cached are keys and values.

use engine::{
    EngineError, Init, ParamId, ParamKind, Tape, Tensor,
    ops::{Places, Rotary},
};

use super::{config::LatentWidths, declare::Declare};

/// What norms of the short vectors add to the variance, whatever other norms do, as in the published code.
const EPS: f32 = 1e-6;

/// See the head of this file.
#[derive(Clone, Copy)]
pub(super) struct Latent {
    widths: LatentWidths,
    q_down: Option<[ParamId; 2]>,
    q: ParamId,
    q_rope: ParamId,
    kv_down: [ParamId; 2],
    k_rope: ParamId,
    k: ParamId,
    v: ParamId,
    out: ParamId,
}

impl Latent {
    /// Declare those of one layer.
    pub fn new(declare: &mut Declare<'_>, widths: LatentWidths) -> Self {
        let ([std, residual_std], c) = (declare.stds(), declare.config);
        let LatentWidths { q_rank, kv_rank, plain, rope, value } = widths;
        let table = &mut *declare.table;
        // Ranks may share heads along `axis`, those of `unit` rows or columns.
        let mut matrix = |name: &str, dims: [usize; 2], std: f32, cut: Option<(usize, usize)>| {
            let id = table.add(&format!("attn.{name}.weight"), &dims, Init::Normal { std }, ParamKind::Matrix);
            cut.into_iter().for_each(|(axis, unit)| table.may_cut(id, axis, unit));
            id
        };
        let q_in = q_rank.unwrap_or(c.model);
        let q_down = q_rank.map(|rank| matrix("q_down", [rank, c.model], std, None));
        let q = matrix("q", [c.heads * plain, q_in], std, Some((0, plain)));
        let q_rope = matrix("q_rope", [c.heads * rope, q_in], std, Some((0, rope)));
        let kv_down = matrix("kv_down", [kv_rank, c.model], std, None);
        let k_rope = matrix("k_rope", [rope, c.model], std, None);
        let k = matrix("k", [c.heads * plain, kv_rank], std, Some((0, plain)));
        let v = matrix("v", [c.heads * value, kv_rank], std, Some((0, value)));
        let out = matrix("out", [c.model, c.heads * value], residual_std, Some((1, value)));
        let mut norm = |name: &str, width| table.add(&format!("attn.{name}.weight"), &[width], Init::Ones, ParamKind::Vector);
        let q_down = q_down.map(|down| [down, norm("q_norm", q_in)]);
        Self { widths, q_down, q, q_rope, kv_down: [kv_down, norm("kv_norm", kv_rank)], k_rope, k, v, out }
    }

    /// Queries, keys and values `[batch, seq, heads * head_dim]` of `x`, whose tokens begin at `offset` of their sequence.
    pub fn project(&self, tape: &mut Tape<'_>, rotary: Option<&Rotary>, x: &Tensor, places: &Places) -> Result<[Tensor; 3], EngineError> {
        let LatentWidths { plain, rope, value, .. } = self.widths;
        let short = |tape: &mut Tape<'_>, [down, norm]: [ParamId; 2]| {
            let short = tape.linear(x, &tape.param(down), None)?;
            tape.rms_norm(&short, &tape.param(norm), EPS)
        };
        let from = match self.q_down {
            Some(down) => short(tape, down)?,
            None => x.clone(),
        };
        let q_rope = tape.linear(&from, &tape.param(self.q_rope), None)?;
        let turned = |tape: &mut Tape<'_>, x: Tensor| match rotary {
            Some(rotary) => tape.rope(&x, rope, places, rotary),
            None => Ok(x),
        };
        let q_rope = turned(tape, q_rope)?;
        let q = tape.linear(&from, &tape.param(self.q), None)?;
        let q = tape.join_heads(&q, &q_rope, [plain, rope])?;
        drop((from, q_rope));
        let k_rope = tape.linear(x, &tape.param(self.k_rope), None)?;
        let k_rope = turned(tape, k_rope)?;
        let from = short(tape, self.kv_down)?;
        let k = tape.linear(&from, &tape.param(self.k), None)?;
        let k = tape.join_heads(&k, &k_rope, [plain, rope])?;
        let v = tape.linear(&from, &tape.param(self.v), None)?;
        let v = tape.resize_heads(&v, value, plain + rope)?;
        Ok([q, k, v])
    }

    /// From what attention gave `[batch, seq, heads * head_dim]`: a part of the sum where ranks share heads.
    pub fn output(&self, tape: &mut Tape<'_>, attended: &Tensor) -> Result<Tensor, EngineError> {
        let LatentWidths { plain, rope, value, .. } = self.widths;
        let attended = tape.resize_heads(attended, plain + rope, value)?;
        tape.linear_share(&attended, &tape.param(self.out), None)
    }
}
