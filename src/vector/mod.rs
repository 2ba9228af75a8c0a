//! The `vector` type: pgvector's surface, to the letter.

pub mod datum;
mod io;
