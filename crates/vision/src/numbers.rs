//! Pixels as models read them, and back.

use image::RgbImage;

/// Mean and deviation of the colours of photographs (those of ImageNet, which torchvision's models take).
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
pub const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Pixels as models read them, but those of diffusion.
pub(crate) fn normed(image: &RgbImage) -> Vec<f32> {
    // Each byte of each colour once: there are fewer of them than pixels.
    let of = |c: usize| std::array::from_fn::<f32, 256, _>(|byte| (byte as f32 / 255.0 - MEAN[c]) / DEVIATION[c]);
    let tables = [of(0), of(1), of(2)];
    image.as_raw().as_chunks::<3>().0.iter().flat_map(|pixel| [0, 1, 2].map(|c| tables[c][usize::from(pixel[c])])).collect()
}

/// Back to bytes.
#[must_use]
pub fn pixels_of(normed: &[f32], size: usize) -> RgbImage {
    let byte = |(i, v): (usize, &f32)| ((v * DEVIATION[i % 3] + MEAN[i % 3]) * 255.0).round().clamp(0.0, 255.0) as u8;
    let bytes = normed.iter().enumerate().map(byte).collect();
    RgbImage::from_raw(size as u32, size as u32, bytes).unwrap_or_default()
}

/// Pixels in -1..1, as diffusion and autoencoders read them.
pub(crate) fn pixels_around_zero(image: &RgbImage) -> Vec<f32> {
    image.as_raw().iter().map(|byte| (f64::from(*byte) / 127.5 - 1.0) as f32).collect()
}

/// Such pixels back to bytes.
pub(crate) fn pixels_back(pixels: &[f32], size: usize) -> RgbImage {
    let byte = |v: &f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    RgbImage::from_raw(size as u32, size as u32, pixels.iter().map(byte).collect()).unwrap_or_default()
}
