//! The rows of lists as candidates for a scan to return, in bounded memory.

use std::cmp::Ordering;

use crate::filter::Filter;
use crate::index::Index;
use crate::layout::{Codes, Tid, count, lanes_of};
use crate::quantize::{Query, Refined};
use crate::scan::Options;
use crate::segments::{self, List, Visitor, walk};
use crate::shortlist::Shortlist;
use crate::store::{PageStore, Recent};

/// A row that is ready to be returned.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// From the whole code.
    pub key: f32,
    pub tid: Tid,
}

/// The heap's greatest candidate has the least key.
impl Ord for Candidate {
    #[inline]
    fn cmp(&self, other: &Candidate) -> Ordering {
        other.key.total_cmp(&self.key)
    }
}

impl PartialOrd for Candidate {
    #[inline]
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

/// What a collector fills; kept from one to the next for what it has allocated.
pub struct Collected {
    /// Rows by their sign bits.
    pub shortlist: Shortlist,
    pub candidates: Vec<Candidate>,
    /// Room for the sign bits of one row.
    pub signs: Vec<u8>,
}

pub struct Collector<'a, S> {
    store: &'a S,
    index: &'a Index,
    mode: Mode<'a>,
    options: &'a Options,
    filter: &'a Filter,
    /// Rows up to here were collected, and returned, before.
    floor: Option<Place>,
    /// Rows after here had no room.
    pub cut: Option<Place>,
    collected: &'a mut Collected,
    /// What there was from the lists before this one: candidates, and segments in the shortlist; `None` if that is not
    /// known any more.
    list_start: Option<(usize, usize)>,
    /// Rows counted before this list, and those that satisfy the conditions.
    counted: (u64, u64),
    /// What was collected is of no use.
    spoiled: bool,
    /// A row was left out as too far away.
    pub passed: bool,
    pub rows: u64,
    /// Those that satisfy the conditions.
    pub matching: u64,
    pub refinements: u64,
    /// Of a segment, for [`Filter::matching`].
    masks: Vec<u16>,
}

/// What a collector has read so far.
pub struct Progress<'a> {
    /// Of the lists that it was given last.
    pub lists: usize,
    pub rows: u64,
    /// Those that satisfy the conditions.
    pub matching: u64,
    /// See [`Shortlist::bounds`].
    pub bounds: &'a [f32],
}

/// Rows that there is room for whatever the setting says: enough that a heap of them is worth its while.
const LEAST_ROOM: usize = 64;

impl<'a, S: PageStore> Collector<'a, S> {
    /// Forgets what was collected before.
    pub fn new(
        store: &'a S,
        index: &'a Index,
        mode: Mode<'a>,
        (options, filter): (&'a Options, &'a Filter),
        floor: Option<Place>,
        collected: &'a mut Collected,
    ) -> Collector<'a, S> {
        collected.shortlist.clear();
        collected.candidates.clear();
        Collector {
            store,
            index,
            mode,
            options,
            filter,
            floor,
            cut: None,
            collected,
            list_start: Some((0, 0)),
            counted: (0, 0),
            spoiled: false,
            passed: false,
            rows: 0,
            matching: 0,
            refinements: 0,
            masks: Vec::new(),
        }
    }

    /// Reads lists until, before one of them, what was read is `enough`; returns how many, or `None`
    /// if all have to be read again, because the sign bits of their rows do not fit into memory, or because vacuum got in
    /// between.
    pub fn read(
        &mut self,
        lists: &[List],
        mut enough: impl FnMut(Progress) -> bool,
    ) -> Result<Option<usize>, S::Error> {
        if let (Mode::Signs(_), true) = (self.mode, self.filter.is_empty()) {
            let segments = lists.iter().map(|list| usize::from(list.run)).sum();
            self.collected.shortlist.reserve(segments, self.index.geometry.blocks, self.options.memory);
        }
        for (i, list) in lists.iter().enumerate() {
            let (rows, matching, bounds) = (self.rows, self.matching, self.collected.shortlist.bounds());
            if enough(Progress { lists: i, rows, matching, bounds }) {
                return Ok(Some(i));
            }
            if let Some(next) = lists.get(i + 1) {
                // Pages of a list are read together and stay in memory together: if the first is there, so are all.
                let _ = (next.first..).take(next.run.into()).all(|block| self.store.prefetch(block));
            }
            self.list_start = Some((self.collected.candidates.len(), self.collected.shortlist.segments()));
            self.counted = (self.rows, self.matching);
            walk(self.store, self.index.lists(), list.first, self)?;
            if self.spoiled {
                self.cut = self.floor;
                return Ok(None);
            }
        }
        Ok(Some(lists.len()))
    }

    /// Keeps memory bounded: drops the candidates that were collected before, from `start` on, and the farthest if there
    /// are too many.
    fn trim(&mut self, start: usize) {
        let candidates = &mut self.collected.candidates;
        if self.floor.is_some() || self.cut.is_some() {
            let mut kept = start;
            for i in start..candidates.len() {
                let place = Place::of(&candidates[i]);
                let is_new = self.floor.is_none_or(|floor| place.is_after(floor));
                if is_new && self.cut.is_none_or(|cut| !place.is_after(cut)) {
                    candidates.swap(kept, i);
                    kept += 1;
                }
            }
            candidates.truncate(kept);
        }
        let room = (self.options.memory / size_of::<Candidate>()).max(LEAST_ROOM);
        if candidates.len() <= room {
            return;
        }
        let kept = room / 2;
        let (_, last, _) =
            candidates.select_nth_unstable_by(kept - 1, |a, b| Place::of(a).cmp(&Place::of(b)));
        self.cut = Some(Place::of(last));
        candidates.truncate(kept);
        self.list_start = None;
    }
}

impl<S: PageStore> Visitor<S::Error> for Collector<'_, S> {
    fn visit(&mut self, page: Recent, codes: Codes) -> Result<bool, S::Error> {
        let Collected { shortlist, candidates, signs } = &mut *self.collected;
        let start = candidates.len();
        let rows = if self.filter.is_empty() {
            codes.live()
        } else {
            self.filter.matching(codes, &mut self.masks);
            &self.masks
        };
        let matching = count(rows);
        self.rows += if self.filter.is_empty() { matching } else { codes.count() } as u64;
        self.matching += matching as u64;
        if matching == 0 {
            return Ok(true);
        }
        let lanes = lanes_of(rows);
        match self.mode {
            Mode::Signs(query) => {
                shortlist.add(page, codes, rows, query);
                // Bounds do not have the order in which rows are returned: no farthest ones can be dropped.
                self.spoiled = shortlist.memory() > self.options.memory;
                return Ok(!self.spoiled);
            }
            Mode::Everything => {
                candidates.extend(lanes.map(|lane| Candidate { key: 0.0, tid: codes.tid(lane) }));
            }
            Mode::WholeCodes(query) => {
                let (geometry, options) = (&self.index.geometry, self.options);
                let metric = self.index.space.metric();
                let each = |lane, refined: Refined| {
                    if options.is_beyond(metric, refined.lower) {
                        self.passed = true;
                    } else {
                        candidates.push(Candidate { key: options.order.key(refined), tid: codes.tid(lane) });
                    }
                };
                segments::refine_lanes(self.store, geometry, (page.block, codes), lanes, query, signs, each)?;
                self.refinements += matching as u64;
            }
        }
        self.trim(start);
        Ok(true)
    }

    fn restart(&mut self) {
        (self.rows, self.matching) = self.counted;
        match self.list_start {
            None => self.spoiled = true,
            Some((candidates, segments)) => {
                self.collected.candidates.truncate(candidates);
                self.collected.shortlist.truncate(segments);
            }
        }
    }
}
