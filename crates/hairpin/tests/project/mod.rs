//! A project whose data is prepared, and the program at work in it.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::corpus;

pub fn hairpin(args: &[&str], at: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hairpin")).args(args).current_dir(at).stdin(Stdio::null()).output().unwrap()
}

pub fn ok(args: &[&str], at: &Path) -> String {
    let output = hairpin(args, at);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub const RECIPE: &str = "name = \"small\"\n[model]\ndepth = 1\n[batch]\nsequences = 4\nmicro_batch = 4\ncontext = 32\n[train]\nsteps = 40\n\
                      [checkpoint]\nevery_steps = 10\n[eval]\nwindows = 4\n";

/// A folder with prepared data and a recipe.
pub fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    corpus::write(at);
    let text = format!(
        "name = \"jobs\"\n[data]\nheld_out_ratio = 0.1\ntokenizer = {{ kind = \"bytes\" }}\n[data.corpus]\npaths = [{:?}]\n[data.dedup]\nnear = false\n\
         [data.clean]\noff = [\"repeated_ngram\"]\n[recipe]\nbatch = {{ sequences = 4, micro_batch = 4, context = 32 }}\ncheckpoint = {{ every_steps = 10 }}\n\
         [[phases]]\nname = \"one\"\ndata_fraction = 1.0\nrecipe = {{ model = {{ depth = 1 }}, train = {{ steps = 60 }} }}\n",
        at.join("corpus").display().to_string()
    );
    fs::write(at.join("hairpin.toml"), text).unwrap();
    fs::write(at.join("small.toml"), RECIPE).unwrap();
    ok(&["data"], at);
    folder
}

/// Of the last checkpoint.
pub fn weights(run: &Path) -> Vec<u8> {
    let last = fs::read_dir(run).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).max().unwrap();
    let file = fs::read_dir(last).unwrap().flatten().map(|e| e.path()).find(|path| path.extension().is_some_and(|e| e == "safetensors"));
    fs::read(file.unwrap()).unwrap()
}
