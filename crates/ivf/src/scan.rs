//! Finding rows in the order of their distance.

use std::rc::Rc;

use crate::index::Index;
use crate::layout::Tid;
use crate::store::PageStore;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Lists to scan before the first row is returned; 0 = automatic.
    pub probes: usize,
    /// Goes on to further lists when those are used up.
    pub iterative: bool,
    /// Lists to scan at most.
    pub max_probes: usize,
    pub order: Order,
}

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A lower bound of the distance, proved; whoever asks computes the distance.
    Bound,
    /// The estimate of the distance.
    Estimate,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    pub tid: Tid,
    /// The operator's distance, or a bound of it; `None` for a NULL query.
    pub distance: Option<f64>,
}

pub struct Scan {
    index: Rc<Index>,
}

impl Scan {
    /// `query` has the index's dimensions; `None` returns every row of every list, in no order.
    pub fn new(_index: Rc<Index>, _query: Option<&[f32]>, _options: Options) -> Scan {
        todo!()
    }

    pub fn next<S: PageStore>(&mut self, _store: &S) -> Result<Option<Hit>, S::Error> {
        todo!()
    }

    pub fn statistics(&self) -> Statistics {
        todo!()
    }
}

/// What a scan has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    pub lists: u64,
    pub rows: u64,
    pub refinements: u64,
}
