//! Captions as tokens.

use data::Tokenizer;
use engine::Inputs;
use models::clip::TextConfig;
use train::TrainError;

/// Captions as tokens: what stands before a text, its tokens, its end, and ends up to the model's length.
pub struct Captions {
    pub tokenizer: Tokenizer,
    length: usize,
    reads_last: bool,
}

impl Captions {
    /// Of texts of so many tokens with their end.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, length: usize) -> Self {
        Self { tokenizer, length, reads_last: false }
    }

    /// Those that the text side of a model reads.
    #[must_use]
    pub fn of(tokenizer: Tokenizer, text: &TextConfig) -> Self {
        Self { tokenizer, length: text.tokens, reads_last: text.both_ways }
    }

    /// The tokens of a text, where its state is read (at its end, or after all ends that fill it up), and whether it was cut.
    /// # Errors
    /// When the tokenizer cannot take it.
    pub fn encode(&self, text: &str) -> Result<(Vec<u32>, u32, bool), TrainError> {
        let ends = self.tokenizer.ends();
        // An end before a text would be where its state is read from.
        let begin = |token: &&u32| **token != ends.end_of_text;
        let mut tokens: Vec<u32> = ends.before_prompt.iter().filter(begin).copied().collect();
        tokens.extend(self.tokenizer.encode(text)?);
        let is_cut = tokens.len() >= self.length;
        tokens.truncate(self.length - 1);
        let end = if self.reads_last { self.length - 1 } else { tokens.len() } as u32;
        tokens.resize(self.length, ends.end_of_text);
        Ok((tokens, end, is_cut))
    }

    /// What a model reads of texts.
    /// # Errors
    /// As [`Captions::encode`].
    pub fn inputs(&self, texts: &[&str]) -> Result<Inputs, TrainError> {
        let (mut all, mut places) = (Vec::new(), Vec::new());
        for (n, text) in texts.iter().enumerate() {
            let (tokens, end, _) = self.encode(text)?;
            all.extend(tokens);
            places.push((n * self.length) as u32 + end);
        }
        Ok(Inputs::new().with_u32("tokens", &[texts.len(), self.length], all).with_u32("ends", &[texts.len()], places))
    }
}
