//! SQL functions that turn text into vectors.

mod array;
mod functions;
mod models;
mod support;
pub mod text;
mod trigger;
