//! The values that an index is to hold, read from its table.

use std::ffi::c_void;
use std::ptr::null_mut;

use ivf::columns::Value;
use ivf::layout::Tid;
use pgrx::{PgMemoryContexts, pg_guard, pg_sys};

use super::columns::IndexColumns;
use crate::vector::Vector;

/// A table and an index on it, as the callbacks of a build get them.
#[derive(Clone, Copy)]
pub struct Source {
    pub heap: pg_sys::Relation,
    pub index: pg_sys::Relation,
    pub info: *mut pg_sys::IndexInfo,
}

/// What [`Source::for_each`] reads.
#[derive(Clone, Copy)]
pub enum Share {
    Whole,
    /// What `scan`, a parallel one, comes to before others do; it is ended with the last row. One process reports
    /// progress, for all.
    Part {
        scan: pg_sys::TableScanDesc,
        progress: bool,
    },
}

/// A row of the table that belongs into the index: not NULL, and satisfying the index's condition if it has one.
pub struct Row {
    pub tid: Tid,
    /// False for one that is deleted, but that an older snapshot may still see.
    pub is_alive: bool,
    /// Of the index's columns, the vector first.
    values: *const pg_sys::Datum,
    nulls: *const bool,
}

impl Row {
    /// The indexed value.
    pub fn vector(&self) -> Vector<'_> {
        // SAFETY: the operator classes are for `vector`; the value lives as long as the row.
        unsafe { Vector::detoast(*self.values) }
    }

    /// The numbers of the other columns, into `out`.
    pub fn read(&self, columns: &IndexColumns, out: &mut Vec<Value>) {
        // SAFETY: the arrays have an element a column, and live as long as the row.
        unsafe { columns.read(self.values, self.nulls, out) }
    }
}

struct Callback<'a> {
    each: &'a mut dyn FnMut(&Row),
    /// For what a row needs: emptied after each.
    context: PgMemoryContexts,
}

impl Source {
    /// Pages of the table.
    pub fn blocks(&self) -> u32 {
        // SAFETY: the table is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.heap, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// Reads the whole table for a build, or with others the part of it that falls to this process. Returns the number
    /// of rows read, NULLs included.
    ///
    /// # Safety
    /// `self` is what Postgres handed to `ambuild`, or a worker's own view of it.
    pub unsafe fn for_each(&self, share: Share, mut each: impl FnMut(&Row)) -> f64 {
        let mut callback = Callback::of(&mut each);
        let (scan, progress) = match share {
            Share::Whole => (null_mut(), true),
            Share::Part { scan, progress } => (scan, progress),
        };
        // SAFETY: the caller's promise.
        unsafe {
            pg_sys::table_index_build_scan(
                self.heap,
                self.index,
                self.info,
                true,
                progress,
                Some(take_row),
                callback.as_state(),
                scan,
            )
        }
    }

    /// Reads one page of the table.
    ///
    /// # Safety
    /// As for [`Source::for_each`].
    pub unsafe fn for_each_of_block(&self, block: u32, mut each: impl FnMut(&Row)) {
        let mut callback = Callback::of(&mut each);
        // SAFETY: the caller's promise.
        unsafe {
            pg_sys::table_index_build_range_scan(
                self.heap,
                self.index,
                self.info,
                false,
                false,
                false,
                block,
                1,
                Some(take_row),
                callback.as_state(),
                null_mut(),
            );
        }
    }

    /// Reads what `snapshot` sees of the table.
    ///
    /// # Safety
    /// Table and index are open, and `info` says that the build is concurrent, so that no row is read that the snapshot
    /// does not see.
    pub unsafe fn for_each_visible(&self, snapshot: pg_sys::Snapshot, mut each: impl FnMut(&Row)) {
        let mut callback = Callback::of(&mut each);
        // SAFETY: the caller's promise; the scan is ended in there.
        unsafe {
            let scan = pg_sys::table_beginscan_strat(self.heap, snapshot, 0, null_mut(), true, true);
            pg_sys::table_index_build_scan(
                self.heap,
                self.index,
                self.info,
                true,
                false,
                Some(take_row),
                callback.as_state(),
                scan,
            );
        }
    }
}

impl Callback<'_> {
    fn of(each: &mut dyn FnMut(&Row)) -> Callback<'_> {
        Callback { each, context: PgMemoryContexts::new("ivf row") }
    }

    fn as_state(&mut self) -> *mut c_void {
        (self as *mut Self).cast()
    }
}

/// `IndexBuildCallback`
#[pg_guard]
unsafe extern "C-unwind" fn take_row(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: the arrays have one element a column, and `state` is the one that was passed above.
    unsafe {
        if *nulls {
            return;
        }
        let callback = &mut *state.cast::<Callback>();
        let row = Row { tid: super::to_tid(*tid), is_alive, values, nulls };
        let each = &mut callback.each;
        callback.context.switch_to(|_| each(&row));
        callback.context.reset();
    }
}
