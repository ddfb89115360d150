//! Images of a folder, decoded and made square. What cannot be decoded is named and counted, never a panic.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage, imageops::FilterType};
use rayon::prelude::*;
use train::TrainError;

/// Endings that are read.
const ENDINGS: &[&str] = &["png", "jpg", "jpeg", "webp"];
/// Of a file, and of its pixels once decoded.
const LARGEST_FILE: u64 = 256 << 20;
const LARGEST_PIXELS: u64 = 512 << 20;
const LARGEST_SIDE: u32 = 1 << 15;
/// A smaller side tells nothing.
const SMALLEST_SIDE: u32 = 4;
/// Names that are kept of what was left out.
const NAMED: usize = 8;

/// One image: `side` by `side` pixels of three bytes.
pub struct Picture {
    pub name: String,
    /// The folder that it lies in, which is its class.
    pub class: String,
    pub pixels: RgbImage,
}

/// What a folder holds.
pub struct Pictures {
    /// By name.
    pub all: Vec<Picture>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

impl Pictures {
    /// Decode the images under `folder`, each cut to its middle square and resized to `side`.
    /// # Errors
    /// When there is no image that can be read, or memory for all of them.
    pub fn read(folder: &Path, side: u32) -> Result<Self, TrainError> {
        let wrong = |problem: String, help: &str| TrainError::Value { key: "data.path", problem, help: help.into() };
        let paths = list(folder);
        if paths.is_empty() {
            let problem = format!("`{}` holds no file that ends in {}", folder.display(), ENDINGS.join(", "));
            return Err(wrong(problem, "give a folder of images"));
        }
        let need_bytes = paths.len() as u64 * 3 * u64::from(side).pow(2);
        let free_bytes = limits::available_bytes().unwrap_or(u64::MAX);
        if need_bytes > free_bytes / 2 {
            return Err(TrainError::Memory { need_bytes, free_bytes });
        }
        let read: Vec<Result<Picture, String>> = paths.par_iter().map(|path| picture(folder, path, side)).collect();
        let (mut all, mut bad) = (Vec::with_capacity(read.len()), Vec::new());
        for one in read {
            match one {
                Ok(picture) => all.push(picture),
                Err(problem) => bad.push(problem),
            }
        }
        let mut notes = Vec::new();
        if !bad.is_empty() {
            let named = bad.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
            notes.push(format!("{} of {} images are left out: {named}", bad.len(), paths.len()));
        }
        if all.is_empty() {
            return Err(wrong(format!("`{}` holds no image that can be read: {}", folder.display(), notes.join("")), "look at the files"));
        }
        Ok(Self { all, notes })
    }

    /// Names of classes, sorted.
    #[must_use]
    pub fn classes(&self) -> Vec<String> {
        let all: std::collections::BTreeSet<&String> = self.all.iter().map(|picture| &picture.class).collect();
        all.into_iter().cloned().collect()
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let is_known = |path: &Path| {
        let ending = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
        ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
    };
    let files = walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter().flatten();
    files.map(walkdir::DirEntry::into_path).filter(|path| is_known(path) && path.is_file()).collect()
}

fn picture(folder: &Path, path: &Path, side: u32) -> Result<Picture, String> {
    let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
    let shown = disk::printable_line(&name).into_owned();
    let pixels = decode(path).and_then(|image| square(&image, side)).map_err(|problem| format!("`{shown}` {problem}"))?;
    let class = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Picture { name, class, pixels })
}

/// Whatever the file is: turned as its camera was held, over white where it is clear.
fn decode(path: &Path) -> Result<DynamicImage, String> {
    let bytes = disk::read(path, LARGEST_FILE).map_err(|e| format!("cannot be read: {e}"))?;
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(LARGEST_SIDE), Some(LARGEST_SIDE));
    limits.max_alloc = Some(LARGEST_PIXELS);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| format!("is no image: {e}"))?;
    let orientation = decoder.orientation().map_err(|e| format!("is damaged: {e}"))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| format!("is damaged: {e}"))?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn square(image: &DynamicImage, side: u32) -> Result<RgbImage, String> {
    let (width, height) = (image.width(), image.height());
    let least = width.min(height);
    if least < SMALLEST_SIDE {
        return Err(format!("is {width}x{height}, too small"));
    }
    let middle = image.crop_imm((width - least) / 2, (height - least) / 2, least, least);
    let rgba = middle.resize_exact(side, side, FilterType::Triangle).to_rgba8();
    let over_white = |pixel: &image::Rgba<u8>| {
        let [red, green, blue, alpha] = pixel.0.map(u32::from);
        image::Rgb([red, green, blue].map(|c| ((c * alpha + 255 * (255 - alpha)) / 255) as u8))
    };
    Ok(RgbImage::from_fn(side, side, |x, y| over_white(rgba.get_pixel(x, y))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_any_kind_become_squares_and_what_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("cats")).unwrap();
        let grey = image::GrayImage::from_pixel(40, 20, image::Luma([100]));
        grey.save(at("cats/grey.png")).unwrap();
        let clear = image::RgbaImage::from_pixel(16, 16, image::Rgba([0, 0, 0, 0]));
        clear.save(at("cats/clear.png")).unwrap();
        RgbImage::from_pixel(9, 30, image::Rgb([10, 20, 30])).save(at("plain.jpg")).unwrap();
        image::ImageBuffer::from_pixel(16, 16, image::Rgb([65535_u16, 0, 0])).save(at("deep.png")).unwrap();
        RgbImage::new(2, 50).save(at("thin.png")).unwrap();
        std::fs::write(at("text.png"), "this is no image").unwrap();
        std::fs::write(at("empty.webp"), "").unwrap();
        let whole = std::fs::read(at("cats/grey.png")).unwrap();
        std::fs::write(at("torn.png"), &whole[..whole.len() / 2]).unwrap();
        std::fs::write(at("notes.txt"), "not looked at").unwrap();
        let read = Pictures::read(folder.path(), 8).unwrap();
        let names: Vec<&str> = read.all.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["cats/clear.png", "cats/grey.png", "deep.png", "plain.jpg"]);
        assert!(read.all.iter().all(|p| p.pixels.dimensions() == (8, 8)));
        assert_eq!(read.all[0].pixels.get_pixel(3, 3).0, [255, 255, 255], "what is clear is white");
        assert_eq!(read.all[1].pixels.get_pixel(3, 3).0, [100, 100, 100]);
        assert_eq!(read.all[2].pixels.get_pixel(3, 3).0, [255, 0, 0], "16 bits");
        assert!(read.notes[0].starts_with("4 of 8 images are left out"), "{:?}", read.notes);
        for name in ["`thin.png` is 2x50", "`text.png`", "`empty.webp`", "`torn.png`"] {
            assert!(read.notes[0].contains(name), "{:?}", read.notes);
        }
        assert!(Pictures::read(&at("nowhere"), 8).is_err());
    }
}
