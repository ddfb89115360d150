//! Whether intervals beyond a law's runs hold what they say: `cargo bench -p plan --bench intervals -- LADDER.csv ...`, with files as
//! `hairpin plan fit` takes them; without any, the runs of Chinchilla that come with hairpin.
//!
//! Each ladder is cut by compute; a law of its smaller runs predicts the larger ones. How fast laws drift is taken from the other
//! ladders, so that none widens its own intervals with what it shows later: `laws::PUBLISHED_DRIFT` is what all together say.
//! The last table does the same with the law of the ladder's gates, which knows two to four runs.
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use plan::{
    ladder::phase_law::{self as law, Point, Size},
    laws::{Law, train_flops},
    laws::{Observation, fit},
};

const SHARES: [f64; 6] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
const DRAWS: usize = 100;

struct Ladder {
    name: String,
    /// Least compute first.
    runs: Vec<Observation>,
    cuts: Vec<Cut>,
}

/// A law of the smaller runs, and the larger.
struct Cut {
    share: f64,
    known: usize,
    law: Law,
    /// What the smaller runs alone show of it.
    drift: f64,
    rest: Vec<Observation>,
}

fn main() {
    let files: Vec<String> = std::env::args().filter(|arg| arg.ends_with(".csv")).collect();
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/laws/chinchilla_points.csv").to_owned();
    let files = if files.is_empty() { vec![own] } else { files };
    let ladders: Vec<Ladder> = files.iter().map(|file| ladder(file)).collect();

    let all: Vec<&Ladder> = ladders.iter().collect();
    println!("drift per power of ten beyond, all ladders: {:.4}", drift(&all));
    println!("ladder,share,known,beyond,decades,drift_of_others,own_drift,held,held_ratio,half_width_ratio");
    for at in &ladders {
        let others: Vec<&Ladder> = ladders.iter().filter(|l| l.name != at.name).collect();
        let others = drift(&others);
        for cut in &at.cuts {
            let law = Law { drift_ratio: others.max(cut.drift), ..cut.law.clone() };
            let said: Vec<_> = cut.rest.iter().map(|p| (p, law.predict(p.params, p.tokens, p.tokens))).collect();
            let held = said.iter().filter(|(p, said)| (said.interval[0]..=said.interval[1]).contains(&p.loss)).count();
            let width = said.iter().map(|(_, s)| (s.interval[1] - s.interval[0]) / 2.0 / s.loss).sum::<f64>() / said.len() as f64;
            let decades = said.iter().map(|(_, s)| s.decades_beyond).fold(0.0, f64::max);
            println!(
                "{},{:.1},{},{},{decades:.2},{others:.4},{:.4},{held},{:.3},{width:.4}",
                at.name,
                cut.share,
                cut.known,
                cut.rest.len(),
                cut.drift,
                held as f64 / said.len() as f64
            );
        }
    }
    println!("ladder,phases_known,climbs,inside,below,above");
    for at in &ladders {
        (2..=4).for_each(|known| gates(at, known));
    }
}

fn ladder(file: &str) -> Ladder {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut runs = fit::read(&text, file).unwrap_or_else(|e| panic!("{e}"));
    runs.sort_by(|a, b| train_flops(a.params, a.tokens).total_cmp(&train_flops(b.params, b.tokens)));
    let cut = |share: f64| {
        let (known, rest) = runs.split_at((share * runs.len() as f64) as usize);
        let law = fit::fit(known, file, DRAWS, 1).ok()?;
        Some(Cut { share, known: known.len(), law, drift: fit::drift(known, 1).unwrap_or(0.0), rest: rest.to_vec() })
    };
    let name = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".csv").to_owned();
    Ladder { name, cuts: SHARES.into_iter().filter_map(cut).collect(), runs }
}

/// That at which 95% of the runs left out are held, each ladder counting alike.
fn drift(ladders: &[&Ladder]) -> f64 {
    let of = |ladder: &&Ladder| {
        let all: Vec<f64> = ladder.cuts.iter().flat_map(|cut| cut.rest.iter().map(|p| cut.law.drift_to(p))).collect();
        let weight = 1.0 / all.len() as f64;
        all.into_iter().map(|drift| (drift, weight)).collect::<Vec<_>>()
    };
    let mut all: Vec<(f64, f64)> = ladders.iter().flat_map(of).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut left = 0.95 * all.iter().map(|a| a.1).sum::<f64>();
    let held = all.iter().find(|(_, weight)| {
        left -= weight;
        left <= 0.0
    });
    held.map_or(0.0, |a| a.0)
}

/// Climbs as `climb` makes them: every step has 2 to 8 times the parameters and 2 to 20 times the tokens of the one before.
fn gates(ladder: &Ladder, known: usize) {
    let is_step =
        |a: &Observation, b: &Observation| (2.0..=8.0).contains(&(b.params / a.params)) && (2.0..=20.0).contains(&(b.tokens / a.tokens));
    let mut climbs: Vec<Vec<Observation>> = ladder.runs.iter().map(|run| vec![*run]).collect();
    for _ in 0..known {
        let longer = |climb: Vec<Observation>| {
            let next = ladder.runs.iter().filter(|run| is_step(&climb[climb.len() - 1], run));
            next.map(|run| [&climb[..], &[*run]].concat()).collect::<Vec<_>>()
        };
        climbs = climbs.into_iter().flat_map(longer).collect();
        // As many as say enough, spread over all.
        let every = climbs.len().div_ceil(2000).max(1);
        climbs = climbs.into_iter().step_by(every).collect();
    }
    let size = |p: &Observation| Size { params: p.params, tokens: p.tokens, unique_tokens: p.tokens };
    let mut count = [0; 3];
    for climb in &climbs {
        let points: Vec<Point> = climb[..known].iter().map(|p| Point { size: size(p), loss: p.loss }).collect();
        let next = &climb[known];
        let Some(said) = law::predict(&points, size(next)) else { continue };
        count[usize::from(next.loss < said.interval[0]) + 2 * usize::from(next.loss > said.interval[1])] += 1;
    }
    println!("{},{known},{},{},{},{}", ladder.name, climbs.len(), count[0], count[1], count[2]);
}
