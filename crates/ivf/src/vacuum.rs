//! Removing dead rows.

use crate::geometry::Geometry;
use crate::index::Index;
use crate::layout::{Codes, CodesMut, META_BLOCK, NO_BLOCK, PageKind, Tid};
use crate::segments::{all_first_segments, count_rows, endless, set_room};
use crate::shape::Shape;
use crate::store::{Block, Change, IndexError, PageStore};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counts {
    pub removed: u64,
    /// Of the rows that are left.
    pub shape: Shape,
    pub pages: u32,
    pub free_pages: u32,
    /// Pages that this vacuum freed.
    pub freed_pages: u32,
}

/// Frees the lanes of the rows for which `is_dead`, and the segments that become empty.
///
/// One vacuum at a time, beside any number of inserts and scans. Rows that a scan has seen and not returned yet can be
/// removed here: they are dead to every snapshot, so that the scan's must not see them either, whatever takes their
/// TIDs.
pub fn bulk_delete<S: PageStore>(
    store: &S,
    index: &Index,
    is_dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<Counts, S::Error> {
    let mut cleaned = Cleaned::default();
    for first in all_first_segments(store, index)? {
        clean_list(store, index, first, is_dead, &mut cleaned)?;
    }
    finish(store, cleaned)
}

/// Counts rows and pages; changes nothing but the counters of the metapage, if they are wrong.
pub fn count<S: PageStore>(store: &S, index: &Index) -> Result<Counts, S::Error> {
    let mut cleaned = Cleaned::default();
    for first in all_first_segments(store, index)? {
        cleaned.lengths.push(count_rows(store, index, first)?);
    }
    finish(store, cleaned)
}

/// What was done, and found.
#[derive(Default)]
struct Cleaned {
    removed: u64,
    freed_pages: u32,
    /// Rows of each list; the last is the fresh one.
    lengths: Vec<u64>,
}

/// Writes the counters and counts the pages.
fn finish<S: PageStore>(store: &S, cleaned: Cleaned) -> Result<Counts, S::Error> {
    let Cleaned { removed, freed_pages, lengths } = cleaned;
    let pages = store.blocks()?;
    let shape = Shape::of(&lengths);
    let mut change = store.change();
    let at = change.lock_as(PageKind::Meta, META_BLOCK)?;
    let meta = change.page(at).meta();
    let free_pages = meta.free_pages;
    let deleted = meta.deleted + removed;
    if (meta.rows, meta.deleted) != (shape.rows, deleted) {
        let meta = change.page_mut(at)?.meta_mut();
        (meta.rows, meta.deleted) = (shape.rows, deleted);
        change.commit()?;
    }
    Ok(Counts { removed, shape, pages, free_pages, freed_pages })
}

fn clean_list<S: PageStore>(
    store: &S,
    index: &Index,
    first: Block,
    is_dead: &mut dyn FnMut(Tid) -> bool,
    cleaned: &mut Cleaned,
) -> Result<(), S::Error> {
    let geometry = &index.geometry;
    let removed_before = cleaned.removed;
    let mut rows = 0;
    let mut room = None;
    let (mut previous, mut block) = (NO_BLOCK, first);
    let mut segments_left = store.blocks()?;
    while block != NO_BLOCK {
        segments_left = segments_left.checked_sub(1).ok_or_else(|| endless(first))?;
        store.check_interrupts()?;
        let mut change = store.change();
        let at = change.lock(block)?;
        let codes = Codes::of(change.page(at), geometry, block)?;
        let next = codes.next();
        let dead: Vec<usize> = codes.live_lanes().filter(|&lane| is_dead(codes.tid(lane))).collect();
        let live = codes.count() - dead.len();
        if !dead.is_empty() {
            let mut codes = CodesMut::new(change.page_mut(at)?, geometry);
            for &lane in &dead {
                codes.clear(lane);
            }
            change.commit()?;
            cleaned.removed += dead.len() as u64;
        } else {
            drop(change);
        }
        // The first segment stays: the directory points to it, and what is known of the whole list is there. So do those of
        // the fresh list, which goes with its generation.
        let may_go = live == 0 && block != first && first != index.meta.fresh;
        if may_go && unlink(store, geometry, (first, previous, block), &mut cleaned.freed_pages)? {
            block = next;
            continue;
        }
        if live < geometry.lanes() && room.is_none() {
            room = Some(block);
        }
        rows += live as u64;
        (previous, block) = (block, next);
    }
    cleaned.lengths.push(rows);
    match room {
        Some(room) if cleaned.removed > removed_before => set_room(store, first, None, room),
        _ => Ok(()),
    }
}

/// Takes an empty segment out of its list and frees its pages; false if an insert has used it meanwhile.
///
/// Its refinement pages go first, one by one, as a change holds four pages. Whatever is done when the server crashes in
/// between leaves a segment as any other, which the next vacuum finds empty.
fn unlink<S: PageStore>(
    store: &S,
    geometry: &Geometry,
    (first, previous, block): (Block, Block, Block),
    freed_pages: &mut u32,
) -> Result<bool, S::Error> {
    for number in 0..geometry.refinement_pages() {
        let mut change = store.change();
        let at = change.lock(block)?;
        let codes = Codes::of(change.page(at), geometry, block)?;
        if codes.count() != 0 {
            return Ok(false);
        }
        let refinement = codes.refinements()[number];
        if refinement == NO_BLOCK {
            continue;
        }
        let page = change.lock_as(PageKind::Refinements, refinement)?;
        let meta = change.lock_as(PageKind::Meta, META_BLOCK)?;
        CodesMut::new(change.page_mut(at)?, geometry).set_refinement_page(number, NO_BLOCK);
        free(&mut change, (page, refinement), meta)?;
        change.commit()?;
        *freed_pages += 1;
    }

    let mut change = store.change();
    let first_at = change.lock(first)?;
    let previous_at = if previous == first { first_at } else { change.lock(previous)? };
    let at = change.lock(block)?;
    let codes = Codes::of(change.page(at), geometry, block)?;
    let next = codes.next();
    if codes.count() != 0 || codes.refinements().iter().any(|&page| page != NO_BLOCK) {
        return Ok(false);
    }
    if !change.page(previous_at).is(PageKind::Codes) || change.page(previous_at).start().link != block {
        return Err(IndexError::corrupt(previous, format!("does not lead to block {block}")).into());
    }
    let meta = change.lock_as(PageKind::Meta, META_BLOCK)?;
    let head = change.page_mut(first_at)?.segment_mut();
    head.unlinked = head.unlinked.wrapping_add(1);
    if head.insert_at == block {
        head.insert_at = first;
    }
    change.page_mut(previous_at)?.set_link(next);
    free(&mut change, (at, block), meta)?;
    change.commit()?;
    *freed_pages += 1;
    Ok(true)
}

/// Puts a page, whose index in the change and block are given, at the head of the free list.
pub(crate) fn free<C: Change>(
    change: &mut C,
    (at, block): (usize, Block),
    meta: usize,
) -> Result<(), C::Error> {
    let next = change.page(meta).meta().free;
    change.page_mut(at)?.set_kind(PageKind::Free, next);
    let meta = change.page_mut(meta)?.meta_mut();
    meta.free = block;
    meta.free_pages += 1;
    Ok(())
}
