//! A random rotation without a matrix: rounds of sign flips and fast Hadamard transforms.

/// Dimensions of a rotated vector: whole words of 64 bits.
pub fn padded(dims: usize) -> usize {
    dims.next_multiple_of(64)
}

pub struct Rotation {}

impl Rotation {
    pub fn new(_dims: usize, _seed: u64) -> Rotation {
        todo!()
    }

    /// Rotates a vector of `padded(dims)` elements in place.
    pub fn apply(&self, _vector: &mut [f32]) {
        todo!()
    }
}
