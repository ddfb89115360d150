//! candle: its own layers, where they have gradients; its fused LayerNorm and softmax have none.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{
    AdamW, Embedding, Init, Linear, Module, Optimizer, ParamsAdamW, VarBuilder, VarMap, embedding, linear, loss::cross_entropy,
    ops::layer_norm_slow, ops::softmax,
};

use crate::{BATCH, CONTEXT, HEADS, LAYERS, LR, VOCAB, WIDTH, report, tokens};

struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(WIDTH, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(WIDTH, "bias", Init::Const(0.0))?,
        })
    }
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm_slow(x, &self.weight, &self.bias, 1e-5)
    }
}

struct Block {
    norms: [Norm; 2],
    qkv: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            norms: [Norm::new(vb.pp("norm1"))?, Norm::new(vb.pp("norm2"))?],
            qkv: linear(WIDTH, 3 * WIDTH, vb.pp("qkv"))?,
            out: linear(WIDTH, WIDTH, vb.pp("out"))?,
            up: linear(WIDTH, 4 * WIDTH, vb.pp("up"))?,
            down: linear(4 * WIDTH, WIDTH, vb.pp("down"))?,
        })
    }
    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norms[0].forward(x)?)?;
        let head = |i: usize| -> Result<Tensor> {
            qkv.narrow(D::Minus1, i * WIDTH, WIDTH)?.reshape((BATCH, CONTEXT, HEADS, WIDTH / HEADS))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = (head(0)?, head(1)?, head(2)?);
        let scores = (q.matmul(&k.t()?)? * ((WIDTH / HEADS) as f64).powf(-0.5))?.broadcast_add(mask)?;
        let mixed = softmax(&scores, D::Minus1)?.matmul(&v)?.transpose(1, 2)?.reshape((BATCH, CONTEXT, WIDTH))?;
        let x = (x + self.out.forward(&mixed)?)?;
        let up = self.up.forward(&self.norms[1].forward(&x)?)?.gelu()?;
        x + self.down.forward(&up)?
    }
}

pub fn run() -> Result<()> {
    let device = Device::Cpu;
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &device);
    let tokens_table: Embedding = embedding(VOCAB, WIDTH, vb.pp("tokens"))?;
    let places = embedding(CONTEXT, WIDTH, vb.pp("places"))?;
    let blocks = (0..LAYERS).map(|i| Block::new(vb.pp(format!("layers.{i}")))).collect::<Result<Vec<_>>>()?;
    let norm = Norm::new(vb.pp("norm"))?;
    let mut optimiser = AdamW::new(vars.all_vars(), ParamsAdamW { lr: LR, ..ParamsAdamW::default() })?;
    let [x, y] = tokens();
    let x = Tensor::from_vec(x, (BATCH, CONTEXT), &device)?;
    let y = Tensor::from_vec(y, BATCH * CONTEXT, &device)?;
    let hidden = |i: usize| if i % CONTEXT > i / CONTEXT { f32::NEG_INFINITY } else { 0.0 };
    let mask = Tensor::from_vec((0..CONTEXT * CONTEXT).map(hidden).collect::<Vec<_>>(), (1, 1, CONTEXT, CONTEXT), &device)?;
    let mut step = || -> Result<()> {
        let mut h = tokens_table.forward(&x)?.broadcast_add(places.embeddings())?;
        for block in &blocks {
            h = block.forward(&h, &mask)?;
        }
        let h = norm.forward(&h)?.reshape((BATCH * CONTEXT, WIDTH))?;
        let logits = h.matmul(&tokens_table.embeddings().t()?)?;
        optimiser.backward_step(&cross_entropy(&logits, &y)?)
    };
    report(|| step().expect("candle takes a step"));
    Ok(())
}
