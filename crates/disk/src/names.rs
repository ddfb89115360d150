//! Names and texts from outside: which may become a file's name, and how any is shown.

use std::borrow::Cow;

/// Longest name that common file systems take, in bytes.
const LONGEST_BYTES: usize = 255;

/// Whether `name` may become the name of one file or folder: one component, and shown as it is.
/// # Errors
/// Why not, as the end of the sentence "the name ...".
pub fn plain_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("is empty"),
        "." | ".." => Err("means a folder that is there already"),
        _ if name.len() > LONGEST_BYTES => Err("is longer than 255 bytes"),
        _ if name.contains(['/', '\\']) => Err("holds a path separator"),
        _ if name.chars().any(|c| c == '\n' || c == '\t' || is_hidden(c)) => Err("holds control characters"),
        _ if name.trim() != name => Err("begins or ends with a space"),
        _ => Ok(()),
    }
}

/// `text` with every character that steers a terminal or reorders a line written out as `\u{1b}`; line ends and tabs stay.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    shown(text, is_hidden)
}

/// [`printable`], with line ends and tabs written out too: a name that stays on its line.
#[must_use]
pub fn printable_line(text: &str) -> Cow<'_, str> {
    shown(text, |c| c == '\n' || c == '\t' || is_hidden(c))
}

fn shown(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Controls (Unicode's Cc but line end and tab) and what reorders text (UAX 9's embeddings, overrides, isolates and marks).
fn is_hidden(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_name_is_one_component_that_shows_itself() {
        for good in ["base", "step-00000500", "Größe 2", "漢字", "..."] {
            assert_eq!(plain_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\0b", "a\nb", "\u{1b}[2J", "\u{202e}txt", " a", &"x".repeat(256)] {
            assert!(plain_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_shown_steers_no_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\r\n\tc\u{202e}d\u{9b}"), "a\\u{1b}[31mb\\u{d}\n\tc\\u{202e}d\\u{9b}");
        assert_eq!(printable_line("a\nb"), "a\\u{a}b");
        proptest!(|(text in any::<String>())| {
            prop_assert!(!printable(&text).chars().any(is_hidden));
            prop_assert!(!printable_line(&text).chars().any(char::is_control));
        });
    }
}
