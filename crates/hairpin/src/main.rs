//! The command line: parse, call one library function, print. Results go to stdout, talk to stderr.
//!
//! Exit codes: 0 done, 1 a gate failed or a budget is passed, 2 wrong input, 3 the environment (disk, memory, another run,
//! a rank that hangs, stdout, a wish to stop), 70 a bug of ours, 130 a signal to what had nothing to save.

mod commands;
#[cfg(test)]
mod examples;
mod print;
mod progress;
mod talk;

use std::{
    panic::AssertUnwindSafe,
    process::ExitCode,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Parser;
use train::clock::Clock;

#[global_allocator]
static ALLOCATOR: memory::HugePages = memory::HugePages;

/// Set by Ctrl-C and SIGTERM; work that has something to save looks at it and ends cleanly. A second Ctrl-C ends at once.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

/// Whether anyone looks at [`STOP`]. All else that writes leaves the old or the new, so that it may end at any moment.
pub(crate) static SAVES: AtomicBool = AtomicBool::new(false);

/// See where it is used.
const LEAST_BYTES: u64 = 64 << 20;

/// Where the last panic was and what it said.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Since the process started.
pub(crate) static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::start);

/// Take a foundation model round every bend of its road: plan, data, a ladder of phases with gates, and out again.
#[derive(Parser)]
#[command(name = "hairpin", version, max_term_width = 100, after_help = "Example: hairpin demo")]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    json: bool,
}

fn main() -> ExitCode {
    LazyLock::force(&CLOCK);
    // Kept, not printed: a panic that is caught on its way (in a library that reads a torn file) is nobody's concern.
    std::panic::set_hook(Box::new(|panic| *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string()));
    let on_signal = || {
        if STOP.swap(true, Ordering::Relaxed) || !SAVES.load(Ordering::Relaxed) {
            end_at_once(130);
        }
        std::thread::spawn(progress::asked_to_stop);
    };
    let _ = ctrlc::set_handler(on_signal);
    align::register();
    vision::register();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are results, which may not get lost on a full disk.
        Err(help) if !help.use_stderr() => {
            print::result(&help.to_string());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            print::talk(&error.to_string());
            return ExitCode::from(2);
        }
    };
    // On a thread of the pool, so that its parallel loops begin at once and need not wake it when they end.
    let run = || rayon::scope(|_| commands::run(&cli.command, cli.json));
    let free_bytes = limits::available_bytes().unwrap_or(u64::MAX);
    let result = match kernels::check_env() {
        // Threads, tables and texts take that much anywhere, and the system ends who is refused memory in between.
        _ if free_bytes < LEAST_BYTES => Err(miette::miette!(
            code = "hairpin::memory",
            help = "raise the limit of the control group, or of `ulimit -v` and `ulimit -d`",
            "{} MiB of memory are left to this process, and {} are the least that any command takes",
            free_bytes >> 20,
            LEAST_BYTES >> 20
        )),
        Ok(_) => match std::panic::catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => result,
            Err(_) => {
                let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
                print::talk(&format!("{panic}\nThis is a bug of hairpin. Finished checkpoints are whole; please report the lines above."));
                fail(70)
            }
        },
        Err(error) => Err(miette::miette!(
            code = "kernels::level",
            help = "unset HAIRPIN_KERNELS, or choose one that `hairpin doctor` lists",
            "{error}"
        )),
    };
    progress::end();
    match result {
        Ok(code) => code,
        Err(error) => {
            let code = error.code().map(|code| code.to_string()).unwrap_or_default();
            print::error(&error);
            fail(exit_code(&code))
        }
    }
}

/// End after what went wrong was said, and other processes of the job have found it too.
fn fail(code: i32) -> ! {
    train::ranks::farewell();
    end_at_once(code)
}

/// Without what else runs at an exit: threads that are still at work would find MPI, say, taken down under them.
#[allow(unsafe_code)]
pub(crate) fn end_at_once(code: i32) -> ! {
    // SAFETY: it never returns, and runs no code of ours.
    unsafe { libc::_exit(code) }
}

fn exit_code(code: &str) -> i32 {
    match code {
        "plan::budget" | "launch::budget" => 1,
        "store::away" | "store::refused" | "checkpoint::not_uploaded" | "checkpoint::apart" => 3,
        code if ["::io", "::locked", "::cancelled", "::pool_full", "::memory", "::rank", "::client", "::call"]
            .iter()
            .any(|end| code.ends_with(end)) =>
        {
            3
        }
        _ => 2,
    }
}
