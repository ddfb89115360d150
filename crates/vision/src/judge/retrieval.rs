//! What CLIP finds: the caption of an image and the image of a caption among all held-out pairs, and the class of an image by its name
//! alone.

use models::clip::{Clip, ClipConfig};
use train::{TrainError, run::Loaded};

use super::{Findings, Shown};
use crate::{
    feed::Images,
    passes,
    sheet::sheet,
    tasks::{Captions, compared},
};

/// Pairs that are shown.
const SHOWN: usize = 12;

/// Held-out images and captions as the model compares them.
pub struct Compared {
    width: usize,
    pairs: Vec<f32>,
}

impl Compared {
    /// # Errors
    /// When a pair cannot be read, or memory is short.
    pub fn of(loaded: &mut Loaded, images: &Images) -> Result<(Self, Clip), TrainError> {
        let config: ClipConfig = models::typed(&loaded.model.config())?;
        let width = config.embed;
        let clip = Clip::new(config)?;
        let pairs = compared(&clip, &mut loaded.store, loaded.precision, images)?;
        Ok((Self { width, pairs }, clip))
    }

    fn count(&self) -> usize {
        self.pairs.len() / (2 * self.width)
    }

    fn image(&self, i: usize) -> &[f32] {
        &self.pairs[2 * i * self.width..][..self.width]
    }

    fn text(&self, i: usize) -> &[f32] {
        &self.pairs[(2 * i + 1) * self.width..][..self.width]
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>() / a.len() as f32
}

/// The place of the highest of `count` scores, the first of equals.
fn highest(count: usize, score: impl Fn(usize) -> f32) -> usize {
    (1..count).fold(0, |best, i| if score(i) > score(best) { i } else { best })
}

/// Of each held-out image the nearest caption, by number.
#[must_use]
pub fn nearest_captions(compared: &Compared) -> Vec<usize> {
    let count = compared.count();
    (0..count).map(|i| highest(count, |j| cosine(compared.image(i), compared.text(j)))).collect()
}

pub(super) fn judge(loaded: &mut Loaded, images: &Images) -> Result<Findings, TrainError> {
    let (compared, clip) = Compared::of(loaded, images)?;
    let ([_, held_out], count) = (images.split(), compared.count());
    let captions: Vec<&str> = held_out.iter().map(|picture| images.caption(*picture).unwrap_or_default()).collect();
    // Of several images with one caption each is right.
    let share = |found: &[usize]| found.iter().enumerate().filter(|(i, j)| captions[*i] == captions[**j]).count() as f64 / count as f64;
    let nearest = nearest_captions(&compared);
    let of_texts: Vec<usize> = (0..count).map(|j| highest(count, |i| cosine(compared.image(i), compared.text(j)))).collect();
    // What guessing finds, captions that come several times counted.
    let chance =
        captions.iter().map(|one| captions.iter().filter(|other| *other == one).count() as f64 / count as f64).sum::<f64>() / count as f64;
    let mut findings = Findings {
        figures: vec![("recall_at_1", share(&nearest)), ("image_recall_at_1", share(&of_texts)), ("chance", chance)],
        ..Findings::default()
    };
    let distinct = captions.iter().collect::<std::collections::BTreeSet<_>>().len();
    findings.notes.push(format!(
        "`recall_at_1`: of {count} held-out images the caption (of {distinct} distinct ones) found first is its own; `image_recall_at_1`: the \
         other way round; `chance`: by guessing"
    ));
    if images.class_names().len() > 1
        && let Some(captions) = images.captions()
    {
        let (accuracy, prior) = zero_shot(&compared, &clip, loaded, images, captions)?;
        findings.figures.extend([("zero_shot_accuracy", accuracy), ("prior_accuracy", prior)]);
        findings.notes.push("`zero_shot_accuracy`: the name of an image's class is nearer to it than those of the others".into());
    }
    let pictures = (0..count.min(SHOWN)).map(|i| i * count / count.min(SHOWN));
    for i in pictures {
        let said = if captions[i] == captions[nearest[i]] { "its own" } else { "another's" };
        findings.shown.push(Shown {
            title: captions[nearest[i]].to_owned(),
            text: format!("nearest of {count} captions, {said}; its own is: {}", captions[i]),
            image: sheet(&[images.picture(held_out[i])?], 1),
        });
    }
    Ok(findings)
}

/// The share of held-out images whose class is found by its name, and what naming the most common class gives.
fn zero_shot(
    compared: &Compared,
    clip: &Clip,
    loaded: &mut Loaded,
    images: &Images,
    captions: &Captions,
) -> Result<(f64, f64), TrainError> {
    let names: Vec<String> = images.class_names().iter().map(|name| name.replace(['_', '-'], " ")).collect();
    let texts = |range: std::ops::Range<u64>| {
        captions.inputs(&names[range.start as usize..range.end as usize].iter().map(String::as_str).collect::<Vec<_>>())
    };
    let rows = passes::run(clip, &mut loaded.store, loaded.precision, names.len() as u64, texts, Clip::of_texts)?;
    let [train, held_out] = images.split();
    let (width, classes) = (compared.width, names.len());
    let right = |(i, picture): &(usize, &usize)| {
        highest(classes, |class| cosine(compared.image(*i), &rows[class * width..][..width])) == images.class(**picture) as usize
    };
    let labels = |pictures: &[usize]| pictures.iter().map(|picture| images.class(*picture)).collect::<Vec<_>>();
    let found = held_out.iter().enumerate().filter(right).count() as f64 / held_out.len().max(1) as f64;
    Ok((found, super::probe::prior(&labels(train), &labels(held_out), classes)))
}
