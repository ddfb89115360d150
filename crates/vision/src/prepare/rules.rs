//! What an image and its caption have to be: each rule has a name, by which what broke it is counted.

use image::RgbImage;

use super::{CaptionOptions, PrepareOptions};

type Broken = (&'static str, String);

/// The sides of an image.
pub(super) fn of_size(image: &RgbImage, options: &PrepareOptions) -> Result<(), Broken> {
    let (width, height) = image.dimensions();
    let (short, long) = (width.min(height), width.max(height));
    if short < options.least_side_px {
        return Err(("small", format!("is {width}x{height}, and its sides have to be at least {}", options.least_side_px)));
    }
    let aspect = f64::from(long) / f64::from(short);
    if aspect > options.most_aspect {
        return Err(("aspect", format!("is {width}x{height}, {aspect:.1} to 1")));
    }
    Ok(())
}

/// A caption, or that there is none.
pub(super) fn of_caption(caption: Option<&str>, options: &CaptionOptions) -> Result<(), Broken> {
    let Some(caption) = caption else { return Err(("no_caption", "has no caption".into())) };
    let chars = caption.chars().count();
    let said = || caption.chars().take(60).collect::<String>();
    if chars < options.least_chars {
        return Err(("caption_short", format!("says only `{}`", said())));
    }
    if chars > options.most_chars {
        return Err(("caption_long", format!("has a caption of {chars} characters: `{}...`", said())));
    }
    if caption.contains("://") || is_file_name(caption) {
        return Err(("caption_address", format!("has an address or a file's name for a caption: `{}`", said())));
    }
    let letters = caption.chars().filter(|c| c.is_alphabetic() || c.is_whitespace()).count();
    if (letters as f64) < options.least_letters * chars as f64 {
        return Err(("caption_letters", format!("has a caption of few letters: `{}`", said())));
    }
    Ok(())
}

/// One word that ends as images do.
fn is_file_name(caption: &str) -> bool {
    let ending = caption.rsplit_once('.').map(|(_, ending)| ending.to_lowercase());
    !caption.contains(char::is_whitespace) && ending.is_some_and(|ending| ["jpg", "jpeg", "png", "webp", "gif", "svg"].contains(&&*ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_broken_by_what_it_is_for_and_by_nothing_else() {
        let options = PrepareOptions { least_side_px: 10, most_aspect: 2.0, ..PrepareOptions::default() };
        let size = |width, height| of_size(&RgbImage::new(width, height), &options).err().map(|(rule, _)| rule);
        assert_eq!([size(10, 10), size(20, 10), size(9, 10), size(21, 10)], [None, None, Some("small"), Some("aspect")]);
        let captions = CaptionOptions { most_chars: 20, ..CaptionOptions::default() };
        for (caption, want) in [
            (None, Some("no_caption")),
            (Some("a red cat"), None),
            (Some("ein rötlicher Kater"), None),
            (Some("一只红色的猫"), None),
            (Some("a"), Some("caption_short")),
            (Some("a very long caption indeed"), Some("caption_long")),
            (Some("IMG_2041.JPG"), Some("caption_address")),
            (Some("see http://x.y"), Some("caption_address")),
            (Some("$19.99 (-20%)"), Some("caption_letters")),
        ] {
            assert_eq!(of_caption(caption, &captions).err().map(|(rule, _)| rule), want, "{caption:?}");
        }
    }
}
