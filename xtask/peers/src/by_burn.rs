//! burn on its `flex` backend, with its own layers; its fused attention is for inference.

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, loss::CrossEntropyLossConfig},
    optim::{AdamWConfig, GradientsParams},
    tensor::{
        Device, Int, Tensor, TensorData,
        activation::{gelu_approximate, softmax},
    },
};

use crate::{BATCH, CONTEXT, HEADS, LAYERS, LR, VOCAB, WIDTH, report, tokens};

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    norm2: LayerNorm,
    qkv: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(device: &Device) -> Self {
        let linear = |inner, outer| LinearConfig::new(inner, outer).init(device);
        let norm = || LayerNormConfig::new(WIDTH).init(device);
        Self {
            norm1: norm(),
            norm2: norm(),
            qkv: linear(WIDTH, 3 * WIDTH),
            out: linear(WIDTH, WIDTH),
            up: linear(WIDTH, 4 * WIDTH),
            down: linear(4 * WIDTH, WIDTH),
        }
    }
    fn forward(&self, x: Tensor<3>, mask: &Tensor<4>) -> Tensor<3> {
        let qkv = self.qkv.forward(self.norm1.forward(x.clone()));
        let head = |i: usize| -> Tensor<4> {
            qkv.clone().narrow(2, i * WIDTH, WIDTH).reshape([BATCH, CONTEXT, HEADS, WIDTH / HEADS]).swap_dims(1, 2)
        };
        let scores = head(0).matmul(head(1).swap_dims(2, 3)) * ((WIDTH / HEADS) as f32).powf(-0.5) + mask.clone();
        let mixed = softmax(scores, 3).matmul(head(2)).swap_dims(1, 2).reshape([BATCH, CONTEXT, WIDTH]);
        let x = x + self.out.forward(mixed);
        let up = gelu_approximate(self.up.forward(self.norm2.forward(x.clone())));
        x + self.down.forward(up)
    }
}

#[derive(Module, Debug)]
struct Gpt {
    tokens: Embedding,
    places: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

pub fn run() {
    let device = Device::flex().autodiff();
    let model = Gpt {
        tokens: EmbeddingConfig::new(VOCAB, WIDTH).init(&device),
        places: EmbeddingConfig::new(CONTEXT, WIDTH).init(&device),
        blocks: (0..LAYERS).map(|_| Block::new(&device)).collect(),
        norm: LayerNormConfig::new(WIDTH).init(&device),
    };
    let mut optimiser = AdamWConfig::new().init();
    let [x, y] = tokens();
    let x = Tensor::<2, Int>::from_data(TensorData::new(x, [BATCH, CONTEXT]), &device);
    let y = Tensor::<1, Int>::from_data(TensorData::new(y, [BATCH * CONTEXT]), &device);
    let hidden = |i: usize| if i % CONTEXT > i / CONTEXT { -1e9_f32 } else { 0.0 };
    let mask =
        Tensor::<4>::from_data(TensorData::new((0..CONTEXT * CONTEXT).map(hidden).collect::<Vec<_>>(), [1, 1, CONTEXT, CONTEXT]), &device);
    let loss_of = CrossEntropyLossConfig::new().init(&device);
    let mut step = |model: Gpt| -> Gpt {
        let places = model.places.weight.val().unsqueeze::<3>();
        let mut h: Tensor<3> = model.tokens.forward(x.clone()) + places;
        for block in &model.blocks {
            h = block.forward(h, &mask);
        }
        let h: Tensor<2> = model.norm.forward(h).reshape([BATCH * CONTEXT, WIDTH]);
        let logits = h.matmul(model.tokens.weight.val().transpose());
        let grads = loss_of.forward(logits, y.clone()).backward();
        let grads = GradientsParams::from_grads(grads, &model);
        optimiser.step(LR, model, grads)
    };
    let mut held = Some(model);
    report(|| held = held.take().map(&mut step));
}
