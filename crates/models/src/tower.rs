//! The image side of a vision transformer, of a masked autoencoder and of CLIP: patches as tokens, a class token before them, layers;
//! arXiv:2010.11929. SigLIP's has no class token: another attention gathers the patches, in `clip`.

use engine::{BlockId, EngineError, Init, Inputs, Mask, ParamId, ParamKind, ParamTable, Tape, Tensor, ops::Places};
use serde::{Deserialize, Serialize};

use crate::{
    ModelError,
    decoder::{DecoderConfig, Mlp, declare::NormParams, layers::Layers},
    parts::{Linear, pick, prepend, with_positions},
};

/// Sizes of a tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TowerConfig {
    /// Sides in pixels, of an image and of a patch.
    pub size: usize,
    pub patch: usize,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub ffn: usize,
    pub mlp: Mlp,
    pub eps: f32,
    /// CLIP's: a norm before the layers, and patches without a bias.
    pub norm_first: bool,
    /// SigLIP's: no class token, and an attention over all patches in its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention_pool: bool,
}

impl TowerConfig {
    pub(crate) fn of([size, patch]: [usize; 2], layers: usize, width: usize, heads: usize, ffn: usize) -> Self {
        Self { size, patch, layers, width, heads, ffn, mlp: Mlp::Gelu, eps: 1e-6, norm_first: false, attention_pool: false }
    }

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        let side = |key, n| (key, n, 1 << 14);
        crate::in_range(&[side("size", self.size), side("patch", self.patch)])?;
        if !self.size.is_multiple_of(self.patch) {
            let problem = format!("patches of {} pixels do not fill a side of {}", self.patch, self.size);
            return Err(ModelError::key("patch", problem, "choose `patch` that divides `size`"));
        }
        self.layer_config()?.check()
    }

    fn layer_config(&self) -> Result<DecoderConfig, ModelError> {
        DecoderConfig::encoder(self.layers, self.width, self.heads, self.ffn, self.mlp, self.eps)
    }

    /// That an image's state is that of its class token.
    pub(crate) fn with_class_token(&self) -> Result<(), ModelError> {
        if self.attention_pool {
            return Err(ModelError::key("attention_pool", "a model of this kind reads the class token", "leave it out, or use `clip`"));
        }
        Ok(())
    }

    /// Patches of an image.
    pub(crate) fn patches(&self) -> usize {
        (self.size / self.patch).pow(2)
    }
}

/// From images to the states of all tokens, the class token first if there is one.
pub(crate) struct Tower {
    pub config: TowerConfig,
    embed_block: BlockId,
    patch: Linear,
    /// None where patches are gathered by attention.
    class: Option<ParamId>,
    positions: ParamId,
    norm_first: Option<NormParams>,
    layers: Layers,
}

impl Tower {
    /// Its blocks' names begin with `prefix`.
    pub fn new(table: &mut ParamTable, config: TowerConfig, prefix: &str) -> Result<Self, ModelError> {
        let (c, layer_config) = (&config, config.layer_config()?);
        let embed_block = table.block(prefix.trim_end_matches('.'));
        let patch = Linear::new(table, "patch", [c.width, 3 * c.patch * c.patch], !c.norm_first);
        let start = Init::Normal { std: 0.02 };
        let class = (!c.attention_pool).then(|| table.add("class", &[1, c.width], start, ParamKind::Embedding));
        let tokens = c.patches() + usize::from(class.is_some());
        let positions = table.add("positions", &[tokens, c.width], start, ParamKind::Embedding);
        let norm_first = c.norm_first.then(|| NormParams::new(table, &layer_config, "norm_first"));
        let layers = Layers::new(table, layer_config, Mask::Full, prefix);
        Ok(Self { embed_block, patch, class, positions, norm_first, layers, config })
    }

    /// Declared in the block of the head that reads it.
    pub fn last_norm(&self, table: &mut ParamTable) -> NormParams {
        NormParams::new(table, &self.layers.config, "norm")
    }

    /// `images` `[batch, size, size, 3]` to `[batch, 1 + patches, width]`, without a class token `[batch, patches, width]`, before the last norm.
    pub fn run<'m>(&'m self, tape: &mut Tape<'m>, images: &Tensor) -> Result<Tensor, EngineError> {
        let embed = move |tape: &mut Tape<'m>, [images]: [&Tensor; 1]| {
            let patches = tape.patches(images, self.config.patch)?;
            let tokens = self.patch.run(tape, &patches)?;
            let tokens = match self.class {
                Some(class) => prepend(tape, &tape.param(class), &tokens)?,
                None => tokens,
            };
            let tokens = with_positions(tape, &tokens, &tape.param(self.positions))?;
            Ok([match self.norm_first {
                Some(norm) => self.layers.norm(tape, norm, &tokens)?,
                None => tokens,
            }])
        };
        let [mut x] = tape.block(self.embed_block, [images], embed)?;
        for layer in self.layers.each() {
            [x] = tape.block(layer.block, [&x], move |tape, [x]| Ok([self.layers.run(tape, layer, x, &Places::From(0))?]))?;
        }
        Ok(x)
    }

    /// `x`, what [`Tower::run`] gave, after the last norm.
    pub fn normed(&self, tape: &mut Tape<'_>, norm: NormParams, x: &Tensor) -> Result<Tensor, EngineError> {
        self.layers.norm(tape, norm, x)
    }

    /// The normed state of each sample's class token: `[batch, width]`.
    pub fn class(&self, tape: &mut Tape<'_>, norm: NormParams, x: &Tensor) -> Result<Tensor, EngineError> {
        let [batch, tokens] = [x.shape().dims()[0], x.shape().dims()[1]];
        // A norm is of each token alone, so that the others need none.
        let class = pick(tape, x, &[batch], |n| n * tokens)?;
        self.layers.norm(tape, norm, &class)
    }

    pub fn images(&self, inputs: Inputs, batch: usize) -> Inputs {
        inputs.with_f32("images", &[batch, self.config.size, self.config.size, 3], Vec::new())
    }
}
