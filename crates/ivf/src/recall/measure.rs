//! Measuring the curve: where the true neighbours of some queries are.

use bytemuck::Zeroable;

use super::curve::{Curve, RARITIES, RECALLS, Table};
use super::{NEIGHBOURS, score};
use crate::index::Index;
use crate::layout::{Codes, LANES, META_BLOCK, PageKind, Tid};
use crate::quantize::{FEW_DEVIATIONS, MANY_DEVIATIONS, Query, Refined};
use crate::random::SplitMix64;
use crate::segments::{Directory, Visitor, all_first_segments, refine_lanes, walk};
use crate::store::{Block, Change, PageStore, Recent};

/// Fewer queries tell nothing.
pub const LEAST_QUERIES: usize = 20;
/// More would hold the lock of a page too long: about 10 µs each.
pub const MOST_QUERIES: usize = 1000;
/// Thresholds by which rows and queries are compared: up to that for .98.
const COMPARED: usize = 6;
/// The neighbours, and the next row after them.
const KEPT: usize = NEIGHBOURS + 1;
/// The least threshold, of the usual score of the second list: a row is found by itself even if its code, which was trained with,
/// is nearer to another list. One query in twenty or fewer reads a list more for it.
const LEAST_OF_SECOND: f32 = 0.05;
/// Rows without which nothing is said of a rarity.
const LEAST_ROWS: u64 = 100;
/// Queries whose lists are counted: the average of so many will do for the planner.
const COUNTED: usize = 100;

/// A query, and the row that it is itself, if it is one: that is none of its neighbours.
pub struct Example {
    pub tid: Option<Tid>,
    pub query: Query,
}

/// What was found of an index.
struct Measurement {
    queries: usize,
    lost: f32,
    thresholds: Table,
    /// Scores of all lists, in ascending order, for some of the queries.
    scores: Vec<Vec<f32>>,
}

/// Measures how far scans have to read in the lists of `index`, from which nothing is removed meanwhile. Some ns for each
/// query and row. `None` if there is one list only, or too few queries to tell.
fn measure<S: PageStore>(
    store: &S,
    index: &Index,
    mut examples: Vec<Example>,
) -> Result<Option<Measurement>, S::Error> {
    examples.retain(|example| example.query.has_distances());
    if examples.len() < LEAST_QUERIES || index.meta.lists < 2 {
        return Ok(None);
    }
    let mut reading = Reading::new(store, index, examples);
    for first in all_first_segments(store, index)? {
        reading.list = first;
        walk(store, index.lists(), first, &mut reading)?;
    }
    let Reading { asked, rows, .. } = reading;

    // Of the lists that neighbours are in.
    let mut found: [Vec<f64>; RARITIES.len()] = Default::default();
    let mut scores: Vec<Vec<f32>> = Vec::new();
    for Asked { query, nearest, .. } in &asked {
        store.check_interrupts()?;
        let mut directory = Directory::read(store, index, query)?;
        let wanted = directory.lists();
        let lists = directory.nearest(store, index, query, wanted, &mut Vec::new())?;
        let score = |place: usize| score(place + 1, lists[place].key, lists[0].key);
        for (found, nearest) in found.iter_mut().zip(&nearest.rows) {
            // Every scan reads the fresh list, which is not among these.
            let place = |list| lists.iter().position(|other| other.first == list).unwrap_or(0);
            let neighbours = nearest.iter().take(NEIGHBOURS);
            found.extend(neighbours.map(|neighbour| score(place(neighbour.list))));
        }
        if scores.len() < COUNTED {
            scores.push((0..lists.len()).map(|place| score(place) as f32).collect());
        }
    }
    let mut seconds: Vec<f32> = scores.iter().filter_map(|scores| scores.get(1).copied()).collect();
    seconds.sort_unstable_by(f32::total_cmp);
    let least = LEAST_OF_SECOND * seconds.get(seconds.len() / 2).copied().unwrap_or(0.0);
    let mut thresholds = Table::zeroed();
    for (rarity, found) in found.iter_mut().enumerate() {
        found.sort_unstable_by(f64::total_cmp);
        for (level, recall) in RECALLS.iter().enumerate() {
            let last = (recall * found.len() as f64).ceil() as usize;
            thresholds[rarity][level] = match rows[rarity] < LEAST_ROWS || found.is_empty() {
                true => f32::INFINITY,
                // Not less than what it was measured with.
                false => (found[last.clamp(1, found.len()) - 1] as f32).next_up().max(least),
            };
        }
    }
    grow_with_rarity(&mut thresholds);
    Ok(Some(Measurement { queries: asked.len(), lost: lost(&asked), thresholds, scores }))
}

impl Measurement {
    /// What is to be known of lists that are made again: as before, queries are so much harder than rows.
    fn following(self, old: &Curve) -> Curve {
        self.curve(old.stretch, old.stretch, old.calibrated)
    }

    /// If it was measured by queries, and `old` by rows of the same lists.
    fn calibrating(self, old: &Curve) -> Curve {
        // Of the highest recalls too little is known, and the first lists alone may suffice for low ones.
        let sum = |table: &Table| table[0][..COMPARED].iter().sum::<f32>();
        let ratio = sum(&self.thresholds) / (sum(&old.thresholds) / old.stretch);
        let stretch = if old.is_known() && ratio.is_finite() && ratio > 0.0 { ratio } else { 1.0 };
        self.curve(1.0, stretch, 1)
    }

    /// The thresholds, times `factor`.
    fn curve(self, factor: f32, stretch: f32, calibrated: u32) -> Curve {
        let thresholds = self.thresholds.map(|row| row.map(|threshold| threshold * factor));
        let lists = thresholds.map(|row| row.map(|threshold| count(&self.scores, threshold)));
        Curve { queries: self.queries as u32, calibrated, lost: self.lost, stretch, thresholds, lists }
    }
}

/// By chance, rows that are fewer may have been found nearer.
fn grow_with_rarity(thresholds: &mut Table) {
    for rarity in 1..RARITIES.len() {
        let before = thresholds[rarity - 1];
        thresholds[rarity]
            .iter_mut()
            .zip(before)
            .for_each(|(threshold, least)| *threshold = threshold.max(least));
    }
}

/// Lists within a threshold, on average.
fn count(scores: &[Vec<f32>], threshold: f32) -> f32 {
    let lists: usize = scores.iter().map(|scores| scores.partition_point(|&score| score <= threshold)).sum();
    lists as f32 / scores.len().max(1) as f32
}

/// Measures with given queries, of the index's dimensions, or some of them if they are many, and keeps what that says;
/// trainings after it take rows to be easier than queries by as much as they are now. The index is not trained meanwhile.
/// False if nothing can be said.
pub fn calibrate<S: PageStore>(store: &S, index: &Index, queries: &[Vec<f32>]) -> Result<bool, S::Error> {
    let example = |query: &Vec<f32>| Example { tid: None, query: index.space.query(query) };
    let step = queries.len().div_ceil(MOST_QUERIES).max(1);
    let examples = queries.iter().step_by(step).map(example).collect();
    let Some(measured) = measure(store, index, examples)? else {
        return Ok(false);
    };
    keep(store, measured.calibrating(&index.meta.curve))?;
    Ok(true)
}

/// Bytes that measuring with so many queries takes.
pub fn memory(index: &Index, queries: usize) -> usize {
    // The vector as floats, and the tables that sums are looked up in; the nearest rows.
    let query = 2 * index.geometry.padded * size_of::<f32>();
    queries * (query + RARITIES.len() * KEPT * size_of::<Neighbour>())
}

/// Measures lists that were just made, by rows that they were not made of, as many as fit half of `memory` (bytes), and keeps
/// what that says.
pub fn try_out<S: PageStore>(
    store: &S,
    index: &Index,
    mut rows: Vec<Example>,
    memory: usize,
) -> Result<(), S::Error> {
    rows.truncate(memory / 2 / self::memory(index, 1));
    match measure(store, index, rows)? {
        Some(measured) => keep(store, measured.following(&index.meta.curve)),
        None => Ok(()),
    }
}

/// Writes a curve into the metapage.
fn keep<S: PageStore>(store: &S, curve: Curve) -> Result<(), S::Error> {
    let mut change = store.change();
    let at = change.lock_as(PageKind::Meta, META_BLOCK)?;
    change.page_mut(at)?.meta_mut().curve = curve;
    change.commit()
}

/// The share of the neighbours whose sign bits say that they are farther than the next row after the neighbours.
fn lost(asked: &[Asked]) -> f32 {
    let (mut all, mut lost) = (0, 0);
    for rows in asked.iter().map(|asked| &asked.nearest.rows[0]) {
        // What a query gets in the place of one that it misses.
        let next = rows.get(NEIGHBOURS).map_or(f32::INFINITY, |next| next.key);
        let rows = &rows[..NEIGHBOURS.min(rows.len())];
        all += rows.len();
        lost += rows.iter().filter(|neighbour| neighbour.bound > next).count();
    }
    lost as f32 / all.max(1) as f32
}

#[derive(Clone, Copy)]
struct Neighbour {
    key: f32,
    /// What a scan takes for the least that the key can be.
    bound: f32,
    /// First segment of the list.
    list: Block,
}

/// What is nearest to a query so far: of all rows, of every tenth, and so on.
struct Nearest {
    rows: [Vec<Neighbour>; RARITIES.len()],
    /// Keys of the last of them; infinite while they are not so many.
    cutoffs: [f32; RARITIES.len()],
}

impl Nearest {
    fn offer(&mut self, rarity: usize, neighbour: Neighbour) {
        let rows = &mut self.rows[rarity];
        let place = rows.partition_point(|other| other.key <= neighbour.key);
        if place < KEPT {
            rows.truncate(KEPT - 1);
            rows.insert(place, neighbour);
        }
        if rows.len() == KEPT {
            self.cutoffs[rarity] = rows[KEPT - 1].key;
        }
    }
}

struct Asked {
    tid: Option<Tid>,
    query: Query,
    nearest: Nearest,
    /// What the bounds of [`FEW_DEVIATIONS`] have more than those that are computed, of a row whose error is 1.
    tighter: f32,
}

struct Reading<'a, S> {
    store: &'a S,
    index: &'a Index,
    asked: Vec<Asked>,
    list: Block,
    /// Rows seen, of each rarity.
    rows: [u64; RARITIES.len()],
    bounds: Vec<f32>,
    /// Lanes of a segment that are looked at closer.
    chosen: Vec<usize>,
    signs: Vec<u8>,
}

impl<'a, S: PageStore> Reading<'a, S> {
    fn new(store: &'a S, index: &'a Index, examples: Vec<Example>) -> Reading<'a, S> {
        let asked = examples.into_iter().map(|Example { tid, query }| {
            let tighter = query.error_of_deviations(MANY_DEVIATIONS - FEW_DEVIATIONS);
            let query = query.allowing_for(MANY_DEVIATIONS);
            let nearest = Nearest { rows: Default::default(), cutoffs: [f32::INFINITY; RARITIES.len()] };
            Asked { tid, query, nearest, tighter }
        });
        Reading {
            store,
            index,
            asked: asked.collect(),
            list: 0,
            rows: [0; RARITIES.len()],
            bounds: Vec::new(),
            chosen: Vec::new(),
            signs: Vec::new(),
        }
    }
}

/// The rarest group that a row belongs to, by its TID alone: about one row in ten is of each further one.
fn rarity(tid: Tid) -> usize {
    let number = SplitMix64(u64::from(tid.block()) << 16 | u64::from(tid.offset)).next();
    RARITIES.iter().rposition(|&rarity| number <= u64::MAX / rarity).unwrap_or(0)
}

impl<S: PageStore> Visitor<S::Error> for Reading<'_, S> {
    fn visit(&mut self, page: Recent, codes: Codes) -> Result<bool, S::Error> {
        let Reading { store, index, asked, list, rows, bounds, chosen, signs } = self;
        let [norm_squared, rescale, error, ..] = codes.factor_columns();
        bounds.resize(codes.live().len() * LANES, 0.0);
        let of = |lane| (lane, rarity(codes.tid(lane)));
        let rare: Vec<(usize, usize)> =
            codes.live_lanes().map(of).filter(|&(_, rarity)| rarity > 0).collect();
        rows[0] += codes.count() as u64;
        rare.iter().for_each(|&(_, rarity)| rows[1..=rarity].iter_mut().for_each(|rows| *rows += 1));
        for Asked { tid, query, nearest, tighter } in asked {
            query.lower_bounds(codes.codes(), norm_squared, rescale, error, bounds);
            let near = nearest.cutoffs[0];
            chosen.clear();
            for (block, (&live, bounds)) in codes.live().iter().zip(bounds.as_chunks::<LANES>().0).enumerate()
            {
                // Without a branch in the loop, which becomes a comparison of registers.
                if bounds.iter().fold(false, |any, &bound| any | (bound <= near)) {
                    let lanes = (0..LANES).filter(|&lane| live >> lane & 1 == 1 && bounds[lane] <= near);
                    chosen.extend(lanes.map(|lane| block * LANES + lane));
                }
            }
            for &(lane, rarity) in &rare {
                if bounds[lane] > near && bounds[lane] <= nearest.cutoffs[rarity] {
                    chosen.push(lane);
                }
            }
            if chosen.is_empty() {
                continue;
            }
            chosen.sort_unstable();
            let each = |lane: usize, refined: Refined| {
                let row = codes.tid(lane);
                if *tid != Some(row) {
                    // There may be no room between the two.
                    let is_least = bounds[lane] <= query.floor();
                    let bound = bounds[lane] + if is_least { 0.0 } else { *tighter * error[lane] };
                    let neighbour = Neighbour { key: refined.estimate, bound, list: *list };
                    (0..=rarity(row)).for_each(|rarity| nearest.offer(rarity, neighbour));
                }
            };
            let lanes = chosen.iter().copied();
            refine_lanes(*store, &index.geometry, (page.block, codes), lanes, query, signs, each)?;
        }
        Ok(true)
    }

    // Nothing is removed meanwhile.
    fn restart(&mut self) {}
}
