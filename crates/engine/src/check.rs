//! How an op is judged: its numbers against a naive f64 twin, its gradients against central differences of that twin.
//!
//! Differences are taken on the twin, so the tolerance is the kernel's own rounding and not that of differencing.

use crate::{Device, EngineError, NoParams, Options, ParamTable, Pool, Precision, Shape, Tape, Tensor};

/// What is read in bf16 is off by half of 2^-8 of itself, and so is what is written: a few such steps.
const BF16_TOLERANCE: f64 = 0.03;

/// `n` numbers in -1..1, a function of `seed` alone.
#[must_use]
pub fn noise(seed: u64, n: usize) -> Vec<f32> {
    (0..n as u64).map(|i| (crate::mix(seed ^ crate::mix(i + 1)) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0).collect()
}

#[must_use]
pub fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

/// # Panics
/// When a number differs by more than `tolerance` times one plus the largest number expected, or is not finite.
pub fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let largest = want.iter().fold(1.0_f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w).abs();
        assert!(error <= tolerance * largest, "{what}[{i}]: got {g}, want {w}, off by {error:.2e}");
    }
}

/// `d (sum dy * f(x)) / dx` by central differences in f64.
pub fn differences(x: &[f64], dy: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    const H: f64 = 1e-5;
    let mut x = x.to_vec();
    let dot = |y: Vec<f64>| y.iter().zip(dy).map(|(y, dy)| y * dy).sum::<f64>();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + H;
            let above = dot(f(&x));
            x[i] = at - H;
            let below = dot(f(&x));
            x[i] = at;
            (above - below) / (2.0 * H)
        })
        .collect()
}

/// Run an op on noise, in f32 and with activations in bf16, and hold its output against `twin` and each gradient against the twin's differences.
/// # Panics
/// When they disagree.
pub fn gradients<const N: usize>(
    shapes: &[Shape; N],
    run: impl Fn(&mut Tape<'_>, [&Tensor; N]) -> Result<Tensor, EngineError>,
    twin: impl Fn([&Vec<f64>; N]) -> Vec<f64>,
    tolerance: f64,
) {
    gradients_for(shapes, run, twin, tolerance, |n| noise(99, n));
}

/// The same for an op that gives one number and whose own gradient must be one.
/// # Panics
/// When they disagree.
pub fn gradients_of_loss<const N: usize>(
    shapes: &[Shape; N],
    run: impl Fn(&mut Tape<'_>, [&Tensor; N]) -> Result<Tensor, EngineError>,
    twin: impl Fn([&Vec<f64>; N]) -> f64,
    tolerance: f64,
) {
    gradients_for(shapes, run, |x| vec![twin(x)], tolerance, |_| vec![1.0]);
}

fn gradients_for<const N: usize>(
    shapes: &[Shape; N],
    run: impl Fn(&mut Tape<'_>, [&Tensor; N]) -> Result<Tensor, EngineError>,
    twin: impl Fn([&Vec<f64>; N]) -> Vec<f64>,
    tolerance: f64,
    dy: impl Fn(usize) -> Vec<f32>,
) {
    let x: [Vec<f32>; N] = std::array::from_fn(|i| noise(i as u64 + 1, shapes[i].elements()));
    let exact: [Vec<f64>; N] = std::array::from_fn(|i| f64s(&x[i]));
    let want = twin(std::array::from_fn(|i| &exact[i]));
    let dy = dy(want.len());

    let gradients: [Vec<f64>; N] = std::array::from_fn(|i| {
        differences(&exact[i], &f64s(&dy), |changed| {
            let changed = changed.to_vec();
            twin(std::array::from_fn(|j| if j == i { &changed } else { &exact[j] }))
        })
    });
    for (precision, tolerance) in [(Precision::F32, tolerance), (Precision::Bf16, BF16_TOLERANCE)] {
        let (table, mut store) = (ParamTable::default(), NoParams);
        let mut tape = Tape::new(&Pool::new(Device::Cpu, 1 << 24), &mut store, &table, options(precision));
        let leaves: [Tensor; N] = std::array::from_fn(|i| tape.leaf(shapes[i], &x[i], true).expect("room for a leaf"));
        let y = run(&mut tape, std::array::from_fn(|i| &leaves[i])).expect("the op runs");
        assert_close(&format!("output in {precision:?}"), &y.f32s(), &want, tolerance);

        tape.backward_with(&y, &dy).expect("the backward pass runs");
        for (i, want) in gradients.iter().enumerate() {
            let got = tape.grad(&leaves[i]).expect("a gradient reached every leaf");
            assert_close(&format!("gradient of input {i} in {precision:?}"), &got, want, tolerance);
        }
    }
}

/// The output of an op on `x`, and its gradient for a `dy` of ones.
/// # Panics
/// When the op fails.
pub fn run_one(x: &[f32], shape: Shape, run: impl Fn(&mut Tape<'_>, &Tensor) -> Result<Tensor, EngineError>) -> (Vec<f32>, Vec<f32>) {
    let (table, mut store) = (ParamTable::default(), NoParams);
    let mut tape = Tape::new(&Pool::new(Device::Cpu, 1 << 24), &mut store, &table, options(Precision::F32));
    let leaf = tape.leaf(shape, x, true).expect("room for a leaf");
    let y = run(&mut tape, &leaf).expect("the op runs");
    tape.backward(&y).expect("the backward pass runs");
    (y.f32s().to_vec(), tape.grad(&leaf).unwrap_or_default().to_vec())
}

fn options(precision: Precision) -> Options {
    Options { precision, recompute: false, train: true, key: 7, trace: false }
}
