//! GFLOP/s of the products that a training step is made of: `cargo bench -p kernels [-- bf16]`.
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::time::Instant;

use kernels::gemm::{Gemm, Mat, PackedRhs, Precision, Rhs};

fn main() {
    let precision = if std::env::args().any(|arg| arg == "bf16") { Precision::Bf16 } else { Precision::F32 };
    println!("{} {precision:?}", kernels::level());
    // Tokens, inputs, outputs of linear layers; then the same read as the two backward products.
    for (tokens, inputs, outputs) in
        [(1024, 1024, 1024), (2048, 384, 1152), (2048, 384, 1536), (2048, 1536, 384), (1024, 768, 3072), (2048, 384, 4096)]
    {
        let x: Vec<f32> = (0..tokens * inputs).map(|i| (i % 17) as f32).collect();
        let w: Vec<f32> = (0..outputs * inputs).map(|i| (i % 13) as f32).collect();
        let dy: Vec<f32> = (0..tokens * outputs).map(|i| (i % 11) as f32).collect();
        let (mut y, mut dx, mut dw) = (vec![0.0; tokens * outputs], vec![0.0; tokens * inputs], vec![0.0; outputs * inputs]);
        let mut packed = PackedRhs::new(precision, inputs, outputs);
        packed.pack(Mat::rows(&w, inputs).transposed());
        let mut packed_back = PackedRhs::new(precision, outputs, inputs);
        packed_back.pack(Mat::rows(&w, inputs));
        let gflops = |run: &mut dyn FnMut()| {
            run();
            let mut best = f64::INFINITY;
            for _ in 0..12 {
                let start = Instant::now();
                run();
                best = best.min(start.elapsed().as_secs_f64());
            }
            2.0 * (tokens * inputs * outputs) as f64 / best / 1e9
        };
        let gemm = |m, n, k, accumulate| Gemm { m, n, k, precision, accumulate };
        let forward =
            gflops(&mut || gemm(tokens, outputs, inputs, false).run(Mat::rows(&x, inputs), Rhs::<f32>::Packed(&packed), None, &mut y));
        let back = gflops(&mut || {
            gemm(tokens, inputs, outputs, false).run(Mat::rows(&dy, outputs), Rhs::<f32>::Packed(&packed_back), None, &mut dx)
        });
        let weight = gflops(&mut || {
            gemm(outputs, inputs, tokens, true).run(Mat::rows(&dy, outputs).transposed(), Rhs::Plain(Mat::rows(&x, inputs)), None, &mut dw);
        });
        let pack = gflops(&mut || packed.pack(Mat::rows(&w, inputs).transposed()));
        println!(
            "{tokens:5} x {inputs:5} -> {outputs:5}   forward {forward:6.1}   dx {back:6.1}   dw {weight:6.1}   (pack as {pack:.0}) GFLOP/s"
        );
    }
    // As when many texts are written together: few rows, and weights that are read once.
    for rows in [8, 32, 96] {
        for (inputs, outputs) in [(384, 1536), (768, 3072), (3072, 768), (768, 50257)] {
            let (x, w) = (vec![0.5; rows * inputs], vec![0.5; outputs * inputs]);
            let (mut y, gemm) = (vec![0.0; rows * outputs], Gemm { m: rows, n: outputs, k: inputs, precision, accumulate: false });
            let mut best = f64::INFINITY;
            for _ in 0..12 {
                let start = Instant::now();
                gemm.run(Mat::rows(&x, inputs), Rhs::Plain(Mat::rows(&w, inputs).transposed()), None, &mut y);
                best = best.min(start.elapsed().as_secs_f64());
            }
            let (flops, bytes) = (2.0 * (rows * inputs * outputs) as f64, 4.0 * (inputs * outputs) as f64);
            println!(
                "{rows:5} x {inputs:5} -> {outputs:5}   {:6.1} GFLOP/s, weights at {:5.1} GB/s",
                flops / best / 1e9,
                bytes / best / 1e9
            );
        }
    }
}
