//! Removing dead rows.

use crate::index::Index;
use crate::layout::Tid;
use crate::store::PageStore;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub removed: u64,
    /// Rows left.
    pub rows: u64,
    pub pages: u32,
    pub free_pages: u32,
    /// Pages that this vacuum freed.
    pub freed_pages: u32,
}

/// Frees the lanes of the rows for which `is_dead`, and the segments that become empty.
pub fn bulk_delete<S: PageStore>(
    _store: &S,
    _index: &Index,
    _is_dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<Counts, S::Error> {
    todo!()
}

/// Counts rows and pages; changes nothing but the counters of the metapage, if they are wrong.
pub fn count<S: PageStore>(_store: &S, _index: &Index) -> Result<Counts, S::Error> {
    todo!()
}
