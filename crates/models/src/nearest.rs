//! Of the names that there are, those nearest to one that is not.

/// As many are worth a look.
const MOST: usize = 5;
/// A shorter name lies in too many others by chance.
const LEAST_LETTERS: usize = 3;

/// Of `names`, each what it could be called and what it is, those that begin with `name` or begin it; then those that hold it or lie in
/// it; then those of which a few letters differ. Only letters and digits count, not their case.
///
/// ```
/// let near = |name| models::nearest(name, models::presets().map(|(_, preset)| (preset, preset)));
/// assert_eq!(near("gpt2")[..2], ["gpt2-124m", "gpt2-355m"]);
/// assert_eq!(near("lama-7b"), ["llama-7b"]);
/// assert!(near("BERT").is_empty());
/// ```
#[must_use]
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<&'a str> {
    let name = plain(name);
    let letters = name.chars().count();
    let mut near: Vec<(usize, usize, &str)> = names
        .filter_map(|(called, is)| {
            let called = plain(called);
            let is_long = called.len().min(name.len()) >= LEAST_LETTERS;
            let differ = strsim::damerau_levenshtein(&name, &called);
            let class = match () {
                () if !name.is_empty() && called.starts_with(&name) || is_long && name.starts_with(&called) => 0,
                () if is_long && (called.contains(&name) || name.contains(&called)) => 1,
                () if differ <= letters.div_ceil(4) => 2,
                () => return None,
            };
            Some((class, if class == 2 { differ } else { 0 }, is))
        })
        .collect();
    near.sort_by_key(|(class, differ, _)| (*class, *differ));
    let mut shown: Vec<&str> = Vec::new();
    for (_, _, is) in near {
        if shown.len() < MOST && !shown.contains(&is) {
            shown.push(is);
        }
    }
    shown
}

fn plain(name: &str) -> String {
    name.chars().filter(|letter| letter.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// What to say of a `name` that is none of `names`.
pub(crate) fn instead(name: &str, names: &[&'static str]) -> String {
    match nearest(name, names.iter().map(|name| (*name, *name)))[..] {
        [] => format!("use one of `{}`", names.join("`, `")),
        ref near => format!("the nearest are `{}`; `hairpin plan list presets` names all", near.join("`, `")),
    }
}
