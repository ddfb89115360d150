//! Cutting what is longer than a document may be.

/// Pieces of a long text are of this size or smaller, so that there are some to hold out.
const PIECE_BYTES: u64 = 1 << 20;

/// The most bytes of a piece where a document may have `limit`.
pub(super) fn most(limit: u64) -> usize {
    usize::try_from(limit.min(PIECE_BYTES)).unwrap_or(usize::MAX)
}

/// Where to end a piece of `text` (longer than `most`): after the last paragraph within `most` bytes, or the last line, word
/// or character.
pub(super) fn cut(text: &[u8], most: usize) -> usize {
    let window = &text[..most.min(text.len())];
    let paragraph = memchr::memmem::rfind(window, b"\n\n").or_else(|| memchr::memmem::rfind(window, b"\n\r\n")).map(|at| at + 2);
    let line = || memchr::memrchr(b'\n', window).map(|at| at + 1);
    let word = || memchr::memrchr(b' ', window).map(|at| at + 1);
    let far = |at: &usize| *at > window.len() / 4;
    let character = || {
        let is_inner = |at: usize| text.get(at).is_some_and(|b| b & 0xc0 == 0x80);
        (1..=window.len()).rev().find(|at| !is_inner(*at)).unwrap_or(window.len())
    };
    paragraph.filter(far).or_else(|| line().filter(far)).or_else(|| word().filter(far)).unwrap_or_else(character).max(1)
}
