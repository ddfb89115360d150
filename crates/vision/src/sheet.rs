//! A sheet of pictures, as one PNG.

use std::{io::Cursor, path::Path};

use image::{ImageFormat, Rgb, RgbImage, imageops};
use train::TrainError;

/// Pixels between pictures, and the least side at which a picture is shown.
const GAP: u32 = 2;
const LEAST_SIDE: u32 = 48;

/// Pictures of one size in lines of `columns`; small ones enlarged, pixel by pixel.
#[must_use]
pub fn sheet(pictures: &[RgbImage], columns: usize) -> RgbImage {
    let side = pictures.iter().map(RgbImage::width).max().unwrap_or(1).max(1);
    let (times, columns) = (LEAST_SIDE.div_ceil(side), (columns.max(1) as u32).min(pictures.len().max(1) as u32));
    let (shown, lines) = (side * times, (pictures.len() as u32).div_ceil(columns).max(1));
    let length = |count: u32| count * (shown + GAP) + GAP;
    let mut out = RgbImage::from_pixel(length(columns), length(lines), Rgb([128; 3]));
    for (i, picture) in (0..).zip(pictures) {
        let large = imageops::resize(picture, shown, shown, imageops::FilterType::Nearest);
        imageops::replace(&mut out, &large, i64::from(length(i % columns)), i64::from(length(i / columns)));
    }
    out
}

/// As the bytes of a file.
#[must_use]
pub fn png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    // Memory takes whatever is written to it.
    let _ = image.write_to(&mut bytes, ImageFormat::Png);
    bytes.into_inner()
}

/// Write a sheet to `path`.
/// # Errors
/// When the file cannot be written.
pub fn save(path: &Path, image: &RgbImage) -> Result<(), TrainError> {
    disk::write(path, png(image)).map_err(|source| TrainError::Io { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_in_lines_each_pixel_enlarged_alike() {
        let red = RgbImage::from_pixel(8, 8, Rgb([255, 0, 0]));
        let image = sheet(&[red.clone(), red.clone(), red], 2);
        assert_eq!(image.dimensions(), (2 * 50 + 2, 2 * 50 + 2));
        assert_eq!((image.get_pixel(30, 30).0, image.get_pixel(80, 80).0), ([255, 0, 0], [128; 3]));
        assert!(png(&image).starts_with(b"\x89PNG"));
    }
}
