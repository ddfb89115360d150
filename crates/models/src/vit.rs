//! The vision transformer: patches as tokens, a class token before them, and the class from its state; arXiv:2010.11929.
//!
//! ```text
//! images -> patches -> linear -> class token, positions -> layers -> norm -> class token -> classes
//! ```
//! [`Tower`] is all but the last step: the image side of CLIP is one too.

use std::ops::Range;

use engine::{BlockId, EngineError, Init, Inputs, ParamTable, Shape, Tape, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Model, ModelError,
    decoder::declare::NormParams,
    encoders::{Encoder, EncoderConfig},
    parts::Linear,
    tower::{Tower, TowerConfig},
};

/// A classifier's sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    pub classes: usize,
    pub tower: TowerConfig,
    /// Models that run before it and are not trained: a teacher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encoders: Vec<EncoderConfig>,
}

/// See the head of this file.
pub struct Vit {
    config: VitConfig,
    params: ParamTable,
    tower: Tower,
    head_block: BlockId,
    norm: NormParams,
    head: Linear,
    encoders: Vec<Encoder>,
}

/// Published models by name; a 14 says `g` and `G` of arXiv:2106.04560.
pub const PRESETS: &[&str] = &["vit-s-16", "vit-b-16", "vit-l-16", "vit-h-14", "vit-g-14", "vit-gg-14"];

/// The sizes of arXiv:2010.11929, table 1, and arXiv:2106.04560, table 2; the small one is that of arXiv:2012.12877, table 1.
pub(crate) fn tower(name: &str) -> Option<TowerConfig> {
    Some(match name {
        "vit-s-16" => TowerConfig::of([224, 16], 12, 384, 6, 1536),
        "vit-b-16" => TowerConfig::of([224, 16], 12, 768, 12, 3072),
        "vit-l-16" => TowerConfig::of([224, 16], 24, 1024, 16, 4096),
        "vit-h-14" => TowerConfig::of([224, 14], 32, 1280, 16, 5120),
        "vit-g-14" => TowerConfig::of([224, 14], 40, 1408, 16, 6144),
        "vit-gg-14" => TowerConfig::of([224, 14], 48, 1664, 16, 8192),
        _ => return None,
    })
}

/// The entry of [`crate::KINDS`].
pub(crate) const KIND: Kind = Kind { name: "vit", unit: "images", objective: "classes", presets: PRESETS, build };

fn build(table: toml::Table) -> Result<Box<dyn Model>, ModelError> {
    let preset = |name: &str| tower(name).map(|tower| VitConfig { classes: 1000, tower, encoders: Vec::new() });
    Ok(Box::new(Vit::new(crate::of_preset(table, PRESETS, preset)?)?))
}

impl Vit {
    /// Declare the parameters of `config`.
    /// # Errors
    /// When the sizes cannot be.
    pub fn new(config: VitConfig) -> Result<Self, ModelError> {
        crate::in_range(&[("classes", config.classes, 1 << 24)])?;
        config.tower.check()?;
        config.tower.with_class_token()?;
        let mut table = ParamTable::default();
        let tower = Tower::new(&mut table, config.tower.clone(), "")?;
        let head_block = table.block("");
        let norm = tower.last_norm(&mut table);
        let head = Linear::starting(&mut table, "head", [config.classes, config.tower.width], true, Init::Zeros);
        let encoders = config.encoders.iter().map(|encoder| Encoder::new(encoder, config.tower.size)).collect::<Result<_, _>>()?;
        Ok(Self { params: table, tower, head_block, norm, head, encoders, config })
    }

    /// Scores of each class: `[batch, classes]`.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn scores<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let images = tape.input(inputs, "images")?;
        let x = self.tower.run(tape, &images)?;
        let class = self.tower.class(tape, self.norm, &x)?;
        self.head.run(tape, &class)
    }

    /// The normed states of all tokens of `images` `[batch, size, size, 3]`, the class token first: `[batch, 1 + patches, width]`.
    /// # Errors
    /// As [`Model::trunk`].
    pub fn features<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let images = tape.input(inputs, "images")?;
        let x = self.tower.run(tape, &images)?;
        let [x] = tape.block(self.head_block, [&x], move |tape, [x]| Ok([self.tower.normed(tape, self.norm, x)?]))?;
        Ok(x)
    }
}

impl Model for Vit {
    fn config(&self) -> toml::Table {
        crate::written("vit", &self.config)
    }

    fn params(&self) -> &ParamTable {
        &self.params
    }

    fn trunk<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, _x: Option<Tensor>, blocks: Range<usize>) -> Result<Tensor, EngineError> {
        crate::whole("vit", &self.params, &blocks)?;
        let images = tape.input(inputs, "images")?;
        self.tower.run(tape, &images)
    }

    fn head_loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor, scale: f32) -> Result<Tensor, EngineError> {
        let classes = tape.input(inputs, "classes")?;
        let [loss] = tape.kept_block(self.head_block, [x, &classes], move |tape, [x, classes]| {
            let class = self.tower.class(tape, self.norm, x)?;
            let bias = self.head.bias.map(|bias| tape.param(bias));
            let weight = tape.param(self.head.weight);
            Ok([tape.cross_entropy(&class, &weight, bias.as_ref(), classes, scale, None)?])
        })?;
        Ok(loss)
    }

    fn between(&self, batch: usize, _length: usize) -> Shape {
        Shape::new(&[batch, self.config.tower.patches() + 1, self.config.tower.width])
    }

    fn made_up(&self, first: usize, batch: usize, length: usize) -> Inputs {
        crate::made_up(self.shapes(batch, length), first, |_| self.config.classes)
    }

    fn shapes(&self, batch: usize, _length: usize) -> Inputs {
        self.tower.images(Inputs::new(), batch).with_u32("classes", &[batch], Vec::new())
    }

    fn is_whole(&self) -> bool {
        true
    }

    fn encoders(&self) -> &[Encoder] {
        &self.encoders
    }
}
