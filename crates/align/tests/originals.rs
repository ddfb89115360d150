//! Replies that are kept ahead of time: many workers make one set of them, once, and those of another model or tokenizer are refused by
//! name.

#![cfg(feature = "parquet")]

mod room;

#[cfg(feature = "cloud")]
use std::path::PathBuf;
use std::{path::Path, sync::atomic::AtomicBool};

use align::{originals, respond, rollouts::Source, signals};
use room::Room;
use train::{generate::Sampling, recipe::Recipe, run, run::Quiet};

const OPTIONS: respond::Options =
    respond::Options { k: 1, tokens: 4, sampling: Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 1 }, log_probs: true };

/// Three parts of prompts.
fn prompts() -> Vec<String> {
    (0..150).map(|i| format!("{i} is")).collect()
}

fn keep(room: &Room, run: &str, place: &Path, stop: bool) -> originals::Parts {
    let mut loaded = run::load(&room.at(run)).unwrap();
    let model = respond::identity(&room.at(run)).unwrap();
    let judge = Source::Signal(signals::open(&signals::SignalOptions::Length { chars: 2 }).unwrap());
    let stop = AtomicBool::new(stop);
    originals::keep(&mut loaded, &model, &prompts(), place, OPTIONS, (Some(&judge), "length=2"), &stop, |_| {}).unwrap()
}

#[test]
fn many_workers_make_one_set_once_and_it_holds_what_one_would_have_made() {
    let room = Room::new();
    let (alone, together) = (room.at("alone"), room.at("together"));
    assert_eq!(keep(&room, "base", &alone, true).there, 0, "asked to stop before the first");
    let parts = keep(&room, "base", &alone, false);
    assert_eq!((parts.written, parts.there, parts.of), (3, 3, 3));
    assert_eq!(keep(&room, "base", &alone, false).written, 0, "the same again is no work");
    let written: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(|| keep(&room, "base", &together, false).written)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(written, 3, "no part is published twice");
    let [one, many] = [&alone, &together].map(|place| originals::read(place).unwrap());
    assert_eq!((one.len(), &one), (150, &many));
    assert!(one.iter().all(|one| one.rewards.len() == 1 && one.log_probs[0].iter().all(|p| *p <= 0.0) && one.tokenizer.is_some()));
    // A part that is missing is named, and made again alone.
    let part = std::fs::read_dir(&alone).unwrap().flatten().find(|entry| entry.path().is_dir()).unwrap().path();
    std::fs::remove_dir_all(&part).unwrap();
    let error = originals::read(&alone).unwrap_err().to_string();
    assert!(error.contains("2 of 3 parts"), "{error}");
    // What a worker left that was killed while it published is removed.
    let left = part.with_extension("of-a-kill.tmp");
    std::fs::create_dir(&left).unwrap();
    assert_eq!(keep(&room, "base", &alone, false).written, 1);
    assert!(!left.exists());
    assert_eq!(originals::read(&alone).unwrap(), many);
    // A torn one is refused.
    let torn = std::fs::read(part.join("replies.parquet")).unwrap();
    std::fs::write(part.join("replies.parquet"), &torn[..torn.len() / 2]).unwrap();
    assert!(originals::read(&alone).is_err());
}

#[test]
fn those_of_another_model_or_tokenizer_are_refused_by_name() {
    let room = Room::new();
    let place = room.at("kept");
    keep(&room, "base", &place, false);
    let train = |from: &str, place: &Path| {
        let objective = format!("{}\nkl = \"stored\"\noriginals = {place:?}", room.ppo());
        let recipe = Recipe::parse(&room.recipe(&objective, 2), "stored", &[format!("from.path={}", room.at(from).display())]).unwrap();
        run::train(&recipe, &room.at(&format!("policy-{from}")), false, &AtomicBool::new(false), &mut Quiet)
    };
    train("base", &place).unwrap();
    let sft = format!("kind = \"sft\"\ndemonstrations = {:?}\nheld_out_ratio = 0.3", room.at("preferences.jsonl"));
    room.train("tuned", &room.recipe(&sft, 2), &[]);
    let error = train("tuned", &place).unwrap_err().to_string();
    let identity = respond::identity(&room.at("tuned")).unwrap();
    assert!(error.contains("made by another model or tokenizer") && error.contains(&identity), "{error}");
    // The same replies, of a tokenizer with another hash.
    let mut others = originals::read(&place).unwrap();
    others.iter_mut().for_each(|one| one.tokenizer = Some("f00d".into()));
    let lines: String = others.iter().map(|one| serde_json::to_string(one).unwrap() + "\n").collect();
    std::fs::write(room.at("others.jsonl"), lines).unwrap();
    let error = train("base", &room.at("others.jsonl")).unwrap_err().to_string();
    assert!(error.contains("its tokenizer is `f00d`"), "{error}");
}

/// Objects under a URL, by the store whose objects are files.
#[cfg(feature = "cloud")]
#[test]
fn under_a_url_many_workers_make_the_same_set_and_it_serves_as_a_folder_does() {
    let room = Room::new();
    let (folder, url) = (room.at("kept"), PathBuf::from(format!("file://{}/deep/kept", room.at("bucket").display())));
    std::fs::create_dir(room.at("bucket")).unwrap();
    assert!(!originals::are_kept(&url).unwrap() && !originals::are_kept(&room.at("base")).unwrap());
    let error = originals::read(&url).unwrap_err().to_string();
    assert!(error.contains("no part"), "{error}");
    let written: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| keep(&room, "base", &url, false).written)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert!((3..=12).contains(&written), "{written}");
    assert_eq!(keep(&room, "base", &url, false), originals::Parts { written: 0, there: 3, of: 3 });
    keep(&room, "base", &folder, false);
    let kept = originals::read(&url).unwrap();
    assert_eq!(kept, originals::read(&folder).unwrap());
    assert!(originals::are_kept(&url).unwrap() && originals::are_kept(&folder).unwrap());

    // The divergence is taken from there, to the bits of the folder's.
    let ppo = format!("{}\nkl = \"stored\"\noriginals = ", room.ppo());
    room.train("here", &room.recipe(&format!("{ppo}{folder:?}"), 2), &[]);
    room.train("there", &room.recipe(&format!("{ppo}{url:?}"), 2), &[]);
    assert_eq!(room.weights("here"), room.weights("there"));

    // A part that was cut is not seen, and is made again; what lies there beside is no part.
    let part = std::fs::read_dir(room.at("bucket/deep/kept")).unwrap().flatten().next().unwrap().path();
    std::fs::remove_file(part.join("published.json")).unwrap();
    let error = originals::read(&url).unwrap_err().to_string();
    assert!(error.contains("2 of 3 parts"), "{error}");
    assert_eq!(keep(&room, "base", &url, false).written, 1);
    assert_eq!(originals::read(&url).unwrap(), kept);
    // Nor is one taken whose bytes are others.
    let object = walk(&part).into_iter().find(|path| path.ends_with("replies.parquet")).unwrap();
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let error = originals::read(&url).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
}

#[cfg(feature = "cloud")]
fn walk(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    all.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
