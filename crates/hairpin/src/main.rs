//! The command line: parse, call one library function, print. Results go to stdout, talk to stderr.
//!
//! Exit codes: 0 done, 1 a gate failed or a budget is passed, 2 wrong input, 3 the environment, 70 a bug of ours.

mod commands;
mod print;
mod progress;

use std::{
    process::ExitCode,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Parser;
use train::clock::Clock;

/// Set by Ctrl-C and SIGTERM; long work looks at it and ends cleanly. A second Ctrl-C ends at once.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

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
    std::panic::set_hook(Box::new(|panic| {
        use std::io::Write;
        let text = format!("{panic}\nThis is a bug of hairpin. Finished checkpoints are whole; please report the lines above.\n");
        let _ = std::io::stderr().write_all(text.as_bytes());
        std::process::exit(70);
    }));
    let on_signal = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    let _ = ctrlc::set_handler(on_signal);
    let cli = Cli::parse();
    let result = match kernels::check_env() {
        Ok(_) => commands::run(&cli.command, cli.json),
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
        code if ["::io", "::locked", "::cancelled", "::pool_full"].iter().any(|end| code.ends_with(end)) => 3,
        _ => 2,
    }
}
