//! Products of whole codes with a query.

use super::encode::transposed;

const WIDTH: usize = 16;

/// `c·w`, less `sum w_i / 2`: c is made of `bits` bits a dimension as [`crate::quantize::encode`] writes them. At
/// least 16 sums run side by side and no sum of theirs is longer than `w.len() / 16 + 8`; the error is at most that
/// many times 2^-24 of `sum |c_i - 1/2| |w_i|`.
pub fn code_product(signs: &[u8], refinement: &[u8], bits: usize, w: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            // SAFETY: this CPU has AVX-512F and BW.
            return unsafe { x86::avx512(signs, refinement, bits, w) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: this CPU has AVX2 and FMA.
            return unsafe { x86::avx2(signs, refinement, bits, w) };
        }
    }
    portable(signs, refinement, bits, w)
}

/// The planes of each group of 64 dimensions, the least significant first; those beyond `bits` are 0.
#[inline(always)]
fn groups<'a>(signs: &'a [u8], refinement: &'a [u8], bits: usize) -> impl Iterator<Item = [u64; 8]> + 'a {
    let record = 8 * (bits - 1);
    signs.as_chunks::<8>().0.iter().enumerate().map(move |(group, signs)| {
        let mut planes = [0; 8];
        let lower = refinement[group * record..][..record].as_chunks::<8>().0;
        for (plane, bytes) in planes[..bits - 1].iter_mut().rev().zip(lower) {
            *plane = u64::from_le_bytes(*bytes);
        }
        planes[bits - 1] = u64::from_le_bytes(*signs);
        planes
    })
}

/// The code itself: integers + 1/2, of `out.len()` dimensions.
pub fn code(signs: &[u8], refinement: &[u8], bits: usize, out: &mut [f32]) {
    let middle = ((1u32 << bits) - 1) as f32 / 2.0;
    for (planes, out) in groups(signs, refinement, bits).zip(out.as_chunks_mut::<64>().0) {
        for (c, level) in out.iter_mut().zip(levels(planes)) {
            *c = f32::from(level) - middle;
        }
    }
}

/// The numbers that planes are made of.
#[inline(always)]
fn levels(planes: [u64; 8]) -> [u8; 64] {
    let planes = planes.map(u64::to_le_bytes);
    let mut levels = [0; 64];
    for (j, levels) in levels.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *levels = transposed(u64::from_le_bytes(planes.map(|plane| plane[j]))).to_le_bytes();
    }
    levels
}

fn portable(signs: &[u8], refinement: &[u8], bits: usize, w: &[f32]) -> f32 {
    let half = (1u32 << (bits - 1)) as f32;
    let mut sums = [0.0; WIDTH];
    for (planes, w) in groups(signs, refinement, bits).zip(w.as_chunks::<64>().0) {
        let levels = levels(planes);
        for (levels, w) in levels.as_chunks::<WIDTH>().0.iter().zip(w.as_chunks::<WIDTH>().0) {
            for i in 0..WIDTH {
                sums[i] += (f32::from(levels[i]) - half) * w[i];
            }
        }
    }
    sums.iter().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::groups;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn avx512(signs: &[u8], refinement: &[u8], bits: usize, w: &[f32]) -> f32 {
        let weights: [__m512i; 8] = std::array::from_fn(|plane| _mm512_set1_epi8((1u8 << plane) as i8));
        let lowest = _mm512_set1_epi8((1u8 << (bits - 1)).wrapping_neg() as i8);
        let mut sums = [_mm512_setzero_ps(); 4];
        for (planes, w) in groups(signs, refinement, bits).zip(w.as_chunks::<64>().0) {
            let (mut even, mut odd) = (lowest, _mm512_setzero_si512());
            for i in 0..4 {
                even = _mm512_mask_add_epi8(even, planes[2 * i], even, weights[2 * i]);
                odd = _mm512_mask_add_epi8(odd, planes[2 * i + 1], odd, weights[2 * i + 1]);
            }
            let levels = _mm512_add_epi8(even, odd);
            let quarters = [
                _mm512_castsi512_si128(levels),
                _mm512_extracti32x4_epi32::<1>(levels),
                _mm512_extracti32x4_epi32::<2>(levels),
                _mm512_extracti32x4_epi32::<3>(levels),
            ];
            for ((sum, quarter), w) in sums.iter_mut().zip(quarters).zip(w.as_chunks::<16>().0) {
                // SAFETY: w points to 16 floats.
                let w = unsafe { _mm512_loadu_ps(w.as_ptr()) };
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(quarter)), w, *sum);
            }
        }
        let [a, b, c, d] = sums;
        _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(signs: &[u8], refinement: &[u8], bits: usize, w: &[f32]) -> f32 {
        // Byte i of a register tests bit i % 8 of byte i / 8 of 32 bits of a plane.
        let spread =
            _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
        let lowest = _mm256_set1_epi8((1u8 << (bits - 1)).wrapping_neg() as i8);
        let mut sums = [_mm256_setzero_ps(); 4];
        for (planes, w) in groups(signs, refinement, bits).zip(w.as_chunks::<64>().0) {
            for (half, w) in w.as_chunks::<32>().0.iter().enumerate() {
                let mut levels = lowest;
                for (i, plane) in planes[..bits].iter().enumerate() {
                    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((plane >> (32 * half)) as i32), spread);
                    let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
                    let weight = _mm256_set1_epi8((1u8 << i) as i8);
                    levels = _mm256_add_epi8(levels, _mm256_and_si256(is_set, weight));
                }
                let (low, high) = (_mm256_castsi256_si128(levels), _mm256_extracti128_si256::<1>(levels));
                let quarters = [low, _mm_srli_si128::<8>(low), high, _mm_srli_si128::<8>(high)];
                for ((sum, quarter), w) in sums.iter_mut().zip(quarters).zip(w.as_chunks::<8>().0) {
                    // SAFETY: w points to 8 floats.
                    let w = unsafe { _mm256_loadu_ps(w.as_ptr()) };
                    *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(quarter)), w, *sum);
                }
            }
        }
        let [a, b, c, d] = sums;
        let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
        let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
        _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::naive;
    use proptest::prelude::*;

    type Version = fn(&[u8], &[u8], usize, &[f32]) -> f32;

    fn versions() -> Vec<(&'static str, Version)> {
        let mut versions: Vec<(&'static str, Version)> =
            vec![("chosen", code_product), ("portable", portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                // SAFETY: this CPU has AVX-512F and BW.
                versions.push(("avx512", |s, r, b, w| unsafe { x86::avx512(s, r, b, w) }));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: this CPU has AVX2 and FMA.
                versions.push(("avx2", |s, r, b, w| unsafe { x86::avx2(s, r, b, w) }));
            }
        }
        versions
    }

    proptest! {
        #[test]
        fn products_match_their_scalar_twin(
            w in (1usize..=32).prop_flat_map(|words| prop::collection::vec(-10f32..10.0, 64 * words)),
            bytes in prop::collection::vec(any::<u8>(), 2048),
            bits in 1usize..=8,
        ) {
            let (signs, rest) = bytes.split_at(w.len() / 8);
            let code = naive::code(signs, &rest[..signs.len() * (bits - 1)], bits);
            let terms = || code.iter().zip(&w).map(|(c, &w)| (c - 0.5) * f64::from(w));
            let (exact, magnitude): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            for (name, kernel) in versions() {
                let fast = f64::from(kernel(signs, rest, bits, &w));
                let error = (w.len() / 16 + 8) as f64 * f64::from(f32::EPSILON / 2.0) * magnitude;
                prop_assert!((fast - exact).abs() <= error, "{name}: {fast} {exact}");
            }
        }
    }
}
