//! Which checkpoints stay, in a folder as in a store.

use std::path::Path;

use store::{Store, StoreError};

use super::{Manifest, read, step_of};
use crate::recipe::Recipe;

/// Which checkpoints stay.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// So many of the newest.
    pub last: usize,
    /// The one of this step: the last before the learning rate comes down.
    pub stable_step: Option<u64>,
}

/// The checkpoints that are published in a store, oldest first.
pub(super) fn published(store: &dyn Store) -> Result<Vec<(u64, String)>, StoreError> {
    let mut all: Vec<_> = store.list()?.into_iter().filter_map(|name| Some((step_of(Path::new(&name))?, name))).collect();
    all.sort();
    Ok(all)
}

/// Of the checkpoints up to the one of `step`, which is whole, remove all but those that `keep` names and the best by held-out
/// loss. Later ones are damaged or of another future: nothing is known of them.
pub(super) fn retain(store: &dyn Store, keep: Keep, step: u64) -> Result<(), StoreError> {
    let all: Vec<_> = published(store)?.into_iter().filter(|(other, _)| *other <= step).collect();
    let old = all.len().saturating_sub(keep.last.max(1));
    if old == 0 {
        return Ok(());
    }
    let best = best(store, &all);
    for (step, name) in all.iter().take(old) {
        if best != Some(*step) && keep.stable_step != Some(*step) {
            store.remove(name)?;
        }
    }
    Ok(())
}

/// The step of the checkpoint with the best held-out metric, of those measured on as many windows as the newest; of equal ones
/// the later.
fn best(store: &dyn Store, all: &[(u64, String)]) -> Option<u64> {
    let measured = |(step, name): &(u64, String)| {
        let manifest: Manifest = read::manifest_in(store, name).ok()?;
        let windows = Recipe::parse(&manifest.recipe, "", &[]).ok().map(|recipe| recipe.eval.windows);
        Some((*step, manifest.held_out.filter(|metric| metric.value.is_finite())?, windows))
    };
    let measured: Vec<_> = all.iter().filter_map(measured).collect();
    let windows = measured.last()?.2;
    let comparable = measured.into_iter().filter(|(.., other)| *other == windows);
    comparable.reduce(|best, one| if best.1.is_better_than(&one.1) { best } else { one }).map(|(step, ..)| step)
}
