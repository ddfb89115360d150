//! A decoder's sizes and choices: as written in a recipe ([`DecoderOptions`]), and complete ([`DecoderConfig`]).
//!
//! One dial first: `preset = "gpt2-124m"` or `depth = 6` sets everything, any other key then overrides.

use serde::{Deserialize, Serialize};

use crate::ModelError;

/// What normalises the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    LayerNorm,
    RmsNorm,
}

/// How a token knows its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    Learned,
    Rope,
    Alibi,
}

/// The middle of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mlp {
    Gelu,
    GeluTanh,
    QuickGelu,
    Relu2,
    Swiglu,
}

/// Every choice made. Axes as in `engine::shape`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    pub vocab: usize,
    pub context: usize,
    pub layers: usize,
    pub model: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    pub norm: Norm,
    /// Whether a LayerNorm has a bias.
    pub norm_bias: bool,
    pub eps: f32,
    pub position: Position,
    /// Base of the rotary angles.
    pub theta: f32,
    pub mlp: Mlp,
    /// Attention and feed-forward read the same residual and are added together (GPT-J, Falcon).
    pub parallel_block: bool,
    /// In a parallel block: one norm for both parts (Falcon-7B) instead of one each (Falcon-40B).
    pub shared_norm: bool,
    /// Whether linear layers have biases.
    pub bias: bool,
    /// The output layer is the embedding.
    pub tied: bool,
    /// RMSNorm over each head's queries and keys (arXiv:2302.05442).
    pub qk_norm: bool,
    /// A norm right after the embedding (BLOOM, BloombergGPT).
    pub embed_norm: bool,
    /// Keys seen back from each query; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    pub dropout: f32,
    /// Standard deviation of the starting weights; those that write to the residual are divided by `sqrt(2 layers)`.
    pub init_std: f32,
    /// Weights that write to the residual, and an untied output layer, start at zero (arXiv:2203.03466, appendix D.2).
    pub zero_init: bool,
}

macro_rules! options {
    ($($field:ident: $type:ty),* $(,)?) => {
        /// A decoder as a recipe writes it: a preset or a depth, and whatever is to differ.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct DecoderOptions {
            /// A published model's name, see [`PRESETS`].
            pub preset: Option<String>,
            /// The dial of small ladders: layers, from which all else follows.
            pub depth: Option<usize>,
            $(pub $field: Option<$type>,)*
        }

        impl DecoderOptions {
            fn override_fields(&self, config: &mut DecoderConfig) {
                $(if let Some(value) = &self.$field { config.$field = (*value).into(); })*
            }
        }
    };
}

options! {
    vocab: usize, context: usize, layers: usize, model: usize, heads: usize, kv_heads: usize, head_dim: usize,
    ffn: usize, norm: Norm, norm_bias: bool, eps: f32, position: Position, theta: f32, mlp: Mlp, parallel_block: bool,
    shared_norm: bool, bias: bool, tied: bool, qk_norm: bool, embed_norm: bool, window: usize, dropout: f32,
    init_std: f32, zero_init: bool,
}

impl DecoderOptions {
    /// Fill in every default and check that such a model can be.
    /// # Errors
    /// An unknown preset, no dial at all, or sizes that do not fit one another.
    pub fn resolve(&self) -> Result<DecoderConfig, ModelError> {
        let mut config = match (&self.preset, self.depth) {
            (Some(_), Some(_)) => {
                return Err(ModelError::key("depth", "a preset is chosen already", "keep one of `preset` and `depth`"));
            }
            (Some(name), None) => preset(name)?,
            (None, Some(depth)) => {
                if !(1..=128).contains(&depth) {
                    return Err(ModelError::key("depth", format!("{depth} is not in 1..=128"), "try `depth = 4`"));
                }
                of_depth(depth)
            }
            (None, None) => {
                let (Some(layers), Some(model), Some(heads)) = (self.layers, self.model, self.heads) else {
                    let help = "write `depth = 4`, or `preset = \"gpt2-124m\"`, or all of `layers`, `model` and `heads`";
                    return Err(ModelError::key("depth", "nothing says how large the model is", help));
                };
                DecoderConfig { layers, model, heads, kv_heads: heads, ..of_depth(1) }
            }
        };
        let (model, heads, mlp) = (config.model, config.heads, config.mlp);
        self.override_fields(&mut config);
        // Sizes that follow from others, unless written.
        if self.kv_heads.is_none() && (self.heads.is_some() && config.heads != heads || config.kv_heads > config.heads) {
            config.kv_heads = config.heads;
        }
        let resized = config.model != model || config.heads != heads || self.preset.is_none() && self.depth.is_none();
        if self.head_dim.is_none() && resized && config.heads > 0 {
            if !config.model.is_multiple_of(config.heads) {
                let problem = format!("{} heads do not divide model = {}", config.heads, config.model);
                return Err(ModelError::key("heads", problem, "choose `heads` that divides `model`, or write `head_dim`"));
            }
            config.head_dim = config.model / config.heads;
        }
        if self.ffn.is_none() && (resized || config.mlp != mlp) {
            config.ffn = ffn_of(config.model, config.mlp);
        }
        config.check()?;
        Ok(config)
    }
}

impl DecoderConfig {
    /// Layers of an encoder: LayerNorm before each part, biases everywhere, and no place told inside.
    /// # Errors
    /// When heads do not divide the width.
    pub(crate) fn encoder(layers: usize, model: usize, heads: usize, ffn: usize, mlp: Mlp, eps: f32) -> Result<Self, ModelError> {
        if heads == 0 || !model.is_multiple_of(heads) {
            return Err(ModelError::key("heads", format!("{heads} heads do not divide {model}"), "choose `heads` that divides `width`"));
        }
        Ok(Self { ffn, mlp, eps, ..gpt(layers, model, heads, 1) })
    }

    /// That sizes are above zero, go into one another and stay within what can be addressed.
    /// # Errors
    /// Names the first key that does not fit.
    pub fn check(&self) -> Result<(), ModelError> {
        let sizes = [
            ("vocab", self.vocab, 1 << 24),
            ("context", self.context, 1 << 24),
            ("layers", self.layers, 1 << 12),
            ("model", self.model, 1 << 20),
            ("heads", self.heads, 1 << 12),
            ("kv_heads", self.kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("ffn", self.ffn, 1 << 22),
            ("window", self.window.unwrap_or(1), 1 << 24),
        ];
        crate::in_range(&sizes)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            let problem = format!("{} key and value heads do not divide {} heads", self.kv_heads, self.heads);
            return Err(ModelError::key("kv_heads", problem, "choose `kv_heads` that divides `heads`"));
        }
        if self.position == Position::Rope && !self.head_dim.is_multiple_of(2) {
            let problem = format!("{} is odd, and rotary positions turn pairs", self.head_dim);
            return Err(ModelError::key("head_dim", problem, "choose an even `head_dim`, or `position = \"learned\"`"));
        }
        if self.shared_norm && !self.parallel_block {
            let help = "set `parallel_block = true`, or leave `shared_norm` out";
            return Err(ModelError::key("shared_norm", "only a parallel block can share its norm", help));
        }
        let positive = [("eps", self.eps), ("theta", self.theta), ("init_std", self.init_std)];
        for (key, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return Err(ModelError::key(key, format!("{value} is not above zero"), format!("leave `{key}` out for the default")));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ModelError::key("dropout", format!("{} is not in 0..1", self.dropout), "use 0 or, say, 0.1"));
        }
        Ok(())
    }
}

/// Width of the feed-forward part: four times the model's, or two thirds of that for three matrices instead of two.
fn ffn_of(model: usize, mlp: Mlp) -> usize {
    if mlp == Mlp::Swiglu { (8 * model / 3).next_multiple_of(32) } else { 4 * model }
}

/// Small models along one dial: width 64 a layer, heads of 64, Llama's choices, and what docs/LOG.md shows to help.
fn of_depth(depth: usize) -> DecoderConfig {
    let model = 64 * depth;
    DecoderConfig {
        vocab: 4096,
        context: 256,
        layers: depth,
        model,
        heads: depth,
        kv_heads: depth,
        head_dim: 64,
        ffn: ffn_of(model, Mlp::Swiglu),
        norm: Norm::RmsNorm,
        norm_bias: false,
        eps: 1e-5,
        position: Position::Rope,
        theta: 10_000.0,
        mlp: Mlp::Swiglu,
        parallel_block: false,
        shared_norm: false,
        bias: false,
        tied: false,
        qk_norm: false,
        embed_norm: true,
        window: None,
        dropout: 0.0,
        init_std: 1.0 / (model as f32).sqrt(),
        zero_init: true,
    }
}

/// Names of published models, each with a source: sizes follow from it.
pub const PRESETS: &[&str] = &[
    "gpt2-124m",
    "gpt2-355m",
    "gpt2-774m",
    "gpt2-1.5b",
    "gpt3-175b",
    "llama-7b",
    "llama-13b",
    "llama-33b",
    "llama-65b",
    "llama3-8b",
    "falcon-40b",
    "bloomberggpt-50b",
];

fn preset(name: &str) -> Result<DecoderConfig, ModelError> {
    Ok(match name {
        // Radford et al. 2019, table 2, with the sizes of the released weights.
        "gpt2-124m" => gpt(12, 768, 12, 1024),
        "gpt2-355m" => gpt(24, 1024, 16, 1024),
        "gpt2-774m" => gpt(36, 1280, 20, 1024),
        "gpt2-1.5b" => gpt(48, 1600, 25, 1024),
        // arXiv:2005.14165, table 2.1.
        "gpt3-175b" => gpt(96, 12_288, 96, 2048),
        // arXiv:2302.13971, table 2.
        "llama-7b" => llama(32, 4096, 32, 11_008),
        "llama-13b" => llama(40, 5120, 40, 13_824),
        "llama-33b" => llama(60, 6656, 52, 17_920),
        "llama-65b" => llama(80, 8192, 64, 22_016),
        // arXiv:2407.21783, table 3.
        "llama3-8b" => {
            DecoderConfig { vocab: 128_256, context: 8192, kv_heads: 8, theta: 500_000.0, eps: 1e-5, ..llama(32, 4096, 32, 14_336) }
        }
        // arXiv:2311.16867 and the model card.
        "falcon-40b" => DecoderConfig {
            vocab: 65_024,
            kv_heads: 8,
            head_dim: 64,
            norm: Norm::LayerNorm,
            norm_bias: true,
            mlp: Mlp::Gelu,
            position: Position::Rope,
            parallel_block: true,
            tied: true,
            eps: 1e-5,
            ..llama(60, 8192, 128, 4 * 8192)
        },
        // arXiv:2303.17564, section 3.1: BLOOM's architecture, ALiBi, a norm after the embedding.
        "bloomberggpt-50b" => DecoderConfig { vocab: 131_072, position: Position::Alibi, embed_norm: true, ..gpt(70, 7680, 40, 2048) },
        _ => {
            let help = format!("use one of {}", PRESETS.join(", "));
            return Err(ModelError::key("preset", format!("there is no preset `{name}`"), help));
        }
    })
}

fn gpt(layers: usize, model: usize, heads: usize, context: usize) -> DecoderConfig {
    DecoderConfig {
        vocab: 50_257,
        context,
        layers,
        model,
        heads,
        kv_heads: heads,
        head_dim: model / heads,
        ffn: 4 * model,
        norm: Norm::LayerNorm,
        norm_bias: true,
        eps: 1e-5,
        position: Position::Learned,
        mlp: Mlp::GeluTanh,
        bias: true,
        tied: true,
        embed_norm: false,
        init_std: 0.02,
        zero_init: false,
        ..of_depth(1)
    }
}

fn llama(layers: usize, model: usize, heads: usize, ffn: usize) -> DecoderConfig {
    DecoderConfig {
        vocab: 32_000,
        context: 2048,
        layers,
        model,
        heads,
        kv_heads: heads,
        head_dim: model / heads,
        ffn,
        eps: 1e-6,
        embed_norm: false,
        init_std: 0.02,
        zero_init: false,
        ..of_depth(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<DecoderConfig, String> {
        let options: DecoderOptions = toml::from_str(text).map_err(|e| e.to_string())?;
        options.resolve().map_err(|e| e.to_string())
    }

    #[test]
    fn one_dial_sets_all_and_anything_can_differ() {
        let config = resolve("depth = 6\ncontext = 128").unwrap();
        assert_eq!((config.layers, config.model, config.heads, config.head_dim, config.context), (6, 384, 6, 64, 128));
        let wider = resolve("preset = \"gpt2-124m\"\nmodel = 1536").unwrap();
        assert_eq!((wider.head_dim, wider.ffn), (128, 6144));
    }

    #[test]
    fn sizes_that_cannot_be_are_named() {
        for (text, key) in [
            ("", "model.depth"),
            ("depth = 0", "model.depth"),
            ("depth = 4\nheads = 3", "model.heads"),
            ("depth = 4\nkv_heads = 3", "model.kv_heads"),
            ("depth = 4\nhead_dim = 7", "model.head_dim"),
            ("depth = 4\nvocab = 0", "model.vocab"),
            ("depth = 4\nmodel = 99999999999", "model.heads"),
            ("depth = 4\ndropout = 1.0", "model.dropout"),
            ("preset = \"gpt5\"", "model.preset"),
            ("depth = 4\nshared_norm = true", "model.shared_norm"),
        ] {
            let error = resolve(text).unwrap_err();
            assert!(error.starts_with(key), "{text:?}: {error}");
        }
    }
}
