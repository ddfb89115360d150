//! Where a run lives: a folder, or a URL and the folder of this machine that belongs to it. What is published under the URL is the run; the
//! folder holds what was written last, and what was fetched to go on from.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};

use store::{Patience, Store, StoreError};

use super::{CheckpointError, Keep, Manifest, Uploader, all_damaged, list, manifest, retain};
use crate::{TrainError, ranks, recipe::Recipe};

/// Of the files beside checkpoints that a run goes on with.
const FILES: [&str; 2] = ["recipe.toml", "metrics.jsonl"];
const FILE_BYTES: u64 = 16 << 30;

/// See the head of this file.
pub struct Place {
    folder: PathBuf,
    remote: Option<Remote>,
}

struct Remote {
    url: String,
    store: Arc<dyn Store>,
}

impl Place {
    /// # Errors
    /// When `out` is a URL that this build or this machine cannot use.
    pub fn of(out: &Path) -> Result<Self, CheckpointError> {
        if !store::is_url(out) {
            return Ok(Self { folder: out.to_owned(), remote: None });
        }
        let url = out.to_string_lossy().trim_end_matches('/').to_owned();
        let store = Arc::from(store::open(Path::new(&url))?);
        Ok(Self { folder: store::cache(&url), remote: Some(Remote { url, store }) })
    }

    /// The folder of this machine.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The URL, if it is at one.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        self.remote.as_ref().map(|remote| remote.url.as_str())
    }

    /// Before a run of `steps` begins: fetch what it goes on from, or with no `resume` make sure that there is no run.
    /// # Errors
    /// [`TrainError::Exists`]; when the store cannot be read, or all checkpoints there are damaged.
    pub fn prepare(&self, resume: bool, steps: u64, note: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
        let Some(Remote { url, store }) = &self.remote else { return Ok(()) };
        let published = retain::published(&**store).map_err(CheckpointError::from)?;
        if !resume {
            return match published.last() {
                Some((step, _)) => Err(TrainError::Exists { folder: url.into(), step: *step }),
                None => Ok(()),
            };
        }
        note(&format!("`{url}` is kept in `{}` on this machine", self.folder.display()));
        let _lock = store::lock(&self.folder).map_err(CheckpointError::from)?;
        let newest = published.last().map(|(step, _)| *step);
        self.fetch(published, &|manifest| of_as_many_steps(manifest, steps), note)?;
        if ranks::launched_ranks().is_some() {
            self.leave_out_after(newest, note)?;
        }
        Ok(())
    }

    /// Fetch the newest whole checkpoint, and older ones until one `is_enough`.
    fn fetch(
        &self,
        published: Vec<(u64, String)>,
        is_enough: &dyn Fn(&Manifest) -> bool,
        note: &mut dyn FnMut(&str),
    ) -> Result<(), CheckpointError> {
        let Some(Remote { store, .. }) = &self.remote else { return Ok(()) };
        let (mut damaged, mut count) = (Vec::new(), 0);
        for (_, name) in published.iter().rev() {
            let to = self.folder.join(name);
            let fetched = match self.is_same(name, &to) {
                Ok(true) => Ok(()),
                Ok(false) => store.fetch(name, &to),
                Err(error) => Err(error),
            };
            match fetched {
                Ok(()) => count += 1,
                Err(error @ (StoreError::Damaged { .. } | StoreError::Missing { .. })) => {
                    note(&format!("{}; going back to an earlier one", error.with_cause()));
                    damaged.push(error.into());
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            if manifest(&to).is_ok_and(|manifest| is_enough(&manifest)) {
                break;
            }
        }
        if count == 0 && !damaged.is_empty() && list(&self.folder).is_empty() {
            return Err(all_damaged(Path::new(self.url().unwrap_or_default()), &damaged));
        }
        for file in FILES {
            let path = self.folder.join(file);
            if !path.exists()
                && let Some(bytes) = store.get(file, FILE_BYTES)?
            {
                disk::write(&path, bytes).map_err(CheckpointError::io("write", &path))?;
            }
        }
        Ok(())
    }

    /// Whether the checkpoint in `folder` is the one that is published as `name`.
    fn is_same(&self, name: &str, folder: &Path) -> Result<bool, StoreError> {
        let Some(Remote { store, .. }) = &self.remote else { return Ok(true) };
        let here = disk::read(&folder.join("manifest.blake3"), 1 << 10).ok();
        Ok(here.is_some() && here == Some(store.read(name, "manifest.blake3", 1 << 10)?) && super::read::is_whole(folder))
    }

    /// Ranks on other machines see what is published, and no more: what is here alone steps aside.
    fn leave_out_after(&self, newest: Option<u64>, note: &mut dyn FnMut(&str)) -> Result<(), TrainError> {
        for (_, path) in list(&self.folder).into_iter().filter(|(step, _)| newest.is_none_or(|newest| *step > newest)) {
            let aside = self.folder.join("not-uploaded");
            std::fs::create_dir_all(&aside).map_err(TrainError::io("create", &aside))?;
            let to = aside.join(path.file_name().unwrap_or_default());
            let _ = std::fs::remove_dir_all(&to);
            std::fs::rename(&path, &to).map_err(TrainError::io("set aside", &path))?;
            note(&format!("`{}` was not uploaded: it is kept there, and all ranks go on from what was", to.display()));
        }
        Ok(())
    }

    /// What uploads the checkpoints of this run, where they go to a store.
    #[must_use]
    pub fn uploader(&self, keep: Keep) -> Option<Uploader> {
        let Remote { url, store } = self.remote.as_ref()?;
        Some(Uploader::start(&self.folder, url, Arc::clone(store), keep, Patience::default()))
    }

    /// Put the recipe that a run begins or goes on with: a store that refuses says so before there is anything to lose.
    /// # Errors
    /// When it does.
    pub fn begin(&self, recipe: &str) -> Result<(), CheckpointError> {
        let Some(Remote { store, .. }) = &self.remote else { return Ok(()) };
        Ok(store.put(FILES[0], recipe.as_bytes().to_vec())?)
    }

    /// The newest checkpoint of the folder, if it is not published.
    /// # Errors
    /// When the store cannot be read.
    pub fn ahead(&self) -> Result<Option<PathBuf>, CheckpointError> {
        let (Some(Remote { store, .. }), Some((step, path))) = (&self.remote, list(&self.folder).pop()) else { return Ok(None) };
        let newest = retain::published(&**store)?.pop().map(|(step, _)| step);
        Ok((newest < Some(step)).then_some(path))
    }

    /// Move a published checkpoint under another name.
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self, name: &str, to: &str) -> Result<(), CheckpointError> {
        match &self.remote {
            Some(Remote { store, .. }) if store.list()?.iter().any(|other| other == name) => Ok(store.rename(name, to)?),
            _ => Ok(()),
        }
    }
}

fn of_as_many_steps(manifest: &Manifest, steps: u64) -> bool {
    Recipe::parse(&manifest.recipe, "a checkpoint", &[]).is_ok_and(|recipe| recipe.train.steps == steps)
}

/// `path` itself, or, where it is the URL of a run, its folder here with the newest whole checkpoint; of a checkpoint, an export or
/// anything else that is published at it, a folder with that.
/// # Errors
/// When there is nothing, or it cannot be read.
pub fn here(path: &Path) -> Result<Cow<'_, Path>, CheckpointError> {
    let place = Place::of(path)?;
    let Some(Remote { store, .. }) = &place.remote else { return Ok(Cow::Borrowed(path)) };
    let published = retain::published(&**store)?;
    if published.is_empty() {
        return Ok(store::here(path)?);
    }
    let _lock = store::lock(&place.folder)?;
    place.fetch(published, &|_| true, &mut |_| {})?;
    Ok(Cow::Owned(place.folder))
}
