//! Waiting for what this process started: the end of a job wakes whoever waits, so that nobody has to look often. Jobs that another process
//! started, before a kill, wake nobody: they are looked at.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

static ENDED: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

/// Something has ended.
pub(crate) fn ended() {
    *ENDED.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    ENDED.1.notify_all();
}

/// Wait until something has ended since the last time, or for `at_most`; whether it has.
#[must_use]
pub fn wait(at_most: Duration) -> bool {
    let ended = ENDED.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut ended, _) = ENDED.1.wait_timeout_while(ended, at_most, |ended| !*ended).unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *ended)
}
