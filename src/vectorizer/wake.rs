//! Sees to it that a commit which has put something into the queue finds a worker.
//!
//! Before the commit: a lock says that one is on its way (until it is done), and if no worker serves this database, one is
//! started, which begins when this transaction has ended. After the commit: the worker that there is wakes up. A worker
//! that wants to end first takes the lock that no commit on its way lets it have, and looks once more.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Once;

use pgrx::{PgLogLevel, pg_guard, pg_sys};

use super::home::Home;
use super::locks::Tag;
use super::worker;
use crate::error::tell;
use crate::guc;

/// Numbers of the locks whose table is the queue's. Those from [`FIRST_WORKER`] on are the workers' of the database.
pub const COMMITTING: u32 = 0;
pub const FIRST_WORKER: u32 = 1;

thread_local! {
    /// The queue's table, if this transaction has put something into it.
    static QUEUED: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
    /// The worker that this session has last asked for.
    static ASKED: Cell<Option<worker::Started>> = const { Cell::new(None) };
}

/// To be called by a transaction that has put something into the queue, or made it due.
pub fn at_commit(home: &Home) {
    static ONCE: Once = Once::new();
    // SAFETY: the function stays where it is, as Postgres never unloads a library.
    ONCE.call_once(|| unsafe {
        pg_sys::RegisterXactCallback(Some(at_end_of_transaction), std::ptr::null_mut())
    });
    QUEUED.set(Some(home.log));
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end_of_transaction(event: pg_sys::XactEvent::Type, _state: *mut c_void) {
    use pg_sys::XactEvent as E;
    match event {
        E::XACT_EVENT_PRE_COMMIT => {
            // SAFETY: a flag of the server's.
            let is_upgrade = unsafe { pg_sys::IsBinaryUpgrade };
            if let Some(log) = QUEUED.get().filter(|_| !worker::is_one() && !is_upgrade) {
                before_commit(log);
            }
        }
        // Nothing in here may fail any more.
        E::XACT_EVENT_COMMIT if QUEUED.take().is_some() => wake_all(),
        E::XACT_EVENT_ABORT | E::XACT_EVENT_PREPARE => QUEUED.set(None),
        _ => {}
    }
}

fn before_commit(log: pg_sys::Oid) {
    Tag::new(log, COMMITTING).share();
    // One that has not begun yet will see what this transaction has done. One that has, and has no lock, may be on its way out.
    let is_coming = ASKED.get().is_some_and(|asked| asked.is_to_begin());
    if !is_coming && guc::max_workers() > 0 && Tag::new(log, FIRST_WORKER).is_free_for(pg_sys::ExclusiveLock)
    {
        // SAFETY: in a transaction, whose end the worker is to wait for.
        let (database, xid) = unsafe { (pg_sys::MyDatabaseId, pg_sys::GetTopTransactionIdIfAny()) };
        ASKED.set(worker::start(database, FIRST_WORKER, xid));
        if ASKED.get().is_none() {
            let message =
                "no background worker is free to keep vectorizers in step: raise max_worker_processes";
            tell(message.to_string(), PgLogLevel::LOG);
        }
    }
}

/// Wakes all background workers of this database; others than ours look around, and sleep on.
pub fn wake_all() {
    // SAFETY: the array of all processes stays; a latch may be set at any time, by anybody.
    unsafe {
        let processes = &*pg_sys::ProcGlobal;
        for i in 0..processes.allProcCount as usize {
            let process = processes.allProcs.add(i);
            if (*process).databaseId == pg_sys::MyDatabaseId && worker::is_background(process) {
                pg_sys::SetLatch(&mut (*process).procLatch);
            }
        }
    }
}
