//! Training on prepared text: cuts of a batch, the spike guard, and damage between two runs.

mod text;

use std::{path::Path, sync::atomic::AtomicBool};

use engine::Inputs;
use text::prepare;
use train::{
    checkpoint,
    metrics::StepMetrics,
    recipe::{OptimKind, Recipe},
    run::{self, Observer, Outcome},
    step::{StepOptions, Trainer},
};

fn recipe(folder: &Path, more: &str) -> Recipe {
    let text = format!(
        "[model]\ndepth = 1\n[data]\npath = {:?}\n[batch]\nsequences = 4\ncontext = 32\n[optim]\nlr = 0.01\n[eval]\nwindows = 2\n{more}",
        folder.join("data").display().to_string()
    );
    Recipe::parse(&text, "test", &[]).unwrap()
}

#[derive(Default)]
struct Notes {
    notes: Vec<String>,
    skipped: Vec<u64>,
}

impl Observer for Notes {
    fn step(&mut self, metrics: &StepMetrics, _steps: u64) {
        if metrics.is_skipped {
            self.skipped.push(metrics.step);
        }
    }
    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

fn train(recipe: &Recipe, out: &Path, resume: bool) -> (Outcome, Notes) {
    let mut notes = Notes::default();
    let outcome = run::train(recipe, out, resume, &AtomicBool::new(false), &mut notes).unwrap();
    (outcome, notes)
}

#[test]
fn one_big_batch_and_many_small_ones_give_one_gradient() {
    let window = |i: u64| (0..17).map(|t| (engine::mix(i * 100 + t) % 50) as u32).collect::<Vec<u32>>();
    let windows: Vec<Vec<u32>> = (0..8).map(window).collect();
    let gradient = |lanes: usize, micro_batch: usize| {
        let table: toml::Table = "depth = 2\nvocab = 50\ncontext = 16\nzero_init = false".parse().unwrap();
        let recipe = Recipe::parse("[model]\ndepth = 2\n[batch]\ncontext = 16\n[train]\nprecision = \"f32\"\n", "test", &[]).unwrap();
        let options = StepOptions { lanes, passes: 1, micro_batch, ..StepOptions::of(&recipe) };
        let mut trainer = Trainer::new(models::build(&table).unwrap(), options).unwrap();
        let batch: Vec<Vec<Inputs>> =
            windows.chunks(8 / lanes).map(|lane| lane.chunks(micro_batch).map(train::feed::inputs_of).collect()).collect();
        let gradient = trainer.gradient(1, &batch, 8 * 16).unwrap();
        (gradient.loss, trainer.with_store(|store| store.parts().iter().flat_map(|part| part.grad.to_vec()).collect::<Vec<f32>>()))
    };
    let (loss, whole) = gradient(1, 8);
    let largest = whole.iter().fold(0.0_f32, |a, g| a.max(g.abs()));
    for (lanes, micro_batch) in [(1, 1), (1, 3), (2, 4), (4, 1), (8, 1)] {
        let (cut_loss, cut) = gradient(lanes, micro_batch);
        assert!((cut_loss - loss).abs() < 1e-5 * loss, "{lanes} lanes of {micro_batch}: loss {cut_loss}, whole {loss}");
        let worst = whole.iter().zip(&cut).fold(0.0_f32, |a, (x, y)| a.max((x - y).abs()));
        assert!(worst < 1e-5 * largest, "{lanes} lanes of {micro_batch}: {worst} of {largest}");
    }
}

#[test]
fn a_spike_is_left_out_or_rolled_back_and_its_document_named() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    for action in ["skip", "rollback", "off"] {
        let more =
            format!("[train]\nsteps = 160\n[checkpoint]\nevery_steps = 20\n[guard]\naction = {action:?}\nwindow = 20\nthreshold = 6.0\n");
        let (outcome, notes) = train(&recipe(folder.path(), &more), &folder.path().join(action), false);
        assert_eq!(outcome.step, 160);
        let named =
            notes.notes.iter().filter(|note| note.contains("is a spike") && note.contains("the worst first: `noise.txt` (")).count();
        match action {
            "off" => assert_eq!((outcome.skipped_steps, named), (0, 0)),
            _ => assert!(outcome.skipped_steps > 0 && named > 0, "{action}: {:?}", notes.notes),
        }
        let back = notes.notes.iter().filter(|note| note.starts_with("going back to step")).count();
        assert_eq!(back > 0, action == "rollback", "{:?}", notes.notes);
    }
}

#[test]
fn a_damaged_checkpoint_is_named_passed_over_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let recipe = recipe(folder.path(), "[train]\nsteps = 30\n[checkpoint]\nevery_steps = 10\nkeep_last = 3\n");
    let out = folder.path().join("run");
    train(&recipe, &out, false);
    let last = out.join("step-00000030/tensors-00000.safetensors");
    let whole = std::fs::read(&last).unwrap();
    let mut torn = whole.clone();
    torn[whole.len() / 2] ^= 1;
    std::fs::write(&last, torn).unwrap();
    let (outcome, notes) = train(&recipe, &out, true);
    assert!(notes.notes.iter().any(|note| note.contains("step-00000030") && note.contains("hash")), "{:?}", notes.notes);
    assert!(notes.notes.iter().any(|note| note == "resuming from step 20"));
    assert_eq!((outcome.step, std::fs::read(&last).unwrap() == whole), (30, true), "the same bits again");
    assert_eq!(checkpoint::list(&out).len(), 3);
}

fn refused(recipe: &Recipe, out: &Path) -> String {
    let error = run::train(recipe, out, true, &AtomicBool::new(false), &mut run::Quiet).unwrap_err();
    error.to_string()
}

#[test]
fn a_run_goes_on_over_its_own_data_by_any_path_and_over_no_other() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let more = "[train]\nsteps = 10\n[checkpoint]\nevery_steps = 5\nkeep_last = 3\n";
    let (here, out) = (recipe(folder.path(), more), folder.path().join("run"));
    train(&here, &out, false);
    std::fs::remove_dir_all(out.join("step-00000010")).unwrap();
    let mut other_path = here.clone();
    other_path.data.path = folder.path().join("corpus/../data/.");
    assert_eq!(train(&other_path, &out, true).0.step, 10);

    // The checkpoint alone is enough to use the model.
    let loaded = run::load(&out).unwrap();
    assert!(loaded.tokenizer_path.starts_with(&out) && loaded.tokenizer().is_ok());

    std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    assert!(run::load(&out).unwrap().tokenizer().is_ok());
    std::fs::write(folder.path().join("corpus/more.txt"), "the new road goes nowhere\n".repeat(40)).unwrap();
    prepare(folder.path());
    let error = refused(&here, &out);
    assert!(error.contains("are not those of the run") && error.contains("the same tokenizer gave other tokens"), "{error}");
}

#[test]
fn what_changes_no_bit_may_change_and_more_steps_follow_from_the_peak_rate() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let of = |steps: u64, more: &str| {
        recipe(
            folder.path(),
            &format!(
                "every_steps = 9\n[train]\nsteps = {steps}\nrecompute = {}\n[schedule]\nwarmup_steps = 4\n[checkpoint]\n{more}",
                steps == 40
            ),
        )
    };
    let end =
        |run: &str, step: u64| std::fs::read(folder.path().join(run).join(format!("step-{step:08}/tensors-00000.safetensors"))).unwrap();
    train(&of(40, ""), &folder.path().join("alone"), false);
    let out = folder.path().join("run");
    train(&of(20, "every_steps = 7\nkeep_last = 1\n"), &out, false);
    let (outcome, notes) = train(&of(40, "every_steps = 11\nkeep_last = 2\n"), &out, true);
    assert_eq!(outcome.step, 40, "{:?}", notes.notes);
    assert!(end("alone", 40) == end("run", 40), "as if it had been planned so: {:?}", notes.notes);
    assert!(out.join("ended-at-20/step-00000020").is_dir());
}

#[test]
fn a_run_begins_with_the_weights_of_another_and_then_needs_it_no_more() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let of = |more: &str| recipe(folder.path(), &format!("[train]\nsteps = 40\n[checkpoint]\nevery_steps = 10\n{more}"));
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let (began, _) = train(&of(""), &first, false);
    let from = |path: &Path| of(&format!("[from]\npath = {:?}\n", path.display().to_string()));
    let (ended, notes) = train(&from(&first), &second, false);
    assert!(
        notes.notes.iter().any(|note| note.contains("beginning with the weights of") && note.contains("step-00000040")),
        "{:?}",
        notes.notes
    );
    let losses = |run: &Path| -> Vec<f32> { train::metrics::read(&run.join("metrics.jsonl")).0.iter().map(|line| line.loss).collect() };
    assert!(losses(&second)[0] < 0.7 * losses(&first)[0] && ended.loss < began.loss, "{:?} {:?}", losses(&first), losses(&second));

    // Killed before its first checkpoint it begins again as it began, and in no other way.
    let third = folder.path().join("third");
    train(&from(&first), &third, false);
    checkpoint::list(&third).iter().for_each(|(_, path)| std::fs::remove_dir_all(path).unwrap());
    let error = refused(&of(""), &third);
    assert!(error.contains("it begins with the weights of") && error.contains("this recipe with random weights"), "{error}");
    train(&from(&first), &third, true);
    let weights = |run: &Path| std::fs::read(run.join("step-00000040/tensors-00000.safetensors")).unwrap();
    assert!(weights(&third) == weights(&second));

    // From its first checkpoint on nothing of the other is read.
    std::fs::remove_dir_all(&first).unwrap();
    std::fs::remove_dir_all(second.join("step-00000040")).unwrap();
    let (_, notes) = train(&of(""), &second, true);
    assert!(weights(&third) == weights(&second) && notes.notes.iter().any(|note| note == "resuming from step 30"), "{:?}", notes.notes);
}

#[test]
fn an_optimiser_goes_on_in_a_second_run_as_it_would_have_in_the_first() {
    let batch =
        |i: u64| vec![vec![train::feed::inputs_of(&[(0..17).map(|t| (engine::mix(i * 100 + t) % 50) as u32).collect::<Vec<u32>>()])]];
    for kind in [OptimKind::Adamw, OptimKind::Muon] {
        let table: toml::Table = "depth = 1\nvocab = 50\ncontext = 16\nzero_init = false".parse().unwrap();
        let mut recipe = Recipe::parse("[model]\ndepth = 1\n[batch]\ncontext = 16\n[train]\nprecision = \"f32\"\n", "test", &[]).unwrap();
        (recipe.optim.kind, recipe.optim.average) = (kind, 0.9);
        let options = || StepOptions { lanes: 1, passes: 1, micro_batch: 1, ..StepOptions::of(&recipe) };
        let new = || Trainer::new(models::build(&table).unwrap(), options()).unwrap();
        let step = |trainer: &mut Trainer, step: u64, sample: u64| {
            let norm = trainer.gradient(step, &batch(sample), 16).unwrap().norm;
            trainer.update(step, 1.0, norm).unwrap();
        };
        let tensors = |trainer: &mut Trainer| {
            trainer.tensors().unwrap().into_iter().map(|(name, _, values)| (name, values)).collect::<std::collections::BTreeMap<_, _>>()
        };
        let (mut first, mut second) = (new(), new());
        (1..=3).for_each(|at| step(&mut first, at, at));
        let mut kept = tensors(&mut first);
        assert!(kept.keys().any(|name| name.starts_with("optim/average/")));
        second.restore(0, |name| kept.remove(name)).unwrap();
        second.go_on_after(3);
        step(&mut first, 4, 4);
        step(&mut second, 1, 4);
        assert_eq!(tensors(&mut first), tensors(&mut second), "{kind:?}");
    }
}

#[test]
fn a_run_goes_on_with_the_optimiser_of_another_and_says_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let of = |more: &str| recipe(folder.path(), &format!("[train]\nsteps = 20\n[checkpoint]\nevery_steps = 10\n{more}"));
    let at = |name: &str| folder.path().join(name);
    let from = |run: &str, more: &str| of(&format!("[from]\npath = {:?}\n{more}", at(run).display().to_string()));
    train(&of(""), &at("first"), false);
    train(&from("first", ""), &at("fresh"), false);
    let (_, notes) = train(&from("first", "optimiser = true\n"), &at("second"), false);
    assert!(notes.notes.iter().any(|note| note.contains("and its optimiser after 20 updates")), "{:?}", notes.notes);
    let weights = |run: &str| std::fs::read(at(run).join("step-00000020/tensors-00000.safetensors")).unwrap();
    let whole = weights("second");
    assert!(whole != weights("fresh"), "the averages count");

    // Resumed it knows how many updates its averages have seen, and tells the next run.
    std::fs::remove_dir_all(at("second").join("step-00000020")).unwrap();
    train(&from("first", "optimiser = true\n"), &at("second"), true);
    assert!(weights("second") == whole);
    let (_, notes) = train(&from("second", "optimiser = true\n"), &at("third"), false);
    assert!(notes.notes.iter().any(|note| note.contains("and its optimiser after 40 updates")), "{:?}", notes.notes);

    let refusal = |recipe: &Recipe| refused(recipe, &at("out"));
    let mut other = from("first", "optimiser = true\n");
    other.optim.kind = match other.optim.kind {
        OptimKind::Muon => OptimKind::Adamw,
        OptimKind::Adamw => OptimKind::Muon,
    };
    let error = refusal(&other);
    assert!(error.contains("its optimiser, `optim.kind`, is another one"), "{error}");
    let error = refusal(&from("first", "optimiser = true\nrows_by_name = true\n"));
    assert!(error.contains("do not go by names of tokens"), "{error}");
    let (_, mut snapshot, _) = checkpoint::latest_whole(&at("first")).unwrap().unwrap();
    snapshot.tensors.retain(|tensor| !tensor.name.starts_with("optim/"));
    checkpoint::write(&at("imported"), &snapshot).unwrap();
    let error = refusal(&from("imported", "optimiser = true\n"));
    assert!(error.contains("holds no state of an optimiser"), "{error}");
}

#[test]
fn weights_of_another_shape_or_another_tokenizer_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let first = folder.path().join("first");
    train(&recipe(folder.path(), "[train]\nsteps = 2\n"), &first, false);
    let mut wider = recipe(folder.path(), &format!("[from]\npath = {:?}\n", first.display().to_string()));
    let same = wider.clone();
    wider.model = "depth = 2".parse().unwrap();
    let error = refused(&wider, &folder.path().join("out"));
    assert!(error.contains("do not fit this run: `") && error.contains("in this recipe's model ("), "{error}");
    // The checkpoint's own tokenizer is another one than the data's.
    let (step, mut snapshot, _) = checkpoint::latest_whole(&first).unwrap().unwrap();
    snapshot.tokenizer = std::sync::Arc::new(vec![("tokenizer.json".into(), b"{}".to_vec())]);
    checkpoint::write(step.parent().unwrap(), &snapshot).unwrap();
    let error = refused(&same, &folder.path().join("out"));
    assert!(error.contains("its tokenizer `") && error.contains("is not that of the data in"), "{error}");
}

#[test]
fn a_run_that_diverges_before_its_first_checkpoint_leaves_a_finite_one() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    for (action, lanes) in [("off", 1), ("skip", 2)] {
        let more = format!(
            "lanes = {lanes}\n[optim]\nkind = \"adamw\"\nlr = 1e25\nweight_decay = 0.0\n[train]\nsteps = 60\n[guard]\nwindow = 4\naction = {action:?}\n[parallel]\nranks = {lanes}\n"
        );
        let text = format!(
            "[model]\ndepth = 1\n[data]\npath = {:?}\n[eval]\nwindows = 2\n[batch]\nsequences = 4\ncontext = 32\n{more}",
            folder.path().join("data").display().to_string()
        );
        let (recipe, out) = (Recipe::parse(&text, "test", &[]).unwrap(), folder.path().join(action));
        let error = run::train(&recipe, &out, false, &AtomicBool::new(false), &mut run::Quiet).unwrap_err();
        assert!(matches!(error, train::TrainError::Diverged { .. }), "{error}");
        let (_, snapshot, damaged) = checkpoint::latest_whole(&out).unwrap().unwrap();
        assert!(snapshot.step >= 1 && damaged.is_empty() && snapshot.tensors.iter().all(|t| t.values.iter().all(|v| v.is_finite())));
    }
}

#[test]
fn texts_written_together_are_those_written_alone() {
    use train::generate::{Request, Sampling, Writer};
    for table in [
        "depth = 2\nvocab = 61\ncontext = 96\nzero_init = false",
        "preset = \"gpt2-124m\"\nlayers = 2\nmodel = 48\nheads = 3\nvocab = 61\ncontext = 96",
    ] {
        let model = models::build(&table.parse().unwrap()).unwrap();
        let language = model.language().unwrap();
        let mut store = parallel::Replicated::solo(model.params(), |id| model.params().initial(id, 3));
        let mut writer = Writer { language, table: model.params(), store: &mut store, precision: engine::Precision::F32 };
        let tokens = |from: u64, count: u64| (from..from + count).map(|t| (engine::mix(t) % 61) as u32).collect::<Vec<u32>>();
        // Four of one long prompt, one that begins as it does, short ones, one that fills the context, one of nothing.
        let prompts = [
            tokens(0, 70),
            tokens(0, 70),
            tokens(0, 70),
            tokens(0, 70),
            [tokens(0, 40), tokens(900, 9)].concat(),
            tokens(5, 1),
            tokens(7, 3),
            tokens(100, 90),
        ];
        let mut requests: Vec<Request> = prompts
            .into_iter()
            .zip(1..)
            .map(|(prompt, seed)| Request {
                prompt,
                count: 20 + seed as usize,
                stops: vec![9],
                sampling: Sampling { top_p: 0.9, seed, ..Sampling::default() },
            })
            .collect();
        requests.push(Request { count: 0, ..requests[0].clone() });
        let alone: Vec<_> = requests.iter().map(|request| writer.write_one(request, |_| {}).unwrap()).collect();
        for at_once in [1, 3, 64] {
            let mut told = vec![Vec::new(); requests.len()];
            let together = writer.write(&requests, at_once, |index, drawn| told[index].push(drawn)).unwrap();
            assert_eq!(told, together, "each token is told once, in order");
            for (alone, together) in alone.iter().zip(&together) {
                let ids = |drawn: &[train::generate::Drawn]| drawn.iter().map(|one| one.token).collect::<Vec<_>>();
                assert_eq!(ids(alone), ids(together), "{at_once} at once: {table}");
                assert!(alone.iter().zip(together).all(|(a, b)| (a.log_prob - b.log_prob).abs() < 1e-4));
            }
        }
        // And the log-probabilities are those of the training forward pass.
        for (request, drawn) in requests.iter().zip(&alone).filter(|(_, drawn)| !drawn.is_empty()) {
            let all: Vec<u32> = request.prompt.iter().copied().chain(drawn.iter().map(|one| one.token)).collect();
            let inputs = train::feed::inputs_of(std::slice::from_ref(&all));
            let pool = engine::Pool::new(engine::Device::Cpu, 1 << 26);
            let mut tape = engine::Tape::new(&pool, writer.store, model.params(), train::eval::inference(engine::Precision::F32));
            let nll = language.token_nll(&mut tape, &inputs).unwrap();
            let written = &nll.f32s()[request.prompt.len() - 1..];
            assert!(written.iter().zip(drawn).all(|(nll, one)| (nll + one.log_prob).abs() < 1e-4), "{table}");
        }
    }
}
