//! Prompts and responses as rows of tokens: what a model reads of a sample, and which of its tokens are learnt from.
//!
//! ```text
//! before_prompt | prompt | response | end of text | padding
//!                        ^ first    counted: the response and its end
//! ```

use std::path::Path;

use data::{Content, DataError, Tokenizer};
use engine::{Inputs, ops::IGNORE};

use crate::AlignError;

/// The hash by which data, models and files of responses know a `tokenizer.json`.
/// # Errors
/// When it cannot be read.
pub fn tokenizer_blake3(path: &Path) -> Result<String, AlignError> {
    let bytes = disk::read(path, 1 << 30).map_err(AlignError::io("read", path))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// A prompt and a response in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub tokens: Vec<u32>,
    /// The place of the response's first token.
    pub first: usize,
}

impl Row {
    /// Tokens of the response, its end among them.
    #[must_use]
    pub fn response(&self) -> &[u32] {
        &self.tokens[self.first..]
    }

    /// Places whose next token is one of the response's: where their losses stand in `[seq]`.
    #[must_use]
    pub fn places(&self) -> std::ops::Range<usize> {
        self.first - 1..self.tokens.len() - 1
    }
}

/// Makes rows with a model's own tokenizer.
pub struct Encoder {
    pub tokenizer: Tokenizer,
    pub context: usize,
}

impl Encoder {
    /// With the `tokenizer.json` at `path`, for rows of up to `context` tokens to learn from.
    /// # Errors
    /// When it cannot be read.
    pub fn new(path: &Path, context: usize) -> Result<Self, DataError> {
        Ok(Self { tokenizer: Tokenizer::load(path)?, context })
    }

    /// What a feed of these tokens is known by, whose samples `hasher` has seen.
    /// # Errors
    /// When the tokenizer cannot be written down.
    pub fn content(&self, hasher: &blake3::Hasher) -> Result<Content, DataError> {
        let files = self.tokenizer.files()?;
        let tokenizer = files.iter().find(|(name, _)| name == "tokenizer.json").map_or(&[][..], |(_, bytes)| bytes);
        let tokens_blake3 = hasher.finalize().to_hex().to_string();
        Ok(Content { tokens_blake3, tokenizer_blake3: blake3::hash(tokenizer).to_hex().to_string() })
    }

    /// A prompt as the model reads it. Of a model with a chat template special tokens that are spelt out are those tokens, and what stands
    /// before a prompt stands there once.
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let is_chat = self.tokenizer.chat_template().is_some();
        let own = if is_chat { self.tokenizer.encode_with_special_tokens(text)? } else { self.tokenizer.encode(text)? };
        let before = &self.tokenizer.ends().before_prompt;
        let mut tokens = if is_chat && own.starts_with(before) { Vec::new() } else { before.clone() };
        tokens.extend(own);
        if tokens.is_empty() {
            tokens.push(self.tokenizer.end_of_text());
        }
        Ok(tokens)
    }

    /// A response with its end.
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn response(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut tokens = self.tokenizer.encode(text)?;
        tokens.push(self.tokenizer.end_of_text());
        Ok(tokens)
    }

    /// A row of both; a response that is too long is cut, and a prompt that leaves no room for one gives none.
    /// # Errors
    /// When the tokenizer cannot encode them.
    pub fn row(&self, prompt: &str, response: &str) -> Result<Option<Row>, DataError> {
        let mut tokens = self.prompt(prompt)?;
        let first = tokens.len();
        tokens.extend(self.response(response)?);
        tokens.truncate(self.context + 1);
        Ok((first < self.context).then_some(Row { tokens, first }))
    }
}

/// Widths of batches are whole multiples of this, for even cuts along the context.
const WIDTH: usize = 16;

/// How wide a batch of `rows` is in training with `context`: as the longest of them needs, and not all of the context where all are short.
#[must_use]
pub fn width(rows: &[Row], context: usize) -> usize {
    let longest = rows.iter().map(|row| row.tokens.len() - 1).max().unwrap_or(1);
    longest.next_multiple_of(WIDTH).min(context)
}

/// `tokens` and `targets` `[rows, seq]`, `seq` as long as the longest row needs or `least`; targets beside responses count for nothing.
#[must_use]
pub fn inputs(rows: &[&Row], least: usize, padding: u32) -> Inputs {
    let seq = rows.iter().map(|row| row.tokens.len() - 1).max().unwrap_or(1).max(least);
    let (mut tokens, mut targets) = (vec![padding; rows.len() * seq], vec![IGNORE; rows.len() * seq]);
    for (i, row) in rows.iter().enumerate() {
        let read = &row.tokens[..row.tokens.len() - 1];
        tokens[i * seq..][..read.len()].copy_from_slice(read);
        for place in row.places() {
            targets[i * seq + place] = row.tokens[place + 1];
        }
    }
    let dims = [rows.len(), seq];
    Inputs::new().with_u32("tokens", &dims, tokens).with_u32("targets", &dims, targets)
}

/// The shapes of [`inputs`].
#[must_use]
pub fn shapes(rows: usize, seq: usize) -> Inputs {
    Inputs::new().with_u32("tokens", &[rows, seq], Vec::new()).with_u32("targets", &[rows, seq], Vec::new())
}

#[cfg(test)]
mod tests {
    use engine::Array;

    use super::*;

    #[test]
    fn a_batch_is_as_wide_as_its_longest_row_needs_and_no_wider_than_the_context() {
        let of = |tokens: usize| Row { tokens: vec![1; tokens], first: 1 };
        assert_eq!(width(&[of(3), of(18)], 64), 32);
        assert_eq!(width(&[of(3), of(17)], 64), 16);
        assert_eq!(width(&[of(60)], 60), 60);
        assert_eq!(width(&[], 60), 16);
    }

    #[test]
    fn targets_are_the_tokens_of_the_response_and_nothing_else() {
        let row = Row { tokens: vec![9, 5, 6, 7, 1], first: 2 };
        let short = Row { tokens: vec![9, 4], first: 1 };
        let inputs = inputs(&[&row, &short], 0, 1);
        let of = |name| match inputs.get(name).unwrap() {
            Array::U32(_, data) => data.clone(),
            Array::F32(..) => unreachable!(),
        };
        assert_eq!(of("tokens"), [9, 5, 6, 7, 9, 1, 1, 1]);
        assert_eq!(of("targets"), [IGNORE, 6, 7, 1, 4, IGNORE, IGNORE, IGNORE]);
        assert_eq!(row.response(), [6, 7, 1]);
    }
}
