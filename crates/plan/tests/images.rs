//! Latent diffusion with captions is priced with the frozen models that it asks, here and on machines that are not here.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use plan::{
    catalogue::{Catalogue, Service, Term},
    ladder::here::price,
    questions::rent::rent,
};
use train::{
    recipe::Recipe,
    run::{self, Quiet},
};

const AUTOENCODER: &str = "kind = \"autoencoder\"\nsize = 16\nchannels = 2\nwidth = 8\nfactors = [1, 2]\nres_blocks = 1\ngroups = 4";
const CLIP: &str = "kind = \"clip\"\nembed = 16\n[model.image]\nsize = 16\npatch = 8\nlayers = 1\nwidth = 16\nheads = 2\nffn = 32\nmlp = \"gelu\"\neps = 1e-5\nnorm_first = true\n\
     [model.text]\nvocab = 280\ntokens = 10\nlayers = 1\nwidth = 16\nheads = 2\nffn = 32\nmlp = \"gelu\"";
const DIT: &str = "kind = \"dit\"\nsize = 8\npatch = 2\nchannels = 2\nout_channels = 2\nlayers = 1\nwidth = 16\nheads = 2\nclasses = 1\ntext_width = 16\nwaves = 32";

fn recipe(folder: &Path, rest: &str) -> Recipe {
    let text = format!(
        "[data]\npath = {:?}\n[batch]\nsequences = 8\n[eval]\nwindows = 4\n[train]\nsteps = 2\n{rest}",
        folder.display().to_string()
    );
    Recipe::parse(&text, "test", &[]).unwrap()
}

#[test]
fn frozen_models_are_counted_in_time_and_memory() {
    vision::register();
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    for i in 0..40 {
        std::fs::write(pictures.join(format!("{i}.png")), vision::demo::DIGITS).unwrap();
        std::fs::write(pictures.join(format!("{i}.txt")), format!("digits, sheet {i}")).unwrap();
    }
    let run = |name: &str, rest: &str| -> PathBuf {
        let out = folder.path().join(name);
        run::train(&recipe(&pictures, rest), &out, false, &AtomicBool::new(false), &mut Quiet).unwrap();
        out
    };
    let autoencoder = run("autoencoder", &format!("[model]\n{AUTOENCODER}"));
    let clip = run("clip", &format!("[model]\n{CLIP}"));
    let [latents, text] = [&autoencoder, &clip].map(|path| format!("{:?}", path.display().to_string()));
    let objective = format!("[objective]\nkind = \"denoising\"\nlatents = {latents}\ntext = {text}");
    let recipe = recipe(&pictures, &format!("{objective}\n[model]\n{DIT}"));

    let here = price(&recipe, None).unwrap();
    let before = here.before.as_ref().unwrap();
    assert_eq!(before.frozen.iter().map(|f| f.name).collect::<Vec<_>>(), ["autoencoder", "text encoder"]);
    for frozen in &before.frozen {
        // 16 samples and three measurements of 4; what comes again is kept.
        assert!(frozen.times <= 40.0 && frozen.flops > 0.0 && frozen.sample_secs > 0.0 && frozen.kept_bytes > 0, "{frozen:?}");
        assert_eq!(frozen.weight_bytes, 4 * frozen.params);
    }
    assert_eq!(here.memory_bytes, here.cost.total_bytes() + before.memory_bytes());
    assert!(here.secs > 2.0 * (here.step_secs + before.step_secs), "{here:?}");

    let catalogue = Catalogue::load(None).unwrap();
    let instance = catalogue.instance("p4d.24xlarge").unwrap();
    let price = instance.price(Service::Ec2, Term::OnDemand, None).unwrap();
    let rented = rent(&recipe, &catalogue, instance, 8, price, None).unwrap();
    let encoders = |rented: &plan::questions::rent::Rented| rented.choice.time.roles[0].encoder_secs;
    assert!(encoders(&rented) > 0.0 && rented.feed.is_some());
    std::fs::rename(&autoencoder, folder.path().join("elsewhere")).unwrap();
    let without = rent(&recipe, &catalogue, instance, 8, price, None).unwrap();
    assert!(encoders(&without) > 0.0 && encoders(&without) < encoders(&rented), "the text encoder alone");
}
