//! Kernels written as plain loops over [`LANES`] independent sums, which the compiler turns into SIMD.
//!
//! Each body is compiled once per instruction set and chosen at run time; independent sums also hide the latency of
//! a fused multiply-add, which one running sum would wait for.

/// Eight AVX2 registers of sums for L1; the cosine needs three sets of sums, so four each.
const L1_LANES: usize = 64;
const COSINE_LANES: usize = 32;

/// `x * y + sum`, in one instruction where the CPU has one (calling a library function for it would be slow).
#[inline(always)]
fn mul_add<const FMA: bool>(x: f32, y: f32, sum: f32) -> f32 {
    if FMA { x.mul_add(y, sum) } else { x * y + sum }
}

/// Folds both slices, `LANES` elements at a time, into `sums`; the last chunk is padded with zeros.
#[inline(always)]
fn fold<const LANES: usize, S>(
    a: &[f32],
    b: &[f32],
    mut sums: S,
    step: impl Fn(&mut S, &[f32; LANES], &[f32; LANES]),
) -> S {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        step(&mut sums, x, y);
    }
    if !a_rest.is_empty() {
        let (mut x, mut y) = ([0.0; LANES], [0.0; LANES]);
        x[..a_rest.len()].copy_from_slice(a_rest);
        y[..b_rest.len()].copy_from_slice(b_rest);
        step(&mut sums, &x, &y);
    }
    sums
}

/// Adds the lanes pairwise.
#[inline(always)]
fn total<const LANES: usize>(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 4 {
        width /= 2;
        let (low, high) = lanes.split_at_mut(width);
        for (x, y) in low.iter_mut().zip(&*high) {
            *x += *y;
        }
    }
    // black_box: several totals at once would otherwise be shuffled into each other (cosine of 384: 64 ns, so 45 ns).
    let four: [f32; 4] = std::hint::black_box([lanes[0], lanes[1], lanes[2], lanes[3]]);
    (four[0] + four[1]) + (four[2] + four[3])
}

#[inline(always)]
fn cosine_products_body<const FMA: bool>(a: &[f32], b: &[f32]) -> [f32; 3] {
    let zero = [0.0; COSINE_LANES];
    let [ab, aa, bb] = fold::<COSINE_LANES, _>(a, b, [zero, zero, zero], |[ab, aa, bb], x, y| {
        for i in 0..COSINE_LANES {
            ab[i] = mul_add::<FMA>(x[i], y[i], ab[i]);
            aa[i] = mul_add::<FMA>(x[i], x[i], aa[i]);
            bb[i] = mul_add::<FMA>(y[i], y[i], bb[i]);
        }
    });
    [total(ab), total(aa), total(bb)]
}

#[inline(always)]
fn l1_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    total(fold::<L1_LANES, _>(a, b, [0.0; L1_LANES], |sums, x, y| {
        for i in 0..L1_LANES {
            sums[i] += (x[i] - y[i]).abs();
        }
    }))
}

/// Compiles a body per instruction set and makes the function that picks one at run time.
macro_rules! per_cpu {
    ($(#[$doc:meta])* $name:ident, $every:ident, $body:ident -> $out:ty) => {
        $(#[$doc])*
        pub fn $name(a: &[f32], b: &[f32]) -> $out {
            debug_assert_eq!(a.len(), b.len());
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: this CPU has AVX-512F.
                    return unsafe { $name::avx512(a, b) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: this CPU has AVX2 and FMA.
                    return unsafe { $name::avx2(a, b) };
                }
            }
            $name::portable(a, b)
        }

        mod $name {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            pub fn avx512(a: &[f32], b: &[f32]) -> $out {
                super::$body::<true>(a, b)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            pub fn avx2(a: &[f32], b: &[f32]) -> $out {
                super::$body::<true>(a, b)
            }

            pub fn portable(a: &[f32], b: &[f32]) -> $out {
                super::$body::<{ cfg!(target_arch = "aarch64") }>(a, b)
            }
        }

        /// What every version that this CPU can run makes of the same input.
        #[cfg(test)]
        pub fn $every(a: &[f32], b: &[f32]) -> Vec<(&'static str, $out)> {
            let mut results = vec![("chosen", $name(a, b)), ("portable", $name::portable(a, b))];
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: this CPU has AVX-512F.
                    results.push(("avx512", unsafe { $name::avx512(a, b) }));
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: this CPU has AVX2 and FMA.
                    results.push(("avx2", unsafe { $name::avx2(a, b) }));
                }
            }
            results
        }
    };
}

per_cpu!(
    /// `[a·b, a·a, b·b]` in one pass, the parts of a cosine.
    cosine_products, cosine_products_on_every_cpu, cosine_products_body -> [f32; 3]
);
per_cpu!(
    /// Taxicab distance.
    l1, l1_on_every_cpu, l1_body -> f32
);
