//! Guessing how many rows are within a distance, without a search.

use crate::index::Index;
use crate::layout::Codes;
use crate::segments::{first_segments, refine_lanes};
use crate::store::PageStore;

/// Lists that are looked into, and rows of each: 400 whole codes take 0.1 ms.
const LISTS: usize = 8;
const ROWS: usize = 50;

/// The share of rows that are no farther than `within`, by some of lists that are spread over the directory: shares below one of some
/// hundreds are not told apart. `query` has the index's dimensions, which it knows.
pub fn share_within<S: PageStore>(
    store: &S,
    index: &Index,
    query: &[f32],
    within: f64,
) -> Result<f64, S::Error> {
    let query = index.space.query(query);
    let metric = index.space.metric();
    let (mut rows, mut found) = (0usize, 0usize);
    let mut signs = Vec::new();
    let firsts = first_segments(store, index)?;
    let step = firsts.len().div_ceil(LISTS).max(1);
    for &first in firsts.iter().step_by(step) {
        store.check_interrupts()?;
        let page = store.read(first)?;
        let codes = Codes::of(&page, &index.geometry, first)?;
        let lanes = codes.live_lanes().take(ROWS);
        refine_lanes(store, &index.geometry, (first, codes), lanes, &query, &mut signs, |_, refined| {
            rows += 1;
            found += usize::from(metric.distance(refined.estimate) <= within);
        })?;
    }
    // Neither none nor all.
    Ok((found as f64 + 0.5) / (rows as f64 + 1.0))
}
