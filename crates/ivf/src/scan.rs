//! Finding rows in the order of their distance.

use std::collections::BinaryHeap;
use std::ops::Range;
use std::rc::Rc;

use crate::collect::{Candidate, Collector, Mode, Place};
use crate::index::{Index, automatic_probes};
use crate::layout::Tid;
use crate::quantize::{Query, Refined};
use crate::segments::{self, List};
use crate::store::PageStore;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Lists to scan before the first row is returned; 0 = automatic.
    pub probes: usize,
    /// Goes on to further lists when those are used up.
    pub iterative: bool,
    /// Lists to scan at most, in all, unless `probes` is greater.
    pub max_probes: usize,
    pub order: Order,
    /// Bytes for the rows that have been seen and not returned. If they do not fit, lists are read more than once.
    pub memory: usize,
}

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A lower bound of the distance, proved; whoever asks computes the distance.
    Bound,
    /// The estimate of the distance.
    Estimate,
}

impl Order {
    pub(crate) fn key(self, refined: Refined) -> f32 {
        match self {
            Order::Bound => refined.lower,
            Order::Estimate => refined.estimate,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    pub tid: Tid,
    /// The operator's distance, or a bound of it; `None` for a NULL query.
    pub distance: Option<f64>,
}

/// What a scan has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Lists whose code pages were read.
    pub lists: u64,
    /// Rows in them.
    pub rows: u64,
    /// Rows whose whole code was read.
    pub refinements: u64,
}

pub struct Scan {
    index: Rc<Index>,
    query: Option<Query>,
    options: Options,
    /// All lists, once the directory has been read; from the end of `batch` on they are in no order.
    lists: Option<Vec<List>>,
    /// The lists that are being returned.
    batch: Range<usize>,
    /// Rows of the batch after this place are not among the candidates yet.
    cut: Option<Place>,
    candidates: BinaryHeap<Candidate>,
    signs: Vec<u8>,
    statistics: Statistics,
}

impl Scan {
    /// `query` has the index's dimensions, if it knows them; `None` returns every row of every list, in no order.
    pub fn new(index: Rc<Index>, query: Option<&[f32]>, options: Options) -> Scan {
        Scan {
            query: query.filter(|_| index.knows_dimensions()).map(|query| index.space.query(query)),
            index,
            options,
            lists: None,
            batch: 0..0,
            cut: None,
            candidates: BinaryHeap::new(),
            signs: Vec::new(),
            statistics: Statistics::default(),
        }
    }

    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The next row; those of the first probes come in order, those of each further batch of lists too.
    pub fn next<S: PageStore>(&mut self, store: &S) -> Result<Option<Hit>, S::Error> {
        loop {
            let Some(mut candidate) = self.candidates.pop() else {
                if self.cut.is_some() || self.probe(store)? {
                    self.collect(store)?;
                    continue;
                }
                return Ok(None);
            };
            let Some(query) = &self.query else {
                return Ok(Some(Hit { tid: candidate.tid, distance: None }));
            };
            if candidate.refined {
                // No greater than every key still open: nothing that comes can be nearer than its own bound, which is
                // greater.
                let distance = self.index.space.metric().distance(candidate.key);
                return Ok(Some(Hit { tid: candidate.tid, distance: Some(distance) }));
            }
            store.check_interrupts()?;
            self.statistics.refinements += 1;
            let row = (candidate.block, usize::from(candidate.lane), candidate.tid);
            if let Some(refined) = segments::refine(store, &self.index.geometry, row, query, &mut self.signs)?
            {
                candidate.key = self.options.order.key(refined);
                candidate.refined = true;
                self.candidates.push(candidate);
            }
        }
    }

    /// Chooses the next batch of lists; false if there are no more to read.
    fn probe<S: PageStore>(&mut self, store: &S) -> Result<bool, S::Error> {
        if !self.index.knows_dimensions() {
            return Ok(false); // no rows, when it was opened
        }
        let mut lists = match (self.lists.take(), &self.query) {
            (Some(lists), _) => lists,
            (None, Some(query)) => segments::lists(store, &self.index, query)?,
            (None, None) => {
                let firsts = segments::first_segments(store, &self.index)?;
                firsts.into_iter().map(|first| List { key: 0.0, first, run: 1 }).collect()
            }
        };
        let options = &self.options;
        let probes = match options.probes {
            // A NULL query has no nearest lists.
            _ if self.query.is_none() => lists.len(),
            0 => automatic_probes(lists.len()).min(options.max_probes),
            probes => probes,
        };
        let limit = if options.iterative { probes.max(options.max_probes) } else { probes }.min(lists.len());
        self.batch = self.batch.end..(self.batch.end + probes).min(limit);
        let (wanted, open) = (self.batch.len(), &mut lists[self.batch.start..]);
        let nearer = |a: &List, b: &List| a.key.total_cmp(&b.key);
        if (1..open.len()).contains(&wanted) {
            open.select_nth_unstable_by(wanted - 1, nearer);
        }
        open[..wanted].sort_unstable_by(nearer);
        self.statistics.lists += wanted as u64;
        self.lists = Some(lists);
        Ok(wanted > 0)
    }

    /// Reads the rows of the batch, from the place where the last reading was cut off.
    fn collect<S: PageStore>(&mut self, store: &S) -> Result<(), S::Error> {
        let lists = self.lists.as_deref().unwrap_or_default();
        // If every list is read, the answer shall be exact, while the sign bits' bounds hold for most rows only.
        let whole_codes = self.cut.is_some() || self.batch == (0..lists.len());
        let mut mode = match &self.query {
            None => Mode::Everything,
            Some(query) if whole_codes => Mode::WholeCodes(query),
            Some(query) => Mode::Signs(query),
        };
        // Empty here, but for its memory.
        let mut candidates = std::mem::take(&mut self.candidates).into_vec();
        loop {
            let mut collector = Collector::new(
                store,
                &self.index,
                mode,
                &self.options,
                self.cut,
                candidates,
                &mut self.signs,
            );
            let complete = collector.read(&lists[self.batch.clone()])?;
            self.statistics.rows += collector.rows;
            self.statistics.refinements += collector.refinements;
            (candidates, self.cut) = (collector.candidates, collector.cut);
            if complete {
                break;
            }
            if let Mode::Signs(query) = mode {
                mode = Mode::WholeCodes(query);
            }
        }
        self.candidates = BinaryHeap::from(candidates);
        Ok(())
    }
}
