//! GFLOP/s of causal attention, forward and backward: `cargo bench -p kernels --bench attention [-- bf16]`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::time::Instant;

use kernels::{
    attention::{Attention, Mask},
    gemm::Precision,
};

fn main() {
    let precision = if std::env::args().any(|arg| arg == "bf16") { Precision::Bf16 } else { Precision::F32 };
    println!("{} {precision:?}", kernels::level());
    for (batch, len, heads, kv_heads) in [(8, 256, 6, 6), (4, 256, 12, 12), (1, 1024, 12, 4), (1, 4096, 8, 8)] {
        let attention = Attention {
            batch,
            q_len: len,
            kv_len: len,
            heads,
            kv_heads,
            head_dim: 64,
            q_offset: 0,
            mask: Mask::Causal,
            scale: 0.125,
            alibi: false,
            softcap: None,
            first_head: 0,
            all_heads: heads,
            precision,
        };
        let numbers = |seed, heads| kernels::naive::noise(seed, batch * len * heads * 64);
        let (q, k, v, dout) = (numbers(1, heads), numbers(2, kv_heads), numbers(3, kv_heads), numbers(4, heads));
        let (mut out, mut dq) = (vec![0.0; q.len()], vec![0.0; q.len()]);
        let (mut dk, mut dv) = (vec![0.0; k.len()], vec![0.0; k.len()]);
        let (mut lse, mut delta) = (vec![0.0; batch * heads * len], vec![0.0; batch * heads * len]);
        let flops = attention.forward_flops() as f64;
        let gflops = |flops: f64, run: &mut dyn FnMut()| {
            run();
            let mut best = f64::INFINITY;
            for _ in 0..8 {
                let start = Instant::now();
                run();
                best = best.min(start.elapsed().as_secs_f64());
            }
            flops / best / 1e9
        };
        let forward = gflops(flops, &mut || attention.forward(&q, &k, &v, &mut out, &mut lse));
        let backward = gflops(2.5 * flops, &mut || {
            attention.backward(&q, &k, &v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv, &mut delta, [false; 3]);
        });
        println!("{batch} x {len:4}, {heads:2} heads of {kv_heads:2}   forward {forward:6.1}   backward {backward:6.1} GFLOP/s");
    }
}
