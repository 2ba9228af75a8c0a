//! Reading all rows of an index, for comparison with the table.

use crate::columns::Value;
use crate::index::Index;
use crate::layout::{Codes, Tid};
use crate::segments::{Visitor, all_first_segments, walk};
use crate::store::{PageStore, Recent};

/// Calls `each` for every row, with what it has in the columns. A row can come more than once if vacuum runs meanwhile.
pub fn for_each<S: PageStore>(
    store: &S,
    index: &Index,
    each: impl FnMut(Tid, &[Value]),
) -> Result<(), S::Error> {
    struct Rows<F>(F, Vec<Value>);
    impl<E, F: FnMut(Tid, &[Value])> Visitor<E> for Rows<F> {
        fn visit(&mut self, _page: Recent, codes: Codes) -> Result<bool, E> {
            for lane in codes.live_lanes() {
                self.1.clear();
                self.1.extend(codes.values(lane));
                (self.0)(codes.tid(lane), &self.1);
            }
            Ok(true)
        }
        fn restart(&mut self) {}
    }
    let mut rows = Rows(each, Vec::new());
    for first in all_first_segments(store, index)? {
        walk(store, index.lists(), first, &mut rows)?;
    }
    Ok(())
}
