//! FLOPs of architectures that no model kind builds yet, by formula from their sizes: until `vit`, `mae`, `clip` and `dit` stand in
//! `models`, whose steps on `Meta` will say it instead.
//!
//! Absent: the U-Net of Stable Diffusion. Its sizes change from level to level and its convolutions with the image, so no
//! short formula gives its 0.68 TFLOP a forward pass at 512 pixels; it has to be built.

use serde::Deserialize;

/// One row of `catalogue/architectures.toml`, see its head.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    pub name: String,
    /// The model kind that is wanted.
    pub kind: String,
    pub layers: f64,
    pub width: f64,
    /// Of a sample that the blocks see.
    pub tokens: f64,
    /// Numbers in a patch.
    pub patch_values: f64,
    /// MAE's decoder, or CLIP's tower for text.
    pub decoder: Option<Tower>,
    /// Whether the source counts a multiplication and an addition as one.
    #[serde(default)]
    pub multiplied_once: bool,
    pub printed_gflops: Option<f64>,
    pub source: String,
}

/// A second stack of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tower {
    pub layers: f64,
    pub width: f64,
    pub tokens: f64,
}

#[derive(Deserialize)]
struct File {
    architecture: Vec<Architecture>,
}

/// All rows.
#[must_use]
pub fn all() -> Vec<Architecture> {
    let file: File = toml::from_str(include_str!("catalogue/architectures.toml")).expect("checked by a test");
    file.architecture
}

impl Architecture {
    /// FLOPs of a forward pass over one sample.
    ///
    /// ```
    /// let all = plan::architectures::all();
    /// let vit = all.iter().find(|a| a.name == "ViT-B/16").unwrap();
    /// assert!((vit.forward_flops() / 35.1e9 - 1.0).abs() < 0.02);
    /// ```
    #[must_use]
    pub fn forward_flops(&self) -> f64 {
        let patches = 2.0 * self.tokens * self.patch_values * self.width;
        patches + blocks(self.layers, self.width, self.tokens) + self.decoder.map_or(0.0, |t| blocks(t.layers, t.width, t.tokens))
    }
}

/// `layers (24 tokens width^2 + 4 tokens^2 width)`: projections 8, feed-forward 16, scores and their sum 2 each.
fn blocks(layers: f64, width: f64, tokens: f64) -> f64 {
    layers * (24.0 * tokens * width * width + 4.0 * tokens * tokens * width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_give_what_the_sources_print() {
        for a in all() {
            let Some(printed) = a.printed_gflops else { continue };
            let counted = a.forward_flops() / 1e9 / if a.multiplied_once { 2.0 } else { 1.0 };
            assert!((counted / printed - 1.0).abs() < 0.05, "{}: {counted} and {printed}", a.name);
        }
    }
}
