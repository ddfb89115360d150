//! Trying again what is safe to repeat.

use std::time::{Duration, Instant};

use crate::StoreError;

/// How long a store that is out of order is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the first failure on.
    pub total: Duration,
    /// Between the first two tries; twice as long each time, up to a minute.
    pub wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { total: Duration::from_secs(30 * 60), wait: Duration::from_secs(1) }
    }
}

const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Patience {
    /// What `work` gives, tried again while it fails for a reason that may pass. `told` hears of each failure that is followed by another
    /// try, after which `sleep` waits, and says no where nobody wants to wait longer.
    /// # Errors
    /// The last one.
    pub fn try_for<T>(
        &self,
        mut work: impl FnMut() -> Result<T, StoreError>,
        mut told: impl FnMut(&StoreError),
        sleep: impl Fn(Duration) -> bool,
    ) -> Result<T, StoreError> {
        let (mut failing_since, mut wait) = (None, self.wait);
        loop {
            let error = match work() {
                Err(error) if error.is_transient() => error,
                other => return other,
            };
            let since: Instant = *failing_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.total {
                return Err(error);
            }
            told(&error);
            if !sleep(wait.mul_f64(jitter(since))) {
                return Err(error);
            }
            wait = (2 * wait).min(LONGEST_WAIT);
        }
    }
}

/// Between a half and one, so that many that failed together do not come again together.
fn jitter(since: Instant) -> f64 {
    let hash = blake3::hash(format!("{} {}", std::process::id(), since.elapsed().as_nanos()).as_bytes());
    0.5 + f64::from(hash.as_bytes()[0]) / 512.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> StoreError {
        StoreError::Away { action: "put", place: "s3://b/x".into(), problem: "503".into() }
    }

    #[test]
    fn what_may_pass_is_tried_again_until_patience_ends_and_what_may_not_is_not() {
        let patience = Patience { total: Duration::from_millis(50), wait: Duration::from_millis(1) };
        let (mut tries, mut told) = (0, 0);
        let sleep = |wait| {
            std::thread::sleep(wait);
            true
        };
        let third = patience.try_for(
            || {
                tries += 1;
                if tries < 3 { Err(away()) } else { Ok(tries) }
            },
            |_| told += 1,
            sleep,
        );
        assert_eq!((third.unwrap(), told), (3, 2));
        assert!(matches!(patience.try_for(|| Err::<(), _>(away()), |_| {}, sleep), Err(StoreError::Away { .. })));
        let mut tries = 0;
        let taken = patience.try_for(
            || {
                tries += 1;
                Err::<(), _>(StoreError::Taken { place: String::new() })
            },
            |_| {},
            sleep,
        );
        assert!(taken.is_err() && tries == 1);
        // Nobody wants to wait.
        assert!(patience.try_for(|| Err::<(), _>(away()), |_| {}, |_| false).is_err());
    }
}
