//! Going on in a place where something stands: ranks that agree on what they found, and what was made later under another number of steps.

use std::path::PathBuf;

use super::{Observer, Run};
use crate::{
    TrainError,
    checkpoint::{self, CheckpointError},
};

impl Run<'_> {
    /// Ranks that have each fetched what they go on from have fetched the same.
    pub(super) fn agree(&mut self) -> Result<(), TrainError> {
        let Some(url) = self.place.url() else { return Ok(()) };
        // Numbers that f32 sums exactly.
        let own = [1.0, (self.step >> 16) as f32, (self.step & 0xffff) as f32];
        let mut sum = own;
        self.trainer.sum(&mut sum)?;
        if sum != own.map(|value| value * sum[0]) {
            return Err(CheckpointError::Apart { url: url.to_owned() }.into());
        }
        Ok(())
    }

    /// What was made after `step` under another number of steps moves into a folder of its own, where it can be used.
    pub(super) fn set_aside(&mut self, step: u64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        // All ranks have read what they need by now.
        self.trainer.sum(&mut [0.0])?;
        if self.writer.is_none() {
            return Ok(());
        }
        let later: Vec<(u64, PathBuf)> = checkpoint::list(self.out).into_iter().filter(|(other, _)| *other > step).collect();
        let Some((last, _)) = later.last() else { return Ok(()) };
        let aside = self.out.join(format!("ended-at-{last}"));
        std::fs::create_dir_all(&aside).map_err(TrainError::io("create", &aside))?;
        for (other, path) in &later {
            let to = aside.join(checkpoint::folder_name(*other));
            std::fs::rename(path, &to).map_err(TrainError::io("set aside", path))?;
            let name = checkpoint::folder_name(*other);
            self.place.set_aside(&name, &format!("ended-at-{last}/{name}"))?;
        }
        observer.note(&format!("the learning rate had come down after step {step}: later checkpoints are kept in `{}`", aside.display()));
        Ok(())
    }
}
