//! Images that are nearly the same: a perceptual hash proposes, and small copies of the two decide.
//!
//! The hash is the difference hash along lines and columns, 64 bits each: whether each of 8 by 8 places is lighter than the next (after Neal
//! Krawetz, *Kind of Like That*, hackerfactor.com, 2013). It withstands other sizes, qualities and brightness, but images of few strokes or
//! little contrast have hashes alike. So the difference of the two as 16 by 16 pixels is explained as far as it can be by what happens to
//! copies: other brightness and contrast, a small shift, and a small crop of each axis, all of first order (after Lucas and Kanade, 1981).
//! What is left has to be small beside the contrast. Of the 8x8 digits of handwriting, enlarged, most have a hash that is near another's, and
//! next to none are taken for copies; copies that lost 4% of their sides are found (the tests below).

use std::collections::HashMap;

use image::{RgbImage, imageops::FilterType};

/// The most bits in which the hashes of near images may differ.
pub(super) const MOST_BITS: u32 = 16;
const PLACES: u32 = 8;
const SMALL: u32 = 16;
/// Of two copies, what is left of the difference of small ones beside their contrast, both as root mean squares.
const LEFT: f64 = 0.08;
/// The same in bytes, of images of no contrast.
const LEFT_BYTES: f64 = 1.0;
/// What is taken as happening to copies: bytes of brightness, shares of contrast, and small pixels that edges are moved by.
const MOST: [f64; EXPLAINED] = [16.0, 0.15, 0.7, 0.7, 0.7, 0.7];
const EXPLAINED: usize = 6;
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
        (self.hash ^ other.hash).count_ones() <= bits && is_copy(&self.small, &other.small)
    }
}

/// Whether the difference of two small copies is that of copies; see the head of this file.
fn is_copy(a: &[u8], b: &[u8]) -> bool {
    let middle: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::midpoint(f64::from(*a), f64::from(*b))).collect();
    let apart: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::from(*b) - f64::from(*a)).collect();
    let count = middle.len() as f64;
    let mean = middle.iter().sum::<f64>() / count;
    let contrast = (middle.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
    let causes: Vec<[f64; EXPLAINED]> = (0..middle.len()).map(|at| causes(&middle, mean, at)).collect();
    let (mut products, mut sums) = ([[0.0; EXPLAINED]; EXPLAINED], [0.0; EXPLAINED]);
    for (causes, apart) in causes.iter().zip(&apart) {
        for i in 0..EXPLAINED {
            (0..EXPLAINED).for_each(|j| products[i][j] += causes[i] * causes[j]);
            sums[i] += causes[i] * apart;
        }
    }
    let much = solve(products, sums);
    let left = |(causes, apart): (&[f64; EXPLAINED], &f64)| {
        let explained: f64 = (0..EXPLAINED).map(|i| causes[i] * much[i].clamp(-MOST[i], MOST[i])).sum();
        (apart - explained).powi(2)
    };
    let left = (causes.iter().zip(&apart).map(left).sum::<f64>() / count).sqrt();
    left <= (LEFT * contrast).max(LEFT_BYTES)
}

/// What one byte changes by with a unit of each cause: brightness, contrast, a shift along lines and columns, a crop of either.
fn causes(image: &[f64], mean: f64, at: usize) -> [f64; EXPLAINED] {
    let side = SMALL as usize;
    let (line, column, colour) = (at / 3 / side, at / 3 % side, at % 3);
    let pixel = |line: usize, column: usize| image[(line * side + column) * 3 + colour];
    // At the rim to one side alone.
    let slope = |place: usize, of: &dyn Fn(usize) -> f64| {
        let [before, after] = [place.saturating_sub(1), (place + 1).min(side - 1)];
        (of(after) - of(before)) / (after - before) as f64
    };
    let (along, down) = (slope(column, &|column| pixel(line, column)), slope(line, &|line| pixel(line, column)));
    let from_middle = |place: usize| 2.0 * place as f64 / (side - 1) as f64 - 1.0;
    [1.0, image[at] - mean, along, down, along * from_middle(column), down * from_middle(line)]
}

/// `x` of `a x = b` for a symmetric `a`, a little of 1 added to its diagonal so that there is one: Gauss's elimination.
fn solve(mut a: [[f64; EXPLAINED]; EXPLAINED], mut b: [f64; EXPLAINED]) -> [f64; EXPLAINED] {
    (0..EXPLAINED).for_each(|i| a[i][i] += 1e-3);
    for i in 0..EXPLAINED {
        for below in i + 1..EXPLAINED {
            let times = a[below][i] / a[i][i];
            (i..EXPLAINED).for_each(|j| a[below][j] -= times * a[i][j]);
            b[below] -= times * b[i];
        }
    }
    for i in (0..EXPLAINED).rev() {
        b[i] = (b[i] - (i + 1..EXPLAINED).map(|j| a[i][j] * b[j]).sum::<f64>()) / a[i][i];
    }
    b
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

    /// As `images.near_bits` has it.
    const BITS: u32 = 12;

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

    /// Without `share` of its sides, of which `before` is cut off on the left and above.
    fn cropped(image: &RgbImage, share: f64, before: f64) -> RgbImage {
        let [width, height] = [image.width(), image.height()].map(f64::from);
        let cut = |side: f64| (side * share * before).round() as u32;
        imageops::crop_imm(image, cut(width), cut(height), (width * (1.0 - share)) as u32, (height * (1.0 - share)) as u32).to_image()
    }

    #[test]
    fn copies_are_found_and_other_images_are_not() {
        let originals: Vec<RgbImage> = (0..60).map(|seed| picture(seed, 96)).collect();
        type Change = fn(&RgbImage) -> RgbImage;
        let changes: [(&str, Change); 6] = [
            ("quality", |image| jpeg(image, 60)),
            ("size", |image| imageops::resize(image, 50, 50, FilterType::Triangle)),
            ("brightness", |image| imageops::brighten(image, 5)),
            ("crop of 2%", |image| cropped(image, 0.02, 0.5)),
            ("crop of 4%", |image| cropped(image, 0.04, 0.5)),
            ("crop of 2% at one corner", |image| cropped(image, 0.02, 0.0)),
        ];
        for (what, change) in changes {
            let copies: Vec<RgbImage> = originals.iter().map(change).collect();
            let seen: Vec<Seen> = originals.iter().chain(&copies).map(Seen::of).collect();
            let found = find(&seen.iter().collect::<Vec<_>>(), BITS);
            assert!(found[..60].iter().all(Option::is_none), "{what}: {found:?}");
            let right = (0..60).filter(|i| found[60 + i] == Some(*i)).count();
            assert!(right >= 57, "{what}: {right} of 60 copies are found");
        }
    }

    /// Handwriting of 8x8 places, enlarged: nearly all hashes are near some other.
    #[test]
    fn digits_of_unlike_people_are_no_copies_and_copies_of_digits_are() {
        let sheet = image::load_from_memory(crate::demo::DIGITS).unwrap().to_rgb8();
        let digits: Vec<RgbImage> = (0..sheet.width() / 8 * (sheet.height() / 8))
            .map(|i| imageops::crop_imm(&sheet, i % (sheet.width() / 8) * 8, i / (sheet.width() / 8) * 8, 8, 8).to_image())
            .filter(|digit| digit.pixels().any(|pixel| pixel != digit.get_pixel(0, 0)))
            .map(|digit| imageops::resize(&digit, 32, 32, FilterType::Triangle))
            .collect();
        let seen: Vec<Seen> = digits.iter().map(Seen::of).collect();
        let by_hash = (0..seen.len()).filter(|i| seen[..*i].iter().any(|other| (other.hash ^ seen[*i].hash).count_ones() <= BITS)).count();
        let found = find(&seen.iter().collect::<Vec<_>>(), BITS);
        let taken = found.iter().filter(|like| like.is_some()).count();
        assert!(by_hash > 1000 && taken <= 3, "{taken} of {} digits are taken for copies, {by_hash} by their hashes", seen.len());
        let copies = digits.iter().step_by(20).map(|digit| Seen::of(&jpeg(&cropped(digit, 0.04, 0.5), 80)));
        let right = copies.zip((0..).step_by(20)).filter(|(copy, at)| copy.is_near(&seen[*at], BITS)).count();
        assert!(right * 100 >= 90 * digits.len().div_ceil(20), "{right} of {} copies", digits.len().div_ceil(20));
    }

    #[test]
    fn plain_images_of_other_colours_are_no_copies_whatever_their_hashes_are() {
        let plain: Vec<Seen> =
            [[200, 0, 0], [0, 200, 0], [0, 0, 200], [201, 1, 0]].map(|rgb| Seen::of(&RgbImage::from_pixel(32, 32, Rgb(rgb)))).to_vec();
        assert_eq!(plain[0].hash, plain[1].hash);
        assert_eq!(find(&plain.iter().collect::<Vec<_>>(), BITS), [None, None, None, Some(0)]);
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
            let seen: Vec<Seen> = all.iter().map(|hash| Seen { width: 1, height: 1, hash: *hash, small: vec![0; (3 * SMALL * SMALL) as usize] }).collect();
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
