//! What this machine is to hairpin, and what would make it faster.

use std::process::ExitCode;

use ::train::clock::Clock;
use kernels::gemm::{Gemm, Mat, PackedRhs, Precision, Rhs};
use report::terminal::table;
use serde_json::json;

use crate::print;

/// Tell what this machine can do: CPU features, kernels chosen, measured peaks
#[derive(clap::Args)]
#[command(after_help = "Example: hairpin doctor")]
pub(crate) struct DoctorArgs {}

pub(crate) fn run(_args: &DoctorArgs, json: bool) -> miette::Result<ExitCode> {
    let threads = rayon::current_num_threads();
    let (f32_gflops, bf16_gflops, copy) = (gemm_gflops(Precision::F32), gemm_gflops(Precision::Bf16), copy_gbytes());
    let levels: Vec<String> = kernels::available().iter().map(ToString::to_string).collect();
    let level = kernels::level();
    let mut advice = Vec::new();
    if level.to_string() != *levels.last().unwrap_or(&String::new()) {
        advice.push(format!("HAIRPIN_KERNELS chooses `{level}`; without it `{}` would run", levels.last().unwrap_or(&String::new())));
    }
    if !level.has_fast_bf16() {
        advice.push("f32 is the faster precision on this CPU, and what `train.precision = \"auto\"` takes".into());
    }
    if cfg!(debug_assertions) {
        advice.push("this is a debug build: `cargo build --release`".into());
    }
    if json {
        print::json(
            &json!({"level": level.to_string(), "available": levels, "threads": threads, "gemm_f32_gflops": f32_gflops, "gemm_bf16_gflops": bf16_gflops, "copy_gbytes_per_sec": copy, "advice": advice}),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = vec![
        vec!["kernels".into(), level.to_string()],
        vec!["available".into(), levels.join(" ")],
        vec!["threads".into(), threads.to_string()],
        vec!["GEMM f32".into(), format!("{f32_gflops:.0} GFLOP/s")],
        vec!["GEMM bf16".into(), format!("{bf16_gflops:.0} GFLOP/s")],
        vec!["memory copy".into(), format!("{copy:.1} GB/s")],
    ];
    print::result(&table(&["this machine", ""], &rows));
    for line in advice {
        print::result(&format!("· {line}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Best of a few products of 1024 cubed, the right side packed.
fn gemm_gflops(precision: Precision) -> f64 {
    const N: usize = 1024;
    let (a, b) = (kernels::naive::noise(1, N * N), kernels::naive::noise(2, N * N));
    let mut c = vec![0.0; N * N];
    let mut packed = PackedRhs::new(precision, N, N);
    packed.pack(Mat::rows(&b, N));
    let gemm = Gemm { m: N, n: N, k: N, precision, accumulate: false };
    let time = || {
        let clock = Clock::start();
        gemm.run(Mat::rows(&a, N), Rhs::Packed(&packed), None, &mut c);
        clock.secs()
    };
    2.0 * (N as f64).powi(3) / best(8, time) / 1e9
}

/// Bytes read and written by a large copy, both counted.
fn copy_gbytes() -> f64 {
    const N: usize = 16 << 20;
    let a = vec![1.0_f32; N];
    let mut b = vec![0.0_f32; N];
    let time = || {
        let clock = Clock::start();
        use rayon::prelude::*;
        b.par_chunks_mut(1 << 18).zip(a.par_chunks(1 << 18)).for_each(|(b, a)| b.copy_from_slice(a));
        clock.secs()
    };
    8.0 * N as f64 / best(5, time) / 1e9
}

fn best(rounds: usize, time: impl FnMut() -> f64) -> f64 {
    std::iter::repeat_with(time).take(rounds + 1).skip(1).fold(f64::INFINITY, f64::min)
}
