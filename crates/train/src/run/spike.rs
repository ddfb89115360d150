//! Steps whose loss cannot be trusted: what is done with them, and which samples they read.

use super::{Observer, Run};
use crate::{TrainError, checkpoint, feed::Pick, recipe::GuardAction};

impl Run<'_> {
    /// A step whose loss cannot be trusted: leave it out, or go back.
    pub(super) fn spike(&mut self, step: u64, loss: f32, in_a_row: usize, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let known = self.state.guard.left_out.contains(&step);
        if in_a_row > self.recipe.guard.window.max(8) {
            return Err(self.diverged(step, loss)?);
        }
        if !known {
            let samples = self.samples(step)?.join(", ");
            observer.note(&format!(
                "loss {loss} at step {step} is a spike and its update is left out; its samples, the worst first: {samples}"
            ));
        }
        if self.recipe.guard.action == GuardAction::Rollback && !known {
            if let Some(writer) = &mut self.writer {
                writer.finish()?;
            }
            // The others read what the first has written by now.
            self.trainer.sum(&mut [0.0])?;
            if let Some((path, snapshot, _)) = checkpoint::latest_whole(self.out)? {
                let mut left_out = self.state.guard.left_out.clone();
                left_out.push(step);
                observer.note(&format!("going back to step {}", snapshot.step));
                self.restore(&path, snapshot)?;
                self.state.guard.left_out = left_out;
            }
        }
        Ok(())
    }

    pub(super) fn diverged(&mut self, step: u64, loss: f32) -> Result<TrainError, TrainError> {
        Ok(TrainError::Diverged { step, loss, samples: self.samples(step)? })
    }

    /// Names of a batch's samples with the loss of each by itself (of text in nats a token), the worst first, and of those the first
    /// few. All ranks call it; without a common step, or where the loss is between samples, they are in the order of the batch, without
    /// losses.
    fn samples(&mut self, step: u64) -> Result<Vec<String>, TrainError> {
        let picks = self.picks(step);
        let is_shared = self.trainer.options().objective.shared_width(self.trainer.model()).is_some();
        let losses = if self.trainer.has_common_step() && !is_shared {
            let inputs = picks.iter().map(|pick| self.feed.inputs(&[*pick])).collect::<Result<Vec<_>, _>>()?;
            let sums = self.evaluator.each_of_trainer(&mut self.trainer, &inputs)?;
            sums.into_iter().zip(&picks).map(|(sum, pick)| Some(sum / self.feed.weight(&[*pick]).max(1) as f64)).collect()
        } else {
            vec![None; picks.len()]
        };
        // What is no number is worse than any.
        let order = |loss: &Option<f64>| loss.map(|loss| if loss.is_finite() { loss } else { f64::INFINITY }).unwrap_or_default();
        let mut all: Vec<(Pick, Option<f64>)> = picks.into_iter().zip(losses).collect();
        all.sort_by(|(_, a), (_, b)| order(b).total_cmp(&order(a)));
        let mut named: Vec<(String, Option<f64>)> = Vec::new();
        for (pick, loss) in all {
            if let Some(name) = self.feed.name(pick.sample).filter(|name| named.iter().all(|(other, _)| other != name)) {
                named.push((name, loss));
            }
        }
        named.truncate(8);
        Ok(named
            .into_iter()
            .map(|(name, loss)| format!("`{name}`{}", loss.map_or(String::new(), |loss| format!(" ({loss:.2})"))))
            .collect())
    }
}
