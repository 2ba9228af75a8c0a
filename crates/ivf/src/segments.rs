//! Chains of segments: the lists, and the directory.

use crate::index::Index;
use crate::layout::{Codes, DIRECTORY, Geometry, LANES, NO_BLOCK, Page, PageKind, Tid};
use crate::quantize::{Query, Refined};
use crate::store::{Block, Change, IndexError, PageStore};

/// Segments that are read between two checks for interrupts, which want all locks released.
///
/// A segment of 384 dimensions takes 1 µs to scan and 6 to refine once its pages are in memory, so that what resuming
/// costs does not show.
const SEGMENTS_BETWEEN_CHECKS: Block = 16;

/// What is done with the segments of a chain.
pub trait Visitor<E> {
    /// Called under a shared lock on the segment's code page. False ends the walk.
    fn visit(&mut self, block: Block, codes: Codes) -> Result<bool, E>;

    /// The walk starts again: forget what was seen.
    fn restart(&mut self);
}

/// Visits every segment of a chain, from its first one on.
///
/// Each page is locked before the one before it is released, so that no segment can be unlinked, and its page reused,
/// while the walk is on its way there. Between two checks for interrupts nothing is locked: the first segment counts
/// the unlinked ones, and if there is a new one, the walk starts again.
pub fn walk<S: PageStore>(
    store: &S,
    geometry: &Geometry,
    first: Block,
    visitor: &mut impl Visitor<S::Error>,
) -> Result<(), S::Error> {
    'walk: loop {
        store.check_interrupts()?;
        let mut page = store.read(first)?;
        let codes = Codes::of(&page, geometry, first)?;
        let (list, unlinked) = (codes.segment().list, codes.segment().unlinked);
        let mut block = first;
        let mut visited: Block = 0;
        loop {
            let codes = Codes::of(&page, geometry, block)?;
            if codes.segment().list != list {
                return Err(IndexError::corrupt(block, format!("is not in list {list}")).into());
            }
            let go_on = visitor.visit(block, codes)?;
            let next = codes.next();
            if !go_on || next == NO_BLOCK {
                return Ok(());
            }
            visited += 1;
            if visited.is_multiple_of(SEGMENTS_BETWEEN_CHECKS) {
                drop(page);
                store.check_interrupts()?;
                if visited > store.blocks()? {
                    return Err(endless(first));
                }
                let first_page = store.read(first)?;
                if Codes::of(&first_page, geometry, first)?.segment().unlinked != unlinked {
                    drop(first_page);
                    visitor.restart();
                    continue 'walk;
                }
                // `next` is still what follows: nothing was unlinked, and segments are added at the end only.
                page = store.read(next)?;
            } else {
                // The old guard is dropped, and its lock released, when the new lock has been taken.
                page = store.read(next)?;
            }
            block = next;
        }
    }
}

/// A chain with more segments than there are pages.
pub fn endless<E: From<IndexError>>(first: Block) -> E {
    IndexError::corrupt(first, "starts a list that leads back to itself").into()
}

/// Calls `each` for the lanes in use of a segment whose code page the caller has locked, with what their whole codes
/// say of their distances.
pub fn refine_all<S: PageStore>(
    store: &S,
    geometry: &Geometry,
    block: Block,
    codes: Codes,
    query: &Query,
    signs: &mut Vec<u8>,
    mut each: impl FnMut(usize, Refined),
) -> Result<(), S::Error> {
    let per_page = if geometry.bits == 1 { geometry.lanes() } else { geometry.records_per_page };
    for first in (0..geometry.lanes()).step_by(per_page) {
        let last = (first + per_page).min(geometry.lanes());
        let mut lanes = (first..last).filter(|&lane| codes.is_live(lane)).peekable();
        if lanes.peek().is_none() {
            continue;
        }
        let records = refinement_page(store, geometry, block, codes, first)?;
        for lane in lanes {
            each(lane, refine_lane(geometry, codes, records.as_deref(), lane, query, signs));
        }
    }
    Ok(())
}

/// The page with a live lane's refinement record, locked; the caller has locked the code page. `None` if codes have one
/// bit.
fn refinement_page<'a, S: PageStore>(
    store: &'a S,
    geometry: &Geometry,
    block: Block,
    codes: Codes,
    lane: usize,
) -> Result<Option<S::Read<'a>>, S::Error> {
    if geometry.bits == 1 {
        return Ok(None);
    }
    let refinement = codes.refinements()[geometry.record(lane).0];
    if refinement == NO_BLOCK {
        return Err(IndexError::corrupt(block, format!("has no refinement page for lane {lane}")).into());
    }
    let page = store.read(refinement)?;
    page.expect(PageKind::Refinements, refinement)?;
    Ok(Some(page))
}

/// `records`: as [`refinement_page`] has it.
fn refine_lane(
    geometry: &Geometry,
    codes: Codes,
    records: Option<&Page>,
    lane: usize,
    query: &Query,
    signs: &mut Vec<u8>,
) -> Refined {
    signs.resize(geometry.sign_bytes(), 0);
    codes.signs(lane, signs);
    let record = records.map_or(&[][..], |page| &page.bytes()[geometry.record(lane).1]);
    query.refine(signs, record, geometry.bits, &codes.factors(lane))
}

/// What one row's whole code says of its distance; `None` if the row is no longer there.
///
/// Nothing was locked since the row was seen: vacuum can have removed it, which means that no snapshot in use sees
/// it, and its lane, its page and even its TID can have got another use since. A row with the same TID is then a new
/// one, which the caller's snapshot does not see.
pub fn refine<S: PageStore>(
    store: &S,
    geometry: &Geometry,
    (block, lane, tid): (Block, usize, Tid),
    query: &Query,
    signs: &mut Vec<u8>,
) -> Result<Option<Refined>, S::Error> {
    let page = store.read(block)?;
    if !page.is(PageKind::Codes) || page.segment().list == DIRECTORY {
        return Ok(None);
    }
    let codes = Codes::of(&page, geometry, block)?;
    if !codes.is_live(lane) || codes.tid(lane) != tid {
        return Ok(None);
    }
    let records = refinement_page(store, geometry, block, codes, lane)?;
    Ok(Some(refine_lane(geometry, codes, records.as_deref(), lane, query, signs)))
}

/// A list, as a query sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct List {
    /// Key of the distance from the query to the list's centroid.
    pub key: f32,
    pub first: Block,
    /// Code pages on consecutive blocks from `first` on, as of the build.
    pub run: u16,
}

/// Reads the directory: all lists, in no order.
pub fn lists<S: PageStore>(store: &S, index: &Index, query: &Query) -> Result<Vec<List>, S::Error> {
    struct Ranking<'a, S> {
        store: &'a S,
        index: &'a Index,
        query: &'a Query,
        signs: Vec<u8>,
        lists: Vec<List>,
    }
    impl<S: PageStore> Visitor<S::Error> for Ranking<'_, S> {
        fn visit(&mut self, block: Block, codes: Codes) -> Result<bool, S::Error> {
            let lists = &mut self.lists;
            refine_all(
                self.store,
                &self.index.directory,
                block,
                codes,
                self.query,
                &mut self.signs,
                |lane, refined| {
                    let tid = codes.tid(lane);
                    lists.push(List { key: refined.estimate, first: tid.block(), run: tid.offset });
                },
            )?;
            Ok(true)
        }
        fn restart(&mut self) {
            self.lists.clear();
        }
    }
    let lists = Vec::with_capacity(index.meta.lists as usize);
    let mut ranking = Ranking { store, index, query, signs: Vec::new(), lists };
    walk(store, &index.directory, index.meta.directory, &mut ranking)?;
    if ranking.lists.is_empty() {
        return Err(IndexError::corrupt(index.meta.directory, "is an empty directory").into());
    }
    Ok(ranking.lists)
}

/// The first segments of all lists, in the order of the directory.
pub fn first_segments<S: PageStore>(store: &S, index: &Index) -> Result<Vec<Block>, S::Error> {
    struct Firsts(Vec<Block>);
    impl<E> Visitor<E> for Firsts {
        fn visit(&mut self, _block: Block, codes: Codes) -> Result<bool, E> {
            self.0.extend(codes.live_lanes().map(|lane| codes.tid(lane).block()));
            Ok(true)
        }
        fn restart(&mut self) {
            self.0.clear();
        }
    }
    let mut firsts = Firsts(Vec::new());
    if !index.knows_dimensions() {
        return Ok(firsts.0);
    }
    walk(store, &index.directory, index.meta.directory, &mut firsts)?;
    Ok(firsts.0)
}

/// Rows of the list that starts at `first`.
pub fn count_rows<S: PageStore>(store: &S, index: &Index, first: Block) -> Result<u64, S::Error> {
    struct Rows(u64);
    impl<E> Visitor<E> for Rows {
        fn visit(&mut self, _block: Block, codes: Codes) -> Result<bool, E> {
            self.0 += codes.count() as u64;
            Ok(true)
        }
        fn restart(&mut self) {
            self.0 = 0;
        }
    }
    let mut rows = Rows(0);
    walk(store, &index.geometry, first, &mut rows)?;
    Ok(rows.0)
}

/// Tells inserts at which segment the list that starts at `first` has room; only if they are sent to `from` now, if
/// that is given.
pub fn set_room<S: PageStore>(
    store: &S,
    first: Block,
    from: Option<Block>,
    to: Block,
) -> Result<(), S::Error> {
    let mut change = store.change();
    let at = change.lock_as(PageKind::Codes, first)?;
    let now = change.page(at).segment().insert_at;
    if now != to && from.is_none_or(|from| from == now) {
        change.page_mut(at)?.segment_mut().insert_at = to;
        change.commit()?;
    }
    Ok(())
}

const _: () = assert!(LANES == u16::BITS as usize);
