//! The nearest centroid of many rows at once.

use super::Pacer;
use super::signs::Signs;
use crate::kernel::norm_squared;
use std::convert::Infallible;

/// Rows multiplied at once. A product packs the centroids first, so it wants many rows: 384 × 600 reaches 79 GFLOP/s
/// with 256 rows and 88 with 512 (of 97 without reading rows and products; Zen 4, one thread).
const ROW_BLOCK: usize = 512;

/// Centroids multiplied at once: with [`ROW_BLOCK`] rows one megabyte of products; twice as many gain nothing. At
/// 2,000 dimensions 2^29 multiply-adds between two checks for interrupts: 12 ms here, ten times that on a CPU with
/// nothing but SSE2.
const CENTROID_BLOCK: usize = 512;

/// Elements compared at once. More than any register: the compiler makes several of it.
const LANES: usize = 16;

/// From so many centroids on, of at least so many dims (as [`Signs`] fill them up to 64), their sign bits are faster than
/// products with all of them. Measured on real data with 384 dims, µs a row by products, by signs, and by those of rotated
/// vectors: 128 centroids 1.4, 2.0 and 1.3; 234: 2.2, 2.3, 1.6; 384: 3.4, 2.6, 1.9; 2000: 17.9, 6.1, 5.2.
const SIGNS_FROM: usize = 192;
const SIGNS_FROM_DIMS: usize = 64;

fn by_signs(lists: usize, dims: usize) -> bool {
    lists >= SIGNS_FROM && dims >= SIGNS_FROM_DIMS
}

/// Finds the nearest centroid of many rows at once.
///
/// The products are sums of `dims` float32 terms, so two centroids whose distances from a row differ by less than
/// about `dims · 2^-24 · |c| · |x|` may be taken for each other; rows far from the origin relative to their spread
/// should be centred before. Every call packs all centroids anew: a call with a single row costs as much as one with
/// thirty.
pub struct Assigner {
    dims: usize,
    centroids: Vec<f32>,
    /// The centroids times a power of two, if they need it (see [`scale`]).
    scaled: Option<Vec<f32>>,
    /// |c|²/2 of every centroid, times the same power.
    half_norms: Vec<f32>,
    /// [`ROW_BLOCK`] × [`CENTROID_BLOCK`] at most.
    products: Vec<f32>,
    /// Of many ordinary centroids.
    signs: Option<Signs>,
}

impl Assigner {
    /// `centroids`: lists × dims, at least one. `rotated`: they, and the rows to come, went through one
    /// [`Rotation`](crate::rotate::Rotation), which need not be repeated.
    pub fn new(centroids: Vec<f32>, dims: usize, rotated: bool) -> Assigner {
        let Ok(assigner) = Assigner::prepare(centroids, dims, rotated, &mut Pacer::new(&mut never));
        assigner
    }

    /// From here on the nearest centroid is the one with the greatest c·x.
    pub fn by_inner_product(&mut self) {
        self.half_norms.fill(0.0);
        if let Some(signs) = &mut self.signs {
            signs.set_half_norms(&self.half_norms);
        }
    }

    pub(super) fn prepare<E>(
        centroids: Vec<f32>,
        dims: usize,
        rotated: bool,
        pacer: &mut Pacer<E>,
    ) -> Result<Assigner, E> {
        let lists = centroids.len() / dims;
        let scale = scale(&centroids);
        let mut half_norms = Vec::with_capacity(lists);
        for centroid in centroids.chunks_exact(dims) {
            half_norms.push((norm_squared(centroid) * scale / 2.0) as f32);
            pacer.spend(dims)?;
        }
        let scaled =
            (scale != 1.0).then(|| centroids.iter().map(|&x| (f64::from(x) * scale) as f32).collect());
        let signs = match scaled {
            None if by_signs(lists, dims) => Some(Signs::new(&centroids, &half_norms, dims, rotated, pacer)?),
            _ => None,
        };
        let products = if signs.is_none() { ROW_BLOCK * CENTROID_BLOCK.min(lists) } else { 0 };
        Ok(Assigner { dims, centroids, scaled, half_norms, products: vec![0.0; products], signs })
    }

    /// Bytes of the assigner of `lists` centroids, [`matrixmultiply`]'s buffers included.
    pub(super) fn memory(lists: usize, dims: usize) -> usize {
        let block = lists.min(CENTROID_BLOCK);
        // Centroids, scaled centroids and norms; signs, which only unscaled ones have, or products; and the packed
        // pieces of both matrices, which are 64 rows and `block` centroids, rounded up to whole tiles of at most 32, of
        // 256 dims (matrixmultiply's archparam_defaults.rs).
        let packed = (64 + block + 2 * 32) * 256 + 64;
        let signs = if by_signs(lists, dims) { Signs::memory(lists, dims) } else { 0 };
        4 * (2 * lists * dims + lists + ROW_BLOCK * block + packed) + signs
    }

    pub fn lists(&self) -> usize {
        self.half_norms.len()
    }

    pub fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    pub(super) fn into_centroids(self) -> Vec<f32> {
        self.centroids
    }

    /// Appends to `out`, for each row of `rows` (rows × dims), the centroid c with the least |c|²/2 - c·x; the first
    /// of equals. A row whose products are not finite goes to any. The answer for a row does not depend on the rows
    /// beside it. Of many centroids it may be another one that is nearly as near (see [`Signs`]).
    ///
    /// Not interruptible: rows × lists × dims multiply-adds, of which a CPU with AVX2 does some 40 · 10^9 a second.
    pub fn assign(&mut self, rows: &[f32], out: &mut Vec<u32>) {
        let Ok(()) = self.assign_paced(rows, out, &mut Pacer::new(&mut never));
    }

    pub(super) fn assign_paced<E>(
        &mut self,
        rows: &[f32],
        out: &mut Vec<u32>,
        pacer: &mut Pacer<E>,
    ) -> Result<(), E> {
        let dims = self.dims;
        if let Some(signs) = &mut self.signs {
            for row in rows.chunks_exact(dims) {
                out.push(signs.nearest(row, &self.centroids, &self.half_norms));
                pacer.spend(signs.work())?;
            }
            return Ok(());
        }
        let centroids = self.scaled.as_ref().unwrap_or(&self.centroids);
        for rows in rows.chunks(ROW_BLOCK * dims) {
            let mut nearest = [(f32::INFINITY, 0); ROW_BLOCK];
            let nearest = &mut nearest[..rows.len() / dims];
            let blocks = centroids.chunks(CENTROID_BLOCK * dims).zip(self.half_norms.chunks(CENTROID_BLOCK));
            for (first, (centroids, half_norms)) in (0..).step_by(CENTROID_BLOCK).zip(blocks) {
                let products = &mut self.products[..nearest.len() * half_norms.len()];
                multiply(rows, centroids, dims, products);
                for (nearest, products) in nearest.iter_mut().zip(products.chunks_exact(half_norms.len())) {
                    let least = least_difference(half_norms, products);
                    if least < nearest.0 {
                        let lane = half_norms.iter().zip(products).position(|(h, p)| h - p == least);
                        *nearest = (least, first + lane.unwrap_or(0) as u32);
                    }
                }
                pacer.spend(rows.len() * half_norms.len())?;
            }
            out.extend(nearest.iter().map(|&(_, list)| list));
        }
        Ok(())
    }
}

fn never() -> Result<(), Infallible> {
    Ok(())
}

/// The power of two that keeps |c|²/2 and c·x inside float32 for rows as large or small as the centroids: 1 for
/// ordinary ones, where it would change no bit of the answer.
fn scale(centroids: &[f32]) -> f64 {
    // Of numbers without a sign the bits are in the same order, and the maximum of integers runs as SIMD.
    let largest = f32::from_bits(centroids.iter().fold(0, |largest, x| x.abs().to_bits().max(largest)));
    let exponent = f64::from(largest).log2().floor() as i32;
    match exponent {
        _ if largest == 0.0 || !largest.is_finite() => 1.0,
        -32..=32 => 1.0,
        // Elements below 2^-23: no sum of up to 2^23 products with finite numbers overflows.
        33.. => 2f64.powi(-24 - exponent),
        // Products with the smallest denormal number stay above 2^-117, a normal number.
        _ => 2f64.powi(32 - exponent),
    }
}

/// `products` (rows × centroids) = `rows` (rows × dims) · `centroids` (centroids × dims), transposed.
pub(super) fn multiply(rows: &[f32], centroids: &[f32], dims: usize, products: &mut [f32]) {
    let (m, n) = (rows.len() / dims, centroids.len() / dims);
    assert!(products.len() == m * n, "products: {} for {m} rows and {n} centroids", products.len());
    // SAFETY: the strides make the matrices m × dims, dims × n and m × n, which is at most the length of the slices;
    // the only one written to is borrowed mutably.
    unsafe {
        matrixmultiply::sgemm(
            m,
            dims,
            n,
            1.0,
            rows.as_ptr(),
            dims as isize,
            1,
            centroids.as_ptr(),
            1,
            dims as isize,
            0.0,
            products.as_mut_ptr(),
            n as isize,
            1,
        );
    }
}

/// The least of a - b, not counting NaN; infinite if there is none.
fn least_difference(a: &[f32], b: &[f32]) -> f32 {
    // Unlike f32::min, one instruction.
    let min = |x: f32, y: f32| if y < x { y } else { x };
    let mut least = [f32::INFINITY; LANES];
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            least[lane] = min(least[lane], a[lane] - b[lane]);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a - b);
    least.into_iter().chain(rest).fold(f32::INFINITY, min)
}
