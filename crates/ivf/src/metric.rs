//! The distances an index can serve, one row of a table each.

use crate::distance;
use crate::vector::VectorError;

/// What an operator class orders by. The discriminants are stored in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Metric {
    /// `<->`, Euclidean distance.
    L2 = 1,
    /// `<#>`, the negative inner product.
    InnerProduct = 2,
    /// `<=>`, `1 - cos`.
    Cosine = 3,
}

impl Metric {
    pub fn from_stored(value: u32) -> Option<Metric> {
        [Metric::L2, Metric::InnerProduct, Metric::Cosine].into_iter().find(|&metric| metric as u32 == value)
    }

    /// Vectors are indexed by direction: stored as `x / |x|`, and a zero vector is not indexed.
    pub fn normalises(self) -> bool {
        self == Metric::Cosine
    }

    /// Centroids are compared by direction (spherical k-means).
    pub fn spherical(self) -> bool {
        self != Metric::L2
    }

    /// What the operator returns.
    pub fn operator(self, a: &[f32], b: &[f32]) -> Result<f64, VectorError> {
        match self {
            Metric::L2 => distance::l2(a, b),
            Metric::InnerProduct => distance::negative_inner_product(a, b),
            Metric::Cosine => distance::cosine(a, b),
        }
    }

    /// The operator's distance for a key of the index: keys are what the index orders by, cheaper to compute, with the
    /// same order. L2: the squared distance; the others: the distance itself.
    pub fn distance(self, key: f32) -> f64 {
        let key = f64::from(key);
        if self == Metric::L2 { key.max(0.0).sqrt() } else { key }
    }
}
