//! One record of a table or of JSON, and the text in it: a column by its name or path, lists of parts and chats joined.
//!
//! JSON is taken as its writers write it, not as the standard has it: `NaN`, numbers beyond range, half surrogate pairs, any
//! nesting and keys twice (the last counts). Of a record only the column is looked at; all else is stepped over.

/// A value as far as text is asked of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Null,
    /// A number, a truth value, bytes.
    Other,
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// What a record has under a column.
#[derive(Debug, PartialEq)]
pub(super) enum Lookup {
    Text(String),
    /// Null, or nothing in the list.
    Empty,
    NotText,
    Missing,
}

/// Deeper values hold no text that was asked for.
const DEPTH: usize = 32;

impl Node {
    /// The text under `column`: a key, or keys with dots between them; lists on the way are gone through.
    pub(super) fn lookup(&self, column: &str) -> Lookup {
        match self {
            // A bare text is a record of its own.
            Self::Text(text) => Lookup::Text(text.clone()),
            Self::List(items) => {
                let found: Vec<Lookup> =
                    items.iter().map(|item| if matches!(item, Self::Text(_)) { Lookup::Missing } else { item.lookup(column) }).collect();
                joined(found, "\n\n")
            }
            Self::Object(fields) => {
                if let Some((_, value)) = fields.iter().rev().find(|(key, _)| key == column) {
                    return value.text();
                }
                let inner = column.match_indices('.').find_map(|(dot, _)| {
                    let (_, value) = fields.iter().rev().find(|(key, _)| *key == column[..dot])?;
                    Some(match value {
                        Self::Text(_) => Lookup::Missing,
                        value => value.lookup(&column[dot + 1..]),
                    })
                });
                inner.unwrap_or(Lookup::Missing)
            }
            Self::Null | Self::Other => Lookup::Missing,
        }
    }

    /// All of a value as one text: a text itself, the parts of a list, the turns of a chat.
    fn text(&self) -> Lookup {
        match self {
            Self::Text(text) => Lookup::Text(text.clone()),
            Self::Null => Lookup::Empty,
            Self::Other => Lookup::NotText,
            Self::List(items) => {
                let is_chat = items.iter().any(|item| matches!(item, Self::Object(_)));
                joined(items.iter().map(Self::text).collect(), if is_chat { "\n\n" } else { "\n" })
            }
            Self::Object(fields) => {
                let of = |keys: &[&str]| fields.iter().rev().find(|(key, _)| keys.contains(&key.as_str())).map(|(_, value)| value.text());
                match (of(&["role", "from", "speaker"]), of(&["content", "value", "text"])) {
                    (Some(Lookup::Text(who)), Some(Lookup::Text(words))) => Lookup::Text(format!("{who}: {words}")),
                    (_, Some(found)) => found,
                    _ => Lookup::NotText,
                }
            }
        }
    }

    /// The columns that hold text, by path.
    pub(super) fn columns(&self, path: &str, found: &mut Vec<String>) {
        match self {
            Self::Object(fields) => {
                for (key, value) in fields {
                    let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    if matches!(value.text(), Lookup::Text(_)) {
                        found.push(inner);
                    } else {
                        value.columns(&inner, found);
                    }
                }
            }
            Self::List(items) if !path.is_empty() => {
                if let Some(first) = items.first() {
                    first.columns(path, found);
                }
            }
            _ => {}
        }
    }
}

fn joined(found: Vec<Lookup>, between: &str) -> Lookup {
    let mut texts = Vec::new();
    let (mut is_empty, mut is_missing) = (true, true);
    for one in found {
        is_empty &= one == Lookup::Empty;
        is_missing &= one == Lookup::Missing;
        if let Lookup::Text(text) = one {
            texts.push(text);
        }
    }
    match (texts.is_empty(), is_empty, is_missing) {
        (false, ..) => Lookup::Text(texts.join(between)),
        (true, true, _) => Lookup::Empty,
        (true, _, true) => Lookup::Missing,
        _ => Lookup::NotText,
    }
}

/// Parse a record of JSON; of its outermost object only the keys that `wanted` lets through.
/// # Errors
/// Why it is no JSON.
pub(super) fn json(bytes: &[u8], wanted: &dyn Fn(&str) -> bool) -> Result<Node, String> {
    let mut cursor = Cursor { bytes, at: 0 };
    let node = cursor.value(0, Some(wanted))?;
    cursor.space();
    match cursor.peek() {
        None => Ok(node),
        Some(b) => Err(format!("after the value there is `{}`", char::from(b).escape_default())),
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize, wanted: Option<&dyn Fn(&str) -> bool>) -> Result<Node, String> {
        self.space();
        match self.peek() {
            Some(b'{' | b'[') if depth > DEPTH => {
                self.skip()?;
                Ok(Node::Other)
            }
            Some(b'{') => self.object(depth, wanted),
            Some(b'[') => self.list(depth, wanted),
            Some(b'"') => Ok(Node::Text(self.string()?)),
            _ => {
                let from = self.at;
                self.literal()?;
                Ok(if &self.bytes[from..self.at] == b"null" { Node::Null } else { Node::Other })
            }
        }
    }

    fn object(&mut self, depth: usize, wanted: Option<&dyn Fn(&str) -> bool>) -> Result<Node, String> {
        let mut fields = Vec::new();
        self.at += 1;
        loop {
            self.space();
            match self.peek() {
                Some(b'}') => break,
                Some(b'"') => {}
                _ => return Err(self.unexpected("a key or `}`")),
            }
            let key = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("`:`"));
            }
            self.at += 1;
            if wanted.is_none_or(|wanted| wanted(&key)) {
                let value = self.value(depth + 1, None)?;
                fields.push((key, value));
            } else {
                self.skip()?;
            }
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.unexpected("`,` or `}`")),
            }
        }
        self.at += 1;
        Ok(Node::Object(fields))
    }

    fn list(&mut self, depth: usize, wanted: Option<&dyn Fn(&str) -> bool>) -> Result<Node, String> {
        let mut items = Vec::new();
        self.at += 1;
        loop {
            self.space();
            if self.peek() == Some(b']') {
                break;
            }
            items.push(self.value(depth + 1, wanted)?);
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected("`,` or `]`")),
            }
        }
        self.at += 1;
        Ok(Node::List(items))
    }

    /// Step over a value of any depth.
    fn skip(&mut self) -> Result<(), String> {
        let mut depth = 0_usize;
        loop {
            self.space();
            match self.peek() {
                None => return Err("it ends within a value".into()),
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b'"') => self.skip_string()?,
                Some(b',' | b':') if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                Some(_) => self.literal()?,
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn skip_string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match memchr::memchr2(b'"', b'\\', &self.bytes[self.at..]) {
                None => return Err("it ends within a string".into()),
                Some(n) if self.bytes[self.at + n] == b'"' => {
                    self.at += n + 1;
                    return Ok(());
                }
                Some(n) => self.at = (self.at + n + 2).min(self.bytes.len()),
            }
        }
    }

    /// A number or word: whatever stands there up to what may follow one.
    fn literal(&mut self) -> Result<(), String> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || b"+-._".contains(b)).count();
        let word = &rest[..len];
        let is_number = word.iter().any(u8::is_ascii_digit) && word[0] != b'.' && !word[0].is_ascii_alphabetic();
        if !is_number
            && !matches!(
                word,
                b"null"
                    | b"true"
                    | b"false"
                    | b"NaN"
                    | b"nan"
                    | b"Infinity"
                    | b"-Infinity"
                    | b"inf"
                    | b"-inf"
                    | b"-NaN"
                    | b"None"
                    | b"True"
                    | b"False"
            )
        {
            return Err(self.unexpected("a value"));
        }
        self.at += len;
        Ok(())
    }

    fn string(&mut self) -> Result<String, String> {
        let from = self.at + 1;
        self.skip_string()?;
        let raw = &self.bytes[from..self.at - 1];
        let bytes = if raw.contains(&b'\\') { unescaped(raw) } else { raw.to_vec() };
        // Not UTF-8: the whole line was decoded before, so that this is a stray byte at most.
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.bytes.get(self.at..) {
            Some([]) | None => format!("it ends where {wanted} is expected"),
            Some(rest) => {
                let seen: String = String::from_utf8_lossy(&rest[..rest.len().min(12)]).chars().take(12).collect();
                format!("at byte {} there is `{}` instead of {wanted}", self.at, seen.escape_debug())
            }
        }
    }
}

fn unescaped(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    let unit = |at: usize| {
        let hex = raw.get(at..at + 6).filter(|h| h.starts_with(b"\\u"))?;
        u16::from_str_radix(std::str::from_utf8(&hex[2..]).ok()?, 16).ok()
    };
    while at < raw.len() {
        if raw[at] != b'\\' {
            let len = memchr::memchr(b'\\', &raw[at..]).unwrap_or(raw.len() - at);
            out.extend_from_slice(&raw[at..at + len]);
            at += len;
            continue;
        }
        if let Some(first) = unit(at) {
            at += 6;
            let mut units = vec![first];
            if (0xd800..0xdc00).contains(&first)
                && let Some(second @ 0xdc00..=0xdfff) = unit(at)
            {
                units.push(second);
                at += 6;
            }
            // A half pair is U+FFFD.
            let c = char::decode_utf16(units).next().and_then(Result::ok).unwrap_or(char::REPLACEMENT_CHARACTER);
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match raw.get(at + 1) {
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'r') => out.push(b'\r'),
            Some(b'b') => out.push(8),
            Some(b'f') => out.push(12),
            Some(other) => out.push(*other),
            None => {}
        }
        at += 2;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(line: &str, column: &str) -> Lookup {
        json(line.as_bytes(), &|_| true).unwrap().lookup(column)
    }

    #[test]
    fn whatever_python_writes_is_read_and_half_a_pair_is_marked() {
        let deep = format!("{{\"text\": \"t\", \"meta\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for line in [
            r#"{"text": "t", "p": NaN, "q": [Infinity, -Infinity], "r": 1e400}"#,
            r#"{"text": "short", "text": "t"}"#,
            r#"{ "a" : {"b": "\u0000"} , "text":"t" } "#,
            &deep,
        ] {
            assert_eq!(lookup(line, "text"), Lookup::Text("t".into()), "{}", &line[..30]);
            let node = json(line.as_bytes(), &|key| key == "text").unwrap();
            assert_eq!(node.lookup("text"), Lookup::Text("t".into()), "stepping over the rest");
        }
        let texts = [
            (r#""a \ud83d""#, "a \u{fffd}"),
            (r#""\ud83d\ude00\n\"\\\/\u00e9""#, "😀\n\"\\/é"),
            (r#""\udE00x\ud83d\u0041""#, "\u{fffd}x\u{fffd}A"),
        ];
        for (written, want) in texts {
            assert_eq!(lookup(&format!("{{\"text\": {written}}}"), "text"), Lookup::Text(want.into()), "{written}");
        }
        for bad in ["not json", "{\"text\": }", "{\"text\": \"a\" \"b\"}", "{\"text\": \"a", "{text: 1}", "{} x", "{\"a\": 1", ""] {
            assert!(json(bad.as_bytes(), &|_| true).is_err(), "{bad}");
        }
    }

    #[test]
    fn columns_are_found_by_path_and_parts_and_chats_are_joined() {
        let text = |t: &str| Lookup::Text(t.into());
        assert_eq!(lookup(r#"{"data": {"text": "t"}}"#, "data.text"), text("t"));
        assert_eq!(lookup(r#"{"data.text": "t"}"#, "data.text"), text("t"));
        assert_eq!(lookup(r#"{"text": ["a", "b"]}"#, "text"), text("a\nb"));
        assert_eq!(lookup(r#"{"data": [{"text": "a"}, {"text": "b"}]}"#, "data.text"), text("a\n\nb"));
        let chat =
            r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}]}"#;
        assert_eq!(lookup(chat, "messages"), text("user: Hi\n\nassistant: Yes"));
        assert_eq!(lookup(r#"{"conversations": [{"from": "human", "value": "Hi"}]}"#, "conversations"), text("human: Hi"));
        assert_eq!(lookup(r#"{"text": null}"#, "text"), Lookup::Empty);
        assert_eq!(lookup(r#"{"text": 5}"#, "text"), Lookup::NotText);
        assert_eq!(lookup(r#"{"content": "t"}"#, "text"), Lookup::Missing);
        assert_eq!(lookup(r#""bare""#, "text"), text("bare"));
        let mut found = Vec::new();
        let row = r#"{"id": 5, "content": "c", "meta": {"title": "t"}, "messages": [{"role": "user", "content": "Hi"}]}"#;
        json(row.as_bytes(), &|_| true).unwrap().columns("", &mut found);
        assert_eq!(found, ["content", "meta.title", "messages"]);
    }
}
