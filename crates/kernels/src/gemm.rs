//! Matrix products: `C = A B (+ C) (+ bias)`, A and B with any strides, so that transposes are read in place.
//!
//! ```text
//! pack all of B once:  [n / 32 panels][k words][32]          one word = an f32, or two neighbouring k in bf16
//! tasks: tiles of C, 96 rows by 512 columns
//!   for each 192 words of k: pack A [rows / MR panels][words][MR]; panel by panel, MR x 32 of C in registers
//! ```
//! With few rows B is read once and packing all of it would be most of the work: it is read where it lies ([`crate::few`]), or where that
//! does not do, packed in strips of 128 columns as they are needed, into a cache. The sums are taken in the same order.
//!
//! The two precisions share everything but the meaning of a word and the instruction that multiplies two. Blocking
//! after Goto and van de Geijn, *Anatomy of High-Performance Matrix Multiplication*, 2008.

use std::cell::{Cell, RefCell};

use memory::Dtype;

pub(crate) use crate::product::{KC, NR, STRIP};
use crate::{
    Element, SharedMut,
    elementwise::put,
    few, gemv,
    pack::{pack_here, pack_lhs, pack_rhs, pack_turned},
    product::put_block,
    simd::Vector,
};
pub use crate::{
    pack::PackedRhs,
    product::{Gemm, Mat, Precision, rounded},
};

/// The right side: as it lies, or packed before.
pub enum Rhs<'a, T = f32> {
    Plain(Mat<'a, T>),
    Packed(&'a PackedRhs),
}

/// Rows and columns of C in one task.
const MC: usize = 96;
const NC: usize = 512;

impl Gemm {
    /// # Panics
    /// When a slice is too short for the sizes, or a packed side was packed for others.
    pub fn run<A: Element, B: Element, C: Element>(&self, a: Mat<'_, A>, b: Rhs<'_, B>, bias: Option<&[f32]>, c: &mut [C]) {
        assert!(a.holds(self.m, self.k) && c.len() >= self.m * self.n, "gemm: slices fit the sizes {self:?}");
        assert!(bias.is_none_or(|bias| bias.len() == self.n), "gemm: one bias a column");
        match b {
            Rhs::Packed(packed) => {
                assert!((packed.k, packed.n, packed.precision) == (self.k, self.n, self.precision), "gemm: packed for {self:?}");
                if self.m <= gemv::FEW && self.precision == Precision::Bf16 {
                    return gemv::packed(self, a, &packed.words, bias, c);
                }
                self.tiles(a, &packed.words, bias, c);
            }
            Rhs::Plain(b) => {
                assert!(b.holds(self.k, self.n), "gemm: slices fit the sizes {self:?}");
                if self.m <= gemv::FEW && b.row_stride == 1 && a.col_stride == 1 && self.precision == Precision::F32 {
                    return gemv::plain(self, a, b, bias, c);
                }
                if self.m <= MC && b.row_stride == 1 && self.k > 0 && self.precision == Precision::F32 {
                    return with_packed(self.packs_bytes() / 4, |words| {
                        pack_rhs(self.precision, a.transposed(), self.k, self.m, words);
                        few::product(self, words, b, bias, c);
                    });
                }
                if self.m <= MC {
                    return self.strips(a, b, bias, c);
                }
                with_packed(PackedRhs::bytes(self.precision, self.k, self.n) / 4, |words| {
                    pack_rhs(self.precision, b, self.k, self.n, words);
                    self.tiles(a, words, bias, c);
                });
            }
        }
    }

    /// Bytes into which [`Gemm::run`] packs where the right side is not packed yet: space of the thread that asks, which keeps it.
    #[must_use]
    pub fn packs_bytes(&self) -> usize {
        match self.precision {
            Precision::F32 if self.m <= MC => PackedRhs::bytes(self.precision, self.k, self.m),
            Precision::Bf16 if self.m <= MC => 0,
            _ => PackedRhs::bytes(self.precision, self.k, self.n),
        }
    }

    /// Few rows: B is packed strip by strip where it is read, and never lies in memory twice.
    fn strips<A: Element, B: Element, C: Element>(&self, a: Mat<'_, A>, b: Mat<'_, B>, bias: Option<&[f32]>, c: &mut [C]) {
        let ldc = self.n;
        let shared = SharedMut::new(c);
        let strip = |strip: usize| {
            let j = strip * STRIP;
            let cols = STRIP.min(self.n - j);
            let mut words = STRIP_WORDS.take();
            // The whole strip: what is summed over runs of k is rounded once.
            let sum = |strip: Gemm, c: *mut f32, ldc: usize| {
                let mut start = 0;
                // A product over nothing still writes its zeros and bias.
                loop {
                    let k = (KC * self.precision.per_word()).min(self.k - start);
                    let gemm = Gemm { k, accumulate: strip.accumulate || start > 0, ..strip };
                    words.clear();
                    pack_here(self.precision, b.from(start, j), k, cols, &mut words);
                    let bias = bias.filter(|_| start == 0).map(|bias| &bias[j..j + cols]);
                    // SAFETY: `c` holds the strip, as is said below.
                    unsafe { gemm.tile(a.from(0, start), &words, bias, c, ldc) };
                    start += k;
                    if start >= self.k {
                        break;
                    }
                }
            };
            // SAFETY: strips of C do not overlap; `j` is inside its first row, and the last of `m` rows has `n - j` numbers from there.
            unsafe { Gemm { n: cols, ..*self }.sum_into(shared.at(j), ldc, sum) };
            STRIP_WORDS.set(words);
        };
        if self.m == 0 || self.n == 0 {
            return;
        }
        self.each(self.n.div_ceil(STRIP), strip);
    }

    fn tiles<A: Element, C: Element>(&self, a: Mat<'_, A>, b: &[f32], bias: Option<&[f32]>, c: &mut [C]) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        // Matrix tiles are so fast that A is packed once for all columns, and has to be.
        let (mc, nc) = match (self.precision.is_on_tiles(), C::DTYPE) {
            (true, Dtype::F32) => (128, 4096),
            // Their sums are taken beside C, in the second cache.
            (true, _) => (128, 1024),
            (false, _) => (MC, NC),
        };
        // Few rows: narrower tiles, so that there are enough of them.
        let nc = if self.m <= mc { STRIP } else { nc };
        let (down, across) = (self.m.div_ceil(mc), self.n.div_ceil(nc));
        let ldc = self.n;
        let shared = SharedMut::new(c);
        let task = |tile: usize| {
            let (i, j) = (tile / across * mc, tile % across * nc);
            let (rows, cols) = (mc.min(self.m - i), nc.min(self.n - j));
            let a = Mat { data: &a.data[i * a.row_stride..], ..a };
            let b = &b[j * self.precision.words(self.k)..];
            // SAFETY: tiles of C do not overlap, and (i, j) is inside it.
            let c = unsafe { shared.at(i * ldc + j) };
            let bias = bias.map(|bias| &bias[j..j + cols]);
            let gemm = Gemm { m: rows, n: cols, ..*self };
            // SAFETY: `c` points to `rows` rows of `ldc` numbers, less the first `j`, that no other task touches.
            unsafe { gemm.sum_into(c, ldc, |gemm, c, ldc| gemm.tile(a, b, bias, c, ldc)) };
        };
        self.each(down * across, task);
    }

    /// Let `sum` take the sums of a part of C, `m` by `n`: in C itself, or where that has fewer bits, in numbers of this thread's own, which
    /// are rounded into it once.
    /// # Safety
    /// `c` points to `m` rows of `n` numbers, `ldc` apart, that are this call's alone.
    unsafe fn sum_into<C: Element>(self, c: *mut C, ldc: usize, sum: impl FnOnce(Self, *mut f32, usize)) {
        if C::DTYPE == Dtype::F32 {
            return sum(self, c.cast(), ldc);
        }
        let mut sums = SUMS.take();
        sums.resize(sums.len().max(self.m * self.n), 0.0);
        sum(Self { accumulate: false, ..self }, sums.as_mut_ptr(), self.n);
        for (r, sums) in sums.chunks_exact(self.n).enumerate().take(self.m) {
            // SAFETY: the caller's promise.
            let row = unsafe { std::slice::from_raw_parts_mut(c.add(r * ldc), self.n) };
            put(sums, row, self.accumulate);
        }
        SUMS.set(sums);
    }

    /// One tile of C from packed B, on this thread.
    /// # Safety
    /// `c` points to `m` rows of `n` numbers, `ldc` apart, that are this call's alone.
    pub(crate) unsafe fn tile<A: Element>(&self, a: Mat<'_, A>, b: &[f32], bias: Option<&[f32]>, c: *mut f32, ldc: usize) {
        assert!(4 * b.len() >= PackedRhs::bytes(self.precision, self.k, self.n), "gemm: B is packed for {self:?}");
        PACKED_A.with_borrow_mut(|packed| {
            #[cfg(target_arch = "x86_64")]
            if self.precision.is_on_tiles() {
                // SAFETY: the level says that the tiles are there; the rest is the caller's promise.
                return unsafe { crate::amx::tile(*self, a, b, bias, c, ldc, packed) };
            }
            tile(*self, a, b, bias, c, ldc, packed);
        });
    }
}

thread_local! {
    static PACKED_A: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PACKED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static STRIP_WORDS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Run `work` with so many words of this thread's own, which hold whatever was there before: one run of them for all that is packed to be
/// read by many threads at once.
pub(crate) fn with_packed(words: usize, work: impl FnOnce(&mut [f32])) {
    let mut packed = PACKED.take();
    packed.reserve_exact(words.saturating_sub(packed.len()));
    packed.resize(packed.len().max(words), 0.0);
    work(&mut packed[..words]);
    PACKED.set(packed);
}

simd_fn! {
    fn tile<A>(g: Gemm, a: Mat<'_, A>, b: &[f32], bias: Option<&[f32]>, c: *mut f32, ldc: usize, packed: &mut Vec<f32>) = tile_body;
}

#[inline(always)]
fn tile_body<V: Vector, A: Element>(
    g: Gemm,
    a: Mat<'_, A>,
    b: &[f32],
    bias: Option<&[f32]>,
    c: *mut f32,
    ldc: usize,
    packed: &mut Vec<f32>,
) {
    // Registers: 32 of 16 lanes hold 12 x 32 sums, 16 of 8 lanes hold 6 x 16.
    if V::N == 16 { blocks::<V, A, 12>(g, a, b, bias, c, ldc, packed) } else { blocks::<V, A, 6>(g, a, b, bias, c, ldc, packed) }
}

#[inline(always)]
pub(crate) fn blocks<V: Vector, A: Element, const MR: usize>(
    g: Gemm,
    a: Mat<'_, A>,
    b: &[f32],
    bias: Option<&[f32]>,
    c: *mut f32,
    ldc: usize,
    packed: &mut Vec<f32>,
) {
    let words = g.precision.words(g.k);
    let panels = g.m.div_ceil(MR);
    // Room for one more vector follows each panel.
    let panel_room = MR * KC + V::N;
    packed.resize(packed.len().max(panels * panel_room), 0.0);
    // A product over nothing still writes its zeros and bias.
    let mut start = 0;
    loop {
        let depth = KC.min(words - start);
        if a.row_stride == 1 && a.col_stride != 1 {
            pack_turned::<V, A, MR>(g, a, start, depth, panel_room, packed);
        } else {
            for p in 0..panels {
                let panel = &mut packed[p * panel_room..][..MR * depth + V::N];
                pack_lhs::<V, A, MR>(g.precision, a, p * MR, MR.min(g.m - p * MR), start, depth, g.k, panel);
            }
        }
        let first = start == 0;
        for j in (0..g.n).step_by(NR) {
            let b = &b[j * words + start * NR..];
            for p in 0..panels {
                let a = &packed[p * panel_room..];
                let (rows, cols) = (MR.min(g.m - p * MR), NR.min(g.n - j));
                let width = 2 * V::N;
                for half in (0..NR).step_by(width).filter(|half| *half < cols) {
                    let mut sums = [[0.0_f32; NR]; MR];
                    let whole = rows == MR && cols >= half + width;
                    let adds = g.accumulate || !first;
                    // SAFETY: the panels hold `depth` words of MR and NR numbers; where the block is not whole, it goes
                    // through `sums` and only what is inside C is copied.
                    unsafe {
                        let at = c.add(p * MR * ldc + j + half);
                        if whole && (bias.is_none() || !first) {
                            micro::<V, MR>(g.precision, depth, a.as_ptr(), MR, b.as_ptr().add(half), at, ldc, adds);
                            continue;
                        }
                        micro::<V, MR>(g.precision, depth, a.as_ptr(), MR, b.as_ptr().add(half), sums.as_mut_ptr().cast(), NR, false);
                        let bias = bias.filter(|_| first).map(|bias| &bias[j + half..]);
                        put_block(&sums, rows, width.min(cols - half), bias, adds, at, ldc);
                    }
                }
            }
        }
        start += depth;
        if start >= words {
            break;
        }
    }
}

/// MR rows by two vectors of C, in registers over `depth` words.
/// # Safety
/// `a` holds `depth` runs of MR words, `lda` apart, `b` `depth` rows of NR that start at this block's columns, `c` MR rows `ldc` apart.
#[inline(always)]
pub(crate) unsafe fn micro<V: Vector, const MR: usize>(
    precision: Precision,
    depth: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    c: *mut f32,
    ldc: usize,
    adds: bool,
) {
    let mut sums = [[V::splat(0.0); 2]; MR];
    // SAFETY: the caller's promise.
    unsafe {
        match precision {
            Precision::F32 => {
                for p in 0..depth {
                    let (b0, b1) = (V::load(b.add(p * NR)), V::load(b.add(p * NR + V::N)));
                    for r in 0..MR {
                        let a = V::splat(*a.add(p * lda + r));
                        sums[r] = [a.fma(b0, sums[r][0]), a.fma(b1, sums[r][1])];
                    }
                }
            }
            Precision::Bf16 => {
                for p in 0..depth {
                    let (b0, b1) = (V::load(b.add(p * NR)), V::load(b.add(p * NR + V::N)));
                    for r in 0..MR {
                        let a = V::splat(*a.add(p * lda + r));
                        sums[r] = [V::dot_bf16(a, b0, sums[r][0]), V::dot_bf16(a, b1, sums[r][1])];
                    }
                }
            }
        }
        for r in 0..MR {
            for (half, sum) in sums[r].into_iter().enumerate() {
                let at = c.add(r * ldc + half * V::N);
                let sum = if adds { V::load(at).add(sum) } else { sum };
                sum.store(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;
    use crate::naive::{self, noise};

    fn check(m: usize, n: usize, k: usize, precision: Precision, accumulate: bool, turned: [bool; 2], scale: f32) {
        let values = |seed, len| noise(seed, len).iter().map(|v| v * scale).collect::<Vec<f32>>();
        let (a, b, bias) = (values(1, m * k), values(2, k * n), values(3, n));
        let mut c = values(4, m * n);
        let round =
            |x: &[f32]| x.iter().map(|x| f64::from(if precision == Precision::Bf16 { rounded(*x) } else { *x })).collect::<Vec<_>>();
        let mat = |x, rows, cols, turned: bool| if turned { Mat::rows(x, rows).transposed() } else { Mat::rows(x, cols) };
        let (at, bt) = (mat(&a, m, k, turned[0]), mat(&b, k, n, turned[1]));
        let strides = |m: Mat<'_>| (m.row_stride, m.col_stride);
        let want = naive::gemm(m, n, k, (&round(&a), strides(at)), (&round(&b), strides(bt)));
        let want: Vec<f64> =
            (0..m * n).map(|i| want[i] + f64::from(bias[i % n]) + if accumulate { f64::from(c[i]) } else { 0.0 }).collect();
        let gemm = Gemm { m, n, k, precision, accumulate };
        let mut packed = PackedRhs::new(precision, k, n);
        packed.pack(bt);
        let mut again = c.clone();
        gemm.run(at, Rhs::Plain(bt), Some(&bias), &mut c);
        gemm.run(at, Rhs::<f32>::Packed(&packed), Some(&bias), &mut again);
        let bound = 1e-6 * f64::from(scale) * f64::from(scale) * (k as f64 + 4.0) + 1e-30;
        for i in 0..m * n {
            assert!((f64::from(c[i]) - want[i]).abs() <= bound, "{gemm:?} {turned:?} at {i}: {} for {}", c[i], want[i]);
            assert!((f64::from(again[i]) - want[i]).abs() <= bound, "packed {gemm:?} {turned:?} at {i}");
        }
    }

    #[test]
    fn agrees_with_the_twin_at_the_sizes_where_kernels_break() {
        for precision in [Precision::F32, Precision::Bf16] {
            for (m, n, k) in
                [(1, 1, 1), (1, 70, 50), (4, 64, 64), (3, 5, 7), (12, 32, 2), (13, 33, 65), (97, 130, 31), (6, 515, 600), (5, 7, 0)]
            {
                for turned in [[false, false], [false, true], [true, false], [true, true]] {
                    check(m, n, k, precision, turned[0], turned, 1.0);
                }
            }
            for scale in [1e4, 1e-20] {
                check(14, 34, 9, precision, false, [false, true], scale);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_the_twin_at_any_size(m in 1..120_usize, n in 1..80_usize, k in 1..300_usize, flags in 0..16_u8) {
            let precision = if flags & 1 == 0 { Precision::F32 } else { Precision::Bf16 };
            check(m, n, k, precision, flags & 2 == 0, [flags & 4 == 0, flags & 8 == 0], 1.0);
        }
    }

    #[test]
    fn a_right_side_packed_before_or_where_it_is_read_gives_the_same_bits() {
        for (m, n, k) in [(5, 300, 1000), (33, 128, 192), (96, 70, 385)] {
            for flags in 0..8 {
                let precision = if flags & 1 == 0 { Precision::F32 } else { Precision::Bf16 };
                let (a, b, bias) = (noise(1, m * k), noise(2, k * n), noise(4, n));
                let gemm = Gemm { m, n, k, precision, accumulate: flags & 2 == 0 };
                let side = if flags & 4 == 0 { Mat::rows(&b, k).transposed() } else { Mat::rows(&b, n) };
                let mut packed = PackedRhs::new(precision, k, n);
                packed.pack(side);
                let (mut c, mut again) = (noise(3, m * n), noise(3, m * n));
                gemm.run(Mat::rows(&a, k), Rhs::Plain(side), Some(&bias), &mut c);
                gemm.run(Mat::rows(&a, k), Rhs::<f32>::Packed(&packed), Some(&bias), &mut again);
                assert!(c == again, "{gemm:?} {flags}");
            }
        }
    }

    #[test]
    fn sides_and_results_of_16_bits_have_the_sums_of_32() {
        let bf16s = |x: &[f32]| x.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>();
        for (m, n, k) in [(1, 70, 50), (3, 300, 1000), (33, 128, 192), (96, 70, 385), (97, 130, 31), (200, 600, 800), (5, 7, 0)] {
            for flags in 0..8 {
                let (a, b, bias) = (noise(1, m * k), noise(2, k * n), noise(4, n));
                let (short_a, short_b) = (bf16s(&a), bf16s(&b));
                let gemm = Gemm { m, n, k, precision: Precision::Bf16, accumulate: flags & 1 == 0 };
                let (wide, short) =
                    (Mat::rows(&a, if flags & 2 == 0 { m } else { k }), Mat::rows(&short_a, if flags & 2 == 0 { m } else { k }));
                let (wide, short) = if flags & 2 == 0 { (wide.transposed(), short.transposed()) } else { (wide, short) };
                let sides = |x: usize| (Mat::rows(&b, x), Mat::rows(&short_b, x));
                let (wide_b, short_b) = sides(if flags & 4 == 0 { k } else { n });
                let (wide_b, short_b) = if flags & 4 == 0 { (wide_b.transposed(), short_b.transposed()) } else { (wide_b, short_b) };
                let old = noise(3, m * n).into_iter().map(rounded).collect::<Vec<_>>();
                let (mut want, mut got, mut short_c) = (old.clone(), old.clone(), bf16s(&old));
                gemm.run(wide, Rhs::Plain(wide_b), Some(&bias), &mut want);
                gemm.run(short, Rhs::Plain(short_b), Some(&bias), &mut got);
                gemm.run(short, Rhs::Plain(short_b), Some(&bias), &mut short_c);
                assert!(want == got, "{gemm:?} {flags}");
                for (i, (want, got)) in want.iter().zip(&short_c).enumerate() {
                    let within = if gemm.accumulate { want.abs().max(1.0) / 128.0 } else { 0.0 };
                    assert!((got.to_f32() - rounded(*want)).abs() <= within, "{gemm:?} {flags} at {i}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (m, n, k) = (200, 600, 300);
        let (a, b) = (noise(1, m * k), noise(2, k * n));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![0.0; m * n];
            let gemm = Gemm { m, n, k, precision: Precision::Bf16, accumulate: false };
            pool.install(|| gemm.run(Mat::rows(&a, k), Rhs::Plain(Mat::rows(&b, n)), None, &mut c));
            c
        };
        assert!(run(1) == run(2) && run(1) == run(8));
    }
}
