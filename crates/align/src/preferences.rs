//! Preferences: a prompt, some responses to it, and how somebody ranked them; one JSON object a line.
//!
//! ```json
//! {"prompt": "1 + 1 =", "responses": [" 2", " 3"], "ranks": [0, 1], "by": {"kind": "signal", "name": "arithmetic"}}
//! ```
//! The lowest rank is the best, and equal ranks are a tie. Read as well are the layouts that others publish in: pairs of `chosen` and
//! `rejected` with the prompt beside them or in both (TRL, Anthropic HH), as texts or as lists of messages, `completions` with scores
//! (UltraFeedback), and pairs with the number of the better one.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AlignError,
    template::{self, Chat, Message},
};

/// Who ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankerKind {
    Person,
    Model,
    Signal,
}

/// Who or what ranked, kept beside every ranking.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ranker {
    pub kind: RankerKind,
    pub name: String,
}

impl Ranker {
    #[must_use]
    pub fn signal(name: &str) -> Self {
        Self { kind: RankerKind::Signal, name: name.to_owned() }
    }
}

/// One ranking of responses to one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    pub prompt: String,
    pub responses: Vec<String>,
    /// Of each response: 0 is the best, equal numbers are ties.
    pub ranks: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Ranker>,
    /// When, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_secs: Option<f64>,
    /// How sure the ranker was, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Preference {
    /// Ranks from scores, the highest first; equal scores are ties.
    #[must_use]
    pub fn of_scores(prompt: String, responses: Vec<String>, scores: &[f64], by: Option<Ranker>) -> Self {
        let ranks = scores.iter().map(|score| scores.iter().filter(|other| *other > score).count() as u32).collect();
        Self { prompt, responses, ranks, by, unix_secs: None, confidence: None, category: None, note: None }
    }

    /// What it is about, by which it is held out whole: its prompt, or its responses where it has none.
    #[must_use]
    pub fn subject(&self) -> String {
        if !self.prompt.is_empty() {
            return self.prompt.clone();
        }
        let mut responses: Vec<&str> = self.responses.iter().map(String::as_str).collect();
        responses.sort_unstable();
        responses.join("\0")
    }

    /// Every pair of which one response is better: places of the better and the worse.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let all = (0..self.ranks.len()).flat_map(|a| (0..self.ranks.len()).map(move |b| (a, b)));
        all.filter(|(a, b)| self.ranks[*a] < self.ranks[*b])
    }

    fn check(&self) -> Result<(), String> {
        if self.responses.len() < 2 {
            return Err(format!("{} responses, and a ranking needs two", self.responses.len()));
        }
        if self.ranks.len() != self.responses.len() {
            return Err(format!("{} ranks of {} responses", self.ranks.len(), self.responses.len()));
        }
        Ok(())
    }
}

/// What a file of preferences holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Preferences {
    pub all: Vec<Preference>,
    /// Lines left out, with the first few reasons.
    pub left_out: usize,
    pub reasons: Vec<String>,
}

/// No line is longer.
const LARGEST_LINE: u64 = 64 << 20;
/// Reasons that are kept.
const MOST_REASONS: usize = 8;

/// Read a file of JSON lines, or of parquet, its conversations as `chat` writes them. Lines and rows that are no ranking are left out,
/// counted and named.
/// # Errors
/// When the file cannot be read, no line of it is a ranking, or one is a conversation and there is no template.
pub fn read(path: &Path, chat: &Chat) -> Result<Preferences, AlignError> {
    let (mut read, mut refused) = (Preferences::default(), Ok(()));
    let mut take = |place: String, one: Result<Value, String>| {
        if let (Ok(()), Ok(value)) = (&refused, &one) {
            refused = chat.check(path, &place, value);
        }
        match one.and_then(|value| of_value(&value, chat)) {
            Ok(preference) => read.all.push(preference),
            Err(problem) => {
                read.left_out += 1;
                if read.reasons.len() < MOST_REASONS {
                    read.reasons.push(format!("{place}: {problem}"));
                }
            }
        }
    };
    if is_parquet(path)? {
        let mut torn = None;
        data::records(path, &mut |number, row| match row {
            Err(problem) => torn = Some(format!("row {number}: {problem}")),
            row => take(format!("row {number}"), row),
        })?;
        if let Some(problem) = torn {
            let help = "bring it back from where it came: what follows the damage is lost".into();
            return Err(AlignError::TooFew { path: path.to_owned(), problem: format!("damaged rows from {problem}"), help });
        }
    } else {
        lines(path, |number, line| {
            let one = line.and_then(|line| serde_json::from_str::<Value>(line).map_err(|e| format!("it is no JSON: {e}")));
            take(format!("line {number}"), one);
            Ok(())
        })?;
    }
    refused?;
    match read.reasons.first() {
        Some(reason) if read.all.is_empty() => Err(AlignError::TooFew {
            path: path.to_owned(),
            problem: format!("no ranking; {reason}"),
            help: "give lines like {\"prompt\": .., \"responses\": [..], \"ranks\": [0, 1]} or {\"prompt\": .., \"chosen\": .., \"rejected\": ..}"
                .into(),
        }),
        None if read.all.is_empty() => Err(AlignError::TooFew {
            path: path.to_owned(),
            problem: "no line".into(),
            help: "rank some responses first: `hairpin align rank`".into(),
        }),
        _ => Ok(read),
    }
}

/// By its first bytes, whatever its name.
pub(crate) fn is_parquet(path: &Path) -> Result<bool, AlignError> {
    let mut first = Vec::new();
    let file = disk::open(path).map_err(AlignError::io("read", path))?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 4), &mut first).map_err(AlignError::io("read", path))?;
    Ok(first == b"PAR1")
}

/// Run `each` on every line that is not empty, with its number from 1; a line that is too long or no UTF-8 is told as its problem.
/// # Errors
/// When the file cannot be read, or `each` gives one.
pub(crate) fn lines(path: &Path, mut each: impl FnMut(usize, Result<&str, String>) -> Result<(), AlignError>) -> Result<(), AlignError> {
    let mut reader = BufReader::new(disk::open(path).map_err(AlignError::io("read", path))?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let count = std::io::Read::take(&mut reader, LARGEST_LINE).read_until(b'\n', &mut line).map_err(AlignError::io("read", path))?;
        if count == 0 {
            break;
        }
        if count as u64 == LARGEST_LINE && line.last() != Some(&b'\n') {
            each(number, Err(format!("it is longer than {LARGEST_LINE} bytes")))?;
            // The rest of it is no line of its own.
            while line.last() != Some(&b'\n') {
                line.clear();
                let rest =
                    std::io::Read::take(&mut reader, LARGEST_LINE).read_until(b'\n', &mut line).map_err(AlignError::io("read", path))?;
                if rest == 0 {
                    break;
                }
            }
            continue;
        }
        let bytes = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
        match std::str::from_utf8(bytes) {
            Ok(text) if text.trim().is_empty() => {}
            Ok(text) => each(number, Ok(text.trim()))?,
            Err(_) => each(number, Err("it is no UTF-8".into()))?,
        }
    }
    Ok(())
}

/// One record, in whichever layout it is.
/// # Errors
/// In words: what is missing, beside the keys that are there.
pub fn of_value(value: &Value, chat: &Chat) -> Result<Preference, String> {
    let Some(record) = value.as_object() else { return Err("it is no JSON object".into()) };
    let has = |key: &str| record.contains_key(key);
    if !(has("chosen") && has("rejected")) && value["prompt"].is_array() {
        // Of the other layouts a conversation is the prompt alone.
        let mut plain = value.clone();
        plain["prompt"] = chat.prompt(&template::messages(value, "prompt")?)?.into();
        return of_value(&plain, chat);
    }
    let made = if has("responses") && has("ranks") {
        serde_json::from_value(value.clone()).map_err(|e| e.to_string())?
    } else if has("chosen") && has("rejected") {
        pair(value, chat)?
    } else if has("completions") {
        completions(value)?
    } else if let Some(made) = numbered(value) {
        made?
    } else {
        let keys = record.keys().map(|key| format!("`{}`", disk::printable_line(key))).collect::<Vec<_>>().join(", ");
        return Err(format!("its keys are {keys}, which is no layout that is known"));
    };
    made.check()?;
    Ok(made)
}

fn text(value: &Value, key: &str) -> Result<String, String> {
    value[key].as_str().map(str::to_owned).ok_or_else(|| format!("`{key}` is no text"))
}

fn two(prompt: String, better: String, worse: String) -> Preference {
    Preference::of_scores(prompt, vec![better, worse], &[1.0, 0.0], None)
}

/// `chosen` and `rejected`, with `prompt` beside them or in both.
fn pair(value: &Value, chat: &Chat) -> Result<Preference, String> {
    let (chosen, rejected) = (&value["chosen"], &value["rejected"]);
    if chosen.is_array() || rejected.is_array() {
        let [chosen, rejected] = [turns(value, "chosen")?, turns(value, "rejected")?];
        let mut before = match &value["prompt"] {
            Value::Null => Vec::new(),
            Value::String(text) => vec![Message { role: "user".into(), content: text.clone() }],
            _ => template::messages(value, "prompt")?,
        };
        // In the implicit layout both hold the prompt; in UltraFeedback's they hold it and `prompt` says it once more.
        let shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
        if shared > 0 {
            before = chosen[..shared].to_vec();
        }
        let answer = |all: &[Message]| all.get(shared).map(|m| m.content.clone()).ok_or("there is no answer after the shared messages");
        return Ok(two(chat.prompt(&before)?, answer(&chosen)?, answer(&rejected)?));
    }
    let [chosen, rejected] = [text(value, "chosen")?, text(value, "rejected")?];
    if let Some(prompt) = value["prompt"].as_str() {
        return Ok(two(prompt.to_owned(), chosen, rejected));
    }
    // Anthropic's: the dialogue up to the last turn of the assistant is the prompt.
    const TURN: &str = "\n\nAssistant:";
    if let (Some(a), Some(b)) = (chosen.rfind(TURN), rejected.rfind(TURN))
        && chosen[..a] == rejected[..b]
    {
        let at = a + TURN.len();
        return Ok(two(chosen[..at].to_owned(), chosen[at..].to_owned(), rejected[at..].to_owned()));
    }
    // Whatever both begin with, back to the end of a word.
    let shared =
        chosen.char_indices().zip(rejected.chars()).find(|((_, a), b)| a != b).map_or(chosen.len().min(rejected.len()), |((at, _), _)| at);
    let at = chosen[..shared].rfind(char::is_whitespace).unwrap_or(0);
    Ok(two(chosen[..at].to_owned(), chosen[at..].to_owned(), rejected[at..].to_owned()))
}

/// Messages, of which a text alone is one.
fn turns(value: &Value, key: &str) -> Result<Vec<Message>, String> {
    match value[key].as_str() {
        Some(text) => Ok(vec![Message { role: "assistant".into(), content: text.to_owned() }]),
        None => template::messages(value, key),
    }
}

/// UltraFeedback's: completions with scores.
fn completions(value: &Value) -> Result<Preference, String> {
    let prompt = text(value, "instruction").or_else(|_| text(value, "prompt"))?;
    let all = value["completions"].as_array().ok_or("`completions` is no list")?;
    let number = |one: &Value| {
        let keys = ["overall_score", "fine-grained_score", "score"];
        keys.iter().find_map(|key| one[*key].as_f64().or_else(|| one[*key].as_str()?.parse().ok()))
    };
    let (mut responses, mut scores) = (Vec::new(), Vec::new());
    for (i, one) in all.iter().enumerate() {
        responses.push(text(one, "response").map_err(|e| format!("completion {i}: {e}"))?);
        scores.push(number(one).ok_or_else(|| format!("completion {i} has no score"))?);
    }
    Ok(Preference::of_scores(prompt, responses, &scores, None))
}

/// Two responses and which is better, by number; or by names that say it.
fn numbered(value: &Value) -> Option<Result<Preference, String>> {
    let key = |keys: &[&'static str]| keys.iter().copied().find(|key| !value[*key].is_null());
    let prompt = key(&["prompt", "question", "instruction"])?;
    if value["response_j"].is_string() && value["response_k"].is_string() {
        let made = || Ok(two(text(value, prompt)?, text(value, "response_j")?, text(value, "response_k")?));
        return Some(made());
    }
    let responses = [key(&["response_0", "response_a", "output_1"])?, key(&["response_1", "response_b", "output_2"])?];
    let which = key(&["better_response_id", "preferred", "preference", "winner", "label"])?;
    let made = || {
        let scores = match (&value[which], value[which].as_str().map(str::to_ascii_lowercase).as_deref()) {
            (Value::Number(n), _) if responses[0] == "output_1" => [f64::from(n.as_i64() == Some(1)), f64::from(n.as_i64() == Some(2))],
            (Value::Number(n), _) => [f64::from(n.as_i64() == Some(0)), f64::from(n.as_i64() == Some(1))],
            (_, Some("a" | "response_a" | "model_a" | "0")) => [1.0, 0.0],
            (_, Some("b" | "response_b" | "model_b" | "1")) => [0.0, 1.0],
            (_, Some(tie)) if tie.contains("tie") => [0.0, 0.0],
            (other, _) => return Err(format!("`{which}` is {other}, which names neither")),
        };
        let texts = vec![text(value, responses[0])?, text(value, responses[1])?];
        Ok(Preference::of_scores(text(value, prompt)?, texts, &scores, None))
    };
    Some(made())
}

/// The right to add lines to `path` until this is dropped: a server, a judge and a sampler each know what the file held when they began.
/// # Errors
/// When another process has it.
pub(crate) fn one_writer(path: &Path) -> Result<File, AlignError> {
    let lock_path = path.with_extension("lock");
    let lock = File::options().create(true).append(true).open(&lock_path).map_err(AlignError::io("create", &lock_path))?;
    lock.try_lock().map_err(|_| AlignError::Busy { path: path.to_owned() })?;
    Ok(lock)
}

/// Write preferences as JSON lines, whole or not at all.
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, all: &[impl std::borrow::Borrow<Preference>]) -> Result<(), AlignError> {
    let mut text = Vec::new();
    for one in all {
        serde_json::to_writer(&mut text, one.borrow()).map_err(|e| AlignError::io("write", path)(e.into()))?;
        text.push(b'\n');
    }
    disk::write(path, text).map_err(AlignError::io("write", path))
}

/// Write one more line, which is on disk when this returns.
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, one: &Preference) -> Result<(), AlignError> {
    let line = serde_json::to_string(one).map_err(|e| AlignError::io("write", path)(e.into()))?;
    disk::append_line(path, &line).map_err(AlignError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Preference, String> {
        of_value(&serde_json::from_str(text).unwrap(), &template::of_template("{% for m in messages %}{{ m.content }}{% endfor %}"))
    }

    #[test]
    fn the_layouts_that_others_publish_in_say_the_same() {
        let want = two("Say hi".into(), "hello".into(), "no".into());
        for text in [
            r#"{"prompt":"Say hi","responses":["hello","no"],"ranks":[0,1]}"#,
            r#"{"prompt":[{"role":"user","content":"Say hi"}],"responses":["hello","no"],"ranks":[0,1]}"#,
            r#"{"prompt":"Say hi","chosen":"hello","rejected":"no"}"#,
            r#"{"prompt":[{"role":"user","content":"Say hi"}],"chosen":[{"role":"assistant","content":"hello"}],"rejected":[{"role":"assistant","content":"no"}]}"#,
            r#"{"chosen":[{"role":"user","content":"Say hi"},{"role":"assistant","content":"hello"}],"rejected":[{"role":"user","content":"Say hi"},{"role":"assistant","content":"no"}]}"#,
            r#"{"instruction":"Say hi","completions":[{"response":"hello","overall_score":8.5},{"response":"no","overall_score":"1"}]}"#,
            r#"{"question":"Say hi","response_j":"hello","response_k":"no"}"#,
            r#"{"prompt":"Say hi","response_0":"hello","response_1":"no","better_response_id":0}"#,
            r#"{"prompt":"Say hi","response_a":"hello","response_b":"no","winner":"model_a"}"#,
        ] {
            assert_eq!(of(text).as_ref(), Ok(&want), "{text}");
        }
        let hh = of("{\"chosen\":\"\\n\\nHuman: Say hi\\n\\nAssistant: hello\",\"rejected\":\"\\n\\nHuman: Say hi\\n\\nAssistant: no\"}")
            .unwrap();
        assert_eq!((hh.prompt.as_str(), hh.responses[0].as_str()), ("\n\nHuman: Say hi\n\nAssistant:", " hello"));
        let prefix = of(r#"{"chosen":"Two and two are four","rejected":"Two and two are five"}"#).unwrap();
        assert_eq!((prefix.prompt.as_str(), prefix.responses[1].as_str()), ("Two and two are", " five"));
    }

    #[test]
    fn rankings_without_a_prompt_are_about_their_responses_in_any_order() {
        let about = |text: &str| of(text).unwrap().subject();
        let one = about(r#"{"prompt":"","responses":["a","b"],"ranks":[0,1]}"#);
        assert_eq!(one, about(r#"{"prompt":"","responses":["b","a"],"ranks":[0,1]}"#));
        assert_ne!(one, about(r#"{"prompt":"","responses":["a","c"],"ranks":[0,1]}"#));
        assert_eq!(about(r#"{"prompt":"p","responses":["a","c"],"ranks":[0,1]}"#), "p");
    }

    #[test]
    fn ties_give_no_pair_and_what_is_no_ranking_is_named() {
        let tied = of(r#"{"prompt":"p","responses":["a","b","c"],"ranks":[0,0,1]}"#).unwrap();
        assert_eq!(tied.pairs().collect::<Vec<_>>(), [(0, 2), (1, 2)]);
        for (text, want) in [
            (r#"{"prompt":"p","responses":["a"],"ranks":[0]}"#, "needs two"),
            (r#"{"prompt":"p","responses":["a","b"],"ranks":[0]}"#, "1 ranks of 2"),
            (r#"{"text":"p"}"#, "its keys are `text`"),
            (r#"[1]"#, "no JSON object"),
            (r#"{"prompt":"p","chosen":7,"rejected":"b"}"#, "`chosen` is no text"),
            (r#"{"instruction":"p","completions":[{"response":"a"}]}"#, "completion 0 has no score"),
        ] {
            assert!(of(text).unwrap_err().contains(want), "{text}: {:?}", of(text));
        }
    }

    #[test]
    fn bad_lines_are_counted_and_good_ones_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let good = r#"{"prompt":"p","chosen":"a","rejected":"b"}"#;
        std::fs::write(&path, format!("{good}\n\n{{torn\n{good}\n").into_bytes().into_iter().chain(*b"\xff\xfe\n").collect::<Vec<u8>>())
            .unwrap();
        let read = read(&path, &Chat::shown()).unwrap();
        assert_eq!((read.all.len(), read.left_out), (2, 2));
        assert!(read.reasons[0].starts_with("line 3: it is no JSON"), "{:?}", read.reasons);
        std::fs::write(&path, "").unwrap();
        assert!(super::read(&path, &Chat::shown()).unwrap_err().to_string().contains("no line"));
        // One conversation among plain lines, and no template: nothing of the file is taken.
        let talk = r#"{"prompt":[{"role":"user","content":"p"}],"chosen":"a","rejected":"b"}"#;
        std::fs::write(&path, format!("{good}\n{talk}\n")).unwrap();
        let error = super::read(&path, &template::without()).unwrap_err();
        assert!(matches!(error, AlignError::NoTemplate { .. }) && error.to_string().contains("line 2"), "{error}");
        assert_eq!(super::read(&path, &Chat::shown()).unwrap().all.len(), 2);
    }

    /// A file of pairs that others publish, cut and damaged everywhere: it is refused by its name, or all of it is there.
    #[cfg(feature = "parquet")]
    #[test]
    fn torn_parquet_is_refused_by_name_and_no_part_of_it_is_taken() {
        use parquet::{
            data_type::{ByteArray, ByteArrayType},
            file::writer::SerializedFileWriter,
        };
        let schema =
            "message pairs { required binary prompt (STRING); required binary chosen (STRING); required binary rejected (STRING); }";
        let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, std::sync::Arc::default()).unwrap();
        for group in 0..2 {
            let mut rows = writer.next_row_group().unwrap();
            for name in ["prompt", "chosen", "rejected"] {
                let values: Vec<ByteArray> = (0..40).map(|i| ByteArray::from(format!("{name} {group} {i}").as_str())).collect();
                let mut column = rows.next_column().unwrap().unwrap();
                column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
                column.close().unwrap();
            }
            rows.close().unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.parquet");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            super::read(&path, &Chat::shown())
        };
        let whole = read(&bytes).unwrap();
        assert_eq!((whole.all.len(), whole.left_out), (80, 0));
        for count in (4..bytes.len()).step_by(37) {
            let error = read(&bytes[..count]).unwrap_err().to_string();
            assert!(error.contains("pairs.parquet"), "{count} bytes: {error}");
        }
        let mut refused = 0;
        for at in (4..bytes.len()).step_by(13) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            match read(&damaged) {
                // Of texts, which have no check of their own, a letter may be another.
                Ok(read) => assert_eq!(read.all.len() + read.left_out, 80, "byte {at}"),
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("pairs.parquet"), "byte {at}: {error}");
                }
            }
        }
        assert!(refused > 0);
    }
}
