//! Threads keep the promises of every communicator, and find who is at fault.

mod suite;

use std::time::{Duration, Instant};

use comm::{CommError, Communicator, Group, Job, Order, Patience, Solo, Threads, by_machine};

/// Run `work` on every rank of a group and give what each returned.
fn on_ranks<T: Send>(group: Vec<Threads>, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = group.into_iter().map(|comm| scope.spawn(move || work(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn threads_keep_every_promise() {
    for ranks in suite::RANKS {
        on_ranks(Threads::group(ranks), |comm| suite::promises(Box::new(comm)));
    }
}

#[test]
fn levels_keep_every_promise() {
    for (ranks, on_machine) in [(4, 2), (6, 2), (8, 2), (8, 4), (12, 4)] {
        on_ranks(Threads::on_machines(ranks, on_machine), |comm| {
            assert_eq!(comm.ranks_on_machine(), on_machine);
            suite::promises(by_machine(Box::new(comm)).unwrap());
        });
    }
}

#[test]
fn a_long_sum_in_levels_has_the_bits_of_one_without() {
    let sum = |on_machine| {
        on_ranks(Threads::on_machines(8, on_machine), |comm| {
            let mut data: Vec<f32> = (0..300_001).map(|i| 1.0 / (0.3 + (comm.rank() * 31 + i % 977) as f32)).collect();
            by_machine(Box::new(comm)).unwrap().all_reduce(&mut data, Order::Tree).unwrap();
            data.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        })
    };
    let flat = sum(8);
    assert!(sum(2) == flat && sum(4) == flat);
}

#[test]
fn a_rank_alone_keeps_every_promise() {
    suite::promises(Box::new(Solo));
}

fn named(result: Result<(), CommError>) -> Option<(usize, &'static str)> {
    result.err().map(|error| (error.rank, error.operation))
}

const SHORT: Patience = Patience { beat: Duration::from_millis(300), silent: Duration::from_mins(1) };

#[test]
fn a_rank_that_ends_early_is_named_to_all_who_wait() {
    let results = on_ranks(Threads::group(4), |mut comm| {
        if comm.rank() == 2 {
            return None;
        }
        named(comm.all_reduce(&mut [1.0], Order::Tree))
    });
    let due = Some((2, "all_reduce"));
    assert_eq!(results, [due, due, None, due]);
}

#[test]
fn the_cause_is_named_to_those_who_wait_for_its_victims() {
    let results = on_ranks(Threads::group(4), |mut comm| {
        let rank = comm.rank();
        let mut pair = comm.split(rank / 2).unwrap();
        match rank {
            3 => None, // ends; 2 waits for it, and 0 and 1 for 2
            2 => named(pair.all_reduce(&mut [1.0], Order::Tree)),
            _ => named(comm.recv(2, &mut [0.0])),
        }
    });
    assert_eq!(results, [Some((3, "recv")), Some((3, "recv")), Some((3, "all_reduce")), None]);
}

#[test]
fn a_rank_that_calls_another_length_is_named_by_all() {
    let results = on_ranks(Threads::group(4), |mut comm| {
        let len = if comm.rank() == 1 { 5 } else { 6 };
        named(comm.all_reduce(&mut vec![1.0; len], Order::Tree))
    });
    assert_eq!(results, [Some((1, "all_reduce")); 4]);
}

#[test]
fn a_rank_that_calls_something_else_is_named_by_all() {
    let results = on_ranks(Threads::group(3), |mut comm| {
        if comm.rank() == 2 {
            return named(comm.broadcast(0, &mut [1.0]));
        }
        named(comm.all_reduce(&mut [1.0], Order::Tree))
    });
    assert_eq!(results, [Some((2, "all_reduce")), Some((2, "all_reduce")), Some((2, "broadcast"))]);
}

#[test]
fn a_rank_that_hangs_is_named_though_another_works_for_long() {
    let start = Instant::now();
    let results = on_ranks(Threads::patient(4, SHORT), |mut comm| {
        let pulse = comm.pulse();
        let _held = pulse.hold();
        match comm.rank() {
            // Works for longer than the patience, with signs of life.
            0 => {
                while start.elapsed() < Duration::from_millis(900) {
                    pulse.beat();
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            // Hangs until the others have ended.
            1 => std::thread::sleep(Duration::from_secs(3)),
            _ => {}
        }
        (named(comm.all_reduce(&mut [1.0], Order::Tree)), start.elapsed())
    });
    for rank in [0, 2, 3] {
        let (named, elapsed) = &results[rank];
        assert_eq!(*named, Some((1, "all_reduce")), "rank {rank}");
        assert!(*elapsed < Duration::from_secs(2), "rank {rank} knew after {elapsed:?}");
    }
}

#[test]
fn slow_work_with_signs_of_life_is_waited_for() {
    let sums = on_ranks(Threads::patient(3, SHORT), |mut comm| {
        let pulse = comm.pulse();
        let _held = pulse.hold();
        if comm.rank() == 0 {
            for _ in 0..100 {
                pulse.beat();
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let mut data = [1.0];
        comm.all_reduce(&mut data, Order::Tree).map(|()| data[0]).ok()
    });
    assert_eq!(sums, [Some(3.0); 3]);
}

#[test]
fn long_work_outside_a_step_is_waited_for_without_signs() {
    let sums = on_ranks(Threads::patient(2, SHORT), |mut comm| {
        if comm.rank() == 0 {
            std::thread::sleep(Duration::from_millis(800));
        }
        let mut data = [1.0];
        comm.all_reduce(&mut data, Order::Tree).map(|()| data[0]).ok()
    });
    assert_eq!(sums, [Some(2.0); 2]);
}

#[test]
fn ranks_that_wait_for_one_another_are_told() {
    let results = on_ranks(Threads::patient(2, SHORT), |mut comm| {
        let _held = comm.pulse().hold();
        let other = 1 - comm.rank();
        comm.recv(other, &mut [0.0]).unwrap_err()
    });
    for error in results {
        assert!(error.problem.contains("all ranks wait"), "{error}");
    }
}

#[test]
fn a_message_of_another_length_is_an_error() {
    let results = on_ranks(Threads::group(2), |mut comm| {
        if comm.rank() == 0 {
            return named(comm.send(1, &[1.0, 2.0]));
        }
        named(comm.recv(0, &mut [0.0]))
    });
    assert_eq!(results, [None, Some((0, "recv"))]);
}

#[test]
fn a_group_gives_the_error_of_the_job_that_failed() {
    let results = on_ranks(Threads::group(2), |comm| {
        if comm.rank() == 1 {
            return None;
        }
        let mut group = Group::new(Box::new(comm));
        let jobs: Vec<_> = (0..3).map(|_| group.start(Job::AllReduce(vec![1.0].into(), Order::Tree))).collect();
        Some(jobs.into_iter().map(|ticket| group.wait(ticket).unwrap_err().rank).collect::<Vec<_>>())
    });
    assert_eq!(results, [Some(vec![1, 1, 1]), None]);
}
