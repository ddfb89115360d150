//! A communicator of communicators: inside each machine, where links are fast, and across machines, where they are not.
//!
//! ```text
//! reduce-scatter:  inside, to 1/k of the array on each of k ranks  | across, each with those of its place elsewhere
//! all-gather:      across | inside | the parts into the order of ranks
//! all-reduce:      inside, to 1/k | across | inside; a long array in pieces, so that both kinds of links are busy at once
//! ```
//! Of an array of `M` bytes on `N` machines, each sends `M (N-1)/N` to others in a reduce-scatter or an all-gather and twice
//! that in an all-reduce, whatever its number of ranks; MiCS, arXiv:2205.00119, section 3.2. Ranks are numbered machine by
//! machine, a power of two on each, so a sum in [`Order::Tree`] has the bits that it has without levels.

use memory::Numbers;

use crate::{CommError, Communicator, Group, Job, Order, PIECE, Pulse, part};

/// See the head of this file.
struct Hierarchical {
    whole: Box<dyn Communicator>,
    inside: Group,
    across: Group,
}

/// `comm` in two levels where several machines have several of its ranks, else as it is. All its ranks call this.
/// # Errors
/// [`CommError`] when a rank does not do its part.
pub fn by_machine(mut comm: Box<dyn Communicator>) -> Result<Box<dyn Communicator>, CommError> {
    if comm.count_by_machine() {
        return Ok(comm);
    }
    let on_machine = comm.ranks_on_machine();
    if on_machine == 1 || on_machine == comm.ranks() || !on_machine.is_power_of_two() {
        return Ok(comm);
    }
    let inside = Group::new(comm.split_by(&|rank| rank / on_machine)?);
    let across = Group::new(comm.split_by(&|rank| rank % on_machine)?);
    Ok(Box::new(Hierarchical { whole: comm, inside, across }))
}

/// How many ranks, numbered one after another, share a machine, when `machines` `[rank]` says where each is: as many on
/// every one, or 1.
pub(crate) fn ranks_on_machine(machines: &[usize]) -> usize {
    let ranks = machines.len();
    let share = |n: &usize| ranks.is_multiple_of(*n) && machines.chunks(*n).all(|chunk| chunk.iter().all(|m| *m == chunk[0]));
    (1..=ranks).rev().find(share).unwrap_or(1)
}

impl Hierarchical {
    fn all_reduce(&mut self, array: Numbers, order: Order) -> Result<Numbers, CommError> {
        let len = array.len();
        let pieces: Vec<Numbers> = (0..len).step_by(PIECE).map(|start| array.part(start..len.min(start + PIECE))).collect();
        let lens: Vec<usize> = pieces.iter().map(Numbers::len).collect();
        let scattered: Vec<_> = pieces.into_iter().map(|piece| self.inside.start(Job::ReduceScatter(piece, order))).collect();
        let mut summed = Vec::new();
        for ticket in scattered {
            let mine = self.inside.wait(ticket)?;
            summed.push(self.across.start(Job::AllReduce(mine, order)));
        }
        let mut gathered = Vec::new();
        for (ticket, len) in summed.into_iter().zip(lens) {
            let mine = self.across.wait(ticket)?;
            gathered.push(self.inside.start(Job::AllGather(mine, len)));
        }
        let (mut sum, mut at) = (array, 0);
        for ticket in gathered {
            let piece = self.inside.wait(ticket)?;
            sum.put(at, &piece);
            at += piece.len();
        }
        Ok(sum)
    }

    /// Parts stand `[machine, place]`, as their ranks are numbered; inside a machine they go `[place, machine]`.
    fn reduce_scatter(&mut self, array: Numbers, order: Order) -> Result<Numbers, CommError> {
        let (rank, ranks, len) = (self.rank(), self.ranks(), array.len());
        let each = len.div_ceil(ranks);
        let by_place = swap(&resized(array, ranks * each), self.across.ranks(), each);
        let of_place = self.inside.run(Job::ReduceScatter(by_place, order))?;
        let mine = self.across.run(Job::ReduceScatter(of_place, order))?;
        Ok(resized(mine, part(len, ranks, rank).len()))
    }

    fn all_gather(&mut self, mine: Numbers, len: usize) -> Result<Numbers, CommError> {
        let (rank, ranks) = (self.rank(), self.ranks());
        let (each, due) = (len.div_ceil(ranks), part(len, ranks, rank).len());
        if mine.len() != due {
            let problem = format!("it brought {} numbers where {due} were due", mine.len());
            return Err(CommError { rank, operation: "all_gather", problem });
        }
        let (machines, places) = (self.across.ranks(), self.inside.ranks());
        let of_place = self.across.run(Job::AllGather(resized(mine, each), machines * each))?;
        let by_place = self.inside.run(Job::AllGather(of_place, ranks * each))?;
        Ok(resized(swap(&by_place, places, each), len))
    }
}

/// Parts of `each` numbers that stand `[rows, columns]`, as `[columns, rows]`.
fn swap(array: &Numbers, rows: usize, each: usize) -> Numbers {
    let Numbers::Here(from) = array else { return array.clone() };
    let columns = from.len().checked_div(each).unwrap_or(0) / rows;
    let mut values = Vec::with_capacity(from.len());
    for column in 0..columns {
        for row in 0..rows {
            values.extend_from_slice(&from[(row * columns + column) * each..][..each]);
        }
    }
    values.into()
}

/// Cut, or filled with zeros.
fn resized(mut array: Numbers, len: usize) -> Numbers {
    array.resize(len);
    array
}

impl Communicator for Hierarchical {
    fn rank(&self) -> usize {
        self.whole.rank()
    }

    fn ranks(&self) -> usize {
        self.whole.ranks()
    }

    fn ranks_on_machine(&self) -> usize {
        self.inside.ranks()
    }

    fn pulse(&self) -> Pulse {
        self.whole.pulse()
    }

    fn carry(&mut self, job: Job) -> Result<Numbers, CommError> {
        match job {
            Job::AllReduce(array, order) => self.all_reduce(array, order),
            Job::ReduceScatter(array, order) => self.reduce_scatter(array, order),
            Job::AllGather(mine, len) => self.all_gather(mine, len),
            Job::Broadcast(root, mut array) => {
                let (machine, place) = (root / self.inside.ranks(), root % self.inside.ranks());
                if self.inside.rank() == place {
                    array = self.across.run(Job::Broadcast(machine, array))?;
                }
                self.inside.run(Job::Broadcast(place, array))
            }
            message @ (Job::Send(..) | Job::Recv(..)) => self.whole.carry(message),
        }
    }

    fn recv_any(&mut self, data: &mut [f32], until: &dyn Fn() -> bool) -> Result<Option<usize>, CommError> {
        self.whole.recv_any(data, until)
    }

    fn split(&mut self, color: usize) -> Result<Box<dyn Communicator>, CommError> {
        self.whole.split(color)
    }

    fn split_by(&mut self, color: &dyn Fn(usize) -> usize) -> Result<Box<dyn Communicator>, CommError> {
        self.whole.split_by(color)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_have_as_many_ranks_each_are_levels() {
        for (machines, due) in [
            (&[0, 0, 0, 0][..], 4),
            (&[0, 0, 1, 1], 2),
            (&[0, 1, 0, 1], 1),
            (&[0, 0, 0, 1], 1),
            (&[0, 0, 1, 1, 2, 2], 2),
            (&[5, 5, 5, 5, 1, 1, 1, 1], 4),
            (&[3], 1),
        ] {
            assert_eq!(ranks_on_machine(machines), due, "{machines:?}");
        }
    }

    #[test]
    fn parts_are_swapped_and_swapped_back() {
        let array = Numbers::from((0..24).map(|i| i as f32).collect::<Vec<_>>());
        let swapped = swap(&array, 3, 2);
        assert_eq!(swapped.values()[..6], [0.0, 1.0, 8.0, 9.0, 16.0, 17.0]);
        assert_eq!(swap(&swapped, 4, 2), array);
    }
}
