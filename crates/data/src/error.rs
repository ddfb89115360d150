//! What can go wrong with data, with what to do about it.

use std::path::{Path, PathBuf};

/// See the head of this file.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum DataError {
    #[error("cannot {action} `{}`", path.display())]
    #[diagnostic(code(data::io), help("check that the path exists, that you may read it, and that the disk has room"))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("no files match `{pattern}`")]
    #[diagnostic(code(data::no_files), help("give a folder, a file or a glob such as `corpus/**/*.md`"))]
    NoFiles { pattern: String },

    #[error("`{pattern}` is not a glob: {problem}")]
    #[diagnostic(code(data::pattern), help("quote special characters, or give the folder itself"))]
    Pattern { pattern: String, problem: String },

    #[error("reading `{url}` needs a part of hairpin that this build leaves out")]
    #[diagnostic(code(data::feature), help("build with `cargo build --release --features {feature}`"))]
    Feature { url: String, feature: &'static str },

    #[error("`{name}`: {fault}")]
    #[diagnostic(code(data::refused), help("mend or remove the file, or set `on_bad = \"skip\"` to leave such input out"))]
    Refused { name: String, fault: String },

    #[error("nothing is left to train on: {read} documents were read, {dropped} dropped by cleaning and as duplicates")]
    #[diagnostic(
        code(data::empty),
        help("give more text, or switch off cleaning rules with `clean.off = [...]`; `stats.json` counts each")
    )]
    Empty { read: u64, dropped: u64 },

    #[error("{have} tokens do not fill one window of {need}")]
    #[diagnostic(code(data::short), help("give more text, a larger `fraction`, or a smaller `context`"))]
    Short { have: u64, need: u64 },

    #[error("the tokenizer `{what}`: {problem}")]
    #[diagnostic(code(data::tokenizer), help("give the path of a `tokenizer.json` with an end-of-text token, or train one"))]
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
    #[diagnostic(code(data::cancelled), help("run the same command again"))]
    Cancelled,
}

impl DataError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
