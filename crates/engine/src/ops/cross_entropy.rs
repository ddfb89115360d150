//! Cross-entropy fused with the logits' GEMM, in chunks of rows: never a `[rows, vocab]` matrix. Where the vocabulary is
//! cut among ranks, they exchange two numbers for each row.
//!
//! Two ops share the chunk. [`Tape::cross_entropy`] gives the scaled sum as one number. It computes its gradients in
//! the forward pass, while the logits of a chunk are at hand, which saves a third of the head's work; the price is that
//! nothing may scale its output afterwards, so the scale goes in. [`Tape::token_nll`] gives each token's negative
//! log-likelihood, takes any gradient, and computes logits again for it: evaluation and policy gradients use it.

use kernels::gemm::{Gemm, Mat, Rhs};

use super::{Backward, Class, Cost, Forward, Gradient, Input, Op, Saves, linear::{packs, rhs}};
use crate::{Axis, EngineError, Form, Move, Partition, Precision, Shape, ShapeError, Tape, Tensor, Pass};

/// A target that counts for nothing: padding.
pub const IGNORE: u32 = u32::MAX;

/// Rows whose logits are in memory at one time.
const CHUNK: usize = 256;

struct CrossEntropy {
    scale: f32,
    /// Logits become `cap tanh(logit / cap)`.
    cap: Option<f32>,
    cut: Cut,
}

struct TokenNll {
    cap: Option<f32>,
    cut: Cut,
}

/// This rank's place among the parts of the vocabulary, and their number.
#[derive(Clone, Copy)]
struct Cut {
    place: usize,
    parts: usize,
}

impl Cut {
    /// Logits of one chunk (twice where they are capped), the losses, and what the parts of the vocabulary tell of each row.
    fn scratch(self, x: Shape, w: Shape, cap: Option<f32>) -> usize {
        let stats = if self.parts > 1 { (self.parts + 1) * kernels::loss::STATS } else { 0 };
        CHUNK.min(x.rows()) * (w.rows() * (1 + usize::from(cap.is_some())) + 1 + stats)
    }

    fn moves(self, x: Shape) -> Option<(Axis, Move, usize)> {
        (self.parts > 1).then(|| (Axis::Tensor, Move::Gather, kernels::loss::STATS * x.rows()))
    }

    /// `nll` of each row, and with `want_grad` the logits become `scale (softmax - onehot)`.
    fn cross_entropy(
        self,
        partition: &dyn Partition,
        logits: &mut [f32],
        targets: &[u32],
        vocab: usize,
        scale: f32,
        nll: &mut [f32],
        stats: &mut [f32],
        want_grad: bool,
    ) {
        if self.parts == 1 {
            return kernels::loss::cross_entropy(logits, targets, vocab, scale, nll, want_grad);
        }
        let first = self.place * vocab;
        let (mine, all) = stats.split_at_mut(targets.len() * kernels::loss::STATS);
        kernels::loss::part_stats(logits, targets, vocab, first, mine, want_grad);
        partition.gather(Axis::Tensor, mine, all);
        kernels::loss::part_cross_entropy(logits, targets, vocab, first, self.place, all, scale, nll, want_grad);
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn class(&self) -> Class {
        Class::Loss
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        fit(x)?;
        Ok(Shape::new(&[1]))
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        // Counted where the field counts it, though the work of both passes is done in the forward one.
        head_cost(x)
    }
    fn gemm(&self, x: &[Shape]) -> Option<[usize; 3]> {
        Some([x[0].rows(), x[1].rows(), x[0].last()])
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves::default()
    }
    fn scratch(&self, x: &[Shape], pass: Pass) -> usize {
        if pass == Pass::Forward { self.cut.scratch(x[0], x[1], self.cap) } else { 0 }
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 2 { Gradient::None } else { Gradient::Early }
    }
    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }
    fn packs(&self, x: &[Shape], pass: Pass, precision: Precision) -> usize {
        packs(CHUNK.min(x[0].rows()), x[1], precision, pass != Pass::Backward)
    }
    fn moves(&self, x: &[Shape], pass: Pass) -> Option<(Axis, Move, usize)> {
        self.cut.moves(x[0]).filter(|_| pass != Pass::Backward)
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [x, w, targets, ..] = f.inputs else { unreachable!("at least three inputs") };
        let bias = f.inputs.get(3).map(|b| b.f32s());
        let (mut dx, mut dw) = (f.early[0].take(), f.early[1].take());
        let mut db = f.early.get_mut(3).and_then(Option::take);
        let want_grad = dx.is_some() || dw.is_some();
        for fresh in [&mut dw, &mut db].into_iter().flatten().filter(|g| !g.accumulate) {
            fresh.data.f32s().fill(0.0);
        }
        let mut sum = 0.0_f64;
        for chunk in Chunk::of(x, w, f.precision) {
            let targets = &targets.u32s()[chunk.start..chunk.start + chunk.rows];
            let [logits, capped, nll, stats] = chunk.split(f.scratch, self.cap, self.cut);
            chunk.logits(bias, self.cap, [logits, capped]);
            self.cut.cross_entropy(f.partition, logits, targets, chunk.vocab, self.scale, nll, stats, want_grad);
            slope_of_cap(self.cap, capped, logits);
            sum += nll.iter().map(|v| f64::from(*v)).sum::<f64>();
            if let Some(db) = &mut db {
                kernels::elementwise::add_rows(logits, db.data.f32s());
            }
            chunk.gradients(logits, dx.as_mut().map(|g| g.data.f32s()), dw.as_mut().map(|g| g.data.f32s()), false);
        }
        f.output.f32s()[0] = (sum * f64::from(self.scale)) as f32;
    }
    fn backward(&self, b: &mut Backward<'_>) {
        assert!(b.dy.f32s()[0] == 1.0, "cross_entropy: its gradient is {}, not 1: give `scale` to the op itself", b.dy.f32s()[0]);
    }
}

impl Op for TokenNll {
    fn name(&self) -> &'static str {
        "token_nll"
    }
    fn class(&self) -> Class {
        Class::Loss
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, ShapeError> {
        fit(x)?;
        Ok(x[2])
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let cost = head_cost(x);
        Cost { backward_flops: cost.backward_flops + cost.forward_flops, ..cost }
    }
    fn gemm(&self, x: &[Shape]) -> Option<[usize; 3]> {
        Some([x[0].rows(), x[1].rows(), x[0].last()])
    }
    fn saves(&self, _x: &[Shape]) -> Saves {
        Saves { inputs: &[0, 1, 2], ..Saves::default() }
    }
    fn scratch(&self, x: &[Shape], _pass: Pass) -> usize {
        self.cut.scratch(x[0], x[1], self.cap)
    }
    fn gradient(&self, input: usize) -> Gradient {
        if input == 2 { Gradient::None } else { Gradient::Computed }
    }
    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }
    fn packs(&self, x: &[Shape], pass: Pass, precision: Precision) -> usize {
        packs(CHUNK.min(x[0].rows()), x[1], precision, pass == Pass::Backward)
    }
    fn moves(&self, x: &[Shape], _pass: Pass) -> Option<(Axis, Move, usize)> {
        self.cut.moves(x[0])
    }
    fn forward(&self, f: &mut Forward<'_>) {
        let [x, w, targets] = f.inputs else { unreachable!("three inputs") };
        for chunk in Chunk::of(x, w, f.precision) {
            let rows = chunk.start..chunk.start + chunk.rows;
            let [logits, capped, _, stats] = chunk.split(f.scratch, self.cap, self.cut);
            chunk.logits(None, self.cap, [logits, capped]);
            let targets = &targets.u32s()[rows.clone()];
            self.cut.cross_entropy(f.partition, logits, targets, chunk.vocab, 1.0, &mut f.output.f32s()[rows], stats, false);
        }
    }
    fn backward(&self, b: &mut Backward<'_>) {
        let [x, w, targets] = b.inputs else { unreachable!("three inputs") };
        let [mut dx, mut dw] = b.take_grads();
        if let Some(dw) = dw.as_mut().filter(|dw| !dw.accumulate) {
            dw.data.f32s().fill(0.0);
        }
        let accumulate = dx.as_ref().is_some_and(|dx| dx.accumulate);
        for chunk in Chunk::of(x, w, b.precision) {
            let rows = chunk.start..chunk.start + chunk.rows;
            let [logits, capped, nll, stats] = chunk.split(b.scratch, self.cap, self.cut);
            chunk.logits(None, self.cap, [logits, capped]);
            self.cut.cross_entropy(b.partition, logits, &targets.u32s()[rows.clone()], chunk.vocab, 1.0, nll, stats, true);
            slope_of_cap(self.cap, capped, logits);
            for (row, dy) in logits.chunks_exact_mut(chunk.vocab).zip(&b.dy.f32s()[rows]) {
                row.iter_mut().for_each(|v| *v *= dy);
            }
            chunk.gradients(logits, dx.as_mut().map(|g| g.data.f32s()), dw.as_mut().map(|g| g.data.f32s()), accumulate);
        }
    }
}

/// Some rows of `x` against the whole of `w`.
struct Chunk<'a> {
    x: Input<'a>,
    w: Input<'a>,
    precision: Precision,
    start: usize,
    rows: usize,
    model: usize,
    vocab: usize,
}

impl<'a> Chunk<'a> {
    fn of(x: &Input<'a>, w: &Input<'a>, precision: Precision) -> impl Iterator<Item = Self> + use<'a> {
        let (x, w) = (*x, *w);
        let (total, model, vocab) = (x.shape.rows(), x.shape.last(), w.shape.rows());
        (0..total.div_ceil(CHUNK)).map(move |i| {
            let start = i * CHUNK;
            Chunk { x, w, precision, start, rows: CHUNK.min(total - start), model, vocab }
        })
    }

    /// Space for logits `[rows, vocab]`, for them once more where they are capped, losses `[rows]` and the parts' stats.
    fn split<'s>(&self, scratch: &'s mut [f32], cap: Option<f32>, cut: Cut) -> [&'s mut [f32]; 4] {
        let (logits, rest) = scratch.split_at_mut(self.rows * self.vocab);
        let (capped, rest) = rest.split_at_mut(if cap.is_some() { logits.len() } else { 0 });
        let (nll, stats) = rest.split_at_mut(self.rows);
        let len = if cut.parts > 1 { (cut.parts + 1) * self.rows * kernels::loss::STATS } else { 0 };
        [logits, capped, nll, &mut stats[..len]]
    }

    fn x_rows(&self) -> Mat<'a> {
        Mat::rows(&self.x.f32s()[self.start * self.model..][..self.rows * self.model], self.model)
    }

    /// Capped ones are also kept in `capped`, since the loss leaves its gradient in their place.
    fn logits(&self, bias: Option<&[f32]>, cap: Option<f32>, [logits, capped]: [&mut [f32]; 2]) {
        let gemm = Gemm { m: self.rows, n: self.vocab, k: self.model, precision: self.precision, accumulate: false };
        gemm.run(self.x_rows(), rhs(&self.w, Form::Forward, self.precision), bias, logits);
        if let Some(cap) = cap {
            kernels::activation::softcap(logits, 1.0 / cap, cap);
            capped.copy_from_slice(logits);
        }
    }

    /// From the gradient of the logits: `dx = dlogits W`, `dw += dlogits^T x`.
    fn gradients(&self, dlogits: &[f32], dx: Option<&mut [f32]>, dw: Option<&mut [f32]>, accumulate_dx: bool) {
        let dlogits = Mat::rows(dlogits, self.vocab);
        if let Some(dx) = dx {
            let gemm =
                Gemm { m: self.rows, n: self.model, k: self.vocab, precision: self.precision, accumulate: accumulate_dx };
            let dx = &mut dx[self.start * self.model..][..self.rows * self.model];
            gemm.run(dlogits, rhs(&self.w, Form::Backward, self.precision), None, dx);
        }
        if let Some(dw) = dw {
            let gemm = Gemm { m: self.vocab, n: self.model, k: self.rows, precision: self.precision, accumulate: true };
            gemm.run(dlogits.transposed(), Rhs::Plain(self.x_rows()), None, dw);
        }
    }
}

/// From the gradient of capped logits to that of the logits.
fn slope_of_cap(cap: Option<f32>, capped: &[f32], dlogits: &mut [f32]) {
    if let Some(cap) = cap {
        for (d, y) in dlogits.iter_mut().zip(capped) {
            *d *= 1.0 - (y / cap) * (y / cap);
        }
    }
}

fn fit(x: &[Shape]) -> Result<(), ShapeError> {
    ShapeError::check("cross_entropy", "model", ("x", x[0].last()), ("w", x[1].last()))?;
    if let Some(b) = x.get(3) {
        ShapeError::check("cross_entropy", "vocab", ("w", x[1].rows()), ("b", b.elements()))?;
    }
    ShapeError::check("cross_entropy", "rows", ("x", x[0].rows()), ("targets", x[2].elements()))
}

fn head_cost(x: &[Shape]) -> Cost {
    let (rows, model, vocab) = (x[0].rows() as u64, x[0].last() as u64, x[1].rows() as u64);
    let flops = 2 * rows * model * vocab;
    let bytes = x[0].bytes() + x[1].bytes() + 8 * rows * vocab;
    Cost { forward_flops: flops, backward_flops: 2 * flops, forward_bytes: bytes, backward_bytes: 2 * bytes }
}

impl Tape<'_> {
    fn vocab_cut(&self) -> Cut {
        let (place, parts) = self.place(Axis::Tensor);
        Cut { place, parts }
    }

    /// `scale` times the sum over rows of `-log softmax(x W^T + b)[target]`: one number. `x` `[.., model]`, `w` `[vocab,
    /// model]`, `b` `[vocab]`, `targets` below `vocab` or [`IGNORE`]; logits become `cap tanh(logit / cap)`. Its own gradient must be one.
    /// # Errors
    /// When `model`, `vocab` or the number of rows differ.
    pub fn cross_entropy(
        &mut self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        targets: &Tensor,
        scale: f32,
        cap: Option<f32>,
    ) -> Result<Tensor, EngineError> {
        let op = CrossEntropy { scale, cap, cut: self.vocab_cut() };
        match b {
            Some(b) => self.apply(op, &[x, w, targets, b]),
            None => self.apply(op, &[x, w, targets]),
        }
    }

    /// `-log softmax(x W^T)[target]` of each row, in the shape of `targets`; 0 where the target is [`IGNORE`]. Logits become `cap tanh(logit /
    /// cap)`.
    /// # Errors
    /// When `model` or the number of rows differ.
    pub fn token_nll(&mut self, x: &Tensor, w: &Tensor, targets: &Tensor, cap: Option<f32>) -> Result<Tensor, EngineError> {
        let cut = self.vocab_cut();
        self.apply(TokenNll { cap, cut }, &[x, w, targets])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check;

    fn twin(x: &[f64], w: &[f64], b: &[f64], targets: &[u32], model: usize, cap: Option<f32>) -> Vec<f64> {
        let nll = |(x, target): (&[f64], &u32)| {
            let logit = |row: usize| {
                let plain = x.iter().zip(&w[row * model..][..model]).map(|(x, w)| x * w).sum::<f64>() + b[row];
                cap.map_or(plain, |cap| f64::from(cap) * (plain / f64::from(cap)).tanh())
            };
            let total: f64 = (0..b.len()).map(|row| logit(row).exp()).sum();
            if *target == IGNORE { 0.0 } else { total.ln() - logit(*target as usize) }
        };
        x.chunks(model).zip(targets).map(nll).collect()
    }

    #[test]
    fn both_agree_with_their_differences_and_ignore_padding() {
        let sizes = [(1, 1, 2), (3, 5, 7), (19, 8, 33), (CHUNK + 3, 2, 5)];
        for ((rows, model, vocab), cap) in sizes.into_iter().flat_map(|size| [(size, None), (size, Some(0.8))]) {
            let targets: Vec<u32> = (0..rows as u32).map(|r| if r == 1 { IGNORE } else { r * 7 % vocab as u32 }).collect();
            let shapes = [Shape::new(&[rows, model]), Shape::new(&[vocab, model])];
            let on_tape = |tape: &mut Tape<'_>| tape.tokens(Shape::new(&[targets.len()]), &targets);
            check::gradients(
                &shapes,
                |tape, [x, w]| {
                    let targets = on_tape(tape)?;
                    tape.token_nll(x, w, &targets, cap)
                },
                |[x, w]| twin(x, w, &vec![0.0; vocab], &targets, model, cap),
                1e-4,
            );
            check::gradients_of_loss(
                &shapes,
                |tape, [x, w]| {
                    let targets = on_tape(tape)?;
                    tape.cross_entropy(x, w, None, &targets, 0.25, cap)
                },
                |[x, w]| 0.25 * twin(x, w, &vec![0.0; vocab], &targets, model, cap).iter().sum::<f64>(),
                1e-4,
            );
            check::gradients_of_loss(
                &[shapes[0], shapes[1], Shape::new(&[vocab])],
                |tape, [x, w, b]| {
                    let targets = on_tape(tape)?;
                    tape.cross_entropy(x, w, Some(b), &targets, 0.25, cap)
                },
                |[x, w, b]| 0.25 * twin(x, w, b, &targets, model, cap).iter().sum::<f64>(),
                1e-4,
            );
        }
    }
}
