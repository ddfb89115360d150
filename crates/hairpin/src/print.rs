//! The only places that write to stdout and stderr.

use std::io::Write;

use miette::IntoDiagnostic;

/// To stdout, with an end of line. A closed pipe is no error of ours.
pub(crate) fn result(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// To stderr.
pub(crate) fn talk(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

/// One line of JSON to stdout.
pub(crate) fn json(value: &impl serde::Serialize) -> miette::Result<()> {
    result(&serde_json::to_string(value).into_diagnostic()?);
    Ok(())
}
