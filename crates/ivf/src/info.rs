//! What can be told about an index.

use crate::index::{Index, automatic_probes};
use crate::metric::Metric;
use crate::segments::{count_rows, first_segments};
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
    /// How many more rows a scan for a stored row reads than with lists of equal length: `lists * sum(n²) / (sum n)²`.
    pub imbalance: f64,
    pub pages: u32,
    pub free_pages: u32,
    pub trained_rows: u64,
    /// Microseconds since 1970.
    pub trained_at: i64,
    /// Lists that a scan reads with `ivf.probes = 0`.
    pub automatic_probes: u32,
}

/// Reads every code page.
pub fn info<S: PageStore>(store: &S) -> Result<Info, S::Error> {
    let index = Index::open(store)?;
    // Rows of each.
    let mut lists: Vec<u64> = Vec::new();
    for first in first_segments(store, &index)? {
        lists.push(count_rows(store, &index, first)?);
    }
    let rows: u64 = lists.iter().sum();
    let squares: f64 = lists.iter().map(|&rows| (rows as f64).powi(2)).sum();
    let meta = index.meta;
    Ok(Info {
        dims: meta.dims,
        metric: index.space.metric(),
        bits: meta.bits,
        lists: meta.lists,
        rows,
        longest_list: lists.iter().copied().max().unwrap_or(0),
        empty_lists: lists.iter().filter(|&&rows| rows == 0).count() as u64,
        imbalance: if rows == 0 { 1.0 } else { lists.len() as f64 * squares / (rows as f64).powi(2) },
        pages: store.blocks()?,
        free_pages: meta.free_pages,
        trained_rows: meta.trained_rows,
        trained_at: meta.trained_at,
        automatic_probes: automatic_probes(meta.lists as usize) as u32,
    })
}
