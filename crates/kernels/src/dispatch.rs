//! One kernel, compiled for each level and chosen at run time.

/// `pub fn name<T>(args) = body;` where `body<V: Vector, T: Element>` is always inlined: compiled for each level, chosen at run time.
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$($t:ident),+>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$meta])*
        $vis fn $name $(<$($t: $crate::Element),+>)? ($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::simd::x86;
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($t: $crate::Element),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    $body::<x86::Avx2 $($(, $t)+)?>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512 $(<$($t: $crate::Element),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    $body::<x86::Avx512 $($(, $t)+)?>($($arg),*)
                }
                #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512bf16 $(<$($t: $crate::Element),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    $body::<x86::Avx512Bf16 $($(, $t)+)?>($($arg),*)
                }
                match $crate::level() {
                    // SAFETY: `level()` only names what was detected on this CPU.
                    $crate::Level::Avx512Bf16 | $crate::Level::Amx => return unsafe { avx512bf16 $(::<$($t),+>)? ($($arg),*) },
                    // SAFETY: as above.
                    $crate::Level::Avx512 => return unsafe { avx512 $(::<$($t),+>)? ($($arg),*) },
                    // SAFETY: as above.
                    $crate::Level::Avx2 => return unsafe { avx2 $(::<$($t),+>)? ($($arg),*) },
                    $crate::Level::Portable | $crate::Level::Neon => {}
                }
            }
            #[cfg(target_arch = "aarch64")]
            if $crate::level() == $crate::Level::Neon {
                return $body::<$crate::neon::Neon $($(, $t)+)?>($($arg),*);
            }
            $body::<$crate::simd::Portable $($(, $t)+)?>($($arg),*)
        }
    };
}
