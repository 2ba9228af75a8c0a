//! The change that puts new lists in force.

use super::recentre::Recentring;
use crate::index::Index;
use crate::layout::{Codes, CodesMut, META_BLOCK, NO_BLOCK, PageKind, Row};
use crate::segments::for_each_row;
use crate::shape::credit;
use crate::store::{Block, Change, PageStore};
use crate::writer::Written;

/// Ends the generation of `index`: its last segment that was open to new rows, `open`, is sealed, the few rows that are in it
/// are copied to the new fresh list, and the metapage leads to the new lists. Returns how many these were; `None`, and
/// nothing is done, if there are more than fit one change of pages.
pub fn turn<S: PageStore>(
    store: &S,
    index: &Index,
    written: &Written,
    (open, recentring): (Block, &mut Recentring),
    now: i64,
) -> Result<Option<u64>, S::Error> {
    let geometry = &index.geometry;
    let mut change = store.change();
    let at = change.lock(open)?;
    let mut rows: Vec<(usize, Vec<u8>)> = Vec::new();
    {
        let codes = Codes::of(change.page(at), geometry, open)?;
        let fits = |lane: usize| geometry.bits == 1 || geometry.record(lane).0 == 0;
        if codes.next() != NO_BLOCK || !codes.live_lanes().all(fits) {
            return Ok(None);
        }
        for_each_row(store, geometry, (open, codes), codes.live_lanes(), |lane, row| {
            let mut bytes = Vec::new();
            recentring.write(geometry, &row, &mut bytes);
            rows.push((lane, bytes));
        })?;
    }
    let fresh = change.lock_as(PageKind::Codes, written.fresh)?;
    let refinement = Codes::of(change.page(fresh), geometry, written.fresh)?.refinements().first().copied();
    let refinement = match refinement.filter(|_| !rows.is_empty()) {
        None => None,
        Some(block) => Some(change.lock_as(PageKind::Refinements, block)?),
    };
    let meta = change.lock_as(PageKind::Meta, META_BLOCK)?;

    change.page_mut(at)?.segment_mut().sealed = index.meta.training;
    for (lane, row) in &rows {
        let row = Row::read(geometry, row);
        CodesMut::new(change.page_mut(fresh)?, geometry).fill(*lane, &row);
        if let Some(page) = refinement {
            let record = geometry.record(*lane).1;
            change.page_mut(page)?.bytes_mut()[record].copy_from_slice(row.refinement);
        }
    }
    // Whoever reads the old lists has begun before this page was locked.
    let time = store.now();
    let moved = rows.len() as u64;
    let meta = change.page_mut(meta)?.meta_mut();
    let rows = written.rows + moved;
    // This one has been charged for when it began.
    (meta.credit, meta.spent) = (credit(meta, rows), 0);
    meta.enter(written, now);
    (meta.rows, meta.trained_rows) = (rows, rows);
    meta.generation = meta.training;
    meta.is_training = 0;
    meta.garbage = meta.garbage.max(time);
    change.commit()?;
    Ok(Some(moved))
}
