//! Bounds of distances from sign bits, by look-up tables held in registers.
//!
//! After André, Kermarrec, Le Scouarnec, "Cache locality is not enough" (VLDB 2015), and Faiss: four dimensions have 16
//! combinations of signs, so that a table of 16 bytes gives their share of `sum sign_i w_i` for 16 rows in one shuffle.

use crate::layout::LANES;

/// The tables of one query.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    /// For each byte of a row's signs the table of its low four bits, and
    low: Vec<u8>,
    /// of its high four.
    high: Vec<u8>,
    /// What one unit of the tables stands for.
    pub step: f32,
    /// What a sum of zeros stands for.
    pub offset: f32,
}

impl Tables {
    /// The tables of a rotated query `w` of a multiple of 64 elements.
    pub fn new(w: &[f32]) -> Tables {
        let mut tables =
            Tables { low: vec![0; w.len() * 2], high: vec![0; w.len() * 2], step: 0.0, offset: 0.0 };
        [tables.step, tables.offset] = fill(w, &mut tables.low, &mut tables.high);
        tables
    }
}

/// Below this the step's inverse could overflow, and nothing is lost by taking such a query for zero.
const SMALLEST: f32 = 1e-35;

/// Added to a number from 0 to 2^22 it rounds it to an integer, which the low bits then hold (2^23).
const ROUNDER: f32 = 8_388_608.0;

/// The signs of four dimensions in each entry of a table: plus where the bit is 1.
const SIGNS: [[f32; 16]; 4] = {
    let mut signs = [[-1.0; 16]; 4];
    let mut entry = 0;
    while entry < 16 {
        let mut i = 0;
        while i < 4 {
            if entry >> i & 1 == 1 {
                signs[i][entry] = 1.0;
            }
            i += 1;
        }
        entry += 1;
    }
    signs
};

#[inline(always)]
fn fill_body<const AVX512: bool>(w: &[f32], low: &mut [u8], high: &mut [u8]) -> [f32; 2] {
    let (mut largest, mut total) = (0.0f32, 0.0f32);
    for group in w.as_chunks::<4>().0 {
        let sum: f32 = group.iter().map(|x| x.abs()).sum();
        largest = if sum > largest { sum } else { largest };
        total += sum;
    }
    // Also false for a NaN.
    if !(largest >= SMALLEST && total.is_finite()) {
        return [0.0; 2];
    }
    let step = 2.0 * largest / 255.0;
    let inverse = 1.0 / step;
    let tables = low.as_chunks_mut::<16>().0.iter_mut().zip(high.as_chunks_mut::<16>().0);
    for (byte, (low, high)) in w.as_chunks::<8>().0.iter().zip(tables) {
        for (group, table) in [(&byte[..4], low), (&byte[4..], high)] {
            let least = group.iter().map(|x| x.abs()).sum::<f32>();
            for entry in 0..16 {
                let sum = group[0] * SIGNS[0][entry]
                    + group[1] * SIGNS[1][entry]
                    + group[2] * SIGNS[2][entry]
                    + group[3] * SIGNS[3][entry];
                table[entry] = ((sum + least) * inverse + ROUNDER).to_bits() as u8;
            }
        }
    }
    [step, -total]
}

per_cpu!(
    /// Fills the tables; returns step and offset.
    fill(w: &[f32], low: &mut [u8], high: &mut [u8]) -> [f32; 2], fill_versions, fill_body
);

/// How a sum of signs becomes a bound: `base + norm * |z|² - product * rescale * sum - error * row's error`, and at
/// least `floor`, which stands for NaN as well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    pub base: f32,
    pub norm: f32,
    pub product: f32,
    pub error: f32,
    pub floor: f32,
}

/// The rows' factors (see [`crate::quantize::Factors`]), one element a lane.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    pub norm_squared: &'a [f32],
    pub rescale: &'a [f32],
    pub error: &'a [f32],
}

/// Bounds of all rows of a page, into `out`, one element a lane: as many blocks as all slices have.
pub fn bounds(tables: &Tables, bounds: &Bounds, codes: &[u8], columns: Columns<'_>, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            // SAFETY: this CPU has AVX-512F and BW.
            return unsafe { x86::bounds_avx512(tables, bounds, codes, columns, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: this CPU has AVX2.
            return unsafe { x86::bounds_avx2(tables, bounds, codes, columns, out) };
        }
    }
    bounds_portable(tables, bounds, codes, columns, out);
}

/// The loop over the blocks of a page, with the function that sums up a block.
macro_rules! each_block {
    ($tables:ident, $bounds:ident, $codes:ident, $columns:ident, $out:ident, $sums:path) => {
        let blocks = $codes.chunks_exact($tables.low.len()).zip($out.as_chunks_mut::<LANES>().0);
        let norms = $columns.norm_squared.as_chunks::<LANES>().0;
        let rescales = $columns.rescale.as_chunks::<LANES>().0;
        let errors = $columns.error.as_chunks::<LANES>().0;
        let factors = norms.iter().zip(rescales).zip(errors);
        for ((block, out), ((norm, rescale), error)) in blocks.zip(factors) {
            let sums = $sums(&$tables.low, &$tables.high, block);
            for i in 0..LANES {
                let sum = $tables.offset + $tables.step * sums[i] as f32;
                let key = $bounds.base + $bounds.norm * norm[i]
                    - $bounds.product * rescale[i] * sum
                    - $bounds.error * error[i];
                out[i] = if key > $bounds.floor { key } else { $bounds.floor };
            }
        }
    };
}

fn bounds_portable(tables: &Tables, bounds: &Bounds, codes: &[u8], columns: Columns<'_>, out: &mut [f32]) {
    each_block!(tables, bounds, codes, columns, out, sums_portable);
}

#[inline(always)]
fn sums_portable(low: &[u8], high: &[u8], block: &[u8]) -> [u32; LANES] {
    let mut sums = [0; LANES];
    let tables = low.as_chunks::<16>().0.iter().zip(high.as_chunks::<16>().0);
    for (codes, (low, high)) in block.as_chunks::<LANES>().0.iter().zip(tables) {
        for (sum, code) in sums.iter_mut().zip(codes) {
            *sum += u32::from(low[usize::from(code & 15)]) + u32::from(high[usize::from(code >> 4)]);
        }
    }
    sums
}

/// 16-bit sums of bytes: `all` adds pairs of bytes as they are, `odd` the upper bytes alone, so that `all - 256 odd`
/// is the sum of the lower ones, modulo 2^16. No sum of 2048 dimensions reaches 2^16: with AVX2 a lane of 16 bits
/// adds up 2 tables of every second byte of a row's signs, 2 * 128 * 255 = 65280; with AVX-512, which takes four
/// bytes at a time, half of that.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::layout::MAX_DIMENSIONS;
    use crate::rotate::padded;
    use std::arch::x86_64::*;

    const _: () = assert!(padded(MAX_DIMENSIONS) / 8 / 2 * 2 * 255 <= u16::MAX as usize);

    #[target_feature(enable = "avx512f,avx512bw")]
    pub fn bounds_avx512(
        tables: &Tables,
        bounds: &Bounds,
        codes: &[u8],
        columns: Columns<'_>,
        out: &mut [f32],
    ) {
        each_block!(tables, bounds, codes, columns, out, sums_avx512);
    }

    #[target_feature(enable = "avx2")]
    pub fn bounds_avx2(
        tables: &Tables,
        bounds: &Bounds,
        codes: &[u8],
        columns: Columns<'_>,
        out: &mut [f32],
    ) {
        each_block!(tables, bounds, codes, columns, out, sums_avx2);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn sums_avx512(low: &[u8], high: &[u8], block: &[u8]) -> [u32; LANES] {
        let nibble = _mm512_set1_epi8(15);
        let (mut all, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        let tables = low.as_chunks::<64>().0.iter().zip(high.as_chunks::<64>().0);
        for (codes, (low, high)) in block.as_chunks::<64>().0.iter().zip(tables) {
            // SAFETY: each points to 64 bytes.
            let [codes, low, high] =
                [codes, low, high].map(|x| unsafe { _mm512_loadu_si512(x.as_ptr().cast()) });
            let low = _mm512_shuffle_epi8(low, _mm512_and_si512(codes, nibble));
            let high = _mm512_shuffle_epi8(high, _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble));
            all = _mm512_add_epi16(all, _mm512_add_epi16(low, high));
            odd = _mm512_add_epi16(
                odd,
                _mm512_add_epi16(_mm512_srli_epi16::<8>(low), _mm512_srli_epi16::<8>(high)),
            );
        }
        let even = _mm512_sub_epi16(all, _mm512_slli_epi16::<8>(odd));
        // The rows of equal parity: 8 sums in each of four parts of the register.
        let added = [even, odd].map(|x| {
            let halves = _mm512_add_epi32(
                _mm512_cvtepu16_epi32(_mm512_castsi512_si256(x)),
                _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(x)),
            );
            _mm256_add_epi32(_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64::<1>(halves))
        });
        interleaved(added)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sums_avx2(low: &[u8], high: &[u8], block: &[u8]) -> [u32; LANES] {
        let nibble = _mm256_set1_epi8(15);
        let (mut all, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        let tables = low.as_chunks::<32>().0.iter().zip(high.as_chunks::<32>().0);
        for (codes, (low, high)) in block.as_chunks::<32>().0.iter().zip(tables) {
            // SAFETY: each points to 32 bytes.
            let [codes, low, high] =
                [codes, low, high].map(|x| unsafe { _mm256_loadu_si256(x.as_ptr().cast()) });
            let low = _mm256_shuffle_epi8(low, _mm256_and_si256(codes, nibble));
            let high = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble));
            all = _mm256_add_epi16(all, _mm256_add_epi16(low, high));
            odd = _mm256_add_epi16(
                odd,
                _mm256_add_epi16(_mm256_srli_epi16::<8>(low), _mm256_srli_epi16::<8>(high)),
            );
        }
        let even = _mm256_sub_epi16(all, _mm256_slli_epi16::<8>(odd));
        let added = [even, odd].map(|x| {
            _mm256_add_epi32(
                _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
                _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(x)),
            )
        });
        interleaved(added)
    }

    /// Sums of the even and of the odd rows, by turns.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn interleaved([even, odd]: [__m256i; 2]) -> [u32; LANES] {
        let (low, high) = (_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
        let mut sums = [0; LANES];
        let (first, second) = sums.split_at_mut(8);
        // SAFETY: each has room for 8 sums of 4 bytes.
        unsafe {
            _mm256_storeu_si256(first.as_mut_ptr().cast(), _mm256_permute2x128_si256::<0x20>(low, high));
            _mm256_storeu_si256(second.as_mut_ptr().cast(), _mm256_permute2x128_si256::<0x31>(low, high));
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::naive;
    use proptest::prelude::*;

    type Version = fn(&Tables, &Bounds, &[u8], Columns<'_>, &mut [f32]);

    fn bounds_versions() -> Vec<(&'static str, Version)> {
        let mut versions: Vec<(&'static str, Version)> =
            vec![("chosen", bounds), ("portable", bounds_portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                // SAFETY: this CPU has AVX-512F and BW.
                versions.push(("avx512", |t, b, c, f, o| unsafe { x86::bounds_avx512(t, b, c, f, o) }));
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: this CPU has AVX2.
                versions.push(("avx2", |t, b, c, f, o| unsafe { x86::bounds_avx2(t, b, c, f, o) }));
            }
        }
        versions
    }

    proptest! {
        #[test]
        fn tables_match_their_scalar_twin(
            w in (1usize..=32).prop_flat_map(|words| prop::collection::vec(-10f32..10.0, 64 * words)),
        ) {
            for (name, kernel) in fill_versions() {
                let (mut low, mut high) = (vec![0; w.len() * 2], vec![0; w.len() * 2]);
                let [step, offset] = kernel(&w, &mut low, &mut high);
                let [exact_step, exact_offset] = naive::table_scale(&w);
                prop_assert!((f64::from(step) / exact_step - 1.0).abs() < 1e-5, "{name}");
                prop_assert!((f64::from(offset) / exact_offset - 1.0).abs() < 1e-4, "{name}");
                for byte in 0..w.len() / 8 {
                    for entry in 0..16 {
                        for (table, group) in [(&low, byte * 2), (&high, byte * 2 + 1)] {
                            let exact = naive::table_entry(&w[group * 4..][..4], entry) / exact_step;
                            let fast = f64::from(table[byte * 16 + entry]);
                            prop_assert!((fast - exact).abs() <= 0.501, "{name}: {fast} {exact}");
                        }
                    }
                }
            }
        }

        #[test]
        fn bounds_match_their_scalar_twin(
            (words, blocks) in (1usize..=32, 1usize..4),
            bytes in prop::collection::vec(any::<u8>(), 2048 * 6),
            tables in prop::collection::vec(any::<u8>(), 2048 * 4),
            factors in prop::collection::vec(0.1f32..10.0, 3 * 64),
            full: bool,
        ) {
            let (size, lanes) = (words * 64 * 2, blocks * LANES);
            // All entries at their greatest: what a sum of 16 bits must hold.
            let tables = if full { vec![255; 2048 * 4] } else { tables };
            let (low, high) = (tables[..size].to_vec(), tables[2048 * 2..][..size].to_vec());
            let tables = Tables { low, high, step: 0.25, offset: -3.0 };
            let line = Bounds { base: 2.0, norm: 1.0, product: 2.0, error: 0.5, floor: f32::NEG_INFINITY };
            let codes = &bytes[..size * blocks];
            let columns = Columns {
                norm_squared: &factors[..lanes],
                rescale: &factors[64..][..lanes],
                error: &factors[128..][..lanes],
            };
            for (name, kernel) in bounds_versions() {
                let mut out = vec![0.0; lanes];
                kernel(&tables, &line, codes, columns, &mut out);
                for (lane, &fast) in out.iter().enumerate() {
                    let sum = naive::table_sum(&tables.low, &tables.high, &codes[lane / LANES * size..], lane % LANES);
                    let product = 2.0 * f64::from(columns.rescale[lane]) * (f64::from(sum) * 0.25 - 3.0);
                    let exact = 2.0 + f64::from(columns.norm_squared[lane]) - product
                        - 0.5 * f64::from(columns.error[lane]);
                    prop_assert!((f64::from(fast) - exact).abs() <= 1e-5 * product.abs().max(1.0), "{name}");
                }
            }
        }
    }

    #[test]
    fn the_floor_stands_for_nan() {
        let tables = Tables::new(&[1.0; 64]);
        let line = Bounds { base: f32::NAN, norm: 1.0, product: 2.0, error: 0.5, floor: 0.0 };
        let columns = Columns { norm_squared: &[1.0; 16], rescale: &[1.0; 16], error: &[1.0; 16] };
        for (name, kernel) in bounds_versions() {
            let mut out = [1.0; 16];
            kernel(&tables, &line, &[0; 128], columns, &mut out);
            assert_eq!(out, [0.0; 16], "{name}");
        }
    }
}
