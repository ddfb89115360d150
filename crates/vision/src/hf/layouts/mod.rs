//! Layouts of Hugging Face folders of models of images, one file each: how a `config.json` of that class is read and written, and what its
//! tensors are called. To add one: a file with its [`Layout`], and its line in [`ALL`].
//!
//! What is absent from a `config.json` has the default of its class in transformers 5.24 or diffusers 0.42.

mod autoencoder;
mod clip;
mod dit;
mod siglip;
mod unet;
mod vit;
mod vit_mae;

use models::{
    clip::{ClipConfig, TextConfig},
    decoder::Mlp,
    tower::TowerConfig,
    typed,
};
use serde_json::{Map, Value, json};
use train::{
    TrainError,
    hf::{Keys, STEMS, of_all_layouts},
};

use super::refuse;

/// Those that are known.
pub(super) const ALL: &[Layout] =
    &[vit::LAYOUT, vit_mae::LAYOUT, clip::LAYOUT, siglip::LAYOUT, dit::LAYOUT, unet::LAYOUT, autoencoder::LAYOUT];

/// One class of models.
pub(super) struct Layout {
    /// The kind of model that it holds here.
    pub kind: &'static str,
    /// Which models of that kind it holds, where several layouts do.
    pub holds: fn(&toml::Table) -> bool,
    /// How its config names it.
    pub class: Class,
    /// A `[model]` table, refusing values that are not computed here.
    pub read: fn(&Keys<'_>) -> Result<toml::Table, TrainError>,
    /// The keys that `read` takes, of a table and the names of its classes.
    pub write: fn(&toml::Table, &[String]) -> Result<Value, TrainError>,
    pub parts: fn(&toml::Table) -> Result<Vec<Part>, TrainError>,
    /// Tensors of theirs that follow from the table.
    pub fixed: fn(&toml::Table) -> Result<Vec<Fixed>, TrainError>,
    /// Side of the images that it reads and what makes them of files; none where it reads no images.
    pub processor: Option<(&'static str, fn(&toml::Table) -> Result<usize, TrainError>)>,
}

/// By which key a config names its class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Class {
    /// `model_type` and one of `architectures`.
    Transformers(&'static str, &'static str),
    /// `_class_name`.
    Diffusers(&'static str),
}

/// Name, shape and numbers.
pub(super) type Fixed = (String, Vec<usize>, Vec<f32>);

/// One tensor of theirs.
pub(super) struct Part {
    /// What it is here: one array, or several of one shape that lie one after the other in it.
    pub ours: Vec<String>,
    pub theirs: String,
    pub dims: Vec<usize>,
    pub view: View,
}

/// How the numbers of one lie in the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum View {
    /// In the same order.
    Same,
    /// The same; older versions write such a matrix as a window of one pixel.
    Pixel,
    /// A window: theirs `[out, channels, line, column]`, ours `[out, line, column, channels]`.
    Window,
}

impl View {
    /// Ours to theirs.
    pub fn out(self, ours: &[f32], dims: &[usize]) -> Vec<f32> {
        if self == Self::Window { moved(ours, dims, true) } else { ours.to_vec() }
    }

    /// Theirs to ours.
    pub fn back(self, theirs: &[f32], dims: &[usize]) -> Vec<f32> {
        if self == Self::Window { moved(theirs, dims, false) } else { theirs.to_vec() }
    }
}

fn moved(from: &[f32], dims: &[usize], is_out: bool) -> Vec<f32> {
    let [_, channels, lines, columns] = dims[..] else { return from.to_vec() };
    let each = channels * lines * columns;
    let mut to = vec![0.0; from.len()];
    for (from, to) in from.chunks_exact(each).zip(to.chunks_exact_mut(each)) {
        for channel in 0..channels {
            for place in 0..lines * columns {
                let (theirs, ours) = (channel * lines * columns + place, place * channels + channel);
                if is_out { to[theirs] = from[ours] } else { to[ours] = from[theirs] }
            }
        }
    }
    to
}

impl Layout {
    /// That of a `config.json`.
    /// # Errors
    /// When it is of another class.
    pub fn of_json(json: &Value) -> Result<&'static Self, TrainError> {
        let name = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default();
        let (kind, class) = (name("model_type"), name("_class_name"));
        let is_it = |layout: &&Self| match layout.class {
            Class::Transformers(own, _) => own == kind,
            Class::Diffusers(own) => own == class,
        };
        let problem = || if class.is_empty() { format!("`model_type` is `{kind}`") } else { format!("`_class_name` is `{class}`") };
        ALL.iter().find(is_it).ok_or_else(|| refuse("config.json", problem()))
    }

    /// That of a model.
    /// # Errors
    /// When none holds it.
    pub fn of_table(table: &toml::Table) -> Result<&'static Self, TrainError> {
        let kind = models::kind(table).name;
        let unknown = || refuse("model.kind", format!("no layout holds a model of kind `{kind}`"));
        ALL.iter().find(|layout| layout.kind == kind && (layout.holds)(table)).ok_or_else(unknown)
    }

    /// The `[model]` table of a config, and the names of its classes.
    /// # Errors
    /// Names a key that is unknown or of a value that is not computed here.
    pub fn read_config(&self, json: &Value) -> Result<(toml::Table, Vec<String>), TrainError> {
        let keys = Keys::new(json)?;
        of_all_layouts(&keys)?;
        keys.harmless(HARMLESS);
        let table = (self.read)(&keys)?;
        keys.finish()?;
        let labels = json.get("id2label").and_then(Value::as_object).filter(|_| self.kind == "vit");
        let name = |labels: &Map<String, Value>, i: usize| labels.get(&i.to_string()).and_then(Value::as_str).map(str::to_owned);
        let classes = labels.map_or(Vec::new(), |labels| (0..labels.len()).filter_map(|i| name(labels, i)).collect());
        Ok((table, classes))
    }

    /// The whole `config.json` of such a model.
    /// # Errors
    /// When the class cannot hold it.
    pub fn config(&self, table: &toml::Table, classes: &[String]) -> Result<Value, TrainError> {
        let mut json = (self.write)(table, classes)?;
        match self.class {
            Class::Transformers(kind, architecture) => {
                (json["model_type"], json["architectures"]) = (json!(kind), json!([architecture]));
            }
            Class::Diffusers(class) => (json["_class_name"], json["_diffusers_version"]) = (json!(class), json!("0.42.1")),
        }
        Ok(json)
    }

    /// What its files of weights begin with.
    pub fn stem(&self) -> &'static str {
        STEMS[usize::from(matches!(self.class, Class::Diffusers(_)))]
    }
}

/// Keys that change nothing in a layout of images: how weights began, dropout of training, notes.
const HARMLESS: &[&str] = &[
    "_class_name",
    "_diffusers_version",
    "cross_attention_hidden_size",
    "dropout",
    "attention_probs_dropout_prob",
    "hidden_dropout_prob",
    "encoder_stride",
    "initializer_factor",
    "initializer_range",
    "logit_scale_init_value",
    "pooler_act",
    "pooler_output_size",
    "text_config_dict",
    "tie_word_embeddings",
    "vision_config_dict",
];

/// The name that other versions of transformers or diffusers have for a tensor.
pub(super) fn other_name(name: &str) -> String {
    const OTHERS: [(&str, &str); 5] = [
        ("decoder.decoder_layers.", "decoder.decoder_encoder.layer."),
        ("mid_block.attentions.0.to_q.", "mid_block.attentions.0.query."),
        ("mid_block.attentions.0.to_k.", "mid_block.attentions.0.key."),
        ("mid_block.attentions.0.to_v.", "mid_block.attentions.0.value."),
        ("mid_block.attentions.0.to_out.0.", "mid_block.attentions.0.proj_attn."),
    ];
    OTHERS.iter().fold(name.to_owned(), |name, (now, before)| name.replace(now, before))
}

/// A `[model]` table that builds such a config.
fn written(kind: &str, config: &impl serde::Serialize) -> toml::Table {
    let mut table = toml::Table::try_from(config).unwrap_or_default();
    table.insert("kind".into(), kind.into());
    table
}

/// Every model of its kind.
fn holds_all(_table: &toml::Table) -> bool {
    true
}

/// Whether a CLIP's images are gathered by attention, as SigLIP's are.
fn is_siglip(table: &toml::Table) -> bool {
    typed::<ClipConfig>(table).is_ok_and(|config| config.image.attention_pool)
}

/// Nothing that follows from the table.
fn no_fixed(_table: &toml::Table) -> Result<Vec<Fixed>, TrainError> {
    Ok(Vec::new())
}

/// As people write it: an f32 has more digits than it was given.
fn short(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

fn with(mut value: Value, more: Value) -> Value {
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

fn mlp(keys: &Keys<'_>, default: &'static str) -> Result<Mlp, TrainError> {
    match keys.text("hidden_act", default)? {
        "gelu" => Ok(Mlp::Gelu),
        "quick_gelu" => Ok(Mlp::QuickGelu),
        "gelu_pytorch_tanh" => Ok(Mlp::GeluTanh),
        other => Err(refuse("config.json", format!("`hidden_act` is `{other}`, none of `gelu`, `quick_gelu` and `gelu_pytorch_tanh`"))),
    }
}

fn act(mlp: Mlp) -> Result<&'static str, TrainError> {
    match mlp {
        Mlp::QuickGelu => Ok("quick_gelu"),
        Mlp::Gelu => Ok("gelu"),
        Mlp::GeluTanh => Ok("gelu_pytorch_tanh"),
        _ => Err(refuse("model.tower.mlp", "no layout of images holds another than `gelu`, `quick_gelu` and `gelu_tanh`".into())),
    }
}

/// What absent keys of a tower mean.
struct Usual {
    patch: usize,
    eps: f64,
    act: &'static str,
}

const VIT: Usual = Usual { patch: 16, eps: 1e-12, act: "gelu" };

fn tower(keys: &Keys<'_>, usual: &Usual, norm_first: bool) -> Result<TowerConfig, TrainError> {
    keys.only("num_channels", 3)?;
    Ok(TowerConfig {
        size: keys.whole("image_size", 224)?,
        patch: keys.whole("patch_size", usual.patch)?,
        layers: keys.whole("num_hidden_layers", 12)?,
        width: keys.whole("hidden_size", 768)?,
        heads: keys.whole("num_attention_heads", 12)?,
        ffn: keys.whole("intermediate_size", 3072)?,
        mlp: mlp(keys, usual.act)?,
        eps: keys.real("layer_norm_eps", usual.eps)? as f32,
        norm_first,
        attention_pool: false,
    })
}

fn tower_keys(t: &TowerConfig) -> Result<Value, TrainError> {
    Ok(json!({
        "hidden_size": t.width, "num_hidden_layers": t.layers, "num_attention_heads": t.heads, "intermediate_size": t.ffn,
        "hidden_act": act(t.mlp)?, "layer_norm_eps": short(t.eps), "image_size": t.size, "patch_size": t.patch, "num_channels": 3,
    }))
}

/// A part of a config that is a config of its own.
fn side<'a>(keys: &Keys<'a>, name: &str) -> Result<Keys<'a>, TrainError> {
    let side = keys.table(name)?.ok_or_else(|| refuse("config.json", format!("`{name}` is missing")))?;
    of_all_layouts(&side)?;
    side.harmless(HARMLESS);
    Ok(side)
}

/// The text side of CLIP and its kin; `usual` says what absent keys mean.
fn text(keys: &Keys<'_>, usual: &TextConfig) -> Result<TextConfig, TrainError> {
    Ok(TextConfig {
        vocab: keys.whole("vocab_size", usual.vocab)?,
        tokens: keys.whole("max_position_embeddings", usual.tokens)?,
        layers: keys.whole("num_hidden_layers", usual.layers)?,
        width: keys.whole("hidden_size", usual.width)?,
        heads: keys.whole("num_attention_heads", usual.heads)?,
        ffn: keys.whole("intermediate_size", usual.ffn)?,
        mlp: mlp(keys, act(usual.mlp)?)?,
        eps: keys.real("layer_norm_eps", short(usual.eps))? as f32,
        both_ways: usual.both_ways,
    })
}

fn text_keys(t: &TextConfig) -> Result<Value, TrainError> {
    Ok(json!({
        "vocab_size": t.vocab, "max_position_embeddings": t.tokens, "num_hidden_layers": t.layers, "hidden_size": t.width,
        "num_attention_heads": t.heads, "intermediate_size": t.ffn, "hidden_act": act(t.mlp)?, "layer_norm_eps": short(t.eps),
    }))
}

/// Collects parts.
struct Parts(Vec<Part>);

impl Parts {
    fn add(&mut self, ours: impl Into<String>, theirs: impl Into<String>, dims: &[usize]) {
        self.view(ours, theirs, dims, View::Same);
    }

    fn view(&mut self, ours: impl Into<String>, theirs: impl Into<String>, dims: &[usize], view: View) {
        self.0.push(Part { ours: vec![ours.into()], theirs: theirs.into(), dims: dims.to_vec(), view });
    }

    fn linear(&mut self, ours: &str, theirs: &str, [out, inner]: [usize; 2]) {
        self.add(format!("{ours}.weight"), format!("{theirs}.weight"), &[out, inner]);
        self.add(format!("{ours}.bias"), format!("{theirs}.bias"), &[out]);
    }

    /// One of theirs that is several of ours, one below the other.
    fn stacked(&mut self, ours: &[String], theirs: &str, [out, inner]: [usize; 2]) {
        for (part, dims) in [("weight", vec![ours.len() * out, inner]), ("bias", vec![ours.len() * out])] {
            self.several(ours.iter().map(|ours| format!("{ours}.{part}")).collect(), &format!("{theirs}.{part}"), &dims);
        }
    }

    /// The same of whole names.
    fn several(&mut self, ours: Vec<String>, theirs: &str, dims: &[usize]) {
        self.0.push(Part { ours, theirs: theirs.to_owned(), dims: dims.to_vec(), view: View::Same });
    }

    fn norm(&mut self, ours: &str, theirs: &str, width: usize) {
        self.add(format!("{ours}.weight"), format!("{theirs}.weight"), &[width]);
        self.add(format!("{ours}.bias"), format!("{theirs}.bias"), &[width]);
    }

    /// The text side up to its head.
    fn text(&mut self, t: &TextConfig) {
        self.add("text.embed", "text_model.embeddings.token_embedding.weight", &[t.vocab, t.width]);
        self.add("text.positions", "text_model.embeddings.position_embedding.weight", &[t.tokens, t.width]);
        self.layers(["text.", "text_model.encoder.layers."], t.layers, [t.width, t.ffn], CLIP_LAYER);
        self.norm("text.norm", "text_model.final_layer_norm", t.width);
    }

    /// A window of `side` pixels.
    fn window(&mut self, ours: &str, theirs: &str, [out, channels, side]: [usize; 3], has_bias: bool) {
        self.view(format!("{ours}.weight"), format!("{theirs}.weight"), &[out, channels, side, side], View::Window);
        if has_bias {
            self.add(format!("{ours}.bias"), format!("{theirs}.bias"), &[out]);
        }
    }

    /// Layers: `names` are theirs of the norms, q, k, v, out, up and down.
    fn layers(&mut self, [ours, theirs]: [&str; 2], layers: usize, [width, ffn]: [usize; 2], names: [&str; 8]) {
        for i in 0..layers {
            let (ours, theirs) = (format!("{ours}layers.{i}."), format!("{theirs}{i}."));
            let [norm1, q, k, v, out, norm2, up, down] = names.map(|name| format!("{theirs}{name}"));
            self.norm(&format!("{ours}attn.norm"), &norm1, width);
            for (part, theirs) in [("q", q), ("k", k), ("v", v), ("out", out)] {
                self.linear(&format!("{ours}attn.{part}"), &theirs, [width; 2]);
            }
            self.norm(&format!("{ours}mlp.norm"), &norm2, width);
            self.linear(&format!("{ours}mlp.up"), &up, [ffn, width]);
            self.linear(&format!("{ours}mlp.down"), &down, [width, ffn]);
        }
    }
}

/// Parts of a layer of transformers' CLIP and SigLIP, as [`Parts::layers`] asks for them.
const CLIP_LAYER: [&str; 8] =
    ["layer_norm1", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2"];

/// Parts of a layer of transformers' ViT, as [`Parts::layers`] asks for them.
const VIT_LAYER: [&str; 8] = [
    "layernorm_before",
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
    "layernorm_after",
    "intermediate.dense",
    "output.dense",
];
