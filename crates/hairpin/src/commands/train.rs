//! One run of one recipe.

use std::{path::PathBuf, process::ExitCode};

use ::train::{
    ranks,
    recipe::{Beginning, Recipe},
    run as training,
};
use report::terminal::{bytes, secs};

use crate::{STOP, print, progress::Follow};

/// Train a recipe; Ctrl-C saves and ends, `--resume` goes on to the same bits
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin train recipes/small.toml --out runs/small --set optim.lr=3e-4\n         hairpin train recipes/small.toml --out runs/small --resume\n         hairpin train recipes/small.toml --from runs/other --out runs/tuned\n         hairpin train recipes/small.toml --out s3://my-bucket/small"
)]
pub(crate) struct TrainArgs {
    /// The recipe
    recipe: PathBuf,
    /// Folder for checkpoints and metrics, or a URL: s3://, gs://, az://, file://
    #[arg(long)]
    out: PathBuf,
    /// Go on from the newest whole checkpoint in `--out`
    #[arg(long)]
    resume: bool,
    /// Begin with the weights of a run, a checkpoint or an imported model, under a fresh optimiser unless `from.optimiser` is true
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// On so many ranks, threads of this process, or the processes that `mpirun` started; the bits are the same on any number that divides `batch.lanes`
    #[arg(long)]
    ranks: Option<usize>,
    /// How ranks share the work: replicated, param_server, herring, zero1, zero2, zero3, mics
    #[arg(long)]
    strategy: Option<String>,
    /// Change one key of the recipe, e.g. `optim.lr=3e-4`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub(crate) fn run(args: &TrainArgs, json: bool) -> miette::Result<ExitCode> {
    let ranks = args.ranks.or(ranks::launched_ranks()).map(|ranks| format!("parallel.ranks={ranks}"));
    let strategy = args.strategy.as_ref().map(|name| format!("parallel.strategy={name}"));
    let mut recipe = Recipe::read(&args.recipe, &args.set.iter().cloned().chain(ranks).chain(strategy).collect::<Vec<_>>())?;
    if let Some(path) = &args.from {
        recipe.from = Some(Beginning { path: path.clone(), ..recipe.from.unwrap_or_default() });
    }
    let mut follow = Follow::new();
    let outcome = training::train(&recipe, &args.out, args.resume, &STOP, &mut follow);
    follow.end();
    let outcome = outcome?;
    if !ranks::is_first() {
        return Ok(ExitCode::SUCCESS);
    }
    if json {
        print::json(&outcome)?;
    } else {
        let bits = outcome.held_out.map_or(String::new(), |metric| format!(", held-out {metric}"));
        print::result(&format!(
            "step {}: loss {:.4}{bits}; {} here, {} of memory; checkpoints in {}",
            outcome.step,
            outcome.loss,
            secs(outcome.secs),
            bytes(outcome.used_bytes),
            args.out.display()
        ));
    }
    if outcome.is_stopped {
        print::talk("stopped and saved; `--resume` goes on from here");
        return Ok(ExitCode::from(3));
    }
    Ok(ExitCode::SUCCESS)
}
