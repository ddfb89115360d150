//! What people read, word for word: the help of every command, and what is said of mistakes that people make. Golden files, so that a
//! change of words is seen where it is reviewed: `UPDATE_EXPECT=1 cargo test -p hairpin --test words` writes them anew.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use expect_test::expect_file;

/// Run in `folder`; exit code, stdout and stderr with what differs from machine to machine named.
fn hairpin(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hairpin"));
    // A page of its own width wherever it runs.
    let output = command.args(args).current_dir(folder).env("COLUMNS", "100").env("NO_COLOR", "1").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&folder.display().to_string(), "HERE");
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn golden(kind: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind).join(format!("{name}.txt"))
}

/// No golden file stands for what is no more.
fn nothing_else_is_in(kind: &str, names: &BTreeSet<String>) {
    let folder = golden(kind, "x").parent().unwrap().to_owned();
    let there = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned());
    assert_eq!(there.collect::<BTreeSet<String>>(), *names);
}

/// Commands that the help of one lists.
fn listed(help: &str) -> Vec<String> {
    let Some((_, commands)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let rows = commands.lines().take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    rows.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn help_of_every_command() {
    let here = tempfile::tempdir().unwrap();
    let (mut next, mut names) = (vec![Vec::new()], BTreeSet::new());
    while let Some(command) = next.pop() {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let (code, help, _) = hairpin(here.path(), &args);
        assert_eq!(code, 0, "{args:?}");
        assert!(help.contains("\nExample") || help.contains("\nCommands:"), "an example of {args:?}");
        next.extend(listed(&help).into_iter().map(|name| [command.as_slice(), &[name]].concat()));
        let name = if command.is_empty() { "hairpin".to_owned() } else { command.join("-") };
        expect_file![golden("help", &name)].assert_eq(&help);
        names.insert(name);
    }
    nothing_else_is_in("help", &names);
}

/// A mistake by its name, what is there when it is made, and what is typed.
struct Mistake(&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

const RECIPE: &str = "[model]\ndepth = 1\n";
const PROJECT: &str =
    "name = \"x\"\n[data.corpus]\npaths = [\"corpus\"]\n[[phases]]\nname = \"a\"\ndata_fraction = 1.0\n[phases.recipe.model]\ndepth = 1\n";

const MISTAKES: &[Mistake] = &[
    Mistake("no-command", &[], &["trian"]),
    Mistake("recipe-absent", &[], &["train", "none.toml", "--out", "run"]),
    Mistake("recipe-is-no-toml", &[("r.toml", "[model\n")], &["train", "r.toml", "--out", "run"]),
    Mistake("recipe-key", &[("r.toml", "[model]\ndepth = 1\n[optim]\nlearning_rate = 1\n")], &["train", "r.toml", "--out", "run"]),
    Mistake("recipe-value", &[("r.toml", "[model]\ndepth = 1\n[batch]\nlanes = 3\n")], &["train", "r.toml", "--out", "run"]),
    Mistake("recipe-kind", &[("r.toml", "[model]\ndepth = \"four\"\n")], &["plan", "r.toml", "--on", "p4d.24xlarge"]),
    Mistake("recipe-model", &[("r.toml", "[model]\npreset = \"gpt2-125m\"\n")], &["plan", "r.toml", "--on", "p4d.24xlarge"]),
    Mistake(
        "recipe-objective",
        &[("r.toml", "[model]\ndepth = 1\n[objective]\nkind = \"rewards\"\n")],
        &["train", "r.toml", "--out", "run"],
    ),
    Mistake("set-key", &[("r.toml", RECIPE)], &["train", "r.toml", "--out", "run", "--set", "optim.speed=1"]),
    Mistake("strategy", &[("r.toml", RECIPE)], &["train", "r.toml", "--out", "run", "--strategy", "zero9"]),
    Mistake("model-and-data", &[("r.toml", "[model]\ndepth = 1\nlayers = 0\n")], &["train", "r.toml", "--out", "run"]),
    Mistake("data-absent", &[("r.toml", RECIPE)], &["train", "r.toml", "--out", "run"]),
    Mistake("from-absent", &[("r.toml", RECIPE)], &["train", "r.toml", "--out", "run", "--from", "runs/none"]),
    Mistake("project-absent", &[], &["climb", "."]),
    Mistake("project-key", &[("hairpin.toml", "name = \"x\"\nphase = []\n")], &["climb", "."]),
    Mistake("project-without-phases", &[("hairpin.toml", "name = \"x\"\n[data.corpus]\npaths = [\"corpus\"]\n")], &["climb", "."]),
    Mistake("corpus-absent", &[("hairpin.toml", PROJECT)], &["data", "."]),
    Mistake("corpus-of-one", &[("hairpin.toml", PROJECT), ("corpus/a.txt", "One line of text, and no other.")], &["data", "."]),
    Mistake("init-corpus-absent", &[], &["init", "new", "--corpus", "nowhere"]),
    Mistake("run-absent", &[], &["eval", "runs/none"]),
    Mistake("generate-absent", &[], &["generate", "runs/none", "--prompt", "a"]),
    Mistake("export-absent", &[], &["export", "runs/none", "out"]),
    Mistake("import-absent", &[], &["import", "none", "run"]),
    Mistake("import-without-config", &[("folder/model.safetensors", "")], &["import", "folder", "run"]),
    Mistake("import-of-a-kind", &[("folder/config.json", "{\"model_type\": \"mamba2\"}")], &["import", "folder", "run"]),
    Mistake("import-key", &[("folder/config.json", "{\"model_type\": \"llama\", \"new_key\": 1}")], &["import", "folder", "run"]),
    Mistake("report-of-nothing", &[], &["report", "."]),
    Mistake("plan-instance", &[], &["plan", "--budget-usd", "1M", "--on", "p4de.25xlarge", "--data", "1T"]),
    Mistake("plan-unit", &[], &["plan", "--budget-usd", "a lot", "--on", "p4d.24xlarge"]),
    Mistake("plan-of-machines", &[("r.toml", RECIPE)], &["plan", "r.toml", "--on", "p4d.24xlarge:0"]),
    Mistake("launch-place", &[("r.toml", RECIPE)], &["launch", "r.toml", "--on", "lambda:1", "--dry-run"]),
    Mistake("launch-sweep", &[("r.toml", RECIPE)], &["launch", "r.toml", "--on", "local", "--sweep", "optim.lr", "--dry-run"]),
    Mistake("job-absent", &[], &["logs", "none"]),
    Mistake("preferences-absent", &[], &["align", "stats", "none.jsonl"]),
    Mistake("preferences-of-a-kind", &[("p.jsonl", "{\"text\": \"a\"}\n")], &["align", "stats", "p.jsonl"]),
    Mistake("recipe-reference", &[], &["recipe", "optim.learning_rate"]),
];

#[test]
fn what_is_said_of_mistakes() {
    let mut names = BTreeSet::new();
    for Mistake(name, files, args) in MISTAKES {
        let here = tempfile::tempdir().unwrap();
        for (file, text) in *files {
            let path = here.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let (code, out, err) = hairpin(here.path(), args);
        assert!(code != 0 && code != 70 && out.is_empty(), "{name}: exit {code}\n{out}{err}");
        expect_file![golden("mistakes", name)].assert_eq(&format!("hairpin {}\nexit {code}\n\n{err}", args.join(" ")));
        names.insert((*name).to_owned());
    }
    nothing_else_is_in("mistakes", &names);
}

/// Questions that nothing of this machine answers.
const QUESTIONS: &[(&str, &[&str])] = &[
    ("budget", &["--budget-usd", "2M", "--on", "p4d.24xlarge", "--deadline-days", "60", "--data", "1T", "--prices-of", "2023-03"]),
    ("recipe", &["RECIPES/llama-7b.toml", "--on", "p4d.24xlarge:8", "--prices-of", "2023-03"]),
    ("data", &["data", "web=en:1.9TB", "books=de:300GB x4", "code=code:200GB", "--kept", "0.5", "--nodes", "8"]),
    ("reading", &["reading", "--tokens", "1T", "--params", "40B", "--on", "p4d.24xlarge"]),
    ("reliability", &["reliability", "--params", "50.6B", "--on", "p4d.24xlarge", "--nodes", "64"]),
];

#[test]
fn answers_of_the_planner() {
    let (here, recipes) = (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes"));
    for (name, args) in QUESTIONS {
        let args: Vec<String> = args.iter().map(|arg| arg.replace("RECIPES", &recipes.display().to_string())).collect();
        let (code, answer, _) = hairpin(here.path(), &["plan"].into_iter().chain(args.iter().map(String::as_str)).collect::<Vec<_>>());
        assert_eq!(code, 0, "{args:?}");
        expect_file![golden("answers", name)].assert_eq(&answer);
    }
    nothing_else_is_in("answers", &QUESTIONS.iter().map(|(name, _)| (*name).to_owned()).collect());
}
