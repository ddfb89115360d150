//! The tables of docs/BENCHMARKS.md: hairpin's whole step at every kernel level, beside PyTorch when asked, interleaved.

use std::process::Command;

use crate::{cargo, venv};

const ROUNDS: usize = 3;

/// Print the table.
pub(crate) fn run_tiny(levels: &[(&str, &str)], python: Option<&str>) -> Result<(), String> {
    let step = ["bench", "step", "--steps", "5", "--json"];
    let mut names: Vec<String> = levels.iter().map(|(level, precision)| format!("hairpin {level} {precision}")).collect();
    let modes = ["eager-f32", "eager-bf16", "compile-f32", "compile-bf16"];
    if python.is_some() {
        names.extend(modes.iter().map(|mode| format!("PyTorch {mode}")));
    }
    let mut results: Vec<Vec<(f64, f64)>> = vec![Vec::new(); names.len()];
    for _ in 0..ROUNDS {
        for (i, (level, precision)) in levels.iter().enumerate() {
            let mut command = Command::new("target/release/hairpin");
            command.args(step).args(["--precision", precision]).env("HAIRPIN_KERNELS", level);
            results[i].push(measure(&mut command)?);
        }
        for (i, mode) in modes.iter().enumerate().filter(|_| python.is_some()) {
            let mut command = Command::new(python.unwrap_or("python3"));
            command.args(["xtask/python/step.py", mode]);
            results[levels.len() + i].push(measure(&mut command)?);
        }
    }
    println!("| whole step, tiny | tokens/s | peak memory |\n|---|---|---|");
    for (name, mut rounds) in names.into_iter().zip(results) {
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (tokens, bytes) = rounds[rounds.len() / 2];
        println!("| {name} | {tokens:.0} | {:.2} GB |", bytes / 1e9);
    }
    Ok(())
}

fn measure(command: &mut Command) -> Result<(f64, f64), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |key: &str| -> Option<f64> {
        let rest = text.split_once(&format!("\"{key}\":"))?.1;
        rest.trim_start().split([',', '}']).next()?.trim().parse().ok()
    };
    let failed = || format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok((number("tokens_per_sec").ok_or_else(failed)?, number("peak_rss_bytes").unwrap_or(0.0)))
}

/// `cargo xtask bench`
pub(crate) fn run(peers: bool) -> Result<(), String> {
    cargo(&["build", "--release", "--package", "hairpin"])?;
    let python = if peers { Some(venv()?) } else { None };
    let doctor = Command::new("target/release/hairpin").args(["doctor", "--json"]).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    println!("{}", text.trim());
    let all = ["portable", "avx2", "avx512", "avx512bf16"].into_iter().filter(|level| text.contains(&format!("\"{level}\"")));
    let mut levels: Vec<(&str, &str)> = all.map(|level| (level, "f32")).collect();
    if text.contains("\"avx512bf16\"") {
        levels.push(("avx512bf16", "bf16"));
    }
    run_tiny(&levels, python.as_deref())?;
    super::run(
        Command::new("target/release/hairpin").args([
            "bench", "step", "--layers", "12", "--width", "768", "--heads", "12", "--vocab", "50257", "--batch", "4", "--steps", "2",
        ]),
    )
}
