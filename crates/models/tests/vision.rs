//! Agreement with diffusers and transformers: what tiny models of images say, their loss and every gradient, the last by its
//! length and its product with noise. `cargo xtask fixtures` makes the files; the script is xtask/python/vision.py.

use engine::{Array, Device, EngineError, Inputs, NoParams, Options, Pool, Precision, Tape, Tensor, check::noise};
use models::{Model, build};
use parallel::{Replicated, Strategy};

/// FNV-1a, as the script hashes a name.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Values of a parameter from its name and shape alone, as the script makes them.
fn golden_start(name: &str, dims: &[usize]) -> Vec<f32> {
    let values = noise(seed(name), dims.iter().product());
    if dims.len() > 1 {
        let factor = 2.0 / (dims[1..].iter().product::<usize>() as f64).sqrt();
        return values.iter().map(|v| v * factor as f32).collect();
    }
    let is_norm = name.rsplit('.').nth(1).is_some_and(|part| part.starts_with("norm")) && name.ends_with(".weight");
    values.iter().map(|v| v * 0.2 + if is_norm { 1.0 } else { 0.0 }).collect()
}

const OPTIONS: Options = Options { precision: Precision::F32, recompute: false, train: true, key: 0, trace: false };

const UNET: &str = "size = 4\nchannels = 3\nout_channels = 3\nwidth = 8\nfactors = [1, 2]\nres_blocks = 1\nattention = [true, false]\n\
                    depth = 1\nhead_dim = 4\ntext_width = 6\ntext_tokens = 5\ngroups = 4";

const VIT: &str = "classes = 5\n[tower]\nsize = 8\npatch = 4\nlayers = 2\nwidth = 8\nheads = 2\nffn = 12\nmlp = \"gelu\"\neps = 1e-6\n\
                   norm_first = false";
const MAE: &str = "decoder_layers = 1\ndecoder_width = 4\ndecoder_heads = 2\nmask_ratio = 0.75\n[tower]\nsize = 8\npatch = 2\nlayers = 1\n\
                   width = 8\nheads = 2\nffn = 12\nmlp = \"gelu\"\neps = 1e-6\nnorm_first = false";
const CLIP: &str = "embed = 6\n[image]\nsize = 8\npatch = 4\nlayers = 1\nwidth = 8\nheads = 2\nffn = 12\nmlp = \"quick_gelu\"\neps = 1e-5\n\
                    norm_first = true\n[text]\nvocab = 11\ntokens = 6\nlayers = 1\nwidth = 8\nheads = 2\nffn = 12\nmlp = \"quick_gelu\"";
const DIT: &str = "size = 4\npatch = 2\nchannels = 2\nout_channels = 4\nlayers = 2\nwidth = 8\nheads = 2\nclasses = 4\nwaves = 6";

struct Golden {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Golden {
    fn new(name: &'static str) -> Self {
        let path = format!("{}/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        Self { name, bytes: std::fs::read(path).unwrap() }
    }

    fn values(&self, key: &str) -> Vec<f32> {
        let tensors = safetensors::SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(key).unwrap_or_else(|_| panic!("{}: the fixture lacks {key}", self.name));
        view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn close(&self, key: &str, got: &[f32], want: &[f32], tolerance: f32) {
        assert_eq!(got.len(), want.len(), "{}: {key}", self.name);
        let largest = want.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= tolerance * largest, "{}: {key}[{i}] is {g}, PyTorch has {w}", self.name);
        }
    }

    /// Hold `model` against the file: what `says` gives, the loss of `samples`, and every gradient.
    fn check<M: Model>(
        &self,
        model: &M,
        inputs: &Inputs,
        samples: f32,
        says: impl for<'m> Fn(&'m M, &mut Tape<'m>, &Inputs) -> Result<Tensor, EngineError>,
    ) {
        let table = model.params();
        let mut store = Replicated::solo(table, |id| golden_start(&table.spec(id).name, table.spec(id).shape.dims()));
        let pool = Pool::new(Device::Cpu, 1 << 26);
        {
            let mut tape = Tape::new(&pool, &mut store, table, Options { train: false, ..OPTIONS });
            let out = says(model, &mut tape, inputs).unwrap();
            self.close("out", &out.f32s(), &self.values("out"), 2e-5);
        }
        store.begin_step();
        let mut tape = Tape::new(&pool, &mut store, table, OPTIONS);
        let loss = model.loss(&mut tape, inputs, 1.0 / samples).unwrap();
        tape.backward(&loss).unwrap();
        self.close("loss", &loss.f32s(), &self.values("loss"), 1e-5);
        drop((loss, tape));
        store.end_step().unwrap();
        let lengths = table.ids().map(|id| self.values(&format!("grad/{}", table.spec(id).name))[0]);
        let largest = lengths.fold(0.0, f32::max);
        for id in table.ids() {
            let (name, grad) = (&table.spec(id).name, store.grad(id));
            let of = |other: &[f32]| grad.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let (length, product) = (of(grad).sqrt() as f32, of(&noise(seed(&format!("check/{name}")), grad.len())) as f32);
            let want = self.values(&format!("grad/{name}"));
            // A gradient that is rounding alone (a bias that the softmax does not see) is held against the largest.
            let room = 1e-4 * want[0].max(1e-3 * largest);
            assert!(
                (length - want[0]).abs() < room && (product - want[1]).abs() < room,
                "{}: {name}: {length}, {product} for {want:?}",
                self.name
            );
        }
    }
}

/// Inputs of the model's own shapes, filled with noise by name; `with` changes them.
fn inputs(model: &dyn Model, batch: usize, names: &[&'static str]) -> Inputs {
    names.iter().fold(model.shapes(batch, 1), |inputs, name| {
        let shape = inputs.get(name).unwrap().shape();
        match inputs.get(name).unwrap() {
            Array::F32(..) => inputs.clone().with_f32(name, shape.dims(), noise(seed(name), shape.elements())),
            Array::U32(..) => inputs.clone(),
        }
    })
}

#[test]
fn the_unet_agrees_with_diffusers() {
    let model = models::unet::Unet::new(toml::from_str(UNET).unwrap()).unwrap();
    let inputs = inputs(&model, 2, &["latents", "text", "target"]).with_f32("timesteps", &[2], vec![3.0, 700.0]);
    Golden::new("unet").check(&model, &inputs, 2.0, |model, tape, inputs| model.noise(tape, inputs));
}

#[test]
fn the_vision_transformer_agrees_with_transformers() {
    let model = models::vit::Vit::new(toml::from_str(VIT).unwrap()).unwrap();
    let inputs = inputs(&model, 2, &["images"]).with_u32("classes", &[2], vec![3, 1]);
    Golden::new("vit").check(&model, &inputs, 2.0, |model, tape, inputs| model.scores(tape, inputs));
}

#[test]
fn the_masked_autoencoder_agrees_with_transformers() {
    let model = models::vit_mae::Mae::new(toml::from_str(MAE).unwrap()).unwrap();
    let choice = models::vit_mae::Choice::of(&noise(seed("order"), 32), 16, 4);
    let inputs = choice.inputs(inputs(&model, 2, &["images"]), 2);
    Golden::new("vit_mae").check(&model, &inputs, 2.0, |model, tape, inputs| model.reconstruction(tape, inputs));
}

#[test]
fn clip_agrees_with_transformers() {
    let model = models::clip::Clip::new(toml::from_str(CLIP).unwrap()).unwrap();
    let tokens = vec![0, 3, 4, 10, 10, 10, 0, 7, 10, 10, 10, 10, 0, 1, 2, 5, 6, 10];
    let inputs = inputs(&model, 3, &["images"]).with_u32("tokens", &[3, 6], tokens).with_u32("ends", &[3], vec![3, 8, 17]);
    Golden::new("clip").check(&model, &inputs, 3.0, |model, tape, inputs| model.embeddings(tape, inputs));
}

#[test]
fn the_diffusion_transformer_agrees_with_pytorch() {
    let model = models::dit::Dit::new(toml::from_str(DIT).unwrap()).unwrap();
    let inputs =
        inputs(&model, 2, &["latents", "target"]).with_f32("timesteps", &[2], vec![3.0, 700.0]).with_u32("classes", &[2], vec![3, 1]);
    Golden::new("dit").check(&model, &inputs, 2.0, |model, tape, inputs| model.patches(tape, inputs));
}

#[test]
fn the_autoencoder_agrees_with_diffusers() {
    let config = "size = 16\nchannels = 2\nwidth = 4\nfactors = [1, 2, 2]\nres_blocks = 2\ngroups = 2\nkl_weight = 0.25";
    let model = models::autoencoder::Autoencoder::new(toml::from_str(config).unwrap()).unwrap();
    let inputs = inputs(&model, 2, &["images", "noise"]);
    Golden::new("autoencoder").check(&model, &inputs, 2.0, |model, tape, inputs| model.reconstruction(tape, inputs));
}

/// Small models of every kind of image.
fn small() -> Vec<Box<dyn Model>> {
    [("unet", UNET), ("vit", VIT), ("vit_mae", MAE), ("clip", CLIP), ("dit", DIT)]
        .map(|(kind, text)| build(&format!("kind = \"{kind}\"\n{text}").parse().unwrap()).unwrap())
        .into()
}

/// Loss and all gradients of one step on `pool`.
fn step(model: &dyn Model, pool: &Pool, recompute: bool) -> (f32, Vec<Vec<f32>>) {
    let table = model.params();
    let mut store = Replicated::solo(table, |id| golden_start(&table.spec(id).name, table.spec(id).shape.dims()));
    store.begin_step();
    let mut tape = Tape::new(pool, &mut store, table, Options { recompute, ..OPTIONS });
    let loss = model.loss(&mut tape, &model.made_up(0, 3, 1), 1.0 / 3.0).unwrap();
    tape.backward(&loss).unwrap();
    let value = loss.f32s()[0];
    drop((loss, tape));
    store.end_step().unwrap();
    (value, table.ids().map(|id| store.grad(id).to_vec()).collect())
}

#[test]
fn meta_predicts_the_pool_and_a_second_run_of_a_block_changes_no_bit() {
    for model in small() {
        let mut results = Vec::new();
        for recompute in [false, true] {
            let meta = Pool::meta();
            let mut store = NoParams;
            let mut tape = Tape::new(&meta, &mut store, model.params(), Options { recompute, ..OPTIONS });
            let loss = model.loss(&mut tape, &model.shapes(3, 1), 1.0).unwrap();
            tape.backward(&loss).unwrap();
            drop((loss, tape));
            let pool = Pool::new(Device::Cpu, meta.usage().high_water_bytes);
            results.push(step(&*model, &pool, recompute));
            assert_eq!(pool.usage(), meta.usage(), "{}", model.config());
        }
        assert!(results[0] == results[1], "{}", model.config());
    }
}

#[test]
fn a_part_of_the_blocks_is_refused() {
    for model in small() {
        let (meta, mut store) = (Pool::meta(), NoParams);
        let mut tape = Tape::new(&meta, &mut store, model.params(), OPTIONS);
        let error = model.trunk(&mut tape, &model.shapes(1, 1), None, 0..2).err().unwrap();
        assert!(error.to_string().contains("in one piece"), "{error}");
    }
}

#[test]
fn a_written_config_builds_the_same_model() {
    for model in small() {
        let again = build(&model.config()).unwrap();
        assert_eq!((again.config(), again.params()), (model.config(), model.params()));
    }
}

#[test]
fn operations_of_a_forward_pass_are_those_that_papers_print() {
    let gflops = |kind: &str, preset: &str| {
        let model = build(&format!("kind = \"{kind}\"\npreset = \"{preset}\"").parse().unwrap()).unwrap();
        let (meta, mut store) = (Pool::meta(), NoParams);
        let mut tape = Tape::new(&meta, &mut store, model.params(), Options { train: false, trace: true, ..OPTIONS });
        model.loss(&mut tape, &model.shapes(1, 1), 1.0).unwrap();
        tape.events().iter().map(|event| event.flops).sum::<u64>() as f64 / 1e9
    };
    // Where a source counts a multiplication and an addition as one, twice its number.
    for (kind, preset, printed) in [
        // arXiv:2010.11929, as timm's results list them.
        ("vit", "vit-b-16", 2.0 * 17.58),
        ("vit", "vit-l-16", 2.0 * 61.60),
        ("vit", "vit-h-14", 2.0 * 167.40),
        // arXiv:2212.09748, table 4.
        ("dit", "dit-s-2", 2.0 * 6.06),
        ("dit", "dit-b-2", 2.0 * 23.01),
        ("dit", "dit-l-2", 2.0 * 80.71),
        ("dit", "dit-xl-2", 2.0 * 118.64),
    ] {
        let got = gflops(kind, preset);
        assert!((got / printed - 1.0).abs() < 0.05, "{preset}: {got} and {printed}");
    }
    // 0.68 TFLOP without the products inside attention, as counters of layers give it; with them some 15% more.
    let unet = gflops("unet", "sd1-unet");
    assert!((680.0..=860.0).contains(&unet), "{unet}");
}
