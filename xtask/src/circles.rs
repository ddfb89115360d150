//! No two files of a crate lean on each other, directly or by way of others: whoever reads one need not have read the other.
//!
//! A file leans on another where it names something of it by a path that begins with `crate` or `super`; what a module passes on
//! (`pub use`) counts as the file that it is from. A module and the modules inside it may name each other: they are one thing in several
//! files. Tests do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A file by the names of its modules; none is the crate's root.
type Module = Vec<String>;

/// Every circle among the files of the crate in `src`, as its files' names.
pub(crate) fn find(src: &Path) -> Vec<Vec<String>> {
    let mut sources = BTreeMap::new();
    read(src, &mut Vec::new(), &mut sources);
    of(&sources)
}

fn read(folder: &Path, at: &mut Module, sources: &mut BTreeMap<Module, String>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let Some(name) = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if name == "tests" {
            continue;
        }
        at.push(name.clone());
        if path.is_dir() {
            read(&path, at, sources);
        } else if path.extension().is_some_and(|ending| ending == "rs")
            && let Ok(text) = fs::read_to_string(&path)
        {
            let is_of_folder = ["mod", "lib", "main"].contains(&name.as_str());
            let module = if is_of_folder { at[..at.len() - 1].to_vec() } else { at.clone() };
            sources.insert(module, code(&text));
        }
        at.pop();
    }
}

/// `text` without comments, strings and its tests.
fn code(text: &str) -> String {
    let text = text.split_once("#[cfg(test)]\nmod tests").map_or(text, |(before, _)| before);
    let (mut kept, mut is_string, mut before) = (String::new(), false, ' ');
    for line in text.lines() {
        for (at, c) in line.char_indices() {
            if !is_string && line[at..].starts_with("//") {
                break;
            }
            if c == '"' && before != '\\' && !(before == '\'' && line[at + 1..].starts_with('\'')) {
                is_string = !is_string;
            } else if !is_string {
                kept.push(c);
            }
            before = if before == '\\' { ' ' } else { c };
        }
        kept.push('\n');
    }
    kept
}

/// The paths of a tree of names, as after `use`: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(text: &str) -> Vec<Module> {
    tree(text).0
}

/// And what is left of `text` after it.
fn tree(text: &str) -> (Vec<Module>, &str) {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        let mut all = Vec::new();
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if let Some(rest) = rest.strip_prefix('}') {
                return (all, rest);
            }
            let (some, left) = tree(rest);
            if left.len() == rest.len() {
                return (all, "");
            }
            all.extend(some);
            // `as` and another name.
            rest = left.trim_start_matches(|c| c != ',' && c != '}');
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return (vec![Vec::new()], text.strip_prefix('*').unwrap_or(text));
    }
    let Some(inner) = rest.strip_prefix("::") else { return (vec![vec![name.to_owned()]], rest) };
    let (some, left) = tree(inner);
    (some.into_iter().map(|path| [vec![name.to_owned()], path].concat()).collect(), left)
}

/// What each module passes on under a name, and from which file.
type PassedOn = BTreeMap<Module, BTreeMap<String, Module>>;

/// The file that holds what `path` names, seen from `base`.
fn file_of(base: &[String], path: &[String], sources: &BTreeMap<Module, String>, passed_on: &PassedOn) -> Module {
    let mut at = base.to_vec();
    for name in path {
        let inner = [at.as_slice(), std::slice::from_ref(name)].concat();
        match name.as_str() {
            "self" => {}
            "super" => _ = at.pop(),
            _ if sources.contains_key(&inner) => at = inner,
            _ => return passed_on.get(&at).and_then(|names| names.get(name)).cloned().unwrap_or(at),
        }
    }
    at
}

fn of(sources: &BTreeMap<Module, String>) -> Vec<Vec<String>> {
    let mut passed_on = PassedOn::new();
    // What is passed on may have been passed on before.
    for _ in 0..3 {
        for (module, text) in sources {
            let tails = text.match_indices("use ").filter(|(at, _)| {
                let before = text[..*at].trim_end();
                before.ends_with("pub")
                    || before.ends_with(')') && before.rsplit_once('(').is_some_and(|(before, _)| before.ends_with("pub"))
            });
            for path in tails.flat_map(|(at, word)| paths(&text[at + word.len()..])) {
                let (base, path) = match path.split_first() {
                    Some((first, rest)) if first == "crate" => (&[][..], rest),
                    _ => (module.as_slice(), path.as_slice()),
                };
                let from = file_of(base, path, sources, &passed_on);
                if let Some(name) = path.last().filter(|_| from != *module) {
                    passed_on.entry(module.clone()).or_default().insert(name.clone(), from);
                }
            }
        }
    }
    let mut leans: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, text) in sources {
        let of_crate = text.match_indices("crate::").map(|found| (found, &[][..]));
        let of_parent = text.match_indices("super::").map(|found| (found, module.split_last().map_or(&[][..], |(_, parent)| parent)));
        for ((at, word), base) in of_crate.chain(of_parent) {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            for path in paths(&text[at + word.len()..]) {
                let other = file_of(base, &path, sources, &passed_on);
                if !module.starts_with(&other) && !other.starts_with(module) {
                    leans.entry(module).or_default().insert(other);
                }
            }
        }
    }
    // A file is in a circle where it leads back to itself; files that lead to each other are in one.
    let reach = |from: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            for other in leans.get(&module).into_iter().flatten() {
                if seen.insert(other.clone()) {
                    next.push(other.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = sources.keys().map(|module| (module, reach(module))).collect();
    let circles: BTreeSet<Vec<String>> = (reached.iter().filter(|(module, seen)| seen.contains(**module)))
        .map(|(module, seen)| seen.iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(*module))))
        .map(|circle| circle.map(|module| module.join("::")).collect())
        .collect();
    circles.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(sources: &[(&str, &str)]) -> Vec<Vec<String>> {
        let module = |name: &str| name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect::<Module>();
        of(&sources.iter().map(|(name, text)| (module(name), code(text))).collect())
    }

    #[test]
    fn circles_are_found_through_others_and_through_what_is_passed_on() {
        let two = [("", "mod a; mod b;"), ("a", "use crate::b::B;"), ("b", "use super::{a::{A, C}, X};")];
        assert_eq!(circles(&two), [["a", "b"]]);
        let three = [("a", "crate::b::go()"), ("b", "use crate::c::*;"), ("c", "fn f(a: crate::a::A) {}"), ("d", "use crate::a::A;")];
        assert_eq!(circles(&three), [["a", "b", "c"]]);
        let passed = [("", "pub use a::A;\npub(crate) use b::{B as Bee, B};"), ("a", "use crate::B;"), ("b", "use crate::A;")];
        assert_eq!(circles(&passed), [["a", "b"]]);
    }

    #[test]
    fn modules_and_what_is_in_them_comments_strings_and_tests_make_none() {
        assert!(circles(&[("a", "mod b; use b::B;"), ("a::b", "use super::A;")]).is_empty());
        let told = [("a", "// crate::b::B\nlet x = \"crate::b\";"), ("b", "use crate::a::A;")];
        assert!(circles(&told).is_empty());
        let tested = [("a", "fn a() {}\n#[cfg(test)]\nmod tests {\n use crate::b::B;\n}"), ("b", "use crate::a::A;")];
        assert!(circles(&tested).is_empty());
    }
}
