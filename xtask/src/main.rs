//! The developer's own commands: `cargo xtask test | tidy | fixtures | kills | bench`.

mod bench;
mod kills;
mod ladders;
mod learning;
mod network;
mod strategies;
mod tidy;

use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask test [--peers]   everything that is checked: tidy, clippy, tests; with --peers against transformers too
cargo xtask test-mpi         the promises of a communicator kept by processes, under mpirun (needs libopenmpi-dev, libclang-dev)
cargo xtask tidy             the house rules that no compiler checks
cargo xtask fixtures         make the fixtures anew with PyTorch, transformers and diffusers (installs them under target/)
cargo xtask kills N          kills data, train and climb N times in all at random moments, and compares the bits (HAIRPIN=path: of that program)
cargo xtask bench [--peers]  the tables of docs/BENCHMARKS.md; with --peers beside PyTorch
cargo xtask bench learning   loss, operations and time of recipes/learn-12m.toml beside nanoGPT's recipe in PyTorch
cargo xtask bench ladders    what the loss law predicts of seven small ladders, and what comes
cargo xtask bench minhash    near duplicates on one core beside datatrove
cargo xtask bench strategies [PART...]   ranks on one machine and over slow links (root, mpirun): machine network overlap peers scaling";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => test(false),
        ["test", "--peers"] => test(true),
        ["test-mpi"] => cargo(&["test", "--package", "comm", "--features", "mpi", "--test", "mpi"]),
        ["tidy"] => tidy::check(),
        ["fixtures"] => python(&["xtask/python/fixtures.py"]).and_then(|()| python(&["xtask/python/vision.py"])),
        ["kills", count] => kills::run(count),
        ["bench"] => bench::run(false),
        ["bench", "--peers"] => bench::run(true),
        ["bench", "learning"] => learning::run(),
        ["bench", "ladders"] => ladders::run(),
        ["bench", "minhash"] => minhash(),
        ["bench", "strategies", parts @ ..] => strategies::run(parts),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Fast checks first; the tests last, so that their summary ends the output.
fn test(peers: bool) -> Result<(), String> {
    tidy::check()?;
    if Command::new("cargo").args(["clippy", "--version"]).output().is_ok_and(|o| o.status.success()) {
        cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    } else {
        eprintln!("clippy is not installed here: left out");
    }
    if peers {
        // The peers test runs only where this says where Python is.
        let python = venv()?;
        run(Command::new("cargo")
            .args(["test", "--workspace", "--features", "hairpin/parquet,hairpin/cloud"])
            .env("HAIRPIN_PEERS_PYTHON", python))
    } else {
        cargo(&["test", "--workspace", "--features", "hairpin/parquet,hairpin/cloud"])
    }
}

fn minhash() -> Result<(), String> {
    let folder = std::env::current_dir().map_err(|e| e.to_string())?.join("target/minhash").display().to_string();
    cargo(&["bench", "--package", "data", "--bench", "minhash", "--", &folder])?;
    run(Command::new(venv()?).args(["-m", "pip", "install", "--quiet", "datatrove[processing]", "spacy"]))?;
    python(&["xtask/python/minhash.py", &folder])
}

pub(crate) fn cargo(args: &[&str]) -> Result<(), String> {
    run(Command::new("cargo").args(args))
}

pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("failed: {command:?}")) }
}

/// Run a Python script with the peers installed.
pub(crate) fn python(args: &[&str]) -> Result<(), String> {
    run(Command::new(venv()?).args(args))
}

/// The Python of a virtual environment with the peers, made under `target/` when it is not there.
pub(crate) fn venv() -> Result<String, String> {
    let python = "target/venv/bin/python".to_owned();
    if !std::path::Path::new(&python).exists() {
        run(Command::new("python3").args(["-m", "venv", "target/venv"]))?;
        run(Command::new(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "torch",
            "transformers",
            "diffusers",
            "safetensors",
            "numpy",
            "tensorboard",
        ]))?;
    }
    let absolute = std::env::current_dir().map_err(|e| e.to_string())?.join(python);
    Ok(absolute.display().to_string())
}
