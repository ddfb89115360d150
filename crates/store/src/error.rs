//! What can go wrong with a store, with what to do about it. No text of it shows a credential.

use std::path::{Path, PathBuf};

/// See the head of this file.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum StoreError {
    #[error("cannot {action} `{}`", path.display())]
    #[diagnostic(code(store::io), help("check that the path exists, that you may use it, and that the disk has room"))]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("cannot {action} `{place}`: {problem}")]
    #[diagnostic(
        code(store::refused),
        help(
            "check that the bucket is there, that these credentials may read, write, list and delete in it, and that this machine's clock is right"
        )
    )]
    Refused { action: &'static str, place: String, problem: String },

    #[error("cannot {action} `{place}`: {problem}")]
    #[diagnostic(code(store::away), help("the store may be out of order or out of reach: the same command goes on where this one ended"))]
    Away { action: &'static str, place: String, problem: String },

    #[error("`{place}` is damaged: {problem}")]
    #[diagnostic(code(store::damaged), help("take an earlier one, or publish it again"))]
    Damaged { place: String, problem: String },

    #[error("something else is published at `{place}`")]
    #[diagnostic(code(store::taken), help("two writers share this URL, or it holds earlier work: give another one"))]
    Taken { place: String },

    #[error("nothing is published at `{place}`")]
    #[diagnostic(code(store::missing), help("look at the spelling; what is being written there is seen when it is whole"))]
    Missing { place: String },

    #[error("`{url}`: {problem}")]
    #[diagnostic(
        code(store::url),
        help(
            "write it as `s3://BUCKET/PATH`, `gs://BUCKET/PATH`, `az://CONTAINER/PATH` (its account in `AZURE_STORAGE_ACCOUNT_NAME`) or `file:///PATH`"
        )
    )]
    Url { url: String, problem: String },

    #[error("`{url}` needs a part of hairpin that this build leaves out")]
    #[diagnostic(code(store::feature), help("build with `cargo build --release --features cloud`"))]
    Feature { url: String },
}

impl StoreError {
    /// Whether the same may work later: a store comes back, credentials are renewed, rights are given.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Refused { .. })
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// The error and what caused it, in one line.
    #[must_use]
    pub fn with_cause(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}
