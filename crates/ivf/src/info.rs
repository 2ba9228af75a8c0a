//! What can be told about an index.

use crate::store::PageStore;

#[derive(Debug, Clone)]
pub struct Info {
    pub dims: u32,
    pub metric: crate::metric::Metric,
    pub bits: u32,
    pub lists: u32,
    pub rows: u64,
    /// Rows of the longest list.
    pub longest_list: u64,
    pub empty_lists: u64,
    /// How much longer a scan takes than with lists of equal length: lists * sum(rows²) / rows².
    pub imbalance: f64,
    pub pages: u32,
    pub free_pages: u32,
    pub segments: u64,
    pub trained_rows: u64,
    /// Microseconds since 1970.
    pub trained_at: i64,
    /// Lists that a scan reads with `ivf.probes = 0`.
    pub automatic_probes: u32,
}

pub fn info<S: PageStore>(_store: &S) -> Result<Info, S::Error> {
    todo!()
}
