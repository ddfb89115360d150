//! Reading a recipe: the defaults that follow from others, changes by `--set`, and what is refused.

use std::path::Path;

use parallel::{param_server, pipeline};

use super::{GuardAction, OptimKind, Recipe};
use crate::{TrainError, dial, objective};

/// Of all ranks of this machine together; systems refuse more, some of them by ending the process.
pub(crate) const MOST_THREADS: usize = 1024;
/// Of steps, and whatever else is counted in a run.
const MOST_STEPS: u64 = 1 << 40;

/// Of a recipe's file.
const LARGEST_BYTES: u64 = 1 << 20;

pub(super) fn objective_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "properties": {"kind": {"type": "string", "enum": objective::KINDS.names(),
        "description": "What is learnt from the model's outputs."}}})
}

impl Recipe {
    /// Read a recipe file and apply `overrides` such as `optim.lr=3e-4`, through the same checks.
    /// # Errors
    /// [`TrainError::Recipe`] naming line or flag, [`TrainError::Value`] naming the key.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        let text = disk::read_text(path, LARGEST_BYTES).map_err(TrainError::io("read the recipe", path))?;
        Self::parse(&text, &path.display().to_string(), overrides)
    }

    /// The same from a text; `origin` is named in errors.
    /// # Errors
    /// As [`Recipe::read`].
    pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<Self, TrainError> {
        let wrong = |origin: &str, problem: String| TrainError::Recipe { origin: origin.to_owned(), problem };
        let mut recipe: Self = toml::from_str(text).map_err(|e| wrong(origin, e.to_string()))?;
        let mut written: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(origin, e.to_string()))?;
        for set in overrides {
            let flag = format!("--set {set}");
            let (key, value) = set.split_once('=').ok_or_else(|| wrong(&flag, "write `key=value`".into()))?;
            put(&mut written, key.trim(), value.trim()).map_err(|e| wrong(&flag, e))?;
            recipe = written.clone().try_into().map_err(|e: toml::de::Error| wrong(&flag, e.message().to_owned()))?;
        }
        dial::turn(&mut recipe, &written);
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), TrainError> {
        objective::check(self)?;
        let b = &self.batch;
        let wrong = |key, problem: String, help: &str| Err(TrainError::Value { key, problem, help: help.into() });
        for (key, size) in
            [("batch.sequences", b.sequences), ("batch.micro_batch", b.micro_batch), ("batch.context", b.context), ("batch.lanes", b.lanes)]
        {
            if !(1..=1 << 24).contains(&size) {
                return wrong(key, format!("{size} is not in 1..={}", 1 << 24), "choose a size in that range");
            }
        }
        if !b.lanes.is_power_of_two() || !b.sequences.is_multiple_of(b.lanes) {
            let problem = format!("{} lanes are no power of two that divides {} sequences", b.lanes, b.sequences);
            return wrong("batch.lanes", problem, "use 1, 2, 4 or 8 lanes, and a number of sequences that they divide");
        }
        let (p, mesh) = (&self.parallel, self.parallel.mesh());
        for (key, count) in [
            ("parallel.mesh.pipeline", mesh.pipeline),
            ("parallel.mesh.tensor", mesh.tensor),
            ("parallel.mesh.context", mesh.context),
            ("parallel.chunks", p.chunks),
            ("parallel.mesh.shard", p.mesh.shard),
            ("parallel.ranks", p.ranks),
        ] {
            if !(1..=1 << 16).contains(&count) {
                return wrong(key, format!("{count} is not in 1..={}", 1 << 16), "leave the key out for its default");
            }
        }
        if mesh.ranks() != p.ranks {
            let problem = format!(
                "{} ranks are no whole number of {} stages x {} tensor x {} context",
                p.ranks, mesh.pipeline, mesh.tensor, mesh.context
            );
            return wrong("parallel.ranks", problem, &format!("use {} ranks, or other numbers along the mesh", mesh.ranks()));
        }
        if !mesh.data.is_power_of_two() || !b.lanes.is_multiple_of(mesh.data) {
            let problem = format!("{} ranks that see other data are no power of two that divides {} lanes", mesh.data, b.lanes);
            return wrong("parallel.ranks", problem, "use 1, 2, 4 or 8 ranks and as many `batch.lanes` or more");
        }
        if !mesh.context.is_power_of_two() || !b.context.is_multiple_of(mesh.context * mesh.tensor) {
            let problem = format!("{} x {} ranks of context and tensor do not divide {} tokens", mesh.context, mesh.tensor, b.context);
            return wrong("parallel.mesh.context", problem, "use a power of two that divides `batch.context`");
        }
        if mesh.tensor > 1 && self.optim.kind == OptimKind::Muon {
            let problem = format!("Muon needs whole matrices, and {} ranks of the tensor axis hold parts", mesh.tensor);
            return wrong(
                "optim.kind",
                problem,
                "use `adamw`, or `parallel.mesh.tensor = 1` with `zero3` or `mics`, which gather for Muon",
            );
        }
        let micro_batches = b.lanes / mesh.data * (b.sequences / b.lanes).div_ceil(b.micro_batch);
        if p.schedule == pipeline::Schedule::Interleaved && mesh.pipeline > 1 && !micro_batches.is_multiple_of(mesh.pipeline) {
            let problem = format!("{micro_batches} micro-batches on a rank are no whole rounds of {} stages", mesh.pipeline);
            return wrong("parallel.schedule", problem, "use `one_f_one_b`, or a `batch.micro_batch` that gives whole rounds");
        }
        let ranks = mesh.data * mesh.context;
        let names = || parallel::STRATEGIES.all().into_iter().map(|kind| format!("`{}`", kind.name)).collect::<Vec<_>>().join(", ");
        if parallel::STRATEGIES.find(&self.parallel.strategy).is_none() {
            let problem = format!("there is no strategy `{}`", self.parallel.strategy);
            return wrong("parallel.strategy", problem, &format!("use one of {}", names()));
        }
        let shards = self.parallel.shards();
        if !shards.is_power_of_two() || !ranks.is_multiple_of(shards) {
            let problem = format!("{shards} ranks to one copy are no power of two that divides {ranks} ranks");
            return wrong("parallel.mesh.shard", problem, "use 1, 2, 4 or 8, and no more than there are ranks");
        }
        if let Some(staleness) = p.staleness {
            self.check_asynchronous(staleness)?;
        }
        if !(self.data.fraction > 0.0 && self.data.fraction <= 1.0) {
            return wrong("data.fraction", format!("{} is not above 0 and at most 1", self.data.fraction), "1% is 0.01");
        }
        let o = &self.optim;
        let positive = [
            ("optim.lr", o.lr),
            ("optim.muon_lr", o.muon_lr),
            ("optim.eps", o.eps),
            ("train.clip", self.train.clip),
            ("guard.threshold", self.guard.threshold),
        ];
        for (key, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return wrong(key, format!("{value} is not above zero"), "leave the key out for its default");
            }
        }
        let ratios = [
            ("optim.beta1", o.beta1),
            ("optim.beta2", o.beta2),
            ("optim.momentum", o.momentum),
            ("optim.weight_decay", o.weight_decay),
            ("optim.average", o.average),
            ("schedule.floor_ratio", self.schedule.floor_ratio),
            ("schedule.decay_ratio", self.schedule.decay_ratio),
        ];
        for (key, value) in ratios {
            if !(0.0..=1.0).contains(&value) || ["optim.beta1", "optim.beta2", "optim.average"].contains(&key) && value == 1.0 {
                return wrong(key, format!("{value} is not in 0..1"), "leave the key out for its default");
            }
        }
        let counts = [
            ("train.steps", self.train.steps),
            ("checkpoint.every_steps", self.checkpoint.every_steps),
            ("eval.every_steps", self.eval.every_steps),
            ("eval.windows", self.eval.windows),
            ("eval.patience", self.eval.patience.unwrap_or(1)),
            ("checkpoint.keep_last", self.checkpoint.keep_last as u64),
        ];
        for (key, count) in counts {
            if !(1..=MOST_STEPS).contains(&count) {
                return wrong(key, format!("{count} is not in 1..={MOST_STEPS}"), "use a number in that range");
            }
        }
        if self.train.threads.is_some_and(|threads| !(1..=MOST_THREADS).contains(&threads)) {
            let problem = format!("{} is not in 1..={MOST_THREADS}", self.train.threads.unwrap_or(0));
            return wrong("train.threads", problem, "leave the key out for all threads");
        }
        Ok(())
    }
}

impl Recipe {
    /// What does without a common step cannot have what needs one.
    fn check_asynchronous(&self, staleness: u64) -> Result<(), TrainError> {
        let wrong = |key, problem: &str, help: &str| Err(TrainError::Value { key, problem: problem.into(), help: help.into() });
        let (p, mesh) = (&self.parallel, self.parallel.mesh());
        if p.strategy != param_server::WORKER.name {
            let problem = format!("`{}` has a common step, and no worker can be {staleness} steps ahead", p.strategy);
            return wrong("parallel.staleness", &problem, "use `strategy = \"param_server\"`, or leave `staleness` out");
        }
        if mesh.pipeline * mesh.tensor * mesh.context > 1 {
            let problem = "ranks that share one model's work make every step together, and workers of different steps do not";
            return wrong("parallel.staleness", problem, "leave `staleness` out, or `parallel.mesh` at data ranks alone");
        }
        if self.optim.kind == OptimKind::Muon {
            return wrong(
                "optim.kind",
                "Muon needs whole matrices, and a server holds parts",
                "use `adamw`, or leave `parallel.staleness` out",
            );
        }
        if self.guard.action == GuardAction::Rollback {
            let problem = "other workers are at other steps when one would go back";
            return wrong("guard.action", problem, "use `skip`, or leave `parallel.staleness` out");
        }
        Ok(())
    }
}

/// Put a value at a dotted key; what is no TOML value is taken as a string.
fn put(table: &mut toml::Table, key: &str, value: &str) -> Result<(), String> {
    let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    // No key of a recipe lies deeper, and a table of tables without end overflows whoever walks it.
    if key.split('.').count() > 8 {
        return Err("no key lies so deep".into());
    }
    let (path, last) = key.rsplit_once('.').map_or((None, key), |(path, last)| (Some(path), last));
    let mut at = table;
    for part in path.iter().flat_map(|path| path.split('.')) {
        let next = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = next.as_table_mut().ok_or_else(|| format!("`{part}` is no table"))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str, overrides: &[&str]) -> String {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        Recipe::parse(text, "small.toml", &overrides).unwrap_err().to_string()
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let text = "[model]\ndepth = 2\n[optim]\nlr = 3e-4\nwarmup = 10\n";
        expect_test::expect![[r#"
            small.toml: TOML parse error at line 5, column 1
              |
            5 | warmup = 10
              | ^^^^^^
            unknown field `warmup`, expected one of `kind`, `lr`, `muon_lr`, `momentum`, `beta1`, `beta2`, `eps`, `weight_decay`, `average`
        "#]]
        .assert_eq(&error(text, &[]));
    }

    #[test]
    fn an_override_goes_through_the_same_checks_and_is_named() {
        let text = "[model]\ndepth = 2\n";
        let ok = Recipe::parse(text, "x", &["optim.lr=1e-4".into(), "model.depth=3".into(), "name=other".into()]).unwrap();
        assert_eq!((ok.optim.lr, ok.model["depth"].as_integer(), ok.name.as_str()), (1e-4, Some(3), "other"));
        assert!(error(text, &["optim.speed=1"]).starts_with("--set optim.speed=1: unknown field `speed`"));
        assert!(error(text, &["optim"]).starts_with("--set optim: write `key=value`"));
    }

    #[test]
    fn values_that_cannot_be_are_refused_by_key() {
        for (text, key) in [
            ("[batch]\nlanes = 3", "batch.lanes"),
            ("[batch]\nsequences = 0", "batch.sequences"),
            ("[data]\nfraction = 0.0", "data.fraction"),
            ("[optim]\nlr = -1.0", "optim.lr"),
            ("[optim]\nbeta1 = 1.0", "optim.beta1"),
            ("[optim]\nlr = nan", "optim.lr"),
            ("[train]\nsteps = 0", "train.steps"),
            ("[train]\nthreads = 0", "train.threads"),
            ("[train]\nthreads = 50000", "train.threads"),
            ("[train]\nsteps = 1000000000000000", "train.steps"),
            ("[batch]\nsequences = 1000000000000", "batch.sequences"),
            ("[parallel]\nmesh.pipeline = 9000000000000000000\nmesh.tensor = 9000000000000000000", "parallel.mesh.pipeline"),
            ("[parallel]\nranks = 2", "parallel.ranks"),
            ("[batch]\nlanes = 4\n[parallel]\nranks = 3", "parallel.ranks"),
            ("[parallel]\nstrategy = \"zero9\"", "parallel.strategy"),
            ("[parallel]\nmesh.tensor = 2", "parallel.ranks"),
            ("[parallel]\nmesh.tensor = 0", "parallel.mesh.tensor"),
            ("[parallel]\nranks = 2\nmesh.tensor = 2", "optim.kind"),
            ("[batch]\nlanes = 4\n[parallel]\nranks = 4\nstrategy = \"mics\"\nmesh.shard = 3", "parallel.mesh.shard"),
            ("[parallel]\nranks = 3\nmesh.context = 3", "parallel.mesh.context"),
            ("[parallel]\nstaleness = 2", "parallel.staleness"),
            (
                "[batch]\nlanes = 2\n[parallel]\nstrategy = \"param_server\"\nstaleness = 0\nranks = 4\nmesh.pipeline = 2",
                "parallel.staleness",
            ),
            ("[optim]\nkind = \"muon\"\n[parallel]\nstrategy = \"param_server\"\nstaleness = 2", "optim.kind"),
            (
                "[optim]\nkind = \"adamw\"\n[guard]\naction = \"rollback\"\n[parallel]\nstrategy = \"param_server\"\nstaleness = 2",
                "guard.action",
            ),
            ("[parallel]\nranks = 2\nmesh.pipeline = 2\nschedule = \"interleaved\"", "parallel.schedule"),
        ] {
            let message = error(&format!("[model]\ndepth = 2\n{text}"), &[]);
            assert!(message.starts_with(key), "{message}");
        }
    }

    #[test]
    fn the_written_recipe_reads_back_the_same() {
        let recipe = Recipe::parse("[model]\ndepth = 2\n", "x", &[]).unwrap();
        assert_eq!(Recipe::parse(&recipe.to_toml(), "x", &[]).unwrap(), recipe);
    }
}
