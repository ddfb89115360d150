//! What features know of classes, without training the model: a linear probe, the nearest neighbours, and what guessing the most common
//! class gives.

use super::spread::Features;

/// Of the held-out features, the share that a linear classifier gets right which was fitted on `train`: multinomial logistic regression
/// with a little weight decay, over columns of mean 0 and variance 1, by accelerated gradient descent to its (one) minimum.
#[must_use]
pub fn linear(train: (&Features, &[u32]), held_out: (&Features, &[u32]), classes: usize) -> f64 {
    let (features, labels) = train;
    let width = features.width;
    let mean = features.mean();
    let mut deviation = vec![0.0; width];
    features.rows().for_each(|row| deviation.iter_mut().zip(row).zip(&mean).for_each(|((sum, v), m)| *sum += (f64::from(*v) - m).powi(2)));
    deviation.iter_mut().for_each(|sum| *sum = (*sum / features.count().max(1) as f64).sqrt().max(1e-6));
    let normed = |features: &Features| -> Vec<Vec<f64>> {
        let row = |row: &[f32]| row.iter().enumerate().map(|(i, v)| (f64::from(*v) - mean[i]) / deviation[i]).chain([1.0]).collect();
        features.rows().map(row).collect()
    };
    let rows = normed(features);
    let weights = fit(&rows, labels, classes, width + 1);
    let is_right = |row: &Vec<f64>, label: &u32| best(&scores(&weights, row, classes)) == *label as usize;
    share(normed(held_out.0).iter().zip(held_out.1).map(|(row, label)| is_right(row, label)))
}

/// Rounds of descent, and the weight decay that makes the minimum one.
const ROUNDS: usize = 300;
const DECAY: f64 = 1e-3;

fn scores(weights: &[f64], row: &[f64], classes: usize) -> Vec<f64> {
    let width = row.len();
    (0..classes).map(|class| weights[class * width..][..width].iter().zip(row).map(|(a, b)| a * b).sum()).collect()
}

fn best(scores: &[f64]) -> usize {
    let better = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
    (0..scores.len()).fold(0, better)
}

fn share(right: impl Iterator<Item = bool>) -> f64 {
    let (mut count, mut all) = (0, 0);
    right.for_each(|is_right| {
        count += usize::from(is_right);
        all += 1;
    });
    f64::from(count as u32) / f64::from(all.max(1) as u32)
}

/// Nesterov's method, with a step from the largest curvature: half of the largest eigenvalue of the rows' second moments.
fn fit(rows: &[Vec<f64>], labels: &[u32], classes: usize, width: usize) -> Vec<f64> {
    let step = 1.0 / (0.5 * curvature(rows, width) + DECAY);
    let (mut weights, mut before) = (vec![0.0; classes * width], vec![0.0; classes * width]);
    for round in 0..ROUNDS {
        let momentum = round as f64 / (round as f64 + 3.0);
        let ahead: Vec<f64> = weights.iter().zip(&before).map(|(w, b)| w + momentum * (w - b)).collect();
        let mut gradient: Vec<f64> = ahead.iter().map(|w| DECAY * w).collect();
        for (row, label) in rows.iter().zip(labels) {
            let mut scores = scores(&ahead, row, classes);
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            scores.iter_mut().for_each(|score| *score = (*score - most).exp());
            let sum: f64 = scores.iter().sum();
            for (class, score) in scores.iter().enumerate() {
                let slope = (score / sum - f64::from(class == *label as usize)) / rows.len() as f64;
                gradient[class * width..][..width].iter_mut().zip(row).for_each(|(to, v)| *to += slope * v);
            }
        }
        before = std::mem::replace(&mut weights, ahead.iter().zip(&gradient).map(|(w, g)| w - step * g).collect());
    }
    weights
}

fn curvature(rows: &[Vec<f64>], width: usize) -> f64 {
    let (mut vector, mut value) = (vec![1.0; width], 1.0);
    for _ in 0..20 {
        let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-30);
        vector.iter_mut().for_each(|v| *v /= length);
        let mut next = vec![0.0; width];
        for row in rows {
            let along: f64 = row.iter().zip(&vector).map(|(a, b)| a * b).sum::<f64>() / rows.len() as f64;
            next.iter_mut().zip(row).for_each(|(to, v)| *to += along * v);
        }
        value = next.iter().zip(&vector).map(|(a, b)| a * b).sum();
        vector = next;
    }
    // The power method comes from below.
    1.1 * value
}

/// Neighbours, and the temperature of their votes: those of DINO (arXiv:2104.14294, appendix), of which there are fewer with few images.
pub const NEIGHBOURS: usize = 20;
const TEMPERATURE: f64 = 0.07;

/// The same share by the votes of the nearest neighbours, by the cosine of features.
#[must_use]
pub fn neighbours(train: (&Features, &[u32]), held_out: (&Features, &[u32]), classes: usize) -> f64 {
    let mean = train.0.mean();
    // Around their mean: what all features have in common says nothing.
    let unit = |row: &[f32]| -> Vec<f64> {
        let centred: Vec<f64> = row.iter().zip(&mean).map(|(v, m)| f64::from(*v) - m).collect();
        let length = centred.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-30);
        centred.iter().map(|v| v / length).collect()
    };
    let known: Vec<Vec<f64>> = train.0.rows().map(unit).collect();
    let is_right = |(row, label): (&[f32], &u32)| {
        let row = unit(row);
        let mut near: Vec<(f64, u32)> =
            known.iter().zip(train.1).map(|(other, label)| (other.iter().zip(&row).map(|(a, b)| a * b).sum(), *label)).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut votes = vec![0.0; classes];
        near.iter().take(NEIGHBOURS).for_each(|(cosine, label)| votes[*label as usize] += (cosine / TEMPERATURE).exp());
        best(&votes) == *label as usize
    };
    share(held_out.0.rows().zip(held_out.1).map(is_right))
}

/// The share that the most common class of `train` has of `held_out`.
#[must_use]
pub fn prior(train: &[u32], held_out: &[u32], classes: usize) -> f64 {
    let mut counts = vec![0.0; classes];
    train.iter().for_each(|label| counts[*label as usize] += 1.0);
    let most = best(&counts) as u32;
    share(held_out.iter().map(|label| *label == most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::Draws;

    /// Three classes whose means lie apart along two of eight columns, of which others are large and say nothing.
    fn clouds(seed: u64, count: usize) -> (Features, Vec<u32>) {
        let (mut draws, mut values, mut labels) = (Draws::new(seed), Vec::new(), Vec::new());
        for i in 0..count {
            let class = (i % 3) as u32;
            let angle = f64::from(class) * 2.1;
            for column in 0..8 {
                let mean = [3.0 * angle.cos(), 3.0 * angle.sin()].get(column).copied().unwrap_or(0.0);
                values.push((mean + draws.normal() * if column > 5 { 2.0 } else { 0.7 }) as f32);
            }
            labels.push(class);
        }
        (Features { width: 8, values }, labels)
    }

    #[test]
    fn classes_that_lie_apart_are_found_and_labels_at_random_are_not() {
        let ((train, labels), (held_out, wanted)) = (clouds(1, 300), clouds(2, 150));
        assert!(linear((&train, &labels), (&held_out, &wanted), 3) > 0.97);
        assert!(neighbours((&train, &labels), (&held_out, &wanted), 3) > 0.9);
        let mut draws = Draws::new(3);
        let random: Vec<u32> = labels.iter().map(|_| draws.below(3) as u32).collect();
        let by_chance = linear((&train, &random), (&held_out, &wanted), 3);
        assert!((0.1..0.6).contains(&by_chance), "{by_chance}");
        assert_eq!(prior(&[0, 1, 1, 2], &[1, 0, 1, 2], 3), 0.5);
    }
}
