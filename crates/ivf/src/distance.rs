//! Distances between vectors, with pgvector's results for zero vectors and sums that overflow.

use crate::kernel;
use crate::vector::{VectorError, check_dimensions};
use std::f64::consts::PI;

type Distance = Result<f64, VectorError>;

/// Euclidean distance.
#[inline]
pub fn l2(a: &[f32], b: &[f32]) -> Distance {
    l2_squared(a, b).map(f64::sqrt)
}

#[inline]
pub fn l2_squared(a: &[f32], b: &[f32]) -> Distance {
    check_dimensions(a, b)?;
    Ok(kernel::l2_squared(a, b).into())
}

#[inline]
pub fn inner_product(a: &[f32], b: &[f32]) -> Distance {
    check_dimensions(a, b)?;
    Ok(kernel::inner_product(a, b).into())
}

#[inline]
pub fn negative_inner_product(a: &[f32], b: &[f32]) -> Distance {
    inner_product(a, b).map(|product| -product)
}

/// `1 - cos(a, b)`, within 0..=2; NaN when either vector is zero.
#[inline]
pub fn cosine(a: &[f32], b: &[f32]) -> Distance {
    check_dimensions(a, b)?;
    let [ab, aa, bb] = kernel::cosine_products(a, b).map(f64::from);
    // One square root of the product loses less than the product of two square roots.
    let similarity = ab / (aa * bb).sqrt();
    Ok(1.0 - similarity.clamp(-1.0, 1.0))
}

/// Taxicab distance.
#[inline]
pub fn l1(a: &[f32], b: &[f32]) -> Distance {
    check_dimensions(a, b)?;
    Ok(kernel::l1(a, b).into())
}

/// Angle between unit vectors as a share of half a turn, 0..=1; unlike the cosine it keeps the triangle inequality.
#[inline]
pub fn spherical(a: &[f32], b: &[f32]) -> Distance {
    inner_product(a, b).map(|cosine| cosine.clamp(-1.0, 1.0).acos() / PI)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_of_parallel_and_zero_vectors() {
        assert_eq!(cosine(&[1.0, 1.0], &[1.1, 1.1]), Ok(0.0));
        assert_eq!(cosine(&[1.0, 1.0], &[-1.1, -1.1]), Ok(2.0));
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 2.0]), Ok(1.0));
        assert!(cosine(&[1.0, 2.0], &[0.0, 0.0]).unwrap().is_nan());
        assert!(cosine(&[3e38], &[3e38]).unwrap().is_nan());
    }

    #[test]
    fn euclid_taxicab_and_angle() {
        assert_eq!(l2(&[0.0, 0.0], &[3.0, 4.0]), Ok(5.0));
        assert_eq!(l2_squared(&[0.0, 0.0], &[3.0, 4.0]), Ok(25.0));
        assert_eq!(l1(&[0.0, 0.0], &[3.0, -4.0]), Ok(7.0));
        assert_eq!(inner_product(&[1.0, 2.0], &[3.0, 4.0]), Ok(11.0));
        assert_eq!(spherical(&[1.0, 0.0], &[0.0, 1.0]), Ok(0.5));
        assert_eq!(spherical(&[1.0, 1.0], &[1.0, 1.0]), Ok(0.0));
    }

    #[test]
    fn dimensions_must_agree() {
        for distance in [l2, l2_squared, inner_product, cosine, l1, spherical] {
            assert_eq!(distance(&[1.0, 2.0], &[3.0]), Err(VectorError::DifferentDimensions(2, 1)));
        }
    }
}
