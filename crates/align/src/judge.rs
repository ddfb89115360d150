//! Which of two models is preferred: both answer the same prompts, somebody judges both answers, and the share of prompts that one wins
//! comes with its interval.

use std::collections::{BTreeMap, HashMap};

use engine::mix;
use serde::Serialize;
use train::run::Loaded;

use crate::{
    AlignError,
    passes::Asked,
    respond::Responses,
    rollouts::{Group, Source},
    rows::Row,
};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub pairs: usize,
    /// Pairs beside these of which the judge said nothing.
    pub without_judgement: usize,
    /// Shares of the pairs; the three sum to one.
    pub win_rate: f64,
    pub loss_rate: f64,
    pub tie_rate: f64,
    /// Wins to a loss.
    pub ratio: f64,
    /// 95% of what other draws of as many prompts would give for `win_rate - loss_rate`, and for `ratio`.
    pub margin_interval: [f64; 2],
    pub ratio_interval: [f64; 2],
    /// Mean characters of a response, of the first and the second.
    pub chars: [f64; 2],
    /// Mean `ln p - ln p` of a response of the first, by the first and the second, in nats.
    pub kl: Option<f64>,
}

/// Draws of the bootstrap.
const DRAWS: u64 = 2000;

/// Judge the responses of `ours` against those of `theirs` to the same prompts, in pairs.
/// # Errors
/// When the judge fails, or no prompt is in both.
pub fn judge(
    ours: &[Responses],
    theirs: &[Responses],
    judge: &Source,
    rows: impl Fn(&str, &str) -> Result<Row, AlignError>,
) -> Result<Verdict, AlignError> {
    let of_prompt: HashMap<&str, &Responses> = theirs.iter().map(|b| (b.prompt.as_str(), b)).collect();
    let pairs: Vec<(&str, &str, &str)> = ours
        .iter()
        .filter_map(|a| Some((a, *of_prompt.get(a.prompt.as_str())?)))
        .flat_map(|(a, b)| a.responses.iter().zip(&b.responses).map(|(ours, theirs)| (a.prompt.as_str(), ours.as_str(), theirs.as_str())))
        .collect();
    if pairs.is_empty() {
        let help = "let both models answer the same file of prompts".into();
        return Err(AlignError::Signal { name: "judge".into(), problem: "no prompt was answered by both".into(), help });
    }
    let mut groups = Vec::with_capacity(pairs.len());
    for (prompt, a, b) in &pairs {
        groups.push(Group { prompt, responses: vec![*a, *b], rows: vec![rows(prompt, a)?, rows(prompt, b)?] });
    }
    let scores = judge.order(&groups)?;
    let judged = pairs.iter().zip(scores).filter_map(|((prompt, ..), scores)| Some((*prompt, scores?)));
    let outcome: Vec<(&str, i8)> = judged.map(|(prompt, scores)| (prompt, outcome_of(scores[0], scores[1]))).collect();
    let count = outcome.len().max(1) as f64;
    let share = |what: i8| outcome.iter().filter(|(_, one)| *one == what).count() as f64 / count;
    let (win_rate, loss_rate, tie_rate) = (share(1), share(-1), share(0));
    let [margin_interval, ratio_interval] = bootstrap(&outcome);
    let mean_chars = |side: usize| pairs.iter().map(|(_, a, b)| [*a, *b][side].chars().count() as f64).sum::<f64>() / pairs.len() as f64;
    Ok(Verdict {
        pairs: outcome.len(),
        without_judgement: pairs.len() - outcome.len(),
        win_rate,
        loss_rate,
        tie_rate,
        ratio: ratio(win_rate, loss_rate, count),
        margin_interval,
        ratio_interval,
        chars: [mean_chars(0), mean_chars(1)],
        kl: None,
    })
}

/// Wins to a loss; without a loss as if there were half of one.
fn ratio(win_rate: f64, loss_rate: f64, count: f64) -> f64 {
    win_rate / loss_rate.max(0.5 / count)
}

/// Of a pair with these scores. A reward model's numbers are never equal by chance alone: differences of rounding are ties.
fn outcome_of(a: f64, b: f64) -> i8 {
    if (a - b).abs() < 1e-6 {
        0
    } else if a > b {
        1
    } else {
        -1
    }
}

/// 95% intervals of wins less losses and of wins to a loss, over draws of prompts, all pairs of a prompt together.
fn bootstrap(outcome: &[(&str, i8)]) -> [[f64; 2]; 2] {
    let mut by_prompt: BTreeMap<&str, [f64; 3]> = BTreeMap::new();
    for (prompt, one) in outcome {
        let counts = by_prompt.entry(prompt).or_default();
        counts[(1 - one) as usize] += 1.0;
    }
    let prompts: Vec<[f64; 3]> = by_prompt.into_values().collect();
    let (mut margins, mut ratios) = (Vec::new(), Vec::new());
    for round in 1..=DRAWS {
        let mut sum = [0.0; 3];
        for i in 0..prompts.len() as u64 {
            let drawn = prompts[(mix(round << 32 ^ i) % prompts.len() as u64) as usize];
            sum.iter_mut().zip(drawn).for_each(|(sum, one)| *sum += one);
        }
        let [wins, ties, losses] = sum;
        let count = (wins + ties + losses).max(1.0);
        margins.push((wins - losses) / count);
        ratios.push(ratio(wins / count, losses / count, count));
    }
    [margins, ratios].map(|mut draws| {
        draws.sort_by(f64::total_cmp);
        let at = |share: f64| draws[((draws.len() - 1) as f64 * share) as usize];
        [at(0.025), at(0.975)]
    })
}

/// Mean divergence of `policy` from `base` over what the policy wrote, in nats a response.
/// # Errors
/// When one of them cannot be asked.
pub fn divergence(policy: &mut Loaded, base: &mut Loaded, rows: &[Row]) -> Result<f64, AlignError> {
    let sum = |said: &[crate::passes::Said]| said.iter().flat_map(|said| &said.log_probs).map(|p| f64::from(*p)).sum::<f64>();
    let ours = sum(&Asked::of(policy).say(rows)?);
    let theirs = sum(&Asked::of(base).say(rows)?);
    Ok((ours - theirs) / rows.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::{SignalOptions, open};

    #[test]
    fn wins_losses_and_ties_are_shares_with_an_interval_around_their_difference() {
        let of = |texts: &[&str]| -> Vec<Responses> {
            let one = |(i, text): (usize, &&str)| Responses {
                prompt: format!("{i} + 1 ="),
                responses: vec![(*text).to_owned()],
                seeds: vec![],
                model: String::new(),
                tokenizer: None,
                log_probs: vec![],
                rewards: vec![],
            };
            texts.iter().enumerate().map(one).collect()
        };
        let judge_by = Source::Signal(open(&SignalOptions::Arithmetic).unwrap());
        let row = |_: &str, _: &str| Ok(Row { tokens: vec![0, 0], first: 1 });
        let verdict = judge(&of(&["1", "2", "3", "9"]), &of(&["1", "9", "9", "4"]), &judge_by, row).unwrap();
        assert_eq!((verdict.win_rate, verdict.loss_rate, verdict.tie_rate, verdict.ratio), (0.5, 0.25, 0.25, 2.0));
        assert!(verdict.margin_interval[0] < 0.25 && verdict.margin_interval[1] > 0.25, "{:?}", verdict.margin_interval);
        assert!(verdict.ratio_interval[0] < 2.0 && verdict.ratio_interval[1] > 2.0, "{:?}", verdict.ratio_interval);
        assert!(judge(&of(&["1"]), &[], &judge_by, row).is_err());
    }
}
