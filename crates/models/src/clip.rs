//! CLIP: images and their texts brought together by which belongs to which; arXiv:2103.00020.
//!
//! ```text
//! images -> tower -> class token -> linear \
//!                                           of length one -> which belongs to which, both ways
//! tokens -> layers -> last token -> linear /
//! ```
//! The candidates of a pair are those of the whole batch, where its inputs tell of them ([`EVERYONE`], [`LOG_SUMS`], [`OWN`]), and otherwise
//! those of its micro-batch. With `sigmoid` each pair is told by itself, right or wrong, as SigLIP does (arXiv:2303.15343). Its
//! towers are those of `image.attention_pool` and `text.both_ways`: patches are gathered by attention (arXiv:2106.04560, section 2.1), texts
//! read at their last token.

use std::ops::Range;

use engine::{
    BlockId, EngineError, Init, Inputs, Mask, ParamId, ParamKind, ParamTable, Shape, Tape, Tensor,
    ops::{Everyone, Places, Telling},
};
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Model, ModelError,
    decoder::{DecoderConfig, Mlp, declare::NormParams, layers::Layers},
    parts::{Attention, FeedForward, Linear, Norm, pick, pick_by, with_positions},
    tower::{Tower, TowerConfig},
};

/// Sizes of the text side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    pub vocab: usize,
    pub tokens: usize,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub ffn: usize,
    pub mlp: Mlp,
    #[serde(default = "usual_eps", skip_serializing_if = "is_usual_eps")]
    pub eps: f32,
    /// SigLIP's: each token sees all others, and the last one's state is the text's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub both_ways: bool,
}

/// CLIP's.
const EPS: f32 = 1e-5;

fn usual_eps() -> f32 {
    EPS
}

fn is_usual_eps(eps: &f32) -> bool {
    *eps == EPS
}

impl TextConfig {
    pub(crate) fn of(layers: usize, width: usize, heads: usize, mlp: Mlp) -> Self {
        Self { vocab: 49_408, tokens: 77, layers, width, heads, ffn: 4 * width, mlp, eps: EPS, both_ways: false }
    }

    fn layer_config(&self) -> Result<DecoderConfig, ModelError> {
        DecoderConfig::encoder(self.layers, self.width, self.heads, self.ffn, self.mlp, self.eps)
    }

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        crate::in_range(&[("vocab", self.vocab, 1 << 24), ("tokens", self.tokens, 1 << 16)])?;
        self.layer_config()?.check()
    }
}

/// From tokens to their normed states, each seeing those before it, or all.
pub(crate) struct TextTower {
    config: TextConfig,
    embed_block: BlockId,
    embed: ParamId,
    positions: ParamId,
    layers: Layers,
    norm_block: BlockId,
    norm: NormParams,
}

impl TextTower {
    /// Its blocks' names begin with `prefix`.
    pub fn new(table: &mut ParamTable, config: TextConfig, prefix: &str) -> Result<Self, ModelError> {
        let (c, layer_config) = (&config, config.layer_config()?);
        let name = prefix.trim_end_matches('.');
        let embed_block = table.block(name);
        let embed = table.add("embed", &[c.vocab, c.width], Init::Normal { std: 0.02 }, ParamKind::Embedding);
        let positions = table.add("positions", &[c.tokens, c.width], Init::Normal { std: 0.01 }, ParamKind::Embedding);
        let mask = if c.both_ways { Mask::Full } else { Mask::Causal };
        let layers = Layers::new(table, layer_config, mask, prefix);
        let norm_block = table.block(name);
        let norm = NormParams::new(table, &layers.config, "norm");
        Ok(Self { embed_block, embed, positions, layers, norm_block, norm, config })
    }

    /// Input `tokens` `[batch, tokens]` to `[batch, tokens, width]`.
    pub fn states<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let tokens = tape.input(inputs, "tokens")?;
        let embed = move |tape: &mut Tape<'m>, [tokens]: [&Tensor; 1]| {
            let x = tape.embedding(tokens, &tape.param(self.embed))?;
            Ok([with_positions(tape, &x, &tape.param(self.positions))?])
        };
        let [mut x] = tape.block(self.embed_block, [&tokens], embed)?;
        for layer in self.layers.each() {
            [x] = tape.block(layer.block, [&x], move |tape, [x]| Ok([self.layers.run(tape, layer, x, &Places::From(0))?]))?;
        }
        let [x] = tape.block(self.norm_block, [&x], move |tape, [x]| Ok([self.layers.norm(tape, self.norm, x)?]))?;
        Ok(x)
    }

    pub fn tokens(&self, inputs: Inputs, batch: usize) -> Inputs {
        inputs.with_u32("tokens", &[batch, self.config.tokens], Vec::new())
    }
}

/// Both sides, and how long what is compared is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    pub image: TowerConfig,
    pub text: TextConfig,
    pub embed: usize,
    /// SigLIP's loss in place of CLIP's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sigmoid: bool,
}

/// Inputs that tell of the whole batch: what is compared of all pairs `[all, 2 embed]`, the logarithms of their sums `[2, all]` and the
/// places of a micro-batch's own pairs `[batch]`; see [`Everyone`].
pub const EVERYONE: &str = "everyone";
pub const LOG_SUMS: &str = "log_sums";
pub const OWN: &str = "own";

/// The parameter that cosines are multiplied by, as its logarithm; and what SigLIP adds to them.
pub const TEMPERATURE: &str = "temperature";
const BIAS: &str = "bias";
/// Where they start, and the most that cosines are multiplied by: arXiv:2103.00020, section 2.5, and arXiv:2303.15343, section 3.2.
const CLIP_START: f32 = 1.0 / 0.07;
const SIGLIP_START: f32 = 10.0;
const BIAS_START: f32 = -10.0;
const MOST: f32 = 100.0;

/// See the head of this file.
pub struct Clip {
    config: ClipConfig,
    params: ParamTable,
    image: Tower,
    text: TextTower,
    ends_block: BlockId,
    image_norm: NormParams,
    image_end: ImageEnd,
    text_head: Linear,
    loss_block: BlockId,
    temperature: ParamId,
    bias: Option<ParamId>,
}

/// How the states of an image's tokens become one row.
enum ImageEnd {
    /// The class token, into the space in which images and texts are compared.
    Class(Linear),
    /// All patches, gathered.
    Gathered(Box<Gathering>),
}

/// Attention of one learnt token to all patches, and a feed-forward layer: arXiv:2106.04560, section 2.1.
struct Gathering {
    probe: ParamId,
    attn: Attention,
    norm: Norm,
    mlp: FeedForward,
}

impl Gathering {
    fn new(table: &mut ParamTable, c: &TowerConfig) -> Self {
        let probe = table.add("pool.probe", &[1, c.width], Init::Normal { std: 0.02 }, ParamKind::Embedding);
        let attn = Attention::new(table, "pool.attn", [c.width; 2], c.width / c.heads, true);
        let norm = Norm::new(table, "pool.norm", c.width, c.eps);
        Self { probe, attn, norm, mlp: FeedForward::new(table, "pool.mlp", [c.width, c.ffn], c.mlp.activation().0, false) }
    }

    /// `x` `[batch, patches, width]` to `[batch, width]`.
    fn run(&self, tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
        let (batch, width) = (x.shape().dims()[0], x.shape().last());
        let probe = pick(tape, &tape.param(self.probe), &[batch, 1], |_| 0)?;
        let gathered = self.attn.run(tape, &probe, Some(x))?.reshape(&[batch, width])?;
        let normed = self.norm.layer(tape, &gathered)?;
        let fed = self.mlp.run(tape, &normed)?;
        tape.add(&gathered, &fed)
    }
}

/// Published models by name.
pub const PRESETS: &[&str] = &["clip-vit-b-32", "clip-vit-b-16", "clip-vit-l-14", "clip-vit-h-14", "siglip-b-16"];

/// arXiv:2103.00020, table 20, with the quick form of GELU of the released weights.
fn preset(name: &str) -> Option<ClipConfig> {
    let image = |patch, layers, width, heads, mlp, eps| TowerConfig {
        mlp,
        eps,
        norm_first: true,
        ..TowerConfig::of([224, patch], layers, width, heads, 4 * width)
    };
    let openai = |patch, layers, width, heads| image(patch, layers, width, heads, Mlp::QuickGelu, 1e-5);
    Some(match name {
        "clip-vit-b-32" => {
            ClipConfig { image: openai(32, 12, 768, 12), text: TextConfig::of(12, 512, 8, Mlp::QuickGelu), embed: 512, sigmoid: false }
        }
        "clip-vit-b-16" => {
            ClipConfig { image: openai(16, 12, 768, 12), text: TextConfig::of(12, 512, 8, Mlp::QuickGelu), embed: 512, sigmoid: false }
        }
        "clip-vit-l-14" => {
            ClipConfig { image: openai(14, 24, 1024, 16), text: TextConfig::of(12, 768, 12, Mlp::QuickGelu), embed: 768, sigmoid: false }
        }
        // mlfoundations/open_clip, model_configs/ViT-H-14.json.
        "clip-vit-h-14" => ClipConfig {
            image: image(14, 32, 1280, 16, Mlp::Gelu, 1e-5),
            text: TextConfig::of(24, 1024, 16, Mlp::Gelu),
            embed: 1024,
            sigmoid: false,
        },
        // arXiv:2303.15343, section 4.1; google/siglip-base-patch16-224 for the sizes of texts.
        "siglip-b-16" => ClipConfig {
            image: TowerConfig { mlp: Mlp::GeluTanh, attention_pool: true, ..TowerConfig::of([224, 16], 12, 768, 12, 3072) },
            text: TextConfig { vocab: 32_000, tokens: 64, eps: 1e-6, both_ways: true, ..TextConfig::of(12, 768, 12, Mlp::GeluTanh) },
            embed: 768,
            sigmoid: true,
        },
        _ => return None,
    })
}

/// The entry of [`crate::KINDS`].
pub(crate) const KIND: Kind = Kind { name: "clip", unit: "pairs", objective: "contrastive", presets: PRESETS, build };

fn build(table: toml::Table) -> Result<Box<dyn Model>, ModelError> {
    Ok(Box::new(Clip::new(crate::of_preset(table, PRESETS, preset)?)?))
}

impl Clip {
    /// Declare the parameters of `config`.
    /// # Errors
    /// When the sizes cannot be.
    pub fn new(config: ClipConfig) -> Result<Self, ModelError> {
        crate::in_range(&[("embed", config.embed, 1 << 16)])?;
        config.image.check()?;
        config.text.check()?;
        if config.image.attention_pool && config.embed != config.image.width {
            let problem = format!(
                "{} is not the {} of the image tower, whose gathered patches are compared as they are",
                config.embed, config.image.width
            );
            return Err(ModelError::key("embed", problem, format!("set `embed = {}`", config.image.width)));
        }
        let mut table = ParamTable::default();
        let image = Tower::new(&mut table, config.image.clone(), "image.")?;
        let text = TextTower::new(&mut table, config.text.clone(), "text.")?;
        let ends_block = table.block("image");
        let image_norm = image.last_norm(&mut table);
        let image_end = if config.image.attention_pool {
            ImageEnd::Gathered(Box::new(Gathering::new(&mut table, &config.image)))
        } else {
            ImageEnd::Class(Linear::new(&mut table, "head", [config.embed, config.image.width], false))
        };
        table.block("text");
        let text_head = Linear::new(&mut table, "head", [config.embed, config.text.width], config.text.both_ways);
        let loss_block = table.block("");
        let start = if config.sigmoid { SIGLIP_START } else { CLIP_START };
        let temperature = table.add(TEMPERATURE, &[1], Init::Constant(start.ln()), ParamKind::Vector);
        table.at_most(temperature, MOST.ln());
        let bias = config.sigmoid.then(|| table.add(BIAS, &[1], Init::Constant(BIAS_START), ParamKind::Vector));
        Ok(Self { params: table, image, text, ends_block, image_norm, image_end, text_head, loss_block, temperature, bias, config })
    }

    /// The images' side of it: `images` `[batch, size, size, 3]` to `[batch, embed]`, of root mean square one.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn of_images<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let images = tape.input(inputs, "images")?;
        let image = self.image.run(tape, &images)?;
        let [image] = tape.block(self.ends_block, [&image], move |tape, [image]| {
            let image = match &self.image_end {
                ImageEnd::Class(head) => {
                    let class = self.image.class(tape, self.image_norm, image)?;
                    head.run(tape, &class)?
                }
                ImageEnd::Gathered(gathering) => {
                    let normed = self.image.normed(tape, self.image_norm, image)?;
                    gathering.run(tape, &normed)?
                }
            };
            Ok([of_length_one(tape, &image)?])
        })?;
        Ok(image)
    }

    /// The texts' side of it: `tokens` `[batch, tokens]` and the places of their `ends` to `[batch, embed]`, of root mean square one.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn of_texts<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let ends = tape.input(inputs, "ends")?;
        let text = self.text.states(tape, inputs)?;
        let [text] = tape.block(BlockId(self.ends_block.0 + 1), [&text, &ends], move |tape, [text, ends]| {
            let text = pick_by(tape, text, ends)?;
            let text = self.text_head.run(tape, &text)?;
            Ok([of_length_one(tape, &text)?])
        })?;
        Ok(text)
    }

    /// The states of the tokens of texts, after the last norm: `tokens` `[batch, tokens]` to `[batch, tokens, width]`.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn text_states<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        self.text.states(tape, inputs)
    }

    /// What is compared, both sides beside one another: `[batch, 2 embed]`, each of root mean square one.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn embeddings<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let (image, text) = (self.of_images(tape, inputs)?, self.of_texts(tape, inputs)?);
        tape.concat(&image, &text)
    }
}

/// Rows over their root mean square.
fn of_length_one(tape: &mut Tape<'_>, x: &Tensor) -> Result<Tensor, EngineError> {
    let width = x.shape().last();
    let ones = tape.constant_of(Shape::new(&[width]), || vec![1.0; width])?;
    tape.rms_norm(x, &ones, 1e-12)
}

impl Model for Clip {
    fn config(&self) -> toml::Table {
        crate::written("clip", &self.config)
    }

    fn params(&self) -> &ParamTable {
        &self.params
    }

    fn trunk<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, _x: Option<Tensor>, blocks: Range<usize>) -> Result<Tensor, EngineError> {
        crate::whole("clip", &self.params, &blocks)?;
        self.embeddings(tape, inputs)
    }

    fn head_loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        let telling = move |tape: &Tape<'m>| (tape.param(self.temperature), self.bias.map(|bias| tape.param(bias)));
        let [loss] = if inputs.has(EVERYONE) {
            let (all, sums, own) = (tape.input(inputs, EVERYONE)?, tape.input(inputs, LOG_SUMS)?, tape.input(inputs, OWN)?);
            tape.kept_block(self.loss_block, [x, &all, &sums, &own], move |tape, [x, pairs, log_sums, own]| {
                let (t, bias) = telling(tape);
                let everyone = Everyone { pairs, log_sums, own };
                Ok([tape.contrastive(x, Telling { t: &t, bias: bias.as_ref() }, Some(everyone), scale)?])
            })?
        } else {
            tape.kept_block(self.loss_block, [x], move |tape, [x]| {
                let (t, bias) = telling(tape);
                Ok([tape.contrastive(x, Telling { t: &t, bias: bias.as_ref() }, None, scale)?])
            })?
        };
        Ok(loss)
    }

    fn between(&self, batch: usize, _length: usize) -> Shape {
        Shape::new(&[batch, 2 * self.config.embed])
    }

    fn made_up(&self, first: usize, batch: usize, length: usize) -> Inputs {
        let tokens = self.config.text.tokens;
        let ends = (0..batch).map(|n| (n * tokens + tokens - 1) as u32).collect();
        crate::made_up(self.shapes(batch, length), first, |_| self.config.text.vocab).with_u32("ends", &[batch], ends)
    }

    /// `ends`: of each text its last token's place among all of its micro-batch.
    fn shapes(&self, batch: usize, _length: usize) -> Inputs {
        self.text.tokens(self.image.images(Inputs::new(), batch), batch).with_u32("ends", &[batch], Vec::new())
    }

    fn is_whole(&self) -> bool {
        true
    }
}
