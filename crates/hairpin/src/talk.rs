//! Messages, to stderr: shown, never obeyed.

use std::io::Write;

/// With an end of line.
pub(crate) fn talk(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", disk::printable(text.trim_end()));
}
