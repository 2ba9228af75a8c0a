//! Rounds of a random rotation: sign flips and fast Hadamard transforms.
//!
//! Only multiplications and additions of pairs, in an order that does not depend on the instruction set: every CPU
//! rotates to the same bits.

use std::hint::black_box;

const WIDTH: usize = 16;

#[inline(always)]
fn rotate_body<const AVX512: bool>(vector: &mut [f32], factors: &[f32], window: usize) {
    let last = vector.len() - window;
    for (round, factors) in factors.chunks_exact(vector.len()).enumerate() {
        if round > 0 && last > 0 {
            halves(vector);
        }
        for (x, factor) in vector.iter_mut().zip(factors) {
            *x *= factor;
        }
        let start = if round % 2 == 0 { 0 } else { last };
        transform(&mut vector[start..start + window]);
    }
}

/// Sums and differences of the two halves, without normalisation.
#[inline(always)]
fn halves(x: &mut [f32]) {
    let (low, high) = x.split_at_mut(x.len() / 2);
    for (a, b) in low.iter_mut().zip(high) {
        (*a, *b) = (*a + *b, *a - *b);
    }
}

/// The Hadamard transform without its normalisation; the length is a power of two and at least `WIDTH`.
#[inline(always)]
fn transform(x: &mut [f32]) {
    for chunk in x.as_chunks_mut::<WIDTH>().0 {
        // black_box: else the compiler gathers elements of several chunks (384 dimensions, AVX-512: 970 ns, not 675).
        let x = black_box(*chunk);
        *chunk = butterflies::<8>(butterflies::<4>(butterflies::<2>(butterflies::<1>(x))));
    }
    let mut stride = WIDTH;
    while stride < x.len() {
        x.chunks_exact_mut(2 * stride).for_each(halves);
        stride *= 2;
    }
}

/// One step of the transform within a register.
#[inline(always)]
fn butterflies<const STRIDE: usize>(x: [f32; WIDTH]) -> [f32; WIDTH] {
    let mut out = [0.0; WIDTH];
    for i in 0..WIDTH {
        out[i] = if i & STRIDE == 0 { x[i] + x[i ^ STRIDE] } else { x[i ^ STRIDE] - x[i] };
    }
    out
}

per_cpu!(
    /// Multiplies the vector by `factors`, element by element, and transforms a window of it, alternately the first and
    /// the last `window` elements; as many rounds as `factors` holds vectors. `window` is a power of two, at least
    /// 16. If it is not the whole vector, every round but the first starts with the sums and differences of the two
    /// halves.
    rotate(vector: &mut [f32], factors: &[f32], window: usize) -> (), rotate_versions, rotate_body
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::naive;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rotations_match_the_scalar_twin(
            words in 1usize..=32,
            x in prop::collection::vec(-100f32..100.0, 2048),
            factors in prop::collection::vec(-1f32..1.0, 3 * 2048),
        ) {
            let padded = words * 64;
            let (x, factors, window) = (&x[..padded], &factors[..3 * padded], 1 << padded.ilog2());
            let exact = naive::rotate(x, factors, window);
            let magnitude = exact.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
            for (name, kernel) in rotate_versions() {
                let mut fast = x.to_vec();
                kernel(&mut fast, factors, window);
                for (fast, exact) in fast.iter().zip(&exact) {
                    prop_assert!((f64::from(*fast) - exact).abs() <= 1e-5 * magnitude, "{name}: {fast} {exact}");
                }
            }
        }
    }
}
