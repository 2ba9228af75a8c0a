//! The queue: keys of rows that are to be looked at, and those that could not be embedded and are tried again.
//!
//! A row of `vectorizer_log` has the keys of one statement. Writers add rows and never touch them again. A worker locks some for
//! as long as it has their keys in hand, and deletes them when it is done. A key that is queued twice is looked at once by
//! a worker that has both rows; by two workers twice, which changes nothing.

use std::collections::HashSet;
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use super::home::Home;
use super::table::owned_list;
use crate::spi::{Connection, Failure, Rows, Value};

/// Of a row, in the order of the key's columns.
pub type Key = Vec<CString>;

/// Adds a row to the queue: the vectorizer, the texts of keys one after the other, and how many make a key.
pub const ADD: &str = "INSERT INTO {home}.vectorizer_log (vectorizer, keys, key_columns) VALUES ($1, $2, $3)";

/// Times that a row is tried, with a minute, then twice as long, and so on between them: an hour in all.
const MAX_ATTEMPTS: i32 = 6;

/// Before a row is looked at again that somebody else had locked.
const LOCKED_FOR: &CStr = c"2 seconds";

/// Keys that this transaction has in hand. Others pass over them.
pub struct Claim<'a> {
    home: &'a Home,
    vectorizer: i32,
    /// Each once.
    pub keys: Vec<Key>,
    /// Rows of the log that are done with these keys.
    taken: Vec<i64>,
    /// One that has more keys than were wanted: those that are left.
    rest: Option<(i64, Vec<CString>)>,
}

impl Claim<'_> {
    /// Takes up to `most` keys that are due, the oldest first.
    pub fn take<'a>(home: &'a Home, connection: &Connection, vectorizer: i32, most: usize) -> Claim<'a> {
        let mut claim = Claim { home, vectorizer, keys: vec![], taken: vec![], rest: None };
        let mut known = HashSet::new();
        claim.take_failed(connection, most, &mut known);
        claim.take_queued(connection, most, &mut known);
        claim
    }

    fn take_failed(&mut self, connection: &Connection, most: usize, known: &mut HashSet<Key>) {
        let sql = "SELECT e.key FROM {home}.vectorizer_failure AS e
            WHERE e.vectorizer = $1 AND e.not_before <= clock_timestamp()
            LIMIT $2 FOR UPDATE SKIP LOCKED";
        let rows = self.home.run(connection, sql, &[Value::int(self.vectorizer), Value::bigint(most as i64)]);
        for row in 0..rows.len() {
            self.add(key_of(&rows, row, 1), known);
        }
    }

    fn take_queued(&mut self, connection: &Connection, most: usize, known: &mut HashSet<Key>) {
        let sql = "SELECT l.id, l.keys, l.key_columns FROM {home}.vectorizer_log AS l
            WHERE l.vectorizer = $1 AND l.not_before <= clock_timestamp()
            ORDER BY l.id FOR UPDATE SKIP LOCKED";
        let cursor = self.home.cursor(connection, sql, &[Value::int(self.vectorizer)]);
        while self.keys.len() < most && self.rest.is_none() {
            let rows = cursor.fetch(1);
            let (Some(id), Some(columns)) = (rows.first(1), rows.first(3)) else { break };
            let (id, columns) = (id.value() as i64, columns.value() as i32);
            let texts = key_of(&rows, 0, 2);
            let mut keys = texts.chunks(columns.max(1) as usize);
            while self.keys.len() < most
                && let Some(key) = keys.next()
            {
                self.add(key.to_vec(), known);
            }
            let left: Vec<CString> = keys.flatten().cloned().collect();
            if left.is_empty() { self.taken.push(id) } else { self.rest = Some((id, left)) }
        }
        cursor.close();
    }

    fn add(&mut self, key: Key, known: &mut HashSet<Key>) {
        if known.insert(key.clone()) {
            self.keys.push(key);
        }
    }

    /// Takes the keys out of the queue. `locked`: those that somebody else has locked, which are due again after a while;
    /// `later`: those that there was no time for.
    pub fn done(&self, connection: &Connection, locked: &[&Key], later: &[Key]) {
        let vectorizer = Value::int(self.vectorizer);
        let mut taken: Vec<pg_sys::Datum> = self.taken.iter().map(|&id| id.into()).collect();
        let delete = "DELETE FROM {home}.vectorizer_log AS l WHERE l.vectorizer = $1 AND l.id = ANY ($2)";
        self.home.run(connection, delete, &[vectorizer, Value::array(pg_sys::INT8OID, &mut taken)]);
        if let Some((id, rest)) = &self.rest {
            let update =
                "UPDATE {home}.vectorizer_log AS l SET keys = $3 WHERE l.vectorizer = $1 AND l.id = $2";
            self.home.run(connection, update, &[vectorizer, Value::bigint(*id), Value::texts(rest)]);
        }
        let again = |keys: &[&Key], not_before: &CStr| {
            let Some(first) = keys.first() else { return };
            let insert = "INSERT INTO {home}.vectorizer_log (vectorizer, keys, key_columns, not_before)
                VALUES ($1, $2, $3, clock_timestamp() + $4::interval)";
            let width = Value::int(first.len() as i32);
            let arguments =
                [vectorizer, Value::texts(keys.iter().copied().flatten()), width, Value::text(not_before)];
            self.home.run(connection, insert, &arguments);
        };
        again(locked, LOCKED_FOR);
        again(&later.iter().collect::<Vec<_>>(), c"0");
    }

    /// Notes that a row has its vectors, or needs none.
    pub fn succeeded(&self, connection: &Connection, keys: &[&Key]) {
        // Most vectorizers have no failures: one look tells.
        let any = "SELECT FROM {home}.vectorizer_failure AS e WHERE e.vectorizer = $1 LIMIT 1";
        let delete = "DELETE FROM {home}.vectorizer_failure AS e USING (
                SELECT array_agg(k.text ORDER BY k.n) AS key FROM unnest($2) WITH ORDINALITY AS k (text, n)
                GROUP BY (k.n - 1) / $3) AS k
            WHERE e.vectorizer = $1 AND e.key = k.key";
        let vectorizer = Value::int(self.vectorizer);
        if self.home.run(connection, any, &[vectorizer]).is_empty() {
            return;
        }
        let Some(first) = keys.first() else { return };
        let all = Value::texts(keys.iter().copied().flatten());
        self.home.run(connection, delete, &[vectorizer, all, Value::int(first.len() as i32)]);
    }

    /// Notes why a row has no vectors. It is tried again after a while, until it was tried often.
    pub fn failed(&self, connection: &Connection, key: &Key, failure: &Failure) {
        let insert = "INSERT INTO {home}.vectorizer_failure AS e
                (vectorizer, key, attempts, failed_at, not_before, sqlstate, message)
            VALUES ($1, $2, 1, clock_timestamp(),
                clock_timestamp() + interval '1 minute', $3, $4)
            ON CONFLICT (vectorizer, key) DO UPDATE
            SET attempts = e.attempts + 1, failed_at = excluded.failed_at,
                not_before = CASE WHEN e.attempts + 1 >= $5 THEN 'infinity'
                    ELSE excluded.failed_at + interval '1 minute' * power(2, e.attempts) END,
                sqlstate = excluded.sqlstate, message = excluded.message";
        let arguments = [
            Value::int(self.vectorizer),
            Value::texts(key),
            Value::text(&failure.code()),
            Value::text(&failure.text()),
            Value::int(MAX_ATTEMPTS),
        ];
        self.home.run(connection, insert, &arguments);
    }
}

fn key_of(rows: &Rows, row: usize, column: usize) -> Key {
    // SAFETY: a column of type text[].
    rows.datum(row, column).map(|array| unsafe { owned_list(array) }).unwrap_or_default()
}
