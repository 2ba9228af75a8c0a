//! Finding rows in the order of their distance.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;

use crate::index::{Index, automatic_probes};
use crate::layout::{Codes, Tid};
use crate::quantize::Query;
use crate::segments::{self, List, Visitor, walk};
use crate::store::{Block, PageStore};

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Lists to scan before the first row is returned; 0 = automatic.
    pub probes: usize,
    /// Goes on to further lists when those are used up.
    pub iterative: bool,
    /// Lists to scan at most, in all, unless `probes` is greater.
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

/// A row that has been seen and not returned.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    key: f32,
    /// The key comes from the whole code, not from the sign bits alone.
    refined: bool,
    lane: u16,
    block: Block,
    tid: Tid,
}

/// The heap's greatest candidate has the least key; of equals, one that is ready to be returned.
impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        other.key.total_cmp(&self.key).then(self.refined.cmp(&other.refined))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

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
    /// All lists, once the directory has been read; from `next_list` on they are in no order.
    lists: Option<Vec<List>>,
    next_list: usize,
    candidates: BinaryHeap<Candidate>,
    signs: Vec<u8>,
    statistics: Statistics,
}

impl Scan {
    /// `query` has the index's dimensions; `None` returns every row of every list, in no order.
    pub fn new(index: Rc<Index>, query: Option<&[f32]>, options: Options) -> Scan {
        Scan {
            query: query.map(|query| index.space.query(query)),
            index,
            options,
            lists: None,
            next_list: 0,
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
                if self.probe(store)? {
                    continue;
                }
                return Ok(None);
            };
            let Some(query) = &self.query else {
                return Ok(Some(Hit { tid: candidate.tid, distance: None }));
            };
            if candidate.refined {
                // No greater than every key still open: nothing that comes can be nearer than its own bound, which is greater.
                let distance = self.index.space.metric().distance(candidate.key);
                return Ok(Some(Hit { tid: candidate.tid, distance: Some(distance) }));
            }
            store.check_interrupts()?;
            self.statistics.refinements += 1;
            let row = (candidate.block, usize::from(candidate.lane), candidate.tid);
            if let Some(refined) = segments::refine(store, &self.index.geometry, row, query, &mut self.signs)?
            {
                candidate.key = key(refined, self.options.order);
                candidate.refined = true;
                self.candidates.push(candidate);
            }
        }
    }

    /// Reads the next batch of lists; false if there are no more to read.
    fn probe<S: PageStore>(&mut self, store: &S) -> Result<bool, S::Error> {
        let Scan { index, query, options, .. } = self;
        let mut lists = match self.lists.take() {
            Some(lists) => lists,
            None => match query {
                Some(query) => segments::lists(store, index, query)?,
                None => {
                    let firsts = segments::first_segments(store, index)?;
                    firsts.into_iter().map(|first| List { key: 0.0, first, run: 1 }).collect()
                }
            },
        };
        let probes = match options.probes {
            // A NULL query has no nearest lists.
            _ if query.is_none() => lists.len(),
            0 => automatic_probes(lists.len()).min(options.max_probes),
            probes => probes,
        };
        let limit = if options.iterative { probes.max(options.max_probes) } else { probes }.min(lists.len());
        let batch = self.next_list..(self.next_list + probes).min(limit);
        if batch.is_empty() {
            self.lists = Some(lists);
            return Ok(false);
        }
        // Every list is read at once: the answer shall be exact, while the sign bits' bounds hold for most rows only.
        let exact = batch == (0..lists.len());
        let open = &mut lists[batch.start..];
        let nearer = |a: &List, b: &List| a.key.total_cmp(&b.key);
        if batch.len() < open.len() {
            open.select_nth_unstable_by(batch.len() - 1, nearer);
        }
        open[..batch.len()].sort_unstable_by(nearer);

        let mut collector = Collector {
            store,
            index: &self.index,
            query: self.query.as_ref(),
            exact,
            order: options.order,
            signs: &mut self.signs,
            bounds: Vec::new(),
            // Empty here, but for its memory.
            candidates: std::mem::take(&mut self.candidates).into_vec(),
            list_start: 0,
            refinements: 0,
        };
        for list in &open[..batch.len()] {
            collector.list_start = collector.candidates.len();
            walk(store, &self.index.geometry, list.first, &mut collector)?;
        }
        self.statistics.lists += batch.len() as u64;
        self.statistics.rows += collector.candidates.len() as u64;
        self.statistics.refinements += collector.refinements;
        self.candidates = BinaryHeap::from(collector.candidates);
        self.next_list = batch.end;
        self.lists = Some(lists);
        Ok(true)
    }
}

fn key(refined: crate::quantize::Refined, order: Order) -> f32 {
    match order {
        Order::Bound => refined.lower,
        Order::Estimate => refined.estimate,
    }
}

/// Collects the rows of lists as candidates.
struct Collector<'a, S> {
    store: &'a S,
    index: &'a Index,
    query: Option<&'a Query>,
    /// Reads every row's whole code at once.
    exact: bool,
    order: Order,
    signs: &'a mut Vec<u8>,
    bounds: Vec<f32>,
    candidates: Vec<Candidate>,
    /// Candidates from the lists before this one.
    list_start: usize,
    refinements: u64,
}

impl<S: PageStore> Visitor<S::Error> for Collector<'_, S> {
    fn visit(&mut self, block: Block, codes: Codes) -> Result<(), S::Error> {
        let geometry = &self.index.geometry;
        let candidates = &mut self.candidates;
        let Some(query) = self.query else {
            candidates.extend(codes.live_lanes().map(|lane| Candidate {
                key: 0.0,
                refined: true,
                lane: lane as u16,
                block,
                tid: codes.tid(lane),
            }));
            return Ok(());
        };
        if self.exact {
            let (order, before) = (self.order, candidates.len());
            segments::refine_all(self.store, geometry, block, codes, query, self.signs, |tid, refined| {
                candidates.push(Candidate { key: key(refined, order), refined: true, lane: 0, block, tid });
            })?;
            self.refinements += (candidates.len() - before) as u64;
            return Ok(());
        }
        self.bounds.resize(geometry.lanes(), 0.0);
        let [norm_squared, rescale, error, ..] = codes.factor_columns();
        query.lower_bounds(codes.codes(), norm_squared, rescale, error, &mut self.bounds);
        candidates.extend(codes.live_lanes().map(|lane| Candidate {
            key: self.bounds[lane],
            refined: false,
            lane: lane as u16,
            block,
            tid: codes.tid(lane),
        }));
        Ok(())
    }

    fn restart(&mut self) {
        self.candidates.truncate(self.list_start);
    }
}
