//! What tests of training share: a recipe over a folder of pictures, a run that stops, and the bits of what was learnt.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use train::{checkpoint, metrics::StepMetrics, recipe::Recipe, run::Observer};

/// A recipe of `rest` over `pictures`, in f32 and in four lanes.
pub fn recipe(pictures: &Path, rest: &str, set: &[&str]) -> Recipe {
    let text = format!(
        "[data]\npath = {:?}\n[batch]\nlanes = 4\n[train]\nprecision = \"f32\"\n[schedule]\nwarmup_steps = 5\n[eval]\nwindows = 16\n\
         [guard]\naction = \"off\"\n{rest}\n",
        pictures.display().to_string()
    );
    Recipe::parse(&text, "test", &set.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
}

/// The bits of all that a run has learnt.
pub fn weights(run: &Path) -> Vec<Vec<u32>> {
    let (_, snapshot, _) = checkpoint::latest_whole(run).unwrap().unwrap();
    snapshot.tensors.into_iter().map(|tensor| tensor.values.into_iter().map(f32::to_bits).collect()).collect()
}

pub struct StopAfter<'a>(pub u64, pub &'a AtomicBool);

impl Observer for StopAfter<'_> {
    fn step(&mut self, metrics: &StepMetrics, _steps: u64) {
        if metrics.step >= self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn note(&mut self, _text: &str) {}
}
