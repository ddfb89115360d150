//! The two halves of an autoencoder: images to the moments of their latents, and latents to images. Levels of residual blocks, each of half
//! the side of the one before, and attention of one head over the coarsest.

use engine::{BlockId, EngineError, ParamTable, Tape, Tensor, ops::Activation};

use super::AutoencoderConfig;
use crate::parts::{Attention, Conv, Grouping, Norm, Residual, double};

/// Of the norms of the code of arXiv:2112.10752.
const EPS: f32 = 1e-6;
/// Colours of a pixel.
pub(super) const COLOURS: usize = 3;

/// Two residual blocks, and attention between them.
struct Middle {
    before: Residual,
    attention: Option<(Norm, Attention)>,
    after: Residual,
    groups: usize,
}

impl Middle {
    fn new(table: &mut ParamTable, c: &AutoencoderConfig, width: usize, grouping: Grouping) -> Self {
        let before = Residual::new(table, "res1", [width; 2], None, grouping);
        let attention =
            c.attention.then(|| (Norm::new(table, "attn.norm", width, EPS), Attention::new(table, "attn", [width; 2], width, true)));
        Self { before, attention, after: Residual::new(table, "res2", [width; 2], None, grouping), groups: c.groups }
    }

    fn run(&self, tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let mut x = self.before.run(tape, x, None)?;
        if let Some((norm, attention)) = &self.attention {
            let shape = x.shape();
            let normed = norm.groups(tape, &x, self.groups)?;
            let tokens = normed.reshape(&[shape.dims()[0], shape.dims()[1] * shape.dims()[2], shape.last()])?;
            drop(normed);
            let attended = attention.run(tape, &tokens, None)?.reshape(shape.dims())?;
            x = tape.add(&x, &attended)?;
        }
        self.after.run(tape, &x, None)
    }
}

/// Norm, SiLU and a convolution: how either half ends.
struct Last {
    norm: Norm,
    conv: Conv,
    groups: usize,
}

impl Last {
    fn new(table: &mut ParamTable, [out, width, groups]: [usize; 3]) -> Self {
        Self { norm: Norm::new(table, "norm", width, EPS), conv: Conv::new(table, "out", [out, width], 3), groups }
    }

    fn run(&self, tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let normed = self.norm.groups(tape, x, self.groups)?;
        let active = tape.activation(Activation::Silu, &normed)?;
        drop(normed);
        self.conv.run(tape, &active)
    }
}

/// Residual blocks of one level, and the way to the next.
struct Level {
    block: BlockId,
    residuals: Vec<Residual>,
    next: Option<Conv>,
}

fn named(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Images to a mean and a log variance for each number of each latent pixel.
pub(crate) struct Encoding {
    first_block: BlockId,
    first: Conv,
    levels: Vec<Level>,
    middle_block: BlockId,
    middle: Middle,
    last_block: BlockId,
    last: Last,
    moments: Option<Conv>,
}

impl Encoding {
    /// Its blocks' names begin with `prefix`.
    pub fn new(table: &mut ParamTable, c: &AutoencoderConfig, prefix: &str) -> Self {
        let grouping = Grouping { groups: c.groups, eps: EPS };
        let first_block = table.block(prefix);
        let mut at = c.factors.first().copied().unwrap_or(1) * c.width;
        let first = Conv::new(table, "in", [at, COLOURS], 3);
        let mut levels = Vec::new();
        for (level, factor) in c.factors.iter().enumerate() {
            let block = table.block(named(prefix, &format!("down.{level}")));
            let mut residuals = Vec::new();
            for i in 1..=c.res_blocks {
                let before = std::mem::replace(&mut at, factor * c.width);
                residuals.push(Residual::new(table, &format!("res{i}"), [at, before], None, grouping));
            }
            // Zeros right and below alone: the code's way of "asymmetric padding".
            let next = (level < c.halvings()).then(|| Conv::halving(table, "halve", at, [0, 1]));
            levels.push(Level { block, residuals, next });
        }
        let middle_block = table.block(named(prefix, "middle"));
        let middle = Middle::new(table, c, at, grouping);
        let last_block = table.block(prefix);
        let last = Last::new(table, [2 * c.channels, at, c.groups]);
        let moments = c.pixel_convs.then(|| Conv::new(table, "moments", [2 * c.channels; 2], 1));
        Self { first_block, first, levels, middle_block, middle, last_block, last, moments }
    }

    /// `images` `[batch, size, size, 3]` to `[batch, latent size, latent size, 2 channels]`.
    pub fn run<'m>(&'m self, tape: &mut Tape<'m>, images: &Tensor) -> Result<Tensor, EngineError> {
        let [mut x] = tape.block(self.first_block, [images], move |tape, [images]| Ok([self.first.run(tape, images)?]))?;
        for level in &self.levels {
            [x] = tape.block(level.block, [&x], move |tape, [x]| {
                let mut x = x.clone();
                for residual in &level.residuals {
                    x = residual.run(tape, &x, None)?;
                }
                Ok([match &level.next {
                    Some(halve) => halve.run(tape, &x)?,
                    None => x,
                }])
            })?;
        }
        [x] = tape.block(self.middle_block, [&x], move |tape, [x]| Ok([self.middle.run(tape, x)?]))?;
        let [moments] = tape.block(self.last_block, [&x], move |tape, [x]| {
            let last = self.last.run(tape, x)?;
            Ok([match &self.moments {
                Some(moments) => moments.run(tape, &last)?,
                None => last,
            }])
        })?;
        Ok(moments)
    }
}

/// Latents to images.
pub(crate) struct Decoding {
    first_block: BlockId,
    latents: Option<Conv>,
    first: Conv,
    middle_block: BlockId,
    middle: Middle,
    levels: Vec<Level>,
    pub last_block: BlockId,
    last: Last,
}

impl Decoding {
    /// Its blocks' names begin with `prefix`.
    pub fn new(table: &mut ParamTable, c: &AutoencoderConfig, prefix: &str) -> Self {
        let grouping = Grouping { groups: c.groups, eps: EPS };
        let mut at = c.factors.last().copied().unwrap_or(1) * c.width;
        let first_block = table.block(prefix);
        let latents = c.pixel_convs.then(|| Conv::new(table, "latents", [c.channels; 2], 1));
        let first = Conv::new(table, "in", [at, c.channels], 3);
        let middle_block = table.block(named(prefix, "middle"));
        let middle = Middle::new(table, c, at, grouping);
        let mut levels = Vec::new();
        for (level, factor) in c.factors.iter().rev().enumerate() {
            let block = table.block(named(prefix, &format!("up.{level}")));
            let mut residuals = Vec::new();
            for i in 1..=c.res_blocks + 1 {
                let before = std::mem::replace(&mut at, factor * c.width);
                residuals.push(Residual::new(table, &format!("res{i}"), [at, before], None, grouping));
            }
            let next = (level < c.halvings()).then(|| Conv::new(table, "double", [at; 2], 3));
            levels.push(Level { block, residuals, next });
        }
        let last_block = table.block(prefix);
        Self { first_block, latents, first, middle_block, middle, levels, last_block, last: Last::new(table, [COLOURS, at, c.groups]) }
    }

    /// What the last block reads of latents `[batch, latent size, latent size, channels]`, which `draw` makes of `x` in the first block:
    /// `[batch, size, size, width of the finest level]`.
    pub fn features<'m, const I: usize>(
        &'m self,
        tape: &mut Tape<'m>,
        x: [&Tensor; I],
        draw: impl Fn(&mut Tape<'m>, [&Tensor; I]) -> Result<Tensor, EngineError> + 'm,
    ) -> Result<Tensor, EngineError> {
        let [mut x] = tape.block(self.first_block, x, move |tape, x| {
            let mut latents = draw(tape, x)?;
            if let Some(conv) = &self.latents {
                latents = conv.run(tape, &latents)?;
            }
            Ok([self.first.run(tape, &latents)?])
        })?;
        [x] = tape.block(self.middle_block, [&x], move |tape, [x]| Ok([self.middle.run(tape, x)?]))?;
        for level in &self.levels {
            [x] = tape.block(level.block, [&x], move |tape, [x]| {
                let mut x = x.clone();
                for residual in &level.residuals {
                    x = residual.run(tape, &x, None)?;
                }
                if let Some(conv) = &level.next {
                    x = double(tape, &x)?;
                    x = conv.run(tape, &x)?;
                }
                Ok([x])
            })?;
        }
        Ok(x)
    }

    /// Images `[batch, size, size, 3]` of features.
    pub fn last(&self, tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        self.last.run(tape, x)
    }
}
