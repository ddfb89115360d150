//! Programs of others: one call each, with its input, its time limit and what its words mean.
//!
//! Places are spoken to through their own clients, which bring their configuration, their chain of credentials and their checks; no
//! secret passes through here or stands in an argument.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use train::clock::Clock;

use crate::{LaunchError, cause::Cause};

/// A client that has said nothing for so long has lost its place.
const PATIENCE_SECS: f64 = 120.0;
const LOOK: Duration = Duration::from_millis(10);
/// Of what a client says, the end.
const SHOWN_CHARS: usize = 600;

/// What is sent: a call of a client, and what it is given to read.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub argv: Vec<String>,
    pub input: Input,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    None,
    Text(String),
    Json(Value),
}

impl Request {
    #[must_use]
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), input: Input::None }
    }

    #[must_use]
    pub fn with(self, input: Input) -> Self {
        Self { input, ..self }
    }

    /// For a machine: the body that a service receives, and else the call.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.input {
            Input::Json(body) => body.clone(),
            Input::Text(text) => json!({"argv": self.argv, "stdin": text}),
            Input::None => json!({"argv": self.argv}),
        }
    }

    /// For a person: the call as a shell takes it, and what it reads.
    #[must_use]
    pub fn text(&self) -> String {
        let call = self.argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
        match &self.input {
            Input::None => call,
            Input::Text(text) => format!("{call} <<'EOF'\n{text}EOF"),
            Input::Json(body) => format!("{call} <<'EOF'\n{}\nEOF", serde_json::to_string_pretty(body).unwrap_or_default()),
        }
    }

    /// Make the call for `place`; `cause` reads what it says when it fails. What it printed.
    /// # Errors
    /// [`LaunchError::Client`] when there is no such program, [`LaunchError::Call`] when it fails.
    pub fn call(&self, place: &'static str, help: &str, cause: fn(&str) -> Cause) -> Result<String, LaunchError> {
        let program = self.argv[0].clone();
        let failed = |cause, problem: String| LaunchError::Call { program: program.clone(), problem, cause };
        let mut command = Command::new(&program);
        // No pager and no colours in what is read.
        command.args(&self.argv[1..]).env("AWS_PAGER", "").env("NO_COLOR", "1");
        command.stdin(if self.input == Input::None { Stdio::null() } else { Stdio::piped() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => LaunchError::Client { program: program.clone(), place, help: help.into() },
            _ => failed(Cause::Unreachable, e.to_string()),
        })?;
        let input = match &self.input {
            Input::None => Vec::new(),
            Input::Text(text) => text.clone().into_bytes(),
            Input::Json(body) => body.to_string().into_bytes(),
        };
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (status, stdout, stderr) = std::thread::scope(|scope| {
            // A client that reads nothing closes its end, which is no fault of the call.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
            let stdout = scope.spawn(move || all(stdout));
            let stderr = scope.spawn(move || all(stderr));
            let since = Clock::start();
            let status = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Some(status),
                    Ok(None) if since.secs() < PATIENCE_SECS => std::thread::sleep(LOOK),
                    _ => {
                        let _ = child.kill();
                        let _ = child.wait();
                        break None;
                    }
                }
            };
            (status, stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default())
        });
        match status {
            None => Err(failed(Cause::Unreachable, format!("no answer within {PATIENCE_SECS} s"))),
            Some(status) if status.success() => Ok(stdout),
            Some(_) => {
                let said = if stderr.trim().is_empty() { stdout } else { stderr };
                let from = said.char_indices().nth_back(SHOWN_CHARS).map_or(0, |(at, _)| at);
                Err(failed(cause(&said), said[from..].trim().to_owned()))
            }
        }
    }
}

fn all(from: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        // What came before a failure is worth reading.
        let _ = from.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// As one word of a shell.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call(argv: &[&str], input: Input) -> Result<String, LaunchError> {
        Request::new(argv.iter().copied()).with(input).call("test", "install it", |_| Cause::Refused)
    }

    #[test]
    fn a_call_gives_what_was_printed_or_why_not() {
        assert_eq!(call(&["cat"], Input::Text("a word".into())).unwrap(), "a word");
        assert_eq!(call(&["cat"], Input::Json(json!({"a": 1}))).unwrap(), "{\"a\":1}");
        let large = "x".repeat(1 << 20);
        assert_eq!(call(&["cat"], Input::Text(large.clone())).unwrap(), large);
        assert_eq!(call(&["true"], Input::Text(large)).unwrap(), "");
        assert!(matches!(call(&["no-such-program"], Input::None), Err(LaunchError::Client { .. })));
        let failed = call(&["sh", "-c", "echo no such image >&2; exit 2"], Input::None).unwrap_err();
        assert!(matches!(failed, LaunchError::Call { ref problem, .. } if problem == "no such image"), "{failed:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_shell_reads_a_quoted_word_as_it_was(word in "[^\0]{0,20}") {
            let told = call(&["sh", "-c", &format!("printf %s {}", quoted(&word))], Input::None).unwrap();
            prop_assert_eq!(told, word);
        }
    }
}
