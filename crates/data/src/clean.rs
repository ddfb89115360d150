//! Cleaning: the usual quality rules, each countable and each with a switch.
//!
//! Thresholds after Gopher (arXiv:2112.11446, table A1) and C4 (arXiv:1910.10683, section 2.2), loosened where source
//! code would fall: its words are short, its symbols many and its lines alike.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

/// One reason to drop a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Fewer bytes than `min_bytes`.
    TooShort,
    /// Mean word length outside 2..=12 (prose) or 2..=24 (code).
    WordLength,
    /// Less than half of the characters are letters or white space (prose), or a fifth (code).
    FewLetters,
    /// More than 30% of lines (prose) or 60% (code) repeat an earlier one.
    RepeatedLines,
    /// One 4-gram of words makes up more than 15% of all (prose) or 25% (code).
    RepeatedNgram,
    /// A line longer than 10,000 characters, or 500 on average: data or minified code.
    LongLines,
    /// A line that says that the file is generated.
    Generated,
    /// More than 30% of lines end in an ellipsis (prose).
    Ellipses,
}

impl Rule {
    pub const ALL: [Self; 8] = [
        Self::TooShort,
        Self::WordLength,
        Self::FewLetters,
        Self::RepeatedLines,
        Self::RepeatedNgram,
        Self::LongLines,
        Self::Generated,
        Self::Ellipses,
    ];

    /// As it is written in a project file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::WordLength => "word_length",
            Self::FewLetters => "few_letters",
            Self::RepeatedLines => "repeated_lines",
            Self::RepeatedNgram => "repeated_ngram",
            Self::LongLines => "long_lines",
            Self::Generated => "generated",
            Self::Ellipses => "ellipses",
        }
    }
}

/// Which rules hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CleanOptions {
    pub min_bytes: u64,
    /// Rules that are switched off.
    pub off: Vec<Rule>,
}

impl Default for CleanOptions {
    fn default() -> Self {
        Self { min_bytes: 200, off: Vec::new() }
    }
}

/// Endings of names that hold prose; all else is judged as code.
const PROSE: &[&str] = &[".md", ".txt", ".rst", ".markdown", ".org", ".html", ".txt.gz", ".md.gz", ".txt.zst"];

/// The first rule that `text` breaks.
pub(crate) fn broken_rule(name: &str, text: &str, options: &CleanOptions) -> Option<Rule> {
    let name = name.split_once(':').map_or(name, |(file, _)| file);
    let is_prose = PROSE.iter().any(|ending| name.ends_with(ending)) || name.contains(".jsonl") || name.ends_with(".parquet");
    Rule::ALL.into_iter().filter(|rule| !options.off.contains(rule)).find(|rule| breaks(*rule, text, is_prose, options))
}

fn breaks(rule: Rule, text: &str, is_prose: bool, options: &CleanOptions) -> bool {
    let share = |part: usize, all: usize| part as f64 / all.max(1) as f64;
    let pick = |prose: f64, code: f64| if is_prose { prose } else { code };
    match rule {
        Rule::TooShort => (text.trim().len() as u64) < options.min_bytes,
        Rule::WordLength => {
            let words = text.split_whitespace().count();
            let letters: usize = text.chars().filter(|c| !c.is_whitespace()).count();
            !(2.0..=pick(12.0, 24.0)).contains(&share(letters, words))
        }
        Rule::FewLetters => {
            let good = text.chars().filter(|c| c.is_alphabetic() || c.is_whitespace()).count();
            share(good, text.chars().count()) < pick(0.5, 0.2)
        }
        Rule::RepeatedLines => {
            let mut seen = HashSet::new();
            let lines = text.lines().map(str::trim).filter(|line| line.len() > 3);
            let (mut all, mut again) = (0, 0);
            for line in lines {
                all += 1;
                again += usize::from(!seen.insert(line));
            }
            share(again, all) > pick(0.3, 0.6)
        }
        Rule::RepeatedNgram => {
            let words: Vec<&str> = text.split_whitespace().collect();
            let mut counts: HashMap<&[&str], usize> = HashMap::new();
            let mut most = 0;
            for gram in words.windows(4) {
                let count = counts.entry(gram).or_default();
                *count += 1;
                most = most.max(*count);
            }
            words.len() >= 40 && share(4 * most, words.len()) > pick(0.15, 0.25)
        }
        Rule::LongLines => {
            let (mut longest, mut lines) = (0, 0);
            for line in text.lines() {
                longest = longest.max(line.len());
                lines += 1;
            }
            longest > 10_000 || share(text.len(), lines) > 500.0 && lines > 3
        }
        Rule::Generated => {
            let head: String = text.lines().take(10).collect::<Vec<_>>().join("\n").to_lowercase();
            ["@generated", "automatically generated", "autogenerated", "do not edit", "generated by"].iter().any(|sign| head.contains(sign))
        }
        Rule::Ellipses => {
            let lines = text.lines().count();
            let open = text.lines().filter(|l| l.trim_end().ends_with("...") || l.trim_end().ends_with('…')).count();
            is_prose && share(open, lines) > 0.3
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROSE_TEXT: &str = "A step begins with a window of tokens. The model reads it from left to right and says, \
        for each place, how likely every next token is; what really came is then compared with what was said.\n\
        The difference flows back through the same operations in reverse, and every weight is moved a little.\n";

    #[test]
    fn each_rule_catches_its_kind_and_spares_plain_text() {
        let options = CleanOptions::default();
        assert_eq!(broken_rule("a.md", PROSE_TEXT, &options), None);
        let cases = [
            (Rule::TooShort, "short".to_owned()),
            (Rule::WordLength, "abcdefghijklmnopqrstuvwxyz ".repeat(20)),
            (Rule::FewLetters, "12 34 56 78 90 !? ".repeat(30)),
            (Rule::RepeatedLines, "the same line of words again\n".repeat(20)),
            (Rule::RepeatedNgram, format!("{PROSE_TEXT}{}", "one two three four ".repeat(40))),
            (Rule::LongLines, "word ".repeat(3000)),
            (Rule::Generated, format!("// @generated by a tool\n{PROSE_TEXT}")),
            (Rule::Ellipses, (0..30).map(|i| format!("line number {i} trails off into ...\n")).collect()),
        ];
        for (rule, text) in cases {
            // Alone, so that another rule does not come first.
            let off = Rule::ALL.into_iter().filter(|other| *other != rule).collect();
            assert_eq!(broken_rule("a.md", &text, &CleanOptions { off, ..options.clone() }), Some(rule));
            let all_off = CleanOptions { off: Rule::ALL.to_vec(), ..options.clone() };
            assert_eq!(broken_rule("a.md", &text, &all_off), None);
        }
    }
}
