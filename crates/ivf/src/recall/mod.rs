//! How far a scan has to read for the recall that is asked for: measured when the lists are made, by looking for the true
//! neighbours of some rows.
//!
//! Lists are read in the order of their centroids' keys, as long as their [`score`] is within a threshold. A number of
//! lists would be too many for a query in the midst of a cluster, and too few for one between several; README.md, "Recall", has
//! figures.

mod curve;
mod measure;
mod reach;

pub use curve::Curve;
pub use measure::{Example, LEAST_QUERIES, MOST_QUERIES, calibrate, memory, try_out};
pub(crate) use reach::Reach;

/// Rows whose neighbours are sought. A tenth more or fewer of a query's neighbours found is usual, so that a recall of .95
/// is known within .005 (a standard error).
pub const QUERIES: usize = 400;

/// Neighbours of each, as the first page of a search has them.
const NEIGHBOURS: usize = 10;

/// How far out a query's list number `rank`, from 1, is: 0 for the first, and never less than for those before it.
///
/// Rank and distance together tell better than either alone where neighbours are. The ratio of two distances, which others
/// use, reads more for the same recall (measured).
pub(crate) fn score(rank: usize, key: f32, nearest: f32) -> f64 {
    rank as f64 * (f64::from(key) - f64::from(nearest)).max(0.0)
}
