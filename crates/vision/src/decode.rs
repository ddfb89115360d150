//! From the bytes of a file to the pixels of a square, whatever the file is: turned as its camera was held, over white where it is clear,
//! CMYK, grey and 16 bits as three bytes. What cannot be is said in words, never a panic.

use std::io::Cursor;

use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

/// Of the pixels of an image once decoded: a file of some bytes may claim to be any size.
const LARGEST_PIXELS: u64 = 512 << 20;
const LARGEST_SIDE: u32 = 1 << 15;
/// A smaller side tells nothing.
const SMALLEST_SIDE: u32 = 4;

/// The middle square of an image, `side` by `side`.
/// # Errors
/// In words, to follow the image's name.
pub fn square(bytes: &[u8], side: u32) -> Result<RgbImage, String> {
    cut(opened(bytes, side)?, side)
}

/// Side of a drawing that says of no pixels how many it has.
const DRAWN_SIDE: u32 = 256;

/// All of an image, as large as it is; a drawing with a shorter side of 256.
/// # Errors
/// As [`square`].
pub fn whole(bytes: &[u8]) -> Result<RgbImage, String> {
    let image = opened(bytes, DRAWN_SIDE)?;
    large_enough(&image)?;
    Ok(over_white(image))
}

/// Of a drawing so much that its shorter side is `side`.
fn opened(bytes: &[u8], side: u32) -> Result<DynamicImage, String> {
    if bytes.is_empty() {
        return Err("is empty".into());
    }
    // Decoders are others' code, and the input is whatever people have.
    let decoded = std::panic::catch_unwind(|| if is_svg(bytes) { svg(bytes, side) } else { decode(bytes) });
    decoded.unwrap_or_else(|_| Err("is damaged in a way that its decoder does not know".into()))
}

fn large_enough(image: &DynamicImage) -> Result<(), String> {
    let (width, height) = (image.width(), image.height());
    if width.min(height) < SMALLEST_SIDE { Err(format!("is {width}x{height}, too small")) } else { Ok(()) }
}

fn decode(bytes: &[u8]) -> Result<DynamicImage, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    if is_animated(bytes, reader.format()) {
        return Err("is animated".into());
    }
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(LARGEST_SIDE), Some(LARGEST_SIDE));
    limits.max_alloc = Some(LARGEST_PIXELS);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| format!("is no image: {e}"))?;
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > LARGEST_PIXELS {
        return Err(format!("is {width}x{height}, more than {} MiB once decoded", LARGEST_PIXELS >> 20));
    }
    let orientation = decoder.orientation().map_err(|e| format!("is damaged: {e}"))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| format!("is damaged: {e}"))?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn is_animated(bytes: &[u8], format: Option<ImageFormat>) -> bool {
    match format {
        Some(ImageFormat::Png) => {
            image::codecs::png::PngDecoder::new(Cursor::new(bytes)).is_ok_and(|decoder| decoder.is_apng().unwrap_or(false))
        }
        Some(ImageFormat::WebP) => image::codecs::webp::WebPDecoder::new(Cursor::new(bytes)).is_ok_and(|decoder| decoder.has_animation()),
        _ => bytes.starts_with(b"GIF8"),
    }
}

/// Text that begins as XML does; PNG, JPEG and WebP do not.
fn is_svg(bytes: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]);
    head.trim_start_matches(['\u{feff}', ' ', '\n', '\r', '\t']).starts_with('<') && head.contains("<svg")
}

/// Drawn at once as large as it is wanted, over white.
#[cfg(feature = "svg")]
fn svg(bytes: &[u8], side: u32) -> Result<DynamicImage, String> {
    use resvg::{tiny_skia, usvg};
    let tree = usvg::Tree::from_data(bytes, &usvg::Options::default()).map_err(|e| format!("is no SVG: {e}"))?;
    let (width, height) = (tree.size().width(), tree.size().height());
    let scale = side as f32 / width.min(height);
    let [across, down] = [width, height].map(|length| (length * scale).round());
    let is_sound = |length: f32| length.is_finite() && (1.0..=LARGEST_SIDE as f32).contains(&length);
    if !is_sound(across) || !is_sound(down) || u64::from(across as u32) * u64::from(down as u32) * 4 > LARGEST_PIXELS {
        return Err(format!("is {width}x{height}, which is no size to draw"));
    }
    let mut pixels = tiny_skia::Pixmap::new(across as u32, down as u32).ok_or("is too large to draw")?;
    pixels.fill(tiny_skia::Color::WHITE);
    resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixels.as_mut());
    let image = image::RgbaImage::from_raw(across as u32, down as u32, pixels.take()).ok_or("is too large to draw")?;
    Ok(DynamicImage::ImageRgba8(image))
}

#[cfg(not(feature = "svg"))]
fn svg(_bytes: &[u8], _side: u32) -> Result<DynamicImage, String> {
    Err("is SVG, which this build does not draw: build with `--features svg`".into())
}

fn cut(image: DynamicImage, side: u32) -> Result<RgbImage, String> {
    let (width, height) = (image.width(), image.height());
    let least = width.min(height);
    large_enough(&image)?;
    // Over white first: colours of clear parts would run into others as it is resized.
    let whole = over_white(image);
    Ok(part(&whole, [(width - least) / 2, (height - least) / 2], least, side))
}

/// The square of `from` pixels at column and line `at` of an image, as `side` by `side` pixels: each the mean of those that it covers,
/// near ones the more (Pillow's bilinear filter).
pub(crate) fn part(image: &RgbImage, at: [u32; 2], from: u32, side: u32) -> RgbImage {
    if [image.width(), image.height(), from] == [side; 3] {
        return image.clone();
    }
    let [left, top] = at.map(f64::from);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    let options = options.crop(left, top, f64::from(from), f64::from(from));
    let mut to = images::Image::new(side, side, PixelType::U8x3);
    let resized = images::ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3)
        .map(|image| Resizer::new().resize(&image, &mut to, &options).is_ok());
    assert!(matches!(resized, Ok(true)), "a square of {from} at {at:?} is inside {} x {}", image.width(), image.height());
    RgbImage::from_raw(side, side, to.into_vec()).unwrap_or_default()
}

fn over_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let mix = |[red, green, blue, alpha]: [u8; 4]| {
        let alpha = u32::from(alpha);
        [red, green, blue].map(|c| ((u32::from(c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
    };
    let rgba = image.into_rgba8();
    let (width, height) = rgba.dimensions();
    let bytes = rgba.as_chunks().0.iter().flat_map(|pixel| mix(*pixel)).collect();
    RgbImage::from_raw(width, height, bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use image::{ImageBuffer, Rgb, Rgba};
    use proptest::prelude::*;

    use super::*;

    fn png(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn images_of_any_kind_become_squares_of_three_bytes() {
        let first = |bytes: &[u8]| square(bytes, 8).map(|image| image.get_pixel(3, 3).0);
        let grey = DynamicImage::ImageLuma8(ImageBuffer::from_pixel(40, 20, image::Luma([100])));
        assert_eq!(first(&png(&grey)), Ok([100; 3]));
        let clear = DynamicImage::ImageRgba8(ImageBuffer::from_pixel(16, 16, Rgba([0, 0, 0, 0])));
        assert_eq!(first(&png(&clear)), Ok([255; 3]), "what is clear is white");
        let deep = DynamicImage::ImageRgb16(ImageBuffer::from_pixel(16, 16, Rgb([65535, 0, 0])));
        assert_eq!(first(&png(&deep)), Ok([255, 0, 0]), "16 bits");
        let jpeg = |name: &str| std::fs::read(format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        // Both are red above and blue below, as a person sees them; see fixtures/README.md.
        for name in ["cmyk.jpg", "turned.jpg"] {
            let image = square(&jpeg(name), 8).unwrap_or_else(|problem| panic!("{name} {problem}"));
            let (above, below) = (image.get_pixel(4, 1).0, image.get_pixel(4, 6).0);
            assert!(above[0] > 180 && above[2] < 80 && below[2] > 180 && below[0] < 80, "{name}: {above:?} {below:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        let says = |bytes: &[u8]| square(bytes, 8).unwrap_err();
        let whole = png(&DynamicImage::new_rgb8(40, 20));
        assert_eq!(says(b""), "is empty");
        assert!(says(b"this is no image").starts_with("is no image"));
        assert!(says(&whole[..whole.len() / 2]).contains("is damaged"));
        assert_eq!(says(&png(&DynamicImage::new_rgb8(2, 50))), "is 2x50, too small");
        assert_eq!(says(b"GIF89a"), "is animated");
        // A header that claims 30,000 by 30,000 pixels, and has none.
        let mut bomb = whole.clone();
        bomb[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        assert!(says(&bomb).contains("MiB once decoded"), "{}", says(&bomb));
    }

    #[cfg(feature = "svg")]
    #[test]
    fn drawings_are_drawn_over_white() {
        let drawing = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><rect width="10" height="5" fill="#f00"/></svg>"##;
        let image = square(drawing.as_bytes(), 8).unwrap();
        assert_eq!((image.get_pixel(4, 1).0, image.get_pixel(4, 6).0), ([255, 0, 0], [255; 3]));
        assert!(square(b"<svg", 8).unwrap_err().starts_with("is no SVG"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..400, byte: u8) {
            let _ = square(&bytes, 8);
            let mut file = png(&DynamicImage::new_rgb8(9, 7));
            let place = at % file.len();
            file[place] = byte;
            let _ = square(&file, 8);
        }
    }
}
