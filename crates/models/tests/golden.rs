//! Agreement with transformers and PyTorch: logits, loss, every gradient and ten AdamW steps of tiny random models.
//! `cargo xtask fixtures` makes the files; the script is xtask/python/fixtures.py.

use std::collections::HashMap;

use engine::{Device, Inputs, Options, ParamKind, Pool, Precision, Tape};
use kernels::adamw::AdamW;
use kernels::elementwise::{Squares, sum_squares};
use models::{Model, build};
use parallel::{Replicated, Strategy};

type Arrays = HashMap<String, (Vec<usize>, Vec<f32>)>;

fn read(name: &str) -> Arrays {
    let path = format!("{}/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |view: &safetensors::tensor::TensorView<'_>| -> Vec<f32> {
        let words = view.data().as_chunks::<4>().0;
        match view.dtype() {
            safetensors::Dtype::I32 => words.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
            _ => words.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        }
    };
    tensors.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), numbers(&view)))).collect()
}

const GPT2: &str = "preset = \"gpt2-124m\"\nlayers = 2\nmodel = 16\nheads = 4\nvocab = 31\ncontext = 16";
const LLAMA: &str = "depth = 1\nembed_norm = false\nlayers = 2\nmodel = 16\nheads = 4\nkv_heads = 2\nhead_dim = 4\nffn = 24\nvocab = 31\ncontext = 16\neps = 1e-5";
const QWEN3: &str = "depth = 1\nembed_norm = false\nlayers = 2\nmodel = 16\nheads = 4\nkv_heads = 2\nhead_dim = 6\nffn = 24\nvocab = 31\ncontext = 16\neps = 1e-5\nqk_norm = true";
const FALCON: &str =
    "preset = \"falcon-40b\"\nlayers = 2\nmodel = 16\nheads = 4\nkv_heads = 2\nhead_dim = 4\nffn = 64\nvocab = 31\ncontext = 16";

const MIXTRAL: &str = "depth = 1\nembed_norm = false\nlayers = 2\nmodel = 16\nheads = 4\nkv_heads = 2\nhead_dim = 4\nffn = 24\nvocab = 31\ncontext = 16\neps = 1e-5\nexperts = 5\nexpert_ffn = 8\nbalance = 0.05";
const OLMOE: &str = "depth = 1\nembed_norm = false\nlayers = 2\nmodel = 16\nheads = 4\nkv_heads = 2\nhead_dim = 4\nffn = 24\nvocab = 31\ncontext = 16\neps = 1e-5\nexperts = 5\nexpert_ffn = 8\nbalance = 0.05\nrouter = \"softmax\"\nqk_norm = true\nqk_norm_joint = true";
const DEEPSEEK: &str = "depth = 1\nembed_norm = false\nlayers = 2\nmodel = 16\nheads = 4\nhead_dim = 10\nffn = 8\nvocab = 31\ncontext = 16\neps = 1e-6\nq_rank = 10\nkv_rank = 8\nrope_dim = 4\nvalue_dim = 6\nexperts = 5\nexpert_ffn = 8\nshared_experts = 1\ndense_layers = 1\nrouter = \"sigmoid_normalised\"\nrouter_scale = 2.5\nbalance = 0.0";

struct Golden {
    model: Box<dyn Model>,
    store: Replicated,
    arrays: Arrays,
    inputs: Inputs,
    pool: Pool,
}

impl Golden {
    fn new(name: &str, text: &str) -> Self {
        let arrays = read(name);
        let model = build(&text.parse().unwrap()).unwrap();
        for spec in model.params().specs() {
            let found = arrays.get(&spec.name).unwrap_or_else(|| panic!("{name}: the fixture lacks {}", spec.name));
            assert_eq!(found.0, spec.shape.dims(), "{name}: {}", spec.name);
        }
        let store = Replicated::solo(model.params(), |id| arrays[&model.params().spec(id).name].1.clone());
        let whole = |key: &str| arrays[key].1.iter().map(|v| *v as u32).collect::<Vec<u32>>();
        let inputs = Inputs::new().with_u32("tokens", &[2, 9], whole("tokens")).with_u32("targets", &[2, 9], whole("targets"));
        Self { model, store, inputs, pool: Pool::new(Device::Cpu, 1 << 24), arrays }
    }

    fn gradient(&mut self) -> f32 {
        let options = Options { precision: Precision::F32, recompute: false, train: true, key: 0, trace: false };
        self.store.begin_step();
        let mut tape = Tape::new(&self.pool, &mut self.store, self.model.params(), options);
        let loss = self.model.loss(&mut tape, &self.inputs, 1.0 / 18.0).unwrap();
        tape.backward(&loss).unwrap();
        let value = loss.f32s()[0];
        drop((loss, tape));
        self.store.end_step().unwrap();
        value
    }

    fn close(&self, what: &str, got: &[f32], key: &str, tolerance: f32) {
        let want = &self.arrays[key].1;
        assert_eq!(got.len(), want.len(), "{what}: {key}");
        let largest = want.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= tolerance * largest, "{what}: {key}[{i}] is {g}, PyTorch has {w}");
        }
    }
}

#[test]
fn logits_loss_gradients_and_ten_steps_agree_with_pytorch() {
    for (name, text) in [
        ("gpt2", GPT2),
        ("llama", LLAMA),
        ("qwen3", QWEN3),
        ("falcon", FALCON),
        ("mixtral", MIXTRAL),
        ("olmoe", OLMOE),
        ("deepseek", DEEPSEEK),
    ] {
        let mut g = Golden::new(name, text);
        let options = Options { precision: Precision::F32, recompute: false, train: false, key: 0, trace: false };
        let mut tape = Tape::new(&g.pool, &mut g.store, g.model.params(), options);
        let logits = g.model.language().unwrap().logits(&mut tape, &g.inputs).unwrap().f32s().to_vec();
        drop(tape);
        g.close(name, &logits, "logits", 1e-5);
        let loss = g.gradient();
        g.close(name, &[loss], "loss", 1e-6);
        for id in g.model.params().ids() {
            g.close(name, g.store.grad(id), &format!("grad/{}", g.model.params().spec(id).name), 2e-5);
        }

        let table = g.model.params().clone();
        let mut moments: Vec<[Vec<f32>; 2]> = table.specs().iter().map(|s| [(); 2].map(|()| vec![0.0; s.shape.elements()])).collect();
        for step in 1..=10_u64 {
            let loss = g.gradient();
            let want = g.arrays["losses"].1[step as usize - 1];
            assert!((loss - want).abs() < 2e-5 * want, "{name} step {step}: loss {loss}, PyTorch has {want}");
            let norm = table.ids().map(|id| sum_squares(g.store.grad(id))).sum::<Squares>().value().sqrt() as f32;
            // PyTorch's clip adds 1e-6 to the norm.
            let grad_scale = (1.0 / (norm + 1e-6)).min(1.0);
            for (part, [m, v]) in g.store.parts().into_iter().zip(&mut moments) {
                let weight_decay = if table.spec(part.param).kind == ParamKind::Vector { 0.0 } else { 0.1 };
                let adamw = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay, step, grad_scale };
                adamw.update(part.values, part.grad, m, v);
            }
        }
        for id in table.ids() {
            // Softmax does not see a bias of keys: its gradient is rounding alone, which AdamW makes as large as any.
            let grad = &g.arrays[&format!("grad/{}", table.spec(id).name)].1;
            if grad.iter().all(|v| v.abs() < 1e-6) || !g.arrays.contains_key("after/norm.weight") {
                continue;
            }
            // Ten steps of 1e-3, to a part of one.
            g.close(name, g.store.value(id), &format!("after/{}", table.spec(id).name), 1e-4);
        }
    }
}
