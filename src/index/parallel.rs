//! A build by several processes: the leader has trained, then it and Postgres's parallel workers each encode and sort a
//! part of the table, and the leader merges. What they share lies in one segment of dynamic shared memory.
//!
//! After an ERROR of the leader nothing here is released by unwinding: the abort of the transaction ends the workers
//! and frees the segment. An ERROR of a worker becomes one of the leader the next time that it looks for interrupts.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ivf::build::Trained;
use pgrx::{PgLogLevel, pg_guard, pg_sys};

use super::build::{self, Counts};
use super::name_of;
use super::rows::{Share, Source};
use super::sort::Role;
use crate::error::tell;

/// As `module_pathname` names the library.
const LIBRARY: &CStr = c"pg_embed";
/// [`pg_embed_ivf_build_worker`]
const FUNCTION: &CStr = c"pg_embed_ivf_build_worker";

/// What the segment holds.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Key {
    Shared = 1,
    Scan,
    Sort,
    Trained,
    Query,
    Buffers,
    Wal,
}

/// What the processes tell each other.
#[repr(C)]
struct Shared {
    table: pg_sys::Oid,
    index: pg_sys::Oid,
    is_concurrent: bool,
    /// Processes that memory is divided by: the workers asked for, and the leader.
    participants: i32,
    /// Length of what [`Trained::to_bytes`] gave.
    trained_bytes: usize,
    read: AtomicU64,
    indexed: AtomicU64,
    has_broken_hot_chain: AtomicBool,
    /// Processes whose rows are counted above, and sorted.
    done: AtomicU32,
    one_is_done: pg_sys::ConditionVariable,
}

/// Workers to ask for, 0 to build alone. `memory` says what each of so many processes would have for its sort, `None`
/// if it is too little.
///
/// # Safety
/// As for [`Source::for_each`].
pub unsafe fn workers(source: &Source, memory: impl Fn(i32) -> Option<i32>) -> i32 {
    // Those of a temporary table, or of an expression that is not parallel safe, are none.
    // SAFETY: the caller's promise: both relations are open and locked.
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    let mut workers =
        unsafe { pg_sys::plan_create_index_workers((*source.heap).rd_id, (*source.index).rd_id) };
    // SAFETY: the caller's promise.
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    let mut workers = unsafe { (*source.info).ii_ParallelWorkers };
    // What is asked for by the table's `parallel_workers` is not bounded by its size.
    workers = workers.min(i32::try_from(source.blocks()).unwrap_or(i32::MAX));
    while workers > 0 && memory(workers + 1).is_none() {
        workers -= 1;
    }
    workers
}

/// The process that has begun the build, while workers take part in it.
pub struct Leader {
    context: *mut pg_sys::ParallelContext,
    /// Registered; null if the build is not concurrent.
    snapshot: pg_sys::Snapshot,
    shared: *mut Shared,
    scan: pg_sys::ParallelTableScanDesc,
    sharedsort: *mut pg_sys::Sharedsort,
    /// What each worker has read and written.
    buffers: *mut pg_sys::BufferUsage,
    wal: *mut pg_sys::WalUsage,
    info: *mut pg_sys::IndexInfo,
}

impl Leader {
    /// Starts up to so many workers; `None` if none could be, or if there is no shared memory for them.
    ///
    /// # Safety
    /// As for [`Source::for_each`]. All that is not `None` is to be [finished](Leader::finish).
    pub unsafe fn launch(source: &Source, workers: i32, trained: &Trained) -> Option<Leader> {
        if workers <= 0 {
            return None;
        }
        let trained = trained.to_bytes();
        let participants = workers + 1;
        // SAFETY: the caller's promise; sizes that were estimated are those that are allocated, and what is allocated
        // lives until the context is destroyed, in `finish`.
        unsafe {
            pg_sys::EnterParallelMode();
            let context = pg_sys::CreateParallelContext(LIBRARY.as_ptr(), FUNCTION.as_ptr(), workers);
            let is_concurrent = (*source.info).ii_Concurrent;
            let snapshot = match is_concurrent {
                true => pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()),
                false => null_mut(),
            };
            let scan_snapshot = if is_concurrent { snapshot } else { &raw mut pg_sys::SnapshotAnyData };
            let query = pg_sys::debug_query_string;
            let query = if query.is_null() { c"" } else { CStr::from_ptr(query) }.to_bytes_with_nul();

            let mut leader = Leader {
                context,
                snapshot,
                shared: null_mut(),
                scan: null_mut(),
                sharedsort: null_mut(),
                buffers: null_mut(),
                wal: null_mut(),
                info: source.info,
            };
            let scan_bytes = pg_sys::table_parallelscan_estimate(source.heap, scan_snapshot);
            let sort_bytes = pg_sys::tuplesort_estimate_shared(participants);
            let buffers_bytes = workers as usize * size_of::<pg_sys::BufferUsage>();
            let wal_bytes = workers as usize * size_of::<pg_sys::WalUsage>();
            let sizes = [
                size_of::<Shared>(),
                scan_bytes,
                sort_bytes,
                trained.len(),
                query.len(),
                buffers_bytes,
                wal_bytes,
            ];
            let estimator = &mut (*context).estimator;
            for size in sizes {
                let aligned = size.next_multiple_of(pg_sys::ALIGNOF_BUFFER as usize);
                estimator.space_for_chunks = pg_sys::add_size(estimator.space_for_chunks, aligned);
            }
            estimator.number_of_keys = pg_sys::add_size(estimator.number_of_keys, sizes.len());
            pg_sys::InitializeParallelDSM(context);
            if (*context).seg.is_null() {
                leader.finish();
                return None;
            }

            leader.shared = leader.put(Key::Shared, size_of::<Shared>()).cast();
            leader.shared.write(Shared {
                table: (*source.heap).rd_id,
                index: (*source.index).rd_id,
                is_concurrent,
                participants,
                trained_bytes: trained.len(),
                read: AtomicU64::new(0),
                indexed: AtomicU64::new(0),
                has_broken_hot_chain: AtomicBool::new(false),
                done: AtomicU32::new(0),
                one_is_done: Default::default(),
            });
            pg_sys::ConditionVariableInit(&raw mut (*leader.shared).one_is_done);
            leader.scan = leader.put(Key::Scan, scan_bytes).cast();
            pg_sys::table_parallelscan_initialize(source.heap, leader.scan, scan_snapshot);
            leader.sharedsort = leader.put(Key::Sort, sort_bytes).cast();
            pg_sys::tuplesort_initialize_shared(leader.sharedsort, participants, (*context).seg);
            leader.put_bytes(Key::Trained, &trained);
            leader.put_bytes(Key::Query, query);
            leader.buffers = leader.put(Key::Buffers, buffers_bytes).cast();
            leader.wal = leader.put(Key::Wal, wal_bytes).cast();

            pg_sys::LaunchParallelWorkers(context);
            let launched = (*context).nworkers_launched;
            let index = name_of(source.index);
            let message = format!("building index \"{index}\" with {launched} of {workers} workers");
            tell(message, PgLogLevel::DEBUG1);
            if launched == 0 {
                leader.finish();
                return None;
            }
            Some(leader)
        }
    }

    /// # Safety
    /// The segment has room for it, and nothing under this key.
    unsafe fn put(&self, key: Key, bytes: usize) -> *mut c_void {
        // SAFETY: the caller's promise.
        unsafe {
            let chunk = pg_sys::shm_toc_allocate((*self.context).toc, bytes);
            pg_sys::shm_toc_insert((*self.context).toc, key as u64, chunk);
            chunk
        }
    }

    /// # Safety
    /// As for [`Leader::put`].
    unsafe fn put_bytes(&self, key: Key, bytes: &[u8]) {
        // SAFETY: the caller's promise; the chunk is as long as the bytes.
        unsafe {
            self.put(key, bytes.len()).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        }
    }

    /// Does a worker's work.
    ///
    /// # Safety
    /// `source` and `trained` are those that this was launched with.
    pub unsafe fn take_part(&self, source: &Source, trained: &Trained) {
        // SAFETY: the caller's promise; the segment holds what it was given.
        unsafe { (*self.shared).take_part(source, trained, self.scan, self.sharedsort, true) }
    }

    /// Waits until every process has sorted its rows, and counts them.
    pub fn wait(&self) -> Counts {
        // SAFETY: the segment is there until this is finished.
        unsafe {
            // A worker that never started would be waited for in vain; this makes an ERROR of it.
            pg_sys::WaitForParallelWorkersToAttach(self.context);
            let shared = &*self.shared;
            while shared.done.load(Ordering::Acquire) < self.participants() as u32 {
                pg_sys::ConditionVariableSleep(
                    &raw mut (*self.shared).one_is_done,
                    pg_sys::WaitEventIPC::WAIT_EVENT_PARALLEL_CREATE_INDEX_SCAN,
                );
            }
            pg_sys::ConditionVariableCancelSleep();
            if shared.has_broken_hot_chain.load(Ordering::Relaxed) {
                (*self.info).ii_BrokenHotChain = true;
            }
            Counts {
                read: shared.read.load(Ordering::Relaxed) as f64,
                indexed: shared.indexed.load(Ordering::Relaxed),
            }
        }
    }

    /// Processes that take part.
    fn participants(&self) -> i32 {
        // SAFETY: the context is there until this is finished.
        unsafe { (*self.context).nworkers_launched + 1 }
    }

    /// For the sort that merges what the others have sorted.
    pub fn sort(&self) -> Role {
        Role::Leader(self.sharedsort, self.participants())
    }

    /// Waits for the workers to end, adds up what they have read and written, and frees what was shared.
    ///
    /// # Safety
    /// No sort that shares anything is left.
    pub unsafe fn finish(self) {
        // SAFETY: the context was created and not destroyed; the rest is the caller's promise.
        unsafe {
            pg_sys::WaitForParallelWorkersToFinish(self.context);
            for worker in 0..(*self.context).nworkers_launched as usize {
                pg_sys::InstrAccumParallelQuery(self.buffers.add(worker), self.wal.add(worker));
            }
            if !self.snapshot.is_null() {
                pg_sys::UnregisterSnapshot(self.snapshot);
            }
            pg_sys::DestroyParallelContext(self.context);
            pg_sys::ExitParallelMode();
        }
    }
}

impl Shared {
    /// # Safety
    /// As for [`build::encode_part`]; `scan` and `sharedsort` belong to this.
    unsafe fn take_part(
        &self,
        source: &Source,
        trained: &Trained,
        scan: pg_sys::ParallelTableScanDesc,
        sharedsort: *mut pg_sys::Sharedsort,
        progress: bool,
    ) {
        // SAFETY: the caller's promise; a condition variable is made to be written to by many.
        unsafe {
            let scan = pg_sys::table_beginscan_parallel(source.heap, scan);
            let part = Share::Part { scan, progress };
            let counts = build::encode_part(source, part, trained, self.participants, sharedsort);
            self.read.fetch_add(counts.read as u64, Ordering::Relaxed);
            self.indexed.fetch_add(counts.indexed, Ordering::Relaxed);
            self.has_broken_hot_chain.fetch_or((*source.info).ii_BrokenHotChain, Ordering::Relaxed);
            // Publishes the rest.
            self.done.fetch_add(1, Ordering::Release);
            pg_sys::ConditionVariableSignal((&raw const self.one_is_done).cast_mut());
        }
    }
}

/// What a worker runs: Postgres finds it by its name, [`FUNCTION`].
///
/// # Safety
/// Postgres passes the segment that [`Leader::launch`] has filled, in a worker of its.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pg_embed_ivf_build_worker(
    segment: *mut pg_sys::dsm_segment,
    toc: *mut pg_sys::shm_toc,
) {
    // SAFETY: the caller's promise: every key has what the leader put there, which stays until this process ends.
    unsafe {
        let get = |key: Key| pg_sys::shm_toc_lookup(toc, key as u64, false);
        pg_sys::debug_query_string = get(Key::Query).cast::<c_char>();
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, pg_sys::debug_query_string);
        let shared = &*get(Key::Shared).cast::<Shared>();
        // The locks that the leader has, as index.c takes them: its workers do not wait for it.
        let (table_lock, index_lock) = match shared.is_concurrent {
            false => (pg_sys::ShareLock, pg_sys::AccessExclusiveLock),
            true => (pg_sys::ShareUpdateExclusiveLock, pg_sys::RowExclusiveLock),
        };
        let heap = pg_sys::table_open(shared.table, table_lock as i32);
        let index = pg_sys::index_open(shared.index, index_lock as i32);
        let info = pg_sys::BuildIndexInfo(index);
        (*info).ii_Concurrent = shared.is_concurrent;
        let sharedsort = get(Key::Sort).cast();
        pg_sys::tuplesort_attach_shared(sharedsort, segment);

        pg_sys::InstrStartParallelQuery();
        let bytes = slice::from_raw_parts(get(Key::Trained).cast::<u8>(), shared.trained_bytes);
        let Some(trained) = Trained::from_bytes(bytes) else {
            unreachable!("the leader has trained something else");
        };
        let source = Source { heap, index, info };
        shared.take_part(&source, &trained, get(Key::Scan).cast(), sharedsort, false);
        let number = pg_sys::ParallelWorkerNumber as usize;
        let buffers = get(Key::Buffers).cast::<pg_sys::BufferUsage>().add(number);
        pg_sys::InstrEndParallelQuery(buffers, get(Key::Wal).cast::<pg_sys::WalUsage>().add(number));

        pg_sys::index_close(index, index_lock as i32);
        pg_sys::table_close(heap, table_lock as i32);
    }
}
