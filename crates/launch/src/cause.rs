//! Why something did not come to its end, and whether and when it is worth another try.
//!
//! Waits grow twofold up to a bound and are spread at random over their upper half, so that many jobs that were refused together do
//! not come back together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

use serde::{Deserialize, Serialize};

/// See the head of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The place took the machines back.
    Spot,
    /// A machine failed.
    NodeLost,
    /// The place has no such machine free.
    Capacity,
    /// The account may not have so many.
    Quota,
    /// Asked too often, or the service is out of order for a while.
    Throttled,
    /// The place was not reached, or did not answer in time.
    Unreachable,
    /// No credentials, or none that hold any longer.
    Credentials,
    /// This machine's clock is wrong.
    Clock,
    /// The image is not there or may not be read.
    Image,
    /// The time that it was given is over.
    TimeLimit,
    /// Ended by a signal from outside, with no word why.
    Killed,
    /// The environment of the program: disk, memory, a rank that hung.
    Environment,
    /// The place does not know the job any longer.
    Gone,
    /// A gate failed or a budget was passed.
    Judged,
    /// The program refused its input.
    Input,
    /// A bug of the program.
    Bug,
    /// The place refused the request as it is.
    Refused,
}

/// When to try again: `first_secs`, twice as long each time up to `most_secs`, at most `times`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    pub first_secs: f64,
    pub most_secs: f64,
    pub times: u32,
}

impl Cause {
    /// `None` where the same would only fail again.
    #[must_use]
    pub fn retry(self) -> Option<Retry> {
        let retry = |first_secs, most_secs, times| Some(Retry { first_secs, most_secs, times });
        match self {
            // What was done is in checkpoints: go on.
            Self::Spot | Self::TimeLimit => retry(1.0, 60.0, 1000),
            Self::NodeLost => retry(2.0, 120.0, 20),
            Self::Killed | Self::Gone => retry(2.0, 120.0, 5),
            Self::Environment => retry(5.0, 300.0, 5),
            // Waiting costs nothing here: half a day and more.
            Self::Capacity | Self::Quota => retry(60.0, 900.0, 100),
            Self::Throttled | Self::Unreachable => retry(2.0, 120.0, 500),
            Self::Credentials | Self::Clock => retry(30.0, 300.0, 200),
            Self::Image | Self::Judged | Self::Input | Self::Bug | Self::Refused => None,
        }
    }

    /// Seconds to wait before try `tries + 1` of `name`; `None` when there have been enough.
    #[must_use]
    pub fn wait_secs(self, tries: u32, name: &str) -> Option<f64> {
        let retry = self.retry().filter(|retry| tries < retry.times)?;
        let whole = (retry.first_secs * 2_f64.powi(tries.min(30) as i32)).min(retry.most_secs);
        Some(whole * (0.5 + 0.5 * share(&format!("{name} {tries}"))))
    }

    /// Whether a failure of this kind says that nothing was launched, wherever in the call it came from.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        self.retry().is_none()
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Spot => "machines taken back",
            Self::NodeLost => "machine lost",
            Self::Capacity => "no machine free",
            Self::Quota => "quota reached",
            Self::Throttled => "asked too often",
            Self::Unreachable => "not reached",
            Self::Credentials => "credentials",
            Self::Clock => "clock",
            Self::Image => "image",
            Self::TimeLimit => "time is over",
            Self::Killed => "killed",
            Self::Environment => "environment",
            Self::Gone => "gone",
            Self::Judged => "gate failed",
            Self::Input => "wrong input",
            Self::Bug => "bug",
            Self::Refused => "refused",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn help(self) -> &'static str {
        match self {
            Self::Quota => "ask the place for a higher quota, or take fewer machines",
            Self::Capacity => "wait, or take other machines, another region or reserved capacity",
            Self::Credentials => "sign in anew (`aws sso login`, a new token of kubectl): jobs go on by themselves then",
            Self::Clock => "set this machine's clock",
            Self::Image => "push the image, and let the role or service account read it",
            Self::Throttled | Self::Unreachable => "nothing: it is tried again, more and more slowly",
            Self::Input => "look at `hairpin logs NAME`: the recipe, the data or an argument is wrong",
            Self::Bug => "look at `hairpin logs NAME`, and report its last lines",
            _ => "look at `hairpin logs NAME`",
        }
    }

    /// By what the program's exit code says: see the head of `hairpin`'s `main.rs`. `None` where it was done.
    #[must_use]
    pub fn of_exit(code: i32) -> Option<Self> {
        match code {
            0 => None,
            1 => Some(Self::Judged),
            2 => Some(Self::Input),
            3 => Some(Self::Environment),
            70 => Some(Self::Bug),
            // A shell's way to say which signal.
            129..=192 => Some(Self::Killed),
            _ => Some(Self::Environment),
        }
    }
}

/// A number from 0 to below 1 that `text` decides.
fn share(text: &str) -> f64 {
    let bytes = *blake3::hash(text.as_bytes()).as_bytes();
    let head = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    f64::from(head) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_are_spread_and_end() {
        let waits: Vec<f64> = (0..).map_while(|tries| Cause::NodeLost.wait_secs(tries, "a")).collect();
        assert_eq!(waits.len(), 20);
        for (tries, wait) in waits.iter().enumerate() {
            let whole = (2.0 * 2_f64.powi(tries as i32)).min(120.0);
            assert!((0.5 * whole..whole).contains(wait), "{tries}: {wait} of {whole}");
        }
        assert_ne!(Cause::Throttled.wait_secs(3, "a"), Cause::Throttled.wait_secs(3, "b"), "two jobs do not come back together");
        assert_eq!(Cause::Input.wait_secs(0, "a"), None, "what is wrong stays wrong");
    }
}
