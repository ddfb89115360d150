//! The planner's two sets of fitted numbers, made anew: `cargo bench -p plan --bench calibrate` (some minutes).
//!
//! * `Constants::default`: the smallest mean of |ln(simulated / measured)| over the third of the measured throughputs that sets
//!   them, each at most 0.5 for the sake of outliers; says whether better ones are near.
//! * `catalogue/errors.toml`: days that published decoder runs whose kernels were a framework's took over those said of them.
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use plan::{catalogue::Catalogue, evidence::published, evidence::throughput, simulation::hardware::Constants};

fn loss(catalogue: &Catalogue, x: &[f64; 3]) -> f64 {
    if x[2] > 0.95 {
        return f64::INFINITY;
    }
    let d = Constants::default();
    let constants = Constants { stream_share: x[0], attention_share: [d.attention_share[0], x[1]], contention: x[2], ..d };
    let rows: Vec<_> = throughput::rows().into_iter().filter(throughput::Row::sets_constants).collect();
    let error = |row: &throughput::Row| row.check(catalogue, constants).expect("rows are of the catalogue").error;
    rows.iter().map(|row| error(row).ln_1p().abs().min(0.5)).sum::<f64>() / rows.len() as f64
}

/// By turns each constant a little more or less, in ever smaller steps.
fn constants(catalogue: &Catalogue) {
    let d = Constants::default();
    let mut best = [d.stream_share, d.attention_share[1], d.contention];
    let (first, mut step) = (loss(catalogue, &best), 0.1);
    let mut least = first;
    while step > 0.005 {
        let before = least;
        for i in 0..best.len() {
            for factor in [1.0 + step, 1.0 / (1.0 + step)] {
                let mut x = best;
                x[i] *= factor;
                let loss = loss(catalogue, &x);
                if loss < least {
                    (least, best) = (loss, x);
                }
            }
        }
        if before - least < 1e-4 {
            step /= 2.0;
        }
    }
    println!("constants: mean |ln| {first:.4} as they are; {least:.4} with {best:.3?}");
    println!("(stream_share, attention_share backward, contention)");
}

fn errors(catalogue: &Catalogue) {
    let outcomes = published::all().into_iter().filter_map(|row| published::outcome(&row, catalogue, Constants::default()).ok());
    let outcomes: Vec<_> = outcomes.filter(|o| o.run.kind == "llm" && o.run.unlike.is_none() && !o.trained.fused).collect();
    let mut ratios: Vec<f64> = outcomes.iter().map(|o| o.actual_days / o.days).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |q: f64| ratios[(q * (ratios.len() - 1) as f64).round() as usize];
    let middle = published::allowance(&outcomes, "");
    println!("errors.toml:\nruns = {}\ntaken_over_said = [{:.2}, {middle:.2}, {:.2}]", ratios.len(), at(0.1), at(0.9));
}

fn main() {
    let catalogue = Catalogue::load(None).expect("the embedded catalogue");
    errors(&catalogue);
    constants(&catalogue);
}
