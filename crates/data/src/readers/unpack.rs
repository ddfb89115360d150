//! Opening a file as a stream of bytes: what it is packed with is told by its first bytes, not by its name. One reader per
//! packing; several members one after the other (as `pigz`, `bgzip`, `dictzip` and `cat` make them) are one stream.

use std::{
    io::{BufRead, BufReader, Cursor, Read, Result},
    path::Path,
};

/// A stream whose first bytes were looked at.
pub(super) type Stream<'a> = Box<dyn BufRead + 'a>;

/// Bytes that tell what a stream is.
pub(super) const HEAD_BYTES: usize = 1024;

/// More layers than this are somebody's joke.
const LAYERS: usize = 4;

const BUFFER_BYTES: usize = 1 << 18;

/// The bytes of a regular file, unpacked.
pub(super) fn open(path: &Path) -> Result<Stream<'static>> {
    unpack(Box::new(BufReader::with_capacity(BUFFER_BYTES, disk::open(path)?)))
}

/// A stream, unpacked as often as it was packed.
pub(super) fn unpack(mut stream: Stream<'_>) -> Result<Stream<'_>> {
    for _ in 0..LAYERS {
        let (head, whole) = peek(stream)?;
        stream = match head.as_slice() {
            [0x1f, 0x8b, ..] => buffered(flate2::bufread::MultiGzDecoder::new(whole)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => buffered(zstd::Decoder::with_buffer(whole)?),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => buffered(bzip2::bufread::MultiBzDecoder::new(whole)),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => buffered(lzma_rust2::XzReader::new(whole, true)),
            [0x04, 0x22, 0x4d, 0x18, ..] => buffered(lz4_flex::frame::FrameDecoder::new(whole)),
            _ => return Ok(whole),
        };
    }
    Ok(stream)
}

fn buffered<'a>(inner: impl Read + 'a) -> Stream<'a> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, inner))
}

/// The first bytes of a stream, and the stream with them.
pub(super) fn peek(mut stream: Stream<'_>) -> Result<(Vec<u8>, Stream<'_>)> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    stream.as_mut().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    let whole = Cursor::new(head.clone()).chain(stream);
    Ok((head, Box::new(whole)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn unpacked(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        unpack(Box::new(bytes)).unwrap().read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn every_packing_is_known_by_its_bytes_and_members_follow_one_another() {
        let text = b"some words, and some words again\n".repeat(50);
        let twice = text.repeat(2);
        let gz = |text: &[u8]| {
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gz.write_all(text).unwrap();
            gz.finish().unwrap()
        };
        let bz = |text: &[u8]| {
            let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
            bz.write_all(text).unwrap();
            bz.finish().unwrap()
        };
        let zst = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        assert_eq!(unpacked(&text), text);
        assert_eq!(unpacked(&[gz(&text), gz(&text)].concat()), twice);
        assert_eq!(unpacked(&[bz(&text), bz(&text)].concat()), twice);
        assert_eq!(unpacked(&[zst(&text), zst(&text)].concat()), twice);
        assert_eq!(unpacked(&gz(&zst(&text))), text);
        // `printf 'some words\n' | xz`, and the same by lz4.
        let xz = include_bytes!("../../tests/packed/words.xz");
        assert_eq!(unpacked(xz), b"some words\n");
        assert_eq!(unpacked(&[xz.as_slice(), xz].concat()), b"some words\nsome words\n");
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(&text).unwrap();
        assert_eq!(unpacked(&lz4.finish().unwrap()), text);
    }
}
