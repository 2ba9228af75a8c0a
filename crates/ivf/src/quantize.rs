//! Codes of vectors, and what they tell of distances.
//!
//! After Gao and Long, "RaBitQ" (SIGMOD 2024), and its extension to several bits (SIGMOD 2025). Different here: codes
//! are relative to one mean, and a code comes with the norm of what it loses, which makes a proved bound.
//!
//! With z = R(x - mean) and w = R(q - mean) the squared distance is |z|² + |w|² - 2 z·w, the cosine distance (of x
//! and q of norm 1) half of that, and the negative inner product, with w = R q, is -mean·q - z·w. So one form serves
//! all, see [`Form`].

use crate::kernel::{self, Bounds, Coded, Columns, Tables, norm_squared};
use crate::metric::Metric;
use crate::rotate::{Rotation, padded};
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
    /// A bound of |z - s c|, for z as it was coded; infinite if nothing can be said of the row. Negative if z was itself decoded from
    /// another code: then its magnitude is a bound also of how far z is from the row, see [`Factors::coded_again`].
    pub residual: f32,
}

impl Factors {
    /// Of a row that is too large to compute with: every bound of it is the lowest.
    const UNBOUNDED: Factors = Factors {
        norm_squared: 0.0,
        rescale: 0.0,
        error: f32::INFINITY,
        scale: 0.0,
        residual: f32::INFINITY,
    };
}

impl Factors {
    /// These are factors of what `earlier` stood for in so many dimensions, less a shift; the two are so long together, at
    /// most. What has been lost since the row itself was coded is lost by both codes.
    pub fn coded_again(self, earlier: &Factors, dims: usize, lengths: f64) -> Factors {
        if earlier.residual.is_infinite() || self.residual.is_infinite() {
            return Factors::UNBOUNDED;
        }
        let [now, before] = [self.residual, earlier.residual].map(|residual| f64::from(residual.abs()));
        // The row was rotated, and so was the shift.
        let bound = now + before + 2.0 * ROTATION_ERROR * lengths;
        // In no direction more than in others.
        let error = f64::from(self.error).hypot(before / (dims as f64).sqrt()) as f32;
        Factors { residual: -(bound as f32).next_up(), error, ..self }
    }
}

/// Standard deviations of the 1-bit estimate's error that a lower bound leaves. What they miss of the true neighbours
/// depends on the rows, as neighbours that are all about as far away are more easily confused: .0017 of those of text
/// embeddings and .0033 where clusters reach over one another (measured).
pub const FEW_DEVIATIONS: f64 = 1.9;
/// For a recall that leaves no room for that: one estimate in 700 is farther off.
pub const MANY_DEVIATIONS: f64 = 3.0;

/// What rounding to `f32` changes a number by, relative to it.
const UNIT: f64 = f32::EPSILON as f64 / 2.0;

/// Error of a centred and rotated vector relative to its norm: 56 [`UNIT`]s by the rotation (see
/// [`Rotation::apply`]), one by the subtraction of the mean, the rest to spare.
const ROTATION_ERROR: f64 = 64.0 * UNIT;

/// Error of a normalised vector of norm 1: one [`UNIT`] by the rounding of its elements, the rest to spare.
const NORMALISING_ERROR: f64 = 4.0 * UNIT;

/// Error of a vector by sums and products too small for `f32`: at most 2^-149 an operation, and they are fewer than
/// 10^5.
const UNDERFLOW: f64 = 1e-37;

/// The same for an operator's result: products of at most [`crate::layout::MAX_DIMENSIONS`] dimensions, each less than
/// `f32::MIN_POSITIVE` if it is lost.
const OPERATOR_UNDERFLOW: f64 = 1e-34;

/// Norms whose squares and products are finite as `f32` in every step.
const LARGEST_NORM: f64 = 1e18;

/// Norms whose squares, and products with others, are precise as `f32`: 10^-30 is 10^4 times what 2000 products can
/// lose by underflow. The cosine needs that, as it divides by them.
const SMALLEST_NORM: f64 = 1e-15;

/// Squared norms from here on are precise as `f32`.
const SMALLEST_SQUARE: f64 = 1e-30;

/// Error of a sum of `terms` products of `f32`, in any order, relative to the sum of their magnitudes.
fn summing_error(terms: usize) -> f64 {
    (terms + 64) as f64 * UNIT
}

/// A key is `base + norm |z|² - product z·w`, with `base = query |w|²`, but for the inner product, where it is
/// `-mean·q`.
struct Form {
    query: f64,
    norm: f64,
    product: f64,
    /// The least key there is.
    floor: f32,
}

impl Form {
    fn of(metric: Metric) -> Form {
        match metric {
            Metric::L2 => Form { query: 1.0, norm: 1.0, product: 2.0, floor: 0.0 },
            Metric::Cosine => Form { query: 0.5, norm: 0.5, product: 1.0, floor: 0.0 },
            Metric::InnerProduct => Form { query: 0.0, norm: 0.0, product: 1.0, floor: f32::NEG_INFINITY },
        }
    }
}

/// How the vectors of one index become codes.
pub struct Space {
    metric: Metric,
    rotation: Rotation,
    mean: Vec<f32>,
    mean_norm: f64,
}

impl Space {
    /// `mean` has as many elements as the vectors have dimensions.
    pub fn new(metric: Metric, seed: u64, mean: Vec<f32>) -> Space {
        Space {
            metric,
            rotation: Rotation::new(mean.len(), seed),
            mean_norm: norm_squared(&mean).sqrt(),
            mean,
        }
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    pub(crate) fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Writes R(x - mean), x normalised first if the metric does, into `z`, which gets `padded` elements; false if the
    /// vector cannot be indexed (zero under cosine).
    ///
    /// A vector of which the operator's cosine may be wrong, as squares of its elements are too large or too small
    /// for `f32`, comes out in its direction, but too long for [`encode`] to say anything of it.
    pub fn centre(&self, x: &[f32], z: &mut Vec<f32>) -> bool {
        if !self.metric.normalises() {
            self.rotated(x, z);
            return true;
        }
        let norm = norm_squared(x).sqrt();
        if norm == 0.0 {
            return false;
        }
        self.rotated(&normalised(x, norm), z);
        if !(SMALLEST_NORM..=LARGEST_NORM).contains(&norm) {
            const BEYOND: f32 = 1e30;
            z.iter_mut().for_each(|element| *element *= BEYOND);
            if norm_squared(z).sqrt() <= LARGEST_NORM {
                z[0] = BEYOND;
            }
        }
        true
    }

    /// R(-mean), which is where zero is.
    pub fn origin(&self, z: &mut Vec<f32>) {
        self.rotated(&vec![0.0; self.mean.len()], z);
    }

    /// R(mean - this mean): what to subtract from a row of this space for it to be one of the other.
    pub fn difference(&self, mean: &[f32]) -> Vec<f32> {
        let mut difference = Vec::new();
        self.rotated(mean, &mut difference);
        difference
    }

    /// The vector of which [`Space::centre`] makes `z`, for which there is no length to be lost.
    pub fn mean_at(&self, z: &[f32]) -> Vec<f32> {
        let from_mean = self.rotation.inverse(z, self.mean.len());
        from_mean.iter().zip(&self.mean).map(|(x, mean)| x + mean).collect()
    }

    /// R(x - mean)
    fn rotated(&self, x: &[f32], z: &mut Vec<f32>) {
        z.clear();
        z.extend(x.iter().zip(&self.mean).map(|(x, mean)| x - mean));
        z.resize(padded(self.mean.len()), 0.0);
        self.rotation.apply(z);
    }

    /// A query, which has as many elements as the mean.
    pub fn query(&self, q: &[f32]) -> Query {
        let mut w = Vec::new();
        match self.metric {
            Metric::L2 => self.rotated(q, &mut w),
            Metric::Cosine => self.rotated(&normalised(q, norm_squared(q).sqrt()), &mut w),
            Metric::InnerProduct => {
                w.extend_from_slice(q);
                w.resize(padded(q.len()), 0.0);
                self.rotation.apply(&mut w);
            }
        }
        self.query_of(q, w)
    }

    /// The query for a row itself, of which [`Space::centre`] made `z`.
    pub fn query_for_row(&self, x: &[f32], z: &[f32]) -> Query {
        match self.metric {
            Metric::InnerProduct => self.query(x),
            Metric::L2 | Metric::Cosine => self.query_of(x, z.to_vec()),
        }
    }

    /// The query for a row of which there is no more than its code: `z` is what that stands for.
    pub fn query_for_code(&self, z: &[f32]) -> Query {
        let mut w = z.to_vec();
        if self.metric != Metric::InnerProduct {
            // The norm matters in so far as it is a usual one.
            return self.query_with(1.0, 0.0, w);
        }
        let mut origin = Vec::new();
        self.origin(&mut origin);
        w.iter_mut().zip(&origin).for_each(|(w, origin)| *w -= origin);
        let mean_product = -product(&origin, &w);
        self.query_with(norm_squared(&w).sqrt(), mean_product, w)
    }

    /// `w`: the query, centred (but not for the inner product) and rotated.
    fn query_of(&self, q: &[f32], w: Vec<f32>) -> Query {
        let mean_product = if self.metric == Metric::InnerProduct { product(&self.mean, q) } else { 0.0 };
        self.query_with(norm_squared(q).sqrt(), mean_product, w)
    }

    /// `q_norm`: |q|; `mean_product`: mean·q, for the inner product.
    fn query_with(&self, q_norm: f64, mean_product: f64, w: Vec<f32>) -> Query {
        let form = Form::of(self.metric);
        let norm = norm_squared(&w).sqrt();
        let base = match self.metric {
            Metric::InnerProduct => -mean_product,
            _ => form.query * norm * norm,
        };
        let bounded = norm <= LARGEST_NORM
            && match self.metric {
                Metric::L2 => true,
                Metric::Cosine => (SMALLEST_NORM..=LARGEST_NORM).contains(&q_norm),
                Metric::InnerProduct => self.mean_norm <= LARGEST_NORM,
            };
        let tables = Tables::new(&w);
        let bounds = Bounds {
            // A NaN makes every bound the lowest.
            base: if bounded { base as f32 } else { f32::NAN },
            norm: form.norm as f32,
            product: form.product as f32,
            error: (form.product * FEW_DEVIATIONS * norm) as f32,
            floor: form.floor,
        };
        let sum = w.chunks(8).map(|part| part.iter().copied().map(f64::from).sum::<f64>()).sum();
        let mean_norm = self.mean_norm;
        Query { metric: self.metric, w, tables, bounds, base, norm, sum, q_norm, mean_norm, bounded }
    }
}

/// x·y
fn product(x: &[f32], y: &[f32]) -> f64 {
    // In parts that need not wait for each other.
    let part =
        |(x, y): (&[f32], &[f32])| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    x.chunks(8).zip(y.chunks(8)).map(part).sum()
}

/// x / |x|; zero if x is.
fn normalised(x: &[f32], norm: f64) -> Vec<f32> {
    let inverse = if norm == 0.0 { 0.0 } else { 1.0 / norm };
    x.iter().map(|&x| (f64::from(x) * inverse) as f32).collect()
}

/// Codes a centred vector `z` of `padded` elements with `bits` bits a dimension: `padded/8` bytes of signs (bit `i %
/// 8` of byte `i / 8` is 1 if `z_i >= 0`), and the lower bits, `bits - 1` planes of `padded/8` bytes, plane by plane
/// within each group of 64 dimensions.
///
/// The bits are those of `c_i + (2^bits - 1) / 2`, the sign on top and the most significant plane first: c_i has the
/// sign of z_i and one of the magnitudes 1/2, 3/2, ... up to `2^(bits-1) - 1/2`.
pub fn encode(z: &[f32], bits: usize, signs: &mut [u8], refinement: &mut [u8]) -> Factors {
    let norm_squared = norm_squared(z);
    if norm_squared.is_nan() || norm_squared > LARGEST_NORM * LARGEST_NORM {
        signs.fill(0);
        refinement.fill(0);
        return Factors::UNBOUNDED;
    }
    let Coded { absolute, scale, lost } = kernel::encode(z, bits, signs, refinement);
    if absolute == 0.0 {
        return Factors::zeroed();
    }
    let dims = z.len() as f64;
    // The square of the cosine between z and its signs.
    let cosine = absolute * absolute / (dims * norm_squared);
    let variance = norm_squared * (1.0 / cosine - 1.0).max(0.0) / (dims - 1.0);
    Factors {
        norm_squared: norm_squared as f32,
        rescale: (norm_squared / absolute) as f32,
        error: variance.sqrt() as f32,
        scale,
        residual: (lost.sqrt() as f32).next_up(),
    }
}

/// The vector that a code stands for, centred and rotated, into `out` of `padded` elements.
pub fn decode(signs: &[u8], refinement: &[u8], bits: usize, factors: &Factors, out: &mut [f32]) {
    kernel::code(signs, refinement, bits, out);
    for c in out {
        *c *= factors.scale;
    }
}

/// A query against the codes of an index.
pub struct Query {
    metric: Metric,
    /// The query, centred (but not for the inner product) and rotated.
    w: Vec<f32>,
    tables: Tables,
    bounds: Bounds,
    base: f64,
    /// |w|
    norm: f64,
    /// sum w_i
    sum: f64,
    /// |q|, before any normalisation.
    q_norm: f64,
    mean_norm: f64,
    /// Small enough to say anything of distances to it.
    bounded: bool,
}

/// What a whole code says of a distance, as keys (see [`Metric::distance`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Refined {
    /// Never above the key of the distance that the operator computes.
    pub lower: f32,
    pub estimate: f32,
}

impl Query {
    /// The same query, whose [`Query::lower_bounds`] leave so many standard deviations.
    pub fn allowing_for(mut self, deviations: f64) -> Query {
        self.bounds.error = (Form::of(self.metric).product * deviations * self.norm) as f32;
        self
    }

    /// Whether something can be said of the distances of rows to it: it is not zero, unless by L2, and no number is too large.
    pub fn has_distances(&self) -> bool {
        self.bounded && (self.metric == Metric::L2 || self.q_norm > 0.0)
    }

    /// Probable lower bounds of the keys of all rows of a code page, from their sign bits. `codes` as in
    /// [`crate::layout::Codes::codes`]; the factors have one element a lane, as has `out`. What is computed for a
    /// lane that is not in use means nothing.
    pub fn lower_bounds(
        &self,
        codes: &[u8],
        norm_squared: &[f32],
        rescale: &[f32],
        error: &[f32],
        out: &mut [f32],
    ) {
        kernel::bounds(&self.tables, &self.bounds, codes, Columns { norm_squared, rescale, error }, out);
    }

    /// What the whole code says.
    ///
    /// Let s c be the multiple of the code nearest to z: then z = s c + e with e at right angles to c, so that `z·w`
    /// is `s c·w` but for at most |e| times the part of w at right angles to c.
    pub fn refine(&self, signs: &[u8], refinement: &[u8], bits: usize, factors: &Factors) -> Refined {
        let form = Form::of(self.metric);
        let product = kernel::code_product(signs, refinement, bits, &self.w);
        let product = f64::from(factors.scale) * (f64::from(product) + 0.5 * self.sum);
        let norm_squared = f64::from(factors.norm_squared);
        let key = self.base + form.norm * norm_squared - form.product * product;
        let estimate = if key.is_nan() { 0.0 } else { key.clamp(form.floor.into(), f32::MAX.into()) as f32 };
        if !self.bounded || factors.residual.is_infinite() {
            return Refined { lower: form.floor, estimate: estimate.max(f32::MIN) };
        }

        let mut lower = key - self.uncertainty(factors, product);
        if factors.residual < 0.0 {
            lower = self.as_far(lower, -f64::from(factors.residual));
        }
        let lower = self.rounded_distance(lower, largest_norm(factors));
        Refined { lower: below(lower).max(form.floor), estimate }
    }

    /// The least key of what is at most so far from a row with this key.
    fn as_far(&self, key: f64, distance: f64) -> f64 {
        let nearer = |squared: f64| (squared.max(0.0).sqrt() - distance).max(0.0).powi(2);
        match self.metric {
            Metric::L2 => nearer(key),
            Metric::Cosine => nearer(2.0 * key) / 2.0,
            Metric::InnerProduct => key - distance * self.norm,
        }
    }

    /// How far the key of a row can be from the one computed with `product` for `z·w`.
    fn uncertainty(&self, factors: &Factors, product: f64) -> f64 {
        let form = Form::of(self.metric);
        let z_squared = f64::from(factors.norm_squared) * (1.0 + 2.0 * UNIT);
        let z_norm = largest_norm(factors);
        // Of the sums (see `code_product`, whose terms are up to twice those of |c||w|) and of the scale.
        let product_error = summing_error(self.w.len()) * z_norm * self.norm;

        let along = (product.abs() - product_error).max(0.0);
        let w_squared = self.norm * self.norm;
        let across =
            if z_squared < SMALLEST_SQUARE { w_squared } else { w_squared - along * along / z_squared };
        // 1e-12: for the rounding of this line's f64.
        let across = (across + 1e-12 * w_squared).max(0.0).sqrt();
        let lost = f64::from(factors.residual.abs()) * across + product_error;

        let [z_error, w_error] = [z_norm, self.norm].map(|norm| self.vector_error(norm));
        let moved = match self.metric {
            Metric::InnerProduct => z_error * self.norm + z_norm * w_error + z_error * w_error,
            // (d + error)² - d², for a distance d of at most |z| + |w|; half of it for the cosine.
            _ => form.norm * (2.0 * (z_norm + self.norm) + z_error + w_error) * (z_error + w_error),
        };
        form.product * lost + moved + 2.0 * UNIT * form.norm * z_squared
    }

    /// Error of a rotated vector of this norm.
    fn vector_error(&self, norm: f64) -> f64 {
        let normalising = if self.metric.normalises() { NORMALISING_ERROR } else { 0.0 };
        ROTATION_ERROR * norm + normalising + UNDERFLOW
    }

    /// The least that the operator can make of a pair of vectors whose exact key is at least `key`.
    fn rounded_distance(&self, key: f64, z_norm: f64) -> f64 {
        let error = summing_error(self.w.len());
        match self.metric {
            Metric::L2 => key * (1.0 - error) - OPERATOR_UNDERFLOW,
            // The product and both norms, those by half as much under the root.
            Metric::Cosine => key - 3.0 * error,
            Metric::InnerProduct => {
                let x_norm = z_norm + self.vector_error(z_norm) + self.mean_norm;
                // 1e-12: for the rounding of `base`, an f64.
                key - error * x_norm * self.q_norm - 1e-12 * self.mean_norm * self.q_norm - OPERATOR_UNDERFLOW
            }
        }
    }
}

/// At least |z|: the square is rounded, and vanishes if it is too small.
fn largest_norm(factors: &Factors) -> f64 {
    (f64::from(factors.norm_squared) * (1.0 + 2.0 * UNIT) + 1e-44).sqrt()
}

/// The next `f32` below or at `x`.
fn below(x: f64) -> f32 {
    let rounded = x as f32;
    if f64::from(rounded) > x { rounded.next_down() } else { rounded }
}

#[cfg(test)]
mod tests;
