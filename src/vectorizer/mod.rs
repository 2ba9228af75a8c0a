//! Rows of text become rows with vectors: those that are there already, and those that change.
//!
//! ```text
//! backfill  a procedure: rows whose vector is NULL        progress  how far it is
//! create    a vectorizer: its row, triggers, chunks       manage    pause, resume, retry, run, drop
//! alter     other sources, chunks, or another model       swap      its end: new vectors for old ones     index
//! query     the vector of a search text                   search   by vectors and words       status
//! enqueue   the trigger: keys of rows that have changed   watch     what it looks for     cell  what has changed
//! queue     keys that are due, claimed and done with      catalog   what a vectorizer is, which are due
//! run       a batch: claim, read, embed, lock, write      embed     vectors, where one text may fail     statements
//! worker    processes that do batches                     wake      how a commit finds one
//! home, table, source, chunks, triggers, fill, locks, pace: what they stand on
//! ```
//!
//! *Nothing is lost.* A writer adds rows to the log in its own transaction, and touches none that is there: it never waits for a
//! worker. A worker locks log rows, reads the texts, and deletes the log rows in the transaction that writes the vectors. What
//! changes after it has read is in log rows that it has not seen. Before it writes, it locks the rows and reads them again, and leaves
//! those that have changed to whoever has the newer log row. A row lock that it cannot have at once it does not wait for, so that
//! writers and workers cannot wait for each other in a circle: the key goes back into the log.
//!
//! *What a vectorizer is, is certain.* Whoever changes it, but for a pause, locks its table against writers first. A batch takes the
//! lock of a writer before it looks what the vectorizer is; triggers [know](watch) what they look for, and hear of a change when they
//! get the lock.
//!
//! *Nothing waits unseen.* Which process serves a database is known by a lock. A transaction that has put something into the log
//! takes the lock COMMITTING in share mode before its commit, starts a worker if there is none, and wakes the one that there is
//! after the commit. A worker that wants to end takes COMMITTING exclusively, which it cannot have while such a commit is on its way,
//! looks once more, and gives up its place before it gives up COMMITTING. The launcher covers what no commit tells of.
//!
//! *Rights.* Rows of users are read and written as the table's owner, within a security-restricted operation, as autovacuum does;
//! the extension's own tables as their owner, under a search_path of Postgres's own.

mod alter;
mod backfill;
mod catalog;
mod cell;
mod chunks;
mod create;
mod embed;
mod enqueue;
mod fill;
mod home;
mod index;
mod locks;
mod manage;
mod pace;
mod progress;
mod query;
mod queue;
mod run;
mod search;
mod source;
mod statements;
mod status;
mod swap;
mod table;
mod triggers;
mod wake;
mod watch;
mod worker;

pub use worker::register_launcher;
