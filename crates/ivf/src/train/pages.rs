//! Where a training writes: on free pages, the lowest first, then on new ones at the end.

use crate::layout::{META_BLOCK, NO_BLOCK, Page, PageKind};
use crate::segments::endless;
use crate::store::{Block, Change, PageSink, PageStore};
use std::ops::Range;
use std::vec::IntoIter;

/// New pages that are reserved at a time.
const EXTENT: Block = 64;

pub struct NewPages<'a, S> {
    store: &'a S,
    free: IntoIter<Block>,
    reserved: Range<Block>,
}

impl<'a, S: PageStore> NewPages<'a, S> {
    /// `free`: the first page of a free list that nobody else knows.
    pub fn new(store: &'a S, free: Block) -> Result<NewPages<'a, S>, S::Error> {
        let mut pages = Vec::new();
        let mut block = free;
        while block != NO_BLOCK {
            store.check_interrupts()?;
            if pages.len() > store.blocks()? as usize {
                return Err(endless(free));
            }
            pages.push(block);
            let page = store.read(block)?;
            page.expect(PageKind::Free, block)?;
            block = page.start().link;
        }
        pages.sort_unstable();
        Ok(NewPages { store, free: pages.into_iter(), reserved: 0..0 })
    }

    fn reserve(&mut self) -> Result<(), S::Error> {
        let mut change = self.store.change();
        let at = change.lock_as(PageKind::Meta, META_BLOCK)?;
        let meta = change.page_mut(at)?.meta_mut();
        self.reserved = meta.pages..meta.pages + EXTENT;
        meta.pages = self.reserved.end;
        change.commit()
    }
}

impl<S: PageStore> PageSink for NewPages<'_, S> {
    type Error = S::Error;

    fn next_block(&mut self) -> Result<Block, S::Error> {
        if let Some(block) = self.free.next() {
            return Ok(block);
        }
        if self.reserved.is_empty() {
            self.reserve()?;
        }
        let block = self.reserved.start;
        self.reserved.start += 1;
        Ok(block)
    }

    fn write(&mut self, block: Block, page: &Page) -> Result<(), S::Error> {
        let mut change = self.store.change();
        let at = change.lock_new(block)?;
        change.page_mut(at)?.bytes_mut().copy_from_slice(page.bytes());
        change.commit()
    }

    fn check_interrupts(&self) -> Result<(), S::Error> {
        self.store.check_interrupts()
    }
}
