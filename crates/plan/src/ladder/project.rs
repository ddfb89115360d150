//! A project: one corpus, one family of models, and the phases of its ladder; the file `hairpin.toml`.

use std::path::{Path, PathBuf};

use data::{PrepareOptions, TokenizerOptions};
use serde::{Deserialize, Serialize};
use train::recipe::Recipe;

use crate::PlanError;

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// What it is called in tables and reports.
    pub name: String,
    /// The machines that it was planned for, such as `p4d.24xlarge:48`; none: the one that climbs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// Stop before a phase that would take the whole climb beyond this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_secs: Option<f64>,
    /// Which text, and how it is prepared. Paths are seen from the folder of the project's file.
    pub data: PrepareOptions,
    /// Of a project of images: what of them is kept, by `hairpin data`.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub images: vision::prepare::PrepareOptions,
    /// What all phases share: a recipe without the tables that phases set.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    #[serde(default)]
    pub recipe: toml::Table,
    /// The rungs of the ladder, in the order in which they are climbed.
    pub phases: Vec<Phase>,
}

/// Of a project's file.
const LARGEST_BYTES: u64 = 1 << 20;

/// What the demo takes of a corpus, and the steps of its phases.
pub const DEMO_BYTES: u64 = 24 << 20;
const DEMO_STEPS: [u64; 3] = [200, 220, 215];
/// Of the demo's steps, for the largest corpora.
const MOST_GROWTH: f64 = 6.0;
/// Below it a vocabulary of thousands has words that training never sees.
const LITTLE_BYTES: f64 = (2 << 20) as f64;
/// Up to four epochs repeated text is nearly as good as fresh (Muennighoff et al., arXiv:2305.16264); small models that are trained
/// briefly go on learning for some more.
const MOST_EPOCHS: f64 = 8.0;
/// Warm-up, a while at the peak, and the way down.
const LEAST_STEPS: f64 = 60.0;

/// One rung: a share of the data and what differs from the shared recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Part of its folder's name, and its own.
    pub name: String,
    /// The share of the training data that it reads; above 0, at most 1.
    pub data_fraction: f64,
    /// Tables laid over the shared recipe, such as `model = { depth = 4 }`.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    #[serde(default)]
    pub recipe: toml::Table,
}

fn is_usual(images: &vision::prepare::PrepareOptions) -> bool {
    *images == vision::prepare::PrepareOptions::default()
}

impl Project {
    /// Read `hairpin.toml` of a project's folder, or the file itself.
    /// # Errors
    /// [`PlanError::Project`] with line and key.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        let path = if path.is_dir() { path.join("hairpin.toml") } else { path.to_owned() };
        let wrong = |problem: String| PlanError::Project { origin: path.display().to_string(), problem };
        let text = disk::read_text(&path, LARGEST_BYTES).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => wrong(format!("{e}; `hairpin init` makes one")),
            _ => train::TrainError::Io { action: "read the project file", path: path.clone(), source: e }.into(),
        })?;
        let mut project: Self = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        project.see_paths_from(path.parent().unwrap_or(Path::new("")));
        if project.phases.is_empty() {
            return Err(wrong("there are no `[[phases]]`".into()));
        }
        project.check_names().map_err(wrong)?;
        Ok(project)
    }

    /// What the file calls `corpus` lies beside it, wherever a command is run.
    fn see_paths_from(&mut self, folder: &Path) {
        for path in self.data.corpus.paths.iter_mut().filter(|path| !path.contains("://")) {
            *path = folder.join(&*path).display().to_string();
        }
        if let TokenizerOptions::Load { path, .. } = &mut self.data.tokenizer {
            *path = folder.join(&*path);
        }
    }

    /// A phase's name is part of its folder's, and tells phases apart.
    fn check_names(&self) -> Result<(), String> {
        for index in 0..self.phases.len() {
            let name = &self.phases[index].name;
            let shown = || disk::printable_line(name).chars().take(40).collect::<String>();
            // The name alone, which the number before it would make harmless; and the folder's, which may be too long.
            let whole = self.folder_name(index);
            disk::plain_name(name)
                .and_then(|()| disk::plain_name(&whole))
                .map_err(|problem| format!("phases: the name `{}` of phase {} {problem}", shown(), index + 1))?;
            if let Some(before) = self.phases[..index].iter().position(|phase| phase.name == *name) {
                return Err(format!("phases: {} and {} are both called `{}`", before + 1, index + 1, shown()));
            }
        }
        Ok(())
    }

    /// `1-base`
    fn folder_name(&self, index: usize) -> String {
        format!("{}-{}", index + 1, self.phases[index].name)
    }

    /// Whether its models learn from images: by the first phase's kind. They are read where `data.corpus.paths` says, or from `data` once
    /// `hairpin data` has prepared them there.
    #[must_use]
    pub fn is_of_images(&self) -> bool {
        let kind =
            |table: &toml::Table| table.get("model").and_then(|model| model.get("kind")).and_then(toml::Value::as_str).map(str::to_owned);
        let named = self.phases.first().and_then(|phase| kind(&phase.recipe)).or_else(|| kind(&self.recipe));
        named.and_then(|name| models::KINDS.find(&name)).is_some_and(|kind| kind.unit != "tokens")
    }

    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// The recipe of phase `index` (from 0) of the project in `folder`.
    /// # Errors
    /// When the tables together are no recipe.
    pub fn recipe(&self, index: usize, folder: &Path) -> Result<Recipe, PlanError> {
        let phase = &self.phases[index];
        let mut table = self.recipe.clone();
        models::lay_over(&mut table, &phase.recipe);
        table.insert("name".into(), phase.name.clone().into());
        let prepared = folder.join("data");
        let is_raw = self.is_of_images() && vision::prepare::manifest(&prepared).is_none();
        let path = if is_raw { self.data.corpus.paths.first().map(PathBuf::from) } else { Some(prepared) };
        let data = table.entry("data").or_insert_with(|| toml::Table::new().into());
        if let Some((data, path)) = data.as_table_mut().zip(path) {
            data.insert("path".into(), path.display().to_string().into());
            data.insert("fraction".into(), phase.data_fraction.into());
        }
        self.see_phases(&mut table, index, folder)?;
        let text = toml::to_string_pretty(&table).unwrap_or_default();
        Ok(Recipe::parse(&text, &format!("phase {} `{}`", index + 1, phase.name), &[])?)
    }

    /// In a phase that begins with an earlier one, or is judged by one, their names stand for their folders; the model is that of the phase
    /// that it begins with, and what it learns from lies beside the project's file.
    fn see_phases(&self, table: &mut toml::Table, index: usize, folder: &Path) -> Result<(), PlanError> {
        let place = |name: &str| self.phases[..index].iter().position(|phase| phase.name == name);
        let begins = table.get("from").and_then(|from| from.get("path")).and_then(toml::Value::as_str).and_then(place);
        if let Some(before) = begins {
            let theirs = models::build(&with_vocab(&self.recipe(before, folder)?.model)).map_err(train::TrainError::from)?.config();
            let own = table.entry("model").or_insert_with(|| toml::Table::new().into());
            for (key, value) in theirs.into_iter().filter(|(key, _)| !["vocab", "head"].contains(&key.as_str())) {
                if let Some(own) = own.as_table_mut() {
                    own.entry(key).or_insert(value);
                }
            }
        }
        let mut see = |path: &[&str], is_file: bool| {
            let (last, tables) = path.split_last()?;
            let at = tables.iter().try_fold(&mut *table, |at, key| at.get_mut(*key)?.as_table_mut())?;
            let named = at.get(*last)?.as_str()?;
            let seen = match place(named) {
                Some(before) => self.phase_folder(before, folder),
                None if is_file && !named.contains("://") => folder.join(named),
                None => return None,
            };
            at.insert((*last).to_owned(), seen.display().to_string().into());
            Some(())
        };
        for path in [&["from", "path"][..], &["objective", "reward", "path"], &["objective", "gold", "path"]] {
            see(path, false);
        }
        for file in ["prompts", "preferences", "demonstrations", "originals", "pretrain_data"] {
            see(&["objective", file], true);
        }
        Ok(())
    }

    /// Where phase `index` (from 0) keeps its checkpoints.
    #[must_use]
    pub fn phase_folder(&self, index: usize, folder: &Path) -> PathBuf {
        folder.join("phases").join(self.folder_name(index))
    }

    /// A ladder of three phases for a laptop and some minutes, over all of `corpus`, of which about `text_bytes` are known to be there.
    /// More text, more steps: time grows with its root, up to tens of minutes. Little text is cut into pieces, so that some can be
    /// held out, and no phase sees its share more often than a model still learns from.
    #[must_use]
    pub fn small(corpus: Vec<String>, text_bytes: u64) -> Self {
        let bytes = text_bytes as f64;
        let growth = (bytes / DEMO_BYTES as f64).sqrt().clamp(1.0, MOST_GROWTH);
        let is_little = bytes < LITTLE_BYTES;
        let (shares, context) = if is_little { ([0.25, 0.5, 1.0], 128) } else { ([0.1, 0.3, 1.0], 256) };
        let tokens = bytes / if is_little { 2.5 } else { 4.0 };
        let mut project = Self::demo(corpus);
        project.data.corpus.max_total_bytes = None;
        project.data.corpus.max_document_bytes = (text_bytes / 64).clamp(4 << 10, project.data.corpus.max_document_bytes);
        if is_little {
            project.data.held_out_ratio = 0.1;
            project.data.tokenizer = TokenizerOptions::Train { vocab: 1024, sample_bytes: LITTLE_BYTES as u64 };
        }
        let shared = format!(
            "batch = {{ context = {context} }}\neval = {{ every_steps = {every:.0}, windows = 256 }}\ncheckpoint = {{ every_steps = {every:.0} }}",
            every = 100.0 * growth
        );
        models::lay_over(&mut project.recipe, &shared.parse().unwrap_or_default());
        for (phase, (share, steps)) in project.phases.iter_mut().zip(shares.into_iter().zip(DEMO_STEPS)) {
            phase.data_fraction = share;
            let most = MOST_EPOCHS * share * tokens / (8 * context) as f64;
            let steps = (steps as f64 * growth).min(most).max(LEAST_STEPS).round();
            models::lay_over(&mut phase.recipe, &format!("train = {{ steps = {steps} }}").parse().unwrap_or_default());
        }
        project
    }

    /// The ladder of `hairpin demo`: a few minutes, over the first 24 MiB of `corpus`, 10%, 30% and all of them.
    #[must_use]
    pub fn demo(corpus: Vec<String>) -> Self {
        let mut data = PrepareOptions::default();
        data.corpus.paths = corpus;
        data.corpus.max_total_bytes = Some(DEMO_BYTES);
        data.held_out_ratio = 0.03;
        let recipe = "
            [batch]\nsequences = 8\nmicro_batch = 8\ncontext = 256\n
            [optim]\nkind = 'muon'\nlr = 0.006\nmuon_lr = 0.03\n
            [schedule]\nkind = 'wsd'\nwarmup_steps = 15\ndecay_ratio = 0.6\nfloor_ratio = 0.02\n
            [eval]\nevery_steps = 100\nwindows = 48\n
            [checkpoint]\nevery_steps = 100\n";
        let phase = |name: &str, data_fraction: f64, depth: i64, steps: u64| {
            let text = format!("model = {{ depth = {depth} }}\ntrain = {{ steps = {steps} }}");
            Phase { name: name.into(), data_fraction, recipe: text.parse().unwrap_or_default() }
        };
        let [base, medium, large] = DEMO_STEPS;
        Self {
            name: "small".into(),
            on: None,
            budget_secs: None,
            images: vision::prepare::PrepareOptions::default(),
            data,
            recipe: recipe.parse().unwrap_or_default(),
            phases: vec![phase("base", 0.1, 2, base), phase("medium", 0.3, 3, medium), phase("large", 1.0, 4, large)],
        }
    }
}

/// A model needs some vocabulary before the data tells how large it is.
fn with_vocab(model: &toml::Table) -> toml::Table {
    let mut model = model.clone();
    model.entry("vocab").or_insert(toml::Value::Integer(512));
    model
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_lie_over_the_shared_recipe_and_the_file_reads_back() {
        let project = Project::demo(vec!["corpus".into()]);
        let again: Project = toml::from_str(&project.to_toml()).unwrap();
        assert_eq!(again, project);
        let recipe = again.recipe(2, Path::new("p")).unwrap();
        assert_eq!((recipe.name.as_str(), recipe.data.fraction, recipe.batch.context), ("large", 1.0, 256));
        assert_eq!(recipe.model["depth"].as_integer(), Some(4));
    }

    #[test]
    fn paths_in_the_file_are_seen_from_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let corpus = ["text/*.md", "/elsewhere", "s3://bucket/text"].map(str::to_owned).to_vec();
        let mut project = Project::demo(corpus);
        project.data.tokenizer = TokenizerOptions::Load { path: "t/tokenizer.json".into(), end_of_text: None, begin_of_text: None };
        disk::write(&folder.path().join("hairpin.toml"), project.to_toml()).unwrap();
        let read = Project::read(folder.path()).unwrap();
        let here = |name: &str| folder.path().join(name).display().to_string();
        assert_eq!(read.data.corpus.paths, [here("text/*.md"), "/elsewhere".into(), "s3://bucket/text".into()]);
        assert!(matches!(read.data.tokenizer, TokenizerOptions::Load { path, .. } if path == folder.path().join("t/tokenizer.json")));
    }

    #[test]
    fn a_ladder_is_sized_by_its_corpus_and_reads_all_of_it() {
        let steps = |mib: f64| {
            let project = Project::small(vec!["corpus".into()], (mib * f64::from(1 << 20)) as u64);
            assert_eq!(project.data.corpus.max_total_bytes, None);
            let recipes = (0..3).map(|i| project.recipe(i, Path::new("p")).unwrap());
            recipes.map(|r| (r.train.steps, r.model["depth"].as_integer().unwrap(), r.eval.windows)).collect::<Vec<_>>()
        };
        assert_eq!(steps(24.0), [(200, 2, 256), (220, 3, 256), (215, 4, 256)]);
        assert_eq!(steps(96.0), [(400, 2, 256), (440, 3, 256), (430, 4, 256)], "twice the steps for four times the text");
        assert_eq!(steps(1e6), [(1200, 2, 256), (1320, 3, 256), (1290, 4, 256)], "some tens of minutes at most");
        assert_eq!(steps(0.3)[0].0, 200, "eight epochs of a quarter of the text, or the demo's steps");
        assert_eq!(steps(0.01)[2].0, 60);
        let little = Project::small(vec!["corpus".into()], 300_000);
        assert!(little.data.corpus.max_document_bytes < 5000, "one file becomes pieces, of which some are held out");
        assert_eq!(Project::demo(vec![]).data.corpus.max_total_bytes, Some(DEMO_BYTES));
    }

    #[test]
    fn a_phases_name_is_no_path_and_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hairpin.toml");
        let long = "x".repeat(254);
        for (name, want) in [
            ("../x", "holds a path separator"),
            ("/etc", "holds a path separator"),
            ("a/b", "holds a path separator"),
            ("..", "means a folder"),
            ("", "is empty"),
            ("a\0b", "holds control characters"),
            ("\u{1b}[2J", "holds control characters"),
            (&long, "is longer than 255 bytes"),
            ("medium", "are both called `medium`"),
        ] {
            let mut project = Project::demo(vec!["corpus".into()]);
            project.phases[0].name = name.into();
            std::fs::write(&file, project.to_toml()).unwrap();
            let error = Project::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains('\u{1b}'), "{name:?}: {error}");
        }
    }
}
