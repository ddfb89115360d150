//! Units as people write them: `1T`, `40B`, `1.9 TB`, `2 months`, `$2M`. What was understood is echoed by the commands, so
//! that a misreading shows at once.
//!
//! Bytes are read by `bytesize` (TB is 10^12, TiB 2^40) and long times by `humantime` (a month is 30.44 days).

use std::{str::FromStr, time::Duration};

use crate::PlanError;

/// A million times the tokens that there are, and a thousand years.
pub(crate) const MOST: f64 = 1e18;
const MOST_SECS: f64 = 3.2e10;

/// Tokens of a corpus, or its bytes, as `--data` takes them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    Tokens(f64),
    Bytes(f64),
}

/// A count: `1T`, `40B`, `1.5 million`, `3e9`, `12_000`; B is 10^9, as in the names of models.
/// # Errors
/// [`PlanError::Unit`] when it is no number above zero, or its unit is unknown.
///
/// ```
/// assert_eq!(plan::units::count("1.4T")?, 1.4e12);
/// assert_eq!(plan::units::count("5.74 billion")?, 5.74e9);
/// # Ok::<(), plan::PlanError>(())
/// ```
pub fn count(text: &str) -> Result<f64, PlanError> {
    let wrong = |problem: String| PlanError::Unit { text: text.into(), problem, example: "40B, 1.4T or 3e9" };
    let clean = text.trim().trim_start_matches('$').replace(['_', ','], "");
    // The longest start that is a number: `3e9` is one, the `e` of `3 eggs` is not.
    let ends = (1..=clean.len()).rev().filter(|end| clean.is_char_boundary(*end));
    let (value, rest) = ends
        .filter_map(|end| Some((f64::from_str(clean[..end].trim_end()).ok()?, &clean[end..])))
        .next()
        .ok_or_else(|| wrong("does not begin with a number".into()))?;
    let scale = match rest.trim().to_lowercase().as_str() {
        "" => 1.0,
        "k" | "thousand" => 1e3,
        "m" | "mio" | "million" => 1e6,
        "b" | "g" | "bn" | "billion" => 1e9,
        "t" | "tn" | "trillion" => 1e12,
        "q" | "p" | "quadrillion" => 1e15,
        other => return Err(wrong(format!("`{other}` is no unit of a count: use k, M, B or T"))),
    };
    sized(value * scale, MOST).map_err(wrong)
}

/// A plain number above zero, such as the seconds of a reply.
/// # Errors
/// [`PlanError::Unit`].
pub fn number(text: &str) -> Result<f64, PlanError> {
    let wrong = |problem: String| PlanError::Unit { text: text.into(), problem, example: "2.5" };
    sized(f64::from_str(text.trim()).map_err(|_| wrong("is no number".into()))?, MOST).map_err(wrong)
}

/// A share of a whole: above zero and at most one.
/// # Errors
/// [`PlanError::Unit`].
pub fn share(text: &str) -> Result<f64, PlanError> {
    let wrong = |problem: &str| PlanError::Unit { text: text.into(), problem: problem.into(), example: "0.4" };
    let value = f64::from_str(text.trim()).map_err(|_| wrong("is no number"))?;
    if value > 0.0 && value <= 1.0 { Ok(value) } else { Err(wrong("is no share: it is not above zero and at most one")) }
}

/// A length of time in seconds: `60 days`, `2 months`, `8h`; a bare number is of days.
/// # Errors
/// [`PlanError::Unit`].
///
/// ```
/// assert_eq!(plan::units::secs("60")?, 60.0 * 86_400.0);
/// assert_eq!(plan::units::secs("2 months")?, 2.0 * 30.44 * 86_400.0);
/// # Ok::<(), plan::PlanError>(())
/// ```
pub fn secs(text: &str) -> Result<f64, PlanError> {
    let wrong = |problem: String| PlanError::Unit { text: text.into(), problem, example: "60 days, 2 months or 8h" };
    let secs = match f64::from_str(text.trim()) {
        Ok(days) => days * 86_400.0,
        Err(_) => humantime::parse_duration(text.trim()).as_ref().map(Duration::as_secs_f64).map_err(|e| wrong(e.to_string()))?,
    };
    sized(secs, MOST_SECS).map_err(wrong)
}

/// Bytes when it says so (`1.9 TB`, `300GiB`), tokens otherwise (`1T`, `1T tokens`).
/// # Errors
/// [`PlanError::Unit`].
///
/// ```
/// use plan::units::{amount, Amount};
/// assert_eq!(amount("1.9 TB")?, Amount::Bytes(1.9e12));
/// assert_eq!(amount("1T")?, Amount::Tokens(1e12));
/// # Ok::<(), plan::PlanError>(())
/// ```
pub fn amount(text: &str) -> Result<Amount, PlanError> {
    let clean = text.trim();
    if let Some(tokens) = clean.strip_suffix("tokens").or_else(|| clean.strip_suffix("token")) {
        return count(tokens).map(Amount::Tokens);
    }
    // `40B` is tokens and `40 GB` bytes: a byte unit has a letter before its B.
    let unit: String = clean.chars().filter(|c| c.is_alphabetic()).collect();
    if unit.len() >= 2 && unit.to_lowercase().ends_with('b') || unit.to_lowercase().starts_with("byte") {
        return bytes(text).map(Amount::Bytes);
    }
    count(text).map(Amount::Tokens)
}

/// Bytes: `1.9 TB`, `300GiB`.
/// # Errors
/// [`PlanError::Unit`].
pub fn bytes(text: &str) -> Result<f64, PlanError> {
    let wrong = |problem: String| PlanError::Unit { text: text.into(), problem, example: "1.9 TB or 300 GiB" };
    let size: bytesize::ByteSize = text.trim().replace('_', "").parse().map_err(wrong)?;
    sized(size.as_u64() as f64, MOST).map_err(wrong)
}

/// A count as [`count`] reads it, to three digits: `50B`, `130k`.
///
/// ```
/// assert_eq!([5e10, 130_272.0, 38.5e9, 812.0].map(plan::units::short), ["50B", "130k", "38.5B", "812"]);
/// ```
#[must_use]
pub fn short(count: f64) -> String {
    let (scale, unit) =
        [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")].into_iter().find(|(scale, _)| count >= *scale).unwrap_or((1.0, ""));
    let value = count / scale;
    let digits = if value >= 100.0 { 0 } else { 1 };
    format!("{}{unit}", format!("{value:.digits$}").trim_end_matches(".0"))
}

/// What is not above zero or beyond `most` is a slip of the keyboard, and would only come back as infinities.
fn sized(value: f64, most: f64) -> Result<f64, String> {
    match value {
        v if v > most => Err(format!("is beyond {most:.0e}, which nothing to plan is")),
        v if v > 0.0 => Ok(v),
        _ => Err("is not above zero".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, want) in [
            ("1T", 1e12),
            ("40B", 4e10),
            (" 40 b ", 4e10),
            ("3e9", 3e9),
            ("12_000", 12_000.0),
            ("$2M", 2e6),
            ("2,000,000", 2e6),
            ("1.5 million", 1.5e6),
            ("0.5k", 500.0),
        ] {
            assert!((count(text).unwrap() / want - 1.0).abs() < 1e-12, "{text}");
        }
        assert_eq!(amount("40B").unwrap(), Amount::Tokens(4e10));
        assert_eq!(amount("40 GB").unwrap(), Amount::Bytes(4e10));
        assert_eq!(amount("2 TiB").unwrap(), Amount::Bytes(2.0 * 1024_f64.powi(4)));
        assert_eq!(amount("300B tokens").unwrap(), Amount::Tokens(3e11));
        assert_eq!(secs("36h").unwrap(), 129_600.0);
        assert_eq!(secs("1.5").unwrap(), 129_600.0);
    }

    #[test]
    fn what_means_nothing_is_named() {
        for text in ["", "T", "-1B", "1e19", "9999999T", "1e-400", "0", "nan", "inf", "1X", "1e400", "é", "1é", "1T1"] {
            assert!(matches!(count(text), Err(PlanError::Unit { .. })), "{text}");
        }
        for text in ["", "soon", "0", "-2 days", "3 parsecs", "1e15", "2000 years"] {
            assert!(matches!(secs(text), Err(PlanError::Unit { .. })), "{text}");
        }
        for text in ["1 QB", "TB", "-1 GB", "0 GB"] {
            assert!(amount(text).is_err(), "{text}");
        }
    }
}
