//! Digital signals: functions from a prompt and a response to a number, larger for better. To add one: a type that implements
//! [`Signal`] and its variant of [`SignalOptions`].

mod code;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use code::Bounds;

use crate::AlignError;

/// See the head of this file.
pub trait Signal: Send + Sync {
    /// A number for each pair of a prompt and a response.
    /// # Errors
    /// When the signal itself fails; a response that is bad has a low number.
    fn score(&self, texts: &[(&str, &str)]) -> Result<Vec<f64>, AlignError>;
}

/// Which one, as a recipe or a command names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum SignalOptions {
    /// 1 where the first whole number of the response is the value of the prompt's expression (`12 + 7 * 2 =`).
    Arithmetic,
    /// 1 where the response is JSON.
    Json,
    /// 1 where the response is a file of Rust.
    Rust,
    /// 1 where it compiles as a library of Rust.
    Compiles {
        #[serde(default)]
        bounds: Bounds,
    },
    /// 1 where the unit tests in a file of Rust, put after it, pass.
    Tests {
        path: PathBuf,
        #[serde(default)]
        bounds: Bounds,
    },
    /// 1 where the response matches a pattern.
    Regex { pattern: String },
    /// 1 at so many characters, falling to 0 at none and at twice as many.
    Length { chars: usize },
    /// The mean score of the words that a lexicon has: lines of a word, a tab and a number.
    Lexicon { path: PathBuf },
    /// A program that reads a line of JSON (`{"prompt": .., "response": ..}`) for each response and answers each with a number.
    Command {
        argv: Vec<String>,
        #[serde(default = "usual_timeout")]
        timeout_secs: u64,
    },
}

fn usual_timeout() -> u64 {
    30
}

/// # Errors
/// When its file or pattern cannot be read.
pub fn open(options: &SignalOptions) -> Result<Box<dyn Signal>, AlignError> {
    Ok(match options {
        SignalOptions::Arithmetic => Box::new(Each(|prompt: &str, response: &str| f64::from(u8::from(is_right(prompt, response))))),
        SignalOptions::Json => Box::new(Each(|_: &str, response: &str| {
            f64::from(u8::from(serde_json::from_str::<serde_json::Value>(response.trim()).is_ok()))
        })),
        SignalOptions::Rust => code::parses(),
        SignalOptions::Compiles { bounds } => code::compiles(None, *bounds)?,
        SignalOptions::Tests { path, bounds } => code::compiles(Some(path.clone()), *bounds)?,
        SignalOptions::Regex { pattern } => {
            let wrong =
                |e: regex::Error| AlignError::Signal { name: "regex".into(), problem: e.to_string(), help: "correct the pattern".into() };
            let pattern = regex::Regex::new(pattern).map_err(wrong)?;
            Box::new(Each(move |_: &str, response: &str| f64::from(u8::from(pattern.is_match(response)))))
        }
        SignalOptions::Length { chars } => {
            let want = (*chars).max(1) as f64;
            Box::new(Each(move |_: &str, response: &str| (1.0 - (response.chars().count() as f64 - want).abs() / want).max(0.0)))
        }
        SignalOptions::Lexicon { path } => {
            let lexicon = Lexicon::read(path)?;
            Box::new(Each(move |_: &str, response: &str| lexicon.mean(response)))
        }
        SignalOptions::Command { argv, timeout_secs } => {
            Box::new(Program { argv: argv.clone(), timeout: Duration::from_secs(*timeout_secs) })
        }
    })
}

/// A signal that is a function of one prompt and response.
struct Each<F>(F);

impl<F: Fn(&str, &str) -> f64 + Send + Sync> Signal for Each<F> {
    fn score(&self, texts: &[(&str, &str)]) -> Result<Vec<f64>, AlignError> {
        Ok(texts.iter().map(|(prompt, response)| (self.0)(prompt, response)).collect())
    }
}

/// Whether the first whole number of `response` is the value of the expression in `prompt`.
fn is_right(prompt: &str, response: &str) -> bool {
    let expression = prompt.trim().trim_end_matches(['=', '?', ' ']);
    // What stands before the expression is words.
    let start = expression
        .rfind(|c: char| !(c.is_ascii_digit() || " +-*/()".contains(c)))
        .map_or(0, |at| at + expression[at..].chars().next().map_or(1, char::len_utf8));
    let mut rest = expression[start..].trim();
    let value = sum(&mut rest).filter(|_| rest.is_empty());
    let answer = response.trim_start().trim_start_matches('=').trim_start();
    let digits = answer.char_indices().take_while(|(i, c)| c.is_ascii_digit() || *i == 0 && *c == '-').count();
    value.is_some() && answer[..digits].parse::<i64>().ok() == value
}

fn sum(rest: &mut &str) -> Option<i64> {
    let mut value = product(rest)?;
    loop {
        *rest = rest.trim_start();
        let next: fn(i64, i64) -> Option<i64> = match rest.chars().next() {
            Some('+') => i64::checked_add,
            Some('-') => i64::checked_sub,
            _ => return Some(value),
        };
        *rest = &rest[1..];
        value = next(value, product(rest)?)?;
    }
}

fn product(rest: &mut &str) -> Option<i64> {
    let mut value = atom(rest)?;
    loop {
        *rest = rest.trim_start();
        let next: fn(i64, i64) -> Option<i64> = match rest.chars().next() {
            Some('*') => i64::checked_mul,
            Some('/') => |a, b| (b != 0 && a % b == 0).then(|| a / b),
            _ => return Some(value),
        };
        *rest = &rest[1..];
        value = next(value, atom(rest)?)?;
    }
}

fn atom(rest: &mut &str) -> Option<i64> {
    *rest = rest.trim_start();
    if let Some(inner) = rest.strip_prefix('(') {
        // A prompt is short, and so is a nest of brackets in it.
        if inner.len() > 1000 {
            return None;
        }
        *rest = inner;
        let value = sum(rest)?;
        *rest = rest.trim_start().strip_prefix(')')?;
        return Some(value);
    }
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let value = rest[..digits].parse().ok()?;
    *rest = &rest[digits..];
    Some(value)
}

/// Words with a number each.
pub struct Lexicon(HashMap<String, f64>);

impl Lexicon {
    /// # Errors
    /// When it cannot be read, or no line is a word and a number.
    pub fn read(path: &Path) -> Result<Self, AlignError> {
        let text = disk::read_text(path, 256 << 20).map_err(AlignError::io("read", path))?;
        let entry = |line: &str| {
            let mut parts = line.split('\t');
            Some((parts.next()?.trim().to_lowercase(), parts.next()?.trim().parse::<f64>().ok()?))
        };
        let words: HashMap<String, f64> = text.lines().filter_map(entry).collect();
        if words.is_empty() {
            let help = "give lines of a word, a tab and a number".into();
            return Err(AlignError::TooFew { path: path.to_owned(), problem: "no word with a number".into(), help });
        }
        Ok(Self(words))
    }

    /// The mean number of the words of `text` that are known; 0 where none is.
    #[must_use]
    pub fn mean(&self, text: &str) -> f64 {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty());
        let known: Vec<f64> = words.filter_map(|word| self.0.get(&word.to_lowercase()).copied()).collect();
        known.iter().sum::<f64>() / known.len().max(1) as f64
    }

    /// Its words with their numbers.
    pub fn words(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(word, number)| (word.as_str(), *number))
    }
}

/// A program of somebody else's, in a process that is ended when it takes too long.
struct Program {
    argv: Vec<String>,
    timeout: Duration,
}

impl Signal for Program {
    fn score(&self, texts: &[(&str, &str)]) -> Result<Vec<f64>, AlignError> {
        let name = self.argv.join(" ");
        let wrong = |problem: String| AlignError::Signal {
            name: name.clone(),
            problem,
            help: "it has to answer each line of its stdin with one line: a number".into(),
        };
        let (program, arguments) = self.argv.split_first().ok_or_else(|| wrong("it names no program".into()))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| wrong(format!("it does not start: {e}")))?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(wrong("it has no stdin or stdout".into()));
        };
        let asked: Vec<String> =
            texts.iter().map(|(prompt, response)| serde_json::json!({"prompt": prompt, "response": response}).to_string() + "\n").collect();
        // Written on a thread of its own: a program that answers as it reads would wait for a reader.
        // Nor is the thread waited for: what such a program has started may hold its stdin, and read nothing.
        std::thread::spawn(move || asked.iter().try_for_each(|line| stdin.write_all(line.as_bytes())));
        let (send, receive) = mpsc::channel();
        let count = texts.len();
        std::thread::spawn(move || {
            for line in BufReader::new(std::io::Read::take(stdout, MOST_ANSWER_BYTES)).lines().take(count) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let mut scores = Vec::with_capacity(count);
        let outcome = loop {
            if scores.len() == count {
                break Ok(());
            }
            match receive.recv_timeout(self.timeout) {
                Ok(Ok(line)) => match line.trim().parse::<f64>() {
                    Ok(score) if score.is_finite() => scores.push(score),
                    _ => {
                        break Err(format!(
                            "answer {} is `{}`",
                            scores.len() + 1,
                            disk::printable_line(line.trim()).chars().take(80).collect::<String>()
                        ));
                    }
                },
                Ok(Err(e)) => break Err(format!("answer {} cannot be read: {e}", scores.len() + 1)),
                Err(mpsc::RecvTimeoutError::Timeout) => break Err(format!("no answer within {} s", self.timeout.as_secs())),
                Err(mpsc::RecvTimeoutError::Disconnected) => break Err(format!("it ended after {} of {count} answers", scores.len())),
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        outcome.map(|()| scores).map_err(wrong)
    }
}

/// Bytes that all answers together may take.
const MOST_ANSWER_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn one(options: &SignalOptions, prompt: &str, response: &str) -> f64 {
        open(options).unwrap().score(&[(prompt, response)]).unwrap()[0]
    }

    #[test]
    fn arithmetic_is_exact() {
        for (prompt, response, want) in [
            ("1 + 1 =", " 2", 1.0),
            ("1 + 1 =", " 2 and more", 1.0),
            ("1 + 1 =", "3", 0.0),
            ("What is 2 * (3 + 4) - 1?", "13", 1.0),
            ("7 - 9 =", "-2", 1.0),
            ("12 / 5 =", "2", 0.0),
            ("1 + =", "1", 0.0),
            ("9223372036854775807 + 1 =", "0", 0.0),
            ("1 + 1 =", "", 0.0),
            ("2 + 2 =", "44", 0.0),
        ] {
            assert_eq!(one(&SignalOptions::Arithmetic, prompt, response), want, "{prompt}{response}");
        }
    }

    #[test]
    fn the_others_say_what_they_say() {
        assert_eq!(one(&SignalOptions::Json, "", " {\"a\": [1]} "), 1.0);
        assert_eq!(one(&SignalOptions::Json, "", "{"), 0.0);
        assert_eq!(one(&SignalOptions::Regex { pattern: "^a+$".into() }, "", "aaa"), 1.0);
        assert!(open(&SignalOptions::Regex { pattern: "(".into() }).is_err());
        assert_eq!(one(&SignalOptions::Length { chars: 4 }, "", "ab"), 0.5);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("words.tsv");
        std::fs::write(&path, "good\t2.0\nbad\t-1.0\nbroken\n").unwrap();
        assert_eq!(one(&SignalOptions::Lexicon { path }, "", "Good, unknown and bad."), 0.5);
    }

    #[test]
    fn a_program_answers_lines_and_one_that_does_not_is_named() {
        let program = |script: &str| SignalOptions::Command { argv: vec!["sh".into(), "-c".into(), script.into()], timeout_secs: 1 };
        assert_eq!(one(&program("while read line; do echo ${#line}; done"), "p", "r"), 29.0);
        for (script, want) in [("cat", "answer 1 is"), ("exit 0", "it ended after 0 of 1"), ("sleep 9", "no answer within 1 s")] {
            let error = open(&program(script)).unwrap().score(&[("p", "r")]).unwrap_err().to_string();
            assert!(error.contains(want), "{script}: {error}");
        }
        let since = std::time::Instant::now();
        let many = "r".repeat(1 << 20);
        let error = open(&program("sleep 20; true")).unwrap().score(&[("p", &many)]).unwrap_err().to_string();
        assert!(error.contains("no answer within 1 s") && since.elapsed() < Duration::from_secs(10), "{error}");
        let missing = SignalOptions::Command { argv: vec!["/nowhere/at/all".into()], timeout_secs: 1 };
        assert!(open(&missing).unwrap().score(&[("p", "r")]).unwrap_err().to_string().contains("does not start"));
    }
}
