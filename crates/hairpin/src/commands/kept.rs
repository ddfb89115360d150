//! Where jobs are kept, as an argument.

use std::path::{Path, PathBuf};

use ::launch::{LaunchError, store::Store};

/// Where jobs are kept.
#[derive(clap::Args)]
pub(crate) struct StoreArgs {
    /// Folder in which jobs are kept
    #[arg(long, value_name = "FOLDER", default_value = "jobs")]
    pub(super) store: PathBuf,
}

impl StoreArgs {
    pub(super) fn open(&self) -> Result<Store, LaunchError> {
        Store::open(&self.store)
    }

    /// What a command needs to find the same store.
    pub(super) fn told(&self) -> String {
        if self.store == Path::new("jobs") { String::new() } else { format!(" --store {}", self.store.display()) }
    }
}
