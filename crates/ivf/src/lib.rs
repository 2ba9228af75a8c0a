//! Vectors without Postgres: exact distances and element-wise arithmetic.
//!
//! The inverted-file index itself joins in a later step; see `shared/design/ivf.md`.

pub mod distance;
pub mod kernel;
pub mod vector;
