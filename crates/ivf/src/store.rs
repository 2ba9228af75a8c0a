//! What the index needs of the pages it lives on. Postgres's buffers implement it, and [`crate::memstore`] for tests.

use crate::layout::{Page, PageKind};
use std::ops::Deref;

/// A block number, from 0.
pub type Block = u32;

/// Pages that one [`Change`] can hold (Postgres: `MAX_GENERIC_XLOG_PAGES`).
pub const MAX_PAGES_IN_CHANGE: usize = 4;

/// Why an index cannot be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IndexError {
    /// Written by another version of this crate.
    #[error("the index has format version {0}")]
    Version(u32),
    /// Its structure is broken.
    #[error("block {block} {problem}")]
    Corrupt { block: Block, problem: String },
    /// The lists have been replaced, and the pages of those that were being read have got another use, which only happens
    /// on a standby.
    #[error("the index has been trained again, and block {0} is used for something else now")]
    Replaced(Block),
    /// A row is nearer than the bound that its code gives, which is proved.
    #[error("a row's distance is {distance}, and its code says at least {bound}")]
    Nearer { distance: f64, bound: f64 },
}

impl IndexError {
    pub fn corrupt(block: Block, problem: impl Into<String>) -> IndexError {
        IndexError::Corrupt { block, problem: problem.into() }
    }
}

/// A page that was read a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    pub block: Block,
    /// Where the store had it, and can look first.
    pub buffer: i32,
}

/// A page under a shared lock, released on drop.
pub trait ReadPage: Deref<Target = Page> {
    fn recent(&self) -> Recent;
}

/// Pages by block number, read under a shared lock and changed under exclusive ones.
pub trait PageStore {
    type Error: From<IndexError>;
    type Read<'a>: ReadPage
    where
        Self: 'a;
    type Change<'a>: Change<Error = Self::Error>
    where
        Self: 'a;

    fn read(&self, block: Block) -> Result<Self::Read<'_>, Self::Error>;

    /// Reads once more what this statement has read before.
    fn read_again(&self, page: Recent) -> Result<Self::Read<'_>, Self::Error> {
        self.read(page.block)
    }

    /// Starts a change of no page yet.
    fn change(&self) -> Self::Change<'_>;

    /// Pages there are.
    fn blocks(&self) -> Result<Block, Self::Error>;

    /// A point in time after every reading of pages that has begun so far, for [`PageStore::has_passed`]; at least 2.
    fn now(&self) -> u64;

    /// Whether everything that was reading pages at that point in time has ended. True for 1.
    fn has_passed(&self, time: u64) -> bool;

    /// Whether pages change without regard to who reads them: on a standby.
    fn is_replayed(&self) -> bool {
        false
    }

    /// Cuts off the pages from `blocks` on, if nobody else uses the index and `agree` says so then.
    fn truncate(
        &self,
        _blocks: Block,
        _agree: impl FnOnce() -> Result<bool, Self::Error>,
    ) -> Result<bool, Self::Error> {
        Ok(false)
    }

    /// Says that `block` will soon be read; true if that started to bring it into memory, false if it is there.
    fn prefetch(&self, _block: Block) -> bool {
        false
    }

    /// Called in every loop over pages, while no page is locked; fails if the work is to stop.
    fn check_interrupts(&self) -> Result<(), Self::Error>;
}

/// An atomic change of up to [`MAX_PAGES_IN_CHANGE`] pages: after a crash all of it is there, or nothing.
///
/// Pages are locked exclusively one by one and referred to by the number that locking returns, 0, 1, ... Dropping the
/// change without [`commit`](Change::commit) leaves every page as it was; either way the locks are released.
pub trait Change {
    type Error: From<IndexError>;

    fn lock(&mut self, block: Block) -> Result<usize, Self::Error>;

    /// Likewise; fails unless the page is of this kind.
    fn lock_as(&mut self, kind: PageKind, block: Block) -> Result<usize, Self::Error> {
        let index = self.lock(block)?;
        self.page(index).expect(kind, block)?;
        Ok(index)
    }

    /// Locks a page whose content does not matter; `block` may be beyond the end, which adds it and those before it. The
    /// page starts as zeros.
    fn lock_new(&mut self, block: Block) -> Result<usize, Self::Error>;

    /// The page as changed so far.
    fn page(&self, index: usize) -> &Page;

    /// Only pages that were asked for here are written by `commit`.
    fn page_mut(&mut self, index: usize) -> Result<&mut Page, Self::Error>;

    fn commit(self) -> Result<(), Self::Error>;
}

/// Where new lists are written: nobody else sees their pages before they are done.
pub trait PageSink {
    type Error;

    /// The block of the next page. Each is written at least once.
    fn next_block(&mut self) -> Result<Block, Self::Error>;

    /// Writes a page.
    fn write(&mut self, block: Block, page: &Page) -> Result<(), Self::Error>;

    /// As for [`PageStore::check_interrupts`].
    fn check_interrupts(&self) -> Result<(), Self::Error>;
}
