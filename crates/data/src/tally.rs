//! What became of a corpus: what was read and kept by kind of file, and what was not, by reason, with the first few of each.
//!
//! Readers, cleaning, deduplication and preparation all report into one [`Tally`]. Tallies of parts are merged in the order
//! of the parts; the counts and the examples are then the same at any number of threads.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::names::kind;

/// See the head of this file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    pub files: u64,
    pub documents_read: u64,
    pub bytes_read: u64,
    pub documents_kept: u64,
    pub bytes_kept: u64,
    /// By the ending of the file's name, as `jsonl.gz`.
    pub kinds: BTreeMap<String, Kind>,
    /// Files that were not opened, by reason.
    pub left_out: BTreeMap<String, Loss>,
    /// Files, rows and documents that could not be read, by [`Fault`](crate::Fault).
    pub faults: BTreeMap<String, Loss>,
    /// Documents that cleaning dropped, by [`Rule`](crate::Rule).
    pub cleaned: BTreeMap<String, Loss>,
    /// Documents dropped as duplicates: `exact`, `near`.
    pub duplicates: BTreeMap<String, Loss>,
    /// What was read otherwise than as it stands: decoded from another encoding, cut into several documents.
    pub mended: BTreeMap<String, Loss>,
    /// Columns of text that rows had which lacked the one asked for, with the count of rows.
    pub columns: BTreeMap<String, u64>,
}

/// What came of the files of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    pub files: u64,
    /// On disk, packed or not.
    pub file_bytes: u64,
    pub documents_read: u64,
    pub bytes_read: u64,
    pub documents_kept: u64,
    pub bytes_kept: u64,
}

/// What fell to one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    pub count: u64,
    /// Of the files or texts, as far as they are known.
    pub bytes: u64,
    /// The first few.
    pub examples: Vec<Example>,
}

/// One file or document that was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    pub name: String,
    /// What was wrong, or how the text begins.
    pub text: String,
}

/// Where in the pipeline something was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    LeftOut,
    BadInput,
    Cleaning,
    Duplicate,
    /// Not lost, but not read as it stands either.
    Mended,
}

impl Stage {
    pub const ALL: [Self; 5] = [Self::LeftOut, Self::BadInput, Self::Cleaning, Self::Duplicate, Self::Mended];

    /// The words for it in a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::LeftOut => "left out",
            Self::BadInput => "bad input",
            Self::Cleaning => "cleaning",
            Self::Duplicate => "duplicate",
            Self::Mended => "read, but",
        }
    }

    /// What is counted there.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::LeftOut => "files",
            Self::BadInput => "inputs",
            Self::Cleaning | Self::Duplicate => "documents",
            Self::Mended => "texts",
        }
    }
}

impl Tally {
    const EXAMPLES: usize = 8;
    pub(crate) const EXAMPLE_CHARS: usize = 300;
    const COLUMNS: usize = 64;

    /// A file was opened.
    pub(crate) fn file(&mut self, name: &str, bytes: u64) {
        self.files += 1;
        let kind = self.kinds.entry(kind(name)).or_default();
        kind.files += 1;
        kind.file_bytes = kind.file_bytes.saturating_add(bytes);
    }

    /// A document was read.
    pub(crate) fn read(&mut self, name: &str, bytes: u64) {
        self.documents_read += 1;
        self.bytes_read += bytes;
        let kind = self.kinds.entry(kind(name)).or_default();
        kind.documents_read += 1;
        kind.bytes_read += bytes;
    }

    /// A document goes into the data.
    pub(crate) fn keep(&mut self, name: &str, bytes: u64) {
        self.documents_kept += 1;
        self.bytes_kept += bytes;
        let kind = self.kinds.entry(kind(name)).or_default();
        kind.documents_kept += 1;
        kind.bytes_kept += bytes;
    }

    /// Something of `bytes` was lost; `text` tells what was wrong, or is the text itself.
    pub(crate) fn lose(&mut self, stage: Stage, reason: &str, name: &str, bytes: u64, text: &str) {
        let losses = self.losses_mut(stage);
        if !losses.contains_key(reason) {
            losses.insert(reason.to_owned(), Loss::default());
        }
        let Some(loss) = losses.get_mut(reason) else { return };
        loss.count += 1;
        loss.bytes = loss.bytes.saturating_add(bytes);
        if loss.examples.len() < Self::EXAMPLES {
            loss.examples.push(Example { name: name.to_owned(), text: text.chars().take(Self::EXAMPLE_CHARS).collect() });
        }
    }

    /// Whether a loss for this reason would become one of the first few.
    pub(crate) fn wants_example(&self, stage: Stage, reason: &str) -> bool {
        self.losses(stage).get(reason).is_none_or(|loss| loss.examples.len() < Self::EXAMPLES)
    }

    /// A row without the column that was asked for has a text in this one.
    pub(crate) fn column(&mut self, name: &str) {
        let is_full = self.columns.len() >= Self::COLUMNS;
        match self.columns.get_mut(name) {
            Some(count) => *count += 1,
            None if is_full => {}
            None => _ = self.columns.insert(name.to_owned(), 1),
        }
    }

    /// Add what came after.
    pub(crate) fn merge(&mut self, after: Self) {
        self.files += after.files;
        self.documents_read += after.documents_read;
        self.bytes_read += after.bytes_read;
        self.documents_kept += after.documents_kept;
        self.bytes_kept += after.bytes_kept;
        for (name, kind) in &after.kinds {
            let sum = self.kinds.entry(name.clone()).or_default();
            sum.files += kind.files;
            sum.file_bytes = sum.file_bytes.saturating_add(kind.file_bytes);
            sum.documents_read += kind.documents_read;
            sum.bytes_read += kind.bytes_read;
            sum.documents_kept += kind.documents_kept;
            sum.bytes_kept += kind.bytes_kept;
        }
        for stage in Stage::ALL {
            for (reason, loss) in after.losses(stage) {
                let sum = self.losses_mut(stage).entry(reason.clone()).or_default();
                sum.count += loss.count;
                sum.bytes = sum.bytes.saturating_add(loss.bytes);
                let room = Self::EXAMPLES.saturating_sub(sum.examples.len());
                sum.examples.extend(loss.examples.iter().take(room).cloned());
            }
        }
        for (name, count) in after.columns {
            if self.columns.len() < Self::COLUMNS || self.columns.contains_key(&name) {
                *self.columns.entry(name).or_default() += count;
            }
        }
    }

    /// What was lost at a stage, by reason.
    #[must_use]
    pub fn losses(&self, stage: Stage) -> &BTreeMap<String, Loss> {
        match stage {
            Stage::LeftOut => &self.left_out,
            Stage::BadInput => &self.faults,
            Stage::Cleaning => &self.cleaned,
            Stage::Duplicate => &self.duplicates,
            Stage::Mended => &self.mended,
        }
    }

    fn losses_mut(&mut self, stage: Stage) -> &mut BTreeMap<String, Loss> {
        match stage {
            Stage::LeftOut => &mut self.left_out,
            Stage::BadInput => &mut self.faults,
            Stage::Cleaning => &mut self.cleaned,
            Stage::Duplicate => &mut self.duplicates,
            Stage::Mended => &mut self.mended,
        }
    }

    /// How many were lost to `reason` at a stage.
    #[must_use]
    pub fn count(&self, stage: Stage, reason: &str) -> u64 {
        self.losses(stage).get(reason).map_or(0, |loss| loss.count)
    }

    /// How many were lost at a stage.
    #[must_use]
    pub fn total(&self, stage: Stage) -> u64 {
        self.losses(stage).values().map(|loss| loss.count).sum()
    }

    /// Where the text may be instead, if rows lacked the column: `no column ...; there are ...`, from all files together.
    #[must_use]
    pub fn other_columns(&self) -> Vec<&str> {
        let mut columns: Vec<(&str, u64)> = self.columns.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        columns.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        columns.into_iter().take(8).map(|(name, _)| name).collect()
    }

    /// All that was lost in words, the most first: `20 documents by cleaning: word_length; 3 files left out: ending .pdf`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut all: Vec<(u64, String)> = Vec::new();
        for stage in [Stage::BadInput, Stage::Cleaning, Stage::Duplicate, Stage::LeftOut] {
            for (reason, loss) in self.losses(stage) {
                let mut words = format!("{} {} ({}: {reason})", loss.count, stage.unit(), stage.title());
                if let Some(first) = loss.examples.first() {
                    words += &format!(", as `{}`", disk::printable_line(&first.name));
                }
                all.push((loss.count, words));
            }
        }
        all.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        all.into_iter().map(|(_, words)| words).collect::<Vec<_>>().join("\n")
    }

    /// Write the examples to a file of JSON lines: `stage`, `reason`, `name`, `text`.
    pub(crate) fn write_examples(&self, path: &Path) -> std::io::Result<()> {
        let mut lines = String::new();
        for stage in Stage::ALL {
            for (reason, loss) in self.losses(stage) {
                for Example { name, text } in &loss.examples {
                    let line = serde_json::json!({"stage": stage, "reason": reason, "name": name, "text": text});
                    lines += &format!("{line}\n");
                }
            }
        }
        disk::write(path, lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_endings_whatever_stands_behind_them() {
        for (name, want) in [
            ("a/b.txt", "txt"),
            ("c4.00000-of-00002.json.gz:17", "json.gz"),
            ("UPPER.JSONL:3#2", "jsonl"),
            ("input.txt#4", "txt"),
            ("v1.2/LICENSE", "none"),
            ("gcide.dict.dz", "dict.dz"),
            ("dump.gz", "gz"),
        ] {
            assert_eq!(kind(name), want, "{name}");
        }
    }

    #[test]
    fn parts_merged_in_order_are_the_whole() {
        let add = |tally: &mut Tally, n: u64| {
            tally.file("a.txt", n);
            tally.read("a.txt", n);
            tally.lose(Stage::Cleaning, "too_short", &format!("{n}.txt"), n, "text");
            tally.column("content");
        };
        let (mut whole, mut first, mut second) = (Tally::default(), Tally::default(), Tally::default());
        (0..20).for_each(|n| add(&mut whole, n));
        (0..5).for_each(|n| add(&mut first, n));
        (5..20).for_each(|n| add(&mut second, n));
        first.merge(second);
        assert_eq!(first, whole);
        assert_eq!((whole.count(Stage::Cleaning, "too_short"), whole.cleaned["too_short"].examples.len()), (20, 8));
    }
}
