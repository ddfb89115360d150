//! MiCS: the model is cut inside a small group of ranks, and the group repeated; *MiCS: Near-linear Scaling for Training
//! Gigantic Model on Public Cloud*, arXiv:2205.00119.
//!
//! ```text
//! group 0: rank 0 | 1      every lane: gather blocks and scatter gradients inside a group
//! group 1: rank 2 | 3      every step: sum each part over the groups, 0 with 2 and 1 with 3
//! ```
//! Of `M` bytes of parameters on `n` ranks in groups of `p`, a rank sends `3 M (p-1)/p` a lane inside its group, and
//! `2 (M/p) (n/p - 1)/(n/p)` a step across groups: more machines add groups, and do not widen what every lane waits for.
//! A group that spans machines gathers and scatters in two levels (section 3.2), and so do groups that share one.

use crate::{
    Kind,
    sharded::{Sharded, Stage},
    split,
};

pub(crate) const KIND: Kind = Kind {
    name: "mics",
    build: |b| {
        let (shard, replicas) = split(b.comm, b.shards)?;
        Ok(Box::new(Sharded::new(b.table, Stage::Weights, b.device, b.order, shard, replicas, b.value)))
    },
    shards: |ranks, asked| asked.clamp(1, ranks),
};
