//! Pointwise activations and their gated forms, forward and backward; caps.

use rayon::prelude::*;

use crate::{Element, elementwise::CHUNK, simd::Vector};

/// Which function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Phi(x)`, with the error function; arXiv:1606.08415.
    Gelu,
    /// Its tanh approximation, GPT-2's.
    GeluTanh,
    /// `max(x, 0)^2`; arXiv:2109.08668.
    Relu2,
    /// `x sigmoid(x)`
    Silu,
    /// `x sigmoid(1.702 x)`: GELU as CLIP has it.
    QuickGelu,
}

impl Activation {
    /// `y = f(x)`
    pub fn forward<T: Element>(self, x: &[T], y: &mut [T]) {
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| forward_chunk(self, x, y));
    }

    /// `dx = f'(x) dy`, added to what `dx` holds with `accumulate`.
    pub fn backward<T: Element>(self, x: &[T], dy: &[T], dx: &mut [T], accumulate: bool) {
        let chunks = dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
        chunks.for_each(|((dx, x), dy)| backward_chunk(self, x, dy, dx, accumulate));
    }

    /// `(f(x), f'(x))`
    #[inline(always)]
    fn both<V: Vector>(self, x: V) -> (V, V) {
        let (half, one) = (V::splat(0.5), V::splat(1.0));
        match self {
            Self::Gelu => {
                let phi = erf(x.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2))).fma(half, half);
                let density = x.mul(x).mul(V::splat(-0.5)).exp().mul(V::splat(0.398_942_3));
                (x.mul(phi), x.fma(density, phi))
            }
            Self::GeluTanh => {
                const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
                let square = x.mul(x);
                let inner = x.mul(square.fma(V::splat(ROOT * 0.044_715), V::splat(ROOT)));
                let t = inner.tanh();
                let slope = square.fma(V::splat(3.0 * ROOT * 0.044_715), V::splat(ROOT));
                let sech2 = one.sub(t.mul(t));
                let gate = t.fma(half, half);
                (x.mul(gate), x.mul(half).mul(sech2).fma(slope, gate))
            }
            Self::Relu2 => {
                let r = x.max(V::splat(0.0));
                (r.mul(r), r.add(r))
            }
            Self::Silu => {
                let s = x.sigmoid();
                let y = x.mul(s);
                (y, y.fma(one.sub(s), s))
            }
            Self::QuickGelu => {
                let steep = x.mul(V::splat(1.702));
                let s = steep.sigmoid();
                (x.mul(s), steep.mul(s).fma(one.sub(s), s))
            }
        }
    }
}

/// The error function to 1.2e-7: Abramowitz and Stegun 7.1.26 is not enough, so the rational form of Numerical Recipes'
/// `erfcc` for `|x|`, with the sign put back.
#[inline(always)]
fn erf<V: Vector>(x: V) -> V {
    let one = V::splat(1.0);
    let a = x.max(V::splat(0.0).sub(x));
    let t = one.div(a.fma(V::splat(0.5), one));
    let mut p = V::splat(0.170_872_77);
    for c in
        [-0.822_152_23, 1.488_515_87, -1.135_203_98, 0.278_868_07, -0.186_288_06, 0.096_784_18, 0.374_091_96, 1.000_023_68, -1.265_512_23]
    {
        p = p.fma(t, V::splat(c));
    }
    let erfc = t.mul(p.sub(a.mul(a)).exp());
    // x / |x|, and 0 at 0, without a branch.
    let sign = x.div(a.max(V::splat(1e-30)));
    one.sub(erfc).mul(sign)
}

/// A function of `I` vectors and of what `O` outputs held before. A trait and not a closure: only a method can be told to
/// be inlined always, and outside of a function compiled for its CPU features each vector operation would be a call.
trait Map<const I: usize, const O: usize>: Copy {
    fn map<V: Vector>(self, x: [V; I], old: [V; O]) -> [V; O];
}

/// Run `f` over whole vectors, the tail through a padded copy.
#[inline(always)]
fn each<V: Vector, T: Element, const I: usize, const O: usize>(x: [&[T]; I], y: [&mut [T]; O], f: impl Map<I, O>) {
    let n = y[0].len();
    assert!(x.iter().all(|x| x.len() == n) && y.iter().all(|y| y.len() == n), "activation: arrays of one length");
    let (x_at, y_at) = (x.map(<[T]>::as_ptr), y.map(<[T]>::as_mut_ptr));
    let whole = n - n % V::N;
    let mut i = 0;
    while i < whole {
        // SAFETY: a whole vector starts at `i` in each array.
        unsafe { step::<V, T, I, O>(x_at, y_at, i, f) };
        i += V::N;
    }
    if whole < n {
        let (mut px, mut py) = ([[T::zeroed(); 16]; I], [[T::zeroed(); 16]; O]);
        // SAFETY: the tail is shorter than a vector, and a padded array holds sixteen numbers, at least one vector.
        unsafe {
            for k in 0..I {
                px[k].as_mut_ptr().copy_from(x_at[k].add(whole), n - whole);
            }
            for o in 0..O {
                py[o].as_mut_ptr().copy_from(y_at[o].add(whole), n - whole);
            }
            step::<V, T, I, O>(px.each_ref().map(|p| p.as_ptr()), py.each_mut().map(|p| p.as_mut_ptr()), 0, f);
            for o in 0..O {
                y_at[o].add(whole).copy_from(py[o].as_ptr(), n - whole);
            }
        }
    }
}

/// # Safety
/// A whole vector can be read at `i` in each of `x` and written in each of `y`.
#[inline(always)]
unsafe fn step<V: Vector, T: Element, const I: usize, const O: usize>(x: [*const T; I], y: [*mut T; O], i: usize, f: impl Map<I, O>) {
    let (mut inputs, mut old) = ([V::splat(0.0); I], [V::splat(0.0); O]);
    // SAFETY: the caller's promise.
    unsafe {
        for k in 0..I {
            inputs[k] = T::load(x[k].add(i));
        }
        for o in 0..O {
            old[o] = T::load(y[o].add(i));
        }
        let new = f.map(inputs, old);
        for o in 0..O {
            T::store(new[o], y[o].add(i));
        }
    }
}

/// `f(x)`; which function is known when it is compiled, so that each loop is straight.
#[derive(Clone, Copy)]
struct Value<const F: u8>;

/// `f'(x) dy`, on top of what was there if so told.
#[derive(Clone, Copy)]
struct Slope<const F: u8> {
    accumulate: bool,
}

const fn function(f: u8) -> Activation {
    match f {
        0 => Activation::Gelu,
        1 => Activation::GeluTanh,
        2 => Activation::Relu2,
        3 => Activation::Silu,
        _ => Activation::QuickGelu,
    }
}

impl<const F: u8> Map<1, 1> for Value<F> {
    #[inline(always)]
    fn map<V: Vector>(self, [x]: [V; 1], _old: [V; 1]) -> [V; 1] {
        [function(F).both(x).0]
    }
}

impl<const F: u8> Map<2, 1> for Slope<F> {
    #[inline(always)]
    fn map<V: Vector>(self, [x, dy]: [V; 2], [old]: [V; 1]) -> [V; 1] {
        let new = function(F).both(x).1.mul(dy);
        // What is not to be kept may be anything, even NaN: it is left out, not multiplied away.
        [if self.accumulate { old.add(new) } else { new }]
    }
}

simd_fn! { fn forward_chunk<T>(f: Activation, x: &[T], y: &mut [T]) = forward_body; }

#[inline(always)]
fn forward_body<V: Vector, T: Element>(f: Activation, x: &[T], y: &mut [T]) {
    match f {
        Activation::Gelu => each::<V, T, 1, 1>([x], [y], Value::<0>),
        Activation::GeluTanh => each::<V, T, 1, 1>([x], [y], Value::<1>),
        Activation::Relu2 => each::<V, T, 1, 1>([x], [y], Value::<2>),
        Activation::Silu => each::<V, T, 1, 1>([x], [y], Value::<3>),
        Activation::QuickGelu => each::<V, T, 1, 1>([x], [y], Value::<4>),
    }
}

simd_fn! { fn backward_chunk<T>(f: Activation, x: &[T], dy: &[T], dx: &mut [T], accumulate: bool) = backward_body; }

#[inline(always)]
fn backward_body<V: Vector, T: Element>(f: Activation, x: &[T], dy: &[T], dx: &mut [T], accumulate: bool) {
    match f {
        Activation::Gelu => each::<V, T, 2, 1>([x, dy], [dx], Slope::<0> { accumulate }),
        Activation::GeluTanh => each::<V, T, 2, 1>([x, dy], [dx], Slope::<1> { accumulate }),
        Activation::Relu2 => each::<V, T, 2, 1>([x, dy], [dx], Slope::<2> { accumulate }),
        Activation::Silu => each::<V, T, 2, 1>([x, dy], [dx], Slope::<3> { accumulate }),
        Activation::QuickGelu => each::<V, T, 2, 1>([x, dy], [dx], Slope::<4> { accumulate }),
    }
}

impl Activation {
    /// `y = f(gate) up`; arXiv:2002.05202.
    pub fn gated<T: Element>(self, gate: &[T], up: &[T], y: &mut [T]) {
        let chunks = y.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).zip(up.par_chunks(CHUNK));
        chunks.for_each(|((y, gate), up)| gated_chunk(self, gate, up, y));
    }

    /// `dgate = dy up f'(gate)`, `dup = dy f(gate)`.
    pub fn gated_backward<T: Element>(self, gate: &[T], up: &[T], dy: &[T], dgate: &mut [T], dup: &mut [T], accumulate: [bool; 2]) {
        let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
        let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
        inputs.zip(outputs).for_each(|(((gate, up), dy), (dgate, dup))| gated_backward_chunk(self, gate, up, dy, dgate, dup, accumulate));
    }
}

#[derive(Clone, Copy)]
struct Gated<const F: u8>;

impl<const F: u8> Map<2, 1> for Gated<F> {
    #[inline(always)]
    fn map<V: Vector>(self, [gate, up]: [V; 2], _old: [V; 1]) -> [V; 1] {
        [function(F).both(gate).0.mul(up)]
    }
}

simd_fn! { fn gated_chunk<T>(f: Activation, gate: &[T], up: &[T], y: &mut [T]) = gated_body; }

#[inline(always)]
fn gated_body<V: Vector, T: Element>(f: Activation, gate: &[T], up: &[T], y: &mut [T]) {
    match f {
        Activation::Gelu => each::<V, T, 2, 1>([gate, up], [y], Gated::<0>),
        Activation::GeluTanh => each::<V, T, 2, 1>([gate, up], [y], Gated::<1>),
        Activation::Relu2 => each::<V, T, 2, 1>([gate, up], [y], Gated::<2>),
        Activation::Silu => each::<V, T, 2, 1>([gate, up], [y], Gated::<3>),
        Activation::QuickGelu => each::<V, T, 2, 1>([gate, up], [y], Gated::<4>),
    }
}

#[derive(Clone, Copy)]
struct GatedBackward<const F: u8>([bool; 2]);

impl<const F: u8> Map<3, 2> for GatedBackward<F> {
    #[inline(always)]
    fn map<V: Vector>(self, [gate, up, dy]: [V; 3], [dgate, dup]: [V; 2]) -> [V; 2] {
        let (value, slope) = function(F).both(gate);
        let (a, b) = (dy.mul(up).mul(slope), dy.mul(value));
        [if self.0[0] { dgate.add(a) } else { a }, if self.0[1] { dup.add(b) } else { b }]
    }
}

simd_fn! {
    fn gated_backward_chunk<T>(
        f: Activation, gate: &[T], up: &[T], dy: &[T], dgate: &mut [T], dup: &mut [T], accumulate: [bool; 2],
    ) = gated_backward_body;
}

#[inline(always)]
fn gated_backward_body<V: Vector, T: Element>(
    f: Activation,
    gate: &[T],
    up: &[T],
    dy: &[T],
    dgate: &mut [T],
    dup: &mut [T],
    accumulate: [bool; 2],
) {
    let (x, y) = ([gate, up, dy], [dgate, dup]);
    match f {
        Activation::Gelu => each::<V, T, 3, 2>(x, y, GatedBackward::<0>(accumulate)),
        Activation::GeluTanh => each::<V, T, 3, 2>(x, y, GatedBackward::<1>(accumulate)),
        Activation::Relu2 => each::<V, T, 3, 2>(x, y, GatedBackward::<2>(accumulate)),
        Activation::Silu => each::<V, T, 3, 2>(x, y, GatedBackward::<3>(accumulate)),
        Activation::QuickGelu => each::<V, T, 3, 2>(x, y, GatedBackward::<4>(accumulate)),
    }
}

#[derive(Clone, Copy)]
struct Softcap {
    inside: f32,
    outside: f32,
}

impl Map<1, 1> for Softcap {
    #[inline(always)]
    fn map<V: Vector>(self, [x]: [V; 1], _old: [V; 1]) -> [V; 1] {
        [x.mul(V::splat(self.inside)).tanh().mul(V::splat(self.outside))]
    }
}

simd_fn! {
    /// `x = outside tanh(inside x)`, in place, on this thread.
    pub fn softcap(x: &mut [f32], inside: f32, outside: f32) = softcap_body;
}

#[inline(always)]
fn softcap_body<V: Vector>(x: &mut [f32], inside: f32, outside: f32) {
    let f = Softcap { inside, outside };
    let whole = x.len() - x.len() % V::N;
    let at = x.as_mut_ptr();
    for i in (0..whole).step_by(V::N) {
        // SAFETY: a whole vector starts at `i`.
        unsafe { f.map([V::load(at.add(i))], [V::splat(0.0)])[0].store(at.add(i)) };
    }
    for x in &mut x[whole..] {
        *x = outside * (inside * *x).tanh();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_far_out_neither_overflow_nor_lose_their_limits() {
        for f in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::QuickGelu] {
            let x = [-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4, 1e-40];
            let mut y = [0.0; 8];
            f.forward(&x, &mut y);
            for (x, y) in x.iter().zip(y) {
                assert!((y - x.max(0.0)).abs() < 1e-5 * x.abs().max(1.0), "{f:?}({x}) = {y}");
            }
        }
    }

    #[test]
    fn what_is_not_to_be_kept_may_be_nan() {
        let (x, dy) = ([0.5; 21], [1.0; 21]);
        let mut dx = [f32::NAN; 21];
        Activation::Gelu.backward(&x, &dy, &mut dx, false);
        assert!(dx.iter().all(|v| v.is_finite()));
    }
}
