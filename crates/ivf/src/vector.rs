//! Element-wise arithmetic on vectors.

/// What arithmetic on vectors can refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    #[error("different vector dimensions {0} and {1}")]
    DifferentDimensions(usize, usize),
    #[error("value out of range: overflow")]
    Overflow,
    #[error("value out of range: underflow")]
    Underflow,
}
