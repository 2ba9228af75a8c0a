//! Finding rows in the order of their distance.

use std::collections::BinaryHeap;
use std::mem::take;
use std::rc::Rc;

use crate::build::MAX_LISTS;
use crate::collect::{Candidate, Collected, Collector, Mode, Place, Progress};
use crate::filter::Filter;
use crate::index::{Index, automatic_probes};
use crate::layout::Tid;
use crate::metric::Metric;
use crate::quantize::{Query, Refined};
use crate::recall::{Curve, Reach, Scale};
use crate::segments::{self, Directory, List};
use crate::shortlist::{self, Shortlist, Sketch};
use crate::store::PageStore;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Lists to scan before the first row is returned; 0: as many as it takes for `recall`.
    pub probes: usize,
    /// The share of a query's nearest ten rows that queries are to find on average, 0.5..=1.
    pub recall: f64,
    /// Goes on to further lists when those are used up.
    pub iterative: bool,
    /// Lists to scan at most, in all, unless `probes` is greater.
    pub max_probes: usize,
    pub order: Order,
    /// Rows that are farther away than this by their bounds are left out, and no further lists are read after some that had
    /// no other rows. As always, the bounds of the sign bits hold for most rows only, if not all lists are read.
    pub within: Option<f64>,
    /// Bytes for the rows that have been seen and not returned. If they do not fit, lists are read more than once.
    pub memory: usize,
}

impl Options {
    /// Lists to scan before the first row is returned.
    fn probes(&self, index: &Index, lists: usize) -> Probes {
        let curve = &index.meta.curve;
        match self.probes {
            0 if self.recall >= 1.0 => Probes::Number(lists.min(self.max_probes)),
            0 if curve.is_known() => Probes::Within(curve.threshold(self.recall)),
            0 => Probes::Number(automatic_probes(lists).min(self.max_probes)),
            probes => Probes::Number(probes),
        }
    }

    /// Lists that are likely to be scanned before the first row is returned, about.
    fn expected(&self, index: &Index) -> usize {
        match self.probes {
            0 => (index.meta.curve.lists(self.recall, 1.0) as usize).clamp(LEAST_EXPECTED, MAX_LISTS),
            _ => 1,
        }
    }

    /// Lists to scan at most, when so many were scanned before the first row was returned.
    fn limit(&self, first: usize) -> usize {
        if self.iterative { first.max(self.max_probes) } else { first }
    }

    /// Whether a row is too far away whose key is at least this.
    pub(crate) fn is_beyond(&self, metric: Metric, lower: f32) -> bool {
        self.within.is_some_and(|within| metric.distance(lower) > within)
    }
}

/// Which lists to scan.
enum Probes {
    Number(usize),
    /// Those whose score, see [`Scale`], is not above this.
    Within(f64),
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
    /// Those that satisfy the conditions.
    pub matching: u64,
    /// Rows whose whole code was read.
    pub refinements: u64,
}

pub struct Scan {
    index: Rc<Index>,
    query: Option<Query>,
    options: Options,
    /// No other rows are returned.
    filter: Filter,
    /// Once the directory has been read.
    unread: Option<Unread>,
    /// Lists that were read so far, or are about to be, the last of which are `batch`.
    probed: usize,
    /// Lists that were read before the first row was returned.
    first: usize,
    /// The lists that are being returned.
    batch: Vec<List>,
    /// They are the first ones, with which the fresh list is read.
    with_fresh: bool,
    /// Rows of the batch after this place are not among the candidates yet.
    cut: Option<Place>,
    /// Rows that are ready to be returned.
    candidates: BinaryHeap<Candidate>,
    /// Rows taken from the shortlist of `collected`, which has all the others of the batch, the nearest last.
    sketches: Vec<Sketch>,
    /// No row in the shortlist has a bound below this.
    threshold: f32,
    /// How many to take next.
    wanted: usize,
    collected: Collected,
    /// A row of the batch was left out as too far away.
    passed: bool,
    /// One was returned.
    returned: bool,
    statistics: Statistics,
}

/// The lists that were not read yet.
struct Unread {
    directory: Directory,
    /// Nearer than those that the directory has left, the nearest first.
    ahead: Vec<List>,
    /// How far out they are, once the nearest of all is known.
    scale: Option<Scale>,
    /// Lists that it has given.
    given: usize,
}

impl Unread {
    /// The next lists, as many as wanted or as there are, the nearest first.
    fn next<S: PageStore>(
        &mut self,
        store: &S,
        index: &Index,
        query: &Query,
        wanted: usize,
    ) -> Result<Vec<List>, S::Error> {
        let mut lists: Vec<List> = self.ahead.drain(..wanted.min(self.ahead.len())).collect();
        if lists.len() < wanted {
            let wanted = wanted - lists.len();
            lists.extend(self.directory.nearest(store, index, query, wanted, &mut Vec::new())?);
        }
        self.scale = self.scale.or(lists.first().map(|list| index.meta.curve.scale(list.key)));
        self.given += lists.len();
        Ok(lists)
    }

    /// The next lists whose score is within `threshold`, at most `limit`; one if there is one and none was given yet.
    /// `expected`: about so many will be.
    fn within<S: PageStore>(
        &mut self,
        store: &S,
        index: &Index,
        query: &Query,
        (threshold, expected, limit): (f64, usize, usize),
    ) -> Result<Vec<List>, S::Error> {
        let mut lists: Vec<List> = Vec::new();
        loop {
            let wanted = lists.len().max(expected).min(limit - lists.len());
            let before = self.given;
            let mut more = self.next(store, index, query, wanted)?;
            let beyond = more
                .iter()
                .enumerate()
                .position(|(i, list)| before + i > 0 && self.score(before + i, list) > threshold);
            if let Some(beyond) = beyond {
                self.put_back(&more.split_off(beyond));
            }
            let is_last = beyond.is_some() || more.is_empty();
            lists.append(&mut more);
            if is_last {
                return Ok(lists);
            }
        }
    }

    /// Of a list that comes after so many others.
    fn score(&self, before: usize, list: &List) -> f64 {
        self.scale.map_or(0.0, |scale| scale.score(before + 1, list.key))
    }

    /// Takes back the last lists that it has given.
    fn put_back(&mut self, lists: &[List]) {
        self.given -= lists.len();
        self.ahead.splice(..0, lists.iter().copied());
    }
}

/// Whether so many rows are enough for a recall of what satisfies the conditions as without conditions, when `held` are
/// in the lists that would be read then: the more selective a condition is, the larger the share of its rows that has to
/// be looked at, though fewer of them.
///
/// Measured on 116,033 glosses: of rows chosen at random, a share s wants s^-0.3 times the lists of all rows (234
/// lists), or s^-0.35 (1000 lists), from a half to 0.03 % of the rows; this gives it s^-0.4.
fn are_enough(rows: u64, matching: u64, held: u64) -> bool {
    (matching as f64).powf(SELECTIVE) * (rows as f64).powf(1.0 - SELECTIVE) >= held as f64
}

const SELECTIVE: f64 = 0.4;

/// Lists of so many that a scan reads before the first row is returned, on average, if this share of the rows satisfies its
/// conditions. `probes`, `max_probes` and `recall` as in [`Options`].
pub fn expected_lists(
    curve: &Curve,
    (probes, max_probes): (usize, usize),
    recall: f64,
    lists: f64,
    share: f64,
) -> f64 {
    let more = share.powf(-SELECTIVE);
    let expected = match probes {
        0 if recall >= 1.0 => lists,
        0 if curve.is_known() => curve.lists(recall, share).max(curve.lists(recall, 1.0) * more),
        0 => automatic_probes(lists as usize) as f64 * more,
        probes => probes as f64 * more,
    };
    expected.max(1.0).min(lists.max(1.0)).min(max_probes.max(probes) as f64)
}

/// Lists that are looked up at once, however few are expected: 20 more cost 2 µs.
const LEAST_EXPECTED: usize = 8;

/// Rows taken first from the shortlist: a query for ten rows reads the whole codes of 60 (measured, README.md).
const FIRST_SKETCHES: usize = 96;

/// From so many on, rows that are taken are all read whole at once, page by page: 0.25 µs a row instead of 0.4 in the
/// order of their bounds (measured), and a fourth of the page accesses. Who has wanted 480 will want more.
const MANY: usize = 1000;

impl Scan {
    /// `query` has the index's dimensions, if it knows them; `None` returns every row of every list, in no order.
    pub fn new(index: Rc<Index>, query: Option<&[f32]>, options: Options) -> Scan {
        Scan {
            query: query
                .filter(|_| index.knows_dimensions())
                .map(|query| index.space.query(query).allowing_for(Curve::deviations(options.recall))),
            index,
            options,
            filter: Filter::default(),
            unread: None,
            probed: 0,
            first: 0,
            batch: Vec::new(),
            with_fresh: false,
            cut: None,
            candidates: BinaryHeap::new(),
            sketches: Vec::new(),
            threshold: f32::NEG_INFINITY,
            wanted: FIRST_SKETCHES,
            collected: Collected {
                shortlist: Shortlist::default(),
                candidates: Vec::new(),
                signs: Vec::new(),
            },
            passed: false,
            returned: false,
            statistics: Statistics::default(),
        }
    }

    /// Leaves out the rows that do not satisfy the filter, and looks into more lists for those that do. To be called
    /// before the first row is asked for.
    pub fn matching(mut self, filter: Filter) -> Scan {
        self.filter = filter;
        self
    }

    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The next row; those of the first probes come in order, those of each further batch of lists too.
    pub fn next<S: PageStore>(&mut self, store: &S) -> Result<Option<Hit>, S::Error> {
        loop {
            let is_open = self.collected.shortlist.open() > 0;
            // What comes later is no nearer than this.
            let bound = self.sketches.last().map(|sketch| sketch.bound).or(is_open.then_some(self.threshold));
            if bound.is_some_and(|bound| self.options.is_beyond(self.index.space.metric(), bound)) {
                self.passed = true;
                self.sketches.clear();
                self.collected.shortlist.clear();
                continue;
            }
            if let Some(&Candidate { key, tid }) = self.candidates.peek()
                && bound.is_none_or(|bound| key.total_cmp(&bound).is_le())
            {
                self.candidates.pop();
                self.returned = true;
                let distance = self.query.as_ref().map(|_| self.index.space.metric().distance(key));
                return Ok(Some(Hit { tid, distance }));
            }
            if let Some(nearest) = self.sketches.len().checked_sub(1) {
                self.refine(store, nearest)?;
            } else if is_open {
                self.take_sketches(store)?;
            } else if self.cut.is_some() || self.probe(store)? {
                self.collect(store)?;
            } else {
                return Ok(None);
            }
        }
    }

    /// Takes rows from the shortlist, when none is left of those taken before. Many become candidates at once, page by
    /// page.
    fn take_sketches<S: PageStore>(&mut self, store: &S) -> Result<(), S::Error> {
        self.threshold = self.collected.shortlist.take(self.wanted, &mut self.sketches);
        if self.wanted < MANY {
            shortlist::sort(&mut self.sketches);
            self.wanted *= 4;
        } else {
            self.refine(store, 0)?;
            self.wanted *= 2;
        }
        Ok(())
    }

    /// Makes the sketches from `first` on candidates.
    fn refine<S: PageStore>(&mut self, store: &S, first: usize) -> Result<(), S::Error> {
        let Some(query) = &self.query else { return Ok(()) };
        let Collected { shortlist, signs, .. } = &mut self.collected;
        let (options, metric) = (&self.options, self.index.space.metric());
        let (candidates, passed) = (&mut self.candidates, &mut self.passed);
        let each = |tid, refined: Refined| {
            if options.is_beyond(metric, refined.lower) {
                *passed = true;
            } else {
                candidates.push(Candidate { key: options.order.key(refined), tid });
            }
        };
        let taken = (&*shortlist, &mut self.sketches[first..]);
        self.statistics.refinements += taken.1.len() as u64;
        segments::refine(store, self.index.lists(), taken, query, signs, each)?;
        self.sketches.truncate(first);
        Ok(())
    }

    /// Chooses the next batch of lists; false if there are no more to read.
    fn probe<S: PageStore>(&mut self, store: &S) -> Result<bool, S::Error> {
        // An index that knows no dimensions had no rows when it was opened.
        if self.passed && !self.returned || !self.index.knows_dimensions() {
            return Ok(false);
        }
        (self.passed, self.returned) = (false, false);
        let Some(query) = &self.query else {
            // A NULL query has no nearest lists.
            if self.probed > 0 {
                return Ok(false);
            }
            let firsts = segments::all_first_segments(store, &self.index)?;
            self.batch = firsts.into_iter().map(|first| List { key: 0.0, first, run: 1 }).collect();
            self.probed = self.batch.len();
            self.statistics.lists = self.probed as u64;
            return Ok(self.probed > 0);
        };
        let unread = match &mut self.unread {
            Some(unread) => unread,
            none => {
                let directory = Directory::read(store, &self.index, query)?;
                none.insert(Unread { directory, ahead: Vec::new(), scale: None, given: 0 })
            }
        };
        self.with_fresh = self.probed == 0;
        let probes = self.options.probes(&self.index, unread.directory.lists());
        self.batch = match probes {
            Probes::Number(number) if self.probed == 0 => unread.next(store, &self.index, query, number)?,
            Probes::Within(threshold) if self.probed == 0 => {
                let expected = self.options.expected(&self.index);
                let within = (threshold, expected, self.options.max_probes.max(1));
                unread.within(store, &self.index, query, within)?
            }
            // As many again; a query with few near lists would go on by small steps.
            Probes::Number(_) | Probes::Within(_) => {
                let left = self.options.limit(self.first).saturating_sub(self.probed);
                let wanted = self.first.max(self.options.expected(&self.index)).min(left);
                unread.next(store, &self.index, query, wanted)?
            }
        };
        if self.with_fresh {
            self.first = self.batch.len();
        }
        self.probed += self.batch.len();
        self.statistics.lists = self.probed as u64;
        Ok(!self.batch.is_empty())
    }

    /// Reads the rows of the batch, from the place where the last reading was cut off.
    fn collect<S: PageStore>(&mut self, store: &S) -> Result<(), S::Error> {
        // If every list is read, the answer shall be exact, while the sign bits' bounds hold for most rows only.
        let lists = self.unread.as_ref().map_or(0, |unread| unread.directory.lists());
        let again = self.cut.is_some();
        // Rows of the lists that are read without conditions, too.
        let mut held = None;
        let by_curve =
            !self.filter.is_empty() && self.options.probes == 0 && self.index.meta.curve.is_known();
        let whole_codes = self.cut.is_some() || self.batch.len() == lists;
        let mut mode = match &self.query {
            None => Mode::Everything,
            Some(query) if whole_codes => Mode::WholeCodes(query),
            Some(query) => Mode::Signs(query),
        };
        // Empty here, but for its memory.
        self.collected.candidates = take(&mut self.candidates).into_vec();
        loop {
            let (wanted, collected) = ((&self.options, &self.filter), &mut self.collected);
            let mut reach = by_curve.then(Reach::default);
            let mut collector = Collector::new(store, &self.index, mode, wanted, self.cut, collected);
            let mut complete = true;
            if self.with_fresh {
                let fresh = List { key: 0.0, first: self.index.meta.fresh, run: 1 };
                complete = collector.read(&[fresh], |_| false)?.is_some();
            }
            let before = self.probed - self.batch.len();
            let note = |progress: Progress| {
                if let (Some(reach), Some(unread)) = (&mut reach, &self.unread) {
                    let list = &self.batch[progress.lists];
                    reach.go_on(progress.bounds, unread.score(before + progress.lists, list));
                }
                false
            };
            complete = complete && collector.read(&self.batch, note)?.is_some();
            let held = *held.get_or_insert(collector.rows);
            // Where memory ends, what there is will do: the rest follows with the next lists.
            // The curve tells how far to read by the sign bits, and of the first lists.
            let extends = !by_curve || self.with_fresh && matches!(mode, Mode::Signs(_));
            while let (false, true, Some(query), Some(unread), true, None) = (
                again,
                extends && !self.filter.is_empty(),
                &self.query,
                &mut self.unread,
                complete,
                collector.cut,
            ) {
                let limit = self.options.limit(self.first);
                let wanted = self.batch.len().min(limit.saturating_sub(self.probed));
                let before = unread.given;
                let more = unread.next(store, &self.index, query, wanted)?;
                let enough = |Progress { lists, rows, matching, bounds }: Progress| match &mut reach {
                    None => are_enough(rows, matching, held),
                    Some(reach) => {
                        reach.go_on(bounds, unread.score(before + lists, &more[lists]));
                        let share = (matching + 1) as f64 / (rows + 1) as f64;
                        reach.is_enough(&self.index.meta.curve, self.options.recall, share)
                    }
                };
                let read = collector.read(&more, enough)?;
                complete = read.is_some();
                let (more, rest) = more.split_at(read.unwrap_or(0));
                unread.put_back(rest);
                self.batch.extend_from_slice(more);
                self.probed += more.len();
                if more.is_empty() || !rest.is_empty() {
                    break;
                }
            }
            self.statistics.lists = self.probed as u64;
            self.statistics.rows += collector.rows;
            self.statistics.matching += collector.matching;
            self.statistics.refinements += collector.refinements;
            self.passed |= collector.passed;
            self.cut = collector.cut;
            if complete {
                break;
            }
            if let Mode::Signs(query) = mode {
                mode = Mode::WholeCodes(query);
            }
        }
        if by_curve && self.with_fresh {
            // If more are wanted, as many again.
            self.first = self.probed;
        }
        self.candidates = BinaryHeap::from(take(&mut self.collected.candidates));
        (self.threshold, self.wanted) = (f32::NEG_INFINITY, FIRST_SKETCHES);
        Ok(())
    }
}
