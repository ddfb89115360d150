//! What joins the ranks of a simulated job: devices in nodes, a link inside and one across, from figures of the hardware.
//!
//! ```text
//! node 0: rank 0 .. devices-1      inside: each device's own rate, one direction
//! node 1: rank devices .. 2*devices-1     across: a node's network cards, shared among its devices
//! ```
//! Latencies and usable shares are those that NCCL's own cost model counts with (`src/graph/tuning.cc`, `topo.h`); they
//! belong to hardware and library, and none was fitted to a measured collective.

/// Ways of sending that trade latency for rate, as NCCL has them; a collective takes the one that is fastest for its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A flag with every 4 bytes.
    LowLatency,
    /// A flag with every 120 bytes; the link must keep the order of 128-byte stores.
    LowLatency128,
    /// Whole chunks, then a fence.
    Simple,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::LowLatency, Self::LowLatency128, Self::Simple];

    /// Seconds before the first step: `baseLat` of a ring in NCCL.
    #[must_use]
    pub fn base_secs(self) -> f64 {
        [6.6e-6, 14.0e-6, 8.4e-6][self as usize]
    }

    /// Share of the rate that is left for data.
    #[must_use]
    pub fn share(self) -> f64 {
        [0.5, 120.0 / 128.0, 1.0][self as usize]
    }
}

/// A kind of link.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Usable, in one direction: of one device inside a node, of all cards of a node across.
    pub bytes_per_sec: f64,
    /// Of one hop, for each [`Protocol`]; `None` where the link cannot carry it.
    pub hop_secs: [Option<f64>; 3],
}

impl Link {
    /// NVLink of one device, by its printed rate in one direction. NCCL counts 20 of the 25 GB/s of a link as usable.
    #[must_use]
    pub fn nvlink(printed_bytes_per_sec: f64) -> Self {
        Self { bytes_per_sec: 0.8 * printed_bytes_per_sec, hop_secs: [Some(0.6e-6), Some(1.9e-6), Some(3.4e-6)] }
    }

    /// PCI Express, the same.
    #[must_use]
    pub fn pci(printed_bytes_per_sec: f64) -> Self {
        Self { bytes_per_sec: 0.8 * printed_bytes_per_sec, hop_secs: [Some(1.0e-6), Some(2.5e-6), Some(5.7e-6)] }
    }

    /// Elastic Fabric Adapter, by the printed rate of a node. It delivers out of order, so whole chunks only; 80% of the
    /// printed rate is the rule of thumb of *ML Engineering* (Bekman).
    #[must_use]
    pub fn efa(printed_bits_per_sec: f64) -> Self {
        Self { bytes_per_sec: 0.8 * printed_bits_per_sec / 8.0, hop_secs: [None, None, Some(14.0e-6)] }
    }

    /// InfiniBand, the same; it keeps order.
    #[must_use]
    pub fn infiniband(printed_bits_per_sec: f64) -> Self {
        Self { bytes_per_sec: 0.8 * printed_bits_per_sec / 8.0, hop_secs: [Some(2.7e-6), Some(4.0e-6), Some(14.0e-6)] }
    }
}

/// Which link a transfer crosses: each has streams of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkClass {
    Inside,
    Across,
}

/// See the head of this file.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    pub nodes: usize,
    /// Of one node.
    pub devices: usize,
    pub inside: Link,
    pub across: Link,
    /// Of the rate inside, what is left when the switch of a node adds (NVLink SHARP): NCCL counts 0.85 on Hopper and
    /// 0.74 on Blackwell; 0 where the switch cannot.
    pub switch_share: f64,
}

impl Topology {
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.nodes * self.devices
    }

    #[must_use]
    pub fn node_of(&self, rank: usize) -> usize {
        rank / self.devices
    }

    /// How `members` lie: taken to be as even as their fullest node.
    #[must_use]
    pub fn spread(&self, members: &[usize]) -> Spread {
        let mut counts = vec![0; self.nodes.max(1)];
        for rank in members {
            let node = self.node_of(*rank).min(counts.len() - 1);
            counts[node] += 1;
        }
        Spread {
            nodes: counts.iter().filter(|count| **count > 0).count(),
            per_node: counts.into_iter().max().unwrap_or(0),
            ranks: members.len(),
        }
    }
}

/// How the ranks of a group lie over nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    pub nodes: usize,
    pub per_node: usize,
    pub ranks: usize,
}

impl Spread {
    #[must_use]
    pub fn class(self) -> LinkClass {
        if self.nodes > 1 { LinkClass::Across } else { LinkClass::Inside }
    }
}
