//! What learning from feedback gives: three settings, three seeds each, each with and without pretraining gradients, judged by whom no
//! model learnt from, on prompts that none saw.
//!
//! - `words`: ten people, of whom each has rated every word of a lexicon, rank what a model of reviews and news goes on with; another
//!   lexicon, by other people, judges.
//! - `sums`: an exact checker rewards answers to sums that the base gives as people do of whom half err.
//! - `gold`: a reward model of what people said of whole texts ranks four answers with the errors of a Plackett-Luce ranker; a smaller
//!   amount of such rankings trains the reward model that the policy sees, and the gold one judges.

use std::{fs, path::PathBuf, process::Command};

use crate::bench::number;

const FOLDER: &str = "target/feedback";
const SEEDS: [u64; 3] = [1, 2, 3];
const RATERS: usize = 10;
/// How much the base's own text counts beside a rollout, and how many windows of it.
const PRETRAIN_COEF: f64 = 1.0;
const PRETRAIN_ROWS: usize = 4;

/// What a policy is trained and judged by.
struct Setting {
    name: &'static str,
    /// The project whose text the base learns, and what it goes on from.
    project: &'static str,
    prompts: &'static str,
    held_out: &'static str,
    tokens: usize,
    /// `objective.reward` of the policy, and the judge; `REWARD` and `GOLD` are folders.
    reward: &'static str,
    judge: &'static str,
    kl_coef: f64,
    lr: &'static str,
    steps: u64,
}

const SETTINGS: [Setting; 3] = [
    Setting {
        name: "words",
        project: "texts",
        prompts: "prompts.jsonl",
        held_out: "held-out.jsonl",
        tokens: 16,
        reward: "{ kind = \"model\", path = \"REWARD\" }",
        judge: "lexicon=judge.tsv",
        kl_coef: 0.2,
        lr: "1e-3",
        steps: 160,
    },
    Setting {
        name: "sums",
        project: "sums",
        prompts: "sum-prompts.jsonl",
        held_out: "sum-held-out.jsonl",
        tokens: 6,
        reward: "{ kind = \"signal\", name = \"arithmetic\" }",
        judge: "arithmetic",
        kl_coef: 0.5,
        lr: "5e-4",
        steps: 80,
    },
    Setting {
        name: "gold",
        project: "texts",
        prompts: "prompts.jsonl",
        held_out: "held-out.jsonl",
        tokens: 16,
        reward: "{ kind = \"model\", path = \"REWARD\" }",
        judge: "GOLD",
        kl_coef: 0.2,
        lr: "1e-3",
        steps: 160,
    },
];

/// `cargo xtask bench feedback [SETTING...]`. Stopped, the same command goes on.
pub(crate) fn run(wanted: &[&str]) -> Result<(), String> {
    let hairpin = std::path::absolute(crate::hairpin(&[])?).map_err(text)?;
    let folder = std::env::current_dir().map_err(text)?.join(FOLDER);
    if !folder.join("sum-held-out.jsonl").exists() {
        crate::python(&["xtask/python/feedback.py", FOLDER])?;
    }
    let work = Work { hairpin, folder };
    println!(
        "| setting, seed | wins to a loss (95%) | wins, losses, ties | divergence | reward model | bits per byte before | with pretraining gradients | without | wins to a loss without |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for setting in SETTINGS.iter().filter(|setting| wanted.is_empty() || wanted.contains(&setting.name)) {
        for seed in SEEDS {
            work.row(setting, seed)?;
        }
    }
    Ok(())
}

struct Work {
    hairpin: PathBuf,
    folder: PathBuf,
}

impl Work {
    fn row(&self, setting: &Setting, seed: u64) -> Result<(), String> {
        let base = self.base(setting.project)?;
        let name = format!("{}-{seed}", setting.name);
        let accuracy = if setting.reward.contains("REWARD") { Some(self.reward(setting, seed, &name)?) } else { None };
        let before = self.bits(&base)?;
        let with = self.policy(setting, seed, &name, true)?;
        let without = self.policy(setting, seed, &name, false)?;
        let (verdict, other) = (self.judged(setting, seed, &with, &base)?, self.judged(setting, seed, &without, &base)?);
        let after = [self.bits(&with)?, self.bits(&without)?];
        let of = |key: &str| number(&verdict, key).unwrap_or(f64::NAN);
        let percent = |bits: f64| 100.0 * (bits / before - 1.0);
        let interval = verdict
            .split("\"ratio_interval\"")
            .nth(1)
            .and_then(|rest| rest.split_once('[')?.1.split_once(']'))
            .map_or("", |(inside, _)| inside);
        let interval: Vec<f64> = interval.split(',').filter_map(|one| one.trim().parse().ok()).collect();
        println!(
            "| {name} | {:.2} ({:.2} to {:.2}) | {:.1}%, {:.1}%, {:.1}% | {:.2} | {} | {before:.4} | {:+.2}% | {:+.2}% | {:.2} |",
            of("ratio"),
            interval.first().unwrap_or(&f64::NAN),
            interval.get(1).unwrap_or(&f64::NAN),
            100.0 * of("win_rate"),
            100.0 * of("loss_rate"),
            100.0 * of("tie_rate"),
            of("kl"),
            accuracy.map_or("–".into(), |share| format!("{:.1}%", 100.0 * share)),
            percent(after[0]),
            percent(after[1]),
            number(&other, "ratio").unwrap_or(f64::NAN)
        );
        Ok(())
    }

    /// The policy's answers against its base's.
    fn judged(&self, setting: &Setting, seed: u64, policy: &str, base: &str) -> Result<String, String> {
        let judge = setting.judge.replace("GOLD", "gold");
        let (tokens, seed) = (setting.tokens.to_string(), seed.to_string());
        let out = format!("{policy}/judged");
        self.hairpin(&[
            "align",
            "judge",
            policy,
            base,
            "--prompts",
            setting.held_out,
            "--by",
            &judge,
            "--tokens",
            &tokens,
            "--k",
            "2",
            "--seed",
            &seed,
            "--out",
            &out,
            "--json",
        ])
    }

    /// Prepared data and the base of a project.
    fn base(&self, project: &str) -> Result<String, String> {
        let folder = self.folder.join(project);
        fs::create_dir_all(&folder).map_err(text)?;
        let tokenizer = if project == "sums" { "kind = \"bytes\"" } else { "kind = \"train\"\nvocab = 2048" };
        let rules = "[\"too_short\", \"word_length\", \"few_letters\", \"repeated_lines\", \"repeated_ngram\", \"long_lines\", \"generated\", \"ellipses\"]";
        let toml = format!(
            "name = \"{project}\"\n[data.tokenizer]\n{tokenizer}\n[data.corpus]\npaths = [\"../{project}.jsonl\"]\n[data.clean]\nmin_bytes = 1\noff = {rules}\n\
             [data.dedup]\nexact = false\nnear = false\n[[phases]]\nname = \"base\"\ndata_fraction = 1.0\nrecipe = {{ model = {{ depth = 2 }} }}\n"
        );
        fs::write(folder.join("hairpin.toml"), toml).map_err(text)?;
        self.hairpin(&["data", project])?;
        let run = format!("{project}/base");
        let recipe = format!(
            "[model]\ndepth = 2\n[data]\npath = \"{project}/data\"\n[batch]\nsequences = 64\nmicro_batch = 64\ncontext = 32\n\
             [train]\nsteps = 600\n[eval]\nevery_steps = 200\nwindows = 256\n[checkpoint]\nevery_steps = 200\n"
        );
        self.train(&run, &recipe)?;
        Ok(run)
    }

    /// Responses, rankings and the reward model: its accuracy on rankings of prompts that it did not see.
    fn reward(&self, setting: &Setting, seed: u64, name: &str) -> Result<f64, String> {
        let (base, responses, preferences) =
            (format!("{}/base", setting.project), format!("{name}.responses.jsonl"), format!("{name}.jsonl"));
        let (tokens, text_seed) = (setting.tokens.to_string(), seed.to_string());
        self.hairpin(&[
            "align",
            "sample",
            &base,
            "--prompts",
            setting.prompts,
            "--k",
            "4",
            "--tokens",
            &tokens,
            "--seed",
            &text_seed,
            "--out",
            &responses,
        ])?;
        let rank = |by: &str, noise: &str| {
            self.hairpin(&[
                "align",
                "rank",
                &responses,
                "--by",
                by,
                "--run",
                &base,
                "--noise",
                noise,
                "--seed",
                &text_seed,
                "--out",
                &preferences,
            ])
        };
        if setting.name == "gold" {
            let recipe = self.of(&base, "kind = \"reward\"\npreferences = \"gold.jsonl\"\nk = 4", 1, "lr = 1e-3", [32, 400, 64]);
            self.train("gold", &recipe)?;
            rank("gold", "1.0")?;
        } else {
            for rater in 0..RATERS {
                rank(&format!("lexicon=rater-{rater}.tsv"), "0")?;
            }
        }
        let objective = format!("kind = \"reward\"\npreferences = \"{preferences}\"\nk = 4");
        let run = format!("{name}.reward");
        self.train(&run, &self.of(&base, &objective, seed, "lr = 1e-3", [32, 150, 32]))?;
        let metrics = fs::read_to_string(self.folder.join(&run).join("metrics.jsonl")).map_err(text)?;
        let last = metrics.lines().rev().find(|line| line.contains("\"ranking_accuracy\"")).unwrap_or_default();
        number(last, "ranking_accuracy").ok_or_else(|| "no accuracy was measured".to_owned())
    }

    fn policy(&self, setting: &Setting, seed: u64, name: &str, is_pretraining: bool) -> Result<String, String> {
        let mut objective = format!(
            "kind = \"ppo\"\nprompts = \"{}\"\nresponse_tokens = {}\nrollouts = 128\ninner_epochs = 2\nkl_coef = {}\nmissing_end_penalty = {}\nreward = {}\n",
            setting.prompts,
            setting.tokens,
            setting.kl_coef,
            // An answer to a sum ends; a text may go on.
            if setting.project == "sums" { 1.0 } else { 0.0 },
            setting.reward.replace("REWARD", &format!("{name}.reward"))
        );
        if is_pretraining {
            objective += &format!(
                "pretrain_data = \"{}/data\"\npretrain_coef = {PRETRAIN_COEF:?}\npretrain_rows = {PRETRAIN_ROWS}\n",
                setting.project
            );
        }
        let run = format!("{name}.{}", if is_pretraining { "ppo-ptx" } else { "ppo" });
        let recipe = self.of(
            &format!("{}/base", setting.project),
            &objective,
            seed,
            &format!("lr = {}\nweight_decay = 0.0", setting.lr),
            [64, setting.steps, 32],
        );
        self.train(&run, &recipe)?;
        Ok(run)
    }

    /// A recipe that begins with the base.
    fn of(&self, base: &str, objective: &str, seed: u64, optim: &str, [sequences, steps, context]: [u64; 3]) -> String {
        format!(
            "seed = {seed}\n[model]\n[from]\npath = \"{base}\"\n[objective]\n{objective}\n[optim]\n{optim}\n[schedule]\nwarmup_steps = 10\n\
             [batch]\nsequences = {sequences}\nmicro_batch = {sequences}\ncontext = {context}\n[train]\nsteps = {steps}\n[eval]\nevery_steps = 40\nwindows = 256\n\
             [checkpoint]\nevery_steps = 40\n[guard]\naction = \"off\"\n"
        )
    }

    fn train(&self, run: &str, recipe: &str) -> Result<(), String> {
        let path = self.folder.join(format!("{}.toml", run.replace('/', "-")));
        fs::write(&path, recipe).map_err(text)?;
        self.hairpin(&["train", &path.display().to_string(), "--out", run, "--resume"]).map(|_| ())
    }

    /// Of the held-out text of a run's base.
    fn bits(&self, run: &str) -> Result<f64, String> {
        let project = if run.starts_with("sums") { "sums" } else { "texts" };
        let told = self.hairpin(&["eval", run, "--data", &format!("{project}/data"), "--json"])?;
        number(&told, "bits_per_byte").ok_or_else(|| format!("no bits per byte in {told}"))
    }

    fn hairpin(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.hairpin).args(args).current_dir(&self.folder).output().map_err(text)?;
        if !output.status.success() {
            return Err(format!("hairpin {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
