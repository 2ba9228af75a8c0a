//! Keeping an index in shape: what VACUUM does at its end, and `ivf_maintain` on request.

use std::ffi::CStr;
use std::time::Instant;

use ivf::index::Index;
use ivf::shape::{Reason, Shape};
use ivf::train::{self, Kept, Plan, When};
use ivf::vacuum;
use pgrx::prelude::*;

use super::build::{LEAST_SORT, now, share_of_sort};
use super::inspect::{Opened, Privilege};
use super::options::Options;
use super::page::Pages;
use super::sort::{Role, Sort};
use super::{OfIndex, name_of};
use crate::error::{Error, IvfError, OrRaise, tell};

/// Frees what is not needed any more, and trains the index again if `when` says so. Whether it was trained.
///
/// # Safety
/// The index is open and belongs to `pages`; the table is locked so that no other vacuum runs; `shape` is of now.
pub unsafe fn maintain(index: pg_sys::Relation, pages: &Pages, shape: &Shape, when: When) -> bool {
    let started = Instant::now();
    // SAFETY: the caller's promise; a sort of one process shares nothing.
    unsafe {
        let memory = memory();
        let plan = Plan { lists: Options::of(index).lists, memory: memory as usize * 1024, now: now(), when };
        let sort =
            |trained: &_| Sort::new(share_of_sort(trained, memory, 1).unwrap_or(LEAST_SORT), Role::Alone);
        let report = match train::maintain(pages, shape, &plan, sort).or_raise_for(index) {
            Kept::Same => return false,
            Kept::LittleMemory { needed } => {
                let error = IvfError::MemoryToTrain { name: name_of(index), needed };
                Error::from(error).say(PgLogLevel::WARNING);
                return false;
            }
            Kept::Trained(report) => report,
        };
        let reason = match report.reason {
            Some(Reason::Rows) => "the number of rows has changed",
            Some(Reason::Uneven) => "lists have become uneven",
            Some(Reason::Fresh) => "many rows were in no list",
            Some(Reason::Space) => "most of its pages are free",
            None => "it was asked for",
        };
        let message = format!(
            "ivf training of index \"{}\" took {} ms, as {reason}: {} rows, {} lists",
            name_of(index),
            started.elapsed().as_millis(),
            report.rows,
            report.lists
        );
        tell(message, PgLogLevel::DEBUG1);
        true
    }
}

/// KiB that a training may take, as VACUUM has them.
fn memory() -> i32 {
    // SAFETY: reads settings; what is returned is the text of a number, or null.
    unsafe {
        if pg_sys::MyBackendType == pg_sys::BackendType::B_AUTOVAC_WORKER {
            let setting = pg_sys::GetConfigOption(c"autovacuum_work_mem".as_ptr(), true, false);
            let setting = (!setting.is_null()).then(|| CStr::from_ptr(setting));
            // In KiB, or -1.
            let own = setting.and_then(|setting| setting.to_str().ok()?.parse().ok());
            if let Some(own @ 0..) = own {
                return own;
            }
        }
        pg_sys::maintenance_work_mem
    }
}

/// Locks the table as VACUUM does, so that nobody else removes rows or trains the index, and the index for changing it.
///
/// # Errors
/// Another command has that lock: who waited for it would have CREATE INDEX CONCURRENTLY, which has it, wait for this
/// statement's snapshot.
///
/// # Safety
/// Both are open.
pub unsafe fn lock(opened: &Opened) -> Result<(), Error> {
    // SAFETY: the caller's promise.
    unsafe {
        let lock = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
        if !pg_sys::ConditionalLockRelation(opened.table, lock) {
            return Err(IvfError::Busy { name: name_of(opened.table) }.into());
        }
        pg_sys::LockRelation(opened.index, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
    }
    Ok(())
}

/// Trains an index again if that is due, or if `force` says so. Whether it did.
#[pg_extern(sql = false)]
fn ivf_maintain(index: pg_sys::Oid, force: bool) -> bool {
    let opened = Opened::new(index, Privilege::Owner, pg_sys::AccessShareLock).or_raise();
    let when = if force { When::Always } else { When::Due };
    // SAFETY: both are open.
    unsafe {
        lock(&opened).or_raise();
        let pages = opened.pages();
        let engine = Index::open(&pages).or_raise_for(opened.index);
        let counts = vacuum::count(&pages, &engine).or_raise_for(opened.index);
        maintain(opened.index, &pages, &counts.shape, when)
    }
}
