//! Models of images in training: the trainer of text, handed images, learns what is in them.
//!
//! The images are gratings, made of waves across, down or along a diagonal, of any phase: their kind is in no single pixel.

use std::f32::consts::TAU;

use engine::{Inputs, check::noise, key, mix};
use models::vit_mae::Choice;
use train::{
    recipe::Recipe,
    run,
    step::{StepOptions, Trainer},
};

const SIDE: usize = 8;
const BATCH: usize = 16;

/// Which way a sample's waves go: 0, 1 or 2, and its image `[SIDE, SIDE, channels]`.
fn grating(sample: u64, channels: usize) -> (u32, Vec<f32>) {
    let way = mix(sample) % 3;
    let phase = (mix(sample ^ 0x55) >> 40) as f32 / (1 << 24) as f32 * TAU;
    let value = |pixel: usize| {
        let (line, column) = (pixel / SIDE, pixel % SIDE);
        let along = [column, line, line + column][way as usize] as f32;
        (along / SIDE as f32 * 2.0 * TAU + phase).sin()
    };
    (way as u32, (0..SIDE * SIDE).flat_map(|pixel| vec![value(pixel); channels]).collect())
}

/// The samples of one step: ways, and images one after the other.
fn gratings(step: u64, channels: usize) -> (Vec<u32>, Vec<f32>) {
    let all: Vec<_> = (0..BATCH as u64).map(|n| grating(step * 1000 + n, channels)).collect();
    (all.iter().map(|(way, _)| *way).collect(), all.into_iter().flat_map(|(_, image)| image).collect())
}

/// Images hidden in noise by the share that the time says, and that noise: what a denoiser is asked for.
fn hidden(step: u64, channels: usize) -> Inputs {
    let (ways, images) = gratings(step, channels);
    let (each, shape) = (SIDE * SIDE * channels, [BATCH, SIDE, SIDE, channels]);
    // Sums of three draws of a uniform: near enough to normal, with variance 1.
    let noises: Vec<Vec<f32>> = (0..3).map(|i| noise(key(step, "noise") ^ i, images.len())).collect();
    let target: Vec<f32> = (0..images.len()).map(|i| noises.iter().map(|n| n[i]).sum()).collect();
    let timesteps: Vec<f32> = (0..BATCH).map(|n| (mix(step ^ mix(n as u64)) % 1000) as f32).collect();
    let mixed = |i: usize| {
        let angle = timesteps[i / each] / 1000.0 * TAU / 4.0;
        angle.cos() * images[i] + angle.sin() * target[i]
    };
    Inputs::new()
        .with_f32("latents", &shape, (0..images.len()).map(mixed).collect())
        .with_f32("target", &shape, target)
        .with_f32("timesteps", &[BATCH], timesteps)
        .with_u32("classes", &[BATCH], ways)
}

/// Mean loss of the first and the last ten of `steps`.
fn learn(model: &str, lr: f32, steps: u64, inputs: impl Fn(u64) -> Inputs) -> [f32; 2] {
    let text =
        format!("[model]\n{model}\n[batch]\nsequences = {BATCH}\nmicro_batch = {BATCH}\n[train]\nprecision = \"f32\"\n[optim]\nlr = {lr}");
    let (recipe, model) = run::resolve(&Recipe::parse(&text, "test", &[]).unwrap(), None).unwrap();
    assert_eq!(recipe.step_tokens(), BATCH as u64, "an image is one sample");
    let mut trainer = Trainer::new(model, StepOptions::of(&recipe)).unwrap();
    let losses: Vec<f32> = (1..=steps)
        .map(|step| {
            let gradient = trainer.gradient(step, &[vec![inputs(step)]], recipe.step_tokens()).unwrap();
            trainer.update(step, 1.0, gradient.norm).unwrap();
            gradient.loss
        })
        .collect();
    assert_eq!(trainer.used_bytes(), trainer.cost().total_bytes(), "what was foretold was used");
    [&losses[..10], &losses[losses.len() - 10..]].map(|losses| losses.iter().sum::<f32>() / 10.0)
}

const TOWER: &str = "size = 8\npatch = 2\nlayers = 2\nwidth = 32\nheads = 2\nffn = 64\nmlp = \"gelu\"\neps = 1e-6\nnorm_first = false";

#[test]
fn a_vision_transformer_learns_which_way_the_waves_go() {
    let model = format!("kind = \"vit\"\nclasses = 3\n[model.tower]\n{TOWER}");
    let images = |step| {
        let (ways, images) = gratings(step, 3);
        Inputs::new().with_f32("images", &[BATCH, SIDE, SIDE, 3], images).with_u32("classes", &[BATCH], ways)
    };
    let [first, last] = learn(&model, 3e-3, 80, images);
    // Guessing costs ln 3 = 1.10.
    assert!(first > 0.8 && last < 0.3, "{first} to {last}");
}

#[test]
fn a_masked_autoencoder_learns_to_continue_waves() {
    let model =
        format!("kind = \"vit_mae\"\ndecoder_layers = 1\ndecoder_width = 32\ndecoder_heads = 2\nmask_ratio = 0.75\n[model.tower]\n{TOWER}");
    let images = |step| {
        let (_, images) = gratings(step, 3);
        let choice = Choice::of(&noise(key(step, "order"), BATCH * 16), 16, 4);
        choice.inputs(Inputs::new().with_f32("images", &[BATCH, SIDE, SIDE, 3], images), BATCH)
    };
    let [first, last] = learn(&model, 3e-3, 600, images);
    // Each patch has variance 1: its mean says nothing.
    assert!(first > 0.8 && last < 0.5, "{first} to {last}");
}

#[test]
fn clip_learns_which_name_belongs_to_which_waves() {
    let tower = TOWER.replace("norm_first = false", "norm_first = true");
    let model = format!(
        "kind = \"clip\"\nembed = 16\n[model.image]\n{tower}\n[model.text]\nvocab = 5\ntokens = 3\nlayers = 1\nwidth = 32\nheads = 2\nffn = 64\nmlp = \"gelu\""
    );
    let pairs = |step| {
        let (ways, images) = gratings(step, 3);
        let tokens = ways.iter().flat_map(|way| [3, *way, 4]).collect();
        let ends = (0..BATCH as u32).map(|n| 3 * n + 2).collect();
        let inputs = Inputs::new().with_f32("images", &[BATCH, SIDE, SIDE, 3], images);
        inputs.with_u32("tokens", &[BATCH, 3], tokens).with_u32("ends", &[BATCH], ends)
    };
    let [first, last] = learn(&model, 3e-3, 120, pairs);
    // Of 16 pairs about a third have one name: ln 16 = 2.77 at first, and not below about ln(16 / 3) = 1.67.
    assert!(first > 2.4 && last < 2.05, "{first} to {last}");
}

#[test]
fn a_diffusion_transformer_learns_to_tell_noise_from_waves() {
    let model =
        "kind = \"dit\"\nsize = 8\npatch = 2\nchannels = 1\nout_channels = 2\nlayers = 2\nwidth = 32\nheads = 2\nclasses = 3\nwaves = 32";
    let [first, last] = learn(model, 3e-3, 150, |step| hidden(step, 1));
    // Noise of variance 1; what is said of it is zero at the start.
    assert!(first > 0.8 && last < 0.5, "{first} to {last}");
}

#[test]
fn a_unet_learns_to_tell_noise_from_waves() {
    let model = "kind = \"unet\"\nsize = 8\nchannels = 1\nout_channels = 1\nwidth = 16\nfactors = [1, 2]\nres_blocks = 1\nattention = [false, true]\n\
                 depth = 1\nheads = 2\ntext_width = 4\ntext_tokens = 1\ngroups = 4";
    let told = |step| {
        let (ways, _) = gratings(step, 1);
        let text = ways.iter().flat_map(|way| (0..4).map(|i| if i == *way { 1.0 } else { 0.0 })).collect();
        hidden(step, 1).with_f32("text", &[BATCH, 1, 4], text)
    };
    let [first, last] = learn(model, 3e-3, 100, told);
    assert!(first > 0.8 && last < 0.5, "{first} to {last}");
}

#[test]
fn a_recipe_of_images_is_refused_with_what_is_missing_and_so_is_a_mesh_that_cuts() {
    let text = "[model]\nkind = \"unet\"\npreset = \"sd2-unet\"";
    let recipe = Recipe::parse(text, "test", &[]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let error = run::train(&recipe, &std::env::temp_dir().join("none"), false, &stop, &mut run::Quiet).unwrap_err();
    assert_eq!(error.to_string(), "the recipe's model learns from images, and data here is text");

    let (recipe, model) = run::resolve(&recipe, None).unwrap();
    let mesh = parallel::mesh::Mesh { pipeline: 1, data: 1, context: 1, tensor: 2 };
    let place = mesh.place(0);
    let error = train::step::cost(&*model, &StepOptions { mesh, ..StepOptions::of(&recipe) }, place).unwrap_err();
    assert!(error.to_string().starts_with("parallel.mesh: "), "{error}");
}
