//! `cargo xtask bench strategies`: what ranks cost on one machine, what each strategy's exchange and step cost over slow links,
//! beside MPI's own ring and PyTorch's DDP and FSDP, how much of an exchange hides, and how a step grows with hosts.

use std::process::{Command, Stdio};

use crate::{bench::number, cargo, network::Network, venv};

const RECIPE: &str = "recipes/bench-network.toml";
/// Of the links between hosts: 12.5 MB/s, so slow that 2 cores keep up with the work of 8 ranks.
const SLOW_MEGABITS: usize = 100;
/// 50 MB/s, over which a core computes for twice as long as it exchanges (see [`DEEP`]).
const MEGABITS: usize = 400;
/// Of a core, for each of up to 4 hosts on 2 cores: the rest is for what stands between them.
const HOST_CORES: f64 = 0.4;

/// What each rank does in a step.
struct Work {
    /// Ranks of a host.
    each: usize,
    lanes: usize,
    /// Of a lane, in one pass.
    sequences: usize,
    model: &'static [&'static str],
}

/// One sequence a rank: the exchange is all there is.
const SHORT: Work = Work { each: 4, lanes: 1, sequences: 1, model: &[] };
const SHORT_LANES: Work = Work { lanes: 4, ..SHORT };
const LONG: Work = Work { sequences: 16, ..SHORT };
/// 12 layers, of which only the first one's gradient comes too late to hide; 22 MB of them, 0.44 s of a link of 400 Mbit/s.
const DEEP: Work = Work { each: 1, lanes: 1, sequences: 64, model: &["model.layers=12", "model.model=192", "model.heads=3"] };
/// Eight passes between two exchanges over groups, and one.
const PASSES: Work = Work { each: 2, lanes: 8, sequences: 16, model: &[] };
const PASS: Work = Work { lanes: 1, ..PASSES };

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

/// `cargo xtask bench strategies [PART...]`: of `machine`, `network`, `overlap`, `peers` and `scaling` those that are named, or all.
pub(crate) fn run(parts: &[&str]) -> Result<(), String> {
    cargo(&["build", "--release", "--package", "hairpin", "--features", "mpi"])?;
    let wants = |part| parts.is_empty() || parts.contains(&part);
    if wants("machine") {
        one_machine()?;
    }
    if wants("network") {
        on_network(2, SLOW_MEGABITS, None, |network| {
            exchange(network, &SHORT, &[RING, REPLICATED, HERRING, ZERO_3, MICS])?;
            exchange(network, &SHORT_LANES, &[RING, HERRING, ZERO_3, MICS])
        })?;
    }
    if wants("overlap") {
        // A rank on each core; twice as many, so that mics has groups; and where 8 ranks share the cores.
        on_network(2, MEGABITS, None, |network| {
            exchange(network, &DEEP, &[RING, REPLICATED, HERRING, ZERO_3, MICS])?;
            exchange(network, &Work { each: 2, sequences: 32, ..DEEP }, &[REPLICATED, HERRING, ZERO_3, MICS])
        })?;
        on_network(2, SLOW_MEGABITS, None, |network| exchange(network, &LONG, &[RING, REPLICATED, HERRING, ZERO_3, MICS]))?;
    }
    if wants("peers") {
        on_network(2, SLOW_MEGABITS, None, |network| torch(network, 4))?;
    }
    if wants("scaling") {
        weak_scaling(&PASSES)?;
        weak_scaling(&PASS)?;
    }
    Ok(())
}

/// Do `work` on a network of so many hosts, or say why not.
fn on_network(hosts: usize, megabits: usize, cores: Option<f64>, work: impl FnOnce(&Network) -> Result<(), String>) -> Result<(), String> {
    match Network::new(hosts, megabits, cores)? {
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
    exposed_secs: f64,
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
        exposed_secs: get("exposed_secs")?,
        sent_bytes: get("exchange_sent_bytes")?,
        tokens_per_sec: get("tokens_per_sec")?,
        params: get("params")?,
    })
}

fn measure(network: &Network, way: &Way, work: &Work) -> Result<Times, String> {
    let Work { each, lanes, sequences, model } = *work;
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
    for set in way.sets.iter().chain(model).copied().chain(batch.split(' ')) {
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

fn exchange(network: &Network, work: &Work, ways: &[Way]) -> Result<(), String> {
    let (hosts, each, lanes) = (network.hosts(), work.each, work.lanes);
    println!(
        "\n{hosts} hosts of {each} ranks, {lanes} lanes of {} sequences a rank, links of {} Mbit/s:\n",
        work.sequences,
        network.megabits()
    );
    println!(
        "| strategy | exchange, s | step, s | compute alone, s | waited, s | hidden, by the step | by the waiting | sent by a host, MB | by its formula, MB |\n|---|---|---|---|---|---|---|---|---|"
    );
    for way in ways {
        let t = measure(network, way, work)?;
        let less = t.compute_secs.min(t.exchange_secs);
        // Of what takes no time nothing can be seen to hide.
        let share = |secs: f64| if t.compute_secs > 0.1 * t.exchange_secs { format!("{:.0}%", 100.0 * secs / less) } else { "-".into() };
        let formula = 4.0 * t.params * (way.formula)(hosts as f64, each as f64, lanes as f64);
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {} | {:.1} | {:.1} |",
            way.name,
            t.exchange_secs,
            t.step_secs,
            t.compute_secs,
            t.exposed_secs,
            share(t.compute_secs + t.exchange_secs - t.step_secs),
            share(t.exchange_secs - t.exposed_secs),
            t.sent_bytes / 1e6,
            formula / 1e6
        );
    }
    Ok(())
}

/// The same work a rank on 1, 2 and 4 hosts, each with as much of a core.
fn weak_scaling(work: &Work) -> Result<(), String> {
    let Work { each, lanes, sequences, .. } = work;
    println!(
        "\n| {each} ranks a host on {HOST_CORES} of a core, {lanes} lanes of {sequences} sequences a rank, {MEGABITS} Mbit/s | 1 host | 2 hosts | 4 hosts |\n|---|---|---|---|"
    );
    let ways = [MICS, ZERO_3, HERRING];
    let mut rows = vec![Vec::new(); ways.len()];
    for hosts in [1, 2, 4] {
        on_network(hosts, MEGABITS, Some(HOST_CORES), |network| {
            for (row, way) in rows.iter_mut().zip(&ways) {
                let t = measure(network, way, work)?;
                row.push((t.step_secs, t.compute_secs));
            }
            Ok(())
        })?;
    }
    for (row, way) in rows.iter().zip(&ways) {
        let one = row.first().map_or(0.0, |(step, _)| *step);
        let cell = |(step, compute): &(f64, f64)| format!("{:.0}%: {step:.2} s (compute {compute:.2})", 100.0 * one / step);
        println!("| {} | {} |", way.name, row.iter().map(cell).collect::<Vec<_>>().join(" | "));
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
