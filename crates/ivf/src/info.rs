//! What can be told about an index.

use crate::index::Index;
use crate::metric::Metric;
use crate::recall::Curve;
use crate::segments::{all_first_segments, count_rows};
use crate::shape::Shape;
use crate::store::PageStore;

#[derive(Debug, Clone)]
pub struct Info {
    pub dims: u32,
    pub metric: Metric,
    pub bits: u32,
    pub lists: u32,
    pub rows: u64,
    /// Rows of the longest list.
    pub longest_list: u64,
    pub empty_lists: u64,
    /// Rows of the fresh list.
    pub fresh_rows: u64,
    /// [`crate::shape::imbalance`]
    pub imbalance: f64,
    pub pages: u32,
    pub free_pages: u32,
    pub trained_rows: u64,
    /// Vacuum would train it again.
    pub due: bool,
    /// Microseconds since 1970.
    pub trained_at: i64,
    /// How far scans have to read.
    pub curve: Curve,
}

/// Reads every code page. `wanted_lists`: what the user has asked for.
pub fn info<S: PageStore>(store: &S, wanted_lists: Option<usize>) -> Result<Info, S::Error> {
    let index = Index::open(store)?;
    // Rows of each; the fresh list is the last.
    let mut lists: Vec<u64> = Vec::new();
    for first in all_first_segments(store, &index)? {
        lists.push(count_rows(store, &index, first)?);
    }
    let shape = Shape::of(&lists);
    lists.pop();
    let meta = index.meta;
    Ok(Info {
        dims: meta.dims,
        metric: index.space.metric(),
        bits: meta.bits,
        lists: meta.lists,
        rows: shape.rows,
        longest_list: lists.iter().copied().max().unwrap_or(0),
        empty_lists: lists.iter().filter(|&&rows| rows == 0).count() as u64,
        fresh_rows: shape.fresh,
        imbalance: shape.imbalance,
        due: shape.is_due(&meta, wanted_lists).is_some(),
        pages: store.blocks()?,
        free_pages: meta.free_pages,
        trained_rows: meta.trained_rows,
        trained_at: meta.trained_at,
        curve: meta.curve,
    })
}
