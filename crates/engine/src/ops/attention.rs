//! Attention: `softmax(scale q k^T + mask) v` per head, blockwise with online softmax; *FlashAttention*, arXiv:2205.14135.
//! Saves `lse` `[batch, heads, seq]`, the log of each row's denominator: never a `[seq, seq]` matrix.
//!
//! Queries may come in groups that share a key and value head (arXiv:2305.13245), from another sequence (cross), see
//! all keys, earlier ones, or a window of them, and add ALiBi slopes (arXiv:2108.12409).

use std::{cell::RefCell, rc::Rc};

pub use kernels::attention::Mask;

use super::{Backward, Cost, Forward, Op, Saves};
use crate::{EngineError, Precision, Shape, ShapeError, Tape, Tensor, trace::Pass};

/// What attention needs to know besides `q` `[batch, seq, heads * head_dim]` and `k`, `v`
/// `[batch, kv_seq, kv_heads * head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct AttentionOptions {
    pub head_dim: usize,
    pub mask: Mask,
    /// What scores are multiplied by, usually `head_dim^-0.5`.
    pub scale: f32,
    pub alibi: bool,
}

struct Attention(AttentionOptions);

impl Attention {
    fn kernel(&self, q: Shape, k: Shape, precision: Precision) -> kernels::attention::Attention {
        kernel(&self.0, q, k.dims()[1], k.last(), precision)
    }
}

fn kernel(o: &AttentionOptions, q: Shape, kv_len: usize, kv_width: usize, precision: Precision) -> kernels::attention::Attention {
    let [batch, q_len, width] = *q.dims() else { unreachable!("the shape rule wants three axes") };
    kernels::attention::Attention {
        batch,
        q_len,
        kv_len,
        heads: width / o.head_dim,
        kv_heads: kv_width / o.head_dim,
        head_dim: o.head_dim,
        // The last query sees the last key.
        q_offset: kv_len.saturating_sub(q_len),
        mask: o.mask,
        scale: o.scale,
        alibi: o.alibi,
        precision,
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        let ([q_batch, _, q_width], [k_batch, k_len, k_width], [v_batch, v_len, v_width]) =
            (*x[0].dims_3()?, *x[1].dims_3()?, *x[2].dims_3()?);
        let check = |axis, a, b| ShapeError::check("attention", axis, a, b);
        check("batch", ("q", q_batch), ("k", k_batch))?;
        check("batch", ("k", k_batch), ("v", v_batch))?;
        check("seq", ("k", k_len), ("v", v_len))?;
        check("kv_heads * head_dim", ("k", k_width), ("v", v_width))?;
        let d = self.0.head_dim;
        if d == 0 || k_width == 0 || q_width % d != 0 || k_width % d != 0 || q_width % k_width != 0 {
            let problem = format!("{q_width} of q and {k_width} of k are no whole groups of heads of {d}");
            return Err(ShapeError::new("attention", problem));
        }
        Ok(x[0])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let flops = self.kernel(x[0], x[1], Precision::F32).forward_flops();
        let bytes = 2 * x[0].bytes() + 2 * x[1].bytes();
        // Backward: the scores again, and four products of their size.
        Cost { forward_flops: flops, backward_flops: flops * 5 / 2, forward_bytes: bytes, backward_bytes: 2 * bytes }
    }
    fn saves(&self, x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1, 2], output: true, extras: vec![lse_len(&self.0, x[0])] }
    }
    fn scratch(&self, x: &[Shape], pass: Pass) -> usize {
        if pass == Pass::Backward { lse_len(&self.0, x[0]) } else { 0 }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [q, k, v] = f.inputs else { unreachable!("three inputs") };
        let attention = self.kernel(q.shape, k.shape, f.precision);
        attention.forward(q.f32s(), k.f32s(), v.f32s(), f.output, f.extras[0].f32s_mut());
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let [q, k, v] = b.inputs else { unreachable!("three inputs") };
        let attention = self.kernel(q.shape, k.shape, b.precision);
        if let [Some(dq), Some(dk), Some(dv)] = b.take_grads() {
            let accumulate = [dq.accumulate, dk.accumulate, dv.accumulate];
            let lse = b.extras[0].f32s();
            attention.backward(
                q.f32s(), k.f32s(), v.f32s(), b.output, lse, b.dy, dq.data, dk.data, dv.data, b.scratch, accumulate,
            );
        }
    }
}

fn lse_len(o: &AttentionOptions, q: Shape) -> usize {
    q.elements() / o.head_dim
}

/// Keys and values of the tokens read so far, for one layer and one sequence: `[capacity, kv_heads * head_dim]` each.
#[derive(Debug, Default)]
pub struct KvCache {
    keys: Vec<f32>,
    values: Vec<f32>,
    len: usize,
}

impl KvCache {
    /// How many tokens it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forget the tokens after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

/// Attention of new queries over a cache that first takes in their keys and values. Inference only.
struct Cached(AttentionOptions, Rc<RefCell<KvCache>>);

impl Op for Cached {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        if x[0].dims()[0] == 1 { Attention(self.0).shape(x) } else { Err(ShapeError::new("attention", "a cache holds one sequence")) }
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let len = self.1.borrow().len;
        let flops = kernel(&self.0, x[0], len, x[1].last(), Precision::F32).forward_flops();
        Cost { forward_flops: flops, forward_bytes: 8 * (len * x[1].last()) as u64, ..Cost::default() }
    }
    fn saves(&self, x: &[Shape]) -> Saves {
        Saves { extras: vec![lse_len(&self.0, x[0])], ..Saves::default() }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [q, k, v] = f.inputs else { unreachable!("three inputs") };
        let width = k.shape.last();
        let mut cache = self.1.borrow_mut();
        let end = cache.len * width;
        cache.keys.truncate(end);
        cache.keys.extend_from_slice(k.f32s());
        cache.values.truncate(end);
        cache.values.extend_from_slice(v.f32s());
        cache.len += k.shape.dims()[1];
        let attention = kernel(&self.0, q.shape, cache.len, width, f.precision);
        attention.forward(q.f32s(), &cache.keys, &cache.values, f.output, f.extras[0].f32s_mut());
    }
    fn backward(&self, _b: &mut Backward<'_>) {
        unreachable!("`attention_cached` refuses to run on a tape that trains");
    }
}

impl Tape<'_> {
    /// `q` `[batch, seq, heads * head_dim]` over `k`, `v` `[batch, kv_seq, kv_heads * head_dim]`, to the shape of `q`.
    /// # Errors
    /// When batches, lengths or heads do not fit.
    pub fn attention(&mut self, q: &Tensor, k: &Tensor, v: &Tensor, options: AttentionOptions) -> Result<Tensor, EngineError> {
        self.apply(Attention(options), &[q, k, v])
    }

    /// The same over all tokens that `cache` holds, after adding those of `k` and `v`; one sequence.
    /// # Errors
    /// When shapes do not fit, or on a tape that trains.
    pub fn attention_cached(
        &mut self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        options: AttentionOptions,
        cache: &Rc<RefCell<KvCache>>,
    ) -> Result<Tensor, EngineError> {
        if self.is_training() {
            let problem = "a cache of keys and values takes no gradient: use a tape with `train: false`".into();
            return Err(EngineError::Misuse { op: "attention", problem });
        }
        self.apply(Cached(options, cache.clone()), &[q, k, v])
    }
}

impl Shape {
    fn dims_3(&self) -> Result<&[usize; 3], ShapeError> {
        let problem = || ShapeError::new("attention", format!("{self} is not [batch, seq, heads * head_dim]"));
        self.dims().try_into().map_err(|_| problem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    /// By definition, one query at a time.
    fn twin(o: AttentionOptions, q_shape: [usize; 3], k_shape: [usize; 3], q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let ([batch, q_len, width], [_, kv_len, kv_width], d) = (q_shape, k_shape, o.head_dim);
        let (heads, group, offset) = (width / d, width / kv_width, kv_len - q_len.min(kv_len));
        let mut out = vec![0.0; q.len()];
        for (b, i, h) in (0..batch * q_len * heads).map(|n| (n / (q_len * heads), n / heads % q_len, n % heads)) {
            let q_at = (b * q_len + i) * width + h * d;
            let k_at = |j: usize| (b * kv_len + j) * kv_width + h / group * d;
            let seen = |j: usize| match o.mask {
                Mask::Full => true,
                Mask::Causal => j <= i + offset,
                Mask::Window(w) => j <= i + offset && j + w > i + offset,
            };
            let score = |j: usize| {
                let dot: f64 = (0..d).map(|c| q[q_at + c] * k[k_at(j) + c]).sum();
                let bias = if o.alibi {
                    f64::from(kernels::attention::alibi_slope(h, heads)) * (j as f64 - (i + offset) as f64)
                } else {
                    0.0
                };
                (dot * f64::from(o.scale) + bias).exp()
            };
            let total: f64 = (0..kv_len).filter(|j| seen(*j)).map(score).sum();
            for j in (0..kv_len).filter(|j| seen(*j)) {
                for c in 0..d {
                    out[q_at + c] += score(j) / total * v[k_at(j) + c];
                }
            }
        }
        out
    }

    #[test]
    fn agrees_with_its_differences_under_every_mask_grouping_and_length() {
        let cases = [
            (Mask::Causal, false, [1, 1, 4], [1, 1, 4]),
            (Mask::Causal, false, [2, 5, 8], [2, 5, 8]),
            (Mask::Causal, true, [1, 7, 12], [1, 7, 4]),
            (Mask::Full, false, [2, 3, 8], [2, 6, 4]),
            (Mask::Window(3), false, [1, 9, 8], [1, 9, 4]),
        ];
        for (mask, alibi, q, k) in cases {
            let options = AttentionOptions { head_dim: 4, mask, scale: 0.5, alibi };
            check::gradients(
                &[Shape::new(&q), Shape::new(&k), Shape::new(&k)],
                |tape, [q, k, v]| tape.attention(q, k, v, options),
                |[a, b, c]| twin(options, q, k, a, b, c),
                2e-4,
            );
        }
    }
}
