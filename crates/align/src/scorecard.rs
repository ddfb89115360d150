//! What a reward model is worth on rankings that it did not learn from: its accuracy by ranker and by length, beside what length alone
//! gives; whether it is as sure as it is right; and where several were trained, how far they disagree (arXiv:2310.02743).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{agreement::length_accuracy, objectives::sigmoid, preferences::Preference};

/// See the head of this file. Shares are of pairs of which one response is better.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scorecard {
    pub rankings: usize,
    pub pairs: usize,
    pub accuracy: f64,
    /// Of each model by itself.
    pub accuracy_of_each: Vec<f64>,
    /// Ordered right by length alone: what has to be beaten.
    pub length_accuracy: f64,
    /// Of the pairs whose better one is the longer, and the shorter: far apart in a model that reads length.
    pub accuracy_if_longer: Option<f64>,
    pub accuracy_if_shorter: Option<f64>,
    pub by_ranker: BTreeMap<String, Share>,
    pub calibration: Vec<Bin>,
    /// Mean distance of the two sides of `calibration` (expected calibration error).
    pub calibration_error: f64,
    /// Share of the pairs that two of the models order differently, over all two of them.
    pub disagreement: Option<f64>,
}

/// Of so many pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    pub pairs: usize,
    pub accuracy: f64,
}

/// Pairs of which a model is about as sure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    pub pairs: usize,
    /// Mean probability of the one that it takes for the better, 0.5 to 1, and the share of them that are.
    pub predicted: f64,
    pub observed: f64,
}

const BINS: usize = 5;

/// A pair as the mean of the models sees it.
struct Pair<'a> {
    ranker: &'a str,
    /// Bytes of the better less those of the worse.
    longer: i64,
    /// Rewards of the better less those of the worse, of each model.
    ahead: Vec<f64>,
}

impl Pair<'_> {
    fn mean(&self) -> f64 {
        self.ahead.iter().sum::<f64>() / self.ahead.len().max(1) as f64
    }
}

/// Whether a difference orders a pair right; none as half.
fn right(ahead: f64) -> f64 {
    if ahead == 0.0 { 0.5 } else { f64::from(u8::from(ahead > 0.0)) }
}

/// Look at `all`, to whose responses each of the models gives `rewards[model][ranking][response]`.
#[must_use]
pub fn scorecard(rewards: &[Vec<Vec<f64>>], all: &[Preference]) -> Scorecard {
    let mut pairs: Vec<Pair> = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let ranker = one.by.as_ref().map_or("unknown", |by| by.name.as_str());
        for (better, worse) in one.pairs() {
            let ahead = rewards.iter().map(|of_model| of_model[i][better] - of_model[i][worse]).collect();
            pairs.push(Pair { ranker, longer: one.responses[better].len() as i64 - one.responses[worse].len() as i64, ahead });
        }
    }
    let accuracy = |of: &mut dyn Iterator<Item = f64>| {
        let (count, sum) = of.fold((0_usize, 0.0), |(count, sum), ahead| (count + 1, sum + right(ahead)));
        (count > 0).then(|| Share { pairs: count, accuracy: sum / count as f64 })
    };
    let share = |share: Option<Share>| share.map(|share| share.accuracy);
    let rankers: std::collections::BTreeSet<&str> = pairs.iter().map(|pair| pair.ranker).collect();
    let by_ranker = rankers
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), accuracy(&mut pairs.iter().filter(|pair| pair.ranker == name).map(Pair::mean))?)));
    let models = rewards.len();
    let two: Vec<(usize, usize)> = (0..models).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
    let differ = |(a, b): &(usize, usize)| pairs.iter().filter(|pair| (pair.ahead[*a] > 0.0) != (pair.ahead[*b] > 0.0)).count();
    let compared = (two.len() * pairs.len()).max(1) as f64;
    let calibration = calibration(&pairs);
    let of_bins = |bin: &Bin| bin.pairs as f64 * (bin.predicted - bin.observed).abs();
    Scorecard {
        rankings: all.len(),
        pairs: pairs.len(),
        accuracy: share(accuracy(&mut pairs.iter().map(Pair::mean))).unwrap_or(0.5),
        accuracy_of_each: (0..models).map(|m| share(accuracy(&mut pairs.iter().map(|pair| pair.ahead[m]))).unwrap_or(0.5)).collect(),
        length_accuracy: length_accuracy(all),
        accuracy_if_longer: share(accuracy(&mut pairs.iter().filter(|pair| pair.longer > 0).map(Pair::mean))),
        accuracy_if_shorter: share(accuracy(&mut pairs.iter().filter(|pair| pair.longer < 0).map(Pair::mean))),
        by_ranker: by_ranker.collect(),
        calibration_error: calibration.iter().map(of_bins).sum::<f64>() / pairs.len().max(1) as f64,
        calibration,
        disagreement: (models > 1).then(|| two.iter().map(differ).sum::<usize>() as f64 / compared),
    }
}

/// Bins of pairs by how sure the models are.
fn calibration(pairs: &[Pair<'_>]) -> Vec<Bin> {
    let mut bins = vec![(0_usize, 0.0, 0.0); BINS];
    for ahead in pairs.iter().map(Pair::mean) {
        let sure = sigmoid(ahead.abs());
        let bin = &mut bins[(((sure - 0.5) * 2.0 * BINS as f64) as usize).min(BINS - 1)];
        *bin = (bin.0 + 1, bin.1 + sure, bin.2 + right(ahead));
    }
    let of = |(pairs, predicted, observed): (usize, f64, f64)| Bin {
        pairs,
        predicted: predicted / pairs as f64,
        observed: observed / pairs as f64,
    };
    bins.into_iter().filter(|bin| bin.0 > 0).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preferences::Ranker;

    #[test]
    fn accuracy_lengths_rankers_certainty_and_disagreement_are_those_by_hand() {
        let of = |responses: [&str; 2], by: &str| {
            Preference::of_scores("p".into(), responses.map(str::to_owned).to_vec(), &[1.0, 0.0], Some(Ranker::signal(by)))
        };
        let all = [of(["long one", "no"], "ann"), of(["no", "long one"], "ben"), of(["x", "y"], "ben")];
        // The first reads length; the second is right but for the last pair.
        let rewards = [vec![vec![2.0, 0.0], vec![0.0, 2.0], vec![0.0, 0.0]], vec![vec![1.0, 0.0], vec![1.0, 0.0], vec![0.0, 1.0]]];
        let one = scorecard(&rewards[..1], &all);
        assert_eq!((one.pairs, one.accuracy, one.accuracy_if_longer, one.accuracy_if_shorter), (3, 0.5, Some(1.0), Some(0.0)));
        assert_eq!((one.by_ranker["ann"], one.disagreement), (Share { pairs: 1, accuracy: 1.0 }, None));
        let both = scorecard(&rewards, &all);
        assert_eq!((both.accuracy_of_each[1], both.disagreement), (2.0 / 3.0, Some(1.0 / 3.0)));
        let sure = sigmoid(2.0);
        assert_eq!(one.calibration, [Bin { pairs: 1, predicted: 0.5, observed: 0.5 }, Bin { pairs: 2, predicted: sure, observed: 0.5 }]);
        assert!((one.calibration_error - 2.0 * (sure - 0.5) / 3.0).abs() < 1e-12);
    }
}
