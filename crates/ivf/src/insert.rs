//! Inserting one row.

use std::rc::Rc;

use bytemuck::Zeroable;

use crate::columns::{Columns, Value, check_count, write_values};
use crate::geometry::Geometry;
use crate::index::{Index, read_meta};
use crate::layout::{Codes, CodesMut, DIRECTORY_BITS, FRESH, META_BLOCK, NO_BLOCK, PageKind, Row, Tid};
use crate::quantize::{Factors, Query, encode};
use crate::segments::{self, nearest_list};
use crate::store::{Block, Change, IndexError, PageStore};

/// Adds a row; false if it is not indexed (zero under cosine). The vector has the index's dimensions, which it
/// [knows](Index::knows_dimensions).
///
/// `values`: one for each column. `index` is opened again if it has been trained meanwhile.
pub fn insert<S: PageStore>(
    store: &S,
    index: &mut Rc<Index>,
    tid: Tid,
    vector: &[f32],
    values: &[Value],
) -> Result<bool, S::Error> {
    check_count(index.geometry.columns, values)?;
    let mut stored = Vec::new();
    write_values(values, &mut stored);
    let mut z = Vec::new();
    for _ in 0..ATTEMPTS {
        if !index.space.centre(vector, &mut z) {
            return Ok(false);
        }
        let mut signs = vec![0; index.geometry.sign_bytes()];
        let mut refinement = vec![0; index.geometry.refinement_bytes()];
        let factors = encode(&z, index.geometry.bits, &mut signs, &mut refinement);
        let row = Row { tid, factors, values: &stored, signs: &signs, refinement: &refinement };
        let placed = place(store, index, &index.space.query_for_row(vector, &z), &row);
        if let Ok(Outcome::Done) = placed {
            return Ok(true);
        }
        // While a training runs, it has read the list already; or it has ended.
        let now = Index::reopen(store, Some(index.clone()))?;
        if !Rc::ptr_eq(&now, index) {
            *index = now;
            continue;
        }
        // Whatever went wrong is no consequence of a training.
        placed?;
        if insert_into(store, index, index.meta.fresh, None, &row)? == Outcome::Done {
            return Ok(true);
        }
        // The fresh list has ended with its generation, as the next round will find.
    }
    Err(IndexError::corrupt(index.meta.fresh, "starts a list that leads nowhere").into())
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// A segment was unlinked, and the way to the next one is lost.
    Lost,
    /// A training has read the list.
    Sealed,
}

/// Puts a row into the list that is nearest to it.
fn place<S: PageStore>(store: &S, index: &Index, query: &Query, row: &Row) -> Result<Outcome, S::Error> {
    place_in(store, index, nearest_list(store, index, query)?.first, row)
}

/// Puts a row into the list that starts at `first`.
pub(crate) fn place_in<S: PageStore>(
    store: &S,
    index: &Index,
    first: Block,
    row: &Row,
) -> Result<Outcome, S::Error> {
    // From where the list is said to have room, then, if vacuum got in between, from its start.
    let mut start = None;
    for _ in 0..ATTEMPTS {
        match insert_into(store, index, first, start, row)? {
            Outcome::Lost => start = Some(first),
            outcome => return Ok(outcome),
        }
    }
    Err(IndexError::corrupt(first, "starts a list that leads nowhere").into())
}

/// Each failed attempt is one segment unlinked by the one vacuum there can be, or one training begun or ended, just between
/// two reads of ours.
const ATTEMPTS: usize = 100;

/// Tells an index without rows what dimensions its vectors have,
/// 1..=[`MAX_DIMENSIONS`](crate::layout::MAX_DIMENSIONS), unless it has learnt it by now. It gets its first list,
/// whose centroid is the origin.
pub fn settle<S: PageStore>(store: &S, dims: usize) -> Result<(), S::Error> {
    let geometry = Geometry::new(dims, DIRECTORY_BITS, Columns::default());
    let (meta, _) = read_meta(store)?;
    let mut change = store.change();
    let directory = change.lock_as(PageKind::Codes, meta.directory)?;
    let meta_at = change.lock_as(PageKind::Meta, META_BLOCK)?;
    if change.page(meta_at).meta().dims != 0 {
        return Ok(());
    }
    let first = change.page(meta_at).meta().pages;
    let refinement = first + 1;

    let mut codes = CodesMut::new(change.page_mut(directory)?, &geometry);
    let signs = vec![0; geometry.sign_bytes()];
    let tid = Tid::new(first, 1);
    let row = Row { tid, factors: Factors::zeroed(), values: &[], signs: &signs, refinement: &[] };
    codes.fill(0, &row);
    codes.set_refinement_page(0, refinement);
    let new_meta = change.page_mut(meta_at)?.meta_mut();
    new_meta.dims = dims as u32;
    new_meta.lists = 1;
    new_meta.pages += 2;
    let at = change.lock_new(first)?;
    change.page_mut(at)?.initialize_list(0, meta.generation, first);
    let at = change.lock_new(refinement)?;
    change.page_mut(at)?.initialize(PageKind::Refinements, meta.directory);
    change.commit()
}

/// Puts a row into the list that starts at `first`, at its segment `start` or after it.
fn insert_into<S: PageStore>(
    store: &S,
    index: &Index,
    first: Block,
    start: Option<Block>,
    row: &Row,
) -> Result<Outcome, S::Error> {
    let generation = index.meta.generation;
    let (list, insert_at) = {
        let page = store.read(first)?;
        let codes = Codes::of(&page, &index.geometry, first)?;
        if codes.segment().generation != generation {
            return Ok(Outcome::Sealed);
        }
        (codes.segment().list, codes.segment().insert_at)
    };
    let mut block = start.unwrap_or(insert_at);
    for _ in 0..=store.blocks()? {
        store.check_interrupts()?;
        let mut change = store.change();
        let at = change.lock(block)?;
        let page = change.page(at);
        if !page.is_segment_of(list, generation) {
            // Vacuum has unlinked the segment since we read of it.
            return Ok(Outcome::Lost);
        }
        let codes = Codes::of(page, &index.geometry, block)?;
        if index.meta.is_sealed(codes.segment()) {
            match codes.next() {
                // Of the fresh list a training reads one segment after the other, and the last one at its end.
                next if list == FRESH && next != NO_BLOCK => {
                    block = next;
                    continue;
                }
                _ => return Ok(Outcome::Sealed),
            }
        }
        if let Some(lane) = codes.free_lane() {
            write_row(change, index, (at, block), lane, row)?;
            if block != insert_at {
                // Unless vacuum has found room elsewhere meanwhile.
                segments::set_room(store, first, Some(insert_at), block)?;
            }
            return Ok(Outcome::Done);
        }
        block = match codes.next() {
            NO_BLOCK => append_segment(change, at, None)?,
            next => next,
        };
    }
    Err(segments::endless(first))
}

/// Writes a row into a free lane of the segment whose code page is `at` in `change`, and commits.
fn write_row<C: Change>(
    mut change: C,
    index: &Index,
    (at, block): (usize, Block),
    lane: usize,
    row: &Row,
) -> Result<(), C::Error> {
    let geometry = &index.geometry;
    // Pages are changed in the order in which they were locked: replay on a standby locks them in that order.
    CodesMut::new(change.page_mut(at)?, geometry).fill(lane, row);
    if geometry.bits > 1 {
        let (number, record) = geometry.record(lane);
        let refinement = Codes::of(change.page(at), geometry, block)?.refinements()[number];
        let page = if refinement == NO_BLOCK {
            let (new, page) = allocate(&mut change)?;
            change.page_mut(page)?.initialize(PageKind::Refinements, block);
            CodesMut::new(change.page_mut(at)?, geometry).set_refinement_page(number, new);
            page
        } else {
            change.lock_as(PageKind::Refinements, refinement)?
        };
        change.page_mut(page)?.bytes_mut()[record].copy_from_slice(row.refinement);
    }
    change.commit()
}

/// Adds an empty segment after the list's last one, which is `at` in `change`, and commits; returns its block. `seal`: by the
/// number of the training, of the last one so far.
pub(crate) fn append_segment<C: Change>(
    mut change: C,
    at: usize,
    seal: Option<u32>,
) -> Result<Block, C::Error> {
    if let Some(training) = seal {
        change.page_mut(at)?.segment_mut().sealed = training;
    }
    let last = *change.page_mut(at)?.segment();
    let (new, page) = allocate(&mut change)?;
    change.page_mut(page)?.initialize_list(last.list, last.generation, NO_BLOCK);
    change.page_mut(at)?.set_link(new);
    change.commit()?;
    Ok(new)
}

/// Takes a page from the free list, or the next one beyond those in use; it is locked in `change`, after the metapage.
fn allocate<C: Change>(change: &mut C) -> Result<(Block, usize), C::Error> {
    let meta = change.lock_as(PageKind::Meta, META_BLOCK)?;
    let free = change.page(meta).meta().free;
    if free == NO_BLOCK {
        let new = change.page(meta).meta().pages;
        let meta = change.page_mut(meta)?;
        meta.meta_mut().pages = new + 1;
        return Ok((new, change.lock_new(new)?));
    }
    let page = change.lock_as(PageKind::Free, free)?;
    let next = change.page(page).start().link;
    let meta = change.page_mut(meta)?.meta_mut();
    meta.free = next;
    meta.free_pages = meta.free_pages.saturating_sub(1);
    Ok((free, page))
}
