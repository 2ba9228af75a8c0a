//! How far a backfill is: for whoever has called it, in NOTICEs, and for all others in the view `embed_progress`.
//!
//! Its numbers are in a row of an unlogged table, which each batch brings up to date. The lock that the backfill holds during
//! a batch tells that it is still running.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::{PgLogLevel, pg_sys};

use super::home::Home;
use super::locks::Tag;
use crate::error::tell;
use crate::spi::{Connection, Value};

/// Between two NOTICEs.
const EVERY: Duration = Duration::from_secs(10);

pub struct Progress<'a> {
    home: &'a Home,
    started: Instant,
    told: Instant,
    pub total: u64,
    pub done: u64,
    pub failed: u64,
    /// Rows that were looked at and need no vector: blank, or taken care of by another session.
    pub skipped: u64,
}

impl Progress<'_> {
    /// Makes the backfill's row, in the current transaction. Rows of those that have ended are removed.
    pub fn begin<'a>(
        home: &'a Home,
        connection: &Connection,
        relation: pg_sys::Oid,
        target: &CStr,
        model: &CStr,
    ) -> Progress<'a> {
        let now = Instant::now();
        let progress = Progress { home, started: now, told: now, total: 0, done: 0, failed: 0, skipped: 0 };
        progress.lock(connection);
        // SAFETY: asks who the user is.
        let role = unsafe { pg_sys::GetUserId() };
        let delete = "DELETE FROM {home}.embed_backfills AS b
            WHERE b.pid = pg_backend_pid() OR b.updated_at < clock_timestamp() - interval '1 hour' AND NOT EXISTS (
                SELECT FROM pg_locks AS l WHERE l.classid = b.tableoid AND l.pid = b.pid)";
        home.run(connection, delete, &[]);
        let insert = "INSERT INTO {home}.embed_backfills (pid, role, relation, target, model)
            VALUES (pg_backend_pid(), $1, $2, $3, $4)";
        let arguments = [Value::oid(role), Value::oid(relation), Value::text(target), Value::text(model)];
        home.run(connection, insert, &arguments);
        progress
    }

    /// To be called in each transaction: the lock ends with it.
    pub fn lock(&self, connection: &Connection) {
        let find = "SELECT '{home}.embed_backfills'::regclass::oid, pg_backend_pid()";
        let found = self.home.run(connection, find, &[]);
        if let (Some(table), Some(pid)) = (found.first(1), found.first(2)) {
            Tag::new(pg_sys::Oid::from(table.value() as u32), pid.value() as u32).share();
        }
    }

    /// Brings the row up to date.
    pub fn save(&self, connection: &Connection) {
        let update = "UPDATE {home}.embed_backfills
            SET rows_total = $1, rows_done = $2, rows_failed = $3, rows_skipped = $4, updated_at = clock_timestamp()
            WHERE pid = pg_backend_pid()";
        let numbers = [self.total, self.done, self.failed, self.skipped].map(|n| Value::bigint(n as i64));
        self.home.run(connection, update, &numbers);
    }

    pub fn end(&self, connection: &Connection) {
        self.home.run(connection, "DELETE FROM {home}.embed_backfills WHERE pid = pg_backend_pid()", &[]);
    }

    /// Says how far it is, if it has not for a while.
    pub fn tell(&mut self) {
        if self.told.elapsed() < EVERY {
            return;
        }
        self.told = Instant::now();
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = self.done as f64 / seconds;
        let seen = self.done + self.failed + self.skipped;
        let left = self.total.saturating_sub(seen) as f64 * seconds / (seen as f64).max(1.0);
        let message = format!(
            "embed_backfill: {seen} of {} rows, {rate:.0} rows/s, {left:.0} s left",
            self.total.max(seen)
        );
        tell(message, PgLogLevel::NOTICE);
    }
}
