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
        _ if name.contains(is_hidden_in_line) => Err("holds control characters"),
        _ if name.trim() != name => Err("begins or ends with a space"),
        _ => Ok(()),
    }
}

/// `text` with every character that steers a terminal or reorders a line written out as `\u{1b}`, and with no secret of a
/// URL; line ends and tabs stay.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    shown(text, is_hidden)
}

/// [`printable`], with line ends and tabs written out too: a name that stays on its line.
#[must_use]
pub fn printable_line(text: &str) -> Cow<'_, str> {
    shown(text, is_hidden_in_line)
}

fn shown(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    let text = without_secrets(text);
    if !text.contains(&is_hidden) {
        return text;
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

/// Whether a character does something to a terminal or to the order of a line instead of showing itself: controls (Unicode's Cc
/// but line end and tab) and what reorders text (UAX 9's embeddings, overrides, isolates and marks).
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{2028}' | '\u{2029}')
}

fn is_hidden_in_line(c: char) -> bool {
    c == '\n' || c == '\t' || is_hidden(c)
}

/// What stands for a secret.
const MASK: &str = "***";
/// A key of a query that holds one of these has a secret for its value.
const SECRETS: [&str; 9] = ["token", "sig", "key", "pass", "pwd", "secret", "cred", "auth", "session"];

/// `text` with the user and password of every URL in it, and the values of keys such as `token` and `X-Amz-Signature`, as `***`.
#[must_use]
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let (mut out, mut done) = (String::new(), 0);
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        if start < done {
            continue;
        }
        let len = text[start..].find(|c: char| c.is_whitespace() || c.is_control() || "\"'`<>\\".contains(c)).unwrap_or(text.len() - start);
        let url = &text[start..start + len];
        let masked = masked(url);
        if masked != url {
            out.push_str(&text[done..start]);
            out.push_str(&masked);
            done = start + len;
        }
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// A URL without its scheme.
fn masked(url: &str) -> String {
    // A `/` in a password should have been written as %2F, and is not by everyone; a number behind a colon is a port.
    let authority = url.find('/').unwrap_or(url.len());
    let is_port = |text: &str| text.rsplit_once(':').is_none_or(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let user = if is_port(&url[..authority]) { url[..authority].rfind('@') } else { url.rfind('@') };
    let (user, rest) = user.map_or(("", url), |at| (MASK, &url[at..]));
    let Some(query) = rest.find(['?', '#']) else { return format!("{user}{rest}") };
    let mut out = format!("{user}{}", &rest[..query]);
    for pair in rest[query..].split_inclusive(['?', '#', '&', ';']) {
        let (pair, end) = match pair.char_indices().next_back() {
            Some((at, '?' | '#' | '&' | ';')) => pair.split_at(at),
            _ => (pair, ""),
        };
        match pair.split_once('=') {
            Some((key, _)) if SECRETS.iter().any(|secret| key.to_ascii_lowercase().contains(secret)) => {
                out += &format!("{key}={MASK}{end}")
            }
            _ => out += &format!("{pair}{end}"),
        }
    }
    out
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

    #[test]
    fn no_secret_of_a_url_is_shown() {
        for (text, want) in [
            ("no files match `s3://me:hunter2@bucket/x`", "no files match `s3://***@bucket/x`"),
            ("\"s3://AKIA:a/b@c+d@bucket/x\"", "\"s3://***@bucket/x\""),
            ("http://h/x?v=1&X-Amz-Signature=abc&sv=2&sig=d%3D e=f", "http://h/x?v=1&X-Amz-Signature=***&sv=2&sig=*** e=f"),
            ("http://h/#access_token=abc", "http://h/#access_token=***"),
            ("a://u:p@h b://x c://y:z@k", "a://***@h b://x c://***@k"),
            ("http://h?token=1&amp;sig=2", "http://h?token=***&amp;sig=***"),
        ] {
            assert_eq!(printable(text), want);
        }
        for plain in ["see http://host:8080/@scope/x?page=3, a@b", "plain", "://", "漢字://漢字?漢=字"] {
            assert_eq!(printable(plain), plain);
        }
    }
}
