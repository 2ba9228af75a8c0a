//! Freeing the pages of lists that were replaced, and of trainings that died.

use crate::index::Index;
use crate::layout::{Codes, META_BLOCK, NO_BLOCK, PageKind};
use crate::segments::{Visitor, all_first_segments, walk};
use crate::store::{Block, Change, MAX_PAGES_IN_CHANGE, PageStore, Recent};
use crate::vacuum;

/// Pages at the end of the index that are worth cutting off, and what share of all.
const LEAST_CUT: Block = 128;
const CUT_SHARE: Block = 8;

/// Puts every page that nothing leads to on the free list, or cuts it off at the end. Nothing is done, and false returned,
/// as long as somebody may read such a page.
///
/// By vacuum or a training, beside inserts and scans: nobody else frees a page or removes one from a list.
pub fn sweep<S: PageStore>(store: &S) -> Result<bool, S::Error> {
    let index = Index::open(store)?;
    if index.meta.garbage == 0 || !store.has_passed(index.meta.garbage) {
        return Ok(index.meta.garbage == 0);
    }
    // From here on an insert takes no page below `limit` but those that are put on the list below.
    let limit = {
        let mut change = store.change();
        let at = change.lock_as(PageKind::Meta, META_BLOCK)?;
        let meta = change.page_mut(at)?.meta_mut();
        (meta.free, meta.free_pages) = (NO_BLOCK, 0);
        let limit = meta.pages;
        change.commit()?;
        limit
    };
    let used = used_pages(store, &index, limit)?;
    let mut end = used.iter().rposition(|&used| used).map_or(0, |last| last as Block + 1);
    let cut = limit - end;
    if cut < LEAST_CUT.max(limit / CUT_SHARE) || !cut_off(store, end, limit)? {
        end = limit;
    }
    // The lowest pages come to be the first of the list, so that the last ones stay free.
    let unused: Vec<Block> = (0..end).rev().filter(|&block| !used[block as usize]).collect();
    for blocks in unused.chunks(MAX_PAGES_IN_CHANGE - 1) {
        store.check_interrupts()?;
        let mut written = [false; MAX_PAGES_IN_CHANGE - 1];
        for (written, &block) in written.iter_mut().zip(blocks) {
            *written = block < store.blocks()? && store.read(block)?.is_ours();
        }
        let mut change = store.change();
        let meta = change.lock_as(PageKind::Meta, META_BLOCK)?;
        change.page_mut(meta)?; // first in the log, too
        for (&block, written) in blocks.iter().zip(written) {
            // What a dead training has reserved and not written is not in the log: a standby may not have the page.
            let at = if written { change.lock(block)? } else { change.lock_new(block)? };
            vacuum::free(&mut change, (at, block), meta)?;
        }
        change.commit()?;
    }
    let mut change = store.change();
    let at = change.lock_as(PageKind::Meta, META_BLOCK)?;
    change.page_mut(at)?.meta_mut().garbage = 0;
    change.commit()?;
    Ok(true)
}

/// Which of the first pages the metapage leads to.
fn used_pages<S: PageStore>(store: &S, index: &Index, limit: Block) -> Result<Vec<bool>, S::Error> {
    struct Used(Vec<bool>);
    impl Used {
        fn add(&mut self, block: Block) {
            if let Some(used) = self.0.get_mut(block as usize) {
                *used = true;
            }
        }
    }
    impl<E> Visitor<E> for Used {
        fn visit(&mut self, page: Recent, codes: Codes) -> Result<bool, E> {
            self.add(page.block);
            codes.refinements().iter().for_each(|&block| self.add(block));
            Ok(true)
        }
        fn restart(&mut self) {}
    }
    let mut used = Used(vec![false; limit as usize]);
    let meta = &index.meta;
    [META_BLOCK, meta.mean, meta.directory, meta.fresh].into_iter().for_each(|block| used.add(block));
    if index.knows_dimensions() {
        walk(store, index.directory(), meta.directory, &mut used)?;
        for first in all_first_segments(store, index)? {
            walk(store, index.lists(), first, &mut used)?;
        }
    }
    Ok(used.0)
}

/// Cuts off what lies behind, if nothing has been added since there were `limit` pages.
fn cut_off<S: PageStore>(store: &S, end: Block, limit: Block) -> Result<bool, S::Error> {
    store.truncate(end, || {
        let mut change = store.change();
        let at = change.lock_as(PageKind::Meta, META_BLOCK)?;
        if change.page(at).meta().pages != limit {
            return Ok(false);
        }
        change.page_mut(at)?.meta_mut().pages = end;
        change.commit()?;
        Ok(true)
    })
}
