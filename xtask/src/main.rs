//! The developer's own commands: `cargo xtask test | tidy | fixtures | kills | bench`.

mod bench;
mod circles;
mod feedback;
mod kills;
mod ladders;
mod large;
mod learning;
mod network;
mod strategies;
mod tidy;

use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask test [--peers]   everything that is checked: tidy, clippy, tests; with --peers against transformers too
cargo xtask cases            public reports of faults in other programs, re-enacted: wanted and got
cargo xtask test-mpi         the promises of a communicator kept by processes, under mpirun (needs libopenmpi-dev, libclang-dev)
cargo xtask tidy             the house rules that no compiler checks
cargo xtask fixtures         make the fixtures anew with PyTorch, transformers and diffusers (installs them under target/)
cargo xtask kills N [PART]   kills data, train, the parts of align and climb N times in all at random moments, and compares the bits; with PART,
                             e.g. `align`, those alone (HAIRPIN=path: of that program)
cargo xtask page HAIRPIN [CHROMIUM]   the page on which people rank in a real Chromium (pip playwright, apt chromium)
cargo xtask bench [--peers]  the tables of docs/BENCHMARKS.md; with --peers beside PyTorch
cargo xtask bench vision     steps of models of images beside PyTorch's, and the feed beside torchvision's
cargo xtask bench learning [--corpus CORPUS]...  loss, operations and time of recipes/learn-12m.toml beside nanoGPT's recipe in PyTorch
cargo xtask bench images     ladders of masked autoencoders and CLIP on emoji, climbed with their gates (npm)
cargo xtask bench feedback [SETTING...]   three settings of feedback, three seeds each: words sums gold (pip)
cargo xtask bench ladders    what the loss law predicts of seven small ladders, and what comes
cargo xtask bench languages  what share of good text each cleaning rule drops, in 21 languages (apt-get)
cargo xtask bench large      3 GB of text prepared within 1 GiB of memory, left alone and killed (apt-get)
cargo xtask bench newcomers  three corpora, 12 to 113 MB, climbed as `hairpin init` lays them out
cargo xtask bench stages     reading, cleaning, duplicates and tokenising on one core beside datatrove
cargo xtask bench minhash    near duplicates on one core beside datatrove
cargo xtask bench strategies [PART...]   ranks on one machine and over slow links (root, mpirun): machine network overlap peers scaling";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => test(false),
        ["test", "--peers"] => test(true),
        ["cases"] => cargo(&["test", "--quiet", "--package", "hairpin", "--test", "cases", "--", "--nocapture"]),
        ["test-mpi"] => cargo(&["test", "--package", "comm", "--features", "mpi", "--test", "mpi"]),
        ["tidy"] => tidy::check(),
        ["fixtures"] => python(&["xtask/python/fixtures.py"])
            .and_then(|()| python(&["xtask/python/align_steps.py", "crates/align/tests/fixtures/steps.safetensors"]))
            .and_then(|()| python(&["xtask/python/vision.py"]))
            .and_then(|()| python(&["xtask/python/vocabularies.py", "crates/data/tests/vocabularies"])),
        ["kills", count] => kills::run(count, ""),
        ["kills", count, part] => kills::run(count, part),
        ["page", hairpin, rest @ ..] => python(&[&["xtask/python/page.py", hairpin], rest].concat()),
        ["bench"] => bench::run(false),
        ["bench", "--peers"] => bench::run(true),
        ["bench", "vision"] => bench::vision(),
        ["bench", "images"] => ladders::images(),
        ["bench", "learning", corpora @ ..] => learning::run(corpora),
        ["bench", "feedback", settings @ ..] => feedback::run(settings),
        ["bench", "ladders"] => ladders::run(),
        ["bench", "languages"] => languages(),
        ["bench", "large"] => large::run(),
        ["bench", "newcomers"] => ladders::newcomers(),
        ["bench", "stages"] => stages(),
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
    if Command::new("cargo").args(["fmt", "--version"]).output().is_ok_and(|o| o.status.success()) {
        cargo(&["fmt", "--check"])?;
    } else {
        eprintln!("rustfmt is not installed here: left out");
    }
    if Command::new("cargo").args(["clippy", "--version"]).output().is_ok_and(|o| o.status.success()) {
        cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    } else {
        eprintln!("clippy is not installed here: left out");
    }
    // A link in a doc comment leads somewhere.
    let links = "-D rustdoc::broken-intra-doc-links -A rustdoc::private-intra-doc-links";
    run(Command::new("cargo").args(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]).env("RUSTDOCFLAGS", links))?;
    if peers {
        // The peers test runs only where this says where Python is.
        let (python, npm) = (venv()?, tiktoken_ranks()?);
        run(Command::new("cargo")
            .args(["test", "--workspace", "--features", "hairpin/parquet,hairpin/cloud,hairpin/chat"])
            .env("HAIRPIN_PEERS_PYTHON", python)
            .env("HAIRPIN_PEERS_TIKTOKEN", npm))
    } else {
        cargo(&["test", "--workspace", "--features", "hairpin/parquet,hairpin/cloud,hairpin/chat"])
    }
}

/// Debian's installation guide, and two of its handbook, which are translated in part and English else.
fn languages() -> Result<(), String> {
    let hairpin = hairpin(&[])?.display().to_string();
    println!(
        "| language | pages | MB | too short | word length | few letters | repeated lines | repeated n-gram | long lines | generated | ellipses |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let guide = "ca cs da de el en es fr id it ja ko nl pt ro ru sv vi zh_CN";
    for (package, inside, languages) in [
        ("installation-guide-amd64", "usr/share/doc/installation-guide-amd64", guide),
        ("debian-handbook", "usr/share/doc/debian-handbook/html", "ar-MA fa-IR"),
    ] {
        let book = ladders::Origin::Apt(package, inside).fetch()?.ok_or("no text")?;
        let args = ["xtask/python/languages.py", &hairpin, "target/languages", &book];
        run(Command::new("python3").args(args).args(languages.split(' ')))?;
    }
    Ok(())
}

fn stages() -> Result<(), String> {
    let hairpin = hairpin(&[])?.display().to_string();
    let texts = [("anarchism", "usr/share/doc/anarchism/markdown"), ("linux-doc-6.1", "usr/share/doc/linux-doc-6.1")];
    let texts = texts.map(|(package, inside)| ladders::Origin::Apt(package, inside).fetch());
    let texts = texts.into_iter().collect::<Result<Vec<_>, _>>()?;
    run(Command::new(venv()?).args(["-m", "pip", "install", "--quiet", "datatrove[processing]", "spacy", "orjson"]))?;
    let args = ["xtask/python/stages.py", &hairpin, "target/stages"];
    run(Command::new("taskset").args(["-c", "0"]).arg(venv()?).args(args).args(texts.into_iter().flatten()))
}

fn minhash() -> Result<(), String> {
    let folder = std::env::current_dir().map_err(|e| e.to_string())?.join("target/minhash").display().to_string();
    cargo(&["bench", "--package", "data", "--bench", "minhash", "--", &folder])?;
    run(Command::new(venv()?).args(["-m", "pip", "install", "--quiet", "datatrove[processing]", "spacy"]))?;
    python(&["xtask/python/minhash.py", &folder])
}

/// The binary to measure: that which `HAIRPIN` names, or this tree's, built with `features`.
pub(crate) fn hairpin(features: &[&str]) -> Result<std::path::PathBuf, String> {
    let path = match std::env::var("HAIRPIN") {
        Ok(path) => path.into(),
        Err(_) => {
            cargo(&[&["build", "--release", "--package", "hairpin"], features].concat())?;
            std::path::PathBuf::from("target/release/hairpin")
        }
    };
    path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))
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
/// The folder of an npm package with the published ranks in `data/`.
fn tiktoken_ranks() -> Result<String, String> {
    let folder = std::env::current_dir().map_err(|e| e.to_string())?.join("target/npm");
    if !folder.join("package").is_dir() {
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        run(Command::new("npm").args(["pack", "--silent", "gpt-tokenizer@4.0.0"]).current_dir(&folder))?;
        run(Command::new("tar").args(["-xzf", "gpt-tokenizer-4.0.0.tgz"]).current_dir(&folder))?;
    }
    Ok(folder.join("package").display().to_string())
}

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
            "peft",
            "lm_eval",
            "safetensors",
            "numpy",
            "tensorboard",
            "sentencepiece",
            "tiktoken",
        ]))?;
    }
    let absolute = std::env::current_dir().map_err(|e| e.to_string())?.join(python);
    Ok(absolute.display().to_string())
}
