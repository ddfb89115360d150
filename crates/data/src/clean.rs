//! Cleaning: the usual quality rules, each countable and each with a switch.
//!
//! Thresholds after Gopher (arXiv:2112.11446, table A1) and C4 (arXiv:1910.10683, section 2.2), loosened where source
//! code would fall: its words are short, its symbols many and its lines alike.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::{names, readers};

/// One reason to drop a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Fewer bytes than `min_bytes`.
    TooShort,
    /// Mean word length outside 2..=20 (prose) or 2..=24 (code) of at least 20 words; not for scripts without spaces.
    WordLength,
    /// Less than half of the characters are letters, their marks or white space (prose), or a fifth (code).
    FewLetters,
    /// More than 30% of lines with letters (prose) or 60% (code) repeat an earlier one.
    RepeatedLines,
    /// One 4-gram of words (12-gram of characters in scripts without spaces) makes up more than 15% (prose) or 25% (code); what
    /// holds no letter or digit (rules, frames of tables) is neither, here and above.
    RepeatedNgram,
    /// Code with a line of more than 10,000 characters, or 500 on average: minified. Prose with 2,000 characters without a
    /// space, in a script that has them: data.
    LongLines,
    /// Code with a comment among its first ten lines that says that the file is generated.
    Generated,
    /// More than 30% of at least five lines end in an ellipsis (prose).
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CleanOptions {
    /// A shorter document is dropped.
    pub min_bytes: u64,
    /// Rules that are switched off.
    pub off: Vec<Rule>,
}

impl Default for CleanOptions {
    fn default() -> Self {
        Self { min_bytes: 32, off: Vec::new() }
    }
}

/// A longer document is judged by its beginning.
const JUDGED_BYTES: usize = 1 << 20;

/// The first rule that `text` breaks.
pub(crate) fn broken_rule(name: &str, text: &str, options: &CleanOptions) -> Option<Rule> {
    let text = &text[..text.floor_char_boundary(JUDGED_BYTES)];
    // Of names without an ending of code the text itself tells.
    let ending = readers::ending(names::file_of(name));
    let is_prose = ending != "json" && !readers::CODE.contains(&ending.as_str()) && !looks_like_code(text);
    let judged = Judged { text, is_prose, has_spaces: has_spaces(text) };
    Rule::ALL.into_iter().filter(|rule| !options.off.contains(rule)).find(|rule| judged.breaks(*rule, options))
}

/// What stands between spaces and holds a letter or digit.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric))
}

/// Of fewer words the mean length is that of a title.
const LEAST_WORDS: usize = 20;

/// A text with what the rules have to know of it.
struct Judged<'a> {
    text: &'a str,
    is_prose: bool,
    /// Whether its script has spaces between words.
    has_spaces: bool,
}

impl Judged<'_> {
    fn breaks(&self, rule: Rule, options: &CleanOptions) -> bool {
        let (text, is_prose) = (self.text, self.is_prose);
        let pick = |prose: f64, code: f64| if is_prose { prose } else { code };
        match rule {
            Rule::TooShort => (text.trim().len() as u64) < options.min_bytes,
            Rule::WordLength => {
                let (words, characters) = words(text).fold((0, 0), |(words, all), word| (words + 1, all + word.chars().count()));
                self.has_spaces && words >= LEAST_WORDS && !(2.0..=pick(20.0, 24.0)).contains(&share(characters, words))
            }
            Rule::FewLetters => {
                let good = text.chars().filter(|c| is_letter(*c) || c.is_whitespace()).count();
                share(good, text.chars().count()) < pick(0.5, 0.2)
            }
            Rule::RepeatedLines => {
                let mut seen = HashSet::new();
                let lines = text.lines().map(str::trim).filter(|line| line.len() > 3 && line.chars().any(is_letter));
                let (mut all, mut again) = (0, 0);
                for line in lines {
                    all += 1;
                    again += usize::from(!seen.insert(line));
                }
                share(again, all) > pick(0.3, 0.6)
            }
            Rule::RepeatedNgram => {
                let (units, length): (Vec<u64>, usize) = if self.has_spaces {
                    (words(text).map(|word| xxhash_rust::xxh3::xxh3_64(word.as_bytes())).collect(), 4)
                } else {
                    (text.chars().filter(|c| c.is_alphanumeric()).map(u64::from).collect(), 12)
                };
                let mut counts: HashMap<&[u64], usize> = HashMap::new();
                let mut most = 0;
                for gram in units.windows(length) {
                    let count = counts.entry(gram).or_default();
                    *count += 1;
                    most = most.max(*count);
                }
                units.len() >= 10 * length && share(length * most, units.len()) > pick(0.15, 0.25)
            }
            Rule::LongLines if is_prose => self.has_spaces && text.split_whitespace().any(|word| word.chars().count() > 2000),
            Rule::LongLines => {
                let longest = text.lines().map(str::len).max().unwrap_or(0);
                let lines = text.lines().count();
                longest > 10_000 || share(text.len(), lines) > 500.0 && lines > 3
            }
            Rule::Generated => !is_prose && text.lines().take(10).any(says_generated),
            Rule::Ellipses => {
                // Of Latin, typeset, vertical and Mongolian text; full stops and dots of Chinese and Japanese.
                let ends = ["...", "\u{2026}", "\u{22ef}", "\u{fe19}", "\u{1801}", "\u{3002}\u{3002}\u{3002}", "\u{30fb}\u{30fb}\u{30fb}"];
                let lines = text.lines().count();
                let open = text.lines().filter(|line| ends.iter().any(|end| line.trim_end().ends_with(end))).count();
                is_prose && lines >= 5 && share(open, lines) > 0.3
            }
        }
    }
}

fn share(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

/// Vowel signs, tones and joiners of many scripts are marks of a letter, not letters.
fn is_letter(c: char) -> bool {
    c.is_alphabetic() || unicode_normalization::char::is_combining_mark(c) || matches!(c, '\u{200c}' | '\u{200d}')
}

/// Whether words are parted by spaces: not where a third of the letters are of a script without them.
fn has_spaces(text: &str) -> bool {
    let (mut all, mut without) = (0, 0);
    for c in text.chars().filter(|c| is_letter(*c)) {
        all += 1;
        without += usize::from(is_unspaced(c));
    }
    without * 3 < all || all == 0
}

/// Scripts that are written without spaces between words (Unicode, chapters 10, 13 and 16 to 18).
fn is_unspaced(c: char) -> bool {
    matches!(u32::from(c),
        0x0e00..=0x0eff // Thai, Lao
        | 0x0f00..=0x0fff // Tibetan
        | 0x1000..=0x109f | 0xa9e0..=0xa9ff | 0xaa60..=0xaa7f // Myanmar
        | 0x1780..=0x17ff // Khmer
        | 0x1950..=0x19df | 0x1a20..=0x1aaf | 0xaa80..=0xaadf // Tai Le, New Tai Lue, Tai Tham, Tai Viet
        | 0x1b00..=0x1b7f | 0xa980..=0xa9df // Balinese, Javanese
        | 0x2e80..=0x2fdf | 0x3005..=0x3007 | 0x3040..=0x312f | 0x31a0..=0x31ff // radicals, kana, Bopomofo
        | 0x3400..=0x4dbf | 0x4e00..=0xa4cf | 0xf900..=0xfaff // Han, Yi
        | 0xff66..=0xff9f | 0x1_7000..=0x1_8cff | 0x1_b000..=0x1_b2ff | 0x2_0000..=0x3_ffff)
}

/// Whether lines end and signs stand as those of programs do.
fn looks_like_code(text: &str) -> bool {
    let (mut lines, mut ends) = (0, 0);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()).take(400) {
        lines += 1;
        ends += usize::from(line.ends_with([';', '{', '}']) || line.ends_with("),") || line.ends_with("):"));
    }
    let (mut signs, mut all) = (0, 0);
    for b in text.bytes().take(1 << 16).filter(|b| !b.is_ascii_whitespace()) {
        all += 1;
        signs += usize::from(b"{}()[]<>;=|&$".contains(&b));
    }
    lines >= 3 && share(ends, lines) > 0.3 || share(signs, all) > 0.08
}

fn says_generated(line: &str) -> bool {
    let line = line.trim_start().to_lowercase();
    let marks = ["//", "#", "/*", "*", "--", ";", "%", "<!--", "\"\"\"", "'''"];
    let signs = ["@generated", "automatically generated", "autogenerated", "auto-generated", "do not edit", "generated by"];
    marks.iter().any(|mark| line.starts_with(mark)) && signs.iter().any(|sign| line.contains(sign))
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
            (Rule::TooShort, "a.md", "short".to_owned()),
            (Rule::WordLength, "a.md", "abcdefghijklmnopqrstuvwxyz ".repeat(20)),
            (Rule::FewLetters, "a.md", "12 34 56 78 90 !? ".repeat(30)),
            (Rule::RepeatedLines, "a.md", "the same line of words again\n".repeat(20)),
            (Rule::RepeatedNgram, "a.md", format!("{PROSE_TEXT}{}", "one two three four ".repeat(40))),
            (Rule::RepeatedNgram, "a.md", "我们沿着河边走了很久很久。".repeat(40)),
            (Rule::LongLines, "a.js", "word ".repeat(3000)),
            (Rule::LongLines, "a.md", format!("{PROSE_TEXT} {}", "QUJD".repeat(600))),
            (Rule::Generated, "a.rs", format!("// @generated by a tool\n{PROSE_TEXT}")),
            (Rule::Ellipses, "a.md", (0..30).map(|i| format!("line number {i} trails off into ...\n")).collect()),
        ];
        for (rule, name, text) in cases {
            // Alone, so that another rule does not come first.
            let off = Rule::ALL.into_iter().filter(|other| *other != rule).collect();
            assert_eq!(broken_rule(name, &text, &CleanOptions { off, ..options.clone() }), Some(rule));
            let all_off = CleanOptions { off: Rule::ALL.to_vec(), ..options.clone() };
            assert_eq!(broken_rule(name, &text, &all_off), None);
        }
    }
    /// Article 1 of the Universal Declaration of Human Rights, or its beginning.
    #[test]
    fn no_script_is_dropped_for_how_it_is_written() {
        for text in [
            "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
            "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
            "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม",
            "មនុស្សទាំងអស់ កើតមកមានសេរីភាព និងសមភាព ក្នុងផ្នែកសេចក្ដីថ្លៃថ្នូរនិងសិទ្ធិ។",
            "ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ ສິດທິ ເສລີພາບແລະຄວາມສະເໝີພາບເທົ່າທຽມກັນ",
            "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း၊ တူညီလွတ်လပ်သော အခွင့်အရေးများဖြင့် လည်းကောင်း",
            "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས་དང༌། ཐོབ་ཐངགི་རང་དབང་འདྲ་མཉམ་དུ་ཡོད་ལ།",
            "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
            "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا",
            "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון",
            "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
            "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும் உரிமைகளிலும் சமமானவர்கள்",
            "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
            "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
        ] {
            for name in ["a.txt", "a.jsonl:3", "a.parquet:1"] {
                assert_eq!(broken_rule(name, text, &CleanOptions::default()), None, "{text}");
            }
        }
    }

    #[test]
    fn rules_and_tables_are_no_words_that_repeat() {
        let rule = "#".repeat(40);
        let table = "| a | b |\n|---|---|\n".repeat(3);
        let chinese = (0..60).map(|i| format!("第{i}章：我们沿着河边走了{}里，看见{}座桥和{}个人。\n{rule}\n", i * 7, i * 3 + 1, i * 5));
        for text in [chinese.collect::<String>(), format!("{PROSE_TEXT}{}{table}", "| | | |\n".repeat(60))] {
            let options = CleanOptions { off: vec![Rule::RepeatedLines, Rule::FewLetters], ..CleanOptions::default() };
            assert_eq!(broken_rule("a.md", &text, &options), None, "{text}");
        }
        assert_eq!(broken_rule("a.md", "8장. 다음 단계 및 그 다음에 할 일", &CleanOptions::default()), None);
    }

    #[test]
    fn prose_is_not_judged_as_code_is() {
        let wind = "Most of the electricity of the island is generated by wind and water. Do not edit this.\n";
        let paragraphs = (0..6).map(|i| {
            let sentences =
                (0..12).map(|j| format!("In chapter {i} the traveller came to house {} and stayed {} days. ", i * 31 + j, j * 7 + i));
            sentences.collect::<String>() + "\n"
        });
        for text in [wind, &paragraphs.collect::<String>(), "He waited, and then he left without a word..."] {
            let options = CleanOptions { off: vec![Rule::RepeatedNgram], ..CleanOptions::default() };
            assert_eq!(broken_rule("a.txt", text, &options), None, "{text}");
        }
    }
}
