//! Names and shapes of the layouts: which tensor of theirs is which parameter of ours.

use models::{clip::ClipConfig, fixed_positions, typed, vit::VitConfig, vit_mae::MaeConfig};
use train::TrainError;

use super::refuse;

/// Their `model_type`s, which are our kinds too.
pub(super) const KINDS: &[&str] = &["vit", "vit_mae", "clip"];

/// One tensor.
pub(super) struct Part {
    pub ours: String,
    pub theirs: String,
    /// Theirs.
    pub dims: Vec<usize>,
    pub view: View,
}

/// How the numbers of one lie in the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum View {
    /// In the same order.
    Same,
    /// A convolution over patches: theirs `[out, 3, line, column]`, ours `[out, line, column, 3]`.
    Patch,
}

impl View {
    /// Ours to theirs.
    pub fn out(self, ours: &[f32], dims: &[usize]) -> Vec<f32> {
        if self == Self::Same { ours.to_vec() } else { moved(ours, dims, true) }
    }

    /// Theirs to ours.
    pub fn back(self, theirs: &[f32], dims: &[usize]) -> Vec<f32> {
        if self == Self::Same { theirs.to_vec() } else { moved(theirs, dims, false) }
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

/// Collects parts under two prefixes.
struct Parts(Vec<Part>);

impl Parts {
    fn add(&mut self, ours: impl Into<String>, theirs: impl Into<String>, dims: &[usize]) {
        self.0.push(Part { ours: ours.into(), theirs: theirs.into(), dims: dims.to_vec(), view: View::Same });
    }

    fn linear(&mut self, ours: &str, theirs: &str, [out, inner]: [usize; 2]) {
        self.add(format!("{ours}.weight"), format!("{theirs}.weight"), &[out, inner]);
        self.add(format!("{ours}.bias"), format!("{theirs}.bias"), &[out]);
    }

    fn norm(&mut self, ours: &str, theirs: &str, width: usize) {
        self.add(format!("{ours}.weight"), format!("{theirs}.weight"), &[width]);
        self.add(format!("{ours}.bias"), format!("{theirs}.bias"), &[width]);
    }

    fn patch(&mut self, ours: &str, theirs: &str, width: usize, patch: usize, has_bias: bool) {
        self.add(format!("{ours}.weight"), format!("{theirs}.weight"), &[width, 3, patch, patch]);
        if let Some(last) = self.0.last_mut() {
            last.view = View::Patch;
        }
        if has_bias {
            self.add(format!("{ours}.bias"), format!("{theirs}.bias"), &[width]);
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

const VIT: [&str; 8] = [
    "layernorm_before",
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
    "layernorm_after",
    "intermediate.dense",
    "output.dense",
];
const CLIP: [&str; 8] =
    ["layer_norm1", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2"];

/// The name that other versions of transformers have for a tensor.
pub(super) fn other_name(name: &str) -> String {
    name.replace("decoder.decoder_layers.", "decoder.decoder_encoder.layer.")
}

/// All tensors of a model of `kind`.
pub(super) fn parts(kind: &str, table: &toml::Table) -> Result<Vec<Part>, TrainError> {
    let mut parts = Parts(Vec::new());
    match kind {
        "vit" => {
            let VitConfig { classes, tower: t, .. } = typed(table)?;
            let positions = (t.size / t.patch).pow(2) + 1;
            parts.patch("patch", "vit.embeddings.patch_embeddings.projection", t.width, t.patch, true);
            parts.add("class", "vit.embeddings.cls_token", &[1, 1, t.width]);
            parts.add("positions", "vit.embeddings.position_embeddings", &[1, positions, t.width]);
            parts.layers(["", "vit.encoder.layer."], t.layers, [t.width, t.ffn], VIT);
            parts.norm("norm", "vit.layernorm", t.width);
            parts.linear("head", "classifier", [classes, t.width]);
        }
        "vit_mae" => {
            let c: MaeConfig = typed(table)?;
            let (t, small) = (&c.tower, c.decoder_width);
            parts.patch("patch", "vit.embeddings.patch_embeddings.projection", t.width, t.patch, true);
            parts.add("class", "vit.embeddings.cls_token", &[1, 1, t.width]);
            parts.layers(["", "vit.encoder.layer."], t.layers, [t.width, t.ffn], VIT);
            parts.norm("norm", "vit.layernorm", t.width);
            parts.linear("decoder.in", "decoder.decoder_embed", [small, t.width]);
            parts.add("decoder.mask", "decoder.mask_token", &[1, 1, small]);
            parts.layers(["decoder.", "decoder.decoder_layers."], c.decoder_layers, [small, 4 * small], VIT);
            parts.norm("decoder.norm", "decoder.decoder_norm", small);
            parts.linear("decoder.out", "decoder.decoder_pred", [3 * t.patch * t.patch, small]);
        }
        "clip" => {
            let c: ClipConfig = typed(table)?;
            if c.sigmoid {
                return Err(refuse("model.sigmoid", "CLIP's layout has no place for the bias of SigLIP's loss".into()));
            }
            let (v, t) = (&c.image, &c.text);
            let positions = (v.size / v.patch).pow(2) + 1;
            parts.patch("image.patch", "vision_model.embeddings.patch_embedding", v.width, v.patch, false);
            parts.add("image.class", "vision_model.embeddings.class_embedding", &[v.width]);
            parts.add("image.positions", "vision_model.embeddings.position_embedding.weight", &[positions, v.width]);
            parts.norm("image.norm_first", "vision_model.pre_layrnorm", v.width);
            parts.layers(["image.", "vision_model.encoder.layers."], v.layers, [v.width, v.ffn], CLIP);
            parts.norm("image.norm", "vision_model.post_layernorm", v.width);
            parts.add("image.head.weight", "visual_projection.weight", &[c.embed, v.width]);
            parts.add("text.embed", "text_model.embeddings.token_embedding.weight", &[t.vocab, t.width]);
            parts.add("text.positions", "text_model.embeddings.position_embedding.weight", &[t.tokens, t.width]);
            parts.layers(["text.", "text_model.encoder.layers."], t.layers, [t.width, t.ffn], CLIP);
            parts.norm("text.norm", "text_model.final_layer_norm", t.width);
            parts.add("text.head.weight", "text_projection.weight", &[c.embed, t.width]);
            parts.add("temperature", "logit_scale", &[]);
        }
        other => return Err(refuse("model.kind", format!("no layout holds a model of kind `{other}`"))),
    }
    Ok(parts.0)
}

/// Tensors of theirs that follow from the config: positions of masked autoencoders, with zeros for the class token.
pub(super) fn fixed(kind: &str, table: &toml::Table) -> Result<Vec<(String, Vec<usize>, Vec<f32>)>, TrainError> {
    if kind != "vit_mae" {
        return Ok(Vec::new());
    }
    let c: MaeConfig = typed(table)?;
    let side = c.tower.size / c.tower.patch;
    let one = |name: &str, width: usize| {
        let mut values = vec![0.0; width];
        values.extend(fixed_positions(side, width));
        (name.to_owned(), vec![1, side * side + 1, width], values)
    };
    Ok(vec![one("vit.embeddings.position_embeddings", c.tower.width), one("decoder.decoder_pos_embed", c.decoder_width)])
}
