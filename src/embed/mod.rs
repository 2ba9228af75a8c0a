//! SQL functions that turn text into vectors.

mod array;
mod functions;
mod models;
mod support;
mod text;
mod trigger;
