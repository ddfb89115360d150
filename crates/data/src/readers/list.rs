//! The files to read: those that the options name, and those of named folders whose endings a reader knows. Every other file
//! of such a folder is told of. A file that is reached by several names (a hub's cache links its blobs) is read once.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{CorpusOptions, Format, Source, is_known, remote, unknown_ending};
use crate::{
    DataError,
    tally::{Stage, Tally},
};

/// What hubs and their libraries lay beside data.
const BOOKKEEPING: &[&str] =
    &["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "__MACOSX", "thumbs.db", "desktop.ini"];

/// Every file that the options name, in order of names, each once; what was passed over goes into `tally`.
pub(crate) fn sources(options: &CorpusOptions, scratch: &Path, tally: &mut Tally) -> Result<Vec<Source>, DataError> {
    let mut list = List { options, found: Vec::new(), tally };
    for pattern in &options.paths {
        let before = list.found.len();
        let path = Path::new(pattern);
        if pattern.contains("://") {
            remote::fetch(pattern, options, scratch, &mut list.found)?;
        } else if path.is_dir() {
            list.walk(path);
        } else if path.symlink_metadata().is_ok() {
            list.push(path, path.parent().unwrap_or(Path::new("")));
        } else {
            let bad = |e: glob::PatternError| DataError::Pattern { pattern: pattern.clone(), problem: e.to_string() };
            for path in glob::glob(pattern).map_err(bad)? {
                match path {
                    Ok(path) if path.is_dir() => {}
                    Ok(path) => list.push(&path, Path::new("")),
                    Err(e) => list.tally.lose(Stage::LeftOut, &reason(e.error()), &e.path().to_string_lossy(), 0, &e.to_string()),
                }
            }
        }
        if list.found.len() == before {
            return Err(DataError::no_files(pattern, list.tally));
        }
    }
    let mut found = list.found;
    found.sort();
    found.dedup();
    Ok(once(found, tally))
}

struct List<'a> {
    options: &'a CorpusOptions,
    found: Vec<Source>,
    tally: &'a mut Tally,
}

impl List<'_> {
    fn walk(&mut self, root: &Path) {
        let mut walk = walkdir::WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    let path = e.path().unwrap_or(root);
                    let why = if e.loop_ancestor().is_some() {
                        "a link that leads upward".into()
                    } else {
                        e.io_error().map_or("unreadable".into(), reason)
                    };
                    self.tally.lose(Stage::LeftOut, &why, &name(path, root), 0, &e.to_string());
                    continue;
                }
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_hidden = entry.depth() > 0 && name.starts_with('.');
            let is_bookkeeping = BOOKKEEPING.iter().any(|known| name.eq_ignore_ascii_case(known));
            if entry.depth() > 0 && (is_hidden || is_bookkeeping) {
                let why = if is_hidden { "hidden" } else { "bookkeeping of a hub or a desktop" };
                let folder = if entry.file_type().is_dir() { " (a folder with all that is in it)" } else { "" };
                self.lose(why, entry.path(), root, folder);
                if entry.file_type().is_dir() {
                    walk.skip_current_dir();
                }
            } else if entry.file_type().is_dir() {
            } else if !entry.file_type().is_file() {
                self.lose("not a regular file", entry.path(), root, "");
            } else if !self.is_wanted(&name) {
                self.lose(&unknown_ending(&name), entry.path(), root, "");
            } else {
                self.push(entry.path(), root);
            }
        }
    }

    fn is_wanted(&self, name: &str) -> bool {
        if self.options.extensions.is_empty() {
            self.options.format != Format::Auto || is_known(name)
        } else {
            super::ends_in(name, &self.options.extensions)
        }
    }

    fn lose(&mut self, why: &str, path: &Path, root: &Path, text: &str) {
        let bytes = path.metadata().map_or(0, |m| if m.is_file() { m.len() } else { 0 });
        self.tally.lose(Stage::LeftOut, why, &name(path, root), bytes, text);
    }

    fn push(&mut self, path: &Path, root: &Path) {
        let bytes = path.metadata().map_or(0, |m| m.len());
        self.found.push(Source { name: name(path, root), path: path.to_owned(), bytes });
    }
}

fn name(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

fn reason(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::PermissionDenied => "no permission".into(),
        std::io::ErrorKind::NotFound => "a link to nothing".into(),
        _ => "unreadable".into(),
    }
}

/// Of several names of one file the first that tells the format stays.
fn once(found: Vec<Source>, tally: &mut Tally) -> Vec<Source> {
    let identity = |path: &PathBuf| path.metadata().ok().map(|m| (m.dev(), m.ino()));
    let mut first: HashMap<(u64, u64), usize> = HashMap::new();
    let mut stays = vec![true; found.len()];
    for (i, source) in found.iter().enumerate() {
        let Some(key) = identity(&source.path) else { continue };
        let Some(before) = first.insert(key, i) else { continue };
        let goes = if is_known(&found[before].name) || !is_known(&source.name) { i } else { before };
        first.insert(key, if goes == i { before } else { i });
        stays[goes] = false;
        tally.lose(Stage::LeftOut, "the same file by another name", &found[goes].name, found[goes].bytes, "");
    }
    found.into_iter().zip(stays).filter_map(|(source, stays)| stays.then_some(source)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_file_of_a_folder_is_read_once_or_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (name, text) in [
            ("a.txt", "a"),
            ("B.JSONL", "{}"),
            ("paper.pdf", "1234567"),
            ("data.arrow.lock", ""),
            ("LICENSE", "x"),
            ("dataset_info.json", "{}"),
            (".DS_Store", "x"),
            (".git/config.toml", "x"),
            ("hub/blobs/0123abcd", "{\"text\": \"t\"}"),
        ] {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir_all(root.join("hub/snapshots/rev")).unwrap();
        symlink("../../blobs/0123abcd", root.join("hub/snapshots/rev/train.jsonl")).unwrap();
        symlink(root, root.join("up")).unwrap();
        symlink("nowhere", root.join("gone.txt")).unwrap();
        std::fs::hard_link(root.join("a.txt"), root.join("again.txt")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("s.txt")).unwrap();

        let options = CorpusOptions { paths: vec![root.display().to_string()], ..CorpusOptions::default() };
        let mut tally = Tally::default();
        let found = sources(&options, root, &mut tally).unwrap();
        let names: Vec<&str> = found.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["B.JSONL", "a.txt", "hub/snapshots/rev/train.jsonl"]);
        let lost: Vec<(&str, u64)> = tally.left_out.iter().map(|(why, loss)| (why.as_str(), loss.count)).collect();
        let want = [
            ("a link that leads upward", 1),
            ("a link to nothing", 1),
            ("bookkeeping of a hub or a desktop", 1),
            ("ending .lock", 1),
            ("ending .pdf", 1),
            ("hidden", 2),
            ("no ending", 2),
            ("not a regular file", 1),
            ("the same file by another name", 1),
        ];
        assert_eq!(lost, want);
        assert_eq!(tally.left_out["ending .pdf"].bytes, 7);
    }

    #[test]
    fn a_folder_of_nothing_but_other_files_says_which() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("paper.pdf"), "x").unwrap();
        let options = CorpusOptions { paths: vec![folder.path().display().to_string()], ..CorpusOptions::default() };
        let error = sources(&options, folder.path(), &mut Tally::default()).unwrap_err().to_string();
        assert!(error.contains("1 files (left out: ending .pdf), as `paper.pdf`"), "{error}");
    }
}
