//! Which of two models is preferred: both answer the same prompts, somebody judges both answers, and the share of prompts that one wins
//! comes with its interval.

use std::collections::HashMap;

use engine::mix;
use serde::Serialize;
use train::run::Loaded;

use crate::{AlignError, passes::Asked, respond::Responses, rollouts::Source, rows::Row};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub pairs: usize,
    /// Shares of the pairs; the three sum to one.
    pub win_rate: f64,
    pub loss_rate: f64,
    pub tie_rate: f64,
    /// Wins to a loss.
    pub ratio: f64,
    /// 95% of what other draws of as many prompts would give for `win_rate - loss_rate`.
    pub margin_interval: [f64; 2],
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
    let score = |side: usize| {
        let texts: Vec<(&str, &str)> = pairs.iter().map(|(prompt, a, b)| (*prompt, [*a, *b][side])).collect();
        let rows = texts.iter().map(|(prompt, response)| rows(prompt, response)).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, AlignError>(judge.score(&texts, &rows)?)
    };
    let (a, b) = (score(0)?, score(1)?);
    // A reward model's numbers are never equal by chance alone: differences of rounding are ties.
    let outcome: Vec<i8> = a
        .iter()
        .zip(&b)
        .map(|(a, b)| {
            if (a - b).abs() < 1e-6 {
                0
            } else if a > b {
                1
            } else {
                -1
            }
        })
        .collect();
    let count = outcome.len() as f64;
    let share = |what: i8| outcome.iter().filter(|one| **one == what).count() as f64 / count;
    let (win_rate, loss_rate, tie_rate) = (share(1), share(-1), share(0));
    let mean_chars = |side: usize| pairs.iter().map(|(_, a, b)| [*a, *b][side].chars().count() as f64).sum::<f64>() / count;
    Ok(Verdict {
        pairs: outcome.len(),
        win_rate,
        loss_rate,
        tie_rate,
        ratio: win_rate / loss_rate.max(0.5 / count),
        margin_interval: bootstrap(&outcome),
        chars: [mean_chars(0), mean_chars(1)],
        kl: None,
    })
}

fn bootstrap(outcome: &[i8]) -> [f64; 2] {
    let count = outcome.len() as u64;
    let draw = |round: u64| (0..count).map(|i| f64::from(outcome[(mix(round << 32 ^ i) % count) as usize])).sum::<f64>() / count as f64;
    let mut draws: Vec<f64> = (1..=DRAWS).map(draw).collect();
    draws.sort_by(f64::total_cmp);
    let at = |share: f64| draws[((draws.len() - 1) as f64 * share) as usize];
    [at(0.025), at(0.975)]
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
        assert!(judge(&of(&["1"]), &[], &judge_by, row).is_err());
    }
}
