//! How far a job is: from the metrics of its folder where its files are here, else from what it says or the place tells.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use serde::{Deserialize, Serialize};
use train::metrics::StepMetrics;

/// The last step that is known of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    pub step: u64,
    pub loss: Option<f64>,
    pub tokens_per_sec: Option<f64>,
}

/// A line of metrics has some hundred bytes, and the last one may be half written.
const TAIL_BYTES: u64 = 16 << 10;

/// The last step of a run's folder; `None` before its first.
#[must_use]
pub fn last_step(run: &Path) -> Option<StepMetrics> {
    let text = tail(&run.join("metrics.jsonl"), TAIL_BYTES)?;
    text.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

/// The same in short.
#[must_use]
pub fn of_folder(run: &Path) -> Option<Progress> {
    let last = last_step(run)?;
    Some(Progress { step: last.step, loss: Some(f64::from(last.loss)), tokens_per_sec: Some(last.tokens_per_sec) })
}

/// Of what a job says while it trains: `  step    12 of 500  loss 3.214  1234 tokens/s`.
#[must_use]
pub fn of_log(log: &str) -> Option<Progress> {
    let of = |line: &str| {
        let rest = line.split_once("step ")?.1;
        let step = rest.split_whitespace().next()?.parse().ok()?;
        let loss = rest.split_once(" loss ")?.1.trim_start();
        let rate = rest.split_once(" tokens/s")?.0.rsplit(' ').next()?;
        Some(Progress { step, loss: loss.split_whitespace().next()?.parse().ok(), tokens_per_sec: rate.parse().ok() })
    };
    log.lines().rev().find_map(of)
}

/// The end of a file, from the beginning of a line on.
pub(crate) fn tail(path: &Path, bytes: u64) -> Option<String> {
    let mut file: File = disk::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    let from = len.saturating_sub(bytes);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Some(if from > 0 { text.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned()) } else { text })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_whole_step_counts() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of_folder(folder.path()), None);
        let line = |step: u64| format!("{{\"step\":{step},\"loss\":2.5,\"grad_norm\":1.0,\"lr\":0.1,\"tokens_per_sec\":100.0}}\n");
        let text = (1..=500).map(line).collect::<String>() + "{\"step\":501,\"lo";
        std::fs::write(folder.path().join("metrics.jsonl"), text).unwrap();
        assert_eq!(of_folder(folder.path()), Some(Progress { step: 500, loss: Some(2.5), tokens_per_sec: Some(100.0) }));
    }

    #[test]
    fn what_a_job_says_is_read_as_it_is_said() {
        let log = "resuming from step 3\n  step    12 of 500  loss 3.214  1234 tokens/s  held-out 1.5 bits/byte\nstep 13 of";
        assert_eq!(of_log(log), Some(Progress { step: 12, loss: Some(3.214), tokens_per_sec: Some(1234.0) }));
        assert_eq!(of_log("nothing"), None);
    }

    proptest! {
        #[test]
        fn no_log_panics(text in ".*step .*") {
            let _ = of_log(&text);
        }
    }
}
