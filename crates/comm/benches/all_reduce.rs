//! Time of an all-reduce among ranks of this machine: `cargo bench -p comm --bench all_reduce`, with `--features mpi` for
//! processes too.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::Instant;

use comm::{Communicator, Group, Job, Order, Threads};
use memory::Numbers;

/// Numbers in the array: a loss, a bias, a matrix, a block of a 124M model.
const LENGTHS: [usize; 4] = [1, 1 << 10, 1 << 18, 7 << 20];
const ROUNDS: usize = 30;

fn main() {
    #[cfg(feature = "mpi")]
    if let Some(comm) = comm::Mpi::world().expect("MPI begins") {
        return run("processes", Box::new(comm));
    }
    println!("{:10} {:>5} {:>6} {:>10} {:>12} {:>9}", "ranks", "n", "order", "numbers", "median us", "GB/s");
    for ranks in [2, 4] {
        std::thread::scope(|scope| {
            for comm in Threads::group(ranks) {
                scope.spawn(|| run("threads", Box::new(comm)));
            }
        });
    }
    #[cfg(feature = "mpi")]
    for ranks in ["2", "4"] {
        let me = std::env::current_exe().expect("this program has a path");
        let mut mpirun = std::process::Command::new("mpirun");
        drop(mpirun.args(["--allow-run-as-root", "--oversubscribe", "-n", ranks]).arg(me).status());
    }
}

fn run(what: &str, comm: Box<dyn Communicator>) {
    let mut group = Group::new(comm);
    for order in [Order::Tree, Order::Any] {
        for len in LENGTHS {
            let mut array = Numbers::from(vec![1.0; len]);
            let mut secs: Vec<f64> = (0..ROUNDS)
                .map(|_| {
                    let since = Instant::now();
                    array = group.run(Job::AllReduce(std::mem::take(&mut array), order)).expect("all ranks are here");
                    since.elapsed().as_secs_f64()
                })
                .collect();
            secs.sort_by(f64::total_cmp);
            let median = secs[ROUNDS / 2];
            if group.rank() == 0 {
                let rate = 4.0 * len as f64 / median / 1e9;
                println!("{what:10} {:>5} {order:>6?} {len:>10} {:>12.1} {rate:>9.2}", group.ranks(), median * 1e6);
            }
        }
    }
}
