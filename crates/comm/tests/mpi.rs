//! Processes keep the promises of every communicator, and find who is at fault: this test starts itself under `mpirun`.
//! Where there is none it says so. One scene by hand: `mpirun -n 4 target/debug/deps/mpi-... promises`.

#![allow(clippy::print_stdout, reason = "a test that is its own harness")]

mod suite;

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use comm::{CommError, Communicator, Mpi, Order, farewell, launched};

/// A fault must be known to all within this.
const KNOWN_SECS: f64 = 10.0;

fn main() -> ExitCode {
    if launched().is_some() {
        scene(&std::env::args().nth(1).unwrap_or_default());
        farewell();
        return ExitCode::SUCCESS;
    }
    if Command::new("mpirun").arg("--version").output().is_err() {
        println!("skipped: there is no mpirun here");
        return ExitCode::SUCCESS;
    }
    let mut failures = 0;
    for ranks in suite::RANKS {
        let output = mpirun(ranks, "promises");
        failures += check(&format!("promises on {ranks}"), &output, ranks, "kept");
    }
    for (scene, due) in [
        ("dies", "rank 2 failed during all_reduce"),
        ("ends", "rank 2 failed during all_reduce"),
        ("hangs", "rank 1 failed during all_reduce"),
        ("stops", "rank 2 failed during all_reduce"),
        ("differs", "rank 1 failed during all_reduce"),
        ("sleeps", "all went well"),
    ] {
        let output = mpirun(4, scene);
        let survivors = if matches!(scene, "differs" | "sleeps") { 4 } else { 3 };
        failures += check(scene, &output, survivors, due);
        let known = output.lines().filter(|line| line.contains("failed during")).filter_map(|line| line.rsplit(' ').nth(1)?.parse().ok());
        let last = known.fold(0.0, f64::max);
        if last > KNOWN_SECS {
            println!("{scene}: FAILED: known after {last} s");
            failures += 1;
        }
    }
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(scene: &str, output: &str, times: usize, due: &str) -> usize {
    let found = output.lines().filter(|line| line.contains(due)).count();
    println!("{scene}: {}", if found == times { "ok" } else { "FAILED" });
    if found == times {
        return 0;
    }
    println!("`{due}` {found} times where {times} were due, in:\n{output}");
    1
}

fn mpirun(ranks: usize, scene: &str) -> String {
    let me = std::env::current_exe().unwrap();
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "-n", &ranks.to_string()]);
    // When a rank dies, mpirun asks the others to end; like the program itself, a test stays to say who it was.
    command.args(["sh", "-c", "trap '' TERM; exec \"$0\" \"$@\""]).arg(me).arg(scene);
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What one rank does, under `mpirun`.
fn scene(name: &str) {
    let mut comm = Mpi::world().unwrap().unwrap();
    let (rank, since) = (comm.rank(), Instant::now());
    let pulse = comm.pulse();
    let _held = pulse.hold();
    match (name, rank) {
        ("promises", _) => {
            suite::promises(Box::new(comm));
            println!("kept");
            return;
        }
        ("dies", 2) => drop(Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status()),
        ("ends", 2) => return,
        ("stops", 2) => {
            drop(stop(14).status());
            return;
        }
        // The whole job, as Ctrl-Z does, for longer than anyone's patience, again and again at its work.
        ("sleeps", _) => {
            let sleeper = std::thread::spawn(|| {
                for secs in [9, 1, 1, 1, 1] {
                    drop(stop(secs).status());
                    std::thread::sleep(Duration::from_millis(300));
                }
            });
            let mut result = Ok(());
            while result.is_ok() {
                let mut left = [f32::from(!sleeper.is_finished())];
                result = comm.all_reduce(&mut left, Order::Tree).and_then(|()| comm.all_reduce(&mut vec![1.0; 5001], Order::Any));
                pulse.beat();
                if left[0] == 0.0 {
                    break;
                }
            }
            return report(since, result);
        }
        ("hangs", 1) => std::thread::sleep(Duration::from_secs(14)),
        // Slow, but alive.
        ("hangs", 0) => {
            for _ in 0..850 {
                pulse.beat();
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        _ => {}
    }
    let len = if name == "differs" && rank == 1 { 5000 } else { 5001 };
    report(since, comm.all_reduce(&mut vec![1.0; len], Order::Tree));
}

/// This process stands still for so long, as of now.
fn stop(secs: u32) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -STOP $0; sleep $1; kill -CONT $0"]).args([std::process::id(), secs].map(|n| n.to_string()));
    command
}

fn report(since: Instant, result: Result<(), CommError>) {
    println!(
        "{}",
        result.map_or_else(|error| format!("{error}, known after {:.1} s", since.elapsed().as_secs_f64()), |()| "all went well".into())
    );
}
