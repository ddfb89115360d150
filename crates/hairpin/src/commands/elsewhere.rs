//! Phases of a ladder as jobs on other machines, whose gates are judged here.

use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use ::launch::{
    ask::{self, Ask},
    places::PLACES,
    progress,
    record::{Record, State},
    store::{Order, Store},
};
use ::train::{recipe::Recipe, run::Observer};
use plan::{PlanError, catalogue::Catalogue};

use super::launch::{send, wake};
use crate::{STOP, print};

/// Where phases train, if not in this process.
#[derive(clap::Args)]
pub(crate) struct ElsewhereArgs {
    /// Train each phase as a job there, e.g. `slurm:2`: as `hairpin launch --on`
    #[arg(long, value_name = "PLACE")]
    on: Option<String>,
    /// Where the place has the prepared data, if it shares no files with this machine
    #[arg(long, value_name = "URL", requires = "on")]
    data: Option<String>,
    /// Change one option of the place, e.g. `partition=gpu`
    #[arg(long, value_name = "KEY=VALUE", requires = "on")]
    place: Vec<String>,
    /// File of the places' options; default: `places.toml`, where there is one
    #[arg(long, value_name = "FILE", requires = "on")]
    places: Option<PathBuf>,
    /// Launch without asking, whatever it costs
    #[arg(long, requires = "on")]
    yes: bool,
}

/// The same, with the store of the project's jobs.
pub(super) struct Elsewhere {
    ask: Ask,
    store: Store,
    yes: bool,
}

/// Between two looks at a job.
const LOOK: Duration = Duration::from_millis(200);

impl ElsewhereArgs {
    /// `None` where phases train here.
    pub(super) fn of(&self, folder: &Path) -> miette::Result<Option<Elsewhere>> {
        let Some(on) = &self.on else { return Ok(None) };
        let ask =
            Ask { on: on.clone(), data: self.data.clone(), places: self.places.clone(), place_sets: self.place.clone(), ..Ask::default() };
        Ok(Some(Elsewhere { ask, store: Store::open(&folder.join("jobs"))?, yes: self.yes }))
    }
}

impl Elsewhere {
    /// Train `recipe` into `out`; false when it goes on there without us.
    pub(super) fn train(&self, recipe: &Recipe, out: &Path, observer: &mut dyn Observer) -> Result<bool, PlanError> {
        self.follow(recipe, out, observer).map_err(|error| PlanError::Elsewhere {
            problem: error.to_string(),
            help: error.help().map_or_else(|| "look at `hairpin jobs` and `hairpin logs`".to_owned(), |help| help.to_string()),
        })
    }

    fn follow(&self, recipe: &Recipe, out: &Path, observer: &mut dyn Observer) -> miette::Result<bool> {
        let out = std::path::absolute(out).map_err(|e| miette::miette!("{e}"))?;
        let record = self.launch(recipe, &out)?;
        let name = record.job.name.clone();
        let place = PLACES.find(&record.job.machines.place);
        observer.note(&format!("launched as the job {name}; Ctrl-C leaves it running"));
        let (mut step, mut told) = (0, None);
        loop {
            let record = self.store.find(&name)?;
            if record.note != told {
                record.note.iter().for_each(|note| observer.note(note));
                told.clone_from(&record.note);
            }
            if let Some(last) = progress::last_step(&out).filter(|last| last.step != step) {
                step = last.step;
                observer.step(&last, recipe.train.steps);
            }
            match record.state {
                State::Done => break,
                State::Failed | State::Stopped => {
                    let why = record.note.clone().unwrap_or_default();
                    miette::bail!(
                        help = format!("look at `hairpin logs {name} --store {}`", self.store.folder().display()),
                        "the job {name} is {}: {why}",
                        record.state.name()
                    );
                }
                _ if STOP.load(Ordering::Relaxed) => {
                    print::talk(&format!("the job {name} goes on; the same command waits for it again"));
                    return Ok(false);
                }
                _ => std::thread::sleep(LOOK),
            }
        }
        if let Some(request) = place.and_then(|place| place.launcher.fetch(&record.job, &out)) {
            request
                .call("the store of checkpoints", "install it, or copy the checkpoints by hand", |_| ::launch::cause::Cause::Unreachable)?;
        }
        Ok(true)
    }

    /// The job of this recipe: the one that there is, going on if it had stopped, or another where what it made is gone.
    fn launch(&self, recipe: &Recipe, out: &Path) -> miette::Result<Record> {
        let mut ask = Ask { recipes: vec![(recipe.name.clone(), recipe.to_toml())], out: Some(out.to_owned()), ..self.ask.clone() };
        let catalogue = Catalogue::load(None)?;
        let (mut records, mut quote) = ask::jobs(&ask, &self.store, &catalogue)?;
        let first = records.first().map(|record| record.job.name.clone()).unwrap_or_default();
        let is_gone = progress::last_step(out).is_none_or(|last| last.step < recipe.train.steps);
        let (mut name, mut number) = (first.clone(), 1);
        let mut state = self.store.read(&name)?.map(|record| record.state);
        while state == Some(State::Done) && is_gone {
            number += 1;
            name = format!("{first}-run{number}");
            state = self.store.read(&name)?.map(|record| record.state);
        }
        if number > 1 {
            ask.name = Some(name.clone());
            (records, quote) = ask::jobs(&ask, &self.store, &catalogue)?;
        }
        if matches!(state, Some(State::Stopped | State::Failed)) {
            self.store.order(&Order::Resume { names: vec![name.clone()] })?;
            wake(&self.store)?;
            self.until_taken();
        } else {
            send(&self.store, records, &quote, self.yes)?;
        }
        Ok(self.store.find(&name)?)
    }

    /// Until the order has been read.
    fn until_taken(&self) {
        for _ in 0..500 {
            if self.store.orders().is_ok_and(|orders| orders.is_empty()) {
                return;
            }
            std::thread::sleep(LOOK / 10);
        }
    }
}
