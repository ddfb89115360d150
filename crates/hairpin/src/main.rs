//! The command line: parse, call one library function, print. Results go to stdout, talk to stderr.
//!
//! Exit codes: 0 done, 1 a gate failed or a budget is passed, 2 wrong input, 3 the environment, 70 a bug of ours.

mod commands;
mod print;
mod progress;

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
static ALLOCATOR: engine::HugePages = engine::HugePages;

/// Set by Ctrl-C and SIGTERM; long work looks at it and ends cleanly. A second Ctrl-C ends at once.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

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
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    let _ = ctrlc::set_handler(on_signal);
    let cli = Cli::parse();
    // On a thread of the pool, so that its parallel loops begin at once and need not wake it when they end.
    let run = || rayon::scope(|_| commands::run(&cli.command, cli.json));
    let result = match kernels::check_env() {
        Ok(_) => match std::panic::catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => result,
            Err(_) => {
                let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
                print::talk(&format!("{panic}\nThis is a bug of hairpin. Finished checkpoints are whole; please report the lines above."));
                return ExitCode::from(70);
            }
        },
        Err(error) => Err(miette::miette!(
            code = "kernels::level",
            help = "unset HAIRPIN_KERNELS, or choose one that `hairpin doctor` lists",
            "{error}"
        )),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let code = error.code().map(|code| code.to_string()).unwrap_or_default();
            print::talk(&format!("{error:?}"));
            ExitCode::from(exit_code(&code))
        }
    }
}

fn exit_code(code: &str) -> u8 {
    match code {
        "plan::budget" => 1,
        code if ["::io", "::locked", "::cancelled", "::pool_full", "::memory"].iter().any(|end| code.ends_with(end)) => 3,
        _ => 2,
    }
}
