//! An index in memory, for tests: it can fail at the nth operation, and panics where Postgres would wait for ever.

use crate::layout::Page;
use crate::store::{Block, Change, IndexError, MAX_PAGES_IN_CHANGE, PageSink, PageStore, ReadPage, Recent};
use std::cell::{Cell, RefCell};
use std::ops::Deref;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MemError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("failed as asked for")]
    Injected,
}

type Result<T> = std::result::Result<T, MemError>;

/// One thread's store: a page that is locked twice in conflicting ways is a bug, not a wait.
#[derive(Default)]
pub struct MemStore {
    pages: RefCell<Vec<Page>>,
    /// Shared locks of each page, or -1.
    locks: RefCell<Vec<i32>>,
    operations_left: Cell<Option<usize>>,
    pages_read: Cell<usize>,
    /// Changes committed so far: the time.
    changes: Cell<u64>,
    /// Since when somebody has been reading.
    oldest: Cell<Option<u64>>,
    is_replayed: Cell<bool>,
    others: RefCell<Option<Others>>,
}

/// What others do while somebody has no page locked.
type Others = Box<dyn FnMut(&MemStore)>;

impl MemStore {
    /// The `n`th operation from here on that can fail does, and all after it; `None` stops that.
    pub fn fail_after(&self, n: Option<usize>) {
        self.operations_left.set(n);
    }

    /// Pages read so far.
    pub fn pages_read(&self) -> usize {
        self.pages_read.get()
    }

    /// Has `others` run whenever interrupts are checked, until it is given `None`; but not while it runs itself.
    pub fn meanwhile(&self, others: Option<Others>) {
        *self.others.borrow_mut() = others;
    }

    /// From now on, or no longer, somebody is reading.
    pub fn hold(&self, reading: bool) {
        self.oldest.set(reading.then(|| self.now()));
    }

    /// Behaves as on a standby.
    pub fn set_replayed(&self, is_replayed: bool) {
        self.is_replayed.set(is_replayed);
    }

    /// Overwrites bytes of a page, as a broken disk would.
    pub fn damage(&self, block: Block, offset: usize, bytes: &[u8]) {
        self.pages.borrow_mut()[block as usize].bytes_mut()[offset..offset + bytes.len()]
            .copy_from_slice(bytes);
    }

    /// Adds a page of zeros at the end, as a crash in the middle of adding one leaves it.
    pub fn add_unused_page(&self) {
        self.pages.borrow_mut().push(Page::zeroed());
        self.locks.borrow_mut().push(0);
    }

    fn operation(&self) -> Result<()> {
        match self.operations_left.get() {
            Some(0) => Err(MemError::Injected),
            Some(n) => {
                self.operations_left.set(Some(n - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn existing(&self, block: Block) -> Result<Page> {
        let pages = self.pages.borrow();
        pages.get(block as usize).cloned().ok_or_else(|| IndexError::corrupt(block, "does not exist").into())
    }
}

pub struct MemRead<'a> {
    store: &'a MemStore,
    block: Block,
    page: Page,
}

impl Deref for MemRead<'_> {
    type Target = Page;

    fn deref(&self) -> &Page {
        &self.page
    }
}

impl ReadPage for MemRead<'_> {
    fn recent(&self) -> Recent {
        Recent { block: self.block, buffer: 0 }
    }
}

impl Drop for MemRead<'_> {
    fn drop(&mut self) {
        self.store.locks.borrow_mut()[self.block as usize] -= 1;
    }
}

pub struct MemChange<'a> {
    store: &'a MemStore,
    /// Block, content, and whether it is to be written.
    pages: Vec<(Block, Page, bool)>,
}

impl MemChange<'_> {
    /// As Postgres's store does.
    fn refuse_twice(&self, block: Block) -> Result<()> {
        match self.pages.iter().any(|&(other, ..)| other == block) {
            true => Err(IndexError::corrupt(block, "is referred to twice").into()),
            false => Ok(()),
        }
    }

    fn add(&mut self, block: Block, page: Page) -> usize {
        let lock = &mut self.store.locks.borrow_mut()[block as usize];
        assert_eq!(*lock, 0, "block {block} is locked already");
        *lock = -1;
        assert!(self.pages.len() < MAX_PAGES_IN_CHANGE);
        self.pages.push((block, page, false));
        self.pages.len() - 1
    }
}

impl Change for MemChange<'_> {
    type Error = MemError;

    fn lock(&mut self, block: Block) -> Result<usize> {
        self.store.operation()?;
        self.refuse_twice(block)?;
        let page = self.store.existing(block)?;
        Ok(self.add(block, page))
    }

    fn lock_new(&mut self, block: Block) -> Result<usize> {
        self.store.operation()?;
        self.refuse_twice(block)?;
        while block >= self.store.blocks()? {
            self.store.add_unused_page();
        }
        Ok(self.add(block, Page::zeroed()))
    }

    fn page(&self, index: usize) -> &Page {
        &self.pages[index].1
    }

    fn page_mut(&mut self, index: usize) -> Result<&mut Page> {
        self.store.operation()?;
        let (_, page, changed) = &mut self.pages[index];
        *changed = true;
        Ok(page)
    }

    fn commit(self) -> Result<()> {
        self.store.operation()?;
        self.store.changes.set(self.store.changes.get() + 1);
        for (block, page, changed) in &self.pages {
            if *changed {
                self.store.pages.borrow_mut()[*block as usize] = page.clone();
            }
        }
        Ok(())
    }
}

impl Drop for MemChange<'_> {
    fn drop(&mut self) {
        for (block, ..) in &self.pages {
            self.store.locks.borrow_mut()[*block as usize] = 0;
        }
    }
}

impl PageStore for MemStore {
    type Error = MemError;
    type Read<'a> = MemRead<'a>;
    type Change<'a> = MemChange<'a>;

    fn read(&self, block: Block) -> Result<MemRead<'_>> {
        self.operation()?;
        let page = self.existing(block)?;
        let lock = &mut self.locks.borrow_mut()[block as usize];
        assert!(*lock >= 0, "block {block} is being changed");
        *lock += 1;
        self.pages_read.set(self.pages_read.get() + 1);
        Ok(MemRead { store: self, block, page })
    }

    fn change(&self) -> MemChange<'_> {
        MemChange { store: self, pages: Vec::new() }
    }

    fn blocks(&self) -> Result<Block> {
        Ok(self.pages.borrow().len() as Block)
    }

    fn now(&self) -> u64 {
        self.changes.get() + 2
    }

    fn has_passed(&self, time: u64) -> bool {
        self.oldest.get().is_none_or(|oldest| time < oldest) && time < self.now()
    }

    fn is_replayed(&self) -> bool {
        self.is_replayed.get()
    }

    fn truncate(&self, blocks: Block, agree: impl FnOnce() -> Result<bool>) -> Result<bool> {
        let agreed = self.oldest.get().is_none() && agree()?;
        if agreed {
            self.pages.borrow_mut().truncate(blocks as usize);
            self.locks.borrow_mut().truncate(blocks as usize);
        }
        Ok(agreed)
    }

    fn check_interrupts(&self) -> Result<()> {
        assert!(self.locks.borrow().iter().all(|&lock| lock == 0), "interrupts are checked under a lock");
        let others = self.others.borrow_mut().take();
        if let Some(mut others) = others {
            others(self);
            self.others.borrow_mut().get_or_insert(others);
        }
        self.operation()
    }
}

impl PageSink for MemStore {
    type Error = MemError;

    fn next_block(&mut self) -> Result<Block> {
        self.operation()?;
        self.add_unused_page();
        Ok(self.blocks()? - 1)
    }

    fn write(&mut self, block: Block, page: &Page) -> Result<()> {
        self.operation()?;
        self.pages.borrow_mut()[block as usize] = page.clone();
        Ok(())
    }

    fn check_interrupts(&self) -> Result<()> {
        self.operation()
    }
}
