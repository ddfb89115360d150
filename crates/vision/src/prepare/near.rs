//! Images that are nearly the same: as a perceptual hash says, and as small copies of them confirm.
//!
//! The hash is the difference hash along lines and columns, 64 bits each: whether each of 8 by 8 places is lighter than the next (after Neal
//! Krawetz, *Kind of Like That*, hackerfactor.com, 2013). It withstands other sizes, qualities and brightness. Images of little contrast have
//! hashes of noise, or all the same one, so that a pair also has to look alike as 16 by 16 pixels in colour.

use std::collections::HashMap;

use image::{RgbImage, imageops::FilterType};

/// The most bits in which the hashes of near images may differ.
pub(super) const MOST_BITS: u32 = 16;
const PLACES: u32 = 8;
const SMALL: u32 = 16;
/// Mean difference of the bytes of small copies that look alike.
const ALIKE: f64 = 8.0;
/// Lighter by less counts as as light: a hash of plain areas would be one of rounding.
const LEAST_STEP: f32 = 1.0;

/// What is remembered of an image.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub width: u32,
    pub height: u32,
    hash: u128,
    small: Vec<u8>,
}

impl Seen {
    pub fn of(image: &RgbImage) -> Self {
        let small = image::imageops::resize(image, SMALL, SMALL, FilterType::Triangle).into_raw();
        Self { width: image.width(), height: image.height(), hash: hash(image), small }
    }

    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    fn is_near(&self, other: &Self, bits: u32) -> bool {
        if (self.hash ^ other.hash).count_ones() > bits {
            return false;
        }
        let apart: u64 = self.small.iter().zip(&other.small).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        apart as f64 <= ALIKE * self.small.len() as f64
    }
}

fn hash(image: &RgbImage) -> u128 {
    let light = |width, height| {
        let small = image::imageops::resize(image, width, height, FilterType::Triangle);
        let of = |pixel: &image::Rgb<u8>| 0.299 * f32::from(pixel.0[0]) + 0.587 * f32::from(pixel.0[1]) + 0.114 * f32::from(pixel.0[2]);
        small.pixels().map(of).collect::<Vec<f32>>()
    };
    let (along, down) = (light(PLACES + 1, PLACES), light(PLACES, PLACES + 1));
    let (wide, places) = ((PLACES + 1) as usize, PLACES as usize);
    let mut bits = 0_u128;
    for line in 0..places {
        for column in 0..places {
            let right = along[line * wide + column + 1] > along[line * wide + column] + LEAST_STEP;
            let below = down[(line + 1) * places + column] > down[line * places + column] + LEAST_STEP;
            bits = bits << 2 | u128::from(right) << 1 | u128::from(below);
        }
    }
    bits
}

/// Of each image the first one before it that stays and that it is near to. Whatever differs in at most `bits` has one of `bits + 1` parts of
/// its hash in common, so that only such are compared.
pub(super) fn find(all: &[&Seen], bits: u32) -> Vec<Option<usize>> {
    let bits = bits.min(MOST_BITS);
    let parts = bits + 1;
    let part = |hash: u128, i: u32| {
        let (first, end) = (128 * i / parts, 128 * (i + 1) / parts);
        let mask = if end - first == 128 { u128::MAX } else { (1 << (end - first)) - 1 };
        (i, hash >> first & mask)
    };
    let mut stays: HashMap<(u32, u128), Vec<usize>> = HashMap::new();
    let mut found = Vec::with_capacity(all.len());
    for (at, seen) in all.iter().enumerate() {
        let candidates = (0..parts).filter_map(|i| stays.get(&part(seen.hash, i))).flatten();
        let near = candidates.filter(|other| seen.is_near(all[**other], bits)).min().copied();
        if near.is_none() {
            (0..parts).for_each(|i| stays.entry(part(seen.hash, i)).or_default().push(at));
        }
        found.push(near);
    }
    found
}

#[cfg(test)]
mod tests {
    use image::{Rgb, imageops};
    use proptest::prelude::*;

    use super::*;

    /// Smooth patches of colour, unlike for each seed.
    fn picture(seed: u64, side: u32) -> RgbImage {
        let draw = |i: u64| engine::mix(seed ^ engine::mix(i)) as u8;
        let coarse = RgbImage::from_fn(6, 6, |x, y| Rgb([0, 1, 2].map(|c| draw(u64::from(x * 100 + y * 10 + c)))));
        imageops::resize(&coarse, side, side, FilterType::CatmullRom)
    }

    fn jpeg(image: &RgbImage, quality: u8) -> RgbImage {
        let mut bytes = Vec::new();
        image.write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality)).unwrap();
        image::load_from_memory(&bytes).unwrap().to_rgb8()
    }

    #[test]
    fn copies_are_found_and_other_images_are_not() {
        let originals: Vec<RgbImage> = (0..40).map(|seed| picture(seed, 96)).collect();
        let copies: Vec<RgbImage> = originals
            .iter()
            .enumerate()
            .map(|(i, image)| match i % 3 {
                0 => jpeg(image, 60),
                1 => imageops::resize(image, 50, 50, FilterType::Triangle),
                _ => imageops::brighten(image, 5),
            })
            .collect();
        let seen: Vec<Seen> = originals.iter().chain(&copies).map(Seen::of).collect();
        let found = find(&seen.iter().collect::<Vec<_>>(), 8);
        assert!(found[..40].iter().all(Option::is_none), "{found:?}");
        let right = (0..40).filter(|i| found[40 + i] == Some(*i)).count();
        assert!(right >= 38, "{right} of 40 copies are found");
    }

    #[test]
    fn plain_images_of_other_colours_are_no_copies_whatever_their_hashes_are() {
        let plain: Vec<Seen> =
            [[200, 0, 0], [0, 200, 0], [0, 0, 200], [201, 1, 0]].map(|rgb| Seen::of(&RgbImage::from_pixel(32, 32, Rgb(rgb)))).to_vec();
        assert_eq!(plain[0].hash, plain[1].hash);
        assert_eq!(find(&plain.iter().collect::<Vec<_>>(), 8), [None, None, None, Some(0)]);
    }

    proptest! {
        #[test]
        fn no_near_pair_is_missed_by_comparing_parts_alone(hashes in prop::collection::vec(any::<u128>(), 1..20), flips in prop::collection::vec((0_usize..20, 0_u32..128), 0..60), bits in 0_u32..=16) {
            let mut all = hashes.clone();
            all.extend(&hashes);
            for (at, bit) in flips {
                let at = hashes.len() + at % hashes.len();
                all[at] ^= 1 << bit;
            }
            let seen: Vec<Seen> = all.iter().map(|hash| Seen { width: 1, height: 1, hash: *hash, small: vec![0; 3] }).collect();
            let seen: Vec<&Seen> = seen.iter().collect();
            let mut slow: Vec<Option<usize>> = Vec::new();
            for at in 0..seen.len() {
                let near = (0..at).find(|other| slow[*other].is_none() && seen[at].is_near(seen[*other], bits));
                slow.push(near);
            }
            prop_assert_eq!(find(&seen, bits), slow);
        }
    }
}
