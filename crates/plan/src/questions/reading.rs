//! How long a person would read what a model is trained on.

use serde::Serialize;

/// Words a minute of silent reading of English prose: Brysbaert 2019, doi:10.1016/j.jml.2019.104047.
const WORDS_PER_MINUTE: f64 = 238.0;
/// Words of a token of English in a vocabulary of 50k: 4.68 bytes (`catalogue/languages.toml`) over 6.1 bytes a word with its
/// space.
const WORDS_PER_TOKEN: f64 = 0.77;
/// Hours that a person works in a year.
const WORK_HOURS: f64 = 2000.0;

/// A corpus in a reader's time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reading {
    pub hours: f64,
    /// Without sleep.
    pub years: f64,
    /// At 2,000 hours a year.
    pub working_years: f64,
}

impl Reading {
    /// `pages` at `secs_per_page` each.
    ///
    /// ```
    /// // A talk said about 85 million hours for 5.74 billion pages at 52 seconds; it is 82.9 million.
    /// let reading = plan::questions::reading::Reading::of_pages(5.74e9, 52.0);
    /// assert!((reading.hours / 82.9e6 - 1.0).abs() < 1e-3);
    /// assert!((reading.years - 9_459.0).abs() < 1.0);
    /// ```
    #[must_use]
    pub fn of_pages(pages: f64, secs_per_page: f64) -> Self {
        let hours = pages * secs_per_page / 3600.0;
        Self { hours, years: hours / 8765.8, working_years: hours / WORK_HOURS }
    }

    /// As many tokens of English as are read in that time at 238 words a minute.
    ///
    /// ```
    /// let tokens = plan::questions::reading::Reading::of_tokens(1e12).tokens();
    /// assert!((tokens / 1e12 - 1.0).abs() < 1e-9);
    /// ```
    #[must_use]
    pub fn tokens(&self) -> f64 {
        self.hours * 60.0 * WORDS_PER_MINUTE / WORDS_PER_TOKEN
    }

    /// `tokens` of English at 238 words a minute.
    #[must_use]
    pub fn of_tokens(tokens: f64) -> Self {
        Self::of_pages(tokens * WORDS_PER_TOKEN / WORDS_PER_MINUTE, 60.0)
    }
}
