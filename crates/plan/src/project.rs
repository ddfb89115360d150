//! A project: one corpus, one family of models, and the phases of its ladder; the file `hairpin.toml`.

use std::path::{Path, PathBuf};

use data::PrepareOptions;
use serde::{Deserialize, Serialize};
use train::recipe::Recipe;

use crate::PlanError;

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    pub name: String,
    /// The machines that it was planned for, such as `p4d.24xlarge:48`; none: the one that climbs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
    /// Stop before a phase that would take the whole climb beyond this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_secs: Option<f64>,
    pub data: PrepareOptions,
    /// What all phases share: a recipe without the tables that phases set.
    #[serde(default)]
    pub recipe: toml::Table,
    pub phases: Vec<Phase>,
}

/// Of a project's file.
const LARGEST_BYTES: u64 = 1 << 20;

/// One rung: a share of the data and what differs from the shared recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    pub name: String,
    pub data_fraction: f64,
    /// Tables laid over the shared recipe, such as `model = { depth = 4 }`.
    #[serde(default)]
    pub recipe: toml::Table,
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
        let project: Self = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if project.phases.is_empty() {
            return Err(wrong("there are no `[[phases]]`".into()));
        }
        project.check_names().map_err(wrong)?;
        Ok(project)
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
        let data = table.entry("data").or_insert_with(|| toml::Table::new().into());
        if let Some(data) = data.as_table_mut() {
            data.insert("path".into(), folder.join("data").display().to_string().into());
            data.insert("fraction".into(), phase.data_fraction.into());
        }
        let text = toml::to_string_pretty(&table).unwrap_or_default();
        Ok(Recipe::parse(&text, &format!("phase {} `{}`", index + 1, phase.name), &[])?)
    }

    /// Where phase `index` (from 0) keeps its checkpoints.
    #[must_use]
    pub fn phase_folder(&self, index: usize, folder: &Path) -> PathBuf {
        folder.join("phases").join(self.folder_name(index))
    }

    /// A ladder of three phases for a laptop and a few minutes, over `corpus`: 10%, 30% and all of the data.
    #[must_use]
    pub fn small(corpus: Vec<String>) -> Self {
        let mut data = PrepareOptions::default();
        data.corpus.paths = corpus;
        data.corpus.max_total_bytes = Some(24 << 20);
        data.held_out_ratio = 0.03;
        let recipe = "
            [batch]\nsequences = 8\nmicro_batch = 8\ncontext = 256\n
            [optim]\nkind = 'muon'\nlr = 0.006\nmuon_lr = 0.03\n
            [schedule]\nkind = 'wsd'\nwarmup_steps = 15\ndecay_ratio = 0.6\nfloor_ratio = 0.02\n
            [eval]\nevery_steps = 100\nwindows = 48\n
            [checkpoint]\nevery_steps = 100\n";
        let phase = |name: &str, data_fraction: f64, depth: i64, steps: i64| {
            let text = format!("model = {{ depth = {depth} }}\ntrain = {{ steps = {steps} }}");
            Phase { name: name.into(), data_fraction, recipe: text.parse().unwrap_or_default() }
        };
        Self {
            name: "small".into(),
            on: None,
            budget_secs: None,
            data,
            recipe: recipe.parse().unwrap_or_default(),
            phases: vec![phase("base", 0.1, 2, 200), phase("medium", 0.3, 3, 220), phase("large", 1.0, 4, 215)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_lie_over_the_shared_recipe_and_the_file_reads_back() {
        let project = Project::small(vec!["corpus".into()]);
        let again: Project = toml::from_str(&project.to_toml()).unwrap();
        assert_eq!(again, project);
        let recipe = again.recipe(2, Path::new("p")).unwrap();
        assert_eq!((recipe.name.as_str(), recipe.data.fraction, recipe.batch.context), ("large", 1.0, 256));
        assert_eq!(recipe.model["depth"].as_integer(), Some(4));
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
            let mut project = Project::small(vec!["corpus".into()]);
            project.phases[0].name = name.into();
            std::fs::write(&file, project.to_toml()).unwrap();
            let error = Project::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(want) && !error.contains('\u{1b}'), "{name:?}: {error}");
        }
    }
}
