//! What a collective costs: alpha-beta models, a latency for each hop and a rate for each byte.
//!
//! With `n` ranks on `N` nodes of `k`, `M` bytes, rate `B` of a device inside and of a device's share of its node's network
//! across, hops of `a` seconds:
//!
//! | algorithm | seconds of an all-reduce | source |
//! |---|---|---|
//! | ring | `2(n-1) a + 2(n-1)/n M / min(B_inside, k B_across)` | Patarasuk and Yuan 2009; hops across as NCCL counts them |
//! | halving and doubling | `2 log2(n) a + 2(k-1)/k M/B_inside + 2(N-1)/N M/k/B_across` | Thakur et al. 2005, inside first |
//! | double binary tree | `2(k-1 + log2 N) a + max(2M/B_inside, 2(N-1)/N M/(k B_across))` | NCCL 2.4, Sanders et al. 2009 |
//! | hierarchical | a ring inside on M, then across on M/k | MiCS, arXiv:2205.00119 |
//! | parameter server | `2a + M/B max(1, n/servers)` | Herring, SC20 |
//! | switch | `(1 + 1/n) M/(share B_inside)`: out go M to be added and M/n added | NVLink SHARP |
//!
//! A ring over several nodes has as many lanes as a node has cards, so it may use all `k` shares of a node. Reduce-scatter
//! and all-gather are half an all-reduce.
//! **Absent on purpose:** congestion between groups, which is what the streams of [`super::clock`] are for.

use super::topology::{Protocol, Spread, Topology};

/// How a library sums over ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Ring,
    HalvingDoubling,
    DoubleTree,
    Hierarchical,
    ParameterServer {
        servers: usize,
    },
    /// Inside one node whose switch adds.
    Switch,
}

/// What NCCL takes the fastest of.
pub const NCCL: [Algorithm; 3] = [Algorithm::Ring, Algorithm::DoubleTree, Algorithm::Switch];

/// `NVLS` in NCCL's table of latencies.
const SWITCH_SECS: f64 = 23e-6;

/// Prices collectives of a group.
#[derive(Debug, Clone, Copy)]
pub struct Prices<'a> {
    pub topology: &'a Topology,
    pub spread: Spread,
}

impl Prices<'_> {
    /// Of the fastest algorithm.
    #[must_use]
    pub fn all_reduce_secs(self, bytes: f64, algorithms: &[Algorithm]) -> f64 {
        algorithms.iter().map(|algorithm| self.all_reduce_by(*algorithm, bytes)).fold(f64::INFINITY, f64::min)
    }

    /// Infinite where the hardware cannot.
    #[must_use]
    pub fn all_reduce_by(self, algorithm: Algorithm, bytes: f64) -> f64 {
        let Spread { nodes, per_node, ranks } = self.spread;
        let (n, nodes_f, k) = (ranks as f64, nodes as f64, per_node as f64);
        if ranks <= 1 {
            return 0.0;
        }
        let inside = self.topology.inside.bytes_per_sec;
        let across = self.share();
        let hops = |inside: f64, across: f64, seconds: &dyn Fn(f64) -> f64| self.fastest(inside, across, seconds);
        match algorithm {
            Algorithm::Ring => {
                let between = if nodes > 1 { 2.0 * nodes_f } else { 0.0 };
                let moved = 2.0 * (n - 1.0) / n * bytes;
                hops(2.0 * (n - 1.0) - between, between, &|share| moved / self.ring_rate(share))
            }
            Algorithm::HalvingDoubling => hops(2.0 * k.log2().ceil(), 2.0 * nodes_f.log2().ceil(), &|share| {
                2.0 * (k - 1.0) / k * bytes / (inside * share) + 2.0 * (nodes_f - 1.0) / nodes_f * bytes / k / (across * share)
            }),
            Algorithm::DoubleTree => hops(2.0 * (k - 1.0), 2.0 * nodes_f.log2().ceil(), &|share| {
                let within = if per_node > 1 { 2.0 * bytes / inside } else { 0.0 };
                within.max(2.0 * (nodes_f - 1.0) / nodes_f * bytes / (k * across)) / share
            }),
            Algorithm::Hierarchical => {
                let (within, between) = self.levels();
                within.all_reduce_by(Algorithm::Ring, bytes) + between.all_reduce_by(Algorithm::Ring, bytes / k)
            }
            Algorithm::ParameterServer { servers } => {
                let rate = if nodes > 1 { across } else { inside };
                let (inside_hops, across_hops) = if nodes > 1 { (0.0, 2.0) } else { (2.0, 0.0) };
                hops(inside_hops, across_hops, &|share| bytes / (rate * share) * (n / servers.max(1) as f64).max(1.0))
            }
            Algorithm::Switch if nodes == 1 && self.topology.switch_share > 0.0 => {
                SWITCH_SECS + (1.0 + 1.0 / n) * bytes / (inside * self.topology.switch_share)
            }
            Algorithm::Switch => f64::INFINITY,
        }
    }

    /// A ring of `n - 1` hops, for an array of `bytes` in all: an all-gather, or a reduce-scatter.
    #[must_use]
    pub fn gather_secs(self, bytes: f64) -> f64 {
        let Spread { nodes, ranks, .. } = self.spread;
        let between = nodes as f64 - 1.0;
        let moved = (ranks as f64 - 1.0) / ranks.max(1) as f64 * bytes;
        if ranks <= 1 { 0.0 } else { self.fastest(ranks as f64 - 1.0 - between, between, &|share| moved / self.ring_rate(share)) }
    }

    /// A chain through all ranks, in pieces.
    #[must_use]
    pub fn broadcast_secs(self, bytes: f64) -> f64 {
        let Spread { nodes, ranks, .. } = self.spread;
        let between = nodes as f64 - 1.0;
        if ranks <= 1 { 0.0 } else { self.fastest(ranks as f64 - 1.0 - between, between, &|share| bytes / self.ring_rate(share)) }
    }

    /// Each rank sends `1/n` of its `bytes` to every other, inside and across at once.
    #[must_use]
    pub fn all_to_all_secs(self, bytes: f64) -> f64 {
        let Spread { nodes, per_node, ranks } = self.spread;
        let (n, k) = (ranks as f64, per_node as f64);
        if ranks <= 1 {
            return 0.0;
        }
        let between = if nodes > 1 { n - k } else { 0.0 };
        self.fastest(k - 1.0, between, &|share| {
            let within = (k - 1.0) / n * bytes / self.topology.inside.bytes_per_sec;
            within.max(between / n * bytes / self.share()) / share
        })
    }

    /// Each rank serves `1/n` of an array: all push to it at once and pull its sum at once, two hops whatever `n` is. A rank is
    /// worker and server, so its link carries both ways `(n-1)/n` of the bytes twice.
    #[must_use]
    pub fn push_pull_secs(self, bytes: f64) -> f64 {
        let Spread { nodes, ranks, .. } = self.spread;
        let (inside_hops, across_hops) = if nodes > 1 { (0.0, 2.0) } else { (2.0, 0.0) };
        let moved = 2.0 * (ranks as f64 - 1.0) / ranks.max(1) as f64 * bytes;
        if ranks <= 1 { 0.0 } else { self.fastest(inside_hops, across_hops, &|share| moved / self.ring_rate(share)) }
    }

    /// The ranks of one node, and those of one place in every node.
    #[must_use]
    pub fn levels(self) -> (Self, Self) {
        let Spread { nodes, per_node, .. } = self.spread;
        let spread = |nodes, per_node| Self { spread: Spread { nodes, per_node, ranks: nodes * per_node }, ..self };
        (spread(1, per_node), spread(nodes, 1))
    }

    /// One message between two ranks.
    #[must_use]
    pub fn message_secs(topology: &Topology, from: usize, to: usize, bytes: f64) -> f64 {
        let spread = topology.spread(&[from, to]);
        let prices = Prices { topology, spread };
        let (rate, inside, across) = if spread.nodes > 1 { (prices.share(), 0.0, 1.0) } else { (topology.inside.bytes_per_sec, 1.0, 0.0) };
        prices.fastest(inside, across, &|share| bytes / (rate * share))
    }

    /// A device's share of its node's network.
    fn share(self) -> f64 {
        self.topology.across.bytes_per_sec / self.topology.devices as f64
    }

    /// Bytes a second through each device of a ring, where a protocol leaves `share` of the links' rates.
    pub(super) fn ring_rate(self, share: f64) -> f64 {
        let Spread { nodes, per_node, .. } = self.spread;
        let inside = if per_node > 1 { self.topology.inside.bytes_per_sec } else { f64::INFINITY };
        let across = if nodes > 1 { per_node as f64 * self.share() } else { f64::INFINITY };
        inside.min(across) * share
    }

    /// Over all protocols that the links on the way can carry: the start, the hops, and what `seconds` says of the bytes
    /// at that share of the rates.
    fn fastest(self, inside_hops: f64, across_hops: f64, seconds: &dyn Fn(f64) -> f64) -> f64 {
        let hop = |hops: f64, secs: Option<f64>| if hops > 0.0 { secs.map(|secs| hops * secs) } else { Some(0.0) };
        let price = |protocol: Protocol| {
            let inside = hop(inside_hops, self.topology.inside.hop_secs[protocol as usize])?;
            let across = hop(across_hops, self.topology.across.hop_secs[protocol as usize])?;
            Some(protocol.base_secs() + inside + across + seconds(protocol.share()))
        };
        Protocol::ALL.into_iter().filter_map(price).fold(f64::INFINITY, f64::min)
    }
}
