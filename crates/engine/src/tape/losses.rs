//! Losses beside the head's: what a block asks of its own numbers (the balance of a router), wherever in a pipeline it stands.
//! Their gradients go with those of the head; the loss that is reported stays the head's alone.

use std::rc::Rc;

use super::{Mode, Tape};
use crate::{Dtype, EngineError, Tensor};

impl Tape<'_> {
    /// Losses of blocks are multiplied by `scale`, as that of the head is; by one unless said.
    pub fn scale_losses(&mut self, scale: f32) {
        self.loss_scale = scale;
    }

    #[must_use]
    pub fn loss_scale(&self) -> f32 {
        self.loss_scale
    }

    /// The backward pass minimises `loss`, one number, too.
    /// # Errors
    /// [`EngineError::PoolFull`].
    pub fn add_loss(&mut self, loss: &Tensor) -> Result<(), EngineError> {
        if loss.needs_grad && matches!(self.mode, Mode::Record | Mode::Replay) {
            let mut one = self.pool.take(Dtype::F32, 1)?;
            one.f32s_mut().fill(1.0);
            self.grads[loss.value] = Some(Rc::new(one));
        }
        Ok(())
    }
}
