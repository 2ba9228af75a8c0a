//! Guessing how many rows are within a distance, without a search.

use crate::index::Index;
use crate::layout::Codes;
use crate::quantize::Query;
use crate::segments::{Directory, first_segments, refine_lanes};
use crate::store::{Block, PageStore};

/// Lists that are looked into, of those nearest to the query and of the others, and rows of each: 400 whole codes take 0.1 ms.
const NEAR: usize = 4;
const FAR: usize = 4;
const ROWS: usize = 50;

/// The share of rows that are no farther than `within`, by the nearest lists and some of the others, spread over the directory.
/// Lists are taken to be equally long. `query` has the index's dimensions, which it knows.
pub fn share_within<S: PageStore>(
    store: &S,
    index: &Index,
    query: &[f32],
    within: f64,
) -> Result<f64, S::Error> {
    let query = index.space.query(query);
    let mut directory = Directory::read(store, index, &query)?;
    let nearest = directory.nearest(store, index, &query, NEAR, &mut Vec::new())?;
    let near: Vec<Block> = nearest.iter().map(|list| list.first).collect();
    let mut far = first_segments(store, index)?;
    far.retain(|first| !near.contains(first));
    let step = far.len().div_ceil(FAR).max(1);
    let some: Vec<Block> = far.iter().copied().step_by(step).collect();

    let lists = (near.len() + far.len()) as f64;
    let by_near = share_of(store, index, &query, within, &near)? * near.len() as f64;
    let by_far = share_of(store, index, &query, within, &some)? * far.len() as f64;
    // Neither none nor all; less than half a row of a list cannot be told.
    let least = 0.5 / (lists * ROWS as f64);
    Ok(((by_near + by_far) / lists).clamp(least, 1.0 - least))
}

/// Likewise, of the first rows of these lists.
fn share_of<S: PageStore>(
    store: &S,
    index: &Index,
    query: &Query,
    within: f64,
    firsts: &[Block],
) -> Result<f64, S::Error> {
    let metric = index.space.metric();
    let (mut rows, mut found) = (0usize, 0usize);
    let mut signs = Vec::new();
    for &first in firsts {
        store.check_interrupts()?;
        let page = store.read(first)?;
        let codes = Codes::of(&page, &index.geometry, first)?;
        let lanes = codes.live_lanes().take(ROWS);
        refine_lanes(store, &index.geometry, (first, codes), lanes, query, &mut signs, |_, refined| {
            rows += 1;
            found += usize::from(metric.distance(refined.estimate) <= within);
        })?;
    }
    Ok(found as f64 / rows.max(1) as f64)
}
