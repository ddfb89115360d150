//! From bytes to text: marks, UTF-16 and UTF-32 of a stream; the older encodings of a document.

use std::{
    borrow::Cow,
    io::{BufReader, Read, Result},
};

use super::unpack::{Stream, peek};

/// A document's text, and what was done to it if it was not UTF-8.
pub(super) fn decode(bytes: &[u8]) -> (Cow<'_, str>, Option<String>) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return (Cow::Borrowed(text), None);
    }
    let (mut broken, mut whole) = (0_usize, 0_usize);
    for chunk in bytes.utf8_chunks() {
        whole += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        broken += usize::from(!chunk.invalid().is_empty());
    }
    // Some bytes that are broken among characters that are not: UTF-8 with a scratch.
    if broken * 4 < whole || broken == 1 && whole > 0 {
        return (String::from_utf8_lossy(bytes), Some("broken UTF-8 became U+FFFD".into()));
    }
    let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    let encoding = detector.guess(None, chardetng::Utf8Detection::Deny);
    let (text, _) = encoding.decode_without_bom_handling(bytes);
    (text, Some(format!("decoded from {}", encoding.name())))
}

/// Whether bytes are no text in any encoding: a NUL, or many control characters.
pub(super) fn is_binary(bytes: &[u8]) -> bool {
    let controls = bytes.iter().filter(|b| matches!(b, 0..=8 | 14..=26 | 28..=31)).count();
    bytes.contains(&0) || controls * 50 > bytes.len()
}

/// The stream in UTF-8 without a mark, if it has one or is plainly of two or four bytes a character; as it is otherwise.
/// Also what it was.
pub(super) fn to_utf8(stream: Stream<'_>) -> Result<(Stream<'_>, Option<&'static str>)> {
    let (head, mut stream) = peek(stream)?;
    let (mark, wide) = match head.as_slice() {
        [0xef, 0xbb, 0xbf, ..] => (3, None),
        [0xff, 0xfe, 0, 0, ..] => (4, Some((4, false))),
        [0, 0, 0xfe, 0xff, ..] => (4, Some((4, true))),
        [0xff, 0xfe, ..] => (2, Some((2, false))),
        [0xfe, 0xff, ..] => (2, Some((2, true))),
        head => (0, unmarked(head).map(|is_big| (2, is_big))),
    };
    stream.as_mut().read_exact(&mut [0; 4][..mark])?;
    Ok(match wide {
        None => (stream, None),
        Some((width, is_big)) => {
            let name = match (width, is_big) {
                (2, false) => "UTF-16LE",
                (2, true) => "UTF-16BE",
                (_, false) => "UTF-32LE",
                (_, true) => "UTF-32BE",
            };
            let wide = Wide { stream, width, is_big, high: None, ready: Vec::new() };
            (Box::new(BufReader::with_capacity(1 << 16, wide)), Some(name))
        }
    })
}

/// UTF-16 without a mark: every other byte of Western text is zero; whether the first of two is the high one.
fn unmarked(head: &[u8]) -> Option<bool> {
    let pairs = head.len() / 2;
    let zeros = |at: usize| head.iter().skip(at).step_by(2).filter(|b| **b == 0).count();
    match (zeros(0), zeros(1)) {
        (0, odd) if pairs >= 8 && odd * 10 > pairs * 7 => Some(false),
        (even, 0) if pairs >= 8 && even * 10 > pairs * 7 => Some(true),
        _ => None,
    }
}

/// Code units of two or four bytes as UTF-8; what is no character becomes U+FFFD.
struct Wide<'a> {
    stream: Stream<'a>,
    width: usize,
    is_big: bool,
    /// The first half of a pair.
    high: Option<u16>,
    ready: Vec<u8>,
}

impl Wide<'_> {
    /// One code unit into `ready`; false at the end.
    fn unit(&mut self) -> Result<bool> {
        let mut unit = [0; 4];
        let mut have = 0;
        while have < self.width {
            match self.stream.read(&mut unit[have..self.width])? {
                0 => break,
                n => have += n,
            }
        }
        if have < self.width {
            if have > 0 || self.high.take().is_some() {
                self.push(None);
                return Ok(true);
            }
            return Ok(false);
        }
        if self.width == 4 {
            let code = if self.is_big { u32::from_be_bytes(unit) } else { u32::from_le_bytes(unit) };
            self.push(char::from_u32(code));
            return Ok(true);
        }
        let unit = [unit[0], unit[1]];
        let unit = if self.is_big { u16::from_be_bytes(unit) } else { u16::from_le_bytes(unit) };
        match (self.high.take(), unit) {
            (Some(high), 0xdc00..=0xdfff) => {
                let pair = char::decode_utf16([high, unit]).next().and_then(std::result::Result::ok);
                self.push(pair);
            }
            (high, unit) => {
                if high.is_some() {
                    self.push(None);
                }
                match unit {
                    0xd800..=0xdbff => self.high = Some(unit),
                    _ => self.push(char::from_u32(unit.into())),
                }
            }
        }
        Ok(true)
    }

    fn push(&mut self, c: Option<char>) {
        let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
        self.ready.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

impl Read for Wide<'_> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        while self.ready.len() < out.len() && self.unit()? {}
        let count = self.ready.len().min(out.len());
        out[..count].copy_from_slice(&self.ready[..count]);
        self.ready.drain(..count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Größe, 漢字 and a 🙂: some words of text";

    fn through(bytes: Vec<u8>) -> (String, Option<&'static str>) {
        let (mut stream, was) = to_utf8(Box::new(std::io::Cursor::new(bytes))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        (text, was)
    }

    #[test]
    fn marks_go_and_wide_units_become_utf_8() {
        let sixteen = |is_big: bool, mark: bool| -> Vec<u8> {
            let units = mark.then_some(0xfeff).into_iter().chain(TEXT.encode_utf16());
            units.flat_map(|u| if is_big { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
        };
        assert_eq!(through([b"\xef\xbb\xbf", TEXT.as_bytes()].concat()), (TEXT.into(), None));
        assert_eq!(through(TEXT.into()), (TEXT.into(), None));
        for (is_big, name) in [(false, "UTF-16LE"), (true, "UTF-16BE")] {
            assert_eq!(through(sixteen(is_big, true)), (TEXT.into(), Some(name)));
            assert_eq!(through(sixteen(is_big, false)), (TEXT.into(), Some(name)), "without a mark");
        }
        let wide: Vec<u8> = "\u{feff}".chars().chain(TEXT.chars()).flat_map(|c| u32::from(c).to_le_bytes()).collect();
        assert_eq!(through(wide), (TEXT.into(), Some("UTF-32LE")));
        assert_eq!(through(b"\xff\xfea\0\x3d\xd8b\0\x3d\xd8".to_vec()).0, "a\u{fffd}b\u{fffd}", "halves of pairs");
    }

    #[test]
    fn older_encodings_are_told_apart_and_a_scratch_costs_one_character() {
        for (encoding, text) in [
            (encoding_rs::WINDOWS_1252, "Le café était fermé à cette heure, et l'été touchait à sa fin. "),
            (encoding_rs::WINDOWS_1251, "Весной мы долго шли вдоль реки, и учитель рассказывал о городе. "),
            (encoding_rs::SHIFT_JIS, "春になると川沿いの道を長いあいだ歩きました。先生は話しました。"),
            (encoding_rs::GBK, "春天的时候我们沿着河边走了很久，老师告诉学生这座城市从前是渔村。"),
            (encoding_rs::EUC_KR, "봄이 되면 우리는 강가를 따라 오래 걸었다. 선생님은 말했다."),
        ] {
            let text = text.repeat(4);
            let bytes = encoding.encode(&text).0;
            let (got, how) = decode(&bytes);
            assert_eq!((got.into_owned(), how), (text, Some(format!("decoded from {}", encoding.name()))));
        }
        let mut scratched = TEXT.repeat(3).into_bytes();
        scratched.insert(TEXT.len(), 0xff);
        let (got, how) = decode(&scratched);
        assert_eq!((got.into_owned(), how.is_some()), (format!("{TEXT}\u{fffd}{TEXT}{TEXT}"), true));
    }
}
