//! The whole road in some minutes, with nothing to choose.

use std::{path::PathBuf, process::ExitCode};

use miette::IntoDiagnostic;
use plan::ladder::project::Project;
use report::terminal::bytes;

use super::vision;
use super::{
    plan::price_table,
    project::{climb_and_tell, corpus},
};
use crate::{print, progress::Follow};

/// See it work: real text, three phases with a gate at each, a report; some minutes on a laptop
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin demo\n         hairpin demo --corpus 'books/**/*.txt' --out books-demo\n         hairpin demo --vision\n\nRun it again and it goes on where it stopped. Delete its folder to start anew."
)]
pub(crate) struct DemoArgs {
    /// Folder or glob of text; repeat for more. Default: the sources that cargo fetched
    #[arg(long)]
    corpus: Vec<String>,
    /// Images in place of text: a masked autoencoder, CLIP and diffusion learn from handwritten digits that come along
    #[arg(long, conflicts_with = "corpus")]
    vision: bool,
    /// Folder that it makes [default: hairpin-demo, or hairpin-vision-demo]
    #[arg(long)]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &DemoArgs, json: bool) -> miette::Result<ExitCode> {
    let out = args.out.clone().unwrap_or_else(|| if args.vision { "hairpin-vision-demo" } else { "hairpin-demo" }.into());
    if args.vision {
        return vision::demo(&out, json);
    }
    let path = out.join("hairpin.toml");
    let project = if path.is_file() && args.corpus.is_empty() {
        Project::read(&out)?
    } else {
        let project = Project::demo(corpus(&args.corpus)?);
        std::fs::create_dir_all(&out).into_diagnostic()?;
        disk::write(&path, project.to_toml()).into_diagnostic()?;
        project
    };
    let most = project
        .data
        .corpus
        .max_total_bytes
        .map_or(String::new(), |most| format!(", the first {} of it; `hairpin init` takes all", bytes(most)));
    print::talk(&format!("text: {}{most}", project.data.corpus.paths.join(", ")));
    let follow = Follow::new();
    data::prepare(&project.data, &out.join("data"), &follow)?;
    follow.end();
    print::talk(&price_table(&plan::ladder::climb::price(&project, &out)?));
    climb_and_tell(&project, &out, &[], None, json)
}
