//! Three gigabytes of text prepared within one of memory: left alone, and killed at random moments and gone on with; the same bytes
//! have to come out. The text is the sources of Linux, GCC, binutils, GDB, glibc, Boost, Rust,
//! Go and Java, packed as Debian ships them, and documents.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    kills::{Random, files},
    ladders::Origin,
};

const TEXTS: [(&str, &str); 14] = [
    ("linux-source-6.1", "usr/src"),
    ("gcc-12-source", "usr/src"),
    ("gcc-11-source", "usr/src"),
    ("libboost1.74-dev", "usr/include"),
    ("dict-wn", "usr/share/dictd"),
    ("binutils-source", "usr/src"),
    ("gdb-source", "usr/src"),
    ("glibc-source", "usr/src"),
    ("rust-src", "usr/src"),
    ("golang-1.19-src", "usr/share/go-1.19/src"),
    ("openjdk-17-source", "usr/lib/jvm/openjdk-17"),
    ("linux-doc-6.1", "usr/share/doc/linux-doc-6.1"),
    ("anarchism", "usr/share/doc/anarchism/markdown"),
    ("dict-gcide", "usr/share/dictd"),
];
const FOLDER: &str = "target/large";
const MEMORY: &str = "1GiB";
const KILLS: usize = 8;

/// `cargo xtask bench large`
pub(crate) fn run() -> Result<(), String> {
    let hairpin = crate::hairpin(&[])?;
    let paths = TEXTS.iter().map(|(package, inside)| Origin::Apt(package, inside).fetch()).collect::<Result<Vec<_>, _>>()?;
    let paths: Vec<String> = paths.into_iter().flatten().map(|path| format!("{path:?}")).collect();
    let [alone, killed] = ["alone", "killed"].map(|name| Path::new(FOLDER).join(name));
    for folder in [&alone, &killed] {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        let project = format!(
            "name = \"large\"\n[data]\ntokenizer = {{ kind = \"train\", vocab = 16384 }}\n[data.corpus]\npaths = [{}]\n\
             [recipe]\nmodel = {{ depth = 2 }}\n[[phases]]\nname = \"one\"\ndata_fraction = 1.0\n",
            paths.join(", ")
        );
        fs::write(folder.join("hairpin.toml"), project).map_err(|e| e.to_string())?;
    }
    let since = Instant::now();
    let peak = ended(start(&hairpin, &alone)?)?;
    let whole = since.elapsed();
    println!("left alone: {:.0} s, at most {} MiB resident with {MEMORY} allowed", whole.as_secs_f64(), peak >> 20);
    println!("{}", fs::read_to_string(alone.join("log.txt")).map_err(|e| e.to_string())?);

    let (mut random, mut highest, mut kills) = (Random(7), 0, 0);
    while kills < KILLS {
        let mut child = start(&hairpin, &killed)?;
        let until = Instant::now() + Duration::from_secs_f64(random.share() * 0.5 * whole.as_secs_f64());
        while Instant::now() < until && child.try_wait().map_err(|e| e.to_string())?.is_none() {
            highest = highest.max(resident_bytes(&child).unwrap_or(0));
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill().map_err(|e| e.to_string())?;
        if child.wait().map_err(|e| e.to_string())?.code().is_some() {
            break;
        }
        kills += 1;
    }
    let since = Instant::now();
    highest = highest.max(ended(start(&hairpin, &killed)?)?);
    println!(
        "killed {kills} times and gone on with: the last part took {:.0} s, at most {} MiB",
        since.elapsed().as_secs_f64(),
        highest >> 20
    );
    let [want, got] = [&alone, &killed].map(|folder| files(&folder.join("data"), ""));
    if want? == got? {
        println!("the same bytes")
    } else {
        return Err(format!("other bytes: see {FOLDER}"));
    }
    Ok(())
}

fn start(hairpin: &Path, folder: &Path) -> Result<Child, String> {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log.txt")).map_err(|e| e.to_string())?;
    Command::new(hairpin)
        .args(["data", "--memory", MEMORY])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|e| e.to_string())
}

/// Wait; the most memory that was resident.
fn ended(mut child: Child) -> Result<u64, String> {
    let mut peak = 0;
    loop {
        peak = peak.max(resident_bytes(&child).unwrap_or(0));
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            return if status.success() { Ok(peak) } else { Err(format!("`hairpin data` ended with {status}: see {FOLDER}")) };
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The high-water mark that the kernel keeps.
fn resident_bytes(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}
