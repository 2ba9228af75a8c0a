//! Text to vector: reads a sentence-embedding model folder, tokenises, runs the model, pools and normalises.
//!
//! Knows nothing of Postgres. Long work calls a `check` function between steps; it may unwind (a cancelled query).

mod batch;
pub mod cache;
pub mod catalog;
mod error;
mod model;
mod onnx;
mod pool;
mod session;
mod spec;
mod tokenize;
mod weights;
mod wordpiece;

pub use error::Error;
pub use model::{Embedded, Embedding, Kind, Model, Options, Weights};
pub use onnx::Precision;
pub use spec::{ModelSpec, Pooling};
