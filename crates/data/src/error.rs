//! What can go wrong with data, with what to do about it.

use std::path::{Path, PathBuf};

use crate::tally::{Stage, Tally};

/// See the head of this file.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum DataError {
    #[error("cannot {action} `{}`", path.display())]
    #[diagnostic(code(data::io), help("check that the path exists, that you may read it, and that the disk has room"))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("no files to read in `{pattern}`{lost}")]
    #[diagnostic(
        code(data::no_files),
        help("give a folder, a file or a glob such as `corpus/**/*.md`; `corpus.extensions` names other endings to take")
    )]
    NoFiles {
        pattern: String,
        /// A line for each reason for which files were left out, after a line end.
        lost: String,
    },

    #[error("`{pattern}` is not a glob: {problem}")]
    #[diagnostic(code(data::pattern), help("quote special characters, or give the folder itself"))]
    Pattern { pattern: String, problem: String },

    #[error("reading `{url}` needs a part of hairpin that this build leaves out")]
    #[diagnostic(code(data::feature), help("build with `cargo build --release --features {feature}`"))]
    Feature { url: String, feature: &'static str },

    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] store::StoreError),

    #[error("`{name}`: {fault}")]
    #[diagnostic(code(data::refused), help("mend or remove the file, or set `on_bad = \"skip\"` to leave such input out"))]
    Refused { name: String, fault: String },

    #[error("nothing is left to train on: of {read} documents {kept} were kept{lost}")]
    #[diagnostic(code(data::empty))]
    Empty {
        read: u64,
        kept: u64,
        /// A line for each reason, after a line end.
        lost: String,
        #[help]
        help: String,
    },

    #[error("{have} tokens do not fill one window of {need}")]
    #[diagnostic(code(data::short), help("give more text, a larger `fraction`, or a smaller `context`"))]
    Short { have: u64, need: u64 },

    #[error("the tokenizer `{what}`: {problem}")]
    #[diagnostic(
        code(data::tokenizer),
        help(
            "give a `tokenizer.json`, `vocab.json` with `merges.txt`, `.tiktoken` or `tokenizer.model`, name its end with `end_of_text`, or train one"
        )
    )]
    Tokenizer { what: String, problem: String },

    #[error("`{}` is damaged: {problem}", path.display())]
    #[diagnostic(code(data::damaged), help("prepare the data again: delete its folder and run `hairpin data`"))]
    Damaged { path: PathBuf, problem: String },

    #[error("`{}` is no prepared data: {problem}", path.display())]
    #[diagnostic(code(data::not_prepared), help("run `hairpin data` first, or point `data.path` at a folder that it made"))]
    NotPrepared { path: PathBuf, problem: String },

    #[error("another process is preparing `{}`", path.display())]
    #[diagnostic(code(data::locked), help("wait for it to end, or choose another folder"))]
    Locked { path: PathBuf },

    #[error("{key}: {problem}")]
    #[diagnostic(code(data::option), help("correct the value in the recipe's `[data]` table"))]
    Option { key: &'static str, problem: String },

    #[error("stopped before the data was ready; nothing was changed")]
    #[diagnostic(code(data::cancelled), help("run the same command again: it goes on from what was done"))]
    Cancelled,
}

impl DataError {
    /// [`DataError::Empty`] with what was lost by reason, and what to do about the most of it. `examples` was written.
    pub(crate) fn empty(tally: &Tally, examples: &Path) -> Self {
        let most = |stage: Stage| {
            tally.losses(stage).iter().max_by_key(|(_, loss)| loss.count).map(|(reason, loss)| (reason.as_str(), loss.count))
        };
        let mut help = Vec::new();
        if let Some((reason, _)) = most(Stage::BadInput) {
            let columns = tally.other_columns();
            if reason == "no_column" && !columns.is_empty() {
                help.push(format!("name the column of text: `corpus.text_column = \"{}\"`", columns[0]));
            } else {
                help.push("mend the input that is bad".to_owned());
            }
        }
        if let Some((rule, _)) = most(Stage::Cleaning) {
            help.push(format!("switch off a cleaning rule: `clean.off = [\"{rule}\"]`"));
        }
        if tally.total(Stage::LeftOut) > 0 {
            help.push("name other endings to read with `corpus.extensions`".to_owned());
        }
        help.push("or give more text".to_owned());
        if Stage::ALL.iter().any(|stage| tally.total(*stage) > 0) {
            help.push(format!("`{}` shows examples of what was dropped", examples.display()));
        }
        Self::Empty { read: tally.documents_read, kept: tally.documents_kept, lost: lost(tally), help: help.join("; ") }
    }

    pub(crate) fn no_files(pattern: &str, tally: &Tally) -> Self {
        Self::NoFiles { pattern: pattern.to_owned(), lost: lost(tally) }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What was lost, a line each, to follow a message.
fn lost(tally: &Tally) -> String {
    let words = tally.in_words();
    if words.is_empty() { words } else { format!(":\n{words}") }
}
