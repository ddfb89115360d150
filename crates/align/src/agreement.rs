//! How far rankers agree, and what their rankings lean on: Kendall's W, Krippendorff's alpha, length and place.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::preferences::Preference;

/// What a set of preferences is like.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    pub rankings: usize,
    pub prompts: usize,
    pub pairs: usize,
    /// Pairs that tie, as a share of all.
    pub tie_share: f64,
    /// Share of the pairs of which the longer response is the better; 0.5 leans on nothing.
    pub longer_is_better: f64,
    /// Share of the pairs of which the response that stands first is the better.
    pub first_is_better: f64,
    /// Rankings that say word for word what another says.
    pub duplicates: usize,
    /// Of prompts that several ranked: agreement of ranks (0 none, 1 all alike), the mean over prompts, and how many there are.
    pub kendall_w: Option<f64>,
    /// Agreement of ranks beyond chance, over all prompts that several ranked.
    pub krippendorff_alpha: Option<f64>,
    pub shared_prompts: usize,
    /// Rankings of each ranker.
    pub rankers: BTreeMap<String, usize>,
}

/// Look at `all`.
#[must_use]
pub fn statistics(all: &[Preference]) -> Statistics {
    let mut by_prompt: BTreeMap<(&str, Vec<&str>), Vec<&Preference>> = BTreeMap::new();
    let mut rankers = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    let (mut pairs, mut longer, mut first, mut of_length, mut ties, mut possible) = (0_usize, 0.0, 0.0, 0.0, 0_usize, 0_usize);
    let mut duplicates = 0;
    for one in all {
        // Rankers may have seen them in other orders.
        let mut texts: Vec<&str> = one.responses.iter().map(String::as_str).collect();
        texts.sort_unstable();
        by_prompt.entry((one.prompt.as_str(), texts)).or_default().push(one);
        *rankers.entry(one.by.as_ref().map_or_else(|| "unknown".to_owned(), |by| by.name.clone())).or_insert(0) += 1;
        duplicates += usize::from(!seen.insert((&one.prompt, &one.responses, &one.ranks, &one.by)));
        let n = one.responses.len();
        possible += n * n.saturating_sub(1) / 2;
        for (better, worse) in one.pairs() {
            pairs += 1;
            first += f64::from(u8::from(better < worse));
            let lengths = (one.responses[better].len(), one.responses[worse].len());
            if lengths.0 != lengths.1 {
                of_length += 1.0;
                longer += f64::from(u8::from(lengths.0 > lengths.1));
            }
        }
    }
    ties += possible - pairs;
    let shared: Vec<Vec<Vec<f64>>> = by_prompt
        .iter()
        .filter(|(_, rankings)| rankings.len() > 1)
        .map(|((_, texts), rankings)| rankings.iter().map(|one| ranks_of(one, texts)).collect())
        .collect();
    let ws: Vec<f64> = shared.iter().filter_map(|raters| kendall_w(raters)).collect();
    let units: Vec<Vec<f64>> =
        shared.iter().flat_map(|raters| (0..raters[0].len()).map(|item| raters.iter().map(|ranks| ranks[item]).collect())).collect();
    Statistics {
        rankings: all.len(),
        prompts: all.iter().map(|one| &one.prompt).collect::<std::collections::BTreeSet<_>>().len(),
        pairs,
        tie_share: ties as f64 / possible.max(1) as f64,
        longer_is_better: if of_length > 0.0 { longer / of_length } else { 0.5 },
        first_is_better: if pairs > 0 { first / pairs as f64 } else { 0.5 },
        duplicates,
        kendall_w: (!ws.is_empty()).then(|| ws.iter().sum::<f64>() / ws.len() as f64),
        krippendorff_alpha: krippendorff_alpha(&units),
        shared_prompts: shared.len(),
        rankers,
    }
}

/// The ranks that `one` gives to `texts`, ties as their mean, from 1.
fn ranks_of(one: &Preference, texts: &[&str]) -> Vec<f64> {
    let rank = |text: &&str| one.responses.iter().position(|response| response == text).map_or(0, |at| one.ranks[at]);
    let ranks: Vec<u32> = texts.iter().map(rank).collect();
    let mean = |rank: &u32| {
        let (below, alike) = (ranks.iter().filter(|other| *other < rank).count(), ranks.iter().filter(|other| *other == rank).count());
        below as f64 + (alike as f64 + 1.0) / 2.0
    };
    ranks.iter().map(mean).collect()
}

/// Kendall's coefficient of concordance of `raters`, each the ranks of the same items, corrected for ties (Kendall & Gibbons, *Rank
/// Correlation Methods*, 1990, chapter 6). None where nobody tells items apart.
#[must_use]
pub fn kendall_w(raters: &[Vec<f64>]) -> Option<f64> {
    let (m, n) = (raters.len() as f64, raters.first()?.len());
    let sums: Vec<f64> = (0..n).map(|item| raters.iter().map(|ranks| ranks[item]).sum()).collect();
    let mean = sums.iter().sum::<f64>() / n as f64;
    let spread: f64 = sums.iter().map(|sum| (sum - mean).powi(2)).sum();
    let ties: f64 = raters
        .iter()
        .map(|ranks| {
            let mut sorted = ranks.clone();
            sorted.sort_by(f64::total_cmp);
            sorted.chunk_by(|a, b| a == b).map(|tied| (tied.len() as f64).powi(3) - tied.len() as f64).sum::<f64>()
        })
        .sum();
    let n = n as f64;
    let most = m * m * (n.powi(3) - n) - m * ties;
    (most > 0.0).then(|| 12.0 * spread / most)
}

/// Krippendorff's alpha of interval data: `units`, each with the numbers that its raters gave (*Content Analysis*, 2004, section 11.3).
/// None without two numbers in a unit, or where all numbers are alike.
#[must_use]
pub fn krippendorff_alpha(units: &[Vec<f64>]) -> Option<f64> {
    let units: Vec<&Vec<f64>> = units.iter().filter(|unit| unit.len() > 1).collect();
    let all: Vec<f64> = units.iter().copied().flatten().copied().collect();
    let n = all.len() as f64;
    let apart = |values: &[f64]| {
        let (sum, squares) = (values.iter().sum::<f64>(), values.iter().map(|v| v * v).sum::<f64>());
        // Over ordered pairs.
        2.0 * (values.len() as f64 * squares - sum * sum)
    };
    let observed: f64 = units.iter().map(|unit| apart(unit) / (unit.len() as f64 - 1.0)).sum::<f64>() / n;
    let expected = apart(&all) / (n * (n - 1.0));
    (n > 1.0 && expected > 0.0).then(|| 1.0 - observed / expected)
}

/// Share of the pairs that length alone orders right, the better way round, equal lengths as half: what a reward model has to beat.
#[must_use]
pub fn length_accuracy(all: &[Preference]) -> f64 {
    let (mut pairs, mut longer) = (0, 0.0);
    for one in all {
        for (better, worse) in one.pairs() {
            pairs += 1;
            longer += match one.responses[better].len().cmp(&one.responses[worse].len()) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    let share = longer / f64::from(pairs.max(1));
    if pairs == 0 { 0.5 } else { share.max(1.0 - share) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preferences::Ranker;

    #[test]
    fn coefficients_are_those_of_their_sources() {
        // Three raters of six items, as in the article on Kendall's W of the R package irr's manual: by hand, S = 173.5 of 367.5 at most.
        let raters = [vec![1.0, 2.0, 3.0], vec![1.0, 2.0, 3.0], vec![1.0, 2.0, 3.0]];
        assert_eq!(kendall_w(&raters), Some(1.0));
        let split = [vec![1.0, 2.0, 3.0], vec![3.0, 2.0, 1.0]];
        assert_eq!(kendall_w(&split), Some(0.0));
        assert_eq!(kendall_w(&[vec![2.0, 2.0, 2.0], vec![2.0, 2.0, 2.0]]), None, "nobody tells them apart");
        // Two raters, ten units, one disagreement of 1: alpha by hand.
        let mut units: Vec<Vec<f64>> = (0..10).map(|i| vec![f64::from(i), f64::from(i)]).collect();
        units[0] = vec![0.0, 1.0];
        let alpha = krippendorff_alpha(&units).unwrap();
        let all: Vec<f64> = units.iter().flatten().copied().collect();
        let expected: f64 = all.iter().flat_map(|a| all.iter().map(move |b| (a - b).powi(2))).sum::<f64>() / (20.0 * 19.0);
        assert!((alpha - (1.0 - (2.0 / 20.0) / expected)).abs() < 1e-12, "{alpha}");
        assert_eq!(krippendorff_alpha(&[vec![1.0], vec![2.0]]), None);
    }

    #[test]
    fn what_rankings_lean_on_is_told() {
        let by = |name: &str| Some(Ranker::signal(name));
        let of = |responses: [&str; 2], scores: [f64; 2], name: &str| {
            Preference::of_scores("p".into(), responses.map(str::to_owned).to_vec(), &scores, by(name))
        };
        let all = [of(["long answer", "no"], [1.0, 0.0], "a"), of(["no", "long answer"], [0.0, 1.0], "b"), of(["x", "y"], [1.0, 1.0], "a")];
        let found = statistics(&all);
        assert_eq!((found.pairs, found.longer_is_better, found.first_is_better), (2, 1.0, 0.5));
        assert_eq!((found.kendall_w, found.shared_prompts, found.rankers["a"]), (Some(1.0), 1, 2));
        assert!((found.tie_share - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!((length_accuracy(&all[..2]), length_accuracy(&all[2..])), (1.0, 0.5));
    }
}
