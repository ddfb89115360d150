//! Features of images by a trained model.

use engine::{EngineError, Inputs, Precision, Tape, Tensor};
use image::{RgbImage, imageops};
use models::{
    clip::{Clip, ClipConfig},
    vit::{Vit, VitConfig},
    vit_mae::{Mae, MaeConfig},
};
use parallel::Replicated;
use train::{TrainError, run::Loaded};

use super::spread::Features;
use crate::{passes, tasks::normed};

/// See the head of this file.
pub struct Extractor {
    kind: Kind,
    store: Replicated,
    precision: Precision,
    size: u32,
}

enum Kind {
    Mae(Box<Mae>),
    Vit(Box<Vit>),
    Clip(Box<Clip>),
}

impl Extractor {
    /// What they are, in words.
    pub const WHAT: &str = "the mean of the patches' normed states after the last layer (of CLIP what it compares)";

    /// By the weights of a run.
    /// # Errors
    /// When its model makes no features of images.
    pub fn of(loaded: &Loaded) -> Result<Self, TrainError> {
        Self::with(loaded, |id| loaded.store.value(id).to_vec())
    }

    /// By the weights that it began with.
    /// # Errors
    /// As [`Extractor::of`].
    pub fn untrained(loaded: &Loaded) -> Result<Self, TrainError> {
        Self::with(loaded, |id| loaded.model.params().initial(id, loaded.recipe.seed))
    }

    fn with(loaded: &Loaded, value: impl FnMut(engine::ParamId) -> Vec<f32>) -> Result<Self, TrainError> {
        let table = loaded.model.config();
        let (kind, size) = match models::kind(&loaded.recipe.model).name {
            "vit_mae" => {
                let config: MaeConfig = models::typed(&table)?;
                let size = config.tower.size;
                (Kind::Mae(Box::new(Mae::new(config)?)), size)
            }
            "vit" => {
                let config: VitConfig = models::typed(&table)?;
                let size = config.tower.size;
                (Kind::Vit(Box::new(Vit::new(config)?)), size)
            }
            "clip" => {
                let config: ClipConfig = models::typed(&table)?;
                let size = config.image.size;
                (Kind::Clip(Box::new(Clip::new(config)?)), size)
            }
            other => {
                let problem = format!("a model of kind `{other}` makes no features of images");
                let help = "give the run of a `vit_mae`, a `vit` or a `clip`".into();
                return Err(TrainError::Value { key: "model.kind", problem, help });
            }
        };
        let store = Replicated::solo(loaded.model.params(), value);
        Ok(Self { kind, store, precision: loaded.precision, size: size as u32 })
    }

    /// Of images, resized to what the model reads.
    /// # Errors
    /// When memory is short.
    pub fn features(&mut self, images: &[RgbImage]) -> Result<Features, TrainError> {
        let Self { kind, store, precision, size } = self;
        let side = *size as usize;
        let pixels = |image: &RgbImage| {
            if image.width() == *size {
                normed(image)
            } else {
                normed(&imageops::resize(image, *size, *size, imageops::FilterType::Triangle))
            }
        };
        let inputs = |samples: std::ops::Range<u64>| {
            let part = &images[samples.start as usize..samples.end as usize];
            Ok(Inputs::new().with_f32("images", &[part.len(), side, side, 3], part.iter().flat_map(pixels).collect()))
        };
        let (mut width, mut values) = (0, Vec::new());
        let take = |said: &Tensor| {
            width = said.shape().last();
            values.extend(pooled(said));
        };
        let count = images.len() as u64;
        match kind {
            Kind::Mae(mae) => passes::each(&**mae, store, *precision, count, inputs, Mae::features, take)?,
            Kind::Vit(vit) => passes::each(&**vit, store, *precision, count, inputs, Vit::features, take)?,
            Kind::Clip(clip) => passes::each(&**clip, store, *precision, count, inputs, clip_images, take)?,
        }
        Ok(Features { width, values })
    }
}

fn clip_images<'m>(clip: &'m Clip, tape: &mut Tape<'m>, inputs: &Inputs) -> Result<Tensor, EngineError> {
    clip.of_images(tape, inputs)
}

/// Of `[batch, 1 + patches, width]` the mean over the patches; of `[batch, width]` itself.
fn pooled(said: &Tensor) -> Vec<f32> {
    let (dims, width) = (said.shape().dims().to_vec(), said.shape().last());
    let [_, tokens, _] = dims[..] else { return said.f32s().to_vec() };
    let mean = |tokens_of: &[f32]| {
        let mut sums = vec![0.0_f32; width];
        tokens_of.chunks_exact(width).skip(1).for_each(|token| sums.iter_mut().zip(token).for_each(|(sum, v)| *sum += v));
        sums.into_iter().map(|sum| sum / (tokens - 1) as f32).collect::<Vec<_>>()
    };
    said.f32s().chunks_exact(tokens * width).flat_map(mean).collect()
}
