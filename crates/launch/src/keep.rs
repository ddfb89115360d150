//! Kept machines: what they cost while they wait, what a cold start costs, and from which gap between jobs on keeping no longer pays.
//!
//! A cold start costs time for all machines' worth of people and dollars for the part of it that is billed; a kept machine is billed for
//! every second of the gap. So in dollars alone keeping pays where the next job comes within the billed seconds that it saves.

/// Machines that are kept between jobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pool {
    pub usd_per_hour: f64,
    /// How long they are to be kept, where that is set.
    pub keep_secs: Option<f64>,
    /// From sending a job to its first step, on new machines and on kept ones.
    pub cold_secs: f64,
    pub warm_secs: f64,
    /// Of the cold start, what is billed and a warm one is spared.
    pub billed_secs: f64,
    /// Where the last three figures are from.
    pub source: &'static str,
}

impl Pool {
    /// SageMaker's. It bills from the download of the image on; that and the wait before it are what a warm pool spares.
    #[must_use]
    pub fn sagemaker(usd_per_hour: f64, keep_secs: Option<u64>) -> Self {
        Self {
            usd_per_hour,
            keep_secs: keep_secs.map(|secs| secs as f64),
            cold_secs: 300.0,
            warm_secs: 20.0,
            billed_secs: 120.0,
            source: "assumed; `hairpin jobs --json` has the times of your own jobs",
        }
    }

    /// Seconds between two jobs up to which keeping costs fewer dollars than starting anew.
    #[must_use]
    pub fn even_secs(&self) -> f64 {
        self.billed_secs
    }

    /// What keeping costs for a gap of `secs`, less what a cold start would have cost: what is paid for not waiting.
    #[must_use]
    pub fn usd_more(&self, secs: f64) -> f64 {
        (secs - self.even_secs()) * self.usd_per_hour / 3600.0
    }

    /// For people.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let per_minute = self.usd_per_hour / 60.0;
        let mut notes = vec![format!(
            "kept machines (`--place keep_alive_secs=N`): ${per_minute:.2} a minute while they wait; a cold start takes about {:.0} s and a warm one {:.0} s ({}), \
             so keeping is cheaper where the next job comes within {:.0} s, and saves {:.0} s of waiting wherever it comes",
            self.cold_secs,
            self.warm_secs,
            self.source,
            self.even_secs(),
            self.cold_secs - self.warm_secs
        )];
        notes.extend(self.keep_secs.map(|secs| {
            format!(
                "kept for {secs:.0} s after the last job: up to ${:.2}, ${:.2} more than a cold start",
                per_minute * secs / 60.0,
                self.usd_more(secs).max(0.0)
            )
        }));
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeping_breaks_even_at_the_billed_part_of_a_cold_start() {
        let pool = Pool::sagemaker(400.0, Some(1800));
        assert_eq!(pool.usd_more(pool.even_secs()), 0.0);
        assert!(pool.usd_more(60.0) < 0.0 && (pool.usd_more(pool.even_secs() + 9.0) - 1.0).abs() < 1e-9);
        assert_eq!(pool.notes().len(), 2);
    }
}
