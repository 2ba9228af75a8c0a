//! What the access method must know of the plan that a scan belongs to, and its interface does not tell.
//!
//! The executor sorts the rows of a scan by their exact distance where the index gives bounds. On many servers (seen on
//! 16.14, 18.4 and 18.6, not on Debian's 15.20 and 17.12) a row that has waited for its turn has lost its address
//! then: `ctid` is (4294967295,0), and FOR UPDATE fails with "attempted to lock invisible tuple". So where a plan asks
//! a scan for addresses, the scan itself brings the rows in exact order, and the executor passes them on as they are.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use pgrx::{PgMemoryContexts, pg_guard, pg_sys};

use super::scan;

static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;

/// Hooks into the start of each statement.
pub fn register() {
    // SAFETY: a process of Postgres has one thread for these.
    unsafe {
        PREVIOUS = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: Postgres passes a statement that is about to start; afterwards its plan state is there.
    unsafe {
        match PREVIOUS {
            Some(previous) => pg_sys::ffi::pg_guard_ffi_boundary(|| previous(query, flags)),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
        if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int == 0 {
            visit((*query).planstate, null_mut());
        }
    }
}

/// `planstate_tree_walker`'s callback: false to go on.
#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::PlanState, context: *mut c_void) -> bool {
    // SAFETY: the walker passes nodes of the plan; the tag tells a node's type.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_IndexScanState {
            let state = node.cast::<pg_sys::IndexScanState>();
            if scan::is_ours((*state).iss_RelationDesc) && wants_addresses((*node).plan.cast()) {
                begin_in_exact_order(state);
            }
        }
        pg_sys::planstate_tree_walker(node, Some(visit), context)
    }
}

/// Begins a scan as the executor does when it wants the first row: it finds it begun then.
///
/// # Safety
/// The executor has made `state`, of a scan of an index of ours, and has not begun the scan.
unsafe fn begin_in_exact_order(state: *mut pg_sys::IndexScanState) {
    // SAFETY: the caller's promise; the scan lives as long as the statement, and is ended with `state`.
    unsafe {
        let statement = (*state).ss.ps.state;
        let (table, index) = ((*state).ss.ss_currentRelation, (*state).iss_RelationDesc);
        let (keys, orderbys) = ((*state).iss_NumScanKeys, (*state).iss_NumOrderByKeys);
        if !(*state).iss_ScanDesc.is_null() || orderbys == 0 {
            return;
        }
        PgMemoryContexts::For((*statement).es_query_cxt).switch_to(|_| {
            let snapshot = (*statement).es_snapshot;
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(
                table,
                index,
                snapshot,
                &raw mut (*state).iss_Instrument,
                keys,
                orderbys,
            );
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(table, index, snapshot, keys, orderbys);
            scan::bring_exact_order(scan);
            (*state).iss_ScanDesc = scan;
            // Else the executor passes them on when it has computed them.
            if (*state).iss_NumRuntimeKeys == 0 {
                pg_sys::index_rescan(scan, (*state).iss_ScanKeys, keys, (*state).iss_OrderByKeys, orderbys);
            }
        });
    }
}

/// Whether the scan's output or its condition refers to `ctid`; row locks do.
///
/// # Safety
/// `plan` is a scan's.
unsafe fn wants_addresses(plan: *mut pg_sys::Scan) -> bool {
    let ctid = pg_sys::SelfItemPointerAttributeNumber - pg_sys::FirstLowInvalidHeapAttributeNumber;
    let mut columns = null_mut();
    // SAFETY: the caller's promise; in a scan's expressions columns are those of the scanned table.
    unsafe {
        for list in [(*plan).plan.targetlist, (*plan).plan.qual] {
            pg_sys::pull_varattnos(list.cast(), (*plan).scanrelid, &mut columns);
        }
        let wanted = pg_sys::bms_is_member(ctid, columns);
        pg_sys::bms_free(columns);
        wanted
    }
}
