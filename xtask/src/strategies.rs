//! `cargo xtask bench strategies`: what ranks cost on one machine, and what each strategy's exchange and step cost over slow
//! links, beside MPI's own ring and PyTorch's DDP and FSDP.

use std::process::{Command, Stdio};

use crate::{bench::number, cargo, network::Network, venv};

const RECIPE: &str = "recipes/bench-network.toml";
/// Of the links between hosts: 12.5 MB/s, so slow that 2 cores keep up with the work of 8 ranks.
const MEGABITS: usize = 100;

/// One way to share the work.
struct Way {
    name: &'static str,
    sets: &'static [&'static str],
    /// Of the bytes `M` of all gradients, what one of `hosts` with `each` ranks sends to others in a step of `lanes` a rank.
    formula: fn(hosts: f64, each: f64, lanes: f64) -> f64,
}

const RING: Way = Way {
    name: "MPI's ring all-reduce",
    sets: &["parallel.strategy=replicated", "parallel.reduce=fast"],
    formula: |hosts, each, _| 2.0 * (hosts * each - 1.0) / (hosts * each),
};
const REPLICATED: Way =
    Way { name: "replicated", sets: &["parallel.strategy=replicated"], formula: |hosts, _, _| 2.0 * (hosts - 1.0) / hosts };
const HERRING: Way = Way { name: "herring", sets: &["parallel.strategy=herring"], formula: |hosts, _, _| 2.0 * (hosts - 1.0) / hosts };
const ZERO_3: Way = Way {
    name: "zero3 over all ranks",
    sets: &["parallel.strategy=zero3"],
    formula: |hosts, _, lanes| 3.0 * lanes * (hosts - 1.0) / hosts,
};
/// A group on each host.
const MICS: Way = Way { name: "mics", sets: &["parallel.strategy=mics"], formula: |hosts, _, _| 2.0 * (hosts - 1.0) / hosts };

/// `cargo xtask bench strategies [PART...]`: of `machine`, `network`, `peers` and `scaling` those that are named, or all.
pub(crate) fn run(parts: &[&str]) -> Result<(), String> {
    cargo(&["build", "--release", "--package", "hairpin", "--features", "mpi"])?;
    let wants = |part| parts.is_empty() || parts.contains(&part);
    if wants("machine") {
        one_machine()?;
    }
    if wants("network") {
        // The exchange dominates; it does so over many lanes; there is compute to hide behind.
        on_network(2, |network| {
            exchange(network, 4, [1, 1], &[RING, REPLICATED, HERRING, ZERO_3, MICS])?;
            exchange(network, 4, [4, 1], &[RING, HERRING, ZERO_3, MICS])?;
            exchange(network, 4, [1, 16], &[RING, REPLICATED, HERRING, ZERO_3, MICS])
        })?;
    }
    if wants("peers") {
        on_network(2, |network| torch(network, 4))?;
    }
    if wants("scaling") {
        weak_scaling()?;
    }
    Ok(())
}

/// Do `work` on a network of so many hosts, or say why not.
fn on_network(hosts: usize, work: impl FnOnce(&Network) -> Result<(), String>) -> Result<(), String> {
    match Network::new(hosts, MEGABITS)? {
        Some(network) => work(&network),
        None => {
            println!("\nskipped: this machine does not allow network namespaces");
            Ok(())
        }
    }
}

/// Tokens a second of ranks that share this machine's cores.
fn one_machine() -> Result<(), String> {
    let sets = |ranks: usize, threads: usize| {
        let batch = "batch.sequences=8 batch.lanes=4 batch.context=256 model.context=256 batch.micro_batch=2";
        format!("{batch} parallel.ranks={ranks} train.threads={threads}")
    };
    let bench = |mut command: Command, ranks: usize, threads: usize| {
        command.args(["target/release/hairpin", "bench", "strategy", RECIPE, "--json", "--rounds", "7"]);
        for set in sets(ranks, threads).split(' ') {
            command.args(["--set", set]);
        }
        times(&mut command)
    };
    let env = || Command::new("env");
    let mpirun = || {
        let mut command = Command::new("mpirun");
        command.args(["--allow-run-as-root", "--bind-to", "core", "-n", "2"]);
        command
    };
    let mut rows = [("1 rank, both cores", vec![]), ("4 ranks, threads", vec![]), ("2 ranks, processes over MPI", vec![])];
    for _ in 0..3 {
        for (at, row) in [bench(env(), 1, 2)?, bench(env(), 4, 2)?, bench(mpirun(), 2, 1)?].into_iter().enumerate() {
            rows[at].1.push(row.tokens_per_sec);
        }
    }
    println!("\n| on one machine | tokens/s | of 1 rank |\n|---|---|---|");
    let median = |rows: &[f64]| {
        let mut rows = rows.to_vec();
        rows.sort_by(f64::total_cmp);
        rows[rows.len() / 2]
    };
    let one = median(&rows[0].1);
    for (name, all) in &rows {
        println!("| {name} | {:.0} | {:.0}% |", median(all), 100.0 * median(all) / one);
    }
    Ok(())
}

struct Times {
    step_secs: f64,
    compute_secs: f64,
    exchange_secs: f64,
    sent_bytes: f64,
    tokens_per_sec: f64,
    params: f64,
}

fn times(command: &mut Command) -> Result<Times, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let get =
        |key| number(&text, key).ok_or_else(|| format!("{command:?}: no {key} in `{text}`: {}", String::from_utf8_lossy(&output.stderr)));
    Ok(Times {
        step_secs: get("step_secs")?,
        compute_secs: get("compute_secs")?,
        exchange_secs: get("exchange_secs")?,
        sent_bytes: get("exchange_sent_bytes")?,
        tokens_per_sec: get("tokens_per_sec")?,
        params: get("params")?,
    })
}

fn measure(network: &Network, way: &Way, each: usize, [lanes, sequences]: [usize; 2]) -> Result<Times, String> {
    let ranks = network.hosts() * each;
    let mut command = network.mpirun(each);
    // Non-blocking sums are those of `libnbc`; the others never ask it for one.
    command.args(["--mca", "coll_libnbc_iallreduce_algorithm", "1"]);
    command.args(["target/release/hairpin", "bench", "strategy", RECIPE, "--json", "--rounds", "3"]);
    let batch = format!(
        "batch.lanes={} batch.sequences={} batch.micro_batch={sequences} parallel.mesh.shard={each}",
        ranks * lanes,
        ranks * lanes * sequences
    );
    for set in way.sets.iter().copied().chain(batch.split(' ')) {
        command.args(["--set", set]);
    }
    let first = times(&mut command);
    // Once in some ten starts, OpenMPI 4.1 does not connect two processes of different hosts.
    let again = |problem: String| {
        eprintln!("started again, as it failed: {}", problem.chars().take(2000).collect::<String>());
        times(&mut command)
    };
    first.or_else(again)
}

fn exchange(network: &Network, each: usize, [lanes, sequences]: [usize; 2], ways: &[Way]) -> Result<(), String> {
    let hosts = network.hosts();
    println!("\n{hosts} hosts of {each} ranks, {lanes} lanes of {sequences} sequences a rank, links of {MEGABITS} Mbit/s:\n");
    println!(
        "| strategy | exchange, s | step, s | compute alone, s | hidden | sent by a host, MB | by its formula, MB |\n|---|---|---|---|---|---|---|"
    );
    for way in ways {
        let t = measure(network, way, each, [lanes, sequences])?;
        let hidden = (t.compute_secs + t.exchange_secs - t.step_secs) / t.compute_secs.min(t.exchange_secs);
        // Of what takes no time nothing can be seen to hide.
        let hidden = if t.compute_secs > 0.1 * t.exchange_secs { format!("{:.0}%", 100.0 * hidden) } else { "-".into() };
        let formula = 4.0 * t.params * (way.formula)(hosts as f64, each as f64, lanes as f64);
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {hidden} | {:.1} | {:.1} |",
            way.name,
            t.exchange_secs,
            t.step_secs,
            t.compute_secs,
            t.sent_bytes / 1e6,
            formula / 1e6
        );
    }
    Ok(())
}

/// The same work a rank on 1, 2 and 4 hosts of 2 ranks.
fn weak_scaling() -> Result<(), String> {
    println!("\n| weak scaling, 2 ranks a host, 4 lanes of 4 sequences a rank | 1 host | 2 hosts | 4 hosts |\n|---|---|---|---|");
    let ways = [MICS, ZERO_3, HERRING];
    let mut rows = vec![Vec::new(); ways.len()];
    for hosts in [1, 2, 4] {
        on_network(hosts, |network| {
            for (row, way) in rows.iter_mut().zip(&ways) {
                let t = measure(network, way, 2, [4, 4])?;
                row.push((t.step_secs, t.compute_secs));
            }
            Ok(())
        })?;
    }
    for (row, way) in rows.iter().zip(&ways) {
        let cells: Vec<String> = row.iter().map(|(step, compute)| format!("{step:.2} s (compute {compute:.2})")).collect();
        println!("| {} | {} |", way.name, cells.join(" | "));
    }
    Ok(())
}

/// PyTorch's DDP and FSDP over gloo on the same hosts.
fn torch(network: &Network, each: usize) -> Result<(), String> {
    let python = venv()?;
    println!(
        "\n| {} hosts of {each} ranks, one sequence a rank | exchange, s | step, s | sent by a host, MB |\n|---|---|---|---|",
        network.hosts()
    );
    for mode in ["ddp", "fsdp"] {
        let ranks = network.hosts() * each;
        let start = |rank: usize| {
            let mut command = network.on_host(rank / each);
            command.args([&python, "xtask/python/network.py", mode]);
            command.env("MASTER_ADDR", "10.77.0.1").env("MASTER_PORT", "29555").env("GLOO_SOCKET_IFNAME", "eth0");
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", ranks.to_string()).env("OMP_NUM_THREADS", "1");
            command.stdin(Stdio::null()).spawn().map_err(|e| format!("{command:?}: {e}"))
        };
        let started = (0..ranks).map(start).collect::<Result<Vec<_>, _>>()?;
        for mut process in started {
            let status = process.wait().map_err(|e| e.to_string())?;
            if !status.success() {
                return Err(format!("xtask/python/network.py {mode} failed"));
            }
        }
    }
    Ok(())
}
