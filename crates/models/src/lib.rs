//! Models: what is computed, written once over [`Tape`], for training on `Cpu` and for planning on `Meta`.
//!
//! A model declares its parameters ([`Model::params`]) and runs ([`Model::loss`]). To add one: a file with a type that
//! implements [`Model`], and its [`Kind`] in [`KINDS`], or from a crate above `KINDS.add`.
//!
//! **Invariant:** a model names no rank and no machine. **Absent on purpose:** optimisers, data, time.

pub mod autoencoder;
pub mod clip;
pub mod decoder;
pub mod dit;
pub mod encoders;
mod nearest;
mod parts;
pub mod reference;
pub mod tower;
pub mod unet;
pub mod vit;
pub mod vit_mae;

use std::{ops::Range, sync::Arc};

use engine::{
    Array, EngineError, Inputs, ParamTable, Shape, Tape, Tensor,
    ops::{Advance, KvCache},
};
pub use nearest::nearest;
pub use parts::fixed_positions;
use registry::{Named, Registry};

/// Something that can be trained.
pub trait Model: Send + Sync {
    /// Every size written out, as a recipe's `[model]` table that builds this model again.
    fn config(&self) -> toml::Table;

    fn params(&self) -> &ParamTable;

    /// Run those of `blocks` (places in the table's list) that come before the last, from what the block before the first
    /// gave: a stage of a pipeline, or the whole trunk.
    /// # Errors
    /// When an input is missing or of another shape, or memory is short.
    fn trunk<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: Option<Tensor>, blocks: Range<usize>) -> Result<Tensor, EngineError>;

    /// The last block: the loss of one micro-batch times `scale`, one number, whose gradient must be one.
    /// # Errors
    /// As [`Model::trunk`].
    fn head_loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor, scale: f32) -> Result<Tensor, EngineError>;

    /// Trunk and head in one.
    /// # Errors
    /// As [`Model::trunk`].
    fn loss<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, scale: f32) -> Result<Tensor, EngineError> {
        tape.scale_losses(scale);
        let x = self.trunk(tape, inputs, None, 0..self.params().blocks().len())?;
        self.head_loss(tape, inputs, &x, scale)
    }

    /// The shape of what passes between two blocks, for `batch` samples of `length`.
    fn between(&self, batch: usize, length: usize) -> Shape;

    /// Inputs of the right shapes for `batch` samples of `length`, without data: what `Meta` is fed.
    fn shapes(&self, batch: usize, length: usize) -> Inputs;

    /// Samples `first..first + batch` of `length` with made-up numbers, to measure with.
    fn made_up(&self, first: usize, batch: usize, length: usize) -> Inputs;

    /// Models that run before each step and are not trained; what they gave are inputs of this one.
    fn encoders(&self) -> &[encoders::Encoder] {
        &[]
    }

    /// Whether it runs in one piece: neither its blocks, nor its matrices, nor its samples are cut among ranks.
    fn is_whole(&self) -> bool {
        false
    }

    /// The same model as one of text, if it is.
    fn language(&self) -> Option<&dyn LanguageModel> {
        None
    }
}

/// A model of text: it can be asked for the probability of tokens.
pub trait LanguageModel: Model {
    fn vocab(&self) -> usize;

    /// The longest sequence that it can read.
    fn context(&self) -> usize;

    /// The last block: `-ln p` of each of `targets` `[batch, seq]`, in their shape.
    /// # Errors
    /// As [`Model::trunk`].
    fn head_nll<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor) -> Result<Tensor, EngineError>;

    /// Trunk and head in one: `tokens` and `targets` `[batch, seq]` to `[batch, seq]`.
    /// # Errors
    /// As [`Model::trunk`].
    fn token_nll<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
        let x = self.trunk(tape, inputs, None, 0..self.params().blocks().len())?;
        self.head_nll(tape, inputs, &x)
    }

    /// What it ends in.
    fn head(&self) -> decoder::Head {
        decoder::Head::Tokens
    }

    /// The last block, of a model with a scalar head: a number at each token, `[batch, seq]`.
    /// # Errors
    /// As [`Model::trunk`]; when it has no such head.
    fn head_scalars<'m>(&'m self, tape: &mut Tape<'m>, x: &Tensor) -> Result<Tensor, EngineError>;

    /// The last block, of a model with both heads: [`LanguageModel::head_nll`] and [`LanguageModel::head_scalars`] in one.
    /// # Errors
    /// As [`Model::trunk`]; when it has not both.
    fn head_nll_and_scalars<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, x: &Tensor) -> Result<[Tensor; 2], EngineError>;

    /// Logits `[batch, seq, vocab]` of the token after each of `tokens` `[batch, seq]`.
    /// # Errors
    /// As [`Model::trunk`].
    fn logits<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError>;

    /// Logits `[1, sequences, vocab]` of the token after the last of each sequence, whose new `tokens` stand end to end in `[1, tokens]`, as
    /// `advance` says, and follow those that its cache holds.
    /// # Errors
    /// As [`Model::trunk`].
    fn next_logits<'m>(&'m self, tape: &mut Tape<'m>, inputs: &Inputs, advance: &Advance) -> Result<Tensor, EngineError>;

    /// An empty cache for sequences that are written by [`LanguageModel::next_logits`].
    fn cache(&self) -> Arc<KvCache>;

    /// The decoder behind it, for export to formats that name its parts.
    fn decoder(&self) -> Option<&decoder::DecoderConfig> {
        None
    }
}

/// A kind of model, as `kind = "NAME"` of a recipe's `[model]` table asks for it.
pub struct Kind {
    pub name: &'static str,
    /// What its samples are counted in: `tokens` of text, or whole `images` or `pairs`.
    pub unit: &'static str,
    /// The objective that it is trained by where a recipe names none.
    pub objective: &'static str,
    /// Published models that a recipe can name as its `preset`.
    pub presets: &'static [&'static str],
    pub build: fn(toml::Table) -> Result<Box<dyn Model>, ModelError>,
}

impl Named for Kind {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// Every kind of model.
pub static KINDS: Registry<Kind> =
    Registry::new(&[decoder::KIND, autoencoder::KIND, clip::KIND, dit::KIND, unet::KIND, vit::KIND, vit_mae::KIND]);

/// How a model of one kind begins with the weights of another.
pub struct Beginning {
    pub kind: &'static str,
    pub from: &'static str,
    /// Tables of `[model]` that both have, and have to have alike.
    pub shared: &'static [&'static str],
    /// What the names of arrays begin with that are left out.
    pub left_out: &'static [&'static str],
    /// Arrays that begin anew.
    pub anew: &'static [&'static str],
    /// Arrays that follow from the other's `[model]` table, written out.
    pub made: fn(&toml::Table) -> Result<Vec<(&'static str, Vec<f32>)>, ModelError>,
}

/// Every such way.
pub const BEGINNINGS: &[Beginning] = &[vit_mae::AS_CLASSIFIER];

/// That of two `[model]` tables, if there is one.
#[must_use]
pub fn beginning(ours: &toml::Table, theirs: &toml::Table) -> Option<&'static Beginning> {
    let (ours, theirs) = (kind(ours).name, kind(theirs).name);
    BEGINNINGS.iter().find(|beginning| beginning.kind == ours && beginning.from == theirs)
}

/// Published models that a recipe can name: the kind of each, and its `preset`.
pub fn presets() -> impl Iterator<Item = (&'static str, &'static str)> {
    KINDS.all().into_iter().flat_map(|kind| kind.presets.iter().map(move |name| (kind.name, *name)))
}

/// The kind that a recipe's `[model]` table names; a decoder where it names none, or none that there is.
#[must_use]
pub fn kind(table: &toml::Table) -> &'static Kind {
    let name = table.get("kind").and_then(toml::Value::as_str).unwrap_or(decoder::KIND.name);
    KINDS.find(name).unwrap_or(&decoder::KIND)
}

/// What the samples of a recipe's `[model]` table are counted in.
#[must_use]
pub fn unit(table: &toml::Table) -> &'static str {
    kind(table).unit
}

/// Build a model from a recipe's `[model]` table: its `kind` (default `decoder`) and that kind's options.
/// # Errors
/// An unknown kind or key, or sizes that cannot be.
pub fn build(table: &toml::Table) -> Result<Box<dyn Model>, ModelError> {
    let mut table = table.clone();
    let kind = match table.remove("kind") {
        None => "decoder".to_owned(),
        Some(toml::Value::String(kind)) => kind,
        Some(other) => return Err(ModelError::key("kind", format!("{other} is not a string"), "write `kind = \"decoder\"`")),
    };
    match KINDS.find(&kind) {
        Some(kind) => (kind.build)(table),
        None => {
            let known = KINDS.names().join("`, `");
            Err(ModelError::key("kind", format!("there is no model kind `{kind}`"), format!("use one of `{known}`")))
        }
    }
}

/// What [`Model::config`] gives, as the config of that kind.
/// # Errors
/// [`ModelError::Table`] when it is of another kind.
pub fn typed<T: serde::de::DeserializeOwned>(config: &toml::Table) -> Result<T, ModelError> {
    let mut table = config.clone();
    table.remove("kind");
    table.try_into().map_err(|e: toml::de::Error| ModelError::Table(e.message().to_owned()))
}

/// The sizes of the table's `preset`, and over them whatever else it says; without a preset it has to say all.
fn of_preset<C: serde::Serialize + serde::de::DeserializeOwned>(
    mut table: toml::Table,
    names: &[&'static str],
    preset: impl Fn(&str) -> Option<C>,
) -> Result<C, ModelError> {
    let wrong = |e: String| ModelError::Table(e.trim().to_owned());
    let mut all = match table.remove("preset") {
        None => toml::Table::new(),
        Some(toml::Value::String(name)) => {
            let unknown = || ModelError::key("preset", format!("there is no preset `{name}` of this kind"), nearest::instead(&name, names));
            toml::Table::try_from(preset(&name).ok_or_else(unknown)?).map_err(|e| wrong(e.to_string()))?
        }
        Some(other) => {
            return Err(ModelError::key("preset", format!("{other} is not a string"), format!("use one of `{}`", names.join("`, `"))));
        }
    };
    lay_over(&mut all, &table);
    all.try_into().map_err(|e: toml::de::Error| wrong(e.message().to_owned()))
}

/// Put `over` on `table`, table by table.
pub fn lay_over(table: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (table.get_mut(key).and_then(toml::Value::as_table_mut), value.as_table()) {
            (Some(below), Some(over)) => lay_over(below, over),
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

/// `inputs`, the numbers of samples `first..` made up: in -1..1, or below what `choices` says of an input.
fn made_up(inputs: Inputs, first: usize, choices: impl Fn(&str) -> usize) -> Inputs {
    inputs.named(|name, array| {
        let (shape, seed) = (array.shape(), engine::key(1, name));
        let each = shape.elements() / shape.dims()[0].max(1);
        let drawn = (0..shape.elements()).map(|i| engine::mix(seed ^ engine::mix((first * each + i) as u64)));
        match array {
            Array::U32(..) => Array::U32(shape, drawn.map(|z| (z % choices(name) as u64) as u32).collect()),
            Array::F32(..) => Array::F32(shape, drawn.map(|z| (z >> 40) as f32 / (1_u64 << 23) as f32 - 1.0).collect()),
        }
    })
}

/// A `[model]` table that builds the same again.
fn written(kind: &str, config: &impl serde::Serialize) -> toml::Table {
    let mut table = toml::Table::try_from(config).unwrap_or_default();
    table.insert("kind".into(), kind.into());
    table
}

/// Refuse a part of the blocks of a model that runs in one piece.
fn whole(kind: &'static str, params: &ParamTable, blocks: &Range<usize>) -> Result<(), engine::ShapeError> {
    if *blocks == (0..params.blocks().len()) {
        return Ok(());
    }
    Err(engine::ShapeError::new(kind, "it runs in one piece: use `parallel.mesh.pipeline = 1`"))
}

/// That each size is from 1 to its most.
fn in_range(sizes: &[(&str, usize, usize)]) -> Result<(), ModelError> {
    match sizes.iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
        Some((key, size, most)) => {
            Err(ModelError::key(key, format!("{size} is not in 1..={most}"), format!("set `{key}` to a size in that range")))
        }
        None => Ok(()),
    }
}

/// A model that cannot be.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ModelError {
    #[error("model.{key}: {problem}")]
    #[diagnostic(code(models::key), help("{help}"))]
    Key { key: String, problem: String, help: String },

    #[error("model: {0}")]
    #[diagnostic(code(models::table), help("`hairpin recipe model` lists every key of it"))]
    Table(String),
}

impl ModelError {
    pub(crate) fn key(key: &str, problem: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Key { key: key.to_owned(), problem: problem.into(), help: help.into() }
    }
}
