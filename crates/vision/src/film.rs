//! Pictures of a model in training, in the folder of its run: one line of them for some of the measurements, each a PNG that is named by its
//! step, and the images that it is of.
//!
//! ```text
//! pictures/originals.png   pictures/00000100.png   pictures/00000200.png   pictures/00000400.png   ...
//! ```

use std::path::Path;

use image::RgbImage;
use train::TrainError;

use crate::{decode, sheet, tasks::Line};

const FOLDER: &str = "pictures";
const ORIGINALS: &str = "originals.png";
/// Side of a picture: a report holds all lines.
const SIDE: u32 = 96;
/// Lines that are read, at the most, and bytes of each.
const MOST: usize = 32;
const LARGEST_BYTES: u64 = 4 << 20;

/// What a run's folder holds of them: the bytes of PNGs, lines by their step.
#[derive(Debug, Clone, Default)]
pub struct Film {
    pub originals: Option<Vec<u8>>,
    pub lines: Vec<(u64, Vec<u8>)>,
}

/// Keep a line.
/// # Errors
/// When a file cannot be written.
pub(crate) fn keep(run: &Path, step: u64, line: &Line) -> Result<(), TrainError> {
    let folder = run.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|source| TrainError::Io { action: "make", path: folder.clone(), source })?;
    if !line.originals.is_empty() {
        sheet::save(&folder.join(ORIGINALS), &side_by_side(&line.originals))?;
    }
    sheet::save(&folder.join(format!("{step:08}.png")), &side_by_side(&line.made))
}

fn side_by_side(pictures: &[RgbImage]) -> RgbImage {
    let small = |picture: &RgbImage| decode::part(picture, [0, 0], picture.width(), picture.width().min(SIDE));
    sheet::sheet(&pictures.iter().map(small).collect::<Vec<_>>(), pictures.len())
}

/// What `run` holds; nothing where it has no pictures.
#[must_use]
pub fn read(run: &Path) -> Film {
    let folder = run.join(FOLDER);
    let bytes = |name: &str| disk::read(&folder.join(name), LARGEST_BYTES).ok();
    let names = std::fs::read_dir(&folder).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut steps: Vec<(u64, String)> = names.filter_map(|name| Some((name.strip_suffix(".png")?.parse().ok()?, name))).collect();
    steps.sort_unstable();
    steps.truncate(MOST);
    let lines = steps.into_iter().filter_map(|(step, name)| Some((step, bytes(&name)?))).collect();
    Film { originals: bytes(ORIGINALS), lines }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn lines_are_read_by_their_steps_and_what_else_lies_there_is_not() {
        let run = tempfile::tempdir().unwrap();
        assert!(read(run.path()).lines.is_empty());
        let pictures = |shade: u8| vec![RgbImage::from_pixel(200, 200, Rgb([shade; 3])); 8];
        for step in [400, 50, 100] {
            keep(run.path(), step, &Line { made: pictures(step as u8), originals: pictures(9) }).unwrap();
        }
        std::fs::write(run.path().join("pictures/mine.png"), "not of a step").unwrap();
        let film = read(run.path());
        assert_eq!(film.lines.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [50, 100, 400]);
        let line = image::load_from_memory(&film.lines[0].1).unwrap().to_rgb8();
        assert_eq!((line.dimensions(), line.get_pixel(50, 50).0), ((8 * (SIDE + 2) + 2, SIDE + 4), [50; 3]));
        assert!(film.originals.is_some());
    }
}
