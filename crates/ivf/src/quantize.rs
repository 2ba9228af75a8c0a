//! Codes of vectors, and what they tell of distances.

use crate::metric::Metric;
use bytemuck::{Pod, Zeroable};

/// What a row's codes mean. z is the row, centred and rotated; c its code, integers + 1/2 around 0; s the scale.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Factors {
    /// |z|²
    pub norm_squared: f32,
    /// |z|² / sum |z_i|: the 1-bit estimate of `z·w` is this times `sum sign(z_i) w_i`.
    pub rescale: f32,
    /// Standard deviation of the 1-bit estimate's error for a query of norm 1.
    pub error: f32,
    /// s, `z·c / |c|²`
    pub scale: f32,
    /// A bound of |z - s c|, rounding included.
    pub residual: f32,
}

/// How the vectors of one index become codes.
pub struct Space {}

impl Space {
    /// `mean` has as many elements as the vectors have dimensions.
    pub fn new(_metric: Metric, _seed: u64, _mean: Vec<f32>) -> Space {
        todo!()
    }

    pub fn metric(&self) -> Metric {
        todo!()
    }

    pub fn mean(&self) -> &[f32] {
        todo!()
    }

    /// Writes R(x - mean), x normalised first if the metric does, into `z`, which gets `padded` elements; false if the
    /// vector cannot be indexed (zero under cosine).
    pub fn centre(&self, _x: &[f32], _z: &mut Vec<f32>) -> bool {
        todo!()
    }

    pub fn query(&self, _q: &[f32]) -> Query {
        todo!()
    }
}

/// Codes a centred vector `z` of `padded` elements with `bits` bits a dimension: `padded/8` bytes of signs (bit `i % 8`
/// of byte `i / 8` is 1 if `z_i >= 0`), and the lower bits, `bits - 1` planes of `padded/8` bytes, plane by plane within each
/// group of 64 dimensions.
pub fn encode(_z: &[f32], _bits: usize, _signs: &mut [u8], _refinement: &mut [u8]) -> Factors {
    todo!()
}

/// The vector that a code stands for, centred and rotated, into `out` of `padded` elements.
pub fn decode(_signs: &[u8], _refinement: &[u8], _bits: usize, _factors: &Factors, _out: &mut [f32]) {
    todo!()
}

/// A query against the codes of an index.
pub struct Query {}

/// What a whole code says of a distance, as keys (see [`Metric::distance`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refined {
    /// Never above the key of the distance that the operator computes.
    pub lower: f32,
    pub estimate: f32,
}

impl Query {
    /// Probable lower bounds of the keys of all rows of a code page, from their sign bits. `codes` as in
    /// [`crate::layout::Codes::codes`]; the factors have one element a lane, as has `out`. What is computed for a lane that is
    /// not in use means nothing.
    pub fn lower_bounds(
        &self,
        _codes: &[u8],
        _norm_squared: &[f32],
        _rescale: &[f32],
        _error: &[f32],
        _out: &mut [f32],
    ) {
        todo!()
    }

    /// What the whole code says.
    pub fn refine(&self, _signs: &[u8], _refinement: &[u8], _bits: usize, _factors: &Factors) -> Refined {
        todo!()
    }
}
