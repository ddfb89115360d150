//! Whether a decoder can be: which sizes and choices go together.

use super::config::{DecoderConfig, NormPlace, Position, RopeScaling};
use crate::ModelError;

impl DecoderConfig {
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
        if self.qk_norm_joint && !self.qk_norm {
            return Err(ModelError::key("qk_norm_joint", "there is no norm to join", "set `qk_norm = true` too"));
        }
        self.check_latent()?;
        self.check_experts()?;
        let positive = [("eps", self.eps), ("theta", self.theta), ("init_std", self.init_std)];
        for (key, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return Err(ModelError::key(key, format!("{value} is not above zero"), format!("leave `{key}` out for the default")));
            }
        }
        if self.norm_place != NormPlace::Before && self.parallel_block {
            return Err(ModelError::key("norm_place", "a parallel block has its norm before its parts", "leave one of the two out"));
        }
        self.check_layers()?;
        let scaling = match self.rope_scaling {
            None => [1.0; 2],
            Some(RopeScaling::Linear { factor }) => [factor, 1.0],
            Some(RopeScaling::Llama3 { factor, original_context, low_freq_factor, high_freq_factor }) => {
                [factor.min(high_freq_factor - low_freq_factor), original_context]
            }
            Some(RopeScaling::Yarn { factor, original_context, attention_factor, .. }) => [factor.min(attention_factor), original_context],
        };
        if !scaling.iter().all(|value| *value > 0.0 && value.is_finite()) {
            let problem = "a factor or the original context is not above zero, or the high frequency is not above the low one";
            return Err(ModelError::key("rope_scaling", problem, "leave `rope_scaling` out, or take that of the published model"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ModelError::key("dropout", format!("{} is not in 0..1", self.dropout), "use 0 or, say, 0.1"));
        }
        Ok(())
    }

    /// Of keys that concern some layers, and of scales and caps.
    fn check_layers(&self) -> Result<(), ModelError> {
        let of_window = [("full_layers", self.full_layers.is_some()), ("window_theta", self.window_theta.is_some())];
        if let Some((key, _)) = of_window.iter().find(|(_, is_there)| *is_there && self.window.is_none()) {
            return Err(ModelError::key(key, "there is no window", "set `window` too, or leave it out"));
        }
        let of_rope = [("window_theta", self.window_theta.is_some()), ("nope_layers", self.nope_layers.is_some())];
        if let Some((key, _)) = of_rope.iter().find(|(_, is_there)| *is_there && self.position != Position::Rope) {
            return Err(ModelError::key(key, "positions are not rotary", "set `position = \"rope\"`, or leave it out"));
        }
        for (key, layers) in [("full_layers", &self.full_layers), ("nope_layers", &self.nope_layers)] {
            if let Some(layer) = layers.iter().flatten().find(|layer| **layer >= self.layers) {
                let problem = format!("there is no layer {layer}: {} are counted from 0", self.layers);
                return Err(ModelError::key(key, problem, "name layers that there are"));
            }
        }
        let scales = [
            ("embed_scale", self.embed_scale),
            ("residual_scale", self.residual_scale),
            ("attn_scale", self.attn_scale),
            ("attn_softcap", self.attn_softcap),
            ("logit_scale", self.logit_scale),
            ("logit_softcap", self.logit_softcap),
            ("window_theta", self.window_theta),
        ];
        for (key, value) in scales {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && value.is_finite())) {
                return Err(ModelError::key(key, format!("{value} is not above zero"), format!("leave `{key}` out for the default")));
            }
        }
        if self.attn_softcap.is_some() && self.position == Position::Alibi {
            return Err(ModelError::key(
                "attn_softcap",
                "scores with slopes cannot be capped",
                "leave it out, or choose another `position`",
            ));
        }
        Ok(())
    }

    fn check_latent(&self) -> Result<(), ModelError> {
        let Some(kv_rank) = self.kv_rank else {
            let turned = self.rope_dim.unwrap_or(2);
            if !turned.is_multiple_of(2) || !(2..=self.head_dim.max(2)).contains(&turned) {
                let problem = format!("{turned} of {} numbers of a head are no pairs of them", self.head_dim);
                return Err(ModelError::key("rope_dim", problem, "choose an even number of at most `head_dim`"));
            }
            let of_latent = [("q_rank", self.q_rank.is_some()), ("value_dim", self.value_dim.is_some())];
            return match of_latent.iter().find(|(_, is_there)| *is_there) {
                Some((key, _)) => Err(ModelError::key(key, "attention is not latent", "set `kv_rank = 512` too, or leave it out")),
                None => Ok(()),
            };
        };
        // What is absent is filled in before.
        let size = |of: Option<usize>| of.unwrap_or(1);
        crate::in_range(&[
            ("kv_rank", kv_rank, 1 << 16),
            ("q_rank", size(self.q_rank), 1 << 16),
            ("rope_dim", size(self.rope_dim), self.head_dim.saturating_sub(1)),
            ("value_dim", size(self.value_dim), self.head_dim),
        ])?;
        if !size(self.rope_dim).is_multiple_of(2) {
            return Err(ModelError::key("rope_dim", "rotary positions turn pairs", "choose an even one"));
        }
        if self.kv_heads != self.heads || self.qk_norm || self.bias || self.position != Position::Rope {
            let help = "leave `kv_heads`, `qk_norm`, `bias` and `position` out, or `kv_rank`";
            return Err(ModelError::key("kv_rank", "latent attention has as many key heads as heads, rotary positions, no biases", help));
        }
        Ok(())
    }

    fn check_experts(&self) -> Result<(), ModelError> {
        let Some(experts) = self.experts else {
            let of_experts = [
                ("experts_per_token", self.experts_per_token.is_some()),
                ("expert_ffn", self.expert_ffn.is_some()),
                ("shared_experts", self.shared_experts.is_some()),
                ("dense_layers", self.dense_layers.is_some()),
                ("router", self.router.is_some()),
                ("router_bias", self.router_bias.is_some()),
                ("router_groups", self.router_groups.is_some()),
                ("router_top_groups", self.router_top_groups.is_some()),
                ("router_scale", self.router_scale.is_some()),
                ("balance", self.balance.is_some()),
            ];
            return match of_experts.iter().find(|(_, is_there)| *is_there) {
                Some((key, _)) => Err(ModelError::key(key, "there are no experts", "set `experts = 8` too, or leave it out")),
                None => Ok(()),
            };
        };
        // What is absent is filled in before.
        let size = |of: Option<usize>| of.unwrap_or(1);
        crate::in_range(&[
            ("experts", experts, 1 << 12),
            ("experts_per_token", size(self.experts_per_token), experts),
            ("expert_ffn", size(self.expert_ffn), 1 << 22),
            ("shared_experts", size(self.shared_experts) + 1, 1 << 8),
            ("dense_layers", size(self.dense_layers) + 1, self.layers),
            ("router_groups", size(self.router_groups), experts),
            ("router_top_groups", size(self.router_top_groups), size(self.router_groups)),
        ])?;
        let groups = size(self.router_groups);
        if !experts.is_multiple_of(groups) || size(self.experts_per_token) > experts / groups * size(self.router_top_groups) {
            let problem = format!("{experts} experts in {groups} groups: a token cannot go to {} of them", size(self.experts_per_token));
            return Err(ModelError::key("router_groups", problem, "choose one that divides `experts`, and enough `router_top_groups`"));
        }
        if !self.mlp.activation().1 || self.bias || self.mlp_bias {
            let help = "leave `mlp` and `bias` out, or `experts`";
            return Err(ModelError::key("experts", "experts have three matrices and no biases", help));
        }
        for (key, value) in [("router_scale", self.router_scale), ("balance", self.balance)] {
            if value.is_some_and(|value| !(value.is_finite() && value >= 0.0)) {
                return Err(ModelError::key(key, "it is no number from zero on", format!("leave `{key}` out for the default")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::DecoderOptions;

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
            ("depth = 4\nbalance = 0.1", "model.balance"),
            ("depth = 4\nexperts = 4\nexperts_per_token = 5", "model.experts_per_token"),
            ("depth = 4\nexperts = 4\ndense_layers = 4", "model.dense_layers"),
            ("depth = 4\nexperts = 4\nmlp = \"gelu\"", "model.experts"),
            ("depth = 4\nqk_norm_joint = true", "model.qk_norm_joint"),
            ("depth = 4\nq_rank = 8", "model.q_rank"),
            ("depth = 4\nkv_rank = 8\nrope_dim = 7", "model.rope_dim"),
            ("depth = 4\nkv_rank = 8\nkv_heads = 2", "model.kv_rank"),
            ("depth = 4\nfull_layers = [1]", "model.full_layers"),
            ("depth = 4\nwindow = 8\nfull_layers = [4]", "model.full_layers"),
            ("depth = 4\nnope_layers = [0]\nposition = \"alibi\"", "model.nope_layers"),
            ("depth = 4\nlogit_softcap = 0.0", "model.logit_softcap"),
            ("depth = 4\nattn_softcap = 5.0\nposition = \"alibi\"", "model.attn_softcap"),
            ("depth = 4\nexperts = 6\nrouter_groups = 4", "model.router_groups"),
            ("depth = 4\nexperts = 8\nexperts_per_token = 3\nrouter_groups = 4", "model.router_groups"),
            ("depth = 4\nrouter_bias = true", "model.router_bias"),
        ] {
            let error = toml::from_str::<DecoderOptions>(text).unwrap().resolve().unwrap_err().to_string();
            assert!(error.starts_with(key), "{text:?}: {error}");
        }
    }
}
