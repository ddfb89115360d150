//! From what a person asks for to jobs: recipes times sweeps, each with its name, its layout and its quote.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use plan::catalogue::Catalogue;
use serde_json::{Map, Value};
use train::{clock::unix_secs, recipe::Recipe};

use crate::{
    LaunchError,
    job::{Job, Machines, check_name, plain},
    places::PLACES,
    quote::{self, Desk, Found, Quote},
    record::{Group, Record},
    store::Store,
    sweep::{self, Sweep},
};

/// See the head of this file.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Texts in TOML, each with what it is called in errors.
    pub recipes: Vec<(String, String)>,
    /// Keys of all recipes, `optim.lr=3e-4`.
    pub sets: Vec<String>,
    pub sweeps: Vec<Sweep>,
    /// [`Machines::parse`]
    pub on: String,
    pub name: Option<String>,
    /// Where prepared data is; none: where the recipes say.
    pub data: Option<String>,
    pub at_once: Option<usize>,
    pub max_usd: Option<f64>,
    pub priority: i64,
    /// Of the place: tables of `places.toml`, and `KEY=VALUE`s over them.
    pub places: Option<PathBuf>,
    pub place_sets: Vec<String>,
    /// Where the one job's checkpoints go, if not into the store.
    pub out: Option<PathBuf>,
    /// The folder or URL under which each job has its checkpoints, by its name.
    pub runs: Option<PathBuf>,
}

/// `places.toml`, where none is named.
pub const PLACES_FILE: &str = "places.toml";

/// Of a name, what comes before the mark of its content.
const NAME_CHARS: usize = 28;

/// The jobs of `ask` in the order in which they go, and what they take together.
/// # Errors
/// What is wrong with recipes, sweeps, machines or options; a name that is another job's; a quote above `max_usd`.
pub fn jobs(ask: &Ask, store: &Store, catalogue: &Catalogue) -> Result<(Vec<Record>, Quote), LaunchError> {
    let machines = Machines::parse(&ask.on)?;
    let place =
        PLACES.find(&machines.place).ok_or_else(|| LaunchError::Place { text: ask.on.clone(), problem: "it is no place".into() })?;
    let mut options = options(ask, &machines.place)?;
    if let Some(runs) = ask.runs.as_ref().filter(|_| !place.shares_files) {
        // Such a place writes where its own option says.
        options.insert("checkpoints".into(), Value::String(runs.display().to_string()));
    }
    let folder = std::env::current_dir().map_err(LaunchError::io("find", Path::new(".")))?;
    let group = Group { name: format!("{:.0}", unix_secs() * 1e3), at_once: at_once(ask, &machines), max_usd: ask.max_usd };
    let (combinations, mut desk, now) = (sweep::product(&ask.sweeps)?, Desk::default(), unix_secs());
    let (mut records, mut all): (Vec<Record>, Vec<Found>) = (Vec::new(), Vec::new());
    for (origin, text) in &ask.recipes {
        for values in &combinations {
            let sets: Vec<String> = ask.sets.iter().chain(values).cloned().collect();
            let recipe = Recipe::parse(text, origin, &sets)?;
            let found = desk.ask(&recipe, &machines, catalogue)?;
            let mut job = job(&recipe, &found, &machines, ask, &folder, place.shares_files)?;
            job.options.clone_from(&options);
            if let Some(threads) = threads(&recipe, &machines, group.at_once) {
                job.env.insert("RAYON_NUM_THREADS".into(), threads.to_string());
            }
            let count = ask.recipes.len() * combinations.len();
            job.name = match &ask.name {
                Some(name) if count == 1 => name.clone(),
                Some(name) => format!("{name}-{}", records.len() + 1),
                None => named(&recipe, values, &job),
            };
            check_name(&job.name)?;
            job.home = store.home(&job.name);
            let out = |out: &PathBuf| if ::store::is_url(out) { out.clone() } else { folder.join(out) };
            let run = match (&ask.out, &ask.runs) {
                (Some(path), _) => out(path),
                (None, Some(runs)) if place.shares_files => out(&runs.join(&job.name)),
                (None, _) => job.home.join("run"),
            };
            job.checkpoints = run.display().to_string();
            records.push(Record::new(job, group.clone(), found.quoted.clone(), ask.priority, now));
            all.push(found);
        }
    }
    if let Some(twice) = records.iter().enumerate().find_map(|(i, r)| records[..i].iter().any(|s| s.job.name == r.job.name).then_some(r)) {
        return Err(LaunchError::NameTaken { name: twice.job.name.clone() });
    }
    let mut quote = quote::sum(&all, group.at_once);
    quote.notes.extend(records.first().map(|record| place.launcher.notes(&record.job, &record.quoted)).unwrap_or_default());
    if let (Some(usd), Some(max_usd)) = (quote.usd, ask.max_usd)
        && usd > max_usd
    {
        let cheaper = quote.offers.iter().filter(|(_, offer)| *offer <= max_usd).min_by(|a, b| a.1.total_cmp(&b.1));
        let relax = cheaper.map_or(String::new(), |(name, offer)| format!("by {name} it is {offer:.0}; "));
        return Err(LaunchError::Budget { usd, max_usd, relax });
    }
    Ok((records, quote))
}

/// This machine runs one at a time unless more are asked for; elsewhere the place says how many.
fn at_once(ask: &Ask, machines: &Machines) -> Option<usize> {
    ask.at_once.or_else(|| matches!(machines.place.as_str(), "local" | "hosts").then_some(1))
}

/// Jobs that share this machine share its cores. Threads change no bit.
fn threads(recipe: &Recipe, machines: &Machines, at_once: Option<usize>) -> Option<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let at_once = at_once.filter(|n| *n > 1 && machines.place == "local" && recipe.train.threads.is_none())?;
    Some((cores / at_once).max(1))
}

fn job(recipe: &Recipe, found: &Found, machines: &Machines, ask: &Ask, folder: &Path, shares_files: bool) -> Result<Job, LaunchError> {
    let mut recipe = Recipe::parse(&recipe.to_toml(), &recipe.name, &found.layout)?;
    let mut argv = ["train", "{files}/recipe.toml", "--out", "{out}", "--resume"].map(str::to_owned).to_vec();
    let data = ask.data.clone().unwrap_or_else(|| recipe.data.path.display().to_string());
    let data = if shares_files && !data.contains("://") { folder.join(&data).display().to_string() } else { data };
    if shares_files {
        recipe.data.path = data.clone().into();
        if let Some(from) = &mut recipe.from {
            from.path = folder.join(&from.path);
        }
    } else {
        argv.extend(["--set", "data.path={data}"].map(str::to_owned));
        if let Some(from) = &recipe.from {
            let problem = format!("the recipe begins with the weights in `{}`, which are not there", from.path.display());
            return Err(LaunchError::Contract { problem, help: "launch it where files are shared, or train them there first".into() });
        }
    }
    let usd_per_hour = found.usd_per_hour;
    Ok(Job {
        name: String::new(),
        argv,
        files: BTreeMap::from([("recipe.toml".into(), recipe.to_toml())]),
        env: BTreeMap::new(),
        machines: Machines { ranks_each: found.ranks_each.max(1), usd_per_hour, memory_bytes: found.memory_bytes, ..machines.clone() },
        data,
        checkpoints: String::new(),
        options: Map::new(),
        // A bound that holds at the place, also while this machine is off.
        max_secs: ask.max_usd.zip(usd_per_hour).map(|(most, hour)| (most / hour * 3600.0).ceil().max(60.0) as u64),
        folder: folder.to_owned(),
        home: PathBuf::new(),
    })
}

/// What it is called, what was swept, and a mark of all that it is.
fn named(recipe: &Recipe, values: &[String], job: &Job) -> String {
    let mut text = recipe.name.clone();
    for value in values {
        let (key, value) = value.split_once('=').unwrap_or((value, ""));
        text += &format!("-{}-{value}", key.rsplit('.').next().unwrap_or(key));
    }
    format!("{}-{}", plain(&text, NAME_CHARS), job.content())
}

/// The place's table of `places.toml`, and what was set over it.
fn options(ask: &Ask, place: &str) -> Result<Map<String, Value>, LaunchError> {
    let path = ask.places.clone().unwrap_or_else(|| PLACES_FILE.into());
    let text = match disk::read_text(&path, 1 << 20) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && ask.places.is_none() => String::new(),
        Err(e) => return Err(LaunchError::io("read", &path)(e)),
    };
    let origin = path.display().to_string();
    let tables: toml::Table = text.parse().map_err(|e: toml::de::Error| options_error(&origin, &e.to_string()))?;
    if let Some(other) = tables.keys().find(|key| PLACES.find(key).is_none()) {
        return Err(options_error(&origin, &format!("there is no place `{other}`; there are {}", PLACES.names().join(", "))));
    }
    let mut table = match tables.get(place) {
        Some(toml::Value::Table(table)) => table.clone(),
        None => toml::Table::new(),
        Some(_) => return Err(options_error(&origin, &format!("`{place}` is no table"))),
    };
    for set in &ask.place_sets {
        let (key, value) = set.split_once('=').ok_or_else(|| options_error("--place", &format!("`{set}` has no `=`")))?;
        let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
        table.insert(key.trim().to_owned(), parsed.unwrap_or_else(|| toml::Value::String(value.trim().to_owned())));
    }
    match serde_json::to_value(table) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(options_error(&origin, "it holds what is no option")),
    }
}

fn options_error(origin: &str, problem: &str) -> LaunchError {
    LaunchError::Option {
        place: "options of places",
        problem: format!("{origin}: {problem}"),
        help: "write a table for each place, as docs/launch.md shows".into(),
    }
}
