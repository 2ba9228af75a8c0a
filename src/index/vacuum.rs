//! `ambulkdelete` and `amvacuumcleanup`

use std::ffi::c_void;

use ivf::index::{Index, read_meta};
use ivf::store::PageStore;
use ivf::train::When;
use ivf::vacuum::{self, Counts};
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{pg_guard, pg_sys};

use super::maintain::maintain;
use super::page::Pages;
use super::{OfIndex, to_pointer};
use crate::guc;

/// `ambulkdelete`. The `callback` also serves CREATE INDEX CONCURRENTLY, which asks for every row and deletes none.
#[pg_guard]
pub unsafe extern "C-unwind" fn bulk_delete(
    info: *mut pg_sys::IndexVacuumInfo,
    statistics: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    callback_state: *mut c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: Postgres passes an open index, and statistics that it got from us or null.
    unsafe {
        let index = (*info).index;
        let pages = Pages::in_vacuum(index, (*info).strategy);
        let opened = Index::open(&pages).or_raise_for(index);
        let mut is_dead = |tid| {
            let mut pointer = to_pointer(tid);
            callback.is_some_and(|is_dead| pg_guard_ffi_boundary(|| is_dead(&mut pointer, callback_state)))
        };
        let counts = vacuum::bulk_delete(&pages, &opened, &mut is_dead).or_raise_for(index);
        record(statistics, counts)
    }
}

/// `amvacuumcleanup`: counts rows and pages, and [keeps the index in shape](super::maintain).
#[pg_guard]
pub unsafe extern "C-unwind" fn cleanup(
    info: *mut pg_sys::IndexVacuumInfo,
    statistics: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: as above.
    unsafe {
        if (*info).analyze_only {
            return statistics;
        }
        let index = (*info).index;
        let pages = Pages::in_vacuum(index, (*info).strategy);
        let opened = Index::open(&pages).or_raise_for(index);
        let mut counts = vacuum::count(&pages, &opened).or_raise_for(index);
        let when = if guc::auto_train() { When::Due } else { When::Never };
        let before = counts.free_pages;
        maintain(index, &pages, &counts.shape, when);
        let (meta, _) = read_meta(&pages).or_raise_for(index);
        counts.pages = pages.blocks().or_raise_for(index);
        counts.free_pages = meta.free_pages;
        counts.freed_pages = meta.free_pages.saturating_sub(before);
        record(statistics, counts)
    }
}

/// # Safety
/// `statistics` is null or VACUUM's.
unsafe fn record(
    mut statistics: *mut pg_sys::IndexBulkDeleteResult,
    counts: Counts,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: the caller's promise; zeros are valid.
    unsafe {
        if statistics.is_null() {
            statistics = pg_sys::palloc0(size_of::<pg_sys::IndexBulkDeleteResult>()).cast();
        }
        let result = &mut *statistics;
        result.num_pages = counts.pages;
        result.estimated_count = false;
        result.num_index_tuples = counts.shape.rows as f64;
        result.tuples_removed += counts.removed as f64;
        result.pages_newly_deleted += counts.freed_pages;
        result.pages_deleted = counts.free_pages;
        result.pages_free = counts.free_pages;
    }
    statistics
}
