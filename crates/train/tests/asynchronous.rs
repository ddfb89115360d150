//! Workers that do not wait: the bound on staleness holds, the loss falls, workers leave and join.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use comm::{Communicator, Threads};
use engine::Inputs;
use train::{asynchronous::Worker, eval::inputs_of, recipe::Recipe, step::StepOptions};

const CONTEXT: usize = 16;

fn worker(comm: Threads, staleness: u64) -> Worker {
    let text = format!(
        "[model]\ndepth = 2\nvocab = 97\ncontext = {CONTEXT}\n[batch]\nsequences = 2\nlanes = 2\nmicro_batch = 1\ncontext = {CONTEXT}\n\
         [train]\nprecision = \"f32\"\n[optim]\nkind = \"adamw\"\n"
    );
    let recipe = Recipe::parse(&text, "test", &[]).unwrap();
    let model = models::build(&recipe.model).unwrap();
    Worker::new(model, StepOptions::of(&recipe), Box::new(comm), staleness).unwrap()
}

/// Two lanes of sequences that count upwards from a place drawn: there is something to learn.
fn lanes(rank: usize, step: u64) -> Vec<Vec<Inputs>> {
    let sequence = |lane: u64| {
        let from = engine::mix(step * 64 + rank as u64 * 8 + lane);
        (0..=CONTEXT as u64).map(|i| ((from + i) % 97) as u32).collect()
    };
    (0..2).map(|lane| vec![inputs_of(&[sequence(lane)])]).collect()
}

fn step(worker: &mut Worker, rank: usize) -> f32 {
    let lanes = lanes(rank, worker.servers().step());
    worker.step(&lanes, 2 * CONTEXT as u64, 1.0).unwrap().loss
}

fn on_ranks<T: Send>(ranks: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = Threads::group(ranks).into_iter().map(|comm| scope.spawn(move || work(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn no_worker_is_further_ahead_than_the_bound_and_the_loss_falls() {
    for staleness in [0, 1, 3] {
        let seen = on_ranks(4, |comm| {
            let rank = comm.rank();
            let mut worker = worker(comm, staleness);
            let losses: Vec<f32> = (0..40)
                .map(|_| {
                    if rank == 0 {
                        // The slow one, on whom the others could run ahead for ever.
                        std::thread::sleep(Duration::from_millis(15));
                    }
                    step(&mut worker, rank)
                })
                .collect();
            let (first, last) = (losses[0], losses[30..].iter().sum::<f32>() / 10.0);
            assert!(last < 0.8 * first, "staleness {staleness}, rank {rank}: loss {first} to {last}");
            worker.servers().most_stale()
        });
        let most = seen.iter().copied().max().unwrap();
        assert!(most <= staleness, "{most} steps ahead where {staleness} are allowed");
        assert!(staleness == 0 || most > 0, "asynchronous in name only: nobody was ever ahead");
    }
}

#[test]
fn a_worker_that_leaves_stops_nobody_and_one_that_joins_catches_up() {
    const STEPS: u64 = 30;
    let others_at = AtomicU64::new(0);
    let steps = on_ranks(3, |comm| {
        let rank = comm.rank();
        let mut worker = worker(comm, 1);
        let first = step(&mut worker, rank);
        if rank == 2 {
            worker.leave().unwrap();
            while others_at.load(SeqCst) < 20 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let joined = worker.join().unwrap();
            assert!(joined >= 18, "it begins where the slowest is, at {joined}");
            let again = step(&mut worker, rank);
            assert!(again < first, "it has what the others learnt: loss {first} to {again}");
        }
        while worker.servers().step() < STEPS {
            step(&mut worker, rank);
            if rank == 0 {
                others_at.fetch_max(worker.servers().step(), SeqCst);
            }
        }
        worker.servers().step()
    });
    assert_eq!(steps, [STEPS; 3]);
}
