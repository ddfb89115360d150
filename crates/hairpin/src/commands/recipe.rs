//! `hairpin recipe`: the reference of recipes and projects.

use std::process::ExitCode;

use ::plan::reference::{File, Key};

use crate::print;

/// Every key of a recipe or a project: what it changes, its kind and default
#[derive(clap::Args)]
#[command(
    after_help = "Example: hairpin recipe batch\n         hairpin recipe optim.lr\n         hairpin recipe --project data.corpus\n         hairpin recipe --schema > recipe.schema.json"
)]
pub(crate) struct RecipeArgs {
    /// One key or table; default: all
    key: Option<String>,
    /// Of a project's file, `hairpin.toml`
    #[arg(long)]
    project: bool,
    /// Print a JSON schema that editors check files against
    #[arg(long, conflicts_with = "key")]
    schema: bool,
}

pub(crate) fn run(args: &RecipeArgs, json: bool) -> miette::Result<ExitCode> {
    let file = if args.project { File::Project } else { File::Recipe };
    if args.schema {
        print::json(&file.schema())?;
        return Ok(ExitCode::SUCCESS);
    }
    let all = file.keys();
    let is_asked = |key: &Key| {
        let Some(asked) = &args.key else { return true };
        let inside = key.key.strip_prefix(asked.as_str());
        inside.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let keys: Vec<&Key> = all.iter().filter(|key| is_asked(key)).collect();
    if keys.is_empty() {
        let asked = args.key.as_deref().unwrap_or_default();
        let near = models::nearest(asked, all.iter().map(|key| (key.key.rsplit('.').next().unwrap_or(&key.key), key.key.as_str())));
        let help =
            if near.is_empty() { "`hairpin recipe` prints all".to_owned() } else { format!("the nearest are `{}`", near.join("`, `")) };
        miette::bail!(
            code = "recipe::unknown",
            help = help,
            "there is no key `{}` in a {}",
            asked,
            if args.project { "project" } else { "recipe" }
        );
    }
    if json {
        print::json(&keys)?;
        return Ok(ExitCode::SUCCESS);
    }
    for key in keys {
        let default = key.default.as_ref().map_or(String::new(), |default| format!(" = {default}"));
        print::result(&format!("{}{default}\n    {}\n    {}", key.key, key.kind.replace('`', ""), key.what));
    }
    Ok(ExitCode::SUCCESS)
}
