//! What every communicator promises, asked of any of them: each rank of a group runs [`promises`] on its own.
//!
//! Every rank knows what every other brings ([`value`]), so each computes what is due and needs no other witness.

use comm::{Communicator, Group, Job, Order, part};
use memory::Numbers;

/// Rank counts of the suite.
pub const RANKS: [usize; 6] = [1, 2, 3, 4, 7, 8];

/// All promises, on a communicator and on the groups above it.
pub fn promises(mut comm: Box<dyn Communicator>) {
    let comm_ref = &mut *comm;
    sums(comm_ref);
    gathers_and_broadcasts(comm_ref);
    messages(comm_ref);
    splits(comm_ref);
    let mut world = Group::new(comm);
    many_in_flight(&mut world);
    groups_at_once(&mut world);
}

/// What `rank` brings as element `i` of array `tag`: of many magnitudes and both signs, so that the order of additions shows.
fn value(tag: usize, rank: usize, i: usize) -> f32 {
    let mut x = (tag * 1_000_003 + rank * 7919 + i + 1) as u64;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    let magnitude = 10.0_f32.powi((x % 7) as i32 - 3);
    ((x >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * magnitude
}

fn array(tag: usize, rank: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| value(tag, rank, i)).collect()
}

/// The definition of [`Order::Tree`].
fn tree(values: &[f32]) -> f32 {
    match values {
        [one] => *one,
        _ => {
            let (left, right) = values.split_at(values.len().next_power_of_two() / 2);
            tree(left) + tree(right)
        }
    }
}

/// The sum over `members` that is due, element by element.
fn tree_sum(tag: usize, members: &[usize], len: usize) -> Vec<f32> {
    (0..len).map(|i| tree(&members.iter().map(|rank| value(tag, *rank, i)).collect::<Vec<_>>())).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[track_caller]
fn same_bits(is: &[f32], due: &[f32], what: &str) {
    assert!(bits(is) == bits(due), "{what}: not the bits that are due");
}

/// In any order a sum of `ranks` numbers is off by at most `ranks - 1` roundings of the sum of magnitudes.
#[track_caller]
fn close(is: &[f32], tag: usize, ranks: usize, what: &str) {
    for (i, x) in is.iter().enumerate() {
        let all = (0..ranks).map(|rank| f64::from(value(tag, rank, i)));
        let bound = all.clone().map(f64::abs).sum::<f64>() * f64::from(f32::EPSILON) * ranks as f64;
        let due: f64 = all.sum();
        assert!((f64::from(*x) - due).abs() <= bound, "{what}: element {i} is {x}, due {due}");
    }
}

/// None, one, odd, just below and above the number of ranks, and lengths on both sides of where backends change their way.
fn lengths(ranks: usize) -> Vec<usize> {
    vec![0, 1, 3, ranks - 1, ranks, ranks + 1, 1000, 1001, 4096, 4097, 20_011]
}

fn sums(comm: &mut dyn Communicator) {
    let (rank, ranks) = (comm.rank(), comm.ranks());
    let members: Vec<usize> = (0..ranks).collect();
    for (tag, len) in lengths(ranks).into_iter().enumerate() {
        let due = tree_sum(tag, &members, len);
        let mine = part(len, ranks, rank);
        let mut data = array(tag, rank, len);
        comm.all_reduce(&mut data, Order::Tree).unwrap();
        same_bits(&data, &due, &format!("all_reduce of {len}"));
        let mut scattered = vec![f32::NAN; mine.len()];
        comm.reduce_scatter(&array(tag, rank, len), &mut scattered, Order::Tree).unwrap();
        same_bits(&scattered, &due[mine.clone()], &format!("reduce_scatter of {len}"));
        let mut data = array(tag, rank, len);
        comm.all_reduce(&mut data, Order::Any).unwrap();
        close(&data, tag, ranks, "all_reduce in any order");
        let scattered = comm.carry(Job::ReduceScatter(array(tag, rank, len).into(), Order::Any)).unwrap();
        assert_eq!(scattered.len(), mine.len());
        let whole: Vec<f32> = due[..mine.start].iter().chain(scattered.values()).chain(&due[mine.end..]).copied().collect();
        close(&whole, tag, ranks, "reduce_scatter in any order");
    }
}

fn gathers_and_broadcasts(comm: &mut dyn Communicator) {
    let (rank, ranks) = (comm.rank(), comm.ranks());
    for (tag, len) in lengths(ranks).into_iter().enumerate() {
        let due = array(tag, 99, len);
        let mut all = vec![f32::NAN; len];
        comm.all_gather(&due[part(len, ranks, rank)], &mut all).unwrap();
        same_bits(&all, &due, &format!("all_gather of {len}"));
        for root in 0..ranks {
            let mut data = array(tag, rank, len);
            comm.broadcast(root, &mut data).unwrap();
            same_bits(&data, &array(tag, root, len), &format!("broadcast of {len} from {root}"));
        }
    }
}

fn messages(comm: &mut dyn Communicator) {
    let (rank, ranks) = (comm.rank(), comm.ranks());
    if ranks == 1 {
        return;
    }
    // A ring, several on their way at once, of different lengths: they come in the order in which they were sent.
    let (next, before) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
    let lengths = [5, 0, 1, 5, 3000, 5];
    for (tag, len) in lengths.into_iter().enumerate() {
        comm.send(next, &array(tag, rank, len)).unwrap();
    }
    for (tag, len) in lengths.into_iter().enumerate() {
        let mut data = vec![f32::NAN; len];
        comm.recv(before, &mut data).unwrap();
        same_bits(&data, &array(tag, before, len), "message");
    }
    // Requests of one length and bodies of another, from all to the last; a body is not taken for a request.
    let server = ranks - 1;
    if rank != server {
        comm.send(server, &array(1, rank, 10)).unwrap();
        comm.send(server, &array(2, rank, 2)).unwrap();
    } else {
        let mut asked = vec![false; ranks];
        for _ in 0..server {
            let mut request = [f32::NAN; 2];
            let from = comm.recv_any(&mut request, &|| false).unwrap().unwrap();
            same_bits(&request, &array(2, from, 2), "request");
            assert!(!std::mem::replace(&mut asked[from], true), "rank {from} asked once");
        }
        for from in 0..server {
            let mut body = [f32::NAN; 10];
            comm.recv(from, &mut body).unwrap();
            same_bits(&body, &array(1, from, 10), "body");
        }
    }
}

fn check_sum(comm: &mut dyn Communicator, tag: usize, members: &[usize], me: usize) {
    let mut data = array(tag, me, 1003);
    comm.all_reduce(&mut data, Order::Tree).unwrap();
    same_bits(&data, &tree_sum(tag, members, 1003), "sum over a part of the ranks");
}

fn splits(comm: &mut dyn Communicator) {
    let (rank, ranks) = (comm.rank(), comm.ranks());
    let all: Vec<usize> = (0..ranks).collect();
    // Colours are names, of any size.
    let color = |rank: usize| if rank % 2 == 1 { usize::MAX } else { 1 << 40 };
    let mut half = comm.split(color(rank)).unwrap();
    let members: Vec<usize> = all.iter().copied().filter(|other| color(*other) == color(rank)).collect();
    assert_eq!((half.rank(), half.ranks()), (rank / 2, members.len()));
    let mut alone = comm.split(rank).unwrap();
    assert_eq!((alone.rank(), alone.ranks()), (0, 1));
    let mut whole = comm.split(7).unwrap();
    assert_eq!((whole.rank(), whole.ranks()), (rank, ranks));
    // A split of a split; then all of them in turn.
    let first_of_half = half.rank() < half.ranks().div_ceil(2);
    let mut quarter = half.split(usize::from(first_of_half)).unwrap();
    let quarter_members: Vec<usize> =
        members.iter().copied().enumerate().filter(|(i, _)| (*i < members.len().div_ceil(2)) == first_of_half).map(|(_, r)| r).collect();
    for tag in 0..3 {
        check_sum(&mut *quarter, tag, &quarter_members, rank);
        check_sum(&mut *alone, tag, &[rank], rank);
        check_sum(&mut *half, tag, &members, rank);
        check_sum(&mut *whole, tag, &all, rank);
        check_sum(comm, tag, &all, rank);
    }
    // The numbers of a message are those of the group.
    if half.ranks() > 1 {
        let (next, before) = ((half.rank() + 1) % half.ranks(), (half.rank() + half.ranks() - 1) % half.ranks());
        half.send(next, &array(5, rank, 4)).unwrap();
        let mut data = [f32::NAN; 4];
        half.recv(before, &mut data).unwrap();
        same_bits(&data, &array(5, members[before], 4), "message in a part of the ranks");
    }
}

/// The job of number `tag`, what is due, and whether to the bit.
fn job(tag: usize, rank: usize, ranks: usize) -> (Job, Vec<f32>) {
    let len = [1, 0, 257, 5000][tag / 5 % 4];
    let members: Vec<usize> = (0..ranks).collect();
    let mine = part(len, ranks, rank);
    match tag % 5 {
        0 => (Job::AllReduce(array(tag, rank, len).into(), Order::Tree), tree_sum(tag, &members, len)),
        1 => (Job::ReduceScatter(array(tag, rank, len).into(), Order::Tree), tree_sum(tag, &members, len)[mine].to_vec()),
        2 => (Job::AllGather(array(tag, 99, len)[mine].to_vec().into(), len), array(tag, 99, len)),
        3 => (Job::Broadcast(tag % ranks, array(tag, rank, len).into()), array(tag, tag % ranks, len)),
        _ => (Job::AllReduce(Numbers::from(vec![1.0; len]), Order::Any), vec![ranks as f32; len]),
    }
}

fn many_in_flight(world: &mut Group) {
    let (rank, ranks) = (world.rank(), world.ranks());
    let (jobs, due): (Vec<Job>, Vec<Vec<f32>>) = (0..60).map(|tag| job(tag, rank, ranks)).unzip();
    let mut tickets: Vec<_> = jobs.into_iter().map(|job| world.start(job)).enumerate().collect();
    // Each rank waits in an order of its own.
    tickets.rotate_left(rank * 7 % 60);
    for (tag, ticket) in tickets.into_iter().rev() {
        same_bits(world.wait(ticket).unwrap().values(), &due[tag], &format!("job {tag} of many"));
    }
    if ranks > 1 {
        let (next, before) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
        let sent: Vec<_> = (0..9).map(|tag| world.start(Job::Send(next, array(tag, rank, 100 + tag).into()))).collect();
        let received: Vec<_> = (0..9).map(|tag| world.start(Job::Recv(before, 100 + tag))).collect();
        for (tag, ticket) in received.into_iter().enumerate() {
            same_bits(world.wait(ticket).unwrap().values(), &array(tag, before, 100 + tag), "message of many");
        }
        assert!(world.held_bytes() > 0, "what was sent is on its way until it is waited for");
        for ticket in sent {
            assert!(world.wait(ticket).unwrap().is_empty(), "nothing comes of a message that was sent");
        }
        assert_eq!(world.held_bytes(), 0);
        assert!(world.traffic().sent_bytes > 0);
    }
}

/// A mesh of two rows: jobs of the rows, of the columns and of all at once, begun in a different order on each rank.
fn groups_at_once(world: &mut Group) {
    let (rank, ranks) = (world.rank(), world.ranks());
    let columns = ranks.div_ceil(2);
    let (row, column) = (rank / columns, rank % columns);
    let mut rows = world.split(row).unwrap();
    let mut cols = world.split(column).unwrap();
    let members = |same: &dyn Fn(usize) -> bool| (0..ranks).filter(|other| same(*other)).collect::<Vec<_>>();
    let due = [members(&|_| true), members(&|other| other / columns == row), members(&|other| other % columns == column)];
    for round in 0..6 {
        let mut tickets = [None; 3];
        for turn in 0..3 {
            let which = (turn + rank) % 3;
            let group = match which {
                0 => &mut *world,
                1 => &mut rows,
                _ => &mut cols,
            };
            let sum = Job::AllReduce(array(10 * round + which, rank, 2000 + round).into(), Order::Tree);
            tickets[which] = Some(group.start(sum));
        }
        for which in [2, 0, 1] {
            let group = match which {
                0 => &mut *world,
                1 => &mut rows,
                _ => &mut cols,
            };
            let sum = group.wait(tickets[which].unwrap()).unwrap();
            same_bits(sum.values(), &tree_sum(10 * round + which, &due[which], 2000 + round), "groups at once");
        }
    }
}
