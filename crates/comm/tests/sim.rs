//! The simulated cluster keeps the promises of every communicator where it carries numbers, and its clock overlaps, waits
//! and meets as it says.

mod suite;

use comm::{
    Communicator, Group, Job, Order, by_machine,
    sim::{Algorithm, Clock, Link, Prices, Settings, Sim, Topology},
};
use memory::Numbers;

/// Round figures, so that sums can be done by hand: 1 byte a second inside, half across a node, hops of no time.
fn plain(nodes: usize, devices: usize) -> Topology {
    let link = |bytes_per_sec| Link { bytes_per_sec, hop_secs: [None, None, Some(0.0)] };
    Topology { nodes, devices, inside: link(1.0), across: link(0.5), switch_share: 0.0 }
}

fn settings() -> Settings {
    Settings { bytes_per_element: 1.0, algorithms: vec![Algorithm::Ring], contention: 0.0 }
}

/// What a chunked transfer costs before its first byte.
const BASE: f64 = 8.4e-6;

#[track_caller]
fn is(secs: f64, due: f64) {
    assert!((secs - due).abs() < 1e-3, "{secs} s where {due} s are due");
}

#[test]
fn numbers_over_a_simulated_network_keep_every_promise() {
    for (nodes, devices) in suite::RANKS.map(|ranks| if ranks % 2 == 0 { (2, ranks / 2) } else { (1, ranks) }) {
        std::thread::scope(|scope| {
            for comm in Sim::with_data(plain(nodes, devices), settings()) {
                scope.spawn(|| suite::promises(Box::new(comm)));
            }
        });
    }
}

fn gather(len: usize) -> Job {
    Job::AllGather(Numbers::Counted(len / 4), len)
}

#[test]
fn transfers_hide_behind_compute_and_only_the_rest_is_exposed() {
    let sim = Sim::new(plain(1, 4), settings(), |_| 0);
    let comm = sim.rank(0);
    let clock = comm.clock();
    let mut group = Group::new(Box::new(comm));
    // An all-gather of 400 bytes moves 300 at 1 byte a second.
    let first = group.start(gather(400));
    clock.compute(200.0);
    assert_eq!(group.wait(first).unwrap().len(), 400);
    is(clock.times().now_secs, 300.0);
    is(clock.times().exposed_secs, 100.0);
    // Two at once share the stream, one after the other.
    let (second, third) = (group.start(gather(400)), group.start(gather(400)));
    clock.compute(450.0);
    group.wait(second).unwrap();
    is(clock.times().now_secs, 750.0);
    group.wait(third).unwrap();
    is(clock.times().now_secs, 900.0);
    is(clock.times().compute_secs, 650.0);
    is(group.traffic().exposed_secs, 250.0);
    is(group.traffic().busy_secs, 900.0);
}

#[test]
fn compute_is_slower_beside_a_collective_and_only_there() {
    let sim = Sim::new(plain(1, 4), Settings { contention: 0.5, ..settings() }, |_| 0);
    let comm = sim.rank(0);
    let clock = comm.clock();
    let mut group = Group::new(Box::new(comm));
    let job = group.start(gather(400));
    // For 300 s at half the speed, which leaves 50 of 200.
    clock.compute(200.0);
    is(clock.times().now_secs, 350.0);
    group.wait(job).unwrap();
    is(clock.times().exposed_secs, 0.0);
    clock.compute(10.0);
    is(clock.times().now_secs, 360.0);
    // Across, one device of each node: an eighth of the rate inside takes a sixteenth, for all of 160 s.
    let sim = Sim::new(plain(2, 4), Settings { contention: 0.5, ..settings() }, |_| 0);
    let mut world = sim.rank(0);
    let clock = world.clock();
    let mut twins = Group::new(world.split_by(&|rank| rank % 4).unwrap());
    let _job = twins.start(Job::AllGather(Numbers::Counted(100), 200));
    clock.compute(150.0);
    is(clock.times().now_secs, 160.0);
}

#[test]
fn links_inside_and_across_work_at_once() {
    let sim = Sim::new(plain(2, 4), settings(), |_| 0);
    let mut world = sim.rank(0);
    let clock = world.clock();
    let mut node = Group::new(world.split_by(&|rank| rank / 4).unwrap());
    let mut twins = Group::new(world.split_by(&|rank| rank % 4).unwrap());
    assert_eq!((node.ranks(), twins.ranks()), (4, 2));
    let inside = node.start(gather(400));
    // 100 of 200 bytes at an eighth of a byte a second: this device's share of its node's network.
    let across = twins.start(Job::AllGather(Numbers::Counted(100), 200));
    node.wait(inside).unwrap();
    is(clock.times().now_secs, 300.0);
    twins.wait(across).unwrap();
    is(clock.times().now_secs, 800.0);
}

#[test]
fn two_levels_send_less_across() {
    let secs = |levels: bool, job: Job| {
        let sim = Sim::new(plain(2, 4), settings(), |_| 0);
        let comm: Box<dyn Communicator> = Box::new(sim.rank(0));
        let mut group = Group::new(if levels { by_machine(comm).unwrap() } else { comm });
        group.run(job).unwrap();
        group.traffic().busy_secs
    };
    let gather = || Job::AllGather(Numbers::Counted(100), 800);
    // In one level a node's cards carry 7/8 of the bytes; in two, half, and each device gathers 3/4 inside.
    is(secs(false, gather()), 700.0 / 0.5);
    is(secs(true, gather()), 100.0 / 0.125 + 600.0);
    // Long sums go in pieces: the slower level alone counts.
    let sum = || Job::AllReduce(Numbers::Counted(800_000), Order::Any);
    is(secs(true, sum()), 200_000.0 / 0.125);
    is(secs(false, sum()), 1_400_000.0 / 0.5);
}

/// A pipeline of two stages on two ranks: each forward takes 10 s, a message of 10 bytes 20 s across.
fn stages(work: impl Fn(usize, &mut Group, &Clock) + Sync) -> Vec<f64> {
    let sim = Sim::new(plain(2, 1), settings(), |rank| rank);
    std::thread::scope(|scope| {
        let work = &work;
        let ranks: Vec<_> = (0..2)
            .map(|rank| {
                let comm = sim.rank(rank);
                scope.spawn(move || {
                    let clock = comm.clock();
                    work(rank, &mut Group::new(Box::new(comm)), &clock);
                    clock.times().now_secs
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn a_message_arrives_when_it_was_sent_and_has_crossed() {
    for _ in 0..20 {
        let ends = stages(|rank, group, clock| {
            for _ in 0..3 {
                if rank == 1 {
                    group.run(Job::Recv(0, 10)).unwrap();
                }
                clock.compute(10.0);
                if rank == 0 {
                    let _sent = group.start(Job::Send(1, Numbers::Counted(10)));
                }
            }
            // The roles meet: the later of them says when.
            group.run(Job::AllReduce(Numbers::Counted(0), Order::Any)).unwrap();
        });
        // Sent after 10, 20 and 30 s over a link that is busy for 20 s with each: they arrive after 30, 50 and 70 s.
        is(ends[0], 80.0);
        is(ends[1], 80.0);
    }
}

#[test]
fn a_message_goes_past_a_sum_that_is_under_way() {
    let ends = stages(|rank, group, clock| {
        let mut other = group.split_by(|_| 0).unwrap();
        // 400 s across.
        let sum = other.start(Job::AllReduce(Numbers::Counted(200), Order::Any));
        if rank == 0 {
            let _sent = group.start(Job::Send(1, Numbers::Counted(10)));
        } else {
            group.run(Job::Recv(0, 10)).unwrap();
            is(clock.times().now_secs, 20.0);
        }
        other.wait(sum).unwrap();
    });
    is(ends[0], 400.0);
    is(ends[1], 400.0);
}

#[test]
fn roles_that_start_in_different_orders_still_meet_and_at_the_same_time_each_time() {
    let run = || {
        stages(|rank, group, clock| {
            let mut other = group.split_by(|_| 0).unwrap();
            clock.compute(rank as f64);
            let job = || Job::AllReduce(Numbers::Counted(10), Order::Any);
            let (a, b) = if rank == 0 {
                let a = group.start(job());
                (a, other.start(job()))
            } else {
                let b = other.start(job());
                (group.start(job()), b)
            };
            group.wait(a).unwrap();
            other.wait(b).unwrap();
        })
    };
    let first = run();
    is(first[0], 41.0);
    for _ in 0..20 {
        assert_eq!(run(), first);
    }
}

#[test]
fn roles_that_wait_for_one_another_are_told() {
    let ends = stages(|rank, group, _| {
        let error = group.run(Job::Recv(1 - rank, 1)).unwrap_err();
        assert_eq!((error.rank, error.operation), (1 - rank, "recv"));
    });
    assert_eq!(ends, [0.0, 0.0]);
}

#[test]
fn a_thousand_ranks_run_on_one_thread() {
    let sim = Sim::new(plain(128, 8), settings(), |_| 0);
    assert_eq!(sim.representatives(), [0]);
    let comm = sim.rank(0);
    let clock = comm.clock();
    let mut group = Group::new(Box::new(comm));
    group.run(Job::AllReduce(Numbers::Counted(1024), Order::Any)).unwrap();
    // 2 * 1023 bytes at the half byte a second of a node's cards.
    is(clock.times().now_secs, 4.0 * 1023.0);
}

#[test]
fn costs_are_those_of_the_formulas() {
    let topology = plain(4, 2);
    let prices = Prices { topology: &topology, spread: topology.spread(&(0..8).collect::<Vec<_>>()) };
    let by = |algorithm| prices.all_reduce_by(algorithm, 800.0);
    // n = 8, N = 4, k = 2, B_inside = 1, share across 0.25.
    is(by(Algorithm::Ring), BASE + 2.0 * 7.0 / 8.0 * 800.0 / 0.5);
    is(by(Algorithm::HalvingDoubling), 2.0 * 0.5 * 800.0 + 2.0 * 0.75 * 400.0 / 0.25);
    is(by(Algorithm::DoubleTree), 2.0 * 0.75 * 800.0 / 0.5);
    is(by(Algorithm::Hierarchical), 2.0 * 0.5 * 800.0 + 2.0 * 0.75 * 400.0 / 0.25);
    is(by(Algorithm::ParameterServer { servers: 8 }), 800.0 / 0.25);
    is(by(Algorithm::ParameterServer { servers: 2 }), 4.0 * 800.0 / 0.25);
    assert!(by(Algorithm::Switch).is_infinite(), "no switch adds across nodes");
    is(prices.gather_secs(800.0), 7.0 / 8.0 * 800.0 / 0.5);
    is(prices.all_to_all_secs(800.0), 6.0 / 8.0 * 800.0 / 0.25);
    is(Prices::message_secs(&topology, 0, 1, 800.0), 800.0);
    is(Prices::message_secs(&topology, 1, 2, 800.0), 800.0 / 0.25);
}
