//! The ranks of a job: threads of this process, or the processes that `mpirun` started, of which this is one.
//!
//! ```text
//! hairpin train RECIPE --set parallel.ranks=4     4 threads here, each with a pool of its own for its loops
//! mpirun -n 4 hairpin train RECIPE                4 processes, one rank each
//! ```

use comm::{Communicator, Solo, Threads};

use crate::{
    TrainError,
    recipe::{MOST_THREADS, Recipe},
};

/// What a rank needs to have a part in a job.
pub type Comm = Box<dyn Communicator>;

/// Whether this process speaks for the job: of those that `mpirun` started, the first.
#[must_use]
pub fn is_first() -> bool {
    comm::launched().is_none_or(|launched| launched.rank == 0)
}

/// How many ranks `mpirun` started, of which this process is one.
#[must_use]
pub fn launched_ranks() -> Option<usize> {
    comm::launched().map(|launched| launched.ranks)
}

/// The last thing that a process does, when it has said what there is to say: see `comm::farewell` (feature `mpi`).
pub fn farewell() {
    #[cfg(feature = "mpi")]
    comm::farewell();
}

/// Run `first` on rank 0 and `other` on every other; what the first returned, or the error of whichever rank is its cause.
/// In a job of several processes it is this one's own rank.
/// # Errors
/// Those of a rank; when the recipe asks for other ranks than were started.
pub fn run<T: Send>(
    recipe: &Recipe,
    first: impl FnOnce(Comm) -> Result<T, TrainError> + Send,
    other: impl Fn(Comm) -> Result<T, TrainError> + Sync,
) -> Result<T, TrainError> {
    let ranks = recipe.parallel.ranks;
    let threads = recipe.train.threads.unwrap_or_else(rayon::current_num_threads);
    if let Some(comm) = launched(ranks)? {
        let is_first = comm.rank() == 0;
        let here = if recipe.train.threads.is_some() { threads } else { (threads / comm.ranks_on_machine()).max(1) };
        return in_pool(here, || if is_first { first(comm) } else { other(comm) });
    }
    let each = (threads / ranks).max(1);
    if ranks > MOST_THREADS {
        let problem = format!("{ranks} ranks are more than the {MOST_THREADS} threads of one process");
        return Err(TrainError::Value { key: "parallel.ranks", problem, help: "start them as processes, with `mpirun`".into() });
    }
    if ranks == 1 {
        return in_pool(each, || first(Box::new(Solo)));
    }
    let mut comms = Threads::group(ranks);
    let comm = comms.remove(0);
    let on_rank = |comm: Threads| in_pool(each, || other(Box::new(comm)));
    let mut results: Vec<Result<T, TrainError>> = std::thread::scope(|scope| {
        let on_rank = &on_rank;
        let others: Vec<_> = comms.into_iter().map(|comm| scope.spawn(move || on_rank(comm))).collect();
        let mut results = vec![in_pool(each, || first(Box::new(comm)))];
        results.extend(others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
        results
    });
    // The rank that failed says why; the others only say that it did. Where none failed, the first speaks for all.
    let is_echo = |result: &Result<_, _>| matches!(result, Err(TrainError::Rank { .. } | TrainError::Engine(engine::EngineError::Rank(_))));
    let failed = results.iter().position(|result| result.is_err() && !is_echo(result));
    let at = failed.or_else(|| results.iter().position(Result::is_err)).unwrap_or(0);
    results.swap_remove(at)
}

/// Everything of a rank lives on one thread of the pool whose threads share its loops.
fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> Result<T, TrainError> + Send) -> Result<T, TrainError> {
    let wrong = |e: rayon::ThreadPoolBuildError| TrainError::Value {
        key: "train.threads",
        problem: e.to_string(),
        help: "use fewer threads".into(),
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(wrong)?.install(work)
}

/// This process as a rank, where `mpirun` started it.
fn launched(ranks: usize) -> Result<Option<Comm>, TrainError> {
    let Some(started) = launched_ranks() else { return Ok(None) };
    let wrong = |problem: String, help: String| TrainError::Value { key: "parallel.ranks", problem, help };
    if started != ranks {
        let problem = format!("mpirun started {started} processes for {ranks} ranks");
        return Err(wrong(problem, format!("add `--set parallel.ranks={started}`, or start {ranks}")));
    }
    #[cfg(feature = "mpi")]
    {
        let world = comm::Mpi::world().map_err(engine::EngineError::rank)?;
        Ok(world.map(|comm| Box::new(comm) as Comm))
    }
    #[cfg(not(feature = "mpi"))]
    Err(wrong(
        format!("mpirun started {started} processes, and this program is built without MPI"),
        "build it with `--features mpi`".into(),
    ))
}
