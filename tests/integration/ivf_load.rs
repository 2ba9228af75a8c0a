//! Clients that change a table (id int, v vector(DIMS), note int) without rest, and know what they committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use postgres::error::SqlState;
use postgres::{Client, NoTls, SimpleQueryMessage};

use crate::cluster::{Cluster, rows};
use crate::ivf::{BY_INDEX, Clusters, L2, Metric, Random, copy, search, text};

pub const DIMS: usize = 16;

/// What a client knows of a row of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    Present,
    Absent,
    /// Its last statement did not come back.
    Unknown,
}

pub type Journal = BTreeMap<i32, Row>;

/// Ids below this one are of the rows that nobody changes.
pub const FIRST_OF_CLIENTS: i32 = 1_000_000;

/// Makes the table `t` and its index `i`, with `anchors` rows that stay.
pub fn make_table(client: &mut Client, anchors: usize, metric: Metric, lists: usize) {
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v vector({DIMS}), note int DEFAULT 0) WITH (fillfactor = 70)"
        ))
        .unwrap();
    copy(client, "t", 1, &source(0).vectors(anchors));
    client
        .batch_execute(&format!(
            "CREATE INDEX i ON t USING ivf (v {}) WITH (lists = {lists})",
            metric.opclass
        ))
        .unwrap();
}

/// The same centers for all, other rows for each client.
pub fn source(client: u64) -> Clusters {
    let mut source = Clusters::new(77, 30, DIMS);
    source.reseed(client);
    source
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Journal>>,
    others: Vec<JoinHandle<u64>>,
}

impl Load {
    /// `round`: another for each start in a test, below 20.
    pub fn start(cluster: &Cluster, writers: u64, round: u64) -> Load {
        Load::start_at(cluster, writers, |number| {
            FIRST_OF_CLIENTS + (round * 10 + number) as i32 * 10_000_000
        })
    }

    /// `first`: the first id of each writer.
    pub fn start_at(cluster: &Cluster, writers: u64, first: impl Fn(u64) -> i32) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..writers)
            .map(|number| {
                let (stop, config) = (stop.clone(), cluster.config("postgres", "postgres"));
                let first = first(number);
                std::thread::spawn(move || {
                    let client = config.connect(NoTls).unwrap();
                    write(client, first, &stop)
                })
            })
            .collect();
        Load { stop, writers, others: vec![] }
    }

    /// Adds a client that does one thing again and again, until an error of the connection; any other must not happen.
    pub fn repeat(
        &mut self,
        cluster: &Cluster,
        mut work: impl FnMut(&mut Client) -> Result<(), postgres::Error> + Send + 'static,
    ) {
        let (stop, config) = (self.stop.clone(), cluster.config("postgres", "postgres"));
        self.others.push(std::thread::spawn(move || {
            let mut client = config.connect(NoTls).unwrap();
            let mut times = 0;
            while !stop.load(Ordering::Relaxed) {
                match work(&mut client) {
                    Ok(()) => times += 1,
                    Err(error) if is_lost(&error) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            times
        }));
    }

    /// Ends the clients' work; returns what they know, and how often each of the others came round.
    pub fn stop(self) -> (Journal, Vec<u64>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut journal = Journal::new();
        for writer in self.writers {
            journal.append(&mut writer.join().unwrap());
        }
        (journal, self.others.into_iter().map(|other| other.join().unwrap()).collect())
    }
}

/// The server went away, or ended this client's process: not a failure of the statement.
pub fn is_lost(error: &postgres::Error) -> bool {
    let shutdowns = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    error.is_closed() || error.code().is_none_or(|code| shutdowns.contains(code))
}

/// Trains the index again, again and again.
pub fn train(client: &mut Client) -> Result<(), postgres::Error> {
    match client.batch_execute("SELECT ivf_maintain('i', true)") {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            std::thread::sleep(std::time::Duration::from_millis(1));
            Ok(())
        }
        // REINDEX CONCURRENTLY has put another index in its place.
        Err(error) if error.to_string().contains("could not open relation") => Ok(()),
        other => other,
    }
}

/// Searches for lasting rows, of so many: the row itself is first, and no row comes twice. `start`: another for each client.
pub fn search_near(
    anchors: usize,
    start: usize,
) -> impl FnMut(&mut Client) -> Result<(), postgres::Error> + Send + 'static {
    let vectors = source(0).vectors(anchors);
    let mut at = start;
    move |client| {
        at = (at + 13) % anchors;
        let sql = format!("BEGIN; {BY_INDEX}; {}; COMMIT", search("t", L2, &vectors[at], "LIMIT 40"));
        let found = query_rows(client.simple_query(&sql)?);
        let mut once: Vec<&str> = found.iter().map(|row| row[0].as_str()).collect();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), 40, "{found:?}");
        assert_eq!(found[0][0], (at + 1).to_string(), "{found:?}");
        Ok(())
    }
}

/// The whole index against the whole table, in one snapshot.
pub fn compare_whole(client: &mut Client) -> Result<(), postgres::Error> {
    let middle = text(&source(0).vector());
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ;
         SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL ivf.probes = 32768;
         CREATE TEMP TABLE found ON COMMIT DROP AS SELECT id FROM t ORDER BY v <-> '{middle}';
         SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off;
         SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM found), (SELECT count(DISTINCT id) FROM found),
           (SELECT count(*) FROM t JOIN found USING (id)); COMMIT"
    );
    let counts = query_rows(client.simple_query(&sql)?).remove(0);
    assert!(counts.iter().all(|count| *count == counts[0]), "table, index, different ids, both: {counts:?}");
    Ok(())
}

fn query_rows(messages: Vec<SimpleQueryMessage>) -> Vec<Vec<String>> {
    let mut rows = vec![];
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_string()).collect());
        }
    }
    rows
}

/// A statement was ended from outside.
fn is_cancelled(error: &postgres::Error) -> bool {
    let ends =
        [SqlState::QUERY_CANCELED, SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| ends.contains(code))
}

/// Inserts, updates, deletes; in transactions of one statement or of several, some rolled back, some in part.
fn write(mut client: Client, first: i32, stop: &AtomicBool) -> Journal {
    let mut source = source(first as u64);
    let mut random = Random(first as u64);
    let mut journal = Journal::new();
    let mut next = first;
    while !stop.load(Ordering::Relaxed) {
        let present: Vec<i32> =
            journal.iter().filter(|(_, row)| **row == Row::Present).map(|(id, _)| *id).collect();
        let mut vector = || text(&source.vector());
        let mut values = |first: i32, count: i32| {
            let rows: Vec<String> =
                (first..first + count).map(|id| format!("({id}, '{}')", vector())).collect();
            rows.join(", ")
        };
        let mut picked = || present[random.below(present.len())];
        let count = 1 + next % 7;
        let new: Vec<i32> = (next..next + count).collect();
        // What to run, the rows it touches, and what they are afterwards.
        let (sql, touched, after) = match next % 8 {
            0 if present.len() > 20 => {
                let id = picked();
                (format!("DELETE FROM t WHERE id = {id}"), vec![id], Row::Absent)
            }
            1 | 2 if present.len() > 20 => {
                let first = picked();
                let last = first + 10;
                let ids = present.iter().copied().filter(|id| (first..last).contains(id)).collect();
                let sql = format!("DELETE FROM t WHERE id >= {first} AND id < {last}");
                (sql, ids, Row::Absent)
            }
            3 if present.len() > 20 => {
                let id = picked();
                let sql = format!("UPDATE t SET v = ('{}') WHERE id = {id}", text(&source.vector()));
                (sql, vec![id], Row::Present)
            }
            // The index need not know of it.
            4 if present.len() > 20 => {
                let id = picked();
                (format!("UPDATE t SET note = note + 1 WHERE id = {id}"), vec![id], Row::Present)
            }
            5 => {
                let sql = format!("BEGIN; INSERT INTO t (id, v) VALUES {}; ROLLBACK", values(next, count));
                (sql, new.clone(), Row::Absent)
            }
            6 => {
                let lost = values(next + count, count);
                let sql = format!(
                    "BEGIN; SAVEPOINT a; INSERT INTO t (id, v) VALUES {lost}; ROLLBACK TO a;
                     INSERT INTO t (id, v) VALUES {}; COMMIT",
                    values(next, count)
                );
                (sql, new.clone(), Row::Present)
            }
            _ => (format!("INSERT INTO t (id, v) VALUES {}", values(next, count)), new.clone(), Row::Present),
        };
        next += 2 * count + 1;
        match client.batch_execute(&sql) {
            Ok(()) => journal.extend(touched.into_iter().map(|id| (id, after))),
            Err(error) if is_cancelled(&error) => {
                // Another cancel may be on its way.
                while client.batch_execute("ROLLBACK").is_err_and(|error| !is_lost(&error)) {}
                journal.extend(touched.into_iter().map(|id| (id, Row::Unknown)));
            }
            Err(error) if is_lost(&error) => {
                journal.extend(touched.into_iter().map(|id| (id, Row::Unknown)));
                break;
            }
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }
    journal
}

/// The table holds what the clients committed, and nothing else of theirs.
#[track_caller]
pub fn assert_committed(client: &mut Client, journal: &Journal) {
    let ids: std::collections::BTreeSet<i32> =
        rows(client, "SELECT id FROM t").iter().map(|row| row[0].parse().unwrap()).collect();
    for (id, row) in journal {
        match row {
            Row::Present => assert!(ids.contains(id), "row {id} was committed and is lost"),
            Row::Absent => {
                assert!(!ids.contains(id), "row {id} was deleted or never committed, and is there")
            }
            Row::Unknown => {}
        }
    }
    let strangers: Vec<_> =
        ids.iter().filter(|id| **id >= FIRST_OF_CLIENTS && !journal.contains_key(id)).collect();
    assert!(strangers.is_empty(), "rows that nobody committed: {strangers:?}");
}
