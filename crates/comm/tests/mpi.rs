//! Processes keep the promises of every communicator, and find who is at fault: this test starts itself under `mpirun`.
//! Where there is none it says so. One scene by hand: `mpirun -n 4 target/debug/deps/mpi-... promises`.

#![allow(clippy::print_stdout, reason = "a test that is its own harness")]

mod suite;

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use comm::{CommError, Communicator, Mpi, Order, Patience, launched_ranks};

/// A fault must be known to all within this.
const KNOWN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if launched_ranks().is_some() {
        scene(&std::env::args().nth(1).unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    if Command::new("mpirun").arg("--version").output().is_err() {
        println!("skipped: there is no mpirun here");
        return ExitCode::SUCCESS;
    }
    let mut failures = 0;
    for ranks in suite::RANKS {
        let (output, _) = mpirun(ranks, "promises");
        failures += check(&format!("promises on {ranks}"), &output, ranks, "kept");
    }
    for (scene, due) in [
        ("dies", "rank 2 failed during all_reduce"),
        ("ends", "rank 2 failed during all_reduce"),
        ("hangs", "rank 1 failed during all_reduce"),
        ("stops", "rank 2 failed during all_reduce"),
        ("differs", "rank 1 failed during all_reduce"),
    ] {
        let (output, time) = mpirun(4, scene);
        let survivors = if scene == "differs" { 4 } else { 3 };
        failures += check(scene, &output, survivors, due);
        if time > KNOWN {
            println!("{scene}: FAILED: known after {time:?}");
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

fn mpirun(ranks: usize, scene: &str) -> (String, Duration) {
    let since = Instant::now();
    let me = std::env::current_exe().unwrap();
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe", "-n", &ranks.to_string()]);
    // When a rank dies, mpirun asks the others to end; like the program itself, a test stays to say who it was.
    command.args(["sh", "-c", "trap '' TERM; exec \"$0\" \"$@\""]).arg(me).arg(scene);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (text, since.elapsed())
}

/// What one rank does, under `mpirun`.
fn scene(name: &str) {
    let mut comm = Mpi::patient(Patience { beat: Duration::from_secs(4), ..Patience::default() }).unwrap().unwrap();
    let rank = comm.rank();
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
            let stop = "kill -STOP $0; sleep 8; kill -CONT $0";
            drop(Command::new("sh").args(["-c", stop, &std::process::id().to_string()]).status());
            return;
        }
        ("hangs", 1) => std::thread::sleep(Duration::from_secs(8)),
        // Slow, but alive.
        ("hangs", 0) => {
            for _ in 0..450 {
                pulse.beat();
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        _ => {}
    }
    let len = if name == "differs" && rank == 1 { 5000 } else { 5001 };
    report(comm.all_reduce(&mut vec![1.0; len], Order::Tree));
}

fn report(result: Result<(), CommError>) {
    println!("{}", result.map_or_else(|error| error.to_string(), |()| "all went well".into()));
}
