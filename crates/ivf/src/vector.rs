//! Element-wise arithmetic on vectors.

use crate::kernel::norm_squared;
use std::cmp::Ordering;

/// What arithmetic on vectors can refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    #[error("different vector dimensions {0} and {1}")]
    DifferentDimensions(usize, usize),
    #[error("value out of range: overflow")]
    Overflow,
    #[error("value out of range: underflow")]
    Underflow,
    #[error("NaN not allowed in vector")]
    NotANumber,
    #[error("infinite value not allowed in vector")]
    Infinite,
}

type Result<T> = std::result::Result<T, VectorError>;

#[inline]
pub fn check_dimensions(a: &[f32], b: &[f32]) -> Result<()> {
    if a.len() == b.len() { Ok(()) } else { Err(VectorError::DifferentDimensions(a.len(), b.len())) }
}

/// Refuses NaN and infinity; the first such element decides which.
pub fn check_finite(elements: &[f32]) -> Result<()> {
    // Without an early exit the loop runs as SIMD.
    if elements.iter().fold(true, |finite, x| finite & x.is_finite()) {
        return Ok(());
    }
    match elements.iter().find(|x| !x.is_finite()) {
        Some(x) if x.is_nan() => Err(VectorError::NotANumber),
        _ => Err(VectorError::Infinite),
    }
}

fn check_overflow(elements: &[f32]) -> Result<()> {
    let overflow = elements.iter().fold(false, |infinite, x| infinite | x.is_infinite());
    if overflow { Err(VectorError::Overflow) } else { Ok(()) }
}

fn map(a: &[f32], b: &[f32], out: &mut [f32], operator: impl Fn(f32, f32) -> f32) -> Result<()> {
    check_dimensions(a, b)?;
    for ((r, &x), &y) in out.iter_mut().zip(a).zip(b) {
        *r = operator(x, y);
    }
    check_overflow(out)
}

/// `out = a + b`, all of one length.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) -> Result<()> {
    map(a, b, out, |x, y| x + y)
}

/// `a += b`; after an error `a` is of no use.
pub fn add_assign(a: &mut [f32], b: &[f32]) -> Result<()> {
    check_dimensions(a, b)?;
    for (x, &y) in a.iter_mut().zip(b) {
        *x += y;
    }
    check_overflow(a)
}

/// `out = a - b`, all of one length.
pub fn sub(a: &[f32], b: &[f32], out: &mut [f32]) -> Result<()> {
    map(a, b, out, |x, y| x - y)
}

/// `out = a * b`, element by element, all of one length; a product that vanishes though no factor is 0 is refused.
pub fn mul(a: &[f32], b: &[f32], out: &mut [f32]) -> Result<()> {
    check_dimensions(a, b)?;
    for ((r, &x), &y) in out.iter_mut().zip(a).zip(b) {
        *r = x * y;
        if r.is_infinite() {
            return Err(VectorError::Overflow);
        }
        if *r == 0.0 && x != 0.0 && y != 0.0 {
            return Err(VectorError::Underflow);
        }
    }
    Ok(())
}

/// Euclidean norm; summed in `f64`, so that it is finite for every vector.
#[inline]
pub fn norm(a: &[f32]) -> f64 {
    norm_squared(a).sqrt()
}

/// `out = a / |a|`; a zero vector stays zero.
pub fn normalize(a: &[f32], out: &mut [f32]) -> Result<()> {
    let norm = norm(a);
    for (r, &x) in out.iter_mut().zip(a) {
        *r = if norm > 0.0 { (f64::from(x) / norm) as f32 } else { 0.0 };
    }
    check_overflow(out)
}

/// Lexicographic; when one vector is the beginning of the other, the shorter is the lesser.
#[inline]
pub fn compare(a: &[f32], b: &[f32]) -> Ordering {
    let difference = a.iter().zip(b).find(|(x, y)| x != y).and_then(|(x, y)| x.partial_cmp(y));
    difference.unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// One bit per element, set where the element is positive; the first element is the top bit of the first byte.
pub fn positive_bits(a: &[f32], out: &mut [u8]) {
    for (byte, elements) in out.iter_mut().zip(a.chunks(8)) {
        *byte = elements.iter().enumerate().fold(0, |bits, (i, &x)| bits | (u8::from(x > 0.0) << (7 - i)));
    }
}

/// Adds a vector to the state of an average: the count, then a sum per dimension of `a`.
pub fn accumulate(state: &mut [f64], a: &[f32]) -> Result<()> {
    let [count, sums @ ..] = state else { return Ok(()) };
    *count += 1.0;
    for (sum, &x) in sums.iter_mut().zip(a) {
        *sum += f64::from(x);
    }
    check_sums(sums)
}

/// Adds another state of an average to the first; both of one length.
pub fn combine(state: &mut [f64], other: &[f64]) -> Result<()> {
    for (sum, &x) in state.iter_mut().zip(other) {
        *sum += x;
    }
    check_sums(state.get(1..).unwrap_or_default())
}

fn check_sums(sums: &[f64]) -> Result<()> {
    let overflow = sums.iter().fold(false, |infinite, x| infinite | x.is_infinite());
    if overflow { Err(VectorError::Overflow) } else { Ok(()) }
}

/// The average of a state, into `out`, as long as there are sums.
pub fn mean(state: &[f64], out: &mut [f32]) -> Result<()> {
    let [count, sums @ ..] = state else { return Ok(()) };
    for (r, &sum) in out.iter_mut().zip(sums) {
        *r = (sum / count) as f32;
    }
    check_finite(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finite_elements_only() {
        assert_eq!(check_finite(&[1.0, -0.0, f32::MAX]), Ok(()));
        assert_eq!(check_finite(&[1.0, f32::NAN, f32::INFINITY]), Err(VectorError::NotANumber));
        assert_eq!(check_finite(&[f32::NEG_INFINITY, f32::NAN]), Err(VectorError::Infinite));
    }

    #[test]
    fn arithmetic() {
        let mut out = [0.0; 3];
        add(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0], &mut out).unwrap();
        assert_eq!(out, [5.0, 7.0, 9.0]);
        sub(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0], &mut out).unwrap();
        assert_eq!(out, [-3.0; 3]);
        mul(&[1.0, 2.0, 0.0], &[4.0, 5.0, 6.0], &mut out).unwrap();
        assert_eq!(out, [4.0, 10.0, 0.0]);
        add_assign(&mut out, &[1.0, 1.0, 1.0]).unwrap();
        assert_eq!(out, [5.0, 11.0, 1.0]);
    }

    #[test]
    fn arithmetic_out_of_range() {
        let mut out = [0.0];
        assert_eq!(add(&[3e38], &[3e38], &mut out), Err(VectorError::Overflow));
        assert_eq!(add_assign(&mut [3e38], &[3e38]), Err(VectorError::Overflow));
        assert_eq!(sub(&[-3e38], &[3e38], &mut out), Err(VectorError::Overflow));
        assert_eq!(mul(&[1e37], &[1e37], &mut out), Err(VectorError::Overflow));
        assert_eq!(mul(&[1e-37], &[1e-37], &mut out), Err(VectorError::Underflow));
        assert_eq!(add(&[1.0, 2.0], &[1.0], &mut out), Err(VectorError::DifferentDimensions(2, 1)));
    }

    #[test]
    fn norms() {
        assert_eq!(norm(&[3.0, 4.0]), 5.0);
        assert_eq!(norm(&[3e37, 4e37]) as f32, 5e37);
        let mut out = [0.0; 2];
        normalize(&[3.0, 4.0], &mut out).unwrap();
        assert_eq!(out, [0.6, 0.8]);
        normalize(&[3e38, 0.0], &mut out).unwrap();
        assert_eq!(out, [1.0, 0.0]);
        normalize(&[0.0, 0.0], &mut out).unwrap();
        assert_eq!(out, [0.0, 0.0]);
    }

    #[test]
    fn order() {
        assert_eq!(compare(&[1.0, 2.0], &[1.0, 2.0]), Ordering::Equal);
        assert_eq!(compare(&[0.0], &[-0.0]), Ordering::Equal);
        assert_eq!(compare(&[1.0, 2.0], &[1.0, 2.0, 3.0]), Ordering::Less);
        assert_eq!(compare(&[2.0, 3.0], &[1.0, 2.0, 3.0]), Ordering::Greater);
    }

    #[test]
    fn quantized() {
        let mut out = [0; 2];
        positive_bits(&[0.0, 0.1, -0.2, -0.3, 0.4, 0.5, 0.6, -0.7, 0.8, -0.9, 1.0], &mut out);
        assert_eq!(out, [0b0100_1110, 0b1010_0000]);
    }

    #[test]
    fn averages() {
        let mut state = [0.0; 3];
        accumulate(&mut state, &[3e38, 1.0]).unwrap();
        accumulate(&mut state, &[3e38, 2.0]).unwrap();
        assert_eq!(state[0], 2.0);
        combine(&mut state, &[2.0, 0.0, 6.0]).unwrap();
        let mut out = [0.0; 2];
        mean(&state, &mut out).unwrap();
        assert_eq!(out, [1.5e38, 2.25]);
        assert_eq!(combine(&mut [1.0, f64::MAX], &[1.0, f64::MAX]), Err(VectorError::Overflow));
        assert_eq!(mean(&[0.0, 1.0], &mut out[..1]), Err(VectorError::Infinite));
    }

    proptest! {
        /// As a fold over pairs of elements decides it.
        #[test]
        fn compare_is_lexicographic(a in prop::collection::vec(-2i8..2, 1..6), b in prop::collection::vec(-2i8..2, 1..6)) {
            let floats = |v: &[i8]| v.iter().map(|&x| f32::from(x)).collect::<Vec<_>>();
            prop_assert_eq!(compare(&floats(&a), &floats(&b)), a.cmp(&b));
        }

        #[test]
        fn normalized_vectors_have_norm_one(a in prop::collection::vec(-1e30f32..1e30, 1..300)) {
            prop_assume!(norm(&a) > 0.0);
            let mut out = vec![0.0; a.len()];
            normalize(&a, &mut out).unwrap();
            prop_assert!((norm(&out) - 1.0).abs() < 1e-6);
        }
    }
}
