//! What an autoencoder makes of held-out images: each as it is, and again from the means of its latents.

use engine::{Array, EngineError};
use models::autoencoder::{Autoencoder, AutoencoderConfig};
use train::{TrainError, feed::Feed, run::Loaded};

use super::{Findings, Shown};
use crate::{feed::Images, passes, sheet::sheet, tasks::pixels_back};

/// Images that are shown.
const SHOWN: usize = 8;

/// Signal to noise, the spread of latents, and a sheet of two lines.
pub(super) fn judge(loaded: &mut Loaded, images: &Images) -> Result<Findings, TrainError> {
    let config: AutoencoderConfig = models::typed(&loaded.model.config())?;
    let model = Autoencoder::new(config.clone())?;
    let (size, count) = (config.size, images.held_out());
    let inputs = images.held_out_inputs(0..count)?;
    let Array::F32(_, pixels) = inputs.get("images")? else {
        return Err(EngineError::Input { name: "images", have: "other arrays".into() }.into());
    };
    let each = 3 * size * size;
    let some = |samples: std::ops::Range<u64>| {
        let part = pixels[samples.start as usize * each..samples.end as usize * each].to_vec();
        Ok(engine::Inputs::new().with_f32("images", &[part.len() / each, size, size, 3], part))
    };
    let said = passes::run(&model, &mut loaded.store, loaded.precision, count, some, Autoencoder::reconstruction)?;
    let moments = passes::run(&model, &mut loaded.store, loaded.precision, count, some, Autoencoder::moments)?;
    let error = said.iter().zip(pixels).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / said.len() as f64;
    let means = || moments.chunks_exact(2 * config.channels).flat_map(|pixel| &pixel[..config.channels]).map(|v| f64::from(*v));
    let of = (moments.len() / 2) as f64;
    let mean = means().sum::<f64>() / of;
    let deviation = (means().map(|v| (v - mean).powi(2)).sum::<f64>() / of).sqrt();
    let picture = |all: &[f32], n: usize| pixels_back(&all[n * each..][..each], size);
    let shown = SHOWN.min(count as usize);
    let lines = [pixels, &said].into_iter().flat_map(|all| (0..shown).map(move |n| picture(all, n)));
    Ok(Findings {
        figures: vec![("psnr_db", 10.0 * (4.0 / error).log10()), ("latent_deviation", deviation)],
        shown: vec![Shown {
            title: "Images again".into(),
            text: format!(
                "held-out images, and what is made of them from {} numbers instead of {each}",
                moments.len() / 2 / count as usize
            ),
            image: sheet(&lines.collect::<Vec<_>>(), shown),
        }],
        notes: vec![
            "peak signal to noise in dB over pixels in -1..1, and the deviation of the means of latents, of held-out images".into(),
        ],
    })
}
