//! Codes around another mean.
//!
//! Codes are relative to the mean of the rows that the index was built on, which is the origin if it had none. The farther
//! that is from the rows, the less a code says: its error is in proportion to the length of what is coded. Text embeddings of
//! some models are all in one corner, and are a quarter as long around their mean.

use crate::geometry::Geometry;
use crate::index::Index;
use crate::kernel::norm_squared;
use crate::layout::Row;
use crate::quantize::{Space, decode, encode};

/// Codes of fewer bits would lose too much by being coded again: what the first code has lost stays lost.
const LEAST_BITS: usize = 7;
/// Square of how far the mean is from the rows' own, relative to that of how far rows are from theirs: the bounds of the sign
/// bits, which grow with the root of the sum, are then wider by a twentieth.
const OFF: f64 = 0.1;

/// How rows of an index are coded again.
pub struct Recentring {
    /// What is subtracted from a decoded row; `None`: codes stay as they are.
    shift: Option<Vec<f32>>,
    /// |shift|
    distance: f64,
    z: Vec<f32>,
    signs: Vec<u8>,
    refinement: Vec<u8>,
}

impl Recentring {
    /// By a sample of the rows (rows × padded, centred and rotated), and the space that they are in then.
    pub fn of(index: &Index, sample: &[f32]) -> (Recentring, Space) {
        let (geometry, space) = (&index.geometry, &index.space);
        let mean = mean_if_off(sample, geometry.padded).filter(|_| geometry.bits >= LEAST_BITS);
        let mean = mean.map(|mean| space.mean_at(&mean)).filter(|mean| mean.iter().all(|x| x.is_finite()));
        let shift = mean.as_ref().map(|mean| space.difference(mean));
        let space =
            Space::new(space.metric(), index.meta.seed, mean.unwrap_or_else(|| space.mean().to_vec()));
        let recentring = Recentring {
            distance: shift.as_ref().map_or(0.0, |shift| norm_squared(shift).sqrt()),
            shift,
            z: vec![0.0; geometry.padded],
            signs: vec![0; geometry.sign_bytes()],
            refinement: vec![0; geometry.refinement_bytes()],
        };
        (recentring, space)
    }

    /// Subtracts the shift from vectors, rows × padded.
    pub fn shift(&self, vectors: &mut [f32]) {
        if let Some(shift) = &self.shift {
            vectors
                .chunks_exact_mut(shift.len())
                .for_each(|row| row.iter_mut().zip(shift).for_each(|(x, shift)| *x -= shift));
        }
    }

    /// Appends a row as it is to be stored to `rows`.
    pub fn write(&mut self, geometry: &Geometry, row: &Row, rows: &mut Vec<u8>) {
        let Some(shift) = &self.shift else { return row.write(rows) };
        let Recentring { z, signs, refinement, .. } = self;
        decode(row.signs, row.refinement, geometry.bits, &row.factors, z);
        let norm = norm_squared(z).sqrt();
        z.iter_mut().zip(shift).for_each(|(x, shift)| *x -= shift);
        let factors = encode(z, geometry.bits, signs, refinement);
        let factors = factors.coded_again(&row.factors, z.len(), norm + self.distance);
        Row { factors, signs, refinement, ..*row }.write(rows);
    }
}

/// The mean of some rows, if it is far from the origin.
fn mean_if_off(sample: &[f32], dims: usize) -> Option<Vec<f32>> {
    let count = sample.len() / dims;
    let mut sums = vec![0.0f64; dims];
    let mut squares = 0.0;
    for row in sample.chunks_exact(dims) {
        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        squares += norm_squared(row);
    }
    sums.iter_mut().for_each(|sum| *sum /= count.max(1) as f64);
    let off: f64 = sums.iter().map(|mean| mean * mean).sum();
    let spread = squares / count.max(1) as f64 - off;
    (off > OFF * spread && off > 0.0).then(|| sums.iter().map(|&mean| mean as f32).collect())
}
