//! Training an index again, from its own codes: new lists beside the old ones, which a single change puts in force.
//!
//! A row's code depends on no list, so that the table is not needed. README.md says why no row is missed or doubled.

mod pages;
mod reader;
mod recentre;
mod turn;

use crate::index::{Index, read_meta};
use crate::insert::place_in;
use crate::layout::{META_BLOCK, NO_BLOCK, PageKind, Row};
use crate::measure::{Example, try_out};
use crate::segments::first_segments;
use crate::shape::{Reason, Shape};
use crate::store::{Block, Change, PageStore};
use crate::sweep::sweep;
use crate::trained::Trained;
use crate::writer::{Writer, Written};
use pages::NewPages;
use reader::{Learnt, Reader, learn};

/// Attempts to put the new lists in force while rows are coming. The time between two of them is that of placing the rows
/// that came in the time before, and of the change itself.
const ATTEMPTS: usize = 100;

/// What a training is to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Lists wanted; `None`: by the number of rows.
    pub lists: Option<usize>,
    /// Bytes.
    pub memory: usize,
    /// Microseconds since 1970.
    pub now: i64,
    pub when: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Never,
    Due,
    Always,
}

/// What a training has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Why it was due, if it was.
    pub reason: Option<Reason>,
    pub rows: u64,
    pub lists: u32,
}

/// What has become of an index that was to be kept in shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is as it was.
    Same,
    Trained(Report),
    /// There would have been fewer lists, though there are no fewer rows: as many as now take `needed` bytes.
    LittleMemory {
        needed: usize,
    },
}

/// Encoded rows, sorted by their lists.
pub trait RowSort {
    fn push(&mut self, list: u32, row: &[u8]);

    /// To be called once, after the last row.
    fn sort(&mut self);

    /// The next row in the order of lists.
    fn next(&mut self) -> Option<(u32, &[u8])>;
}

/// What is to be done for an index every now and then, by who has counted its rows: frees pages that nothing leads to any
/// more, and trains it again, if that is due.
///
/// One at a time, and no vacuum meanwhile; beside any number of inserts and scans. `sort` makes what sorts the rows.
pub fn maintain<S: PageStore, R: RowSort>(
    store: &S,
    shape: &Shape,
    plan: &Plan,
    sort: impl FnOnce(&Trained) -> R,
) -> Result<Kept, S::Error> {
    end_dead(store)?;
    let swept = sweep(store)?;
    let meta = read_meta(store)?.0;
    let reason = shape.is_due(&meta, plan.lists);
    let wanted = match plan.when {
        When::Never => false,
        // While somebody still reads the lists before these, the index is to be no larger than it is.
        When::Due => swept && reason.is_some(),
        When::Always => true,
    };
    if meta.dims == 0 || !wanted {
        if plan.when != When::Never && meta.lists > 1 && !meta.curve.is_known() {
            // A training has died just after its lists came in force.
            let index = Index::open(store)?;
            try_out(store, &index, reader::examples(store, &index)?, plan.memory)?;
        }
        return Ok(Kept::Same);
    }
    if plan.when == When::Due
        && let Some(needed) = reader::lacks(&Index::open(store)?, plan)
    {
        return Ok(Kept::LittleMemory { needed });
    }
    let Some((written, examples)) = train(store, plan, sort)? else {
        end_dead(store)?;
        return Ok(Kept::Same);
    };
    try_out(store, &Index::open(store)?, examples, plan.memory)?;
    sweep(store)?;
    Ok(Kept::Trained(Report { reason, rows: written.rows, lists: written.lists }))
}

/// Sees to it that the seals of a training that has died count no more.
fn end_dead<S: PageStore>(store: &S) -> Result<(), S::Error> {
    let mut change = store.change();
    let at = change.lock_as(PageKind::Meta, META_BLOCK)?;
    if change.page(at).meta().is_training == 0 {
        return Ok(());
    }
    let meta = change.page_mut(at)?.meta_mut();
    meta.is_training = 0;
    meta.training += 1;
    change.commit()
}

/// `None` if rows come faster than they can be placed. As [`maintain`] otherwise. Returns rows to try the lists with, too.
fn train<S: PageStore, R: RowSort>(
    store: &S,
    plan: &Plan,
    sort: impl FnOnce(&Trained) -> R,
) -> Result<Option<(Written, Vec<Example>)>, S::Error> {
    let free = begin(store)?;
    let index = Index::open(store)?;
    let Learnt { trained, mut recentring, examples } = learn(store, &index, plan)?;
    let mut sort = sort(&trained);

    let mut reader = Reader::new(store, &index, (&trained, &mut recentring), plan.memory);
    let mut push = |list: u32, row: &[u8]| {
        sort.push(list, row);
        Ok(())
    };
    for first in first_segments(store, &index)? {
        let mut block = first;
        while block != NO_BLOCK {
            block = reader.take(block, false, &mut push)?.0;
        }
    }
    // Those of the fresh list so far; more are to come.
    let mut open = reader.take_fresh(index.meta.fresh, &mut push)?;
    reader.drain(&mut push)?;
    sort.sort();

    let mut pages = NewPages::new(store, free)?;
    let mut writer = Writer::of_generation(&mut pages, &trained, index.meta.training)?;
    while let Some((list, row)) = sort.next() {
        writer.push(list, row)?;
    }
    let mut written = writer.finish_lists()?;
    drop(sort);

    let mut meta = index.meta;
    meta.enter(&written, plan.now);
    meta.generation = meta.training;
    let new = Index::of(meta, index.space.metric(), trained.space.mean());
    let firsts = std::mem::take(&mut written.firsts);
    for _ in 0..ATTEMPTS {
        if let Some(moved) = turn::turn(store, &index, &written, (open, reader.recentring()), plan.now)? {
            written.rows += moved;
            return Ok(Some((written, examples)));
        }
        let mut place = |list: u32, row: &[u8]| {
            written.rows += 1;
            // Nobody but us knows the list, and vacuum is us.
            place_in(store, &new, firsts[list as usize], &Row::read(&new.geometry, row)).map(|_| ())
        };
        open = reader.take_fresh(open, &mut place)?;
        reader.drain(&mut place)?;
    }
    Ok(None)
}

/// Says that a training has begun, and takes the free list, whose first page is returned: if the training dies, its pages are
/// garbage with all that it has written.
fn begin<S: PageStore>(store: &S) -> Result<Block, S::Error> {
    let mut change = store.change();
    let at = change.lock_as(PageKind::Meta, META_BLOCK)?;
    let meta = change.page_mut(at)?.meta_mut();
    meta.training += 1;
    meta.is_training = 1;
    meta.spent += meta.rows;
    meta.garbage = meta.garbage.max(PASSED);
    let free = std::mem::replace(&mut meta.free, NO_BLOCK);
    meta.free_pages = 0;
    change.commit()?;
    Ok(free)
}

/// For [`Meta::garbage`](crate::layout::Meta::garbage): nobody can be reading what has never been in force.
const PASSED: u64 = 1;
