//! From vectors to codes: the choice of a step, the levels, and their bits.
//!
//! No fused operations: every CPU makes the same code of the same vector.

const WIDTH: usize = 16;

/// Added to a number below 2^22 in magnitude, it rounds it to an integer, which the low bits then hold (1.5 * 2^23).
const ROUNDER: f32 = 12_582_912.0;

/// Steps to try: the largest level as a share of the largest element. Codes of few bits want to clip (2 bits of a
/// normal distribution: at 2 of the 3 to 3.5 standard deviations that the largest of 400 to 2000 elements reaches),
/// codes of many bits do not.
const SHARES: [[f32; 4]; 4] =
    [[1.0, 0.97, 0.94, 0.91], [0.88, 0.85, 0.81, 0.77], [0.72, 0.67, 0.62, 0.57], [0.51, 0.45, 0.38, 0.31]];

/// What there is to know of a code beside its bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coded {
    /// sum |z_i|
    pub absolute: f64,
    /// s: `s c` is the multiple of the code nearest to z, but for rounding to `f32`.
    pub scale: f32,
    /// |z - s c|²
    pub lost: f64,
}

/// The magnitude's level, counted from 0: the nearest of 1/2, 3/2, ... `limit`, less 1/2.
#[inline(always)]
fn rounded(magnitude: f32, inverse: f32, limit: f32) -> f32 {
    let level = magnitude * inverse;
    // A NaN (0 * infinity) becomes `limit` as well.
    let level = if level < limit { level } else { limit };
    level - 0.5 + ROUNDER
}

#[inline(always)]
fn encode_body<const AVX512: bool>(z: &[f32], bits: usize, signs: &mut [u8], refinement: &mut [u8]) -> Coded {
    let half = 1u8 << (bits - 1);
    let limit = f32::from(half) - 0.5;

    let mut absolute = [0.0f64; WIDTH];
    let mut largest = [0.0f32; WIDTH];
    for x in z.as_chunks::<WIDTH>().0 {
        for i in 0..WIDTH {
            let magnitude = x[i].abs();
            absolute[i] += f64::from(magnitude);
            largest[i] = if magnitude > largest[i] { magnitude } else { largest[i] };
        }
    }
    let largest = largest.into_iter().fold(0.0, f32::max);
    let inverse = if bits == 1 { 0.0 } else { best_inverse(z, f32::from(half) / largest, limit) };

    let (mut along, mut norm) = ([0.0f64; WIDTH], [0.0f64; WIDTH]);
    let mut records = refinement.chunks_exact_mut(8 * (bits - 1).max(1));
    for (group, signs) in z.as_chunks::<64>().0.iter().zip(signs.as_chunks_mut::<8>().0) {
        let mut levels = [0u8; 64];
        for (x, levels) in group.as_chunks::<WIDTH>().0.iter().zip(levels.as_chunks_mut::<WIDTH>().0) {
            for i in 0..WIDTH {
                let magnitude = x[i].abs();
                let level = rounded(magnitude, inverse, limit);
                let c = f64::from(level - ROUNDER + 0.5);
                along[i] += f64::from(magnitude) * c;
                norm[i] += c * c;
                let level = level.to_bits() as u8;
                levels[i] = if x[i] >= 0.0 { half + level } else { half - 1 - level };
            }
        }
        let planes = planes(&levels);
        *signs = planes[bits - 1];
        if let Some(record) = records.next() {
            for (out, plane) in record.as_chunks_mut::<8>().0.iter_mut().zip(planes[..bits - 1].iter().rev())
            {
                *out = *plane;
            }
        }
    }

    let scale = (along.iter().sum::<f64>() / norm.iter().sum::<f64>()) as f32;
    let mut lost = [0.0f64; WIDTH];
    for x in z.as_chunks::<WIDTH>().0 {
        for i in 0..WIDTH {
            let magnitude = x[i].abs();
            let c = rounded(magnitude, inverse, limit) - ROUNDER + 0.5;
            let difference = f64::from(magnitude) - f64::from(scale) * f64::from(c);
            lost[i] += difference * difference;
        }
    }
    Coded { absolute: absolute.iter().sum(), scale, lost: lost.iter().sum() }
}

/// The inverse of the step whose code has the greatest cosine with z; `most` is that of the greatest step.
#[inline(always)]
fn best_inverse(z: &[f32], most: f32, limit: f32) -> f32 {
    let (mut best, mut best_score) = (most, -1.0);
    for shares in SHARES {
        let inverses = shares.map(|share| most / share);
        let mut along = [[0.0f32; WIDTH]; 4];
        let mut norm = [[0.0f32; WIDTH]; 4];
        for x in z.as_chunks::<WIDTH>().0 {
            for k in 0..4 {
                for i in 0..WIDTH {
                    let magnitude = x[i].abs();
                    let c = rounded(magnitude, inverses[k], limit) - ROUNDER + 0.5;
                    along[k][i] += magnitude * c;
                    norm[k][i] += c * c;
                }
            }
        }
        for k in 0..4 {
            let along = f64::from(along[k].iter().sum::<f32>());
            let score = along * along / f64::from(norm[k].iter().sum::<f32>());
            if score > best_score {
                (best, best_score) = (inverses[k], score);
            }
        }
    }
    best
}

/// The bits of 64 bytes, plane by plane: bit `i % 8` of byte `i / 8` of plane `p` is bit `p` of byte `i`.
#[inline(always)]
pub fn planes(levels: &[u8; 64]) -> [[u8; 8]; 8] {
    let mut planes = [[0; 8]; 8];
    for (j, bytes) in levels.as_chunks::<8>().0.iter().enumerate() {
        let columns = transposed(u64::from_le_bytes(*bytes)).to_le_bytes();
        for (plane, column) in planes.iter_mut().zip(columns) {
            plane[j] = column;
        }
    }
    planes
}

/// A matrix of 8 x 8 bits with rows and columns exchanged (Hacker's Delight, section 7-3).
#[inline(always)]
pub fn transposed(bits: u64) -> u64 {
    let swap = |x: u64, shift: u32, mask: u64| {
        let moved = (x ^ (x >> shift)) & mask;
        x ^ moved ^ (moved << shift)
    };
    swap(swap(swap(bits, 7, 0x00aa_00aa_00aa_00aa), 14, 0x0000_cccc_0000_cccc), 28, 0x0000_0000_f0f0_f0f0)
}

per_cpu!(
    /// Codes `z`, finite and of a multiple of 64 elements, with `bits` bits a dimension; signs and refinement as in
    /// [`crate::quantize::encode`]. The step is the best of a few by the cosine between code and vector.
    encode(z: &[f32], bits: usize, signs: &mut [u8], refinement: &mut [u8]) -> Coded, encode_versions, encode_body
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn planes_hold_the_bits(levels in prop::array::uniform32(any::<[u8; 2]>())) {
            let levels: [u8; 64] = bytemuck::cast(levels);
            let planes = planes(&levels);
            for (i, level) in levels.into_iter().enumerate() {
                for (p, plane) in planes.iter().enumerate() {
                    prop_assert_eq!(plane[i / 8] >> (i % 8) & 1, level >> p & 1);
                }
            }
        }

        #[test]
        fn every_version_makes_the_same_code(
            z in (1usize..=32).prop_flat_map(|words| prop::collection::vec(-10f32..10.0, 64 * words)),
            bits in 1usize..=8,
        ) {
            let code = |kernel: fn(&[f32], usize, &mut [u8], &mut [u8]) -> Coded| {
                let (mut signs, mut refinement) = (vec![0; z.len() / 8], vec![0; z.len() / 8 * (bits - 1)]);
                let coded = kernel(&z, bits, &mut signs, &mut refinement);
                (coded, signs, refinement)
            };
            let expected = code(encode);
            for (name, kernel) in encode_versions() {
                prop_assert_eq!(&code(kernel), &expected, "{}", name);
            }
        }
    }
}
