//! Vectors without Postgres: exact distances, element-wise arithmetic, and an inverted-file index with quantised codes.
//!
//! The index is generic over a [`store::PageStore`]; README.md describes the algorithm, the pages and the locks.

pub mod build;
pub mod check;
mod collect;
pub mod columns;
pub mod distance;
pub mod estimate;
pub mod filter;
pub mod geometry;
pub mod index;
pub mod info;
pub mod insert;
pub mod kernel;
pub mod kmeans;
pub mod layout;
pub mod measure;
pub mod memstore;
pub mod metric;
pub mod pca;
pub mod quantize;
pub mod random;
pub mod recall;
pub mod reorder;
pub mod rotate;
pub mod rows;
pub mod scan;
mod segments;
pub mod shape;
mod shortlist;
pub mod store;
pub mod sweep;
pub mod train;
mod trained;
pub mod vacuum;
pub mod vector;
mod writer;
