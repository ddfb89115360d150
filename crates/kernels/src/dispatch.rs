//! One kernel, compiled for each level and chosen at run time.

/// `pub fn name(args) = body;` where `body<V: Vector>` is always inlined: compiled for each level, chosen at run time.
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::simd::x86;
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    $body::<x86::Avx2>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    $body::<x86::Avx512>($($arg),*)
                }
                #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512bf16($($arg: $ty),*) $(-> $ret)? {
                    $body::<x86::Avx512Bf16>($($arg),*)
                }
                match $crate::level() {
                    // SAFETY: `level()` only names what was detected on this CPU.
                    $crate::Level::Avx512Bf16 | $crate::Level::Amx => return unsafe { avx512bf16($($arg),*) },
                    // SAFETY: as above.
                    $crate::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::Level::Portable | $crate::Level::Neon => {}
                }
            }
            #[cfg(target_arch = "aarch64")]
            if $crate::level() == $crate::Level::Neon {
                return $body::<$crate::neon::Neon>($($arg),*);
            }
            $body::<$crate::simd::Portable>($($arg),*)
        }
    };
}
