//! Signals of code: it parses as Rust, it compiles, its unit tests pass. Somebody else's code runs in a process that is bounded in time,
//! memory and size of files, in a folder of its own that is removed, without this process's environment. **Absent on purpose:** a sandbox:
//! what it may read and reach is what its user may, so that code of a model that is not trusted belongs into a container.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Each, Signal};
use crate::AlignError;

/// Longer texts are not looked at.
const MOST_BYTES: usize = 64 << 10;
/// A parser that descends runs on a stack that holds any text of that length.
const PARSER_STACK_BYTES: usize = 1 << 30;

/// What a process may take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounds {
    pub timeout_secs: u64,
    pub memory_mib: u64,
    /// Of each file that it writes.
    pub file_mib: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { timeout_secs: 20, memory_mib: 2048, file_mib: 64 }
    }
}

/// 1 where the response is a file of Rust.
pub(super) fn parses() -> Box<dyn Signal> {
    Box::new(Each(|_: &str, response: &str| f64::from(u8::from(is_rust(response)))))
}

fn is_rust(text: &str) -> bool {
    if text.trim().is_empty() || text.len() > MOST_BYTES {
        return false;
    }
    let text = code_of(text).to_owned();
    let parser = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES).spawn(move || syn::parse_file(&text).is_ok());
    parser.is_ok_and(|parser| parser.join().unwrap_or(false))
}

/// The text between the first fence of three backticks and the next, as chat models give code, or all of it.
fn code_of(text: &str) -> &str {
    let Some((_, rest)) = text.split_once("```") else { return text };
    let rest = rest.split_once('\n').map_or(rest, |(_, rest)| rest);
    rest.split_once("```").map_or(rest, |(code, _)| code)
}

/// 1 where the response compiles as a library; with `tests`, where those unit tests, which stand after it in the same file, pass.
pub(super) fn compiles(tests: Option<PathBuf>, bounds: Bounds) -> Result<Box<dyn Signal>, AlignError> {
    let tests = tests.map(|path| disk::read_text(&path, 16 << 20).map_err(AlignError::io("read", &path))).transpose()?;
    Ok(Box::new(Compiler { tests, bounds }))
}

struct Compiler {
    tests: Option<String>,
    bounds: Bounds,
}

impl Signal for Compiler {
    fn score(&self, texts: &[(&str, &str)]) -> Result<Vec<f64>, AlignError> {
        texts.iter().map(|(_, response)| self.one(response).map(|passes| f64::from(u8::from(passes)))).collect()
    }
}

impl Compiler {
    fn one(&self, response: &str) -> Result<bool, AlignError> {
        if response.len() > MOST_BYTES {
            return Ok(false);
        }
        let folder = tempfile::tempdir().map_err(AlignError::io("create a folder in", &std::env::temp_dir()))?;
        let source = folder.path().join("response.rs");
        let text = format!("{}\n{}", code_of(response), self.tests.as_deref().unwrap_or_default());
        std::fs::write(&source, text).map_err(AlignError::io("write", &source))?;
        let how: &[&str] = if self.tests.is_some() { &["--test"] } else { &["--crate-type=lib", "--emit=metadata"] };
        let compile = [&["rustc", "--edition=2024", "--cap-lints=allow", "-o", "made"], how, &["response.rs"]].concat();
        Ok(passes(&compile, folder.path(), self.bounds)?
            && (self.tests.is_none() || passes(&["./made", "--quiet"], folder.path(), self.bounds)?))
    }
}

/// Whether `argv` ends well in `folder` within `bounds`.
fn passes(argv: &[&str], folder: &Path, bounds: Bounds) -> Result<bool, AlignError> {
    let wrong = |problem: String, help: &str| AlignError::Signal { name: argv[0].to_owned(), problem, help: help.into() };
    let limits = format!(
        "ulimit -v {} && ulimit -t {} && ulimit -f {} && exec \"$@\"",
        bounds.memory_mib << 10,
        bounds.timeout_secs,
        bounds.file_mib << 11
    );
    let kept = ["PATH", "HOME", "RUSTUP_HOME", "CARGO_HOME", "RUSTUP_TOOLCHAIN"];
    let environment = kept.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let mut command = Command::new("sh");
    command.args(["-c", &limits, "sh"]).args(argv).current_dir(folder).env_clear().envs(environment);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|e| wrong(format!("it does not start: {e}"), "a shell is needed"))?;
    let since = train::clock::Clock::start();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| wrong(format!("it cannot be waited for: {e}"), "try again"))? {
            break Some(status);
        }
        if since.secs() > bounds.timeout_secs as f64 {
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // Whatever it started is in its group, and ends with it.
    let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).stderr(Stdio::null()).status();
    let _ = child.wait();
    match status.and_then(|status| status.code()) {
        Some(127) => Err(wrong(format!("there is no `{}`", argv[0]), "install Rust, or let another signal judge")),
        code => Ok(code == Some(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDS: &str = "fn add(a: i32, b: i32) -> i32 { a + b }";

    #[test]
    fn what_parses_and_what_nests_without_end() {
        for (text, want) in [(ADDS, true), ("fn (", false), ("", false), ("Here:\n```rust\nfn f() {}\n```\nDone.", true)] {
            assert_eq!(is_rust(text), want, "{text}");
        }
        assert!(!is_rust(&"(".repeat(MOST_BYTES)) && !is_rust(&format!("fn f() {{ {} }}", "!".repeat(30_000))));
    }

    #[test]
    fn code_compiles_and_its_tests_pass_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let tests = folder.path().join("tests.rs");
        std::fs::write(&tests, "#[test] fn adds() { assert_eq!(add(1, 2), 3); }").unwrap();
        let score = |tests: Option<PathBuf>, text: &str| {
            let bounds = Bounds { timeout_secs: 20, ..Bounds::default() };
            compiles(tests, bounds).unwrap().score(&[("", text)]).unwrap()[0]
        };
        assert_eq!((score(None, ADDS), score(None, "fn f() -> i32 { \"\" }")), (1.0, 0.0));
        let with = |text: &str| score(Some(tests.clone()), text);
        assert_eq!((with(ADDS), with("fn add(a: i32, b: i32) -> i32 { a - b }")), (1.0, 0.0));
        let hungry = "fn add(a: i32, b: i32) -> i32 { let v = vec![1_u8; 8 << 30]; v[a as usize] as i32 + b }";
        assert_eq!(with(hungry), 0.0, "more memory than it may have");
    }

    #[test]
    fn what_does_not_end_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { timeout_secs: 1, ..Bounds::default() };
        let since = std::time::Instant::now();
        assert!(!passes(&["sh", "-c", "sleep 60 & wait"], folder.path(), bounds).unwrap());
        assert!(since.elapsed() < Duration::from_secs(20));
        let error = passes(&["no-such-program"], folder.path(), bounds).unwrap_err().to_string();
        assert!(error.contains("there is no `no-such-program`"), "{error}");
    }
}
