//! From a number of parameters to a decoder that has about as many: Llama's choices, its ratio of width to depth, real sizes.

use serde::Serialize;
use train::{
    recipe::Recipe,
    step::{self, StepOptions},
};

use crate::PlanError;

/// A decoder as a recipe's `[model]`, and what it really has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sized {
    pub table: toml::Table,
    pub params: u64,
    pub layers: usize,
    pub width: usize,
}

/// The decoder nearest to `params` parameters with `vocab` tokens and `context`.
/// # Errors
/// What the model's own rules refuse.
///
/// ```
/// // Asked for Llama's sizes it gives Llama's shapes, or their neighbours.
/// for (params, layers, width) in [(6.74e9, 32, 4096), (65.3e9, 80, 8192)] {
///     let it = plan::simulation::family::sized(params, 32_000, 2048)?;
///     assert!((it.params as f64 / params - 1.0).abs() < 0.05, "{it:?}");
///     assert!(it.layers.abs_diff(layers) <= layers / 5 && it.width.abs_diff(width) <= width / 8, "{it:?}");
/// }
/// # Ok::<(), plan::PlanError>(())
/// ```
pub fn sized(params: f64, vocab: usize, context: usize) -> Result<Sized, PlanError> {
    // Widths in steps of 128; for each the depth that fits and that of the family, and how far either is off in size and shape.
    let mut best: Option<(f64, usize, usize)> = None;
    for width in (1..=256).map(|i| 128 * i) {
        let (block, tables) = (12.0 * (width * width) as f64, 2.0 * (vocab * width) as f64);
        for layers in [(params - tables) / block, width as f64 / aspect(width)].map(|layers| layers.round().max(1.0)) {
            let made = layers * block + tables;
            let shape = (width as f64 / layers / aspect(width)).ln().abs();
            let cost = 4.0 * (made / params).ln().abs() + shape;
            if best.is_none_or(|(least, ..)| cost < least) && layers <= 4096.0 {
                best = Some((cost, width, layers as usize));
            }
        }
    }
    let (_, width, layers) = best.unwrap_or((0.0, 128, 1));
    let head = if width < 2048 { 64 } else { 128 };
    let text = format!(
        "layers = {layers}\nmodel = {width}\nheads = {}\nvocab = {vocab}\ncontext = {context}\nmlp = \"swiglu\"\nembed_norm = false\n",
        width / head
    );
    let table: toml::Table = text.parse().unwrap_or_default();
    let params = models::build(&table).map_err(train::TrainError::from)?.params().elements();
    Ok(Sized { table, params, layers, width })
}

/// The smaller relative of `model`, a recipe's `[model]`, that is nearest to `params` parameters that a token reads: a lower `depth` where one is
/// written, and else fewer heads of the same size, with width, depth and feed-forward in proportion. `vocab` is that of the data.
/// # Errors
/// What the model's own rules refuse.
///
/// ```
/// let falcon: toml::Table = "preset = \"falcon-40b\"".parse().unwrap();
/// let small = plan::simulation::family::shrunk(&falcon, 1e9, None)?;
/// assert!((small.params as f64 / 1e9 - 1.0).abs() < 0.2 && small.table["parallel_block"].as_bool() == Some(true));
/// let mixtral: toml::Table = "preset = \"mixtral-8x7b\"".parse().unwrap();
/// let small = plan::simulation::family::shrunk(&mixtral, 1e9, None)?;
/// assert!((small.params as f64 / 1e9 - 1.0).abs() < 0.2 && small.table["experts"].as_integer() == Some(8));
/// let dial: toml::Table = "depth = 8".parse().unwrap();
/// assert_eq!(plan::simulation::family::shrunk(&dial, 1e6, None)?.table.to_string(), "depth = 2\n");
/// # Ok::<(), plan::PlanError>(())
/// ```
pub fn shrunk(model: &toml::Table, params: f64, vocab: Option<usize>) -> Result<Sized, PlanError> {
    let whole = |table: &toml::Table| -> Result<Box<dyn models::Model>, PlanError> {
        let mut table = table.clone();
        if let Some(vocab) = vocab {
            table.entry("vocab").or_insert_with(|| (vocab as i64).into());
        }
        Ok(models::build(&table).map_err(train::TrainError::from)?)
    };
    let config = whole(model)?.config();
    let key = |name: &str| config.get(name).and_then(toml::Value::as_integer).unwrap_or(1).max(1);
    let of_heads = |heads: i64| {
        let part = |name: &str| (key(name) as f64 * heads as f64 / key("heads") as f64).round().max(1.0) as i64;
        let kv_heads = (1..=part("kv_heads")).rev().find(|n| heads % n == 0).unwrap_or(1);
        let mut table = config.clone();
        let ffn = (part("ffn") + 31) / 32 * 32;
        let sizes = [
            ("heads", heads),
            ("kv_heads", kv_heads),
            ("model", heads * key("model") / key("heads")),
            ("layers", part("layers")),
            ("ffn", ffn),
        ];
        table.extend(sizes.map(|(name, size)| (name.to_owned(), size.into())));
        if config.contains_key("experts") {
            let dense = config.get("dense_layers").and_then(toml::Value::as_integer).unwrap_or(0).min(part("layers") - 1);
            table.insert("expert_ffn".into(), ((part("expert_ffn") + 31) / 32 * 32).into());
            table.insert("dense_layers".into(), dense.into());
        }
        table
    };
    let depth = model.get("depth").and_then(toml::Value::as_integer);
    let of_depth = |depth: i64| {
        let mut table = model.clone();
        table.insert("depth".into(), depth.into());
        table
    };
    let mut best: Option<(f64, Sized)> = None;
    for size in 1..=depth.unwrap_or_else(|| key("heads")) {
        let table = if depth.is_some() { of_depth(size) } else { of_heads(size) };
        let made = whole(&table)?;
        let (count, config) = (made.params().active_elements(), made.config());
        let off = (count as f64 / params).ln().abs();
        if best.as_ref().is_some_and(|(least, _)| off > *least) {
            break; // they only grow
        }
        let size = |name: &str| config.get(name).and_then(toml::Value::as_integer).unwrap_or(0) as usize;
        best = Some((off, Sized { table, params: count, layers: size("layers"), width: size("model") }));
    }
    best.map(|(_, sized)| sized).ok_or_else(|| PlanError::Impossible {
        problem: "the model has no heads to take fewer of".into(),
        relax: "give a decoder's recipe".into(),
    })
}

/// Width over depth: 64 in small models, up to 128 from 4,096 on (arXiv:2302.13971, table 2; arXiv:2407.21783, table 3).
fn aspect(width: usize) -> f64 {
    (64.0 * (width as f64 / 768.0).powf(0.4)).clamp(48.0, 128.0)
}

/// FLOPs of a token in training, forward and backward, attention's included: the step itself on `Meta`.
/// # Errors
/// What the step refuses.
pub fn token_flops(sized: &Sized, context: usize) -> Result<f64, PlanError> {
    let batch = format!("[batch]\nsequences = 1\nmicro_batch = 1\ncontext = {context}\n[train]\nrecompute = true\n");
    let text = format!("{batch}[model]\n{}", sized.table);
    let recipe = Recipe::parse(&text, "the planned model", &[])?;
    let model = models::build(&recipe.model).map_err(train::TrainError::from)?;
    let options = StepOptions::of(&recipe);
    Ok(step::cost(&*model, &options, options.mesh.place(0))?.micro_batch_flops as f64 / context as f64)
}
