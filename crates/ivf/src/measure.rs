//! Measuring how far a scan has to read for a recall, see [`crate::recall`]: where the true neighbours of some queries are.

use std::array::from_fn;

use bytemuck::Zeroable;

use crate::index::Index;
use crate::layout::{Codes, LANES, META_BLOCK, PageKind, Tid};
use crate::metric::Metric;
use crate::quantize::{MANY_DEVIATIONS, Query};
use crate::random::SplitMix64;
use crate::recall::{Curve, NEIGHBOURS, RARITIES, RECALLS, Scale, Table};
use crate::segments::{Directory, List, Visitor, all_first_segments, nearest_list, visit_codes, walk};
use crate::store::{Block, Change, PageStore, Recent};

/// Fewer queries tell nothing.
pub const LEAST_QUERIES: usize = 20;
/// More would hold the lock of a page too long: about 10 µs each.
pub const MOST_QUERIES: usize = 1000;
/// Thresholds by which rows and queries are compared: up to that for .98.
const COMPARED: usize = 6;
/// The least threshold, of the usual score of the second list: a row is found by itself even if its code, which was trained with,
/// is nearer to another list. One query in twenty or fewer reads a list more for it.
const LEAST_OF_SECOND: f32 = 0.05;
/// Groups of queries, to each of which other rows are rare: those of a thousandth may be few, and be where they are by chance.
const GROUPS: usize = 8;
/// Rows without which nothing is said of a rarity.
const LEAST_ROWS: u64 = 40;
/// Queries whose lists are counted: the average of so many will do for the planner.
const COUNTED: usize = 100;
/// Rows are alike from here on, see [`are_alike`].
const ALIKE: f64 = 1.5;

/// A query, and the row that it is itself, if it is one: that is none of its neighbours.
pub struct Example {
    pub tid: Option<Tid>,
    pub query: Query,
}

/// What was found of an index.
struct Measurement {
    queries: usize,
    usual: f32,
    thresholds: Table,
    /// Scores of all lists, in ascending order, for some of the queries.
    scores: Vec<Vec<f32>>,
}

/// Measures how far scans have to read in the lists of `index`, from which nothing is removed meanwhile. Some ns for each
/// query and row. `usual`: that of the curve, or `None` for what it is of these queries. `None` if there is one list only, or
/// too few queries to tell.
fn measure<S: PageStore>(
    store: &S,
    index: &Index,
    mut examples: Vec<Example>,
    usual: Option<f32>,
) -> Result<Option<Measurement>, S::Error> {
    examples.retain(|example| example.query.has_distances());
    if examples.len() < LEAST_QUERIES || index.meta.lists < 2 {
        return Ok(None);
    }
    let mut reading = Reading::new(store, index, examples)?;
    let lists = all_first_segments(store, index)?;
    // Once near rows are known, few of the others have to be looked at.
    for turn in [Turn::Own, Turn::Others] {
        reading.turn = turn;
        for &list in &lists {
            reading.list = list;
            if turn == Turn::Others || reading.asked.iter().any(|asked| asked.own.first == list) {
                walk(store, index.lists(), list, &mut reading)?;
            }
        }
    }
    let Reading { asked, rows, .. } = reading;
    let usual = usual.unwrap_or_else(|| match index.space.metric() {
        Metric::InnerProduct => 0.0,
        Metric::L2 | Metric::Cosine => median(asked.iter().map(|asked| asked.own.key)),
    });

    // Of the lists that neighbours are in.
    let mut found: [Vec<f64>; RARITIES.len()] = Default::default();
    let mut scores: Vec<Vec<f32>> = Vec::new();
    for (number, Asked { query, nearest, .. }) in asked.iter().enumerate() {
        store.check_interrupts()?;
        let mut directory = Directory::read(store, index, query)?;
        let wanted = directory.lists();
        let lists = directory.nearest(store, index, query, wanted, &mut Vec::new())?;
        let scale = Scale::new(lists[0].key, usual);
        let score = |place: usize| scale.score(place + 1, lists[place].key);
        // Every scan reads the fresh list, which is not among these.
        let place = |list| lists.iter().position(|other| other.first == list).unwrap_or(0);
        for (found, nearest) in found.iter_mut().zip(&nearest.rows) {
            found.extend(nearest.iter().map(|neighbour| score(place(neighbour.list))));
        }
        // They may have come in some order.
        if number.is_multiple_of(asked.len().div_ceil(COUNTED)) {
            scores.push((0..lists.len()).map(|place| score(place) as f32).collect());
        }
    }
    let least = LEAST_OF_SECOND * median(scores.iter().filter_map(|scores| scores.get(1).copied()));
    let mut thresholds = Table::zeroed();
    for (rarity, found) in found.iter_mut().enumerate() {
        found.sort_unstable_by(f64::total_cmp);
        for (level, recall) in RECALLS.iter().enumerate() {
            let last = (recall * found.len() as f64).ceil() as usize;
            thresholds[rarity][level] = match rows[rarity] < LEAST_ROWS * GROUPS as u64 || found.is_empty() {
                true => f32::INFINITY,
                // Not less than what it was measured with.
                false => (found[last.clamp(1, found.len()) - 1] as f32).next_up().max(least),
            };
        }
    }
    grow_with_rarity(&mut thresholds);
    if are_alike(&asked, index.space.metric()) {
        allow_for_likeness(&mut thresholds);
    }
    Ok(Some(Measurement { queries: asked.len(), usual, thresholds, scores }))
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
        let stretch = match old.is_known() {
            true if ratio.is_finite() && ratio > 0.0 => ratio,
            true => 1.0,
            // As before the training that has died.
            false => old.stretch,
        };
        self.curve(1.0, stretch, 1)
    }

    /// The thresholds, times `factor`.
    fn curve(self, factor: f32, stretch: f32, calibrated: u32) -> Curve {
        let thresholds = self.thresholds.map(|row| row.map(|threshold| threshold * factor));
        let lists = thresholds.map(|row| row.map(|threshold| count(&self.scores, threshold)));
        Curve { queries: self.queries as u32, calibrated, stretch, usual: self.usual, thresholds, lists }
    }
}

/// 0 of no numbers.
fn median(numbers: impl Iterator<Item = f32>) -> f32 {
    let mut numbers: Vec<f32> = numbers.collect();
    numbers.sort_unstable_by(f32::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
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

/// Whether most rows have some others that are nearly the same, as those of a text that was stored often. These are the nearest
/// to a row then, but not to a query.
///
/// Keys of rows that are nowhere special grow by the same factor from the fifth of all rows to the fifth of every tenth as from
/// there to every hundredth, in any number of dimensions: measured, the first is .93 to 1.04 of the second for text embeddings, for
/// clusters that reach over one another, and in one and two dimensions; .01 in tight clusters; 3.3 where 8 others are alike, and
/// 200 to 10,000 where rows are copies with some noise.
fn are_alike(asked: &[Asked], metric: Metric) -> bool {
    // Rows, not queries; and keys that are distances.
    let rows = || asked.iter().filter(|asked| asked.tid.is_some());
    let fifth = |asked: &Asked, rarity: usize| Some(asked.nearest.rows[rarity].get(NEIGHBOURS / 2 - 1)?.key);
    let key = |rarity| f64::from(median(rows().filter_map(|asked| fifth(asked, rarity))));
    let [all, tenth, hundredth] = [0, 1, 2].map(key);
    metric != Metric::InnerProduct && hundredth > 0.0 && tenth * tenth > ALIKE * all * hundredth
}

/// What rows that are alike hide is told by rarer ones: of every tenth row few are alike, and of every hundredth fewer. Thresholds are
/// at least what those two say of all rows, were the three in a line of logarithms, and beyond by as many times, but no more than
/// those of every tenth row.
///
/// Measured on 1,000,000 synthetic rows, each with 8 others like it, for a recall of .95 of other queries: .843 without this.
fn allow_for_likeness(thresholds: &mut Table) {
    let [all, tenth, hundredth, ..] = thresholds;
    let mut times = 1.0f64;
    for level in 0..RECALLS.len() {
        let [of_all, of_tenth, of_hundredth] = [&*all, tenth, hundredth].map(|row| f64::from(row[level]));
        let told = of_tenth * (of_tenth / of_hundredth);
        // Of the highest recalls too little is known.
        if level < COMPARED && told.is_finite() {
            times = times.max(told / of_all);
        }
        all[level] = (times * of_all).min(of_tenth) as f32;
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
    let curve = &index.meta.curve;
    let usual = curve.is_known().then_some(curve.usual);
    let Some(measured) = measure(store, index, examples, usual)? else {
        return Ok(false);
    };
    keep(store, measured.calibrating(curve))?;
    Ok(true)
}

/// Bytes that measuring with so many queries takes.
pub fn memory(index: &Index, queries: usize) -> usize {
    // The vector as floats, and the tables that sums are looked up in; the nearest rows and their scores; its places in
    // `looking`; scores of the lists.
    let query = 2 * index.geometry.padded * size_of::<f32>();
    let nearest = RARITIES.len() * NEIGHBOURS * (size_of::<Neighbour>() + size_of::<f64>());
    let looking = index.geometry.lanes() * size_of::<(usize, f32)>();
    let scores = index.meta.lists as usize * size_of::<f32>();
    // Vectors grow by doubling.
    queries * (query + 2 * (nearest + looking)) + COUNTED.min(queries) * scores
}

/// Measures lists that were just made, by rows that they were not made of, as many as fit half of `memory` (bytes), and keeps
/// what that says.
pub fn try_out<S: PageStore>(
    store: &S,
    index: &Index,
    mut rows: Vec<Example>,
    memory: usize,
) -> Result<(), S::Error> {
    while !rows.is_empty() && self::memory(index, rows.len()) > memory / 2 {
        rows.truncate(rows.len() * 3 / 4);
    }
    match measure(store, index, rows, None)? {
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

#[derive(Clone, Copy)]
struct Neighbour {
    key: f32,
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
        if place < NEIGHBOURS {
            rows.truncate(NEIGHBOURS - 1);
            rows.insert(place, neighbour);
        }
        if rows.len() == NEIGHBOURS {
            self.cutoffs[rarity] = rows[NEIGHBOURS - 1].key;
        }
    }
}

struct Asked {
    tid: Option<Tid>,
    query: Query,
    /// The list that is nearest to it.
    own: List,
    nearest: Nearest,
}

/// What is read of the lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// For each query the list that is nearest to it.
    Own,
    /// All others.
    Others,
}

struct Reading<'a, S> {
    store: &'a S,
    index: &'a Index,
    asked: Vec<Asked>,
    turn: Turn,
    list: Block,
    /// Rows of the index, of each rarity, summed up over the groups.
    rows: [u64; RARITIES.len()],
    bounds: Vec<f32>,
    /// For each lane of a segment the queries that are to look at its whole code, and their bounds: so that a page of them is
    /// looked up once for all queries.
    looking: Vec<Vec<(usize, f32)>>,
    signs: Vec<u8>,
}

impl<'a, S: PageStore> Reading<'a, S> {
    fn new(store: &'a S, index: &'a Index, examples: Vec<Example>) -> Result<Reading<'a, S>, S::Error> {
        let mut asked = Vec::with_capacity(examples.len());
        for Example { tid, query } in examples {
            store.check_interrupts()?;
            let query = query.allowing_for(MANY_DEVIATIONS);
            let own = nearest_list(store, index, &query)?;
            let nearest = Nearest { rows: Default::default(), cutoffs: [f32::INFINITY; RARITIES.len()] };
            asked.push(Asked { tid, query, own, nearest });
        }
        Ok(Reading {
            store,
            index,
            asked,
            turn: Turn::Own,
            list: 0,
            rows: [0; RARITIES.len()],
            bounds: Vec::new(),
            looking: Vec::new(),
            signs: Vec::new(),
        })
    }
}

/// How rare a row is to a query, by its TID alone: about one row in ten is of each further rarity.
fn rarity(tid: Tid, query: usize) -> usize {
    let row = u64::from(tid.block()) << 16 | u64::from(tid.offset);
    let number = SplitMix64(row | ((query % GROUPS) as u64) << 48).next();
    RARITIES.iter().rposition(|&rarity| number <= u64::MAX / rarity).unwrap_or(0)
}

impl<S: PageStore> Visitor<S::Error> for Reading<'_, S> {
    fn visit(&mut self, page: Recent, codes: Codes) -> Result<bool, S::Error> {
        let Reading { store, index, asked, turn, list, rows, bounds, looking, signs } = self;
        let [norm_squared, rescale, error, ..] = codes.factor_columns();
        let lanes = codes.live().len() * LANES;
        bounds.resize(lanes, 0.0);
        looking.resize(lanes, Vec::new());
        let rare: [Vec<(usize, usize)>; GROUPS] = from_fn(|group| {
            let of = |lane| (lane, rarity(codes.tid(lane), group));
            codes.live_lanes().map(of).filter(|&(_, rarity)| rarity > 0).collect()
        });
        if *turn == Turn::Others {
            rows[0] += (GROUPS * codes.count()) as u64;
            let rarities = rare.iter().flatten();
            rarities.for_each(|&(_, rarity)| rows[1..=rarity].iter_mut().for_each(|rows| *rows += 1));
        }
        for (number, Asked { query, own, nearest, .. }) in asked.iter().enumerate() {
            if (own.first == *list) != (*turn == Turn::Own) {
                continue;
            }
            query.lower_bounds(codes.codes(), norm_squared, rescale, error, bounds);
            let near = nearest.cutoffs[0];
            for (block, (&live, bounds)) in codes.live().iter().zip(bounds.as_chunks::<LANES>().0).enumerate()
            {
                // Without a branch in the loop, which becomes a comparison of registers.
                if bounds.iter().fold(false, |any, &bound| any | (bound <= near)) {
                    let lanes = (0..LANES).filter(|&lane| live >> lane & 1 == 1 && bounds[lane] <= near);
                    lanes.for_each(|lane| looking[block * LANES + lane].push((number, bounds[lane])));
                }
            }
            for &(lane, rarity) in &rare[number % GROUPS] {
                if bounds[lane] > near && bounds[lane] <= nearest.cutoffs[rarity] {
                    looking[lane].push((number, bounds[lane]));
                }
            }
        }
        let chosen: Vec<usize> = (0..lanes).filter(|&lane| !looking[lane].is_empty()).collect();
        let each = |lane: usize, signs: &[u8], record: &[u8]| {
            let (row, factors) = (codes.tid(lane), codes.factors(lane));
            for (number, bound) in looking[lane].drain(..) {
                let rarity = rarity(row, number);
                let Asked { tid, query, nearest, .. } = &mut asked[number];
                // Other rows may have been found since.
                if bound > nearest.cutoffs[rarity] || *tid == Some(row) {
                    continue;
                }
                let key = query.refine(signs, record, index.geometry.bits, &factors).estimate;
                let neighbour = Neighbour { key, list: *list };
                (0..=rarity).for_each(|rarity| nearest.offer(rarity, neighbour));
            }
        };
        visit_codes(*store, &index.geometry, (page.block, codes), chosen.into_iter(), signs, each)?;
        Ok(true)
    }

    // Nothing is removed meanwhile.
    fn restart(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Thresholds that grow with recall and rarity.
    fn table() -> impl Strategy<Value = Table> {
        let factor = prop_oneof![Just(1f32), 1.0..1.5f32, 1.0..1000f32];
        let factors = prop::collection::vec(factor, RARITIES.len() * RECALLS.len());
        (1e-10..1e10f32, factors, 1..=RARITIES.len()).prop_map(|(first, factors, known)| {
            let mut table = Table::zeroed();
            for rarity in 0..RARITIES.len() {
                for level in 0..RECALLS.len() {
                    let before = if level > 0 { table[rarity][level - 1] } else { first };
                    let less_rare = if rarity > 0 { table[rarity - 1][level] } else { first };
                    let least = before.max(less_rare);
                    let value = least * factors[rarity * RECALLS.len() + level];
                    table[rarity][level] = if rarity < known { value.min(1e30) } else { f32::INFINITY };
                }
            }
            table
        })
    }

    proptest! {
        #[test]
        fn what_copies_hide_leaves_thresholds_in_order(mut table in table()) {
            let before = table;
            allow_for_likeness(&mut table);
            prop_assert_eq!(&table[1..], &before[1..]);
            for level in 0..RECALLS.len() {
                prop_assert!(table[0][level] >= before[0][level] * 0.999_999);
                prop_assert!(table[0][level] <= table[1][level]);
                prop_assert!(level == 0 || table[0][level] >= table[0][level - 1]);
            }
        }
    }
}
