//! Uploading beside training: whole checkpoints, one after another, on a thread of its own. A store that is slow or out of order slows
//! nothing down until [`MOST_WAITING`] checkpoints wait for it; then training waits before it writes one more. One that takes nothing for as long as
//! [`Patience`] lasts ends the run, with all that was not uploaded in the run's folder here.
//!
//! The files of a checkpoint that waits have second names (hard links) in `uploads/`, so that it may go from the folder meanwhile.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use store::{Patience, Store, StoreError};

use super::{CheckpointError, Keep, retain, step_of};

/// So many wait beside the one that is on its way.
pub const MOST_WAITING: usize = 2;
/// How long a machine that is about to go is kept for what is on its way: a spot notice comes two minutes before.
const LAST_WAIT: Duration = Duration::from_secs(90);
const LINKS: &str = "uploads";

/// See the head of this file.
pub struct Uploader {
    folder: PathBuf,
    url: String,
    patience: Patience,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<String>,
    at_work: Option<String>,
    notes: Vec<String>,
    /// Whether it was said that training waits, since the store was abreast of it.
    is_told: bool,
    /// Why nothing is uploaded any more.
    failed: Option<StoreError>,
    is_closing: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uploader {
    /// Of checkpoints in `folder` to `store`, which a person calls `url`.
    #[must_use]
    pub fn start(folder: &Path, url: &str, store: Arc<dyn Store>, keep: Keep, patience: Patience) -> Self {
        // What a kill left: the checkpoints themselves are in the folder.
        let _ = fs::remove_dir_all(folder.join(LINKS));
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            folder: folder.to_owned(),
            url: url.to_owned(),
            store,
            keep,
            patience,
            shared: Arc::clone(&shared),
            sent: BTreeMap::new(),
        };
        std::thread::spawn(|| worker.run());
        Self { folder: folder.to_owned(), url: url.to_owned(), patience, shared }
    }

    /// Take a checkpoint to be uploaded.
    /// # Errors
    /// When nothing can be uploaded any more; when its files cannot be linked.
    pub fn submit(&self, path: &Path) -> Result<(), CheckpointError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to = self.folder.join(LINKS).join(&name);
        let _ = fs::remove_dir_all(&to);
        fs::create_dir_all(&to).map_err(CheckpointError::io("create", &to))?;
        for entry in fs::read_dir(path).map_err(CheckpointError::io("list", path))?.flatten() {
            fs::hard_link(entry.path(), to.join(entry.file_name())).map_err(CheckpointError::io("link", &entry.path()))?;
        }
        let mut state = self.shared.state();
        state.waiting.retain(|other| *other != name);
        state.waiting.push_back(name);
        if state.waiting.len() == MOST_WAITING && !state.is_told {
            state.is_told = true;
            let (url, most) = (&self.url, humane(self.patience.total));
            let note =
                format!("{MOST_WAITING} checkpoints wait for `{url}`: before one more is written, training waits for it, {most} at most");
            state.notes.push(note);
        }
        self.shared.changed.notify_all();
        self.failure(&state)
    }

    /// Wait while too many checkpoints wait already, and nobody wants to `stop`.
    /// # Errors
    /// When nothing can be uploaded any more.
    pub fn wait_for_room(&self, stop: &AtomicBool) -> Result<(), CheckpointError> {
        let mut state = self.shared.state();
        while state.waiting.len() >= MOST_WAITING && state.failed.is_none() && !stop.load(Ordering::Relaxed) {
            // A signal wakes nobody.
            state = self.shared.changed.wait_timeout(state, Duration::from_millis(200)).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.failure(&state)
    }

    /// What a person should read, since the last time.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state().notes)
    }

    /// How many are not uploaded.
    #[must_use]
    pub fn behind(&self) -> usize {
        let state = self.shared.state();
        state.waiting.len() + usize::from(state.at_work.is_some())
    }

    /// Wait until all is uploaded; where the machine `is_going`, for 90 seconds at most.
    /// # Errors
    /// When something is not.
    pub fn finish(&self, is_going: bool) -> Result<(), CheckpointError> {
        let mut state = self.shared.state();
        let is_pending = |state: &mut State| state.failed.is_none() && (state.at_work.is_some() || !state.waiting.is_empty());
        if is_going {
            let wait = self.shared.changed.wait_timeout_while(state, LAST_WAIT, is_pending);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        } else {
            state = self.shared.changed.wait_while(state, is_pending).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failed.is_none() && is_pending(&mut state) {
            let problem = format!("{} are over that it is waited for at the end", humane(LAST_WAIT));
            state.failed = Some(StoreError::Away { action: "upload to", place: self.url.clone(), problem });
        }
        self.failure(&state)
    }

    fn failure(&self, state: &State) -> Result<(), CheckpointError> {
        let cause = match &state.failed {
            None => return Ok(()),
            // Not for want of a store.
            Some(StoreError::Taken { place }) => return Err(StoreError::Taken { place: place.clone() }.into()),
            Some(error) => error.with_cause(),
        };
        let count = state.waiting.len() + usize::from(state.at_work.is_some());
        Err(CheckpointError::NotUploaded { folder: self.folder.clone(), url: self.url.clone(), count, cause })
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.shared.state().is_closing = true;
        self.shared.changed.notify_all();
    }
}

struct Worker {
    folder: PathBuf,
    url: String,
    store: Arc<dyn Store>,
    keep: Keep,
    patience: Patience,
    shared: Arc<Shared>,
    /// Bytes of each file beside the checkpoints, as they were put last.
    sent: BTreeMap<String, u64>,
}

impl Worker {
    fn run(mut self) {
        while let Some(name) = self.next() {
            let uploaded = self.upload(&name);
            let mut state = self.shared.state();
            match uploaded {
                Ok(()) => {
                    state.at_work = None;
                    let _ = fs::remove_dir_all(self.folder.join(LINKS).join(&name));
                }
                Err(error) => state.failed = Some(error),
            }
            let is_over = state.failed.is_some();
            self.shared.changed.notify_all();
            if is_over {
                return;
            }
        }
    }

    fn next(&self) -> Option<String> {
        let mut state = self.shared.state();
        loop {
            if state.is_closing {
                return None;
            }
            if let Some(name) = state.waiting.pop_front() {
                state.at_work = Some(name.clone());
                state.is_told &= !state.waiting.is_empty();
                self.shared.changed.notify_all();
                return Some(name);
            }
            state = self.shared.wait(state);
        }
    }

    fn upload(&mut self, name: &str) -> Result<(), StoreError> {
        let mut failures = 0_u64;
        let told = |error: &StoreError| {
            failures += 1;
            if failures == 1 {
                self.note(format!("{}; trying again for {}, training goes on", error.with_cause(), humane(self.patience.total)));
            }
        };
        let from = self.folder.join(LINKS).join(name);
        self.patience.try_for(|| self.store.publish(&from, name), told, |wait| self.sleep(wait))?;
        if failures > 0 {
            self.note(format!("`{name}` is in `{}` now, after {failures} failures", self.url));
        }
        // The checkpoint is there: what is left to do beside it is tried again with the next.
        if let Err(error) = self.tidy(name).and_then(|()| self.put_files()) {
            self.note(error.with_cause());
        }
        Ok(())
    }

    /// Remove older checkpoints, and what uploads left that were cut.
    fn tidy(&self, name: &str) -> Result<(), StoreError> {
        let Some(step) = step_of(Path::new(name)) else { return Ok(()) };
        retain::retain(&*self.store, self.keep, step)?;
        let older = |name: &String| step_of(Path::new(name)).is_some_and(|other| other < step);
        self.store.unfinished()?.iter().filter(|name| older(name)).try_for_each(|name| self.store.remove(name))
    }

    /// Put the run's other files: its recipe, its metrics.
    fn put_files(&mut self) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let (name, bytes) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata().map_or(0, |m| m.len()));
            let is_ours = name.starts_with('.') || name.ends_with(".lock") || !entry.path().is_file();
            if is_ours || self.sent.get(&name) == Some(&bytes) {
                continue;
            }
            if let Ok(all) = disk::read(&entry.path(), u64::MAX) {
                self.store.put(&name, all)?;
                self.sent.insert(name, bytes);
            }
        }
        Ok(())
    }

    fn note(&self, text: String) {
        self.shared.state().notes.push(text);
    }

    /// Whether somebody still waits when `wait` is over.
    fn sleep(&self, wait: Duration) -> bool {
        let state = self.shared.changed.wait_timeout_while(self.shared.state(), wait, |state| !state.is_closing);
        !state.unwrap_or_else(PoisonError::into_inner).0.is_closing
    }
}

fn humane(length: Duration) -> String {
    match length.as_secs() {
        secs @ ..120 => format!("{secs} s"),
        secs => format!("{} minutes", secs / 60),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };

    use store::Folder;

    use super::*;

    /// A store in a folder, that answers as its faults want.
    struct Faulty {
        inner: Folder,
        /// So many puts fail, each as `fault` says.
        failures: AtomicUsize,
        fault: fn() -> StoreError,
        is_open: AtomicBool,
    }

    fn away() -> StoreError {
        StoreError::Away { action: "put", place: "s3://bucket/run".into(), problem: "503 Slow Down".into() }
    }

    fn taken() -> StoreError {
        StoreError::Taken { place: "s3://bucket/run/step-00000001".into() }
    }

    impl Faulty {
        fn new(folder: &Path, failures: usize, fault: fn() -> StoreError) -> Arc<Self> {
            Arc::new(Self { inner: Folder::new(folder), failures: AtomicUsize::new(failures), fault, is_open: AtomicBool::new(true) })
        }
    }

    impl Store for Faulty {
        fn list(&self) -> Result<Vec<String>, StoreError> {
            self.inner.list()
        }
        fn unfinished(&self) -> Result<Vec<String>, StoreError> {
            self.inner.unfinished()
        }
        fn publish(&self, folder: &Path, name: &str) -> Result<(), StoreError> {
            while !self.is_open.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
            }
            if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                return Err((self.fault)());
            }
            self.inner.publish(folder, name)
        }
        fn fetch(&self, name: &str, to: &Path) -> Result<(), StoreError> {
            self.inner.fetch(name, to)
        }
        fn read(&self, name: &str, file: &str, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
            self.inner.read(name, file, limit_bytes)
        }
        fn remove(&self, name: &str) -> Result<(), StoreError> {
            self.inner.remove(name)
        }
        fn rename(&self, name: &str, to: &str) -> Result<(), StoreError> {
            self.inner.rename(name, to)
        }
        fn put(&self, file: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
            self.inner.put(file, bytes)
        }
        fn get(&self, file: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
            self.inner.get(file, limit_bytes)
        }
    }

    const KEEP: Keep = Keep { last: 2, stable_step: None };
    const PATIENCE: Patience = Patience { total: Duration::from_millis(300), wait: Duration::from_millis(1) };
    static GO_ON: AtomicBool = AtomicBool::new(false);

    /// A run's folder with checkpoints of these steps, of which the first is the best.
    fn run(steps: &[u64]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for step in steps {
            let mut snapshot = crate::checkpoint::tests::snapshot(*step);
            snapshot.held_out = Some(crate::metric::Metric::bits_per_byte(if *step == steps[0] { 1.0 } else { 2.0 }));
            crate::checkpoint::write(folder.path(), &snapshot).unwrap();
        }
        fs::write(folder.path().join("metrics.jsonl"), "{}\n").unwrap();
        folder
    }

    fn path(run: &tempfile::TempDir, step: u64) -> PathBuf {
        run.path().join(crate::checkpoint::folder_name(step))
    }

    #[test]
    fn through_faults_all_come_in_order_and_older_ones_go_but_the_best() {
        let (run, bucket) = (run(&[1, 2, 3, 4]), tempfile::tempdir().unwrap());
        let uploader = Uploader::start(run.path(), "s3://bucket/run", Faulty::new(bucket.path(), 3, away), KEEP, PATIENCE);
        for step in 1..=4 {
            uploader.submit(&path(&run, step)).unwrap();
            // It may go from the folder at once.
            fs::remove_dir_all(path(&run, step)).unwrap();
            uploader.wait_for_room(&GO_ON).unwrap();
        }
        uploader.finish(false).unwrap();
        let store = Folder::new(bucket.path());
        assert_eq!(store.list().unwrap(), ["step-00000001", "step-00000003", "step-00000004"]);
        for name in store.list().unwrap() {
            crate::checkpoint::read(&bucket.path().join(name)).unwrap();
        }
        assert_eq!(store.get("metrics.jsonl", 9).unwrap().unwrap(), b"{}\n");
        let notes = uploader.notes().join("\n");
        assert!(notes.contains("503 Slow Down; trying again") && notes.contains("after 3 failures"), "{notes}");
    }

    #[test]
    fn what_is_never_taken_is_told_in_time_and_stays_here() {
        for (fault, failures) in [(away as fn() -> StoreError, usize::MAX), (taken, 1)] {
            let (run, bucket) = (run(&[1]), tempfile::tempdir().unwrap());
            let uploader = Uploader::start(run.path(), "s3://bucket/run", Faulty::new(bucket.path(), failures, fault), KEEP, PATIENCE);
            uploader.submit(&path(&run, 1)).unwrap();
            let told = uploader.finish(false).unwrap_err();
            let is_taken = matches!(&told, CheckpointError::Store(StoreError::Taken { .. }));
            assert!(is_taken || matches!(&told, CheckpointError::NotUploaded { count: 1, .. }), "{told}");
            assert!(told.to_string().contains(&fault().to_string()), "{told}");
            assert!(uploader.submit(&path(&run, 1)).is_err());
            crate::checkpoint::read(&path(&run, 1)).unwrap();
        }
    }

    #[test]
    fn a_store_that_stands_still_holds_training_up_from_a_bound_on_and_never_one_that_stops() {
        let (run, bucket) = (run(&[1, 2, 3, 4]), tempfile::tempdir().unwrap());
        let store = Faulty::new(bucket.path(), 0, away);
        store.is_open.store(false, Ordering::Relaxed);
        let uploader = Uploader::start(run.path(), "s3://bucket/run", Arc::clone(&store) as Arc<dyn Store>, KEEP, PATIENCE);
        let taken = |uploader: &Uploader| uploader.shared.state().at_work.is_some();
        uploader.submit(&path(&run, 1)).unwrap();
        while !taken(&uploader) {
            std::thread::yield_now();
        }
        let began = Instant::now();
        for step in 2..=3 {
            uploader.wait_for_room(&GO_ON).unwrap();
            uploader.submit(&path(&run, step)).unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(5), "nobody waits below the bound");
        let notes = uploader.notes().join("\n");
        assert!(notes.contains("2 checkpoints wait for `s3://bucket/run`"), "{notes}");
        uploader.wait_for_room(&AtomicBool::new(true)).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| uploader.wait_for_room(&GO_ON));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waits.is_finished(), "at the bound training waits");
            store.is_open.store(true, Ordering::Relaxed);
            waits.join().unwrap().unwrap();
        });
        uploader.finish(false).unwrap();
        assert_eq!(uploader.behind(), 0);
    }
}
