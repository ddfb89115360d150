//! Captions as a frozen CLIP says them: the states of their tokens, for attention, or what it compares, one row for each.

use std::{path::Path, sync::Arc};

use data::Tokenizer;
use engine::Inputs;
use models::clip::{Clip, ClipConfig};
use train::TrainError;

use crate::{
    captions::Captions,
    frozen::{Cache, Frozen},
};

/// What of a caption is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// `[tokens, width]`, after the last norm.
    States,
    /// `[embed]`, of root mean square one.
    Pooled,
}

/// See the head of this file.
pub(crate) struct Texts {
    pub frozen: Frozen,
    pub config: ClipConfig,
    told: Told,
    clip: Clip,
    captions: Captions,
    cache: Cache<(Vec<u32>, u32)>,
    /// The text that says nothing.
    none: (Vec<u32>, u32),
}

impl Texts {
    /// Those of a run or a folder.
    /// # Errors
    /// When it holds no CLIP, or no tokenizer.
    pub fn open(path: &Path, told: Told) -> Result<Self, TrainError> {
        let frozen = Frozen::open(path, "clip", "objective.text")?;
        let config: ClipConfig = models::typed(&frozen.table)?;
        let tokenizer = Tokenizer::load_from_elsewhere(&frozen.tokenizer_path, None, None)?;
        if tokenizer.vocab() > config.text.vocab {
            let problem = format!("its tokenizer has {} tokens, and its model knows {}", tokenizer.vocab(), config.text.vocab);
            return Err(TrainError::Value { key: "objective.text", problem, help: "give a folder whose files belong together".into() });
        }
        let captions = Captions::of(tokenizer, &config.text);
        let (tokens, end, _) = captions.encode("")?;
        Ok(Self { clip: Clip::new(config.clone())?, config, frozen, told, captions, cache: Cache::new(true), none: (tokens, end) })
    }

    /// The shape of what is said of one caption.
    pub fn dims(&self) -> Vec<usize> {
        match self.told {
            Told::States => vec![self.config.text.tokens, self.config.text.width],
            Told::Pooled => vec![self.config.embed],
        }
    }

    /// The tokens of a caption, of none those of the empty text; and where it ends.
    /// # Errors
    /// When the tokenizer cannot take it.
    pub fn encode(&self, caption: Option<&str>) -> Result<(Vec<u32>, u32), TrainError> {
        match caption {
            Some(caption) => self.captions.encode(caption).map(|(tokens, end, _)| (tokens, end)),
            None => Ok(self.none.clone()),
        }
    }

    /// What is said of a caption by its tokens.
    /// # Errors
    /// When memory is short.
    pub fn of(&self, tokens: &[u32], end: u32) -> Result<Arc<[f32]>, TrainError> {
        let inputs = |_| {
            let dims = [1, tokens.len()];
            Ok(Inputs::new().with_u32("tokens", &dims, tokens.to_vec()).with_u32("ends", &[1], vec![end]))
        };
        self.cache.get((tokens.to_vec(), end), || match self.told {
            Told::States => self.frozen.say(&self.clip, 1, inputs, Clip::text_states),
            Told::Pooled => self.frozen.say(&self.clip, 1, inputs, Clip::of_texts),
        })
    }
}
