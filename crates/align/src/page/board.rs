//! Who has judged what, and what each person is shown next. The file of preferences is the only state.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    path::{Path, PathBuf},
};

use engine::{key, mix};
use serde::{Deserialize, Serialize};

use crate::{
    AlignError,
    preferences::{self, Preference, Ranker, RankerKind},
    respond::Responses,
    template::Chat,
};

/// See the head of this file.
pub struct Board {
    tasks: Vec<Responses>,
    /// With the task of each, where it is one of these.
    judged: Vec<(Option<usize>, Preference)>,
    /// Tasks that somebody left out.
    skipped: HashSet<(String, usize)>,
    path: PathBuf,
    overlap: usize,
    _lock: File,
}

/// What a person says of the responses to a task, in the order in which they were shown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Judgement {
    task: usize,
    /// 0 is the best; equal numbers are ties. Empty: left out.
    ranks: Vec<u32>,
    #[serde(default)]
    note: String,
    #[serde(default)]
    confidence: Option<f64>,
}

/// What is shown.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Shown {
    /// Absent when all is done.
    task: Option<usize>,
    prompt: String,
    responses: Vec<String>,
    done: usize,
    total: usize,
    can_undo: bool,
}

/// Of a file of judgements.
const LARGEST_BYTES: u64 = 1 << 32;
/// Of a person's name and of a note.
const MOST_CHARS: usize = 4000;

impl Board {
    /// Tasks, and the judgements that `path` holds already.
    /// # Errors
    /// When another process writes to the file, or it cannot be read.
    pub fn open(tasks: Vec<Responses>, path: &Path, overlap: usize) -> Result<Self, AlignError> {
        let lock = preferences::one_writer(path)?;
        let before = if path.exists() { disk::read(path, LARGEST_BYTES).map_err(AlignError::io("read", path))? } else { Vec::new() };
        // Without an end of a line there is nothing, or what a kill left of the first one.
        let judged = if before.contains(&b'\n') { preferences::read(path, &Chat::shown())?.all } else { Vec::new() };
        let tasks = tasks.into_iter().filter(|one| one.responses.len() > 1).collect::<Vec<_>>();
        if tasks.is_empty() {
            let help = "write at least two to each prompt: `hairpin align sample --k 4`".into();
            return Err(AlignError::TooFew { path: path.to_owned(), problem: "no prompt with two responses to rank".into(), help });
        }
        let numbers: HashMap<(&str, &[String]), usize> =
            tasks.iter().enumerate().map(|(i, task)| ((task.prompt.as_str(), task.responses.as_slice()), i)).collect();
        let number = |one: &Preference| numbers.get(&(one.prompt.as_str(), one.responses.as_slice())).copied();
        let judged = judged.into_iter().map(|one| (number(&one), one)).collect();
        Ok(Self { tasks, judged, skipped: HashSet::new(), path: path.to_owned(), overlap: overlap.max(1), _lock: lock })
    }

    fn is_by(one: &Preference, name: &str) -> bool {
        one.by.as_ref().is_some_and(|by| by.kind == RankerKind::Person && by.name == name)
    }

    /// The next task of `name`: of those that they have not judged and that want people, one that most have judged already, so that
    /// agreement can be told early.
    pub(super) fn next(&self, name: &str) -> Shown {
        let mut counts = vec![0_usize; self.tasks.len()];
        let mut own = vec![false; self.tasks.len()];
        for (task, one) in &self.judged {
            if let Some(task) = *task {
                counts[task] += 1;
                own[task] |= Self::is_by(one, name);
            }
        }
        let wants = |task: &usize| !own[*task] && counts[*task] < self.overlap && !self.skipped.contains(&(name.to_owned(), *task));
        // Of equal ones the order is drawn for each person.
        let order = |task: &usize| (std::cmp::Reverse(counts[*task]), mix(key(*task as u64, name)));
        match (0..self.tasks.len()).filter(wants).min_by_key(order) {
            Some(task) => self.show(name, task),
            None => self.shown(name, None, String::new(), Vec::new()),
        }
    }

    pub(super) fn show(&self, name: &str, task: usize) -> Shown {
        let one = &self.tasks[task];
        let responses = self.order(name, task).into_iter().map(|i| one.responses[i].clone()).collect();
        self.shown(name, Some(task), one.prompt.clone(), responses)
    }

    fn shown(&self, name: &str, task: Option<usize>, prompt: String, responses: Vec<String>) -> Shown {
        let done = self.judged.iter().filter(|(_, one)| Self::is_by(one, name)).count();
        Shown { task, prompt, responses, done, total: self.tasks.len(), can_undo: done > 0 }
    }

    /// In which order `name` sees the responses to `task`.
    fn order(&self, name: &str, task: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.tasks[task].responses.len()).collect();
        order.sort_by_key(|i| mix(key((task as u64) << 16 | *i as u64, name)));
        order
    }

    /// Take down what `name` says.
    pub(super) fn judge(&mut self, name: &str, judgement: Judgement) -> Result<(), String> {
        let Judgement { task, ranks, note, confidence } = judgement;
        if name.trim().is_empty() || name.chars().count() > MOST_CHARS {
            return Err("give a name".into());
        }
        let Some(one) = self.tasks.get(task) else { return Err(format!("there is no task {task}")) };
        if ranks.is_empty() {
            self.skipped.insert((name.to_owned(), task));
            return Ok(());
        }
        if ranks.len() != one.responses.len() {
            return Err(format!("{} ranks of {} responses", ranks.len(), one.responses.len()));
        }
        if self.judged.iter().any(|(of, one)| *of == Some(task) && Self::is_by(one, name)) {
            return Err("you have judged this one".into());
        }
        let mut own = vec![0; ranks.len()];
        self.order(name, task).into_iter().zip(ranks).for_each(|(i, rank)| own[i] = rank);
        let preference = Preference {
            prompt: one.prompt.clone(),
            responses: one.responses.clone(),
            ranks: own,
            by: Some(Ranker { kind: RankerKind::Person, name: name.to_owned() }),
            unix_secs: Some(train::clock::unix_secs()),
            confidence: confidence.filter(|c| (0.0..=1.0).contains(c)),
            category: None,
            note: (!note.trim().is_empty()).then(|| note.chars().take(MOST_CHARS).collect()),
        };
        let line = serde_json::to_string(&preference).map_err(|e| e.to_string())?;
        disk::append_line(&self.path, &line).map_err(|e| format!("it cannot be written: {e}"))?;
        self.judged.push((Some(task), preference));
        Ok(())
    }

    /// Take back the last judgement of `name`, and give its task.
    pub(super) fn undo(&mut self, name: &str) -> Result<usize, String> {
        let at = self.judged.iter().rposition(|(_, one)| Self::is_by(one, name)).ok_or("there is nothing to take back")?;
        let task = self.judged[at].0.ok_or("its prompt is no longer here")?;
        // All other lines stay as they are: others may have added theirs since.
        let text = disk::read(&self.path, LARGEST_BYTES).map_err(|e| format!("it cannot be read: {e}"))?;
        let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let it = &self.judged[at].1;
        let is_same = |one: Preference| Self::is_by(&one, name) && one.prompt == it.prompt && one.responses == it.responses;
        let is_it = |line: &&[u8]| serde_json::from_slice(line).is_ok_and(is_same);
        if let Some(place) = lines.iter().rposition(is_it) {
            lines.remove(place);
            disk::write(&self.path, lines.concat()).map_err(|e| format!("it cannot be written: {e}"))?;
        }
        self.judged.remove(at);
        Ok(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(count: usize) -> Vec<Responses> {
        let one = |i: usize| Responses {
            prompt: format!("prompt {i}"),
            responses: (0..4).map(|k| format!("{i}.{k}")).collect(),
            seeds: vec![],
            model: String::new(),
            tokenizer: None,
            log_probs: vec![],
            rewards: vec![],
        };
        (0..count).map(one).collect()
    }

    fn by_text(shown: &Shown) -> Judgement {
        // The order of the texts, whatever the order on the page.
        let rank = |text: &String| text.chars().last().and_then(|c| c.to_digit(10)).unwrap_or(0);
        Judgement { task: shown.task.unwrap(), ranks: shown.responses.iter().map(rank).collect(), note: String::new(), confidence: None }
    }

    #[test]
    fn people_see_other_orders_and_say_the_same_and_nothing_is_asked_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let mut board = Board::open(tasks(3), &path, 2).unwrap();
        let mut orders = HashSet::new();
        for name in ["ann", "bob", "eve"] {
            loop {
                let shown = board.next(name);
                if shown.task.is_none() {
                    break;
                }
                orders.insert(shown.responses.iter().map(|r| r.chars().last()).collect::<Vec<_>>());
                board.judge(name, by_text(&shown)).unwrap();
            }
        }
        let read = preferences::read(&path, &Chat::shown()).unwrap();
        assert_eq!(read.all.len(), 6, "two people each, and none for the third");
        assert!(read.all.iter().all(|one| one.ranks == [0, 1, 2, 3]), "{read:?}");
        assert!(orders.len() > 1, "the order is drawn");
        assert_eq!(crate::agreement::statistics(&read.all).kendall_w, Some(1.0));
    }

    #[test]
    fn a_server_that_comes_back_knows_what_was_judged_and_a_second_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let mut board = Board::open(tasks(2), &path, 1).unwrap();
        let shown = board.next("ann");
        board.judge("ann", by_text(&shown)).unwrap();
        assert!(board.judge("ann", by_text(&shown)).unwrap_err().contains("have judged"));
        assert!(matches!(Board::open(tasks(2), &path, 1), Err(AlignError::Busy { .. })), "another server");
        drop(board);
        let mut board = Board::open(tasks(2), &path, 1).unwrap();
        assert_ne!(board.next("ann").task, shown.task);
        assert_eq!(board.undo("ann").ok(), shown.task);
        assert!(board.undo("ann").is_err());
        let skip = Judgement { task: shown.task.unwrap(), ranks: vec![], note: String::new(), confidence: None };
        board.judge("ann", skip).unwrap();
        assert_ne!(board.next("ann").task, shown.task);
        for (ranks, want) in [(vec![0], "1 ranks of 4"), (vec![0; 5], "5 ranks of 4")] {
            let wrong = Judgement { task: 1, ranks, note: String::new(), confidence: None };
            assert!(board.judge("ann", wrong).unwrap_err().contains(want));
        }
        // What others add to the file while it is served stays when something is taken back, a torn line too.
        drop(board);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "{\"prompt\": \"to").unwrap();
        let mut board = Board::open(tasks(2), &path, 1).unwrap();
        let shown = board.next("ann");
        board.judge("ann", by_text(&shown)).unwrap();
        let other = Preference::of_scores("q".into(), vec!["x".into(), "y".into()], &[1.0, 0.0], Some(Ranker::signal("s")));
        preferences::append(&path, &other).unwrap();
        assert_eq!(board.undo("ann").ok(), shown.task);
        let read = preferences::read(&path, &Chat::shown()).unwrap();
        assert_eq!((read.all, read.left_out), (vec![other], 1));
        let nowhere = Judgement { task: 9, ranks: vec![0], note: String::new(), confidence: None };
        assert!(board.judge("ann", nowhere).unwrap_err().contains("no task 9"));
    }
}
