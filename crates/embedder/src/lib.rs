//! Text to vector: reads a sentence-embedding model folder, tokenises, runs the model, pools and normalises. Also a
//! query and documents to scores, by a cross-encoder.
//!
//! Knows nothing of Postgres. Long work asks [`Interrupts`] whether to go on (a cancelled query).

mod batch;
pub mod cache;
pub mod catalog;
pub mod chunk;
mod error;
mod interface;
mod interrupts;
mod loading;
mod memory;
mod model;
mod onnx;
mod pool;
mod session;
mod spec;
mod tokenize;
mod weights;
mod wordpiece;

pub use error::Error;
pub use interrupts::Interrupts;
pub use loading::{Loading, is_loading};
pub use memory::ensure as ensure_memory;
pub use model::{Embedded, Embedding, Kind, Model, Options, Weights};
pub use onnx::Precision;
pub use spec::{Activation, ModelSpec, Pooling, Task};
