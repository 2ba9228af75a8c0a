//! The nearest of many centroids by their sign bits.

use super::Pacer;
use crate::kernel::{self, Bounds, Columns, Tables, inner_product, norm_squared};
use crate::layout::LANES;
use crate::quantize::encode;
use crate::rotate::{Rotation, padded};

/// Of the rotation: any number does.
const SEED: u64 = 1;

/// Standard deviations of the estimate's error that a bound leaves.
const DEVIATIONS: f64 = 2.5;

/// Centroids coded by their signs, as the rows of an index are (see [`crate::quantize`]).
///
/// The sign bits bound the product of a row with each centroid at a fifth of what the product itself costs. Products are
/// computed with the few centroids that may be the nearest. Where a bound does not hold, the nearest one is missed: on
/// real data with 384 dims and 512 to 2000 centroids for 1 to 3 rows of 10,000, which adds 1 to 3 millionths to the mean distance.
pub struct Signs {
    /// `None` if the vectors are rotated already.
    rotation: Option<Rotation>,
    /// In blocks of [`LANES`], as on a code page.
    codes: Vec<u8>,
    /// |c|²/2; infinite beyond the last centroid.
    half_norms: Vec<f32>,
    rescale: Vec<f32>,
    error: Vec<f32>,
    /// A rotated row.
    rotated: Vec<f32>,
    bounds: Vec<f32>,
}

impl Signs {
    /// `centroids`: lists × dims, of ordinary size. `rotated`: they and the rows are.
    pub fn new<E>(
        centroids: &[f32],
        half_norms: &[f32],
        dims: usize,
        rotated: bool,
        pacer: &mut Pacer<E>,
    ) -> Result<Signs, E> {
        let rotation = (!rotated).then(|| Rotation::new(dims, SEED));
        let width = padded(dims) / 8;
        let lanes = half_norms.len().next_multiple_of(LANES);
        let mut signs = Signs {
            rotation,
            codes: vec![0; lanes * width],
            half_norms: vec![f32::INFINITY; lanes],
            rescale: vec![0.0; lanes],
            error: vec![0.0; lanes],
            rotated: Vec::new(),
            bounds: vec![0.0; lanes],
        };
        signs.set_half_norms(half_norms);
        let mut code = vec![0; width];
        for (list, centroid) in centroids.chunks_exact(dims).enumerate() {
            signs.rotate(centroid);
            let factors = encode(&signs.rotated, 1, &mut code, &mut []);
            (signs.rescale[list], signs.error[list]) = (factors.rescale, factors.error);
            let block = &mut signs.codes[list / LANES * LANES * width..];
            for (column, &byte) in block.as_chunks_mut::<LANES>().0.iter_mut().zip(&code) {
                column[list % LANES] = byte;
            }
            pacer.spend(10 * dims)?;
        }
        Ok(signs)
    }

    /// Bytes for so many lists.
    pub fn memory(lists: usize, dims: usize) -> usize {
        let lanes = lists.next_multiple_of(LANES);
        lanes * (padded(dims) / 8 + 4 * size_of::<f32>()) + padded(dims) * 8 * size_of::<f32>()
    }

    /// From here on |c|²/2 is this.
    pub fn set_half_norms(&mut self, half_norms: &[f32]) {
        self.half_norms[..half_norms.len()].copy_from_slice(half_norms);
    }

    /// What [`Signs::nearest`] costs, in multiply-adds.
    pub fn work(&self) -> usize {
        self.codes.len() + 32 * self.rotated.len()
    }

    /// The centroid c with the least |c|²/2 - c·x, the first of equals, or one that is nearly as near; any if that is
    /// not finite.
    pub fn nearest(&mut self, row: &[f32], centroids: &[f32], half_norms: &[f32]) -> u32 {
        self.rotate(row);
        let bounds = Bounds {
            base: 0.0,
            norm: 1.0,
            product: 1.0,
            error: (DEVIATIONS * norm_squared(row).sqrt()) as f32,
            floor: f32::NEG_INFINITY,
        };
        let columns = Columns { norm_squared: &self.half_norms, rescale: &self.rescale, error: &self.error };
        kernel::bounds(&Tables::new(&self.rotated), &bounds, &self.codes, columns, &mut self.bounds);

        let key = |list: usize| {
            let centroid = &centroids[list * row.len()..][..row.len()];
            half_norms[list] - inner_product(centroid, row)
        };
        // With a good one first, few others have to be looked at.
        let start = least(&self.bounds);
        let mut nearest = (start, key(start));
        for (block, bounds) in self.bounds.as_chunks::<LANES>().0.iter().enumerate() {
            // Without a branch in the loop, which becomes a comparison of registers.
            if !bounds.iter().fold(false, |any, &bound| any | (bound <= nearest.1)) {
                continue;
            }
            for (lane, &bound) in bounds.iter().enumerate() {
                let list = block * LANES + lane;
                if bound <= nearest.1 && list < half_norms.len() {
                    let key = key(list);
                    if key < nearest.1 || key == nearest.1 && list < nearest.0 {
                        nearest = (list, key);
                    }
                }
            }
        }
        nearest.0 as u32
    }

    fn rotate(&mut self, vector: &[f32]) {
        self.rotated.clear();
        self.rotated.extend_from_slice(vector);
        self.rotated.resize(padded(vector.len()), 0.0);
        if let Some(rotation) = &self.rotation {
            rotation.apply(&mut self.rotated);
        }
    }
}

/// Where the least bound is; 0 if there is none.
fn least(bounds: &[f32]) -> usize {
    let blocks = bounds.as_chunks::<LANES>().0;
    let mut least = [f32::INFINITY; LANES];
    for bounds in blocks {
        for (least, &bound) in least.iter_mut().zip(bounds) {
            *least = if bound < *least { bound } else { *least };
        }
    }
    let least = least.into_iter().fold(f32::INFINITY, |a, b| if b < a { b } else { a });
    let is_least = |bounds: &[f32; LANES]| bounds.iter().fold(false, |any, &bound| any | (bound == least));
    let block = blocks.iter().position(is_least).unwrap_or(0);
    let lane = blocks[block].iter().position(|&bound| bound == least).unwrap_or(0);
    block * LANES + lane
}
