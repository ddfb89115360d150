//! Attention: `softmax(scale q k^T + mask) v` per head, blockwise with online softmax; *FlashAttention*, arXiv:2205.14135.
//! Saves `lse` `[batch, heads, seq]`, the log of each row's denominator: never a `[seq, seq]` matrix.
//!
//! Where a sequence's tokens are cut among ranks, keys and values go round a ring (arXiv:2310.01889) and each block's
//! outcome joins the others.
//!
//! Queries may come in groups that share a key and value head (arXiv:2305.13245), from another sequence (cross), see
//! all keys, earlier ones, or a window of them, and add ALiBi slopes (arXiv:2108.12409).

use kernels::Element;
pub use kernels::attention::Mask;

use super::{Backward, Class, Cost, Forward, Op, Saves};
use crate::{Axis, EngineError, Move, Precision, Shape, ShapeError, Tape, Tensor, Pass};

/// What attention needs to know besides `q` `[batch, seq, heads * head_dim]` and `k`, `v`
/// `[batch, kv_seq, kv_heads * head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct AttentionOptions {
    pub head_dim: usize,
    pub mask: Mask,
    /// What scores are multiplied by, usually `head_dim^-0.5`.
    pub scale: f32,
    pub alibi: bool,
    /// Scores become `cap tanh(score / cap)`; not beside `alibi`.
    pub softcap: Option<f32>,
}

struct Attention {
    options: AttentionOptions,
    /// Place and number of the ranks that hold other heads, and of those that hold other tokens.
    heads: (usize, usize),
    tokens: (usize, usize),
}

impl Attention {
    fn kernel(&self, q: Shape, k: Shape, precision: Precision) -> kernels::attention::Attention {
        kernel(&self.options, self.heads, q, k.dims()[1], k.last(), precision)
    }

    /// The blocks of keys that come round, own ones first: the kernel for each, if some query sees a key of it.
    fn ring(&self, q: Shape, k: Shape, precision: Precision) -> impl Iterator<Item = Option<kernels::attention::Attention>> + '_ {
        let whole = self.kernel(q, k, precision);
        let (place, parts) = self.tokens;
        (0..parts).map(move |turn| {
            let block = (place + parts - turn) % parts;
            let is_seen = whole.mask == Mask::Full || block <= place;
            is_seen.then(|| kernels::attention::Attention { q_offset: place.saturating_sub(block) * whole.kv_len, ..whole })
        })
    }

    fn forward_here<T: Element>(&self, f: &mut Forward<'_>) {
        let [q, k, v] = f.inputs else { unreachable!("three inputs") };
        let attention = self.kernel(q.shape, k.shape, f.precision);
        attention.forward::<T>(q.of(), k.of(), v.of(), f.output.of(), f.extras[0].f32s_mut());
    }

    fn backward_here<T: Element>(&self, b: &mut Backward<'_>) {
        let [q, k, v] = b.inputs else { unreachable!("three inputs") };
        let attention = self.kernel(q.shape, k.shape, b.precision);
        if let [Some(mut dq), Some(mut dk), Some(mut dv)] = b.take_grads() {
            let accumulate = [dq.accumulate, dk.accumulate, dv.accumulate];
            let (out, lse, dout) = (b.output.of(), b.extras[0].f32s(), b.dy.of());
            let (dq, dk, dv) = (dq.data.of(), dk.data.of(), dv.data.of());
            attention.backward::<T>(q.of(), k.of(), v.of(), out, lse, dout, dq, dk, dv, b.scratch, accumulate);
        }
    }

    /// Softmax over blocks of keys as they come round: each block's outcome joins the others by its `lse`.
    fn forward_ring(&self, f: &mut Forward<'_>) {
        let [q, k, v] = f.inputs else { unreachable!("three inputs") };
        let (rows, d) = (lse_len(&self.options, q.shape), self.options.head_dim);
        let (part, rest) = f.scratch.split_at_mut(q.shape.elements());
        let (part_lse, rest) = rest.split_at_mut(rows);
        let (keys, values) = rest.split_at_mut(k.shape.elements());
        keys.copy_from_slice(k.f32s());
        values.copy_from_slice(v.f32s());
        let lse = f.extras[0].f32s_mut();
        let order = HeadRows::of(q.shape, d);
        for (turn, attention) in self.ring(q.shape, k.shape, f.precision).enumerate() {
            if turn > 0 {
                f.partition.rotate(Axis::Context, keys);
                f.partition.rotate(Axis::Context, values);
            }
            match attention {
                Some(attention) if turn == 0 => attention.forward(q.f32s(), keys, values, f.output.f32s(), lse),
                Some(attention) => {
                    attention.forward(q.f32s(), keys, values, part, part_lse);
                    for (row, (lse, part_lse)) in lse.iter_mut().zip(&*part_lse).enumerate() {
                        let most = lse.max(*part_lse);
                        if most == f32::NEG_INFINITY {
                            continue;
                        }
                        let both = most + ((*lse - most).exp() + (part_lse - most).exp()).ln();
                        let (old, new) = ((*lse - both).exp(), (part_lse - both).exp());
                        let at = order.at(row);
                        for (out, part) in f.output.f32s()[at..at + d].iter_mut().zip(&part[at..at + d]) {
                            *out = *out * old + part * new;
                        }
                        *lse = both;
                    }
                }
                None => {}
            }
        }
    }

    /// Keys and values go round with the gradients that they have gathered so far; after a whole turn they are home.
    fn backward_ring(&self, b: &mut Backward<'_>) {
        let [q, k, v] = b.inputs else { unreachable!("three inputs") };
        let ([Some(mut dq), Some(dk), Some(dv)], n) = (b.take_grads(), k.shape.elements()) else { return };
        let (delta, travelling) = b.scratch.split_at_mut(lse_len(&self.options, q.shape));
        travelling[..n].copy_from_slice(k.f32s());
        travelling[n..2 * n].copy_from_slice(v.f32s());
        travelling[2 * n..].fill(0.0);
        let mut keep_dq = dq.accumulate;
        for (turn, attention) in self.ring(q.shape, k.shape, b.precision).enumerate() {
            if turn > 0 {
                b.partition.rotate(Axis::Context, travelling);
            }
            let Some(attention) = attention else { continue };
            let (kv, grads) = travelling.split_at_mut(2 * n);
            let (dk, dv) = grads.split_at_mut(n);
            let (lse, accumulate) = (b.extras[0].f32s(), [keep_dq, true, true]);
            attention.backward(q.f32s(), &kv[..n], &kv[n..], b.output.f32s(), lse, b.dy.f32s(), dq.data.f32s(), dk, dv, delta, accumulate);
            keep_dq = true;
        }
        b.partition.rotate(Axis::Context, travelling);
        for (mut home, grad) in [(dk, &travelling[2 * n..3 * n]), (dv, &travelling[3 * n..])] {
            if home.accumulate {
                kernels::elementwise::add_assign(grad, home.data.f32s());
            } else {
                home.data.f32s().copy_from_slice(grad);
            }
        }
    }
}

/// Where the row of `lse` `[batch, heads, seq]` lies in `out` `[batch, seq, heads, head_dim]`.
struct HeadRows {
    seq: usize,
    heads: usize,
    head_dim: usize,
}

impl HeadRows {
    fn of(q: Shape, head_dim: usize) -> Self {
        Self { seq: q.dims()[1], heads: q.last() / head_dim, head_dim }
    }

    fn at(&self, row: usize) -> usize {
        let (batch, head, token) = (row / (self.heads * self.seq), row / self.seq % self.heads, row % self.seq);
        ((batch * self.seq + token) * self.heads + head) * self.head_dim
    }
}

pub(super) fn kernel(
    o: &AttentionOptions,
    (place, parts): (usize, usize),
    q: Shape,
    kv_len: usize,
    kv_width: usize,
    precision: Precision,
) -> kernels::attention::Attention {
    let [batch, q_len, width] = *q.dims() else { unreachable!("the shape rule wants three axes") };
    let heads = width / o.head_dim;
    kernels::attention::Attention {
        first_head: place * heads,
        all_heads: parts * heads,
        batch,
        q_len,
        kv_len,
        heads,
        kv_heads: kv_width / o.head_dim,
        head_dim: o.head_dim,
        // The last query sees the last key.
        q_offset: kv_len.saturating_sub(q_len),
        mask: o.mask,
        scale: o.scale,
        alibi: o.alibi,
        softcap: o.softcap,
        precision,
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn class(&self) -> Class {
        Class::Attention
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        shape(&self.options, x)
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let flops = self.ring(x[0], x[1], Precision::F32).flatten().map(|block| block.forward_flops()).sum::<u64>();
        let bytes = 2 * x[0].bytes() + 2 * x[1].bytes();
        // Backward: the scores again, and four products of their size.
        Cost { forward_flops: flops, backward_flops: flops * 5 / 2, forward_bytes: bytes, backward_bytes: 2 * bytes }
    }
    fn gemm(&self, x: &[Shape]) -> Option<[usize; 3]> {
        let heads = x[0].last() / self.options.head_dim;
        Some([x[0].rows() * heads, self.tokens.1 * x[1].dims()[1], self.options.head_dim])
    }
    fn saves(&self, x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1, 2], output: true, extras: vec![lse_len(&self.options, x[0])] }
    }
    fn scratch(&self, x: &[Shape], pass: Pass) -> usize {
        let (rows, kv) = (lse_len(&self.options, x[0]), x[1].elements());
        match (pass, self.tokens.1) {
            (Pass::Backward, 1) => rows,
            (Pass::Backward, _) => rows + 4 * kv,
            (_, 1) => 0,
            _ => x[0].elements() + rows + 2 * kv,
        }
    }
    fn packs(&self, x: &[Shape], pass: Pass, precision: Precision) -> usize {
        if pass == Pass::Backward { 0 } else { self.kernel(x[0], x[1], precision).packed_bytes() }
    }
    fn moves(&self, x: &[Shape], pass: Pass) -> Option<(Axis, Move, usize)> {
        let (turns, arrays) = if pass == Pass::Backward { (self.tokens.1, 4) } else { (self.tokens.1 - 1, 2) };
        (self.tokens.1 > 1).then(|| (Axis::Context, Move::Rotate, turns * arrays * x[1].elements()))
    }
    fn reads_bf16(&self) -> &'static [usize] {
        // What goes round a ring is f32.
        if self.tokens.1 > 1 { &[] } else { &[0, 1, 2] }
    }
    fn forward(&self, f: &mut Forward<'_>) {
        if self.tokens.1 > 1 {
            return self.forward_ring(f);
        }
        by_dtype!(self.forward_here(f));
    }
    fn backward(&self, b: &mut Backward<'_>) {
        if self.tokens.1 > 1 {
            return self.backward_ring(b);
        }
        by_dtype!(self.backward_here(b));
    }
}

/// What fits together, to the shape of `q`.
pub(super) fn shape(o: &AttentionOptions, x: &[Shape]) -> Result<Shape, ShapeError> {
    let ([q_batch, _, q_width], [k_batch, k_len, k_width], [v_batch, v_len, v_width]) =
        (*x[0].dims_3()?, *x[1].dims_3()?, *x[2].dims_3()?);
    let check = |axis, a, b| ShapeError::check("attention", axis, a, b);
    check("batch", ("q", q_batch), ("k", k_batch))?;
    check("batch", ("k", k_batch), ("v", v_batch))?;
    check("seq", ("k", k_len), ("v", v_len))?;
    check("kv_heads * head_dim", ("k", k_width), ("v", v_width))?;
    if o.alibi && o.softcap.is_some() {
        return Err(ShapeError::new("attention", "scores with `alibi` slopes cannot have a `softcap`"));
    }
    let d = o.head_dim;
    if d == 0 || k_width == 0 || q_width % d != 0 || k_width % d != 0 || q_width % k_width != 0 {
        let problem = format!("{q_width} of q and {k_width} of k are no whole groups of heads of {d}");
        return Err(ShapeError::new("attention", problem));
    }
    Ok(x[0])
}

fn lse_len(o: &AttentionOptions, q: Shape) -> usize {
    q.elements() / o.head_dim
}

impl Tape<'_> {
    /// `q` `[batch, seq, heads * head_dim]` over `k`, `v` `[batch, kv_seq, kv_heads * head_dim]`, to the shape of `q`.
    /// # Errors
    /// When batches, lengths or heads do not fit.
    pub fn attention(&mut self, q: &Tensor, k: &Tensor, v: &Tensor, options: AttentionOptions) -> Result<Tensor, EngineError> {
        let (heads, tokens) = (self.place(Axis::Tensor), self.place(Axis::Context));
        self.apply(Attention { options, heads, tokens }, &[q, k, v])
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
                let score = dot * f64::from(o.scale);
                (o.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh()) + bias).exp()
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
            (Mask::Causal, false, [1, 1, 4], [1, 1, 4], None),
            (Mask::Causal, false, [2, 5, 8], [2, 5, 8], None),
            (Mask::Causal, false, [2, 7, 8], [2, 7, 4], Some(0.6)),
            (Mask::Window(3), false, [1, 9, 8], [1, 9, 4], Some(2.0)),
            (Mask::Causal, true, [1, 7, 12], [1, 7, 4], None),
            (Mask::Full, false, [2, 3, 8], [2, 6, 4], None),
            (Mask::Window(3), false, [1, 9, 8], [1, 9, 4], None),
        ];
        for (mask, alibi, q, k, softcap) in cases {
            let options = AttentionOptions { head_dim: 4, mask, scale: 0.5, alibi, softcap };
            check::gradients(
                &[Shape::new(&q), Shape::new(&k), Shape::new(&k)],
                |tape, [q, k, v]| tape.attention(q, k, v, options),
                |[a, b, c]| twin(options, q, k, a, b, c),
                2e-4,
            );
        }
    }
}
