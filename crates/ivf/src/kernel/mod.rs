//! Exact distance kernels over two slices of equal length.
//!
//! Sums are `f32`, as in pgvector: a sum beyond the `f32` range is infinite, and parallel vectors are at a cosine
//! distance of exactly 0 more often than they would be with wider sums. [`naive`] holds the scalar twin of each.

mod lanes;
pub mod naive;

pub use lanes::{cosine_products, l1};
use simsimd::SpatialSimilarity;

/// Squared Euclidean distance, by `simsimd`.
pub fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    f32::l2sq(a, b).unwrap_or(f64::NAN) as f32
}

/// Inner product, by `simsimd`.
pub fn inner_product(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    f32::dot(a, b).unwrap_or(f64::NAN) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rounding differs with the order of summation; it is bounded by the sum of magnitudes times the length.
    fn close(fast: f32, exact: f64, magnitude: f64, len: usize) -> bool {
        (f64::from(fast) - exact).abs() <= magnitude * len as f64 * f64::from(f32::EPSILON)
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
            let l2 = naive::l2_squared(&a, &b);
            prop_assert!(close(l2_squared(&a, &b), l2, l2, n));
            prop_assert!(close(inner_product(&a, &b), naive::inner_product(&a, &b), naive::magnitude(&a, &b), n));

            let exact = naive::cosine_products(&a, &b);
            let magnitudes = [naive::magnitude(&a, &b), exact[1], exact[2]];
            for (name, fast) in lanes::cosine_products_on_every_cpu(&a, &b) {
                for i in 0..3 {
                    prop_assert!(close(fast[i], exact[i], magnitudes[i], n), "{name}: {fast:?} {exact:?}");
                }
            }

            let exact = naive::l1(&a, &b);
            for (name, fast) in lanes::l1_on_every_cpu(&a, &b) {
                prop_assert!(close(fast, exact, exact, n), "{name}: {fast} {exact}");
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
