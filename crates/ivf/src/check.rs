//! Checking the structure of an index.

use crate::layout::Tid;
use crate::store::PageStore;

/// Reads every page; returns what is wrong, at most `limit` problems. `each` gets every row's TID.
/// Nothing may change the index meanwhile.
pub fn check<S: PageStore>(
    _store: &S,
    _limit: usize,
    _each: &mut dyn FnMut(Tid),
) -> Result<Vec<String>, S::Error> {
    todo!()
}
