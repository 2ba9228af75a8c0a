//! A random rotation without a matrix: rounds of sign flips and fast Hadamard transforms.
//!
//! After Ailon and Chazelle, "The fast Johnson-Lindenstrauss transform" (2009), with several rounds as in the FALCONN
//! and RaBitQ libraries. The transform needs a power of two: other lengths transform a window of the largest power of
//! two at their beginning and at their end by turns, and mix their halves in between (without that, an element of 960
//! would leave nine tenths of its energy in its own half).

use crate::kernel;
use crate::random::SplitMix64;

/// Two rounds for each end of the vector, as in the RaBitQ library.
const ROUNDS: usize = 4;

/// Dimensions of a rotated vector: whole words of 64 bits.
pub const fn padded(dims: usize) -> usize {
    dims.next_multiple_of(64)
}

pub struct Rotation {
    window: usize,
    /// For each round and element the sign, times the normalisation of the round's transform and mixing, where they
    /// reach.
    factors: Vec<f32>,
}

impl Rotation {
    /// The rotation of vectors of `dims` (at least 1) dimensions that a seed stands for, on every machine the same.
    pub fn new(dims: usize, seed: u64) -> Rotation {
        let padded = padded(dims);
        let window = 1 << padded.ilog2();
        let normalised = 1.0 / (window as f64).sqrt();
        let mut random = SplitMix64(seed);
        let mut factors = Vec::with_capacity(ROUNDS * padded);
        for round in 0..ROUNDS {
            let start = if round % 2 == 0 { 0 } else { padded - window };
            let mixed = if round > 0 && window < padded { 0.5f64.sqrt() } else { 1.0 };
            for word in 0..padded / 64 {
                let signs = random.next();
                factors.extend((0..64).map(|bit| {
                    let element = word * 64 + bit;
                    let transformed =
                        if (start..start + window).contains(&element) { normalised } else { 1.0 };
                    let size = (mixed * transformed) as f32;
                    if signs >> bit & 1 == 1 { -size } else { size }
                }));
            }
        }
        Rotation { window, factors }
    }

    /// Rotates a vector of `padded(dims)` elements in place. The error of the result has at most 56 * 2^-24 of the
    /// vector's norm: up to 11 additions, the factor and its multiplication, four times, three mixings, and one to
    /// spare.
    pub fn apply(&self, vector: &mut [f32]) {
        debug_assert_eq!(vector.len() * ROUNDS, self.factors.len());
        kernel::rotate(vector, &self.factors, self.window);
    }

    /// The first `dims` elements of the vector that [`Rotation::apply`] makes `rotated` of, one by one: a rotation keeps products.
    pub fn inverse(&self, rotated: &[f32], dims: usize) -> Vec<f32> {
        let mut axis = vec![0.0; rotated.len()];
        let mut element = |number: usize| {
            axis.fill(0.0);
            axis[number] = 1.0;
            self.apply(&mut axis);
            axis.iter().zip(rotated).map(|(&a, &z)| f64::from(a) * f64::from(z)).sum::<f64>() as f32
        };
        (0..dims).map(&mut element).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::naive;
    use proptest::prelude::*;

    fn rotated(dims: usize, seed: u64, x: &[f32]) -> Vec<f32> {
        let mut z = x.to_vec();
        z.resize(padded(dims), 0.0);
        Rotation::new(dims, seed).apply(&mut z);
        z
    }

    proptest! {
        #[test]
        fn norms_and_products_are_kept(
            (x, y) in (1usize..=2000).prop_flat_map(|dims| {
                let vector = || prop::collection::vec(-10f32..10.0, dims);
                (vector(), vector())
            }),
            seed: u64,
        ) {
            let [a, b] = [&x, &y].map(|v| rotated(x.len(), seed, v));
            let [xx, yy, aa, bb] = [(&x, &x), (&y, &y), (&a, &a), (&b, &b)].map(|(v, w)| naive::inner_product(v, w));
            let error = 2.0 * 56.0 * f64::from(f32::EPSILON / 2.0);
            prop_assert!((xx - aa).abs() <= error * xx);
            let product = naive::inner_product(&x, &y) - naive::inner_product(&a, &b);
            prop_assert!(product.abs() <= error * (xx * yy).sqrt());
            prop_assert!((yy - bb).abs() <= error * yy);
        }
    }

    #[test]
    fn it_can_be_undone() {
        for dims in [1, 64, 100, 384, 2000] {
            let x: Vec<f32> = (0..dims).map(|i| (i as f32 * 0.7).sin()).collect();
            let rotation = Rotation::new(dims, 9);
            let back = rotation.inverse(&rotated(dims, 9, &x), dims);
            assert!(x.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-4), "{dims}");
        }
    }

    #[test]
    fn a_seed_stands_for_one_rotation() {
        let mut x = vec![0.0; 100];
        x[7] = 1.0;
        assert_eq!(rotated(100, 42, &x), rotated(100, 42, &x));
        assert_ne!(rotated(100, 42, &x), rotated(100, 43, &x));
    }

    /// What makes the codes of any data alike: even a single element is spread over all, and not much over what chance
    /// does (the largest of 2000 numbers from a normal distribution is at 3.5 standard deviations).
    #[test]
    fn single_elements_are_spread() {
        for dims in [64, 100, 384, 768, 960, 1536, 1984, 2000] {
            for element in [0, dims / 2, dims - 1] {
                let mut x = vec![0.0; dims];
                x[element] = 1.0;
                let z = rotated(dims, 1, &x);
                let largest = z.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                assert!(largest * (z.len() as f32).sqrt() < 5.5, "{dims} {element}: {largest}");
                let half: f32 = z[..z.len() / 2].iter().map(|x| x * x).sum();
                assert!((0.25..0.75).contains(&half), "{dims} {element}: {half} in one half");
            }
        }
    }
}
