//! What a masked autoencoder makes of held-out images: each as it is, what the encoder saw of it, and the whole again.

use engine::{Array, EngineError};
use image::{Rgb, RgbImage};
use models::vit_mae::{Mae, MaeConfig};
use train::{TrainError, feed::Feed, run::Loaded};

use super::Shown;
use crate::{
    feed::Images,
    passes,
    sheet::sheet,
    tasks::{of_patch, pixels_of},
};

/// Images that are shown.
const SHOWN: u64 = 8;

/// A sheet of three lines.
/// # Errors
/// When an image cannot be read, or memory is short.
pub fn reconstructions(loaded: &mut Loaded, images: &Images) -> Result<Shown, TrainError> {
    let config: MaeConfig = models::typed(&loaded.model.config())?;
    let (size, patch) = (config.tower.size, config.tower.patch);
    let mae = Mae::new(config)?;
    let count = images.held_out().min(SHOWN);
    let inputs = images.held_out_inputs(0..count)?;
    let said = passes::run(&mae, &mut loaded.store, loaded.precision, count, |_| Ok(inputs.clone()), Mae::reconstruction)?;
    let (Array::F32(_, pixels), Array::U32(_, masked)) = (inputs.get("images")?, inputs.get("masked")?) else {
        return Err(EngineError::Input { name: "images", have: "other arrays".into() }.into());
    };
    let (each, across) = (3 * size * size, size / patch);
    let per_image = masked.len() / count.max(1) as usize;
    let mut lines: [Vec<RgbImage>; 3] = Default::default();
    for n in 0..count as usize {
        let original = &pixels[n * each..][..each];
        let (mut seen, mut whole) = (pixels_of(original, size), original.to_vec());
        for (i, place) in masked[n * per_image..][..per_image].iter().enumerate() {
            let at = of_patch(size, patch, *place as usize - n * across * across);
            let numbers = 3 * patch * patch;
            // It says how a patch varies around its mean; mean and spread are those of the image, as the paper's pictures have them.
            let own: Vec<f32> = (0..numbers).map(|k| original[at(k)]).collect();
            let mean = own.iter().sum::<f32>() / numbers as f32;
            let deviation = (own.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / (numbers - 1) as f32 + 1e-6).sqrt();
            for (k, v) in said[(n * per_image + i) * numbers..][..numbers].iter().enumerate() {
                whole[at(k)] = mean + deviation * v;
                let pixel = (at(k) / 3) as u32;
                seen.put_pixel(pixel % size as u32, pixel / size as u32, Rgb([128; 3]));
            }
        }
        lines[0].push(pixels_of(original, size));
        lines[1].push(seen);
        lines[2].push(pixels_of(&whole, size));
    }
    Ok(Shown {
        title: "Reconstructions".into(),
        text: format!(
            "held-out images; what the encoder saw of them ({} of {} patches); and what was made of that, under the mean and spread of each \
             hidden patch",
            across * across - per_image,
            across * across
        ),
        image: sheet(&lines.concat(), count as usize),
    })
}
