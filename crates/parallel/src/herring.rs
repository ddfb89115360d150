//! Herring: gradients in balanced fusion buffers, summed by servers that stand beside the ranks of each machine;
//! Thangakrishnan et al., *Herring: Rethinking the Parameter Server at Scale for the Cloud*, SC20.
//!
//! ```text
//! gradients, as they become final    | w3 ....... | b3 | w2 ....|.... | b2 | w1 ..|
//! buffers of one size                |       0        |       1       |    2      |
//! machine 0: its ranks add a buffer, then keep slice 0 and push slice 1 to machine 1 | add slice 0 | pull slice 1
//! machine 1: the same,               keep slice 1 and push slice 0 to machine 0      | add slice 1 | pull slice 0
//! ```
//! A server is the communication threads of a machine's ranks: each rank holds `1/k` of a buffer once its machine has added
//! it, pushes equal slices of that to its likes on other machines, adds those that come and gives the sums back. So every
//! server owns an equal slice of every buffer, whatever the sizes of parameters, and no link has more to carry than
//! another: of `M` bytes of gradients, each of `N` machines sends `2 M (N-1)/N` a step. Buffers go while the backward pass
//! goes on. What a rank holds is as in `replicated`, and the buffers on their way.

use comm::Order;
use engine::{Numbers, ParamId, ParamTable};

use crate::{
    Kind,
    flat::Piece,
    lanes::LaneSum,
    replicated::{Load, Packing, Replicated},
};

pub(crate) const KIND: Kind = Kind {
    name: "herring",
    build: |b| {
        let packing = Buffers::new(b.table, b.comm.ranks());
        // Servers add in the order of the tree whatever was asked, as it costs them nothing.
        Ok(Box::new(Replicated::packed(b.table, b.device, comm::by_machine(b.comm)?, Order::Tree, Box::new(packing), b.value)))
    },
    shards: |_, _| 1,
};

/// Numbers of a buffer at most: 4 MiB, beyond which a link is no better used.
const MOST: u64 = 1 << 20;
/// Numbers of a rank's slice of a buffer, where there are so many ranks that hops would cost more than bytes.
const SLICE: u64 = 8 << 10;
/// Buffers of a step at least: only the last one cannot hide behind the backward pass.
const LEAST: u64 = 16;

/// Buffers of one size, filled in the order in which gradients become final.
struct Buffers {
    len: usize,
    ranks: usize,
    open: Load,
}

impl Buffers {
    fn new(table: &ParamTable, ranks: usize) -> Self {
        let len = (table.elements() / LEAST).clamp(1, MOST.max(SLICE * ranks as u64)) as usize;
        Self { len: len.next_multiple_of(ranks), ranks, open: Load::default() }
    }
}

impl Packing for Buffers {
    fn clear(&mut self) {}

    fn add(&mut self, param: ParamId, grad: &mut LaneSum) -> Vec<Load> {
        let Some(grad) = grad.total() else { return Vec::new() };
        let (mut done, mut full) = (0, Vec::new());
        while done < grad.len() {
            let at = self.open.numbers.len();
            if let (Numbers::Here(open), Numbers::Here(_), 0) = (&mut self.open.numbers, grad, at) {
                open.reserve_exact(self.len);
            }
            let of_param = done..grad.len().min(done + self.len - at);
            done = of_param.end;
            self.open.numbers.extend(grad, of_param.clone());
            self.open.pieces.push(Piece { param, of_param, at });
            if self.open.numbers.len() == self.len {
                full.push(std::mem::take(&mut self.open));
            }
        }
        full
    }

    fn rest(&mut self) -> Option<Load> {
        let mut last = std::mem::take(&mut self.open);
        last.numbers.resize(last.numbers.len().next_multiple_of(self.ranks));
        (!last.pieces.is_empty()).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use comm::part;
    use engine::{Init, ParamKind};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_server_has_an_equal_slice_of_every_buffer(
            sizes in proptest::collection::vec(1..3000_usize, 1..8), machines in 1..6_usize, on_machine in 1..5_usize
        ) {
            let mut table = ParamTable::default();
            table.block("layers.0");
            for (i, n) in sizes.iter().enumerate() {
                table.add(&format!("p{i}"), &[*n], Init::Zeros, ParamKind::Vector);
            }
            let ranks = machines * on_machine;
            let mut buffers = Buffers::new(&table, ranks);
            let mut loads = Vec::new();
            for id in table.ids() {
                let mut grad = LaneSum::default();
                grad.set_total((0..sizes[id.0]).map(|i| (id.0 * 3000 + i) as f32).collect::<Vec<_>>().into());
                loads.extend(buffers.add(id, &mut grad));
            }
            prop_assert!(loads.iter().all(|load| load.numbers.len() == buffers.len), "all but the last have one size");
            loads.extend(buffers.rest());
            let mut seen: Vec<Vec<u32>> = sizes.iter().map(|n| vec![0; *n]).collect();
            for load in &loads {
                // What the two levels of the communicator leave on the ranks of a machine.
                let slice = |place: usize, machine: usize| part(part(load.numbers.len(), on_machine, place).len(), machines, machine).len();
                for machine in 0..machines {
                    let owned: usize = (0..on_machine).map(|place| slice(place, machine)).sum();
                    prop_assert_eq!(owned * machines, load.numbers.len());
                }
                for Piece { param, of_param, at } in &load.pieces {
                    for (i, number) in of_param.clone().zip(&load.numbers.values()[*at..]) {
                        prop_assert_eq!(*number, (param.0 * 3000 + i) as f32);
                        seen[param.0][i] += 1;
                    }
                }
            }
            prop_assert!(seen.iter().flatten().all(|count| *count == 1));
        }
    }
}
