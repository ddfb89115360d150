//! AdamW in one pass over memory; *Decoupled Weight Decay Regularization*, arXiv:1711.05101, algorithm 2.

use rayon::prelude::*;

use crate::{elementwise::CHUNK, simd::Vector};

/// One update's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// This update's number, from 1.
    pub step: u64,
    /// What gradients are multiplied by first: the clip factor.
    pub grad_scale: f32,
}

impl AdamW {
    /// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, `w -= lr (m' / (sqrt(v') + eps) + decay w)`, with `m'` and
    /// `v'` corrected for their start at zero. All four arrays have one length.
    pub fn update(&self, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let state = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
        let chunks = w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(state);
        chunks.for_each(|((w, g), (m, v))| update_chunk(*self, w, g, m, v));
    }
}

simd_fn! { fn update_chunk(o: AdamW, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) = update_body; }

#[inline(always)]
fn update_body<V: Vector>(o: AdamW, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let correction = |beta: f32| (1.0 - f64::from(beta).powf(o.step as f64)) as f32;
    let (c1, c2) = (1.0 / correction(o.beta1), 1.0 / correction(o.beta2));
    let n = w.len();
    assert!(g.len() == n && m.len() == n && v.len() == n, "adamw: arrays of one length");
    let keep = 1.0 - o.lr * o.weight_decay;
    let end = n - n % V::N;
    for i in (0..end).step_by(V::N) {
        // SAFETY: `i + N <= n`, and all four have that length.
        unsafe {
            let g = V::load(g.as_ptr().add(i)).mul(V::splat(o.grad_scale));
            let m1 = V::load(m.as_ptr().add(i)).mul(V::splat(o.beta1)).add(g.mul(V::splat(1.0 - o.beta1)));
            let v1 = V::load(v.as_ptr().add(i)).mul(V::splat(o.beta2)).add(g.mul(g).mul(V::splat(1.0 - o.beta2)));
            let below = v1.mul(V::splat(c2)).sqrt().add(V::splat(o.eps));
            let step = m1.mul(V::splat(c1 * o.lr)).div(below);
            V::load(w.as_ptr().add(i)).mul(V::splat(keep)).sub(step).store(w.as_mut_ptr().add(i));
            m1.store(m.as_mut_ptr().add(i));
            v1.store(v.as_mut_ptr().add(i));
        }
    }
    for i in end..n {
        let g = g[i] * o.grad_scale;
        m[i] = m[i] * o.beta1 + g * (1.0 - o.beta1);
        v[i] = v[i] * o.beta2 + g * g * (1.0 - o.beta2);
        w[i] = w[i] * keep - m[i] * (c1 * o.lr) / ((v[i] * c2).sqrt() + o.eps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive::noise;

    #[test]
    fn follows_the_paper_in_f64_for_some_steps() {
        let n = 37;
        let (mut w, mut m, mut v) = (noise(1, n), vec![0.0; n], vec![0.0; n]);
        let (mut w64, mut m64, mut v64): (Vec<f64>, _, _) = (w.iter().map(|w| f64::from(*w)).collect(), vec![0.0; n], vec![0.0; n]);
        for step in 1..=5 {
            let g = noise(10 + step, n);
            let adamw = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step, grad_scale: 0.5 };
            adamw.update(&mut w, &g, &mut m, &mut v);
            for i in 0..n {
                let g = f64::from(g[i]) * 0.5;
                m64[i] = 0.9 * m64[i] + 0.1 * g;
                v64[i] = 0.95 * v64[i] + 0.05 * g * g;
                let (mh, vh) = (m64[i] / (1.0 - 0.9_f64.powi(step as i32)), v64[i] / (1.0 - 0.95_f64.powi(step as i32)));
                w64[i] -= 1e-2 * (mh / (vh.sqrt() + 1e-8) + 0.1 * w64[i]);
            }
        }
        for (w, want) in w.iter().zip(&w64) {
            assert!((f64::from(*w) - want).abs() < 1e-6, "{w} for {want}");
        }
    }
}
