//! Background workers: one that a commit has started serves its database until nothing has been queued for a while, and asks
//! for others to help it with what takes longer than a batch. Where the library is preloaded, a launcher starts one for each
//! database now and then, so that nothing waits that no commit has told of: after a restart, or a restore.
//!
//! Workers sleep on their latch. The only thing that they look at by the clock is whether somebody wants to drop their
//! database, which waits five seconds for them.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_long};
use std::time::{Duration, Instant};

use pgrx::{PgLogLevel, PgTryBuilder, check_for_interrupts, pg_guard, pg_sys};

use super::home::Home;
use super::locks::{Held, Tag};
use super::run::{self, Batch};
use super::{catalog, index, pace::Pace, swap, wake};
use crate::error::tell;
use crate::guc;
use crate::spi::Failure;

/// How long a worker stays when there is nothing to do: so that rows which come one by one find the model loaded.
const LINGER: Duration = Duration::from_secs(60);
/// Between two looks whether the database is to be dropped: DROP DATABASE waits 5 s.
const LOOK: Duration = Duration::from_secs(2);
/// Before an error of the server's is met again, such as a full disk.
const AFTER_ERROR: Duration = Duration::from_secs(5);
/// Between two rounds of the launcher through all databases, at least.
const ROUND: Duration = Duration::from_secs(300);
/// Between two attempts to get what somebody else has: a place among all workers, or the lock of a row.
const A_MOMENT: Duration = Duration::from_millis(100);
/// What one vectorizer is worked on before it is another one's turn.
const TURN: Duration = Duration::from_secs(5);
/// After so long a worker that is not done yet asks for helpers, which have to load the model.
const WORTH_HELP: Duration = Duration::from_millis(500);
/// Of the cluster's locks: that of those who wait for a place. The places are numbered from 1.
const WAITING: u32 = 0;

thread_local! {
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this process is one of the workers.
pub fn is_one() -> bool {
    IS_WORKER.get()
}

/// # Safety
/// A process of the shared array.
pub unsafe fn is_background(process: *mut pg_sys::PGPROC) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg18")]
        return !(*process).isRegularBackend;
        #[cfg(not(feature = "pg18"))]
        return (*process).isBackgroundWorker;
    }
}

/// What a worker is told in `bgw_extra`: the transaction that it is to wait for.
const XID_BYTES: usize = size_of::<u32>();

/// A worker that was asked for.
#[derive(Clone, Copy)]
pub struct Started(*mut pg_sys::BackgroundWorkerHandle);

impl Started {
    /// Whether the server has not come to it yet.
    pub fn is_to_begin(&self) -> bool {
        let mut pid = 0;
        // SAFETY: a handle that is kept for ever.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_NOT_YET_STARTED
    }
}

/// Starts a worker for a database, its first one or a helper, which begins when `after` has ended. `None`: the server has no
/// room for it.
pub fn start(database: pg_sys::Oid, number: u32, after: pg_sys::TransactionId) -> Option<Started> {
    let mut worker = described(c"pg_embed vectorizer", c"vectorizer_worker_main");
    worker.bgw_flags |= pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION as i32;
    worker.bgw_main_arg =
        pg_sys::Datum::from((u64::from(number) << 32 | u64::from(database.to_u32())) as usize);
    for (place, byte) in worker.bgw_extra.iter_mut().zip(u32::from(after).to_ne_bytes()) {
        *place = byte as c_char;
    }
    let mut handle = std::ptr::null_mut();
    // SAFETY: a complete description, which is copied. The handle is kept: some bytes for each worker that a session starts.
    unsafe {
        let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let is_started = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
        pg_sys::MemoryContextSwitchTo(context);
        is_started.then_some(Started(handle))
    }
}

/// Registers the launcher, while the server preloads the library. Not for pg_upgrade, which copies what nobody may change.
pub fn register_launcher() {
    // SAFETY: a flag of the server's.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    let mut launcher = described(c"pg_embed vectorizer launcher", c"vectorizer_launcher_main");
    launcher.bgw_flags |= pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION as i32;
    launcher.bgw_restart_time = AFTER_ERROR.as_secs() as i32;
    // SAFETY: a complete description, which is copied.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut launcher) };
}

fn described(name: &CStr, function: &CStr) -> pg_sys::BackgroundWorker {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: pg_sys::BGWORKER_SHMEM_ACCESS as i32,
        // None on a standby, until it is promoted.
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
        ..Default::default()
    };
    put(&mut worker.bgw_name, name);
    put(&mut worker.bgw_type, name);
    put(&mut worker.bgw_library_name, c"pg_embed");
    put(&mut worker.bgw_function_name, function);
    worker
}

fn put(field: &mut [c_char], text: &CStr) {
    for (place, byte) in field.iter_mut().zip(text.to_bytes_with_nul()) {
        *place = *byte as c_char;
    }
}

unsafe extern "C-unwind" {
    // As Postgres has them: pgrx's own functions of these names do more than a signal handler may.
    fn die(signal: i32);
    fn SignalHandlerForConfigReload(signal: i32);
}

/// Lets the process hear signals: SIGTERM ends it where it checks for interrupts, SIGHUP reads the configuration anew.
fn listen() {
    // SAFETY: Postgres's own handlers, before signals are unblocked.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        use pg_sys::pqsignal;
        #[cfg(feature = "pg18")]
        use pg_sys::pqsignal_be as pqsignal;
        pqsignal(pg_sys::SIGTERM as i32, Some(die));
        pqsignal(pg_sys::SIGHUP as i32, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Sleeps until the latch is set, or for that long; whether it was set. Ends the process with the postmaster.
fn sleep(time: Duration) -> bool {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: the process's own latch.
    let happened = unsafe {
        let milliseconds = time.as_millis() as c_long;
        let happened =
            pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        happened
    };
    check_for_interrupts!();
    // SAFETY: a flag of Postgres's handler for SIGHUP.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
    happened as u32 & pg_sys::WL_LATCH_SET != 0
}

/// Runs `work` in a transaction of its own. `Err`: it was rolled back, and the log has the error.
fn transaction<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    // SAFETY: as the main loops of Postgres's own workers do it: an error ends the transaction. What was changed is told to
    // the statistics, so that autovacuum learns of it.
    unsafe {
        let work = std::panic::AssertUnwindSafe(|| {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as i32;
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let result = work();
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
            pg_sys::pgstat_report_stat(false);
            Ok(result)
        });
        PgTryBuilder::new(work)
            .catch_others(|error| {
                let failure = Failure::of(&error);
                tell(format!("vectorizer: {}", failure.message), PgLogLevel::LOG);
                pg_sys::AbortCurrentTransaction();
                Err(failure)
            })
            .execute()
    }
}

/// Settings that would end a worker's work, or let it wait for ever.
fn settle() {
    let settings: &[(&CStr, &CStr)] = &[
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"lock_timeout", c"5s"),
        (c"statement_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        (c"transaction_timeout", c"0"),
    ];
    for (name, value) in settings {
        // SAFETY: settings that there are, for this session.
        unsafe {
            let (context, source) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_OVERRIDE);
            pg_sys::SetConfigOption(name.as_ptr(), value.as_ptr(), context, source);
        }
    }
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn vectorizer_worker_main(argument: pg_sys::Datum) {
    let (database, number) =
        (pg_sys::Oid::from(argument.value() as u32), (argument.value() as u64 >> 32) as u32);
    IS_WORKER.set(true);
    listen();
    // SAFETY: once, before anything else; as the bootstrap superuser, whose rights are given up for the owner's where rows of
    // users are read and written. The description stays.
    let after = unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
        let mut bytes = [0; XID_BYTES];
        for (byte, place) in bytes.iter_mut().zip(&(*pg_sys::MyBgworkerEntry).bgw_extra) {
            *byte = *place as u8;
        }
        pg_sys::TransactionId::from(u32::from_ne_bytes(bytes))
    };
    settle();
    let wait = || {
        let _ = transaction(|| {
            if after != pg_sys::InvalidTransactionId {
                // SAFETY: a transaction's number; waits for its end.
                unsafe {
                    let waiting_for = pg_sys::XLTW_Oper::XLTW_None;
                    pg_sys::XactLockTableWait(after, std::ptr::null_mut(), std::ptr::null_mut(), waiting_for);
                }
            }
        });
    };
    let find = || transaction(Home::of_database).ok().flatten();
    // The transaction may have created the extension, too.
    let Some(home) = find().or_else(|| (wait(), find()).1) else { return };
    // As soon as may be: who commits now sees that there is a worker, and wakes it. Who looks whether there is one has the lock
    // for a moment.
    let held = (0..3).find_map(|_| {
        let held = Tag::new(home.log, number).try_hold();
        if held.is_none() {
            sleep_for(Duration::from_millis(10));
        }
        held
    });
    let Some(held) = held else {
        // Somebody else serves the database, and may sleep.
        wake::wake_all();
        return;
    };
    wait();
    Worker { home, number, held: Some(held), waiting: None, helpers: None }.serve();
}

/// One that serves a database.
struct Worker {
    home: Home,
    /// [`wake::FIRST_WORKER`], or the number of a helper.
    number: u32,
    held: Option<Held>,
    /// While it has no place among [`guc::max_workers`].
    waiting: Option<Held>,
    /// When helpers were last asked for.
    helpers: Option<Instant>,
}

impl Worker {
    fn serve(mut self) {
        let mut idle_since: Option<Instant> = None;
        loop {
            if !self.keeps_its_place() {
                return;
            }
            let rest = match self.work() {
                Work::Done => {
                    idle_since = Some(Instant::now());
                    Duration::ZERO
                }
                Work::Nothing(_) if self.number != wake::FIRST_WORKER => return,
                Work::Nothing(Some(next)) => next.max(Duration::from_millis(10)),
                Work::Nothing(None) => {
                    let lingers =
                        idle_since.map_or(Duration::ZERO, |since| LINGER.saturating_sub(since.elapsed()));
                    if lingers.is_zero() && self.leave() {
                        return;
                    }
                    lingers.max(A_MOMENT)
                }
                Work::Failed => AFTER_ERROR,
                Work::Gone => return,
            };
            let until = Instant::now() + rest;
            loop {
                check_for_interrupts!();
                if is_unwanted() {
                    return self.make_room();
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() || sleep(left.min(LOOK)) {
                    break;
                }
            }
        }
    }

    /// Whether it still has its lock, or could take it again.
    fn keeps_its_place(&mut self) -> bool {
        if self.held.as_ref().is_none_or(|held| !held.is_held()) {
            self.held = Tag::new(self.home.log, self.number).try_hold();
        }
        self.held.is_some() && guc::max_workers() > 0
    }

    /// Leaves the database to who wants it. One that comes after waits with its connection until the database is gone, or free
    /// again.
    fn make_room(&mut self) {
        if self.number == wake::FIRST_WORKER {
            // SAFETY: reads which database this process is connected to.
            start(unsafe { pg_sys::MyDatabaseId }, self.number, pg_sys::InvalidTransactionId);
        }
    }

    /// Works until nothing is due.
    fn work(&mut self) -> Work {
        let due = transaction(|| {
            let home = Home::of_database()?;
            let due = catalog::due(&home);
            Some((home, due))
        });
        let due = match due {
            Ok(Some((home, due))) if home.log == self.home.log => {
                // The extension may have another schema now.
                self.home = home;
                due
            }
            Ok(_) => return Work::Gone,
            Err(_) => return Work::Failed,
        };
        if due.vectorizers.is_empty() {
            return Work::Nothing(due.next);
        }
        let Some(slot) = slot() else {
            self.waiting = Tag::of_cluster(WAITING).try_hold_as(pg_sys::ShareLock);
            return Work::Nothing(Some(A_MOMENT));
        };
        self.waiting = None;
        let mut any = false;
        for id in due.vectorizers {
            match self.work_on(id) {
                Ok(batch) => any |= batch.keys > batch.locked,
                // The others need not wait for what is wrong with this one.
                Err(failure) => {
                    if transaction(|| run::note_or_postpone(&self.home, id, &failure)).is_err() {
                        return Work::Failed;
                    }
                }
            }
            if is_unwanted() {
                break;
            }
        }
        drop(slot);
        if !Tag::of_cluster(WAITING).is_free_for(pg_sys::ExclusiveLock) {
            // Another database's turn.
            sleep_for(2 * A_MOMENT);
        }
        if any { Work::Done } else { Work::Nothing(Some(A_MOMENT)) }
    }

    /// Works on one vectorizer, for as long as others do not have to wait for long.
    fn work_on(&mut self, id: i32) -> Result<Batch, Failure> {
        let (mut pace, mut all, start) = (Pace::default(), Batch::default(), Instant::now());
        loop {
            let rows = pace.rows(run::MAX_BATCH);
            let began = Instant::now();
            let batch = transaction(|| run::batch_or_one(&self.home, id, rows))??;
            pace.took(batch.keys, began.elapsed());
            all.add(batch);
            if batch.keys == 0 {
                break;
            }
            if start.elapsed() > WORTH_HELP {
                self.ask_for_help();
            }
            check_for_interrupts!();
            if is_unwanted() || start.elapsed() > TURN {
                break;
            }
        }
        let changed = transaction(|| swap::if_done(&self.home, id))??;
        // What keeps it from that is in the log.
        while transaction(|| index::rebuild(&self.home, changed.unwrap_or(id))).unwrap_or(false) {}
        if all.keys > 0 {
            let _ = transaction(|| index::keep_in_shape(&self.home, id));
        }
        Ok(all)
    }

    /// There is more than a batch: whoever has a core to spare may help.
    fn ask_for_help(&mut self) {
        let asked = self.helpers.is_some_and(|asked| asked.elapsed() < Duration::from_secs(2));
        if self.number != wake::FIRST_WORKER || asked {
            return;
        }
        self.helpers = Some(Instant::now());
        for number in wake::FIRST_WORKER + 1..wake::FIRST_WORKER + guc::max_workers() as u32 {
            if Tag::new(self.home.log, number).is_free_for(pg_sys::ExclusiveLock) {
                // SAFETY: reads which database this process is connected to.
                start(unsafe { pg_sys::MyDatabaseId }, number, pg_sys::InvalidTransactionId);
            }
        }
    }

    /// Gives up the database, unless a commit is on its way that counts on this worker.
    fn leave(&mut self) -> bool {
        let Some(_nobody_commits) = Tag::new(self.home.log, wake::COMMITTING).try_hold() else {
            return false;
        };
        let home = &self.home;
        let due = transaction(|| catalog::due(home));
        let is_done = due.is_ok_and(|due| due.vectorizers.is_empty() && due.next.is_none());
        if is_done {
            self.held = None;
        }
        is_done
    }
}

/// Whether somebody wants to drop this database, or to do something else with it that nobody may be in for.
fn is_unwanted() -> bool {
    !Tag::of_database().is_free_for(pg_sys::RowExclusiveLock)
}

enum Work {
    Done,
    /// Nothing is due now; something will be after a while.
    Nothing(Option<Duration>),
    Failed,
    /// The extension was dropped.
    Gone,
}

/// One of the places of `pg_embed.max_workers`, which all databases share.
fn slot() -> Option<Held> {
    (1..=guc::max_workers() as u32).find_map(|number| Tag::of_cluster(number).try_hold())
}

#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn vectorizer_launcher_main(_argument: pg_sys::Datum) {
    listen();
    // SAFETY: once, before anything else; connected to no database, to read the catalogs that all share.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    loop {
        let start = Instant::now();
        for database in transaction(databases).unwrap_or_default() {
            start_and_wait(database);
        }
        // However many databases there are, looking at them takes one part in a hundred of a core at most.
        sleep_for(ROUND.max(start.elapsed() * 100));
    }
}

/// Starts a worker; waits until it has seen whether there is something to do.
fn start_and_wait(database: pg_sys::Oid) {
    while guc::max_workers() > 0
        && start(database, wake::FIRST_WORKER, pg_sys::InvalidTransactionId).is_none()
    {
        sleep_for(Duration::from_secs(1));
    }
    sleep_for(Duration::from_millis(50));
}

/// Sleeps for that long, whatever wakes the process.
fn sleep_for(time: Duration) {
    let start = Instant::now();
    while let Some(left) = time.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        sleep(left.max(Duration::from_millis(1)));
    }
}

/// The databases that take connections.
fn databases() -> Vec<pg_sys::Oid> {
    let mut found = vec![];
    // SAFETY: a scan of a shared catalog, whose rows have this form.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let catalog = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
        let scan = pg_sys::table_beginscan_catalog(catalog, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            // -2: what a DROP DATABASE that was interrupted has left.
            if form.datallowconn && !form.datistemplate && form.datconnlimit != -2 {
                found.push(form.oid);
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(catalog, lock);
    }
    found
}
