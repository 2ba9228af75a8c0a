//! Index pages in Postgres's buffers: guards that lock and release them, and changes logged by GenericXLog.
//!
//! # Errors
//!
//! An ERROR of Postgres, raised by any function called here, unwinds through the engine. The guards on its way then
//! release nothing: raising an ERROR has already reset the count of held-off interrupts that each lock release takes
//! one from, and what follows an ERROR in Postgres is always the abort of the (sub)transaction, which releases all
//! locks and pins, and frees the unfinished change. Nothing in this extension catches an ERROR and goes on without
//! such an abort, and nothing may. An `Err` of the engine is no unwinding: the guards release then, before the ERROR
//! is raised.

use std::marker::PhantomData;
use std::mem::{offset_of, take};
use std::ops::Deref;
use std::ptr::{NonNull, null_mut};
use std::sync::LazyLock;
use std::thread::panicking;

use ivf::layout::Page;
use ivf::store::{Block, Change, IndexError, MAX_PAGES_IN_CHANGE, PageSink, PageStore, ReadPage, Recent};
use pgrx::pg_sys;
use pgrx::pg_sys::ForkNumber::{self, MAIN_FORKNUM};
use pgrx::pg_sys::ReadBufferMode::{RBM_NORMAL, RBM_ZERO_AND_LOCK};

/// Postgres's header of a page; the engine has the rest.
pub const HEADER_BYTES: usize = offset_of!(pg_sys::PageHeaderData, pd_linp);

const _: () = assert!(MAX_PAGES_IN_CHANGE == pg_sys::MAX_GENERIC_XLOG_PAGES as usize);

/// What a page that nobody wrote to looks like.
static ZEROS: LazyLock<Page> = LazyLock::new(Page::zeroed);

/// The pages of an index.
pub struct Pages {
    index: pg_sys::Relation,
    /// VACUUM's ring of buffers, or null.
    strategy: pg_sys::BufferAccessStrategy,
    in_vacuum: bool,
}

impl Pages {
    /// # Safety
    /// `index` is an open index of this access method, and stays open while this lives.
    pub unsafe fn of(index: pg_sys::Relation) -> Pages {
        Pages { index, strategy: null_mut(), in_vacuum: false }
    }

    /// # Safety
    /// As for [`Pages::of`]; `strategy` is VACUUM's.
    pub unsafe fn in_vacuum(index: pg_sys::Relation, strategy: pg_sys::BufferAccessStrategy) -> Pages {
        Pages { index, strategy, in_vacuum: true }
    }

    /// Pins an existing page and locks it.
    fn pin(&self, block: Block, lock: u32) -> Result<pg_sys::Buffer, IndexError> {
        // This one would add a page.
        if block == pg_sys::InvalidBlockNumber {
            return Err(IndexError::corrupt(block, "cannot exist"));
        }
        // SAFETY: `index` is open; reading a block that does not exist raises an ERROR.
        unsafe {
            let buffer =
                pg_sys::ReadBufferExtended(self.index, MAIN_FORKNUM, block, RBM_NORMAL, self.strategy);
            pg_sys::LockBuffer(buffer, lock as i32);
            Ok(buffer)
        }
    }

    /// Adds pages up to this one, unless somebody else does meanwhile.
    fn extend(&self, block: Block) -> Result<(), IndexError> {
        // A training writes its pages in their order, so that none is far beyond the end; a damaged metapage could name any.
        const MOST: Block = 1 << 16;
        if block.saturating_sub(self.blocks()?) > MOST {
            return Err(IndexError::corrupt(block, "is far beyond the end"));
        }
        // SAFETY: `index` is open. The extension lock keeps others from adding the same page; a buffer is ours.
        unsafe {
            pg_sys::LockRelationForExtension(self.index, pg_sys::ExclusiveLock as i32);
            while self.blocks()? <= block {
                pg_sys::UnlockReleaseBuffer(add_page(self.index, MAIN_FORKNUM));
            }
            pg_sys::UnlockRelationForExtension(self.index, pg_sys::ExclusiveLock as i32);
        }
        Ok(())
    }
}

/// Whether another process in this database has a snapshot now, but for vacuums, which read no index by one.
///
/// # Safety
/// Called in a transaction.
unsafe fn has_other_snapshots() -> bool {
    let mut count = 0;
    // SAFETY: looks at all processes, and allocates the result.
    unsafe {
        let excluded = pg_sys::PROC_IN_VACUUM as i32;
        let found =
            pg_sys::GetCurrentVirtualXIDs(pg_sys::InvalidTransactionId, true, false, excluded, &mut count);
        if !found.is_null() {
            pg_sys::pfree(found.cast());
        }
    }
    count > 0
}

/// Adds a page of zeros to a fork: pinned and locked exclusively.
///
/// # Safety
/// `index` is open, and nobody else adds a page to the fork meanwhile.
unsafe fn add_page(index: pg_sys::Relation, fork: ForkNumber::Type) -> pg_sys::Buffer {
    const P_NEW: Block = pg_sys::InvalidBlockNumber;
    // SAFETY: the caller's promise.
    unsafe { pg_sys::ReadBufferExtended(index, fork, P_NEW, RBM_ZERO_AND_LOCK, null_mut()) }
}

/// The engine's part of a page of Postgres.
///
/// # Safety
/// `page` is a page, of [`pg_sys::BLCKSZ`] bytes and aligned to 8.
unsafe fn content(page: pg_sys::Page) -> NonNull<Page> {
    // SAFETY: the header is shorter than the page, and a multiple of 8.
    unsafe { NonNull::new_unchecked(page.add(HEADER_BYTES).cast()) }
}

/// Gives a page the header of one that is full: GenericXLog and full-page images leave out what lies between `pd_lower`
/// and `pd_upper`. The content becomes zeros.
///
/// # Safety
/// As for [`content`]; the page may be written to.
unsafe fn initialize(page: pg_sys::Page) {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::PageInit(page, pg_sys::BLCKSZ as usize, 0);
        (*page.cast::<pg_sys::PageHeaderData>()).pd_lower = pg_sys::BLCKSZ as u16;
    }
}

/// A page under a shared lock.
pub struct SharedPage<'a> {
    page: NonNull<Page>,
    block: Block,
    buffer: pg_sys::Buffer,
    lifetime: PhantomData<&'a Pages>,
}

impl SharedPage<'_> {
    /// # Safety
    /// The buffer holds the block, is pinned, and locked at least for reading; the guard is to release it.
    #[inline]
    unsafe fn of(block: Block, buffer: pg_sys::Buffer) -> Self {
        // SAFETY: the caller's promise.
        let page = unsafe { content(pg_sys::BufferGetPage(buffer)) };
        SharedPage { page, block, buffer, lifetime: PhantomData }
    }
}

impl ReadPage for SharedPage<'_> {
    #[inline]
    fn recent(&self) -> Recent {
        Recent { block: self.block, buffer: self.buffer }
    }
}

impl Deref for SharedPage<'_> {
    type Target = Page;

    #[inline]
    fn deref(&self) -> &Page {
        // SAFETY: the buffer is pinned, and its lock keeps others from writing to it.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for SharedPage<'_> {
    #[inline]
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: the buffer is pinned and locked by us.
            unsafe { pg_sys::UnlockReleaseBuffer(self.buffer) }
        }
    }
}

impl PageStore for Pages {
    type Error = IndexError;
    type Read<'a> = SharedPage<'a>;
    type Change<'a> = LoggedChange<'a>;

    #[inline]
    fn read(&self, block: Block) -> Result<SharedPage<'_>, IndexError> {
        let buffer = self.pin(block, pg_sys::BUFFER_LOCK_SHARE)?;
        // SAFETY: the buffer is pinned and locked.
        Ok(unsafe { SharedPage::of(block, buffer) })
    }

    /// Does not count as a use of the page when Postgres looks for a buffer to evict: so only for what was just read.
    #[inline]
    fn read_again(&self, page: Recent) -> Result<SharedPage<'_>, IndexError> {
        let Recent { block, buffer } = page;
        // SAFETY: `index` is open; `buffer` held the page when it was read, and may hold another now, or none.
        unsafe {
            #[cfg(feature = "pg15")]
            let relation = (*self.index).rd_node;
            #[cfg(not(feature = "pg15"))]
            let relation = (*self.index).rd_locator;
            if !pg_sys::ReadRecentBuffer(relation, MAIN_FORKNUM, block, buffer) {
                return self.read(block);
            }
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            Ok(SharedPage::of(block, buffer))
        }
    }

    fn change(&self) -> LoggedChange<'_> {
        LoggedChange { store: self, log: null_mut(), pages: [const { None }; MAX_PAGES_IN_CHANGE] }
    }

    fn blocks(&self) -> Result<Block, IndexError> {
        // SAFETY: `index` is open.
        Ok(unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.index, MAIN_FORKNUM) })
    }

    /// The next transaction's ID.
    fn now(&self) -> u64 {
        // SAFETY: reads shared memory.
        unsafe { pg_sys::ReadNextFullTransactionId() }.value
    }

    /// No snapshot is left that was taken before the transaction began that had the ID then. A snapshot of a query keeps
    /// what has not ended when it is taken, and whatever comes later, from passing.
    fn has_passed(&self, time: u64) -> bool {
        if time == 1 {
            return true;
        }
        // SAFETY: the first looks at all processes, the second at what that has found; without a table both are as cautious
        // as for shared ones.
        unsafe {
            let oldest = pg_sys::GetOldestNonRemovableTransactionId(null_mut());
            let full = pg_sys::FullTransactionId { value: time };
            pg_sys::GlobalVisCheckRemovableFullXid(null_mut(), full)
                // No transaction has begun since, as it is when a load has ended.
                || self.in_vacuum
                    && oldest == pg_sys::TransactionId::from(time as u32)
                    && !has_other_snapshots()
        }
    }

    fn is_replayed(&self) -> bool {
        // SAFETY: asks for the state of the server.
        unsafe { pg_sys::RecoveryInProgress() }
    }

    fn truncate(
        &self,
        blocks: Block,
        agree: impl FnOnce() -> Result<bool, IndexError>,
    ) -> Result<bool, IndexError> {
        let lock = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
        // Only at the end of VACUUM's own transaction: a standby keeps the lock until the end of one, and nothing else of this
        // session is reading.
        if !self.in_vacuum {
            return Ok(false);
        }
        // SAFETY: `index` is open. Its lock keeps everybody else from having its pages in use, or from knowing how many there
        // are. It is logged with a transaction ID, which a process that takes part in a parallel vacuum cannot have.
        unsafe {
            if pg_sys::IsInParallelMode() || !pg_sys::ConditionalLockRelation(self.index, lock) {
                return Ok(false);
            }
            let agreed = agree();
            if let Ok(true) = agreed {
                pg_sys::RelationTruncate(self.index, blocks);
            }
            pg_sys::UnlockRelation(self.index, lock);
            agreed
        }
    }

    fn prefetch(&self, block: Block) -> bool {
        // SAFETY: a setting, 0 for no prefetching.
        if block == pg_sys::InvalidBlockNumber || unsafe { pg_sys::effective_io_concurrency } == 0 {
            return false;
        }
        // SAFETY: `index` is open.
        unsafe { pg_sys::PrefetchBuffer(self.index, MAIN_FORKNUM, block).initiated_io }
    }

    fn check_interrupts(&self) -> Result<(), IndexError> {
        if self.in_vacuum {
            // SAFETY: checks for interrupts, and sleeps as the settings of VACUUM want it.
            unsafe {
                #[cfg(feature = "pg18")]
                pg_sys::vacuum_delay_point(false);
                #[cfg(not(feature = "pg18"))]
                pg_sys::vacuum_delay_point();
            }
            return Ok(());
        }
        super::check_interrupts()
    }
}

/// Pages under exclusive locks, and what is to become of them.
pub struct LoggedChange<'a> {
    store: &'a Pages,
    /// Null before the first page is written to.
    log: *mut pg_sys::GenericXLogState,
    pages: [Option<LockedPage>; MAX_PAGES_IN_CHANGE],
}

struct LockedPage {
    block: Block,
    buffer: pg_sys::Buffer,
    is_new: bool,
    /// GenericXLog's copy, which `commit` writes back.
    image: Option<NonNull<Page>>,
}

impl LoggedChange<'_> {
    fn keep(&mut self, block: Block, buffer: pg_sys::Buffer, is_new: bool) -> usize {
        let index = self.pages.iter().take_while(|page| page.is_some()).count();
        self.pages[index] = Some(LockedPage { block, buffer, is_new, image: None });
        index
    }

    /// Only a corrupt index refers twice to one page; waiting for our own lock would never end.
    fn refuse_twice(&self, block: Block) -> Result<(), IndexError> {
        match self.pages.iter().flatten().any(|page| page.block == block) {
            true => Err(IndexError::corrupt(block, "is referred to twice")),
            false => Ok(()),
        }
    }

    /// # Panics
    /// If the engine never locked such a page, which is a mistake of its own.
    fn locked(&self, index: usize) -> &LockedPage {
        match &self.pages[index] {
            Some(page) => page,
            None => unreachable!("page {index} of the change is not locked"),
        }
    }
}

impl Change for LoggedChange<'_> {
    type Error = IndexError;

    fn lock(&mut self, block: Block) -> Result<usize, IndexError> {
        self.refuse_twice(block)?;
        let buffer = self.store.pin(block, pg_sys::BUFFER_LOCK_EXCLUSIVE)?;
        Ok(self.keep(block, buffer, false))
    }

    fn lock_new(&mut self, block: Block) -> Result<usize, IndexError> {
        self.refuse_twice(block)?;
        // An existing page is read though its content does not matter: RBM_ZERO_AND_LOCK would leave zeros in the
        // buffer when the change is dropped.
        if block >= self.store.blocks()? {
            self.store.extend(block)?;
        }
        let buffer = self.store.pin(block, pg_sys::BUFFER_LOCK_EXCLUSIVE)?;
        Ok(self.keep(block, buffer, true))
    }

    fn page(&self, index: usize) -> &Page {
        let locked = self.locked(index);
        match locked.image {
            // SAFETY: the copy lives as long as the change is not finished.
            Some(image) => unsafe { image.as_ref() },
            None if locked.is_new => &ZEROS,
            // SAFETY: the buffer is pinned, and we alone may write to it.
            None => unsafe { content(pg_sys::BufferGetPage(locked.buffer)).as_ref() },
        }
    }

    fn page_mut(&mut self, index: usize) -> Result<&mut Page, IndexError> {
        let &LockedPage { block, buffer, is_new, image } = self.locked(index);
        let mut image = match image {
            Some(image) => image,
            None => {
                let flags = if is_new { pg_sys::GENERIC_XLOG_FULL_IMAGE } else { 0 };
                // SAFETY: the buffer is pinned and locked exclusively until the change is finished.
                unsafe {
                    if self.log.is_null() {
                        self.log = pg_sys::GenericXLogStart(self.store.index);
                    }
                    let page = pg_sys::GenericXLogRegisterBuffer(self.log, buffer, flags as i32);
                    if is_new || pg_sys::PageIsNew(page) {
                        initialize(page);
                    }
                    content(page)
                }
            }
        };
        self.pages[index] = Some(LockedPage { block, buffer, is_new, image: Some(image) });
        // SAFETY: the copy is ours until the change is finished.
        Ok(unsafe { image.as_mut() })
    }

    fn commit(mut self) -> Result<(), IndexError> {
        let log = take_log(&mut self.log);
        if !log.is_null() {
            // SAFETY: started above, and its buffers are still locked; dropping `self` releases them.
            unsafe { pg_sys::GenericXLogFinish(log) };
        }
        Ok(())
    }
}

fn take_log(log: &mut *mut pg_sys::GenericXLogState) -> *mut pg_sys::GenericXLogState {
    std::mem::replace(log, null_mut())
}

impl Drop for LoggedChange<'_> {
    fn drop(&mut self) {
        if panicking() {
            return;
        }
        // SAFETY: an unfinished change is dropped once; the buffers are pinned and locked by us.
        unsafe {
            if !self.log.is_null() {
                pg_sys::GenericXLogAbort(take_log(&mut self.log));
            }
            for page in take(&mut self.pages).into_iter().flatten() {
                pg_sys::UnlockReleaseBuffer(page.buffer);
            }
        }
    }
}

/// A fork that is being written from its first page on, seen by nobody else yet. It is logged as a whole at the end.
pub struct NewFork {
    index: pg_sys::Relation,
    fork: ForkNumber::Type,
    /// Pages there are.
    blocks: Block,
    /// Pages that the engine has asked for.
    reserved: Block,
}

impl NewFork {
    /// # Safety
    /// `index` is open and new: nobody else uses the fork, which is empty, before this is finished.
    pub unsafe fn of(index: pg_sys::Relation, fork: ForkNumber::Type) -> NewFork {
        NewFork { index, fork, blocks: 0, reserved: 0 }
    }

    /// Logs the pages. Those of an unlogged index's initial fork always are: a standby and a crash need them.
    pub fn finish(self) {
        // SAFETY: `index` is open; its pages are in buffers or on disk.
        unsafe {
            if self.fork != MAIN_FORKNUM || needs_wal(self.index) {
                pg_sys::log_newpage_range(self.index, self.fork, 0, self.blocks, true);
            }
        }
    }

    /// # Safety
    /// The buffer is pinned and locked exclusively.
    unsafe fn fill(buffer: pg_sys::Buffer, page: &Page) {
        // SAFETY: the caller's promise.
        unsafe {
            let target = pg_sys::BufferGetPage(buffer);
            initialize(target);
            content(target).copy_from_nonoverlapping(NonNull::from(page), 1);
            pg_sys::MarkBufferDirty(buffer);
            pg_sys::UnlockReleaseBuffer(buffer);
        }
    }
}

impl PageSink for NewFork {
    type Error = IndexError;

    fn next_block(&mut self) -> Result<Block, IndexError> {
        self.reserved += 1;
        Ok(self.reserved - 1)
    }

    /// Pages are written for the first time in their order.
    fn write(&mut self, block: Block, page: &Page) -> Result<(), IndexError> {
        // SAFETY: `index` is open, and the fork is ours.
        unsafe {
            let buffer = if block == self.blocks {
                self.blocks += 1;
                add_page(self.index, self.fork)
            } else {
                let buffer = pg_sys::ReadBufferExtended(self.index, self.fork, block, RBM_NORMAL, null_mut());
                pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
                buffer
            };
            NewFork::fill(buffer, page);
        }
        Ok(())
    }

    fn check_interrupts(&self) -> Result<(), IndexError> {
        super::check_interrupts()
    }
}

/// `RelationNeedsWAL`: not those of unlogged and temporary tables, nor new ones under `wal_level = minimal`, which are
/// written to disk at commit.
///
/// # Safety
/// `relation` is open.
unsafe fn needs_wal(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg15")]
        let rewritten = (*relation).rd_firstRelfilenodeSubid;
        #[cfg(not(feature = "pg15"))]
        let rewritten = (*relation).rd_firstRelfilelocatorSubid;
        let is_new = (*relation).rd_createSubid != 0 || rewritten != 0;
        let logged = pg_sys::wal_level >= pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32 || !is_new;
        (*(*relation).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_PERMANENT && logged
    }
}
