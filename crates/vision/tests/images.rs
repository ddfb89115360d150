//! Each model of images trains from a folder of files: it learns, ranks change no bit, and a run that stops goes on to the same bits.

mod common;

use std::{path::Path, sync::atomic::AtomicBool};

use common::{StopAfter, weights};
use train::{
    checkpoint,
    feed::Feed,
    metrics,
    recipe::Recipe,
    run::{self, Quiet},
};
use vision::film;

/// Three folders of simple pictures: bars that stand, bars that lie, and rings.
fn pictures(folder: &Path) {
    for (class, name) in ["standing", "lying", "rings"].into_iter().enumerate() {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for i in 0..60_u32 {
            let shade = |x: u32, y: u32| {
                let (x, y) = (x + i % 7, y + i % 5);
                let on = match class {
                    0 => x / 4 % 2,
                    1 => y / 4 % 2,
                    _ => ((x as f32 - 16.0).hypot(y as f32 - 16.0) / 4.0) as u32 % 2,
                };
                image::Rgb([(200 * on + i % 50) as u8, 40, (255 - 200 * on) as u8])
            };
            image::RgbImage::from_fn(32, 32, shade).save(folder.join(name).join(format!("{i}.png"))).unwrap();
            std::fs::write(folder.join(name).join(format!("{i}.txt")), format!("{name} moved by {} and {}", i % 7, i % 5)).unwrap();
        }
    }
}

const CLIP: &str = "kind = \"clip\"\nembed = 16\n[model.image]\nsize = 16\npatch = 4\nlayers = 1\nwidth = 32\nheads = 2\nffn = 64\nmlp = \"quick_gelu\"\neps = 1e-5\nnorm_first = true\n\
     [model.text]\nvocab = 300\ntokens = 12\nlayers = 1\nwidth = 32\nheads = 2\nffn = 64\nmlp = \"quick_gelu\"";

const MODELS: [(&str, &str); 6] = [
    ("contrastive_loss", CLIP),
    (
        "denoising_error",
        "kind = \"unet\"\nsize = 16\nchannels = 3\nout_channels = 3\nwidth = 8\nfactors = [1, 2]\nres_blocks = 1\nattention = [false, true]\n\
         depth = 1\nheads = 2\ntext_width = 4\ntext_tokens = 1\ngroups = 4\n[objective]\nkind = \"denoising\"\ntarget = \"velocity\"\nschedule = \"cosine\"",
    ),
    (
        "denoising_error",
        "kind = \"dit\"\nsize = 16\npatch = 4\nchannels = 3\nout_channels = 6\nlayers = 1\nwidth = 32\nheads = 2\nclasses = 4\nwaves = 32\n\
         [objective]\nkind = \"denoising\"\ntarget = \"flow\"\n[optim]\nlr = 3e-3\naverage = 0.9",
    ),
    (
        "reconstruction_error",
        "kind = \"vit_mae\"\ndecoder_layers = 1\ndecoder_width = 32\ndecoder_heads = 2\nmask_ratio = 0.75\n[model.tower]\nsize = 16\npatch = 4\nlayers = 2\nwidth = 32\nheads = 2\nffn = 64\nmlp = \"gelu\"\neps = 1e-6\nnorm_first = false",
    ),
    (
        "class_loss",
        "kind = \"vit\"\nclasses = 3\n[model.tower]\nsize = 16\npatch = 4\nlayers = 2\nwidth = 32\nheads = 2\nffn = 64\nmlp = \"gelu\"\neps = 1e-6\nnorm_first = false",
    ),
    (
        "denoising_error",
        "kind = \"dit\"\nsize = 16\npatch = 4\nchannels = 3\nout_channels = 3\nlayers = 2\nwidth = 32\nheads = 2\nclasses = 4\nwaves = 32",
    ),
];

fn recipe(folder: &Path, model: &str, set: &[&str]) -> Recipe {
    let usual = ["batch.sequences=8", "train.steps=60", "optim.lr=3e-3", "eval.every_steps=5", "checkpoint.every_steps=20"];
    common::recipe(&folder.join("pictures"), &format!("[model]\n{model}"), &[&usual, set].concat())
}

#[test]
fn a_folder_of_images_trains_each_model_to_the_same_bits_on_any_ranks_and_after_any_stop() {
    vision::register();
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("pictures"));
    let never = AtomicBool::new(false);
    for (i, (metric, model)) in MODELS.into_iter().enumerate() {
        let at = |name: &str| folder.path().join(format!("{i}-{metric}-{name}"));
        run::train(&recipe(folder.path(), model, &[]), &at("one"), false, &never, &mut Quiet).unwrap();
        let lines = metrics::read(&at("one").join("metrics.jsonl")).0;
        let held_out: Vec<f64> = lines.iter().filter_map(|line| line.held_out).map(|m| m.value).collect();
        assert!(lines.iter().filter_map(|line| line.held_out).all(|m| m.kind.name == metric));
        assert!(held_out[held_out.len() - 1] < held_out[0] && held_out.iter().all(|v| v.is_finite()), "{metric}: {held_out:?}");
        // One micro-batch a rank and several: a loss between samples is of all of them either way.
        for (strategy, ranks) in [("replicated", 2), ("zero3", 2), ("herring", 4)] {
            let set = [&format!("parallel.ranks={ranks}")[..], &format!("parallel.strategy={strategy}")];
            run::train(&recipe(folder.path(), model, &set), &at(strategy), false, &never, &mut Quiet).unwrap();
            assert!(weights(&at(strategy)) == weights(&at("one")), "{metric} {strategy}");
        }
        let stop = AtomicBool::new(false);
        run::train(&recipe(folder.path(), model, &[]), &at("stopped"), false, &stop, &mut StopAfter(13, &stop)).unwrap();
        run::train(&recipe(folder.path(), model, &[]), &at("stopped"), true, &never, &mut Quiet).unwrap();
        assert!(weights(&at("stopped")) == weights(&at("one")), "{metric}");
        // Of 12 measurements those after 1, 2, 4, 8 and the last are looked at, with the same bytes in all runs.
        let film = film::read(&at("one"));
        let steps: Vec<u64> = film.lines.iter().map(|(step, _)| *step).collect();
        let makes_pictures = !["contrastive_loss", "class_loss"].contains(&metric);
        assert_eq!(steps, if makes_pictures { vec![5, 10, 20, 40, 60] } else { Vec::new() }, "{metric}");
        assert_eq!(film.originals.is_some(), metric == "reconstruction_error");
        assert!(["zero3", "stopped"].iter().all(|name| film::read(&at(name)).lines == film.lines), "{metric}");
        assert!(film.lines.windows(2).all(|pair| pair[0].1 != pair[1].1), "{metric}: what is made changes as it learns");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    vision::register();
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("pictures"));
    let never = AtomicBool::new(false);
    let error = |model: &str, set: &[&str]| {
        run::train(&recipe(folder.path(), model, set), &folder.path().join("refused"), false, &never, &mut Quiet).unwrap_err().to_string()
    };
    let [mae, vit, dit] = [MODELS[3].1, MODELS[4].1, MODELS[5].1];
    assert!(error(vit, &["model.classes=2"]).contains("3 classes are more than the model's 2"));
    assert!(error(dit, &["model.channels=4", "model.out_channels=4"]).contains("4 channels"));
    assert!(error(mae, &["batch.sequences=4096"]).contains("a batch takes 4096"));
    assert!(error(mae, &["data.path=/nowhere"]).contains("holds no file"));
    assert!(error(mae, &["data.path=s3://bucket/images"]).contains("is an address"));
    assert!(error(CLIP, &["model.text.vocab=300", "objective.kind=contrastive", "objective.tokenizer=/nowhere"]).contains("/nowhere"));
    assert!(error(CLIP, &["parallel.strategy=param_server", "parallel.ranks=2", "parallel.staleness=1"]).contains("between all samples"));
    std::fs::remove_file(folder.path().join("pictures/rings/7.txt")).unwrap();
    assert!(vision::feed::open(&recipe(folder.path(), CLIP, &[])).unwrap().notes()[0].contains("`rings/7.png` has no caption"));
    let parsed = |model: &str, set: &[&str]| {
        let text = format!("[model]\n{model}\n");
        Recipe::parse(&text, "test", &set.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap_err().to_string()
    };
    for (model, set, want) in [
        (dit, ["objective.kind=denoising", "objective.target=colour"], "unknown variant"),
        (dit, ["objective.kind=denoising", "objective.no_class=2"], "no_class"),
        (dit, ["objective.kind=denoising", "objective.speed=2"], "unknown field"),
        (mae, ["objective.kind=reconstruction", "objective.augment={flip=true,least_area=0.0}"], "least_area"),
    ] {
        assert!(parsed(model, &set).contains(want), "{want}: {}", parsed(model, &set));
    }
    let flow = parsed(dit, &["objective.kind=denoising", "objective.target=flow", "objective.schedule=cosine"]);
    assert!(flow.contains("no schedule"), "{flow}");
}

#[test]
fn the_loss_of_pairs_is_of_the_whole_batch_however_it_is_cut() {
    vision::register();
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("pictures"));
    let never = AtomicBool::new(false);
    for (name, model) in [("clip", CLIP.to_owned()), ("siglip", CLIP.replace("embed = 16", "embed = 16\nsigmoid = true"))] {
        let losses = |cut: &str, set: &[&str]| {
            let out = folder.path().join(format!("{name}-{cut}"));
            let all = [&["train.steps=6", "batch.sequences=16"], set].concat();
            run::train(&recipe(folder.path(), &model, &all), &out, false, &never, &mut Quiet).unwrap();
            metrics::read(&out.join("metrics.jsonl")).0.iter().map(|line| (line.loss, line.grad_norm)).collect::<Vec<_>>()
        };
        let whole = losses("whole", &["batch.lanes=1", "batch.micro_batch=16"]);
        let parts = losses("parts", &["batch.lanes=1", "batch.micro_batch=3"]);
        let lanes = losses("lanes", &["batch.lanes=4", "parallel.ranks=2", "batch.micro_batch=2"]);
        for (step, ((a, b), c)) in whole.iter().zip(&parts).zip(&lanes).enumerate() {
            let is_near = |a: f32, b: f32| (a - b).abs() <= 2e-4 * a.abs().max(1.0);
            assert!(is_near(a.0, b.0) && is_near(a.0, c.0), "{name} loss at {step}: {a:?} {b:?} {c:?}");
            assert!(is_near(a.1, b.1) && is_near(a.1, c.1), "{name} gradient at {step}: {a:?} {b:?} {c:?}");
        }
        if name == "clip" {
            // Of 16 candidates: ln 16 is 2.77, and of a micro-batch of 3 it would be 1.1.
            assert!(whole[0].0 > 2.0, "{whole:?}");
        }
    }
}

#[test]
fn a_classifier_begins_as_the_encoder_of_a_masked_autoencoder() {
    vision::register();
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("pictures"));
    let (never, at) = (AtomicBool::new(false), |name: &str| folder.path().join(name));
    let train = |model: &str, set: &[&str], out: &str| run::train(&recipe(folder.path(), model, set), &at(out), false, &never, &mut Quiet);
    train(MODELS[3].1, &["train.steps=20"], "mae").unwrap();
    let from = format!("from.path={:?}", at("mae").display().to_string());
    // Next to nothing is learnt, and the tower's sizes are those of the run that it begins with.
    let still = [&from, "train.steps=1", "optim.lr=1e-30", "optim.weight_decay=0"];
    train("kind = \"vit\"\nclasses = 3", &still, "vit").unwrap();
    let read = |out: &str| checkpoint::latest_whole(&at(out)).unwrap().unwrap().1.tensors;
    let (theirs, ours) = (read("mae"), read("vit"));
    for tensor in ours.iter().filter(|tensor| tensor.name.starts_with("layers.") || tensor.name == "patch.weight") {
        let same = theirs.iter().find(|other| other.name == tensor.name).unwrap();
        assert!(same.values == tensor.values, "{}", tensor.name);
    }
    let positions = ours.iter().find(|tensor| tensor.name == "positions").unwrap();
    assert_eq!(positions.values[32..], models::fixed_positions(4, 32));
    let error = train(MODELS[4].1, &[&from, "model.tower.layers=1"], "other").unwrap_err().to_string();
    assert!(error.contains("`model.tower` is another"), "{error}");
}

#[test]
fn a_run_whose_loss_is_lost_names_the_images_of_its_batch() {
    vision::register();
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("pictures"));
    let lost = ["optim.lr=1e30", "guard.action=skip", "guard.window=8", "train.clip=1e30"];
    let recipe = recipe(folder.path(), MODELS[4].1, &lost);
    let error = run::train(&recipe, &folder.path().join("run"), false, &AtomicBool::new(false), &mut Quiet).unwrap_err();
    let train::TrainError::Diverged { samples, .. } = &error else { panic!("{error}") };
    assert!(samples.len() == 8 && samples.iter().all(|name| name.contains(".png`")), "{error}");
}
