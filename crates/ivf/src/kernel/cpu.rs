//! One body, compiled once per instruction set.

/// Compiles a body per instruction set and makes the function that picks one at run time.
macro_rules! per_cpu {
    (
        $(#[$doc:meta])*
        $name:ident($($argument:ident: $type:ty),+) -> $out:ty, $versions:ident, $body:ident
    ) => {
        $(#[$doc])*
        #[inline]
        pub fn $name($($argument: $type),+) -> $out {
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: this CPU has AVX-512F.
                    return unsafe { $name::avx512($($argument),+) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: this CPU has AVX2 and FMA.
                    return unsafe { $name::avx2($($argument),+) };
                }
            }
            $name::portable($($argument),+)
        }

        mod $name {
            #[allow(unused_imports)] // Some bodies take and return primitive types only.
            use super::*;

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            pub fn avx512($($argument: $type),+) -> $out {
                super::$body::<true>($($argument),+)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            pub fn avx2($($argument: $type),+) -> $out {
                super::$body::<false>($($argument),+)
            }

            #[inline(never)]
            pub fn portable($($argument: $type),+) -> $out {
                super::$body::<false>($($argument),+)
            }
        }

        /// Every version that this CPU can run, by name.
        #[cfg(test)]
        pub fn $versions() -> Vec<(&'static str, fn($($type),+) -> $out)> {
            let mut versions: Vec<(&'static str, fn($($type),+) -> $out)> =
                vec![("chosen", $name), ("portable", $name::portable)];
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: this CPU has AVX-512F.
                    versions.push(("avx512", |$($argument),+| unsafe { $name::avx512($($argument),+) }));
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: this CPU has AVX2 and FMA.
                    versions.push(("avx2", |$($argument),+| unsafe { $name::avx2($($argument),+) }));
                }
            }
            versions
        }
    };
}
