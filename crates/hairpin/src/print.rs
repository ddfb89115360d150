//! With [`crate::talk`] the only places that write to stdout and stderr. What comes from files, names and models is shown, never obeyed: every
//! text goes through [`disk::printable`].

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

use miette::{Diagnostic, IntoDiagnostic};

use crate::progress;
pub(crate) use crate::talk::talk;

/// To stdout, with an end of line.
pub(crate) fn result(text: &str) {
    piece(&format!("{}\n", text.trim_end()));
}

/// To stdout as it is, at once.
pub(crate) fn piece(text: &str) {
    to_stdout(&disk::printable(text));
}

/// To a terminal, in the place of `before`, which was shown last.
pub(crate) fn instead(before: &str, text: &str) {
    to_stdout(&format!("\x1b[{}A\x1b[J{}\n", before.trim_end().lines().count(), disk::printable(text.trim_end())));
}

/// One line of JSON to stdout.
pub(crate) fn json(value: &impl serde::Serialize) -> miette::Result<()> {
    let text = serde_json::to_string(value).into_diagnostic()?;
    // Outside strings JSON has none of these characters, and inside they may be written as numbers.
    let mut shown = String::with_capacity(text.len() + 1);
    for c in disk::without_secrets(&text).chars() {
        if disk::is_hidden(c) { shown += &format!("\\u{:04x}", u32::from(c)) } else { shown.push(c) }
    }
    to_stdout(&(shown + "\n"));
    Ok(())
}

/// An error on stderr, in colour where that is a terminal.
pub(crate) fn error(error: &miette::Report) {
    let shown = miette::Report::new_boxed(Box::new(Shown::new(&**error)));
    let _ = writeln!(std::io::stderr(), "{}", format!("{shown:?}").trim_end());
}

/// A reader that has seen enough ends us without a word; what cannot be written is an error, as it would be lost.
fn to_stdout(text: &str) {
    // A result ends the work that it is of.
    progress::end();
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::BrokenPipe => crate::end_at_once(0),
        Err(e) => {
            talk(&format!(
                "print::io: the result cannot be written to stdout: {e}\nhelp: check where stdout goes, and that its disk has room"
            ));
            crate::end_at_once(3);
        }
    }
}

/// A diagnostic whose texts steer no terminal, for the printer that adds its own colours.
#[derive(Debug)]
struct Shown {
    message: String,
    code: Option<String>,
    help: Option<String>,
    source: Option<Box<Shown>>,
}

impl Shown {
    fn new(error: &dyn Diagnostic) -> Self {
        let text = |part: Box<dyn Display + '_>| short(&part);
        Self {
            message: short(error),
            code: error.code().map(text),
            help: error.help().map(text),
            source: match error.diagnostic_source() {
                Some(source) => Some(Box::new(Self::new(source))),
                None => error.source().map(|source| Box::new(Self::of_plain(source))),
            },
        }
    }

    fn of_plain(error: &dyn std::error::Error) -> Self {
        Self { message: short(error), code: None, help: None, source: error.source().map(|source| Box::new(Self::of_plain(source))) }
    }
}

/// An error may quote a line of any length.
fn short(text: &(impl Display + ?Sized)) -> String {
    const LINES: usize = 60;
    const CHARS: usize = 200;
    let text = text.to_string();
    let shown = disk::printable(&text);
    // What is wrong with a long value stands behind it.
    let cut = |line: &str| match (line.char_indices().nth(CHARS), line.char_indices().nth_back(CHARS)) {
        (Some((head, _)), Some((tail, _))) if head < tail => format!("{} ... {}", &line[..head], &line[tail..]),
        _ => line.to_owned(),
    };
    shown.lines().take(LINES).map(cut).collect::<Vec<_>>().join("\n")
}

impl Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Shown {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl Diagnostic for Shown {
    fn code(&self) -> Option<Box<dyn Display + '_>> {
        self.code.as_ref().map(|code| Box::new(code) as _)
    }
    fn help(&self) -> Option<Box<dyn Display + '_>> {
        self.help.as_ref().map(|help| Box::new(help) as _)
    }
}
