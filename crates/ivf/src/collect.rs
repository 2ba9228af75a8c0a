//! The rows of lists as candidates for a scan to return, in bounded memory.

use std::cmp::Ordering;

use crate::index::Index;
use crate::layout::{Codes, Tid};
use crate::quantize::Query;
use crate::scan::{Options, Order};
use crate::segments::{self, List, Visitor, walk};
use crate::store::{Block, PageStore};

/// A row that has been seen and not returned.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub key: f32,
    /// The key comes from the whole code, not from the sign bits alone.
    pub refined: bool,
    pub lane: u16,
    pub block: Block,
    pub tid: Tid,
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

/// Where a row stands in a list that is sorted by keys of whole codes: always in the same place, however often it is
/// read.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    key: f32,
    tid: Tid,
}

impl Place {
    fn of(candidate: &Candidate) -> Place {
        Place { key: candidate.key, tid: candidate.tid }
    }

    fn cmp(&self, other: &Place) -> Ordering {
        self.key.total_cmp(&other.key).then(self.tid.cmp(&other.tid))
    }

    fn is_after(&self, other: Place) -> bool {
        self.cmp(&other) == Ordering::Greater
    }
}

/// What is read of a row.
#[derive(Clone, Copy)]
pub enum Mode<'a> {
    /// The sign bits; the whole code if the scan gets so far.
    Signs(&'a Query),
    /// The whole code at once.
    WholeCodes(&'a Query),
    /// Nothing, for a NULL query: all rows are as near.
    Everything,
}

pub struct Collector<'a, S> {
    store: &'a S,
    index: &'a Index,
    mode: Mode<'a>,
    order: Order,
    /// Candidates that memory has room for.
    room: usize,
    /// Rows up to here were collected, and returned, before.
    floor: Option<Place>,
    /// Rows after here had no room.
    pub cut: Option<Place>,
    pub candidates: Vec<Candidate>,
    /// Candidates from the lists before this one; `None` if that is not known any more.
    list_start: Option<usize>,
    /// What was collected is of no use.
    spoiled: bool,
    signs: &'a mut Vec<u8>,
    bounds: Vec<f32>,
    pub rows: u64,
    pub refinements: u64,
}

/// Rows that there is room for whatever the setting says: enough that a heap of them is worth its while.
const LEAST_ROOM: usize = 64;

impl<'a, S: PageStore> Collector<'a, S> {
    /// `memory`: an empty vector, for its allocation.
    pub fn new(
        store: &'a S,
        index: &'a Index,
        mode: Mode<'a>,
        options: &Options,
        floor: Option<Place>,
        mut memory: Vec<Candidate>,
        signs: &'a mut Vec<u8>,
    ) -> Collector<'a, S> {
        memory.clear();
        Collector {
            store,
            index,
            mode,
            order: options.order,
            room: (options.memory / size_of::<Candidate>()).max(LEAST_ROOM),
            floor,
            cut: None,
            candidates: memory,
            list_start: Some(0),
            spoiled: false,
            signs,
            bounds: Vec::new(),
            rows: 0,
            refinements: 0,
        }
    }

    /// Reads the lists; false if that has to be done again, because the sign bits of all rows do not fit into memory,
    /// or because vacuum got in between.
    pub fn read(&mut self, lists: &[List]) -> Result<bool, S::Error> {
        for (i, list) in lists.iter().enumerate() {
            if let Some(next) = lists.get(i + 1) {
                (next.first..).take(next.run.into()).for_each(|block| self.store.prefetch(block));
            }
            self.list_start = Some(self.candidates.len());
            walk(self.store, &self.index.geometry, list.first, self)?;
            if self.spoiled {
                self.cut = self.floor;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps memory bounded: drops the rows that were collected before, from `start` on, and the farthest if there
    /// are too many.
    fn trim(&mut self, start: usize) {
        if self.floor.is_some() || self.cut.is_some() {
            let mut kept = start;
            for i in start..self.candidates.len() {
                let place = Place::of(&self.candidates[i]);
                let is_new = self.floor.is_none_or(|floor| place.is_after(floor));
                if is_new && self.cut.is_none_or(|cut| !place.is_after(cut)) {
                    self.candidates.swap(kept, i);
                    kept += 1;
                }
            }
            self.candidates.truncate(kept);
        }
        if self.candidates.len() <= self.room {
            return;
        }
        if let Mode::Signs(_) = self.mode {
            // Their keys do not have the order in which rows are returned: no farthest ones can be told.
            self.spoiled = true;
            return;
        }
        let kept = self.room / 2;
        let (_, last, _) =
            self.candidates.select_nth_unstable_by(kept - 1, |a, b| Place::of(a).cmp(&Place::of(b)));
        self.cut = Some(Place::of(last));
        self.candidates.truncate(kept);
        self.list_start = None;
    }
}

impl<S: PageStore> Visitor<S::Error> for Collector<'_, S> {
    fn visit(&mut self, block: Block, codes: Codes) -> Result<bool, S::Error> {
        let geometry = &self.index.geometry;
        let candidates = &mut self.candidates;
        let start = candidates.len();
        let candidate = |lane: usize, key: f32, refined: bool| Candidate {
            key,
            refined,
            lane: lane as u16,
            block,
            tid: codes.tid(lane),
        };
        match self.mode {
            Mode::Everything => candidates.extend(codes.live_lanes().map(|lane| candidate(lane, 0.0, true))),
            Mode::WholeCodes(query) => {
                let order = self.order;
                segments::refine_all(
                    self.store,
                    geometry,
                    block,
                    codes,
                    query,
                    self.signs,
                    |lane, refined| {
                        candidates.push(candidate(lane, order.key(refined), true));
                    },
                )?;
                self.refinements += (candidates.len() - start) as u64;
            }
            Mode::Signs(query) => {
                self.bounds.resize(geometry.lanes(), 0.0);
                let [norm_squared, rescale, error, ..] = codes.factor_columns();
                query.lower_bounds(codes.codes(), norm_squared, rescale, error, &mut self.bounds);
                let bounds = &self.bounds;
                candidates.extend(codes.live_lanes().map(|lane| candidate(lane, bounds[lane], false)));
            }
        }
        self.rows += (candidates.len() - start) as u64;
        self.trim(start);
        Ok(!self.spoiled)
    }

    fn restart(&mut self) {
        match self.list_start {
            None => self.spoiled = true,
            Some(start) => self.candidates.truncate(start),
        }
    }
}
