//! A recipe: everything that decides a run, as TOML. Unknown keys are errors; every default is written out next to the
//! checkpoints ([`Recipe::to_toml`]), so that a run can be read later without knowing that day's defaults.

mod choices;

use std::path::{Path, PathBuf};

pub use choices::{GuardAction, OptimKind, PrecisionChoice, ScheduleKind};
use comm::Order;
use parallel::{Kind, mesh::Mesh, param_server, pipeline};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{TrainError, dial, objective};

/// See the head of this file. Every table may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the run is called in tables and reports; it decides nothing.
    #[serde(default = "default_name")]
    pub name: String,
    /// Of starting weights, the order of the data and dropout: the same seed gives the same bits.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The model's own options: `depth = 4`, from which all else follows unless it is written, or `preset = "gpt2-124m"`. With `from`, what
    /// is not written is as in the weights' model.
    #[schemars(schema_with = "models::reference::options")]
    pub model: toml::Table,
    /// What is learnt: `kind = "next_token"` and what that kind asks for. Absent: what its kind of model is made for.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    #[schemars(schema_with = "objective_schema")]
    pub objective: toml::Table,
    /// The trained weights that it begins with; absent: random ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Beginning>,
    /// Which data.
    #[serde(default)]
    pub data: DataTable,
    /// How many tokens make a step, and how they are cut.
    #[serde(default)]
    pub batch: Batch,
    /// How long and how exactly.
    #[serde(default)]
    pub train: Train,
    /// On how many ranks, and how they share the work.
    #[serde(default)]
    pub parallel: Parallel,
    /// Which optimiser.
    #[serde(default)]
    pub optim: Optim,
    /// How the learning rate goes.
    #[serde(default)]
    pub schedule: Schedule,
    /// When checkpoints are written and which are kept.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// When held-out loss is measured.
    #[serde(default)]
    pub eval: Eval,
    /// What to do when the loss jumps.
    #[serde(default)]
    pub guard: Guard,
}

/// Of all ranks of this machine together; systems refuse more, some of them by ending the process.
pub(crate) const MOST_THREADS: usize = 1024;
/// Of steps, and whatever else is counted in a run.
const MOST_STEPS: u64 = 1 << 40;

/// Of a recipe's file.
const LARGEST_BYTES: u64 = 1 << 20;

fn objective_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "properties": {"kind": {"type": "string", "enum": objective::KINDS.names(),
        "description": "What is learnt from the model's outputs."}}})
}

fn default_name() -> String {
    "run".into()
}

fn default_seed() -> u64 {
    1
}

macro_rules! table {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

/// Whose weights a run begins with, under a fresh optimiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Beginning {
    /// A run's folder, whose newest checkpoint is taken, one checkpoint, or an imported model; like `data.path` seen from where the
    /// command runs.
    pub path: PathBuf,
    /// Whether the data may have another tokenizer: rows of the embedding and of the output layer go to the tokens of the same name, and the
    /// others begin anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rows_by_name: bool,
}

table! {
    /// Which data.
    DataTable {
        /// A folder that `hairpin data` made.
        path: PathBuf = "data".into(),
        /// The share of its training windows that is read, the first ones; above 0, at most 1.
        fraction: f64 = 1.0,
    }
}
table! {
    /// How many tokens make a step, and how they are cut.
    Batch {
        /// Sequences in a step, over all ranks; a multiple of `lanes`.
        sequences: usize = 16,
        /// Sequences in one forward and backward pass: fewer take less memory, and change the last bits.
        micro_batch: usize = 16,
        /// Virtual shards of the batch, a power of two: the bits are the same at any number of ranks that divides it.
        lanes: usize = 1,
        /// Tokens in a sequence; at most the model's `context`.
        context: usize = 256,
    }
}
table! {
    /// How long and how exactly.
    Train {
        /// Updates of the weights, 1 to 2^40.
        steps: u64 = 500,
        /// Of products and their operands; sums, norms, losses and the weights themselves are f32.
        precision: PrecisionChoice = PrecisionChoice::Auto,
        /// Largest norm of the whole gradient; a larger one is scaled down to it. Above 0.
        clip: f32 = 1.0,
        /// Run blocks again in the backward pass instead of keeping them.
        recompute: bool = false,
        /// Threads of this process, 1 to 1024; absent: all of the machine. They change no bit.
        #[serde(skip_serializing_if = "Option::is_none")]
        threads: Option<usize> = None,
    }
}
table! {
    /// On how many ranks, and how they share the work. Of the data-parallel strategies none changes a bit of the result,
    /// unless `reduce` is `fast`: a run may be resumed on another number under another.
    Parallel {
        /// A power of two that divides `batch.lanes`. Threads of this process, or as many processes as MPI started.
        ranks: usize = 1,
        /// One of those that `hairpin train --help` names.
        strategy: String = "replicated".into(),
        /// How the ranks are laid out.
        mesh: MeshTable = MeshTable::default(),
        /// In which order the stages of a pipeline run their micro-batches.
        schedule: pipeline::Schedule = pipeline::Schedule::OneFOneB,
        /// Runs of blocks on each stage, for `interleaved`.
        chunks: usize = 2,
        /// How sums over ranks are ordered.
        reduce: Reduce = Reduce::Exact,
        /// Of `param_server`: absent, all ranks make every step together; a number, none waits for another until it is so many
        /// steps ahead of the slowest.
        #[serde(skip_serializing_if = "Option::is_none")]
        staleness: Option<u64> = None,
    }
}
table! {
    /// How many ranks there are along each axis. What is left of `ranks` is data parallel.
    MeshTable {
        /// Stages, each with a run of the model's blocks.
        pipeline: usize = 1,
        /// Ranks that share the heads, the width of feed-forward layers and the vocabulary.
        tensor: usize = 1,
        /// Ranks that share the tokens of a sequence.
        context: usize = 1,
        /// Ranks that hold one copy of the model together, for `mics`.
        shard: usize = 2,
    }
}

/// How sums over ranks are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// In one fixed tree: the same bits on any number of ranks.
    Exact,
    /// As the communicator likes.
    Fast,
}

impl Reduce {
    pub(crate) fn order(self) -> Order {
        match self {
            Self::Exact => Order::Tree,
            Self::Fast => Order::Any,
        }
    }
}

impl Parallel {
    /// The strategy, which [`Recipe::check`] has looked up.
    pub(crate) fn kind(&self) -> &'static Kind {
        match self.staleness {
            Some(_) => &param_server::WORKER,
            None => parallel::STRATEGIES.find(&self.strategy).unwrap_or(&parallel::replicated::KIND),
        }
    }

    /// Ranks that hold one copy of the model together.
    pub(crate) fn shards(&self) -> usize {
        let mesh = self.mesh();
        (self.kind().shards)(mesh.data * mesh.context, self.mesh.shard)
    }

    /// All axes, that of the data too.
    pub(crate) fn mesh(&self) -> Mesh {
        let MeshTable { pipeline, tensor, context, .. } = self.mesh;
        Mesh { pipeline, tensor, context, data: (self.ranks / pipeline.saturating_mul(tensor).saturating_mul(context).max(1)).max(1) }
    }

    pub(crate) fn chunks(&self) -> usize {
        if self.schedule == pipeline::Schedule::Interleaved { self.chunks } else { 1 }
    }
}

table! {
    /// Which optimiser.
    Optim {
        /// Which rule turns gradients into updates.
        kind: OptimKind = OptimKind::Adamw,
        /// Peak learning rate of AdamW; above 0.
        lr: f32 = 3e-3,
        /// Peak learning rate of Muon's matrices.
        muon_lr: f32 = 0.02,
        /// Of Muon's matrices: how much of the last direction stays; 0 to below 1.
        momentum: f32 = 0.95,
        /// AdamW's memory of gradients, 0 to below 1 (arXiv:1711.05101).
        beta1: f32 = 0.9,
        /// AdamW's memory of squared gradients, 0 to below 1.
        beta2: f32 = 0.95,
        /// What AdamW adds to the root of squared gradients.
        eps: f32 = 1e-8,
        /// Share of a matrix that each step takes away, times the learning rate; norms and biases are spared.
        weight_decay: f32 = 0.1,
        /// How much of a running average of the weights stays at a step, 0 to below 1; 0 keeps none. It is a third array beside AdamW's
        /// two. Samples of diffusion are drawn with it.
        average: f32 = 0.0,
    }
}
table! {
    /// How the learning rate goes: up over `warmup_steps`, then down to `floor_ratio` of its peak.
    Schedule {
        /// The way down.
        kind: ScheduleKind = ScheduleKind::Cosine,
        /// Steps over which it rises from nothing to its peak.
        warmup_steps: u64 = 50,
        /// Of the peak, where it ends; 0 to 1.
        floor_ratio: f32 = 0.1,
        /// Share of the steps over which `wsd` comes down; 0 to 1.
        decay_ratio: f32 = 0.3,
    }
}
table! {
    /// When checkpoints are written and which are kept; the best is always kept.
    Checkpoint {
        /// Steps between two checkpoints, at least 1.
        every_steps: u64 = 250,
        /// How many of the newest stay, at least 1.
        keep_last: usize = 2,
    }
}
table! {
    /// When held-out loss is measured, and on how many windows.
    Eval {
        /// Steps between two measurements, at least 1; the last step is always measured.
        every_steps: u64 = 100,
        /// Windows of `batch.context` tokens, spread over the held-out data; all of them where there are fewer.
        windows: u64 = 32,
    }
}
table! {
    /// What to do when the loss jumps above the median of the last `window` steps by `threshold` deviations.
    Guard {
        /// What is done with such a step.
        action: GuardAction = GuardAction::Skip,
        /// Steps that the median and deviation are taken of.
        window: usize = 50,
        /// Deviations above the median from which a loss is a spike; above 0.
        threshold: f32 = 8.0,
    }
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

    /// With every default written out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// Tokens that a step learns from.
    #[must_use]
    pub fn step_tokens(&self) -> u64 {
        (self.batch.sequences * self.batch.context) as u64
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
