//! The simulated network beside published measurements of real ones. `cargo test -p comm --test network -- --nocapture`
//! prints the table of docs/BENCHMARKS.md.
//!
//! Every parameter is a printed figure of the hardware or a constant of NCCL's own cost model (`sim::topology`); none was
//! chosen for a row. Measurements: *ML Engineering* (Bekman), NVIDIA/nccl#527 and #235, gists of jacobkahn (p3dn),
//! dstack PR 3961.
#![allow(clippy::print_stdout, reason = "the table is what the test is for")]

use comm::sim::{Algorithm, Link, NCCL, Prices, Topology};

/// GB/s of NVLink one way, Gbit/s of the network, the share that a switch which adds leaves.
fn gpus(nodes: usize, nvlink: f64, network: f64, switch_share: f64) -> Topology {
    Topology { nodes, devices: 8, inside: Link::nvlink(nvlink * 1e9), across: Link::efa(network * 1e9), switch_share }
}

fn p3dn(nodes: usize) -> Topology {
    gpus(nodes, 150.0, 100.0, 0.0)
}

fn p4d(nodes: usize) -> Topology {
    gpus(nodes, 300.0, 400.0, 0.0)
}

fn h200(nodes: usize) -> Topology {
    gpus(nodes, 450.0, 3200.0, 0.85)
}

fn b200(nodes: usize) -> Topology {
    gpus(nodes, 900.0, 3200.0, 0.74)
}

const RING: &[Algorithm] = &[Algorithm::Ring];
const MIB: f64 = 1048576.0;

/// What was measured: bus bandwidth of an all-reduce (`2 (n-1)/n bytes / secs`), or its time.
enum Measured {
    GigabytesPerSec(f64),
    Microseconds(f64),
}
use Measured::{GigabytesPerSec, Microseconds};

/// What is measured, and how far the simulation may be off: a promise for rows where the rate decides, wide where hops do
/// or where the source itself calls the measurement slow.
type Row = (&'static str, Topology, f64, &'static [Algorithm], Measured, f64);

fn rows() -> Vec<Row> {
    vec![
        ("p4d, 1 node, 1 MiB", p4d(1), MIB, &NCCL, GigabytesPerSec(18.0), 2.5),
        ("p4d, 1 node, 8 MiB", p4d(1), 8.0 * MIB, &NCCL, GigabytesPerSec(110.0), 0.35),
        ("p4d, 1 node, 64 MiB", p4d(1), 64.0 * MIB, &NCCL, GigabytesPerSec(172.0), 0.35),
        ("p4d, 1 node, 512 MiB", p4d(1), 512.0 * MIB, &NCCL, GigabytesPerSec(223.0), 0.1),
        ("p4d, 1 node, 1 GiB", p4d(1), 1024.0 * MIB, &NCCL, GigabytesPerSec(230.8), 0.1),
        ("p4d, 1 node, 4 GiB", p4d(1), 4096.0 * MIB, &NCCL, GigabytesPerSec(234.0), 0.1),
        ("H200, 1 node, ring, 16 GiB", h200(1), 16384.0 * MIB, RING, GigabytesPerSec(367.6), 0.1),
        ("H200, 1 node, 1 MiB", h200(1), MIB, &NCCL, GigabytesPerSec(40.0), 1.0),
        ("H200, 1 node, 8 MiB", h200(1), 8.0 * MIB, &NCCL, GigabytesPerSec(156.0), 1.0),
        ("H200, 1 node, 64 MiB", h200(1), 64.0 * MIB, &NCCL, GigabytesPerSec(347.0), 0.35),
        ("H200, 1 node, 512 MiB", h200(1), 512.0 * MIB, &NCCL, GigabytesPerSec(450.0), 0.1),
        ("H200, 1 node, 16 GiB", h200(1), 16384.0 * MIB, &NCCL, GigabytesPerSec(482.0), 0.1),
        ("B200, 1 node, ring, 16 GiB", b200(1), 16384.0 * MIB, RING, GigabytesPerSec(682.0), 0.1),
        ("B200, 1 node, 16 GiB", b200(1), 16384.0 * MIB, &NCCL, GigabytesPerSec(842.0), 0.1),
        ("p4d, 2 nodes, 1 GiB (filed as slow)", p4d(2), 1024.0 * MIB, &NCCL, GigabytesPerSec(57.2), 1.0),
        ("p4d, 3 nodes, 1 GiB (filed as slow)", p4d(3), 1024.0 * MIB, &NCCL, GigabytesPerSec(31.8), 1.0),
        ("p4d, 4 nodes, 1 GiB (filed as slow)", p4d(4), 1024.0 * MIB, &NCCL, GigabytesPerSec(29.6), 1.0),
        ("p4d, many nodes, ring, 1 GiB", p4d(16), 1024.0 * MIB, RING, GigabytesPerSec(42.5), 0.15),
        ("p5en, 4 nodes, ring, 4 GiB", h200(4), 4096.0 * MIB, RING, GigabytesPerSec(364.9), 0.2),
        ("B200, 4 nodes, ring, 16 GiB", b200(4), 16384.0 * MIB, RING, GigabytesPerSec(381.8), 0.2),
        ("p3dn, 2 nodes, ring, 1 GiB", p3dn(2), 1024.0 * MIB, RING, GigabytesPerSec(10.0), 0.15),
        ("p3dn, 8 nodes, ring, 1 GiB", p3dn(8), 1024.0 * MIB, RING, GigabytesPerSec(7.0), 0.5),
        ("p3dn, 2 nodes, ring, 8 B", p3dn(2), 8.0, RING, Microseconds(163.0), 0.1),
        ("p3dn, 4 nodes, ring, 8 B", p3dn(4), 8.0, RING, Microseconds(319.0), 0.1),
        ("p3dn, 8 nodes, ring, 8 B", p3dn(8), 8.0, RING, Microseconds(630.0), 0.1),
        ("B200, 2 nodes, 8 B", b200(2), 8.0, &NCCL, Microseconds(53.5), 0.8),
    ]
}

#[test]
fn published_measurements_are_met_as_far_as_each_row_says() {
    let mut broken = Vec::new();
    println!("| all-reduce | measured | simulated | off by |\n|---|---|---|---|");
    for (what, topology, bytes, algorithms, measured, bound) in rows() {
        let ranks = topology.ranks();
        let prices = Prices { topology: &topology, spread: topology.spread(&(0..ranks).collect::<Vec<_>>()) };
        let secs = prices.all_reduce_secs(bytes, algorithms);
        let moved = 2.0 * (ranks as f64 - 1.0) / ranks as f64 * bytes;
        let (is, due, unit) = match measured {
            GigabytesPerSec(due) => (moved / secs / 1e9, due, "GB/s"),
            Microseconds(due) => (secs * 1e6, due, "us"),
        };
        let off = is / due - 1.0;
        println!("| {what} | {due} {unit} | {is:.1} {unit} | {:+.0}% |", 100.0 * off);
        if off.abs() > bound {
            broken.push(what);
        }
    }
    assert_eq!(broken, [""; 0], "farther off than promised");
}

#[test]
fn hierarchy_saves_what_mics_says_and_a_sharded_server_half_of_a_ring() {
    // Two nodes of eight: an all-gather across moves 8/16 of the bytes instead of 15/16 (MiCS, section 3.2).
    let topology = p4d(2);
    let flat = Prices { topology: &topology, spread: topology.spread(&(0..16).collect::<Vec<_>>()) };
    let twins = Prices { topology: &topology, spread: topology.spread(&[0, 8]) };
    let bytes = 1e12;
    let saved = 1.0 - twins.gather_secs(bytes / 8.0) / flat.gather_secs(bytes);
    assert!((saved - 0.467).abs() < 0.01, "{saved}");
    // Herring's server takes a gradient in and gives it out once; a ring of many moves it twice.
    let topology = Topology { devices: 1, ..p3dn(256) };
    let ring = Prices { topology: &topology, spread: topology.spread(&(0..256).collect::<Vec<_>>()) };
    let server = Algorithm::ParameterServer { servers: 256 };
    let ratio = ring.all_reduce_by(Algorithm::Ring, bytes) / ring.all_reduce_by(server, bytes);
    assert!((1.95..2.0).contains(&ratio), "{ratio}");
}
