//! How long work tells how far it is, and is told to stop.

use crate::DataError;

/// Told how far things are; asked whether to stop.
pub trait Progress: Sync {
    fn stage(&self, name: &'static str, total: u64);
    fn advance(&self, count: u64);
    fn cancelled(&self) -> bool;

    /// # Errors
    /// [`DataError::Cancelled`] when somebody wants to stop.
    fn check(&self) -> Result<(), DataError> {
        if self.cancelled() { Err(DataError::Cancelled) } else { Ok(()) }
    }
}

/// Says nothing.
pub struct Quiet;

impl Progress for Quiet {
    fn stage(&self, _name: &'static str, _total: u64) {}
    fn advance(&self, _count: u64) {}
    fn cancelled(&self) -> bool {
        false
    }
}
