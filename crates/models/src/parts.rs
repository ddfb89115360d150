//! What models of images are made of: linear layers, norms, convolutions, attention over the same or over other tokens, and
//! feed-forward layers, each a handful of parameters that knows how to run.
//!
//! Absent: what a mesh cuts. The decoder's own layers know of heads and tokens on other ranks; these are whole.

use engine::{
    EngineError, Init, Mask, ParamId, ParamKind, ParamTable, Shape, Tape, Tensor,
    ops::{Activation, AttentionOptions, ConvOptions},
};

/// A matrix and its bias.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    pub weight: ParamId,
    pub bias: Option<ParamId>,
}

impl Linear {
    /// `[out, inner]`, from the start that PyTorch gives: variance `1 / (3 inner)`.
    pub fn new(table: &mut ParamTable, name: &str, [out, inner]: [usize; 2], has_bias: bool) -> Self {
        Self::starting(table, name, [out, inner], has_bias, Init::Normal { std: 1.0 / (3.0 * inner as f32).sqrt() })
    }

    pub fn starting(table: &mut ParamTable, name: &str, dims: [usize; 2], has_bias: bool, start: Init) -> Self {
        let weight = table.add(&format!("{name}.weight"), &dims, start, ParamKind::Matrix);
        let bias = has_bias.then(|| table.add(&format!("{name}.bias"), &[dims[0]], Init::Zeros, ParamKind::Vector));
        Self { weight, bias }
    }

    pub fn run(&self, tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let bias = self.bias.map(|bias| tape.param(bias));
        tape.linear(x, &tape.param(self.weight), bias.as_ref())
    }
}

/// Weight and bias of a norm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    weight: ParamId,
    bias: ParamId,
    eps: f32,
}

impl Norm {
    pub fn new(table: &mut ParamTable, name: &str, width: usize, eps: f32) -> Self {
        let weight = table.add(&format!("{name}.weight"), &[width], Init::Ones, ParamKind::Vector);
        let bias = table.add(&format!("{name}.bias"), &[width], Init::Zeros, ParamKind::Vector);
        Self { weight, bias, eps }
    }

    pub fn layer(&self, tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        tape.layer_norm(x, &tape.param(self.weight), Some(&tape.param(self.bias)), self.eps)
    }

    pub fn groups(&self, tape: &mut Tape<'_>, x: &Tensor, groups: usize) -> Result<Tensor, EngineError> {
        tape.group_norm(x, &tape.param(self.weight), &tape.param(self.bias), groups, self.eps)
    }
}

/// A convolution: of one pixel it is a linear layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conv {
    linear: Linear,
    options: ConvOptions,
}

impl Conv {
    /// A window of `side` pixels that stops at each, with zeros around the image.
    pub fn new(table: &mut ParamTable, name: &str, [out, channels]: [usize; 2], side: usize) -> Self {
        let options = ConvOptions { side, stride: 1, pad: [side / 2; 2] };
        Self { linear: Linear::new(table, name, [out, side * side * channels], true), options }
    }

    /// The same, starting at zero.
    pub fn zeros(table: &mut ParamTable, name: &str, [out, channels]: [usize; 2], side: usize) -> Self {
        let options = ConvOptions { side, stride: 1, pad: [side / 2; 2] };
        Self { linear: Linear::starting(table, name, [out, side * side * channels], true, Init::Zeros), options }
    }

    /// Every second pixel, with `pad` zeros before and after.
    pub fn halving(table: &mut ParamTable, name: &str, channels: usize, pad: [usize; 2]) -> Self {
        Self { options: ConvOptions { side: 3, stride: 2, pad }, ..Self::new(table, name, [channels, channels], 3) }
    }

    pub fn run(&self, tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        if self.options.side == 1 {
            return self.linear.run(tape, x);
        }
        let bias = self.linear.bias.map(|bias| tape.param(bias));
        tape.conv2d(x, &tape.param(self.linear.weight), bias.as_ref(), self.options)
    }
}

/// Attention of all tokens to all, of the same or of another array.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    head_dim: usize,
}

impl Attention {
    /// From tokens of `width` to those of `context`, in heads of `head_dim`.
    pub fn new(table: &mut ParamTable, name: &str, [width, context]: [usize; 2], head_dim: usize, has_bias: bool) -> Self {
        let mut part = |part: &str, inner, has_bias| Linear::new(table, &format!("{name}.{part}"), [width, inner], has_bias);
        let (q, k, v) = (part("q", width, has_bias), part("k", context, has_bias), part("v", context, has_bias));
        Self { q, k, v, out: part("out", width, true), head_dim }
    }

    /// `x` `[batch, tokens, width]` to `context` `[batch, tokens, context]`, or to itself.
    pub fn run(&self, tape: &mut Tape<'_>, x: &Tensor, context: Option<&Tensor>) -> Result<Tensor, EngineError> {
        let from = context.unwrap_or(x);
        let (q, k, v) = (self.q.run(tape, x)?, self.k.run(tape, from)?, self.v.run(tape, from)?);
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let options = AttentionOptions { head_dim: self.head_dim, mask: Mask::Full, scale, alibi: false, softcap: None };
        let attended = tape.attention(&q, &k, &v, options)?;
        drop((q, k, v));
        self.out.run(tape, &attended)
    }
}

/// Two linear layers and what stands between them; with a gate it is a GEGLU (arXiv:2002.05202).
#[derive(Debug, Clone, Copy)]
pub(crate) struct FeedForward {
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl FeedForward {
    pub fn new(table: &mut ParamTable, name: &str, [width, ffn]: [usize; 2], activation: Activation, has_gate: bool) -> Self {
        let gate = has_gate.then(|| Linear::new(table, &format!("{name}.gate"), [ffn, width], true));
        let up = Linear::new(table, &format!("{name}.up"), [ffn, width], true);
        Self { gate, up, down: Linear::new(table, &format!("{name}.down"), [width, ffn], true), activation }
    }

    pub fn run(&self, tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let up = self.up.run(tape, x)?;
        let middle = match &self.gate {
            Some(gate) => {
                let gate = gate.run(tape, x)?;
                let gate = tape.activation(self.activation, &gate)?;
                tape.mul(&up, &gate)?
            }
            None => tape.activation(self.activation, &up)?,
        };
        drop(up);
        self.down.run(tape, &middle)
    }
}

/// Two convolutions beside a way past them, told the time or not; arXiv:2112.10752, appendix, after arXiv:2006.11239.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Residual {
    norms: [Norm; 2],
    convs: [Conv; 2],
    time: Option<Linear>,
    past: Option<Conv>,
    groups: usize,
}

/// Groups of a norm and what keeps it from dividing by nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grouping {
    pub groups: usize,
    pub eps: f32,
}

impl Residual {
    pub fn new(table: &mut ParamTable, name: &str, [out, channels]: [usize; 2], time: Option<usize>, grouping: Grouping) -> Self {
        let Grouping { groups, eps } = grouping;
        Self {
            norms: [(1, channels), (2, out)].map(|(i, width)| Norm::new(table, &format!("{name}.norm{i}"), width, eps)),
            convs: [
                Conv::new(table, &format!("{name}.conv1"), [out, channels], 3),
                Conv::zeros(table, &format!("{name}.conv2"), [out, out], 3),
            ],
            time: time.map(|time| Linear::new(table, &format!("{name}.time"), [out, time], true)),
            past: (out != channels).then(|| Conv::new(table, &format!("{name}.past"), [out, channels], 1)),
            groups,
        }
    }

    /// `x` `[batch, height, width, channels]` and `time` `[batch, time]`.
    pub fn run(&self, tape: &mut Tape<'_>, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor, EngineError> {
        let mut y = self.half(tape, 0, x)?;
        if let (Some(linear), Some(time)) = (&self.time, time) {
            let time = tape.activation(Activation::Silu, time)?;
            let shift = linear.run(tape, &time)?;
            y = tape.modulate(&y, 1.0, None, Some(&shift))?;
        }
        let y = self.half(tape, 1, &y)?;
        match &self.past {
            Some(past) => {
                let past = past.run(tape, x)?;
                tape.add(&past, &y)
            }
            None => tape.add(x, &y),
        }
    }

    fn half(&self, tape: &mut Tape<'_>, i: usize, x: &Tensor) -> Result<Tensor, EngineError> {
        let normed = self.norms[i].groups(tape, x, self.groups)?;
        let active = tape.activation(Activation::Silu, &normed)?;
        drop(normed);
        self.convs[i].run(tape, &active)
    }
}

/// Rows of `x` `[.., width]` by their places: `[dims.., width]`.
pub(crate) fn pick(tape: &mut Tape<'_>, x: &Tensor, dims: &[usize], place: impl Fn(usize) -> usize) -> Result<Tensor, EngineError> {
    let shape = Shape::new(dims);
    let places = tape.tokens_of(shape, || (0..shape.elements()).map(|i| place(i) as u32).collect())?;
    let rows = x.reshape(&[x.shape().rows(), x.shape().last()])?;
    tape.embedding(&places, &rows)
}

/// Each pixel four times: `[batch, 2 height, 2 width, channels]`.
pub(crate) fn double(tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
    let [batch, height, width, _] = *x.shape().dims() else { unreachable!("a convolution gives four axes") };
    pick(tape, x, &[batch, 2 * height, 2 * width], |i| {
        let (line, column) = (i / (2 * width), i % (2 * width));
        (line / (2 * height) * height + line % (2 * height) / 2) * width + column / 2
    })
}

/// The same by places that an input names.
pub(crate) fn pick_by(tape: &mut Tape<'_>, x: &Tensor, places: &Tensor) -> Result<Tensor, EngineError> {
    let rows = x.reshape(&[x.shape().rows(), x.shape().last()])?;
    tape.embedding(places, &rows)
}

/// `token` `[1, width]` before the tokens of each sample of `x` `[batch, tokens, width]`.
pub(crate) fn prepend(tape: &mut Tape<'_>, token: &Tensor, x: &Tensor) -> Result<Tensor, EngineError> {
    let [batch, tokens] = [x.shape().dims()[0], x.shape().dims()[1]];
    let all = tape.stack(token, x)?;
    let place = |i: usize| if i.is_multiple_of(tokens + 1) { 0 } else { i / (tokens + 1) * tokens + i % (tokens + 1) };
    pick(tape, &all, &[batch, tokens + 1], place)
}

/// Positions `[tokens, width]` added to each sample of `x` `[batch, tokens, width]`.
pub(crate) fn with_positions(tape: &mut Tape<'_>, x: &Tensor, positions: &Tensor) -> Result<Tensor, EngineError> {
    let [batch, tokens] = [x.shape().dims()[0], x.shape().dims()[1]];
    let positions = pick(tape, positions, &[batch, tokens], |i| i % tokens)?;
    tape.add(x, &positions)
}

/// Fixed positions of a square of patches, `[side * side, width]`: half of the columns waves of the patch's column, half of
/// its line; arXiv:2111.06377, appendix A, in its code's order.
#[must_use]
pub fn fixed_positions(side: usize, width: usize) -> Vec<f32> {
    let quarter = width / 4;
    let wave = |place: usize, i: usize| place as f64 / 10_000_f64.powf(i as f64 / quarter as f64);
    let number = |at: usize| {
        let (patch, column) = (at / width, at % width);
        let place = if column < width / 2 { patch % side } else { patch / side };
        let (i, turn) = (column % quarter, column / quarter % 2);
        (if turn == 0 { wave(place, i).sin() } else { wave(place, i).cos() }) as f32
    };
    (0..side * side * width).map(number).collect()
}

/// The same on a tape.
pub(crate) fn positions(tape: &mut Tape<'_>, side: usize, width: usize) -> Result<Tensor, EngineError> {
    tape.constant_of(Shape::new(&[side * side, width]), || fixed_positions(side, width))
}

/// A norm without weights.
pub(crate) fn bare_norm(tape: &mut Tape<'_>, x: &Tensor, weight: f32, eps: f32) -> Result<Tensor, EngineError> {
    let width = x.shape().last();
    let weights = tape.constant_of(Shape::new(&[width]), || vec![weight; width])?;
    tape.layer_norm(x, &weights, None, eps)
}
