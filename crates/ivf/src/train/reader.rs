//! The rows of an index, for a training: a sample to learn from, then each with the list that it is to be in.

use super::Plan;
use super::recentre::Recentring;
use crate::build::{Options, batch, default_lists, hold_out, sample_rows};
use crate::geometry::Geometry;
use crate::index::Index;
use crate::insert::append_segment;
use crate::layout::{Codes, FRESH, MAX_DIMENSIONS, NO_BLOCK, Row, Tid};
use crate::measure::Example;
use crate::quantize::{Space, decode};
use crate::random::SplitMix64;
use crate::recall::QUERIES;
use crate::segments::{Visitor, all_first_segments, for_each_row, set_room, walk};
use crate::store::{Block, Change, PageStore, Recent};
use crate::trained::Trained;

/// Which rows are sampled. Any number does.
const SEED: u64 = 0x5eed;

fn options(index: &Index, plan: &Plan) -> Options {
    Options {
        dims: index.geometry.dims,
        bits: index.geometry.bits,
        metric: index.space.metric(),
        columns: index.geometry.columns,
        lists: plan.lists.unwrap_or_else(|| default_lists(index.meta.rows as f64)),
    }
}

/// Rows to sample; `Err` has the bytes that are needed at least.
fn sample_of(index: &Index, options: &Options, plan: &Plan) -> Result<usize, usize> {
    // Rows of an index have its codes' dimensions.
    let padded = Options { dims: index.geometry.padded.min(MAX_DIMENSIONS), ..*options };
    sample_rows(&padded, index.meta.rows as f64, plan.memory)
}

/// A quarter fewer, but not past as many as there are.
fn fewer(lists: usize, now: usize) -> usize {
    let fewer = lists * 3 / 4;
    if (fewer + 1..lists).contains(&now) { now } else { fewer }
}

/// Bytes that are needed for as many lists as there are, or as are wanted if these are fewer; `None` if there are so many.
pub fn lacks(index: &Index, plan: &Plan) -> Option<usize> {
    let options = options(index, plan);
    let options = Options { lists: options.lists.min(index.meta.lists as usize), ..options };
    sample_of(index, &options, plan).err()
}

/// What a sample of the rows tells.
pub struct Learnt {
    pub trained: Trained,
    pub recentring: Recentring,
    /// Other rows, for trying the lists with them.
    pub examples: Vec<Example>,
}

/// Learns new centroids from a sample of the rows, and where they are.
pub fn learn<S: PageStore>(store: &S, index: &Index, plan: &Plan) -> Result<Learnt, S::Error> {
    let mut options = options(index, plan);
    // There is no failure for want of memory: then there are fewer lists.
    let wanted = loop {
        match sample_of(index, &options, plan) {
            Ok(wanted) => break wanted,
            Err(_) if options.lists > 1 => options.lists = fewer(options.lists, index.meta.lists as usize),
            Err(_) => break 1,
        }
    };
    let Sample { mut vectors, mut tids, .. } = Sample::take(store, index, wanted)?;
    let (recentring, space) = Recentring::of(index, &vectors);
    recentring.shift(&mut vectors);
    let held = hold_out(&mut vectors, &mut tids, index.geometry.padded, &options);
    let examples = held.iter().map(|(tid, z)| example(&space, *tid, z)).collect();
    let trained = Trained::train_again(&options, space, vectors, &mut || store.check_interrupts())?;
    Ok(Learnt { trained, recentring, examples })
}

/// Rows to try the lists with.
pub fn examples<S: PageStore>(store: &S, index: &Index) -> Result<Vec<Example>, S::Error> {
    let Sample { vectors, tids, .. } = Sample::take(store, index, QUERIES)?;
    let rows = tids.iter().zip(vectors.chunks_exact(index.geometry.padded));
    Ok(rows.map(|(&tid, z)| example(&index.space, tid, z)).collect())
}

fn example(space: &Space, tid: Tid, z: &[f32]) -> Example {
    Example { tid: Some(tid), query: space.query_for_code(z) }
}

/// So many of the rows, each with the same probability (Knuth's algorithm S).
struct Sample<'a, S> {
    store: &'a S,
    index: &'a Index,
    /// Rows × padded.
    vectors: Vec<f32>,
    /// Of these.
    tids: Vec<Tid>,
    wanted: usize,
    /// Rows that have not been seen, if there are as many as were counted.
    left: usize,
    random: SplitMix64,
}

impl<'a, S: PageStore> Sample<'a, S> {
    fn take(store: &'a S, index: &'a Index, wanted: usize) -> Result<Sample<'a, S>, S::Error> {
        let rows = index.meta.rows as usize;
        let mut sample = Sample {
            store,
            index,
            vectors: Vec::with_capacity(wanted.min(rows) * index.geometry.padded),
            tids: Vec::new(),
            wanted,
            left: rows,
            random: SplitMix64(SEED),
        };
        for first in all_first_segments(store, index)? {
            walk(store, index.lists(), first, &mut sample)?;
        }
        Ok(sample)
    }
}

impl<S: PageStore> Visitor<S::Error> for Sample<'_, S> {
    fn visit(&mut self, page: Recent, codes: Codes) -> Result<bool, S::Error> {
        let geometry = &self.index.geometry;
        let mut chosen = Vec::new();
        for lane in codes.live_lanes() {
            if self.left > 0 && self.random.below(self.left) < self.wanted {
                self.wanted -= 1;
                chosen.push(lane);
            }
            self.left = self.left.saturating_sub(1);
        }
        let (vectors, tids) = (&mut self.vectors, &mut self.tids);
        let chosen = chosen.into_iter();
        for_each_row(self.store, geometry, (page.block, codes), chosen, |_, row| {
            push_decoded(geometry, &row, vectors);
            tids.push(row.tid);
        })?;
        Ok(self.wanted > 0)
    }

    // Nothing is unlinked meanwhile.
    fn restart(&mut self) {}
}

/// Appends the vector that a row's code stands for, centred and rotated.
fn push_decoded(geometry: &Geometry, row: &Row, vectors: &mut Vec<f32>) {
    let start = vectors.len();
    vectors.resize(start + geometry.padded, 0.0);
    decode(row.signs, row.refinement, geometry.bits, &row.factors, &mut vectors[start..]);
}

/// What is done with a row: the number of its list, and the encoded row.
pub type Each<'a, E> = &'a mut dyn FnMut(u32, &[u8]) -> Result<(), E>;

/// Reads the rows segment by segment, sealing each, and finds the lists of some hundreds at a time.
pub struct Reader<'a, S> {
    store: &'a S,
    index: &'a Index,
    trained: &'a Trained,
    recentring: &'a mut Recentring,
    /// Rows at a time.
    batch: usize,
    /// Encoded rows.
    rows: Vec<u8>,
    /// Rows × padded.
    vectors: Vec<f32>,
    lists: Vec<u32>,
}

impl<'a, S: PageStore> Reader<'a, S> {
    pub fn new(
        store: &'a S,
        index: &'a Index,
        (trained, recentring): (&'a Trained, &'a mut Recentring),
        memory: usize,
    ) -> Reader<'a, S> {
        let batch = batch(&index.geometry, memory);
        let (rows, vectors, lists) = (Vec::new(), Vec::new(), Vec::new());
        Reader { store, index, trained, recentring, batch, rows, vectors, lists }
    }

    /// Takes the rows of a segment, to which none can be added from then on. `keep_open`: if it is the last of its list, it
    /// gets a successor. Returns the next segment, and whether it is that one.
    pub fn take(
        &mut self,
        block: Block,
        keep_open: bool,
        each: Each<S::Error>,
    ) -> Result<(Block, bool), S::Error> {
        self.store.check_interrupts()?;
        let next = self.seal(block, keep_open)?;
        let index = self.index;
        let geometry = &index.geometry;
        {
            // What is sealed does not change any more.
            let page = self.store.read(block)?;
            let codes = Codes::of(&page, geometry, block)?;
            let (rows, vectors, recentring) = (&mut self.rows, &mut self.vectors, &mut *self.recentring);
            for_each_row(self.store, geometry, (block, codes), codes.live_lanes(), |_, row| {
                let start = rows.len();
                recentring.write(geometry, &row, rows);
                push_decoded(geometry, &Row::read(geometry, &rows[start..]), vectors);
            })?;
        }
        if self.vectors.len() >= self.batch * geometry.padded {
            self.drain(each)?;
        }
        Ok(next)
    }

    fn seal(&self, block: Block, keep_open: bool) -> Result<(Block, bool), S::Error> {
        let training = self.index.meta.training;
        let mut change = self.store.change();
        let at = change.lock(block)?;
        let next = Codes::of(change.page(at), &self.index.geometry, block)?.next();
        if next == NO_BLOCK && keep_open {
            return Ok((append_segment(change, at, Some(training))?, true));
        }
        change.page_mut(at)?.segment_mut().sealed = training;
        change.commit()?;
        Ok((next, false))
    }

    /// Takes the rows of the fresh list from a segment on, and returns the segment that takes new ones.
    pub fn take_fresh(&mut self, first: Block, each: Each<S::Error>) -> Result<Block, S::Error> {
        let (mut block, mut is_new) = (first, self.is_open_and_empty(first)?);
        while !is_new {
            (block, is_new) = self.take(block, true, each)?;
        }
        if block != first {
            set_room(self.store, self.index.meta.fresh, None, block)?;
        }
        Ok(block)
    }

    fn is_open_and_empty(&self, block: Block) -> Result<bool, S::Error> {
        let page = self.store.read(block)?;
        let codes = Codes::of(&page, &self.index.geometry, block)?;
        debug_assert_eq!(codes.segment().list, FRESH);
        Ok(codes.next() == NO_BLOCK && codes.count() == 0)
    }

    /// How rows are coded again.
    pub fn recentring(&mut self) -> &mut Recentring {
        self.recentring
    }

    /// Hands over the rows taken so far.
    pub fn drain(&mut self, each: Each<S::Error>) -> Result<(), S::Error> {
        self.lists.clear();
        self.trained.assign(&self.vectors, &mut self.lists);
        for (&list, row) in self.lists.iter().zip(self.rows.chunks_exact(self.index.geometry.row_bytes())) {
            each(list, row)?;
        }
        self.rows.clear();
        self.vectors.clear();
        Ok(())
    }
}
