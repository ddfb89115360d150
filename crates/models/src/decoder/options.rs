//! A decoder as it is written in a recipe: one dial first, `preset = "gpt2-124m"` or `depth = 6`, sets everything; any other key then
//! overrides.

use serde::Deserialize;

use super::{
    choices::{Head, Mlp, Norm, NormPlace, Position, RopeScaling, Router},
    config::{DecoderConfig, ffn_of, of_depth},
    presets::preset,
};
use crate::ModelError;

macro_rules! options {
    ($($field:ident: $type:ty),* $(,)?) => {
        /// A decoder as a recipe writes it: a preset or a depth, and whatever is to differ.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct DecoderOptions {
            /// A published model's name, see [`super::PRESETS`].
            pub preset: Option<String>,
            /// The dial of small ladders: layers, from which all else follows.
            pub depth: Option<usize>,
            $(pub $field: Option<$type>,)*
        }

        impl DecoderOptions {
            fn override_fields(&self, config: &mut DecoderConfig) {
                $(if let Some(value) = &self.$field { config.$field = Clone::clone(value).into(); })*
            }
        }
    };
}

options! {
    vocab: usize, context: usize, layers: usize, model: usize, heads: usize, kv_heads: usize, head_dim: usize,
    ffn: usize, norm: Norm, norm_bias: bool, eps: f32, position: Position, theta: f32, rope_scaling: RopeScaling, mlp: Mlp,
    parallel_block: bool, norm_place: NormPlace, qkv_bias: bool, out_bias: bool, mlp_bias: bool, embed_scale: f32, residual_scale: f32,
    attn_scale: f32, attn_softcap: f32, logit_scale: f32, logit_softcap: f32, full_layers: Vec<usize>, window_theta: f32, nope_layers: Vec<usize>,
    router_bias: bool, router_groups: usize, router_top_groups: usize,
    shared_norm: bool, bias: bool, tied: bool, head: Head, qk_norm: bool, qk_norm_joint: bool, embed_norm: bool, window: usize, kv_rank: usize,
    q_rank: usize, rope_dim: usize, value_dim: usize, experts: usize,
    experts_per_token: usize, expert_ffn: usize, shared_experts: usize, dense_layers: usize, router: Router, router_scale: f32,
    balance: f32, dropout: f32, init_std: f32, zero_init: bool,
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
        if config.experts.is_some() {
            config.fill_experts();
        }
        if config.kv_rank.is_some() {
            let rope = *config.rope_dim.get_or_insert(config.head_dim / 3 / 2 * 2);
            config.value_dim.get_or_insert(config.head_dim.saturating_sub(rope));
        }
        config.check()?;
        Ok(config)
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
    fn experts_do_the_work_of_the_part_that_they_replace_unless_written() {
        let dense = resolve("depth = 6").unwrap();
        let mixed = resolve("depth = 6\nexperts = 16\nexperts_per_token = 4\ndense_layers = 1").unwrap();
        let mixture = mixed.mixture(1).unwrap();
        assert_eq!((mixture.per_token * mixture.ffn, mixture.shared_ffn), (dense.ffn, 0));
        assert_eq!((mixed.mixture(0), dense.mixture(1)), (None, None));
    }
}
