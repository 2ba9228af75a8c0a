//! The `vector` type: pgvector's surface, to the letter.

mod aggregates;
mod array;
mod call;
mod casts;
mod datum;
mod functions;
mod io;
mod operators;
mod typmod;

pub use datum::{MAX_DIMENSIONS, Vector, VectorBuf};
