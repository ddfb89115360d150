//! Sweeps: `optim.lr=1e-3,3e-3` and `seed=1..4` are lists of values of one key, and several sweeps are the product of theirs.

use crate::LaunchError;

/// Products beyond it are more likely a slip than a wish.
const MOST_JOBS: usize = 10_000;

/// One key and what it is set to, job after job.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    pub key: String,
    pub values: Vec<String>,
}

/// `KEY=A,B,C`, or `KEY=FIRST..LAST` of whole numbers, the last included.
/// # Errors
/// [`LaunchError::Sweep`].
pub fn parse(text: &str) -> Result<Sweep, LaunchError> {
    let wrong = |problem: String| LaunchError::Sweep { origin: format!("--sweep {text}"), problem };
    let (key, values) = text.split_once('=').ok_or_else(|| wrong("it has no `=`".into()))?;
    let (key, values) = (key.trim(), values.trim());
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_') {
        return Err(wrong(format!("`{key}` is no key of a recipe")));
    }
    let values: Vec<String> = if let Some((first, last)) = values.split_once("..") {
        let number = |text: &str| text.trim().parse::<i64>().map_err(|_| wrong(format!("`{text}` is no whole number")));
        let (first, last) = (number(first)?, number(last)?);
        if last < first || last.abs_diff(first) >= MOST_JOBS as u64 {
            return Err(wrong(format!("from {first} to {last} there are no values, or more than {MOST_JOBS}")));
        }
        (first..=last).map(|n| n.to_string()).collect()
    } else {
        split(values).into_iter().map(|value| value.trim().to_owned()).collect()
    };
    if let Some(empty) = values.iter().position(String::is_empty) {
        return Err(wrong(format!("value {} is empty", empty + 1)));
    }
    if let Some(twice) = values.iter().enumerate().find_map(|(i, value)| values[..i].contains(value).then_some(value)) {
        return Err(wrong(format!("`{twice}` stands there twice, and would be one job")));
    }
    Ok(Sweep { key: key.into(), values })
}

/// At the commas that stand in no brackets and no quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut quote, mut start) = (Vec::new(), 0_i32, None, 0);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Every combination, as `KEY=VALUE`s of one job each; the last sweep turns fastest. One of nothing where there is no sweep.
/// # Errors
/// [`LaunchError::Sweep`] when a key stands in two sweeps, or there are too many jobs.
pub fn product(sweeps: &[Sweep]) -> Result<Vec<Vec<String>>, LaunchError> {
    let wrong = |problem: String| LaunchError::Sweep { origin: "--sweep".into(), problem };
    if let Some(twice) = sweeps.iter().enumerate().find_map(|(i, s)| sweeps[..i].iter().any(|t| t.key == s.key).then_some(&s.key)) {
        return Err(wrong(format!("`{twice}` is swept twice")));
    }
    let count = sweeps.iter().try_fold(1_usize, |n, sweep| n.checked_mul(sweep.values.len())).filter(|n| *n <= MOST_JOBS);
    if count.is_none() {
        return Err(wrong(format!("the product is more than {MOST_JOBS} jobs")));
    }
    let mut all = vec![Vec::new()];
    for sweep in sweeps {
        let with = |before: &Vec<String>| {
            let one = |value: &String| before.iter().cloned().chain([format!("{}={value}", sweep.key)]).collect();
            sweep.values.iter().map(one).collect::<Vec<Vec<String>>>()
        };
        all = all.iter().flat_map(with).collect();
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sweeps_multiply_in_the_order_in_which_they_are_given() {
        let sweeps = [parse("optim.lr=1e-3,3e-3").unwrap(), parse("seed=1..4").unwrap()];
        let jobs = product(&sweeps).unwrap();
        assert_eq!(
            (jobs.len(), &jobs[0], &jobs[5]),
            (8, &vec!["optim.lr=1e-3".into(), "seed=1".into()], &vec!["optim.lr=3e-3".into(), "seed=2".into()])
        );
        assert_eq!(product(&[]).unwrap(), vec![Vec::<String>::new()]);
        let tables = parse("parallel.mesh={tensor=2, pipeline=1},{tensor=1, pipeline=2}").unwrap();
        assert_eq!(tables.values.len(), 2, "{tables:?}");
        for bad in ["seed", "seed=", "seed=1,,2", "seed=4..1", "seed=1..x", "=1", "seed=1,1", "a b=1", "seed=0..99999999"] {
            assert!(matches!(parse(bad), Err(LaunchError::Sweep { .. })), "{bad}");
        }
        assert!(product(&[sweeps[1].clone(), sweeps[1].clone()]).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            if let Ok(sweep) = parse(&text) {
                prop_assert!(!sweep.values.is_empty() && sweep.values.iter().all(|v| !v.is_empty()));
            }
        }
    }
}
