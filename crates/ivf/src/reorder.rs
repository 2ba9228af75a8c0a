//! Rows in the exact order of their distance, for somebody who cannot sort what comes by bounds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::layout::Tid;
use crate::scan::{Hit, Scan};
use crate::store::{IndexError, PageStore};

/// Holds back the rows of a [`Scan`] by [`Order::Bound`](crate::scan::Order::Bound) until no later one can be nearer.
#[derive(Default)]
pub struct Reorder {
    /// The scan's next row, which has not been looked at; what follows it is no nearer than its bound.
    ahead: Option<Hit>,
    started: bool,
    waiting: BinaryHeap<Reverse<Row>>,
}

struct Row {
    distance: f64,
    tid: Tid,
}

impl Reorder {
    /// The next row, with its exact distance, which `distance` tells; `None` from it is a row that is not to be returned.
    /// Rows of further batches of lists may be nearer than some before them, as those of the scan itself.
    ///
    /// # Errors
    ///
    /// [`IndexError::Nearer`] if a row is nearer than its bound: its code is damaged, or not that of this row.
    pub fn next<S: PageStore>(
        &mut self,
        scan: &mut Scan,
        store: &S,
        mut distance: impl FnMut(Tid) -> Option<f64>,
    ) -> Result<Option<Hit>, S::Error> {
        if !self.started {
            self.ahead = scan.next(store)?;
            self.started = true;
        }
        loop {
            let bound = self.ahead.and_then(|hit| hit.distance);
            let ready =
                |row: &Reverse<Row>| bound.is_none_or(|bound| row.0.distance.total_cmp(&bound).is_le());
            if self.waiting.peek().is_some_and(ready) {
                return Ok(self
                    .waiting
                    .pop()
                    .map(|Reverse(row)| Hit { tid: row.tid, distance: Some(row.distance) }));
            }
            let Some(hit) = self.ahead else { return Ok(None) };
            if let Some(distance) = distance(hit.tid) {
                if let Some(bound) = hit.distance
                    && distance < bound
                {
                    return Err(IndexError::Nearer { distance, bound }.into());
                }
                self.waiting.push(Reverse(Row { distance, tid: hit.tid }));
            }
            self.ahead = scan.next(store)?;
        }
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.distance.total_cmp(&other.distance)
    }
}
