//! Kernels written as plain loops over [`LANES`] independent sums, which the compiler turns into SIMD.
//!
//! Each body is compiled once per instruction set and chosen at run time; independent sums also hide the latency of
//! a fused multiply-add, which one running sum would wait for.

use std::hint::black_box;
use std::ops::{Add, AddAssign};

/// Eight AVX2 registers of sums; the cosine needs three sets of them, so four registers each; `f64` is twice as wide.
const LANES: usize = 64;
const COSINE_LANES: usize = 32;
const F64_LANES: usize = 32;

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
fn total<T: Copy + AddAssign + Add<Output = T>, const LANES: usize>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES;
    while width > 4 {
        width /= 2;
        let (low, high) = lanes.split_at_mut(width);
        for (x, y) in low.iter_mut().zip(&*high) {
            *x += *y;
        }
    }
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
}

#[inline(always)]
fn l2_squared_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    total(fold::<LANES, _>(a, b, [0.0; LANES], |sums, x, y| {
        for i in 0..LANES {
            let difference = x[i] - y[i];
            sums[i] = mul_add::<FMA>(difference, difference, sums[i]);
        }
    }))
}

#[inline(always)]
fn inner_product_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    total(fold::<LANES, _>(a, b, [0.0; LANES], |sums, x, y| {
        for i in 0..LANES {
            sums[i] = mul_add::<FMA>(x[i], y[i], sums[i]);
        }
    }))
}

#[inline(always)]
fn inner_product_f64_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f64 {
    total(fold::<F64_LANES, _>(a, b, [0.0; F64_LANES], |sums, x, y| {
        for i in 0..F64_LANES {
            // Exact: the product of two f32 fits an f64, so that there is nothing for a fused operation to save.
            sums[i] += f64::from(x[i]) * f64::from(y[i]);
        }
    }))
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
    // black_box: else the compiler shuffles the three totals into each other, at a cost (384 dimensions: 64 ns, not 45).
    [black_box(total(ab)), black_box(total(aa)), black_box(total(bb))]
}

#[inline(always)]
fn l1_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    total(fold::<LANES, _>(a, b, [0.0; LANES], |sums, x, y| {
        for i in 0..LANES {
            sums[i] += (x[i] - y[i]).abs();
        }
    }))
}

/// Compiles a body per instruction set and makes the function that picks one at run time.
macro_rules! per_cpu {
    ($(#[$doc:meta])* $name:ident, $every:ident, $body:ident -> $out:ty) => {
        $(#[$doc])*
        #[inline]
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

            #[inline(never)]
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
    /// Squared Euclidean distance.
    l2_squared, l2_squared_on_every_cpu, l2_squared_body -> f32
);
per_cpu!(
    /// Inner product.
    inner_product, inner_product_on_every_cpu, inner_product_body -> f32
);
per_cpu!(
    /// Inner product in `f64`, finite for all finite vectors.
    inner_product_f64, inner_product_f64_on_every_cpu, inner_product_f64_body -> f64
);
per_cpu!(
    /// `[a·b, a·a, b·b]` in one pass, the parts of a cosine.
    cosine_products, cosine_products_on_every_cpu, cosine_products_body -> [f32; 3]
);
per_cpu!(
    /// Taxicab distance.
    l1, l1_on_every_cpu, l1_body -> f32
);
