//! Exported folders load in the real `transformers` and say what we say, and folders that it wrote are read here. Runs where
//! `HAIRPIN_PEERS_PYTHON` names a Python that has it: `cargo xtask test --peers`.

use engine::{Device, EngineError, Inputs, Pool, Precision, Tape, Tensor, check::noise};
use models::{
    Model,
    autoencoder::{Autoencoder, AutoencoderConfig},
    clip::{Clip, ClipConfig},
    dit::{Dit, DitConfig},
    unet::{Unet, UnetConfig},
    vit::{Vit, VitConfig},
    vit_mae::{Choice, Mae, MaeConfig},
};
use parallel::Replicated;
use train::hf::Format;
use train::{eval::inference, recipe::Recipe, run::Loaded};
use vision::hf;

const TOWER: &str = "size = 12\npatch = 4\nlayers = 2\nwidth = 16\nheads = 2\nffn = 24";

/// A model, with vectors that say something.
fn loaded(text: &str) -> Loaded {
    let recipe = Recipe::parse(&format!("[model]\n{text}\n"), "test", &[]).unwrap();
    let model = models::build(&recipe.model).unwrap();
    let store = Replicated::solo(model.params(), |id| {
        let (spec, values) = (model.params().spec(id), model.params().initial(id, 3));
        let more = noise(engine::key(7, &spec.name), values.len());
        values.iter().zip(more).map(|(v, more)| v + 0.1 * more).collect()
    });
    let objective = train::objective::of(&recipe);
    Loaded { recipe, model, objective, store, precision: Precision::F32, step: 0, tokenizer_path: "nowhere".into(), passed_over: vec![] }
}

fn says<M: Model>(
    model: &M,
    store: &mut Replicated,
    inputs: &Inputs,
    pass: impl for<'m> Fn(&'m M, &mut Tape<'m>, &Inputs) -> Result<Tensor, EngineError>,
) -> Vec<f32> {
    let pool = Pool::new(Device::Cpu, 1 << 24);
    let mut tape = Tape::new(&pool, store, model.params(), inference(Precision::F32));
    pass(model, &mut tape, inputs).unwrap().f32s().to_vec()
}

/// Run the script on a folder; what it prints is a list of numbers.
fn theirs(python: &std::ffi::OsStr, folder: &std::path::Path, kind: &str) -> Vec<f32> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../xtask/python/vision_peers.py");
    let output = std::process::Command::new(python).arg(script).arg(folder).arg(kind).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|_| panic!("{kind}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn assert_same(kind: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{kind}");
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-5, "{kind}: {worst}");
}

#[test]
fn transformers_says_of_our_folders_what_we_say() {
    let Some(python) = std::env::var_os("HAIRPIN_PEERS_PYTHON") else { return };
    vision::register();
    let images = noise(5, 2 * 12 * 12 * 3);
    let inputs = Inputs::new().with_f32("images", &[2, 12, 12, 3], images.clone());
    let write = |folder: &std::path::Path, name: &str, value: &serde_json::Value| {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    };

    let folder = tempfile::tempdir().unwrap();
    let mut vit = loaded(&format!("kind = \"vit\"\nclasses = 3\n[model.tower]\n{TOWER}\nmlp = \"gelu\"\neps = 1e-6\nnorm_first = false"));
    hf::export(&vit, &["a", "b", "c"].map(str::to_owned), folder.path(), Format::default()).unwrap();
    write(folder.path(), "images.json", &serde_json::json!(images));
    let model = Vit::new(models::typed::<VitConfig>(&vit.model.config()).unwrap()).unwrap();
    assert_same("vit", &says(&model, &mut vit.store, &inputs, Vit::scores), &theirs(&python, folder.path(), "vit"));

    let folder = tempfile::tempdir().unwrap();
    let mut mae = loaded(&format!(
        "kind = \"vit_mae\"\ndecoder_layers = 2\ndecoder_width = 8\ndecoder_heads = 2\nmask_ratio = 0.5\n[model.tower]\n{TOWER}\nmlp = \"gelu\"\neps = 1e-6\nnorm_first = false"
    ));
    hf::export(&mae, &[], folder.path(), Format::default()).unwrap();
    let order = noise(6, 18);
    write(folder.path(), "images.json", &serde_json::json!(images));
    write(folder.path(), "order.json", &serde_json::json!(order));
    let model = Mae::new(models::typed::<MaeConfig>(&mae.model.config()).unwrap()).unwrap();
    let chosen = Choice::of(&order, 9, 4).inputs(inputs.clone(), 2);
    assert_same("vit_mae", &says(&model, &mut mae.store, &chosen, Mae::reconstruction), &theirs(&python, folder.path(), "vit_mae"));

    let folder = tempfile::tempdir().unwrap();
    let mut clip = loaded(&format!(
        "kind = \"clip\"\nembed = 8\n[model.image]\n{TOWER}\nmlp = \"quick_gelu\"\neps = 1e-5\nnorm_first = true\n[model.text]\nvocab = 300\ntokens = 7\nlayers = 2\nwidth = 16\nheads = 2\nffn = 24\nmlp = \"quick_gelu\""
    ));
    let kept = tempfile::tempdir().unwrap();
    data::Tokenizer::train(290, ["a red three", "a blue five"].into_iter()).unwrap().save(kept.path()).unwrap();
    clip.tokenizer_path = kept.path().join("tokenizer.json");
    hf::export(&clip, &[], folder.path(), Format::default()).unwrap();
    let captions = vision::tasks::Captions::new(clip.tokenizer().unwrap(), 7);
    let texts = captions.inputs(&["a red three", "blue"]).unwrap();
    let engine::Array::U32(_, tokens) = texts.get("tokens").unwrap() else { panic!("tokens are numbers") };
    write(folder.path(), "images.json", &serde_json::json!(images));
    write(folder.path(), "tokens.json", &serde_json::json!(tokens));
    let model = Clip::new(models::typed::<ClipConfig>(&clip.model.config()).unwrap()).unwrap();
    assert_same(
        "clip",
        &says(&model, &mut clip.store, &inputs.clone().and(&texts), Clip::embeddings),
        &theirs(&python, folder.path(), "clip"),
    );
}

const SIGLIP: &str = "kind = \"clip\"\nembed = 16\nsigmoid = true\n[model.image]\nsize = 12\npatch = 4\nlayers = 2\nwidth = 16\nheads = 2\nffn = 24\nmlp = \"gelu_tanh\"\neps = 1e-6\nnorm_first = false\nattention_pool = true\n[model.text]\nvocab = 300\ntokens = 7\nlayers = 2\nwidth = 16\nheads = 2\nffn = 24\nmlp = \"gelu_tanh\"\neps = 1e-6\nboth_ways = true";

#[test]
fn transformers_says_of_siglip_what_we_say_of_ours_and_of_its_own() {
    let Some(python) = std::env::var_os("HAIRPIN_PEERS_PYTHON") else { return };
    vision::register();
    let (images, tokens) = (noise(5, 2 * 12 * 12 * 3), (0..14).map(|i| (i * 37 + 5) % 300).collect::<Vec<u32>>());
    let inputs = Inputs::new().with_f32("images", &[2, 12, 12, 3], images.clone());
    let inputs = inputs.with_u32("tokens", &[2, 7], tokens.clone()).with_u32("ends", &[2], vec![6, 13]);
    let write = |folder: &std::path::Path| {
        std::fs::write(folder.join("images.json"), serde_json::json!(images).to_string()).unwrap();
        std::fs::write(folder.join("tokens.json"), serde_json::json!(tokens).to_string()).unwrap();
    };
    let built = |table: &toml::Table| Clip::new(models::typed::<ClipConfig>(table).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut ours = loaded(SIGLIP);
    hf::export(&ours, &[], folder.path(), Format::default()).unwrap();
    write(folder.path());
    let model = built(&ours.model.config());
    assert_same("siglip", &says(&model, &mut ours.store, &inputs, Clip::embeddings), &theirs(&python, folder.path(), "siglip"));

    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let said = theirs(&python, folder.path(), "make-siglip");
    let imported = hf::import(folder.path()).unwrap();
    let model = built(&imported.model);
    let mut store = Replicated::solo(model.params(), |id| imported.values(&model.params().spec(id).name).unwrap());
    assert_same("siglip of transformers", &says(&model, &mut store, &inputs, Clip::embeddings), &said);
}

const UNET: &str = "kind = \"unet\"\nsize = 4\nchannels = 3\nout_channels = 3\nwidth = 8\nfactors = [1, 2]\nres_blocks = 1\nattention = [true, false]\ndepth = 1\nheads = 2\ntext_width = 6\ntext_tokens = 77\ngroups = 4";
const DIT: &str = "kind = \"dit\"\nsize = 4\npatch = 2\nchannels = 2\nout_channels = 4\nlayers = 1\nwidth = 8\nheads = 2\nclasses = 4\nwaves = 256\nwave_shift = 1";

const AUTOENCODER: &str = "kind = \"autoencoder\"\nsize = 8\nchannels = 2\nwidth = 4\nfactors = [1, 2]\nres_blocks = 1\ngroups = 2\nkl_weight = 1e-6\nscale = 0.5";

/// A model of diffusion, out to diffusers and in from it.
fn diffuses<M: Model>(
    python: &std::ffi::OsStr,
    kind: &str,
    table: &str,
    inputs: &[(&'static str, &[usize], Vec<f32>)],
    build: impl Fn(&toml::Table) -> M,
    pass: impl for<'m> Fn(&'m M, &mut Tape<'m>, &Inputs) -> Result<Tensor, EngineError> + Copy,
) {
    let with = |all: Inputs, (name, shape, values): &(&'static str, &[usize], Vec<f32>)| all.with_f32(name, shape, values.clone());
    let own = Inputs::new().with_f32("timesteps", &[2], vec![3.0, 700.0]).with_u32("classes", &[2], vec![2, 1]);
    let own = inputs.iter().fold(own, with);
    let write = |folder: &std::path::Path| {
        for (name, _, values) in inputs {
            std::fs::write(folder.join(format!("{name}.json")), serde_json::json!(values).to_string()).unwrap();
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let mut ours = loaded(table);
    hf::export(&ours, &[], folder.path(), Format::default()).unwrap();
    write(folder.path());
    let model = build(&ours.model.config());
    assert_same(kind, &says(&model, &mut ours.store, &own, pass), &theirs(python, folder.path(), kind));

    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let said = theirs(python, folder.path(), &format!("make-{kind}"));
    assert!(hf::knows(folder.path()));
    let imported = hf::import(folder.path()).unwrap();
    let model = build(&imported.model);
    let mut store = Replicated::solo(model.params(), |id| imported.values(&model.params().spec(id).name).unwrap());
    assert_same(&format!("{kind} of diffusers"), &says(&model, &mut store, &own, pass), &said);
}

#[test]
fn diffusers_says_of_folders_what_we_say_of_ours_and_of_its_own() {
    let Some(python) = std::env::var_os("HAIRPIN_PEERS_PYTHON") else { return };
    vision::register();
    let inputs: [(&'static str, &[usize], Vec<f32>); 2] =
        [("latents", &[2, 4, 4, 3], noise(5, 2 * 4 * 4 * 3)), ("text", &[2, 77, 6], noise(6, 2 * 77 * 6))];
    let unet = |table: &toml::Table| Unet::new(models::typed::<UnetConfig>(table).unwrap()).unwrap();
    diffuses(&python, "unet", UNET, &inputs, unet, Unet::noise);
    let inputs: [(&'static str, &[usize], Vec<f32>); 1] = [("latents", &[2, 4, 4, 2], noise(5, 2 * 4 * 4 * 2))];
    let dit = |table: &toml::Table| Dit::new(models::typed::<DitConfig>(table).unwrap()).unwrap();
    diffuses(&python, "dit", DIT, &inputs, dit, Dit::patches);
    let images = noise(5, 2 * 8 * 8 * 3);
    let autoencoder = |table: &toml::Table| Autoencoder::new(models::typed::<AutoencoderConfig>(table).unwrap()).unwrap();
    // What it says of images, and what it makes of that again: the means of their latents decoded.
    let inputs: [(&'static str, &[usize], Vec<f32>); 1] = [("images", &[2, 8, 8, 3], images)];
    for (kind, table) in
        [("autoencoder", AUTOENCODER.to_owned()), ("autoencoder-bare", format!("{AUTOENCODER}\nattention = false\npixel_convs = false"))]
    {
        diffuses(&python, kind, &table, &inputs, autoencoder, Autoencoder::moments);
        diffuses(&python, &format!("{kind}-whole"), &table, &inputs, autoencoder, Autoencoder::reconstruction);
    }
}
