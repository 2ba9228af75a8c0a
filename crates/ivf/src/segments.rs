//! Chains of segments: the lists, and the directory.

use crate::geometry::Geometry;
use crate::index::{Index, Part};
use crate::layout::{Codes, LANES, NO_BLOCK, Page, PageKind, Row, Tid};
use crate::quantize::{Query, Refined};
use crate::shortlist::{self, Shortlist, Sketch};
use crate::store::{Block, Change, IndexError, PageStore, ReadPage, Recent};

/// Segments that are read between two checks for interrupts, which want all locks released.
///
/// A segment of 384 dimensions takes 1 µs to scan and 6 to refine once its pages are in memory, so that what resuming
/// costs does not show.
const SEGMENTS_BETWEEN_CHECKS: Block = 16;

/// What is done with the segments of a chain.
pub trait Visitor<E> {
    /// Called under a shared lock on the segment's code page. False ends the walk.
    fn visit(&mut self, page: Recent, codes: Codes) -> Result<bool, E>;

    /// The walk starts again: forget what was seen.
    fn restart(&mut self);
}

/// Visits every segment of a list, or of the directory, from its first one on.
///
/// Each page is locked before the one before it is released, so that no segment can be unlinked, and its page reused,
/// while the walk is on its way there. Between two checks for interrupts nothing is locked: the first segment counts
/// the unlinked ones, and if there is a new one, the walk starts again.
pub fn walk<S: PageStore>(
    store: &S,
    Part { index, geometry }: Part,
    first: Block,
    visitor: &mut impl Visitor<S::Error>,
) -> Result<(), S::Error> {
    let generation = index.meta.generation;
    'walk: loop {
        store.check_interrupts()?;
        let mut page = store.read(first)?;
        let head = *page.segment();
        let (list, unlinked) = (head.list, head.unlinked);
        let mut block = first;
        let mut visited: Block = 0;
        loop {
            if !page.is_segment_of(list, generation) {
                // Nothing may be locked when the metapage is asked.
                drop(page);
                return Err(index.astray(store, block, format!("is not a Codes page of list {list}")));
            }
            let codes = Codes::of(&page, geometry, block)?;
            let go_on = visitor.visit(page.recent(), codes)?;
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
                if first_page.segment().unlinked != unlinked {
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

/// Calls `each` for those of the lanes that are in use, with what their whole codes say of their distances. The caller
/// has locked the segment's code page; lanes come in order.
pub fn refine_lanes<S: PageStore>(
    store: &S,
    geometry: &Geometry,
    (block, codes): (Block, Codes),
    lanes: impl Iterator<Item = usize>,
    query: &Query,
    signs: &mut Vec<u8>,
    mut each: impl FnMut(usize, Refined),
) -> Result<(), S::Error> {
    let refine = |lane, signs: &[u8], record: &[u8]| {
        each(lane, query.refine(signs, record, geometry.bits, &codes.factors(lane)));
    };
    visit_codes(store, geometry, (block, codes), lanes, signs, refine)
}

/// Likewise, with all that the index has of a row.
pub fn for_each_row<S: PageStore>(
    store: &S,
    geometry: &Geometry,
    (block, codes): (Block, Codes),
    lanes: impl Iterator<Item = usize>,
    mut each: impl FnMut(usize, Row),
) -> Result<(), S::Error> {
    let mut values = Vec::new();
    let row = |lane, signs: &[u8], refinement: &[u8]| {
        values.clear();
        codes.write_values(lane, &mut values);
        let (tid, factors) = (codes.tid(lane), codes.factors(lane));
        each(lane, Row { tid, factors, values: &values, signs, refinement });
    };
    visit_codes(store, geometry, (block, codes), lanes, &mut Vec::new(), row)
}

/// Calls `each` for those of the lanes that are in use, with the sign bits and the refinement record of the row. The caller has
/// locked the segment's code page; lanes come in order.
pub fn visit_codes<S: PageStore>(
    store: &S,
    geometry: &Geometry,
    (block, codes): (Block, Codes),
    lanes: impl Iterator<Item = usize>,
    signs: &mut Vec<u8>,
    mut each: impl FnMut(usize, &[u8], &[u8]),
) -> Result<(), S::Error> {
    signs.resize(geometry.sign_bytes(), 0);
    let mut records = None;
    let mut number = usize::MAX;
    for lane in lanes.filter(|&lane| codes.is_live(lane)) {
        if geometry.bits > 1 && geometry.record(lane).0 != number {
            number = geometry.record(lane).0;
            // Released before the next one is locked.
            drop(records.take());
            records = refinement_page(store, geometry, block, codes, lane)?;
        }
        codes.signs(lane, signs);
        let record = records.as_deref().map_or(&[][..], |page: &Page| &page.bytes()[geometry.record(lane).1]);
        each(lane, signs, record);
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
    // A damaged page may say that there are more lanes than there are.
    let refinement = codes.refinements().get(geometry.record(lane).0).copied().unwrap_or(NO_BLOCK);
    if refinement == NO_BLOCK {
        return Err(IndexError::corrupt(block, format!("has no refinement page for lane {lane}")).into());
    }
    let page = store.read(refinement)?;
    if page.is(PageKind::Refinements) && page.start().link == block {
        return Ok(Some(page));
    }
    // A standby frees the pages of a segment one after the other, and may have got so far only.
    if store.is_replayed() {
        return Err(IndexError::Replaced(refinement).into());
    }
    Err(IndexError::corrupt(refinement, format!("is not a Refinements page of block {block}")).into())
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

/// The directory, as a query sees it.
pub struct Directory {
    /// Lists whose centroids' sign bits were seen.
    shortlist: Shortlist,
    /// Lists whose whole centroid was seen, in no order.
    ranked: Vec<List>,
    /// No list of the shortlist has a bound below this.
    threshold: f32,
    lists: usize,
}

/// Centroids read whole for each list that is wanted. Needed, by 234 and by 1000 lists of real data: 53 and 61 for 20
/// lists, 23 and 26 for 8, 4 for one; if these do not suffice, as many again are read.
const RANKED_PER_LIST: usize = 3;
/// And at least so many: one more costs 80 ns, reading them in two parts 2 µs.
const LEAST_RANKED: usize = 16;

impl Directory {
    pub fn read<S: PageStore>(store: &S, index: &Index, query: &Query) -> Result<Directory, S::Error> {
        struct Reading<'a>(Shortlist, &'a Query);
        impl<E> Visitor<E> for Reading<'_> {
            fn visit(&mut self, page: Recent, codes: Codes) -> Result<bool, E> {
                self.0.add(page, codes, codes.live(), self.1);
                Ok(true)
            }
            fn restart(&mut self) {
                self.0.clear();
            }
        }
        let mut reading = Reading(Shortlist::default(), query);
        walk(store, index.directory(), index.meta.directory, &mut reading)?;
        let lists = reading.0.open();
        if lists == 0 {
            return Err(IndexError::corrupt(index.meta.directory, "is an empty directory").into());
        }
        Ok(Directory { shortlist: reading.0, ranked: Vec::new(), threshold: f32::NEG_INFINITY, lists })
    }

    /// Lists there are.
    pub fn lists(&self) -> usize {
        self.lists
    }

    /// The next lists, as many as wanted or as there are, the nearest first.
    pub fn nearest<S: PageStore>(
        &mut self,
        store: &S,
        index: &Index,
        query: &Query,
        wanted: usize,
        signs: &mut Vec<u8>,
    ) -> Result<Vec<List>, S::Error> {
        // The first of equals, as the build has it.
        let nearer = |a: &List, b: &List| a.key.total_cmp(&b.key).then(a.first.cmp(&b.first));
        loop {
            let last = wanted.min(self.ranked.len());
            if (1..self.ranked.len()).contains(&last) {
                self.ranked.select_nth_unstable_by(last - 1, nearer);
            }
            let certain =
                last == wanted && last.checked_sub(1).is_none_or(|i| self.ranked[i].key <= self.threshold);
            if certain || self.shortlist.open() == 0 {
                let rest = self.ranked.split_off(last);
                let mut lists = std::mem::replace(&mut self.ranked, rest);
                lists.sort_unstable_by(nearer);
                return Ok(lists);
            }
            let mut taken = Vec::new();
            self.threshold = self.shortlist.take((RANKED_PER_LIST * wanted).max(LEAST_RANKED), &mut taken);
            let ranked = &mut self.ranked;
            let each = |tid: Tid, refined: Refined| {
                ranked.push(List { key: refined.estimate, first: tid.block(), run: tid.offset });
            };
            let part = index.directory();
            refine(store, part, (&self.shortlist, &mut taken), query, signs, each)?;
        }
    }
}

/// The list that is nearest to a query.
pub fn nearest_list<S: PageStore>(store: &S, index: &Index, query: &Query) -> Result<List, S::Error> {
    let mut directory = Directory::read(store, index, query)?;
    let nearest = directory.nearest(store, index, query, 1, &mut Vec::new())?;
    let empty = || IndexError::corrupt(index.meta.directory, "is an empty directory").into();
    nearest.first().copied().ok_or_else(empty)
}

/// Calls `each` for rows, or lists, that were taken from the shortlist, with what their whole codes say of their
/// distances, in the order of their pages; not for those that are gone.
///
/// Nothing was locked since a row was seen: vacuum can have removed it, which means that no snapshot in use sees it,
/// and its lane and its page can have got another use since (but none in the directory, which keeps its pages as long as
/// somebody reads it).
/// Another row there was inserted after the caller's snapshot was taken, which does not see that one either.
pub fn refine<S: PageStore>(
    store: &S,
    Part { index, geometry }: Part,
    (shortlist, taken): (&Shortlist, &mut [Sketch]),
    query: &Query,
    signs: &mut Vec<u8>,
    mut each: impl FnMut(Tid, Refined),
) -> Result<(), S::Error> {
    shortlist::sort_by_place(taken);
    for segment in taken.chunk_by(|&a, &b| shortlist.place(a).0 == shortlist.place(b).0) {
        store.check_interrupts()?;
        let (recent, _) = shortlist.place(segment[0]);
        let page = store.read_again(recent)?;
        let codes = match Codes::of(&page, geometry, recent.block) {
            Ok(codes) if codes.segment().generation == index.meta.generation => codes,
            // Vacuum has freed the page, and a training may have used it: but only once no row of it was seen any more.
            // Replay does not wait for that.
            _ if store.is_replayed() => return Err(IndexError::Replaced(recent.block).into()),
            _ => continue,
        };
        let lanes = segment.iter().map(|&row| shortlist.place(row).1);
        let each = |lane, refined| each(codes.tid(lane), refined);
        refine_lanes(store, geometry, (recent.block, codes), lanes, query, signs, each)?;
    }
    Ok(())
}

/// The first segments of all lists, in the order of the directory.
pub fn first_segments<S: PageStore>(store: &S, index: &Index) -> Result<Vec<Block>, S::Error> {
    struct Firsts(Vec<Block>);
    impl<E> Visitor<E> for Firsts {
        fn visit(&mut self, _page: Recent, codes: Codes) -> Result<bool, E> {
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
    walk(store, index.directory(), index.meta.directory, &mut firsts)?;
    Ok(firsts.0)
}

/// Likewise, and that of the fresh list, which is the last: all that has rows.
pub fn all_first_segments<S: PageStore>(store: &S, index: &Index) -> Result<Vec<Block>, S::Error> {
    let mut firsts = first_segments(store, index)?;
    if index.knows_dimensions() {
        firsts.push(index.meta.fresh);
    }
    Ok(firsts)
}

/// Rows of the list that starts at `first`.
pub fn count_rows<S: PageStore>(store: &S, index: &Index, first: Block) -> Result<u64, S::Error> {
    struct Rows(u64);
    impl<E> Visitor<E> for Rows {
        fn visit(&mut self, _page: Recent, codes: Codes) -> Result<bool, E> {
            self.0 += codes.count() as u64;
            Ok(true)
        }
        fn restart(&mut self) {
            self.0 = 0;
        }
    }
    let mut rows = Rows(0);
    walk(store, index.lists(), first, &mut rows)?;
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
