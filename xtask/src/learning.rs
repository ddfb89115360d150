//! Learning per operation and per second: recipes/learn-12m.toml beside nanoGPT's recipe in PyTorch, on the demo's corpus.

use std::{path::Path, process::Command};

use crate::{bench::number, cargo, run as check, venv};

const SEEDS: [u32; 3] = [1, 2, 3];
const FOLDER: &str = "target/learning";
/// nanoGPT's steps, peak learning rate and mode: the best of those tried, docs/LOG.md.
const NANO: [&str; 3] = ["1000", "1e-3", "compile-bf16"];
const OURS: &str = "recipes/learn-12m.toml";
/// The yardstick's model in hairpin, for a count of its operations.
const NANO_RECIPE: &str = "recipes/learn-nanogpt-12m.toml";

struct Row {
    bits_per_byte: f64,
    secs: f64,
}

fn json_of(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn need(text: &str, key: &str) -> Result<f64, String> {
    number(text, key).ok_or_else(|| format!("`{key}` is missing in {text}"))
}

fn mean(rows: &[Row], of: impl Fn(&Row) -> f64) -> f64 {
    rows.iter().map(of).sum::<f64>() / rows.len() as f64
}

/// `cargo xtask bench learning`
pub(crate) fn run() -> Result<(), String> {
    cargo(&["build", "--release", "--package", "hairpin"])?;
    let hairpin = || Command::new("target/release/hairpin");
    if !Path::new(FOLDER).join("hairpin.toml").exists() {
        check(hairpin().args(["init", FOLDER]))?;
    }
    check(hairpin().args(["data", FOLDER]))?;
    let (python, data) = (venv()?, format!("{FOLDER}/data"));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut compile_secs: f64 = 0.0;
    for seed in SEEDS {
        let seed = seed.to_string();
        let out = format!("{FOLDER}/run-{seed}");
        // Its own folder, made by this command: an earlier run's checkpoints are not this one's.
        let _ = std::fs::remove_dir_all(&out);
        let data_set = format!("data.path={data}");
        let text = json_of(hairpin().args(["train", OURS, "--out", &out, "--json", "--set", &data_set, "--set", &format!("seed={seed}")]))?;
        ours.push(Row { bits_per_byte: need(&text, "bits_per_byte")?, secs: need(&text, "secs")? });

        let [nano_steps, lr, mode] = NANO;
        let text = json_of(Command::new(&python).args(["xtask/python/nanogpt.py", &data, &seed, nano_steps, lr, mode]))?;
        let (bits_per_byte, secs) = (need(&text, "bits_per_byte")?, need(&text, "secs")?);
        theirs.push(Row { bits_per_byte, secs });
        compile_secs = compile_secs.max(need(&text, "first_step_secs")?);
        println!(
            "seed {seed}: hairpin {:.4} in {:.0} s, nanoGPT {bits_per_byte:.4} in {secs:.0} s",
            ours[ours.len() - 1].bits_per_byte,
            ours[ours.len() - 1].secs
        );
    }
    // All of a step's products, Muon's too.
    let flops = |recipe: &str| -> Result<f64, String> {
        let text = json_of(hairpin().args(["plan", recipe, "--json"]))?;
        Ok(need(&text, "flops")? + need(&text, "steps")? * need(&text, "optimiser_flops")?)
    };
    let flops = [flops(OURS)?, flops(NANO_RECIPE)?];
    println!("\n| recipe | bits per byte, seeds 1 to 3 | PFLOP | seconds |\n|---|---|---|---|");
    for (name, rows, flops) in [("hairpin", &ours, flops[0]), ("nanoGPT", &theirs, flops[1])] {
        let each = rows.iter().map(|row| format!("{:.4}", row.bits_per_byte)).collect::<Vec<_>>().join(" ");
        println!("| {name} | {each} | {:.3} | {:.0} |", flops / 1e15, mean(rows, |r| r.secs));
    }
    println!("\noperations {:.2}x fewer, time {:.2}x shorter", flops[1] / flops[0], mean(&theirs, |r| r.secs) / mean(&ours, |r| r.secs));
    println!("nanoGPT's seconds hold its first step, in which PyTorch compiles: {compile_secs:.0} s at most");
    Ok(())
}
