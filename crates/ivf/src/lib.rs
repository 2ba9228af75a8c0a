//! Vectors without Postgres: exact distances and element-wise arithmetic.
//!
//! The inverted-file index itself joins in a later version.

pub mod distance;
pub mod kernel;
pub mod vector;
