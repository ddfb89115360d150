//! House rules that no compiler checks.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Most lines of a file of Rust.
const LINES: usize = 600;
/// Most bytes of any file.
const BYTES: u64 = 1 << 20;

/// Check all rules from the repository's root.
/// # Errors
/// Every breach, one to a line.
pub(crate) fn check() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask has no parent folder")?;
    let mut problems = Vec::new();
    let files = files(root);
    for file in &files {
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        if fs::metadata(file).is_ok_and(|m| m.len() > BYTES) && name != "Cargo.lock" {
            problems.push(format!("{name}: larger than {BYTES} bytes"));
        }
        let Ok(text) = fs::read_to_string(file) else { continue };
        if name.ends_with(".rs") {
            rust(&name, &text, &mut problems);
        }
        if name.ends_with(".md") {
            links(root, file, &name, &text, &mut problems);
        }
    }
    members(root, &mut problems);
    ops(root, &mut problems);
    errors(root, &files, &mut problems);
    circles(root, &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(format!("tidy:\n{}", problems.join("\n"))) }
}

fn rust(name: &str, text: &str, problems: &mut Vec<String>) {
    if !text.starts_with("//!") {
        problems.push(format!("{name}: does not open with a header comment"));
    }
    let lines = text.lines().count();
    if lines > LINES {
        problems.push(format!("{name}: {lines} lines, more than {LINES}"));
    }
    for unfinished in ["todo", "unimplemented", "dbg"] {
        if text.contains(&format!("{unfinished}!(")) {
            problems.push(format!("{name}: holds `{unfinished}!`"));
        }
    }
}

/// Relative links of Markdown lead somewhere.
fn links(root: &Path, file: &Path, name: &str, text: &str, problems: &mut Vec<String>) {
    for part in text.split("](").skip(1) {
        let target = part.split([')', '#']).next().unwrap_or("");
        if target.is_empty() || target.contains("://") || target.contains('\n') {
            continue;
        }
        let folder = file.parent().unwrap_or(root);
        if !folder.join(target).exists() {
            problems.push(format!("{name}: the link `{target}` leads nowhere"));
        }
    }
}

/// A crate depends only on members above it in the list.
fn members(root: &Path, problems: &mut Vec<String>) {
    let text = fs::read_to_string(root.join("Cargo.toml")).unwrap_or_default();
    let list = text.split_once("members = [").map_or("", |(_, rest)| rest.split(']').next().unwrap_or(""));
    // The comment beside the bracket is not part of the list.
    let names: Vec<&str> = list.lines().filter_map(|line| line.trim().strip_prefix("\"crates/")?.split('"').next()).collect();
    for (i, name) in names.iter().enumerate() {
        let manifest = fs::read_to_string(root.join("crates").join(name).join("Cargo.toml")).unwrap_or_default();
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or("");
        for later in &names[i..] {
            if dependencies.lines().any(|line| line.starts_with(&format!("{later}.workspace")) || line.starts_with(&format!("{later} ="))) {
                problems.push(format!("crates/{name}: depends on `{later}`, which stands below it in the members list"));
            }
        }
    }
    if names.is_empty() {
        problems.push("Cargo.toml: no members found".into());
    }
}

/// Every op's file is in the registry.
fn ops(root: &Path, problems: &mut Vec<String>) {
    let folder = root.join("crates/engine/src/ops");
    let text = fs::read_to_string(folder.join("mod.rs")).unwrap_or_default();
    let line = text.split_once("\nops! {").map_or("", |(_, rest)| rest.split('}').next().unwrap_or(""));
    let registered: BTreeSet<String> = line.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    let there: BTreeSet<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .filter(|name| name != "mod")
        .collect();
    if registered != there {
        problems.push(format!("crates/engine/src/ops: files are {there:?} and the registry has {registered:?}"));
    }
}

/// Every error's code is explained in docs/errors.md, and nothing else is.
fn errors(root: &Path, files: &[PathBuf], problems: &mut Vec<String>) {
    let sources = files.iter().filter(|file| file.starts_with(root.join("crates")) && file.extension().is_some_and(|e| e == "rs"));
    let codes: BTreeSet<String> = sources
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| {
            // As an attribute of an error's type, and of one that is made where it is told.
            let ways = [("code(", ')'), ("code = \"", '"')];
            let of = |(start, end): (&'static str, char)| {
                text.split(start).skip(1).filter_map(move |rest| Some(rest.split_once(end)?.0.to_owned()))
            };
            ways.into_iter().flat_map(of).collect::<Vec<_>>()
        })
        .filter(|code| code.contains("::") && code.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == ':'))
        .collect();
    let page = fs::read_to_string(root.join("docs/errors.md")).unwrap_or_default();
    let explained: BTreeSet<String> =
        page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect();
    for code in codes.symmetric_difference(&explained) {
        problems.push(format!("docs/errors.md: `{code}` stands in only one of the sources and this page"));
    }
}

/// No files of a crate lean on each other.
fn circles(root: &Path, problems: &mut Vec<String>) {
    for folder in fs::read_dir(root.join("crates")).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = folder.strip_prefix(root).unwrap_or(&folder).display().to_string();
        problems.extend(
            crate::circles::find(&folder.join("src")).into_iter().map(|files| format!("{name}: {} lean on each other", files.join(", "))),
        );
    }
}

/// All files but those that git ignores.
fn files(root: &Path) -> Vec<PathBuf> {
    let listed =
        std::process::Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root).output();
    let names = listed.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    names.lines().map(|name| root.join(name)).filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_house_is_tidy() {
        if let Err(problems) = super::check() {
            panic!("{problems}");
        }
    }

    #[test]
    fn breaches_are_seen() {
        let mut problems = Vec::new();
        super::rust("a.rs", &format!("fn main() {{ {}!(1); }}", "dbg"), &mut problems);
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
