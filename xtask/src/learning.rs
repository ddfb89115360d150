//! Learning per operation and per second: recipes/learn-12m.toml beside nanoGPT's recipe in PyTorch.

use std::{path::Path, process::Command};

use crate::{bench::number, run as check, venv};

const SEEDS: [u32; 3] = [1, 2, 3];
const FOLDER: &str = "target/learning";
/// nanoGPT's steps, peak learning rate and mode: the best of those tried, docs/LOG.md.
const NANO: [&str; 3] = ["1000", "1e-3", "compile-bf16"];
const OURS: &str = "recipes/learn-12m.toml";
/// Lengths of hairpin's runs, in steps: between them lies the one that reaches nanoGPT's loss.
const STEPS: [u32; 3] = [80, 115, 165];
/// The yardstick's model in hairpin, for a count of its operations.
const NANO_RECIPE: &str = "recipes/learn-nanogpt-12m.toml";

struct Row {
    bits_per_byte: f64,
    secs: f64,
}

/// `cargo xtask bench learning [--corpus CORPUS]...`: of each, a name of `bench ladders` or a path, a table of all runs and
/// where hairpin's curve of loss over operations reaches nanoGPT's loss. Without one: cargo's sources.
pub(crate) fn run(wanted: &[&str]) -> Result<(), String> {
    let hairpin = crate::hairpin(&[])?;
    let mut corpora = Vec::new();
    for pair in wanted.chunks(2) {
        match pair {
            ["--corpus", corpus] => corpora.push(*corpus),
            _ => return Err(format!("`{}`: `bench learning` takes `--corpus CORPUS` alone", pair.join(" "))),
        }
    }
    if corpora.is_empty() {
        corpora.push("cargo");
    }
    corpora.into_iter().try_for_each(|corpus| table(&hairpin, corpus))
}

fn table(hairpin: &Path, corpus: &str) -> Result<(), String> {
    let data = prepared(hairpin, corpus)?;
    let lengths = STEPS.map(|steps| steps.to_string());
    let mut ours: [Vec<Row>; STEPS.len()] = std::array::from_fn(|_| Vec::new());
    let mut theirs = Vec::new();
    let mut compile_secs: f64 = 0.0;
    for seed in SEEDS.map(|seed| seed.to_string()) {
        for (rows, steps) in ours.iter_mut().zip(&lengths) {
            let out = format!("{data}/../run-{steps}-{seed}");
            // Its own folder, made by this command: an earlier run's checkpoints are not this one's.
            let _ = std::fs::remove_dir_all(&out);
            let mut train = Command::new(hairpin);
            train.args(["train", OURS, "--out", &out, "--json"]).args(set(&["data.path", &data, "seed", &seed])).args(of_length(steps));
            rows.push(row(&mut train)?.0);
        }
        let [nano_steps, lr, mode] = NANO;
        let (row, text) = row(Command::new(venv()?).args(["xtask/python/nanogpt.py", &data, &seed, nano_steps, lr, mode]))?;
        theirs.push(row);
        compile_secs = compile_secs.max(need(&text, "first_step_secs")?);
    }
    // All of a step's products, Muon's too.
    let flops = |recipe: &str, length: &[String]| -> Result<f64, String> {
        let text = json_of(Command::new(hairpin).args(["plan", recipe, "--json"]).args(length))?;
        Ok(need(&text, "flops")? + need(&text, "steps")? * need(&text, "optimiser_flops")?)
    };
    println!("\n| recipe, {corpus} | bits per byte, seeds 1 to 3 | PFLOP | seconds |\n|---|---|---|---|");
    let mut curve = Vec::new();
    for (rows, steps) in ours.iter().zip(&lengths) {
        let flops = flops(OURS, &of_length(steps))?;
        curve.push((flops, mean(rows, |row| row.bits_per_byte)));
        line(&format!("hairpin, {steps} steps"), rows, flops);
    }
    let yardstick = (flops(NANO_RECIPE, &[])?, mean(&theirs, |row| row.bits_per_byte));
    line("nanoGPT", &theirs, yardstick.0);
    println!("\n{}", crossing(&curve, yardstick));
    println!("nanoGPT's seconds hold its first step, in which PyTorch compiles: {compile_secs:.0} s at most");
    Ok(())
}

/// How many times fewer operations reach the yardstick's loss: the logarithm of operations is interpolated over loss.
fn crossing(curve: &[(f64, f64)], (flops, loss): (f64, f64)) -> String {
    let crossed = curve.windows(2).find(|pair| pair[0].1 >= loss && loss >= pair[1].1);
    match crossed {
        Some(pair) => {
            let share = (pair[0].1 - loss) / (pair[0].1 - pair[1].1);
            let needed = (pair[0].0.ln() + share * (pair[1].0 / pair[0].0).ln()).exp();
            format!("the curves cross at {:.4} PFLOP of hairpin: {:.2}x fewer operations for {loss:.4}", needed / 1e15, flops / needed)
        }
        None => {
            let ends = [curve.first(), curve.last()].map(|end| end.map_or(f64::NAN, |(at, _)| flops / at));
            format!("the curves do not cross between {:.2}x and {:.2}x fewer operations", ends[1], ends[0])
        }
    }
}

/// The folder of a corpus' shards, prepared as `hairpin init` lays a project out.
fn prepared(hairpin: &Path, corpus: &str) -> Result<String, String> {
    let name = Path::new(corpus).file_name().map_or(corpus.into(), |name| name.to_string_lossy());
    let folder = format!("{FOLDER}/{name}");
    if !Path::new(&folder).join("hairpin.toml").exists() {
        let path = if Path::new(corpus).exists() { Some(corpus.to_owned()) } else { crate::ladders::corpus(corpus)? };
        let mut init = Command::new(hairpin);
        check(init.args(["init", &folder]).args(path.iter().flat_map(|path| ["--corpus", path])))?;
    }
    check(Command::new(hairpin).args(["data", &folder]))?;
    Ok(format!("{folder}/data"))
}

fn set(pairs: &[&str]) -> Vec<String> {
    pairs.chunks(2).flat_map(|pair| ["--set".to_owned(), pair.join("=")]).collect()
}

fn of_length(steps: &str) -> Vec<String> {
    set(&["train.steps", steps, "eval.every_steps", steps, "checkpoint.every_steps", steps])
}

fn row(command: &mut Command) -> Result<(Row, String), String> {
    let text = json_of(command)?;
    Ok((Row { bits_per_byte: need(&text, "bits_per_byte")?, secs: need(&text, "secs")? }, text))
}

fn line(name: &str, rows: &[Row], flops: f64) {
    let each = rows.iter().map(|row| format!("{:.4}", row.bits_per_byte)).collect::<Vec<_>>().join(" ");
    println!("| {name} | {each} | {:.3} | {:.0} |", flops / 1e15, mean(rows, |row| row.secs));
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
