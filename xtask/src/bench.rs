//! The tables of docs/BENCHMARKS.md: hairpin's whole step at every kernel level, beside PyTorch, candle and
//! burn when asked, interleaved.

use std::process::Command;

use crate::{cargo, venv};

const ROUNDS: usize = 3;

/// What is measured: the recipe of that name, or the tiny model of `bench step`'s defaults.
const WORKS: [&str; 5] = ["tiny", "bench-124m", "bench-llama-110m", "bench-long", "bench-moe"];
const MODES: [&str; 4] = ["eager-f32", "eager-bf16", "compile-f32", "compile-bf16"];
/// Of experts: a loop over them, which does not compile, and one product over groups of rows.
const MODES_OF_EXPERTS: [&str; 4] = ["eager-f32", "eager-bf16", "grouped-f32", "grouped-bf16"];

/// Recipes of images.
const WORKS_OF_IMAGES: [&str; 4] = ["bench-mae-vit-b", "bench-clip-vit-b-32", "bench-dit-s-2", "bench-unet"];

const LIBRARIES: [&str; 2] = ["candle", "burn"];
const PEERS: &str = "target/peers/release/peers";

/// Build the steps of candle and burn, for this CPU: a package of its own, outside the workspace.
fn build_peers() -> Result<(), String> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--manifest-path", "xtask/peers/Cargo.toml", "--target-dir", "target/peers"]);
    let status = command.env("RUSTFLAGS", "-C target-cpu=native").status().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err("the steps of candle and burn do not build".to_owned()) }
}

/// Measure one work at all levels and modes in turn, several rounds, and print medians.
fn table(work: &str, script: &'static str, levels: &[(&str, &str)], python: Option<&str>) -> Result<(), String> {
    let mut runs: Vec<(String, Box<dyn Fn() -> Command + '_>)> = Vec::new();
    for (level, precision) in levels {
        let command = move || {
            let mut command = Command::new("target/release/hairpin");
            command.args(["bench", "step"]).args((work != "tiny").then(|| format!("recipes/{work}.toml")));
            command.args(["--steps", "3", "--json", "--precision", precision]).env("HAIRPIN_KERNELS", level);
            command
        };
        runs.push((format!("hairpin {level} {precision}"), Box::new(command)));
    }
    let modes = if work == "bench-moe" { &MODES_OF_EXPERTS } else { &MODES };
    for mode in modes.iter().filter(|_| python.is_some()) {
        let command = move || {
            let mut command = Command::new(python.unwrap_or("python3"));
            command.args([script, work, mode]);
            command
        };
        runs.push((format!("PyTorch {mode}"), Box::new(command)));
    }
    // What candle and burn run is the tiny model alone.
    for library in LIBRARIES.iter().filter(|_| python.is_some() && work == "tiny") {
        let command = move || {
            let mut command = Command::new(PEERS);
            command.arg(library);
            command
        };
        runs.push((format!("{library} f32"), Box::new(command)));
    }
    let mut results: Vec<Vec<(f64, f64)>> = vec![Vec::new(); runs.len()];
    for _ in 0..ROUNDS {
        for (results, (_, command)) in results.iter_mut().zip(&runs) {
            results.push(measure(&mut command())?);
        }
    }
    println!("\n| whole step, {work} | samples/s (of text, tokens/s) | peak memory |\n|---|---|---|");
    for ((name, _), mut rounds) in runs.into_iter().zip(results) {
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (tokens, bytes) = rounds[rounds.len() / 2];
        println!("| {name} | {tokens:.2} | {:.2} GB |", bytes / 1e9);
    }
    Ok(())
}

fn measure(command: &mut Command) -> Result<(f64, f64), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = || format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    let rate = ["tokens", "images", "pairs", "samples"].iter().find_map(|unit| number(&text, &format!("{unit}_per_sec")));
    Ok((rate.ok_or_else(failed)?, number(&text, "peak_rss_bytes").unwrap_or(0.0)))
}

/// The number of `key` in a text of JSON.
pub(crate) fn number(text: &str, key: &str) -> Option<f64> {
    let rest = text.split_once(&format!("\"{key}\":"))?.1;
    rest.trim_start().split([',', '}']).next()?.trim().parse().ok()
}

/// `cargo xtask bench`
pub(crate) fn run(peers: bool) -> Result<(), String> {
    cargo(&["build", "--release", "--package", "hairpin"])?;
    let python = if peers { Some(venv()?) } else { None };
    if peers {
        build_peers()?;
    }
    let doctor = Command::new("target/release/hairpin").args(["doctor", "--json"]).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    println!("{}", text.trim());
    let levels = levels(&text);
    WORKS.iter().try_for_each(|work| table(work, "xtask/python/step.py", &levels, python.as_deref()))
}

/// The highest of the levels that `doctor` names, in each precision: those above AVX-512 do in f32 what it does.
fn levels(doctor: &str) -> Vec<(&'static str, &'static str)> {
    let all = [("avx2", "f32"), ("avx512", "f32"), ("avx512bf16", "bf16"), ("amx", "bf16")];
    all.into_iter().filter(|(level, _)| doctor.contains(&format!("\"{level}\""))).collect()
}

/// `cargo xtask bench vision`: steps of models of images, and their feed.
pub(crate) fn vision() -> Result<(), String> {
    let (hairpin, python) = (crate::hairpin(&[])?, venv()?);
    let packages = ["torchvision", "timm", "diffusers", "scikit-learn", "pillow"];
    crate::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    let doctor = Command::new(&hairpin).args(["doctor", "--json"]).output().map_err(|e| e.to_string())?;
    let mut levels = levels(&String::from_utf8_lossy(&doctor.stdout));
    levels.retain(|(level, _)| *level != "avx2");
    WORKS_OF_IMAGES.iter().try_for_each(|work| table(work, "xtask/python/vision_step.py", &levels, Some(&python)))?;
    let (photos, threads) = ("target/photos", std::thread::available_parallelism().map_or(1, usize::from).to_string());
    println!("\n| images made for a step, {threads} workers | images/s |\n|---|---|");
    for _ in 0..ROUNDS {
        let (theirs, _) = measure(Command::new(&python).args(["xtask/python/vision_feed.py", photos, &threads]))?;
        let (ours, _) = measure(Command::new(&hairpin).args(["bench", "feed", "recipes/bench-mae-vit-b.toml", photos, "--json"]))?;
        println!("| hairpin | {ours:.0} |\n| torchvision | {theirs:.0} |");
    }
    Ok(())
}
