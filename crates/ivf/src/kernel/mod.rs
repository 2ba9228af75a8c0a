//! Exact distance kernels over two slices of equal length.
//!
//! `simsimd` has no taxicab distance, and its cosine is approximate and does not tell a zero vector: [`lanes`] has
//! those. Sums are `f32`, as in pgvector: a sum beyond the `f32` range is infinite, and parallel vectors are at a
//! cosine distance of exactly 0 more often than they would be with wider sums. [`naive`] holds the scalar twin of
//! each.

#[macro_use]
mod cpu;
mod encode;
mod fastscan;
mod hadamard;
mod lanes;
pub mod naive;
mod refine;

pub use encode::{Coded, encode};
pub use fastscan::{Bounds, Columns, Tables, bounds};
pub use hadamard::rotate;
pub use lanes::{cosine_products, l1, norm_squared};
pub use refine::{code, code_product};
use simsimd::SpatialSimilarity;

/// Squared Euclidean distance, by `simsimd`.
#[inline]
pub fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    f32::l2sq(a, b).unwrap_or(f64::NAN) as f32
}

/// Inner product, by `simsimd`.
#[inline]
pub fn inner_product(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    f32::dot(a, b).unwrap_or(f64::NAN) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rounding differs with the order of summation; it is bounded by the sum of magnitudes times the length, and each
    /// term is rounded up to three times before, or vanishes.
    fn close(fast: f32, exact: f64, magnitude: f64, len: usize) -> bool {
        let [epsilon, vanished] = [f32::EPSILON, f32::MIN_POSITIVE].map(f64::from);
        (f64::from(fast) - exact).abs() <= magnitude * (len + 3) as f64 * epsilon + len as f64 * vanished
    }

    fn pairs() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        (1usize..600).prop_flat_map(|n| {
            let element = || prop::num::f32::NORMAL.prop_map(|x| x % 1000.0);
            (prop::collection::vec(element(), n), prop::collection::vec(element(), n))
        })
    }

    proptest! {
        #[test]
        fn kernels_match_their_scalar_twins((a, b) in pairs()) {
            let n = a.len();
            let magnitude = naive::magnitude(&a, &b);

            let exact = naive::l2_squared(&a, &b);
            let fast = l2_squared(&a, &b);
            prop_assert!(close(fast, exact, exact, n), "{fast} {exact}");
            let exact = naive::inner_product(&a, &b);
            let fast = inner_product(&a, &b);
            prop_assert!(close(fast, exact, magnitude, n), "{fast} {exact}");
            let exact = naive::inner_product(&a, &a);
            for (name, kernel) in lanes::norm_squared_versions() {
                let fast = kernel(&a);
                prop_assert!((fast - exact).abs() <= exact * n as f64 * f64::EPSILON, "{name}: {fast} {exact}");
            }
            let exact = naive::l1(&a, &b);
            for (name, kernel) in lanes::l1_versions() {
                let fast = kernel(&a, &b);
                prop_assert!(close(fast, exact, exact, n), "{name}: {fast} {exact}");
            }
            let exact = naive::cosine_products(&a, &b);
            let magnitudes = [magnitude, exact[1], exact[2]];
            for (name, kernel) in lanes::cosine_products_versions() {
                let fast = kernel(&a, &b);
                for i in 0..3 {
                    prop_assert!(close(fast[i], exact[i], magnitudes[i], n), "{name}: {fast:?} {exact:?}");
                }
            }
        }
    }

    #[test]
    fn sums_beyond_f32_are_infinite() {
        assert_eq!(l2_squared(&[3e38], &[-3e38]), f32::INFINITY);
        assert_eq!(inner_product(&[3e38], &[3e38]), f32::INFINITY);
        assert_eq!(l1(&[3e38], &[-3e38]), f32::INFINITY);
        assert_eq!(cosine_products(&[3e38], &[3e38]), [f32::INFINITY; 3]);
    }
}
