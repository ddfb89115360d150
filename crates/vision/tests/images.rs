//! Each model of images trains from a folder of files: it learns, ranks change no bit, and a run that stops goes on to the same bits.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use train::{
    checkpoint,
    metrics::{self, StepMetrics},
    recipe::Recipe,
    run::{self, Observer, Quiet},
};

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
        }
    }
}

const MODELS: [(&str, &str); 3] = [
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
    let text = format!(
        "[data]\npath = {:?}\n[batch]\nsequences = 8\nlanes = 2\n[train]\nsteps = 60\nprecision = \"f32\"\n[optim]\nlr = 3e-3\n[schedule]\nwarmup_steps = 5\n\
         [eval]\nevery_steps = 5\nwindows = 16\n[checkpoint]\nevery_steps = 20\n[guard]\naction = \"off\"\n[model]\n{model}\n",
        folder.join("pictures").display().to_string()
    );
    Recipe::parse(&text, "test", &set.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn weights(folder: &Path) -> Vec<Vec<u32>> {
    let (_, snapshot, _) = checkpoint::latest_whole(folder).unwrap().unwrap();
    snapshot.tensors.into_iter().map(|tensor| tensor.values.into_iter().map(f32::to_bits).collect()).collect()
}

struct StopAfter<'a>(u64, &'a AtomicBool);

impl Observer for StopAfter<'_> {
    fn step(&mut self, metrics: &StepMetrics, _steps: u64) {
        if metrics.step >= self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn note(&mut self, _text: &str) {}
}

#[test]
fn a_folder_of_images_trains_each_model_to_the_same_bits_on_any_ranks_and_after_any_stop() {
    vision::register();
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("pictures"));
    let never = AtomicBool::new(false);
    for (metric, model) in MODELS {
        let at = |name: &str| folder.path().join(format!("{metric}-{name}"));
        run::train(&recipe(folder.path(), model, &[]), &at("one"), false, &never, &mut Quiet).unwrap();
        let lines = metrics::read(&at("one").join("metrics.jsonl")).0;
        let held_out: Vec<f64> = lines.iter().filter_map(|line| line.held_out).map(|m| m.value).collect();
        assert!(lines.iter().filter_map(|line| line.held_out).all(|m| m.kind.name == metric));
        assert!(held_out[held_out.len() - 1] < held_out[0] && held_out.iter().all(|v| v.is_finite()), "{metric}: {held_out:?}");
        for strategy in ["replicated", "zero3"] {
            let set = ["parallel.ranks=2", &format!("parallel.strategy={strategy}")];
            run::train(&recipe(folder.path(), model, &set), &at(strategy), false, &never, &mut Quiet).unwrap();
            assert!(weights(&at(strategy)) == weights(&at("one")), "{metric} {strategy}");
        }
        let stop = AtomicBool::new(false);
        run::train(&recipe(folder.path(), model, &[]), &at("stopped"), false, &stop, &mut StopAfter(13, &stop)).unwrap();
        run::train(&recipe(folder.path(), model, &[]), &at("stopped"), true, &never, &mut Quiet).unwrap();
        assert!(weights(&at("stopped")) == weights(&at("one")), "{metric}");
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
    assert!(error(MODELS[1].1, &["model.classes=2"]).contains("3 classes are more than the model's 2"));
    assert!(error(MODELS[2].1, &["model.channels=4", "model.out_channels=4"]).contains("4 channels"));
    assert!(error(MODELS[0].1, &["batch.sequences=4096"]).contains("a batch takes 4096"));
    assert!(error(MODELS[0].1, &["data.path=/nowhere"]).contains("holds no file"));
}
