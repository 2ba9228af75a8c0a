//! Inserting one row.

use crate::index::Index;
use crate::layout::Tid;
use crate::store::PageStore;

/// Adds a row; false if it is not indexed (zero under cosine). The vector has the index's dimensions.
pub fn insert<S: PageStore>(_store: &S, _index: &Index, _tid: Tid, _vector: &[f32]) -> Result<bool, S::Error> {
    todo!()
}
