//! bf16 products on Intel's matrix tiles (AMX): 32 rows by 32 columns of C in four tile registers.
//!
//! ```text
//! A packed in steps of 32 k:  [rows / 32][k / 32][32 rows][16 words]      one word = two neighbouring k in bf16
//! B as every level packs it:  [n / 32][k words][32 columns]
//! ```
//! The instructions have no stable intrinsics; the inner loop is one block of assembly, *Intel 64 and IA-32 Architectures
//! Software Developer's Manual*, volume 1, chapter 18. Like those of AVX-512 BF16 they take denormals as zero.

use std::{
    arch::{asm, x86_64::__cpuid_count},
    sync::OnceLock,
};

use crate::{
    Element,
    product::{Gemm, Mat, NR, put_block},
    simd::{Vector, word, x86::Avx512Bf16},
};

/// Rows and columns of C in the registers.
const SIDE: usize = NR;
/// Words of k that one instruction takes.
pub(crate) const STEP: usize = 16;
/// Words of k in one pass: that depth of a panel of A and one of B is 48 KiB, the first cache.
const KC: usize = 192;

/// Whether the CPU has the tiles and the system lets this process use them; asking is what turns them on.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        const TILE: u32 = 1 << 24;
        const BF16: u32 = 1 << 22;
        let features = __cpuid_count(7, 0).edx;
        features & TILE != 0 && features & BF16 != 0 && is_permitted()
    })
}

#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: a system call that takes two numbers; where it is unknown it says so.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Eight tiles of 16 rows by 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut i = 0;
    while i < 8 {
        (row_bytes[i], rows[i]) = (64, 16);
        i += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

static ZEROS: [f32; SIDE] = [0.0; SIDE];

/// One tile of C from packed B, on this thread.
/// # Safety
/// AMX is available; `c` points to `g.m` rows of `g.n` numbers, `ldc` apart, that are this call's alone.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(crate) unsafe fn tile<A: Element>(
    g: Gemm,
    a: Mat<'_, A>,
    b: &[f32],
    bias: Option<&[f32]>,
    c: *mut f32,
    ldc: usize,
    packed: &mut Vec<f32>,
) {
    let words = g.precision.words(g.k);
    let panels = g.m.div_ceil(SIDE);
    packed.resize(packed.len().max(panels * SIDE * KC), 0.0);
    // SAFETY: the configuration is one that the CPU documents.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
    let mut start = 0;
    loop {
        let depth = KC.min(words - start);
        for p in 0..panels {
            pack(a, p * SIDE, SIDE.min(g.m - p * SIDE), start, depth, g.k, &mut packed[p * SIDE * depth..][..SIDE * depth]);
        }
        let adds = g.accumulate || start > 0;
        let bias = bias.filter(|_| start == 0);
        for j in (0..g.n).step_by(SIDE) {
            let b = &b[j * words + start * SIDE..][..depth * SIDE];
            for p in 0..panels {
                let a = &packed[p * SIDE * depth..][..SIDE * depth];
                let (rows, cols) = (SIDE.min(g.m - p * SIDE), SIDE.min(g.n - j));
                let is_whole = rows == SIDE && cols == SIDE && !(adds && bias.is_some());
                // SAFETY: both panels hold `depth` words of 32; `at` is a whole block of C, or `block` stands for it.
                unsafe {
                    let at = c.add(p * SIDE * ldc + j);
                    if is_whole {
                        let (from, stride) = match bias {
                            _ if adds => (at.cast_const(), ldc),
                            Some(bias) => (bias[j..].as_ptr(), 0),
                            None => (ZEROS.as_ptr(), 0),
                        };
                        micro(depth / STEP, a.as_ptr(), b.as_ptr(), from, stride, at, ldc);
                        continue;
                    }
                    let mut block = [[0.0_f32; SIDE]; SIDE];
                    micro(depth / STEP, a.as_ptr(), b.as_ptr(), ZEROS.as_ptr(), 0, block.as_mut_ptr().cast(), SIDE);
                    put_block(&block, rows, cols, bias.map(|bias| &bias[j..]), adds, at, ldc);
                }
            }
        }
        start += depth;
        if start >= words {
            break;
        }
    }
    // SAFETY: gives back what `ldtilecfg` took.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// `c = from + a b` for 32 by 32 of C over `steps` times 32 of k; strides in numbers.
/// # Safety
/// The tiles are configured; `a` and `b` hold `steps` steps; `from` and `c` 32 rows of 32 numbers.
#[inline(always)]
unsafe fn micro(steps: usize, a: *const f32, b: *const f32, from: *const f32, from_stride: usize, c: *mut f32, ldc: usize) {
    // SAFETY: the caller's promise; tile registers are used nowhere else.
    unsafe {
        asm!(
            "tileloadd tmm0, [{f0} + {fs}*1]",
            "tileloadd tmm1, [{f0} + {fs}*1 + 64]",
            "tileloadd tmm2, [{f1} + {fs}*1]",
            "tileloadd tmm3, [{f1} + {fs}*1 + 64]",
            "test {n}, {n}",
            "jz 3f",
            "2:",
            "tileloadd tmm4, [{a} + {sa}*1]",
            "tileloadd tmm6, [{b} + {sb}*1]",
            "tileloadd tmm7, [{b} + {sb}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a} + {sa}*1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 2048",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "3:",
            "tilestored [{c0} + {cs}*1], tmm0",
            "tilestored [{c0} + {cs}*1 + 64], tmm1",
            "tilestored [{c1} + {cs}*1], tmm2",
            "tilestored [{c1} + {cs}*1 + 64], tmm3",
            n = inout(reg) steps => _,
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            sa = in(reg) 64_usize,
            sb = in(reg) 128_usize,
            f0 = in(reg) from,
            f1 = in(reg) from.add(16 * from_stride),
            fs = in(reg) 4 * from_stride,
            c0 = in(reg) c,
            c1 = in(reg) c.add(16 * ldc),
            cs = in(reg) 4 * ldc,
            options(nostack)
        );
    }
}

/// Rows `i..i + rows` of A, words `start..start + depth`, as `[depth / 16][32][16]`; zeros in rows and k beyond.
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn pack<A: Element>(a: Mat<'_, A>, i: usize, rows: usize, start: usize, depth: usize, k: usize, panel: &mut [f32]) {
    let data = &a.data[i * a.row_stride..];
    for (s, tile) in panel.chunks_exact_mut(SIDE * STEP).enumerate().take(depth / STEP) {
        let first = 2 * (start + s * STEP);
        let is_whole = first + 2 * STEP <= k;
        if is_whole && a.col_stride == 1 {
            for r in 0..rows {
                // SAFETY: 32 numbers of row `r` from `first` on are inside A, 16 words at `r` inside the tile.
                unsafe {
                    A::bf16_run::<Avx512Bf16>(data.as_ptr().add(r * a.row_stride + first)).store(tile.as_mut_ptr().add(r * STEP));
                }
            }
            tile[rows * STEP..].fill(0.0);
        } else if is_whole && a.row_stride == 1 && rows == SIDE {
            for half in [0, 16] {
                // SAFETY: 16 numbers of each of 32 columns from `first` on are inside A, 16 rows of words inside the tile.
                unsafe {
                    let column = |c: usize| A::load::<Avx512Bf16>(data.as_ptr().add((first + c) * a.col_stride + half));
                    let mut block = std::array::from_fn(|w| Avx512Bf16::bf16_words(column(2 * w), column(2 * w + 1)));
                    Avx512Bf16::transpose(&mut block);
                    for (r, row) in block.into_iter().enumerate() {
                        row.store(tile.as_mut_ptr().add((half + r) * STEP));
                    }
                }
            }
        } else {
            tile.fill(0.0);
            let at = |r: usize, p: usize| if p < k { data[r * a.row_stride + p * a.col_stride].wide() } else { 0.0 };
            for r in 0..rows {
                for w in 0..STEP.min((k + 1).saturating_sub(first) / 2) {
                    tile[r * STEP + w] = word(at(r, first + 2 * w), at(r, first + 2 * w + 1));
                }
            }
        }
    }
}
