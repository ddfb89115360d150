//! Kernels: the loops over slices that everything runs on, chosen at run time for the CPU at hand.
//!
//! A kernel's body is written once over [`simd::Vector`] and compiled for each [`Level`]. Each has a naive f64 twin, in
//! [`naive`] or in the test of the op that uses it.
//!
//! **Invariants:** work is cut into pieces by sizes alone, never by the number of threads, and sums run in a fixed
//! order: the bits do not depend on who computes what. **Absent on purpose:** shapes, ownership, any allocation that
//! outlives its thread's scratch.
#![allow(unsafe_code)]

#[macro_use]
mod dispatch;

pub mod activation;
pub mod adamw;
#[cfg(target_arch = "x86_64")]
mod amx;
pub mod attention;
pub mod conv;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod experts;
mod few;
pub mod gemm;
mod gemv;
pub mod group_norm;
pub mod loss;
pub mod naive;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod norm;
mod pack;
mod product;
pub mod rng;
pub mod rope;
mod simd;

use std::{fmt, str::FromStr, sync::OnceLock};

pub use simd::Element;

/// What a CPU can do, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Portable,
    /// Every aarch64.
    Neon,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// And its bf16 dot product.
    Avx512Bf16,
    /// And matrix tiles for bf16.
    Amx,
}

impl Level {
    const ALL: [Self; 6] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// Whether bf16 GEMMs are faster than f32 ones here: on matrix tiles, and on Zen, which has two units for the bf16 dot
    /// product. Intel's cores have one beside two for f32, so that there both precisions reach the same peak and f32 is
    /// the better bargain.
    #[must_use]
    pub fn has_fast_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let vendor = std::arch::x86_64::__cpuid(0);
            self == Self::Amx || self == Self::Avx512Bf16 && vendor.ebx == u32::from_le_bytes(*b"Auth")
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }

    fn is_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match self {
                Self::Portable => true,
                Self::Neon => false,
                Self::Avx2 => avx2,
                Self::Avx512 => avx512,
                Self::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
                Self::Amx => Self::Avx512Bf16.is_here() && amx::is_available(),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Self::Portable || self == Self::Neon && cfg!(target_arch = "aarch64")
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Amx => "amx",
        })
    }
}

/// A level that was asked for and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelError(String);

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LevelError {}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(name: &str) -> Result<Self, LevelError> {
        let names = |levels: &[Self]| levels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let level = Self::ALL.into_iter().find(|level| level.to_string() == name);
        let Some(level) = level else {
            return Err(LevelError(format!("HAIRPIN_KERNELS is `{name}`, not one of {}", names(&Self::ALL))));
        };
        if level.is_here() {
            return Ok(level);
        }
        Err(LevelError(format!("HAIRPIN_KERNELS is `{name}`, and this CPU has {}", names(&available()))))
    }
}

/// The levels that this CPU has, lowest first.
#[must_use]
pub fn available() -> Vec<Level> {
    Level::ALL.into_iter().filter(|level| level.is_here()).collect()
}

/// The level that `HAIRPIN_KERNELS` asks for, or the best that there is.
/// # Errors
/// When the variable names no level, or one that this CPU lacks.
pub fn check_env() -> Result<Level, LevelError> {
    match std::env::var("HAIRPIN_KERNELS") {
        Ok(name) => name.parse(),
        Err(_) => Ok(available().last().copied().unwrap_or(Level::Portable)),
    }
}

/// The level in use, settled at the first call; the best that there is where [`check_env`] fails.
#[must_use]
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| check_env().unwrap_or_else(|_| available().last().copied().unwrap_or(Level::Portable)))
}

/// A pointer that tasks share, each writing to a part that is its own.
pub(crate) struct SharedMut<T = f32>(*mut T);
// SAFETY: whoever makes one hands disjoint parts to tasks, as is said where it is made.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> Clone for SharedMut<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for SharedMut<T> {}

impl<T> From<*mut T> for SharedMut<T> {
    fn from(at: *mut T) -> Self {
        Self(at)
    }
}

impl<T> SharedMut<T> {
    pub fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }
    /// The pointer, `offset` numbers on.
    /// # Safety
    /// `offset` is inside the slice.
    pub unsafe fn at(self, offset: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_or_absent_level_is_refused_by_name() {
        assert!("avx9".parse::<Level>().unwrap_err().to_string().contains("avx9"));
        assert_eq!("portable".parse(), Ok(Level::Portable));
    }

    /// Runs all other tests of this crate once under each level that this CPU has.
    #[test]
    fn every_level_passes_every_test() {
        if std::env::var("HAIRPIN_KERNELS").is_ok() {
            return;
        }
        for level in available() {
            let run = std::process::Command::new(std::env::current_exe().unwrap())
                .env("HAIRPIN_KERNELS", level.to_string())
                .args(["--skip", "every_level_passes_every_test"])
                .output()
                .unwrap();
            assert!(run.status.success(), "{level}:\n{}", String::from_utf8_lossy(&run.stdout));
        }
    }
}
