//! One batch of a vectorizer: claim keys, read the rows, chunk and embed their texts, write the vectors.
//!
//! Rows are read without a lock, since the model takes its time. Before the vectors are written the rows are locked and read
//! again: one whose text has changed meanwhile is left to the change, which has queued it anew; one that somebody else has
//! locked is queued again.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use pgrx::pg_sys;

use super::catalog::{self, Place, Vectorizer};
use super::embed::{Trouble, each, isolate};
use super::home::Home;
use super::queue::{Claim, Key};
use super::source::KeyColumn;
use super::statements::Statements;
use super::table::Table;
use crate::embed::chunk::{Part, parts};
use crate::embed::models;
use crate::embed::text::TextBuf;
use crate::error::{Error, OrRaise, PipelineError};
use crate::spi::{Connection, Failure, Rows, Value, as_user, in_subtransaction};
use crate::vector::VectorBuf;

/// Rows of a batch at most.
pub const MAX_BATCH: usize = 1024;

/// Chunks that are embedded at once: enough to find some of equal length.
const CHUNKS_AT_ONCE: usize = 256;

/// Texts of one batch, in bytes; the last one may go beyond. About 15,000 tokens, which take three seconds: DROP DATABASE waits for
/// five.
const BATCH_BYTES: usize = 64 * 1024;

thread_local! {
    /// Whether this process writes vectors now.
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

/// Whether what is written now are a vectorizer's own vectors.
pub fn is_writing() -> bool {
    WRITING.get()
}

/// What became of the keys of a batch.
#[derive(Default, Clone, Copy)]
pub struct Batch {
    /// All of them; 0: nothing was due.
    pub keys: usize,
    pub failed: usize,
    /// Somebody else had locked their rows.
    pub locked: usize,
}

impl Batch {
    pub fn add(&mut self, other: Batch) {
        self.keys += other.keys;
        self.failed += other.failed;
        self.locked += other.locked;
    }
}

/// Does one batch of at most `most` rows, in the current transaction. If it comes to nothing, which may be one row's fault, it does
/// one of a single row.
///
/// # Errors
/// What stands in the way of all rows. It is to be noted in the vectorizer, which is tried again later.
pub fn batch_or_one(home: &Home, id: i32, most: usize) -> Result<Batch, Failure> {
    match batch(home, id, most) {
        Err(_) if most > 1 => batch(home, id, 1),
        result => result,
    }
}

fn batch(home: &Home, id: i32, most: usize) -> Result<Batch, Failure> {
    in_subtransaction(|| {
        let connection = Connection::open();
        let Some(found) = Vectorizer::by_id(home, &connection, id) else { return Batch::default() };
        // Whoever changes a vectorizer locks out those who write to its table: from here on it stays as it is.
        let Some(table) = Table::to_write_if_exists(found.relation) else {
            found.forget(home, &connection);
            return Batch::default();
        };
        let Some(vectorizer) = Vectorizer::by_id(home, &connection, id) else { return Batch::default() };
        // Within a part of a transaction that is another user's, nothing can be put off.
        connection.run(c"SET CONSTRAINTS ALL IMMEDIATE", &[]);
        Run::new(home, &connection, &vectorizer, table).and_then(|run| run.batch(most)).or_raise()
    })
}

struct Run<'a> {
    home: &'a Home,
    connection: &'a Connection,
    vectorizer: &'a Vectorizer,
    table: Table,
    key: Vec<KeyColumn>,
    statements: Statements,
}

/// A row as it was read.
struct Read {
    /// Which of the claimed keys.
    key: usize,
    text: Result<String, Failure>,
}

/// What is to be written for a row.
struct Product {
    key: usize,
    table: pg_sys::Datum,
    address: pg_sys::Datum,
    /// One for the whole text where vectors are in the same table.
    parts: Vec<(Part, Arc<[f32]>)>,
}

impl Run<'_> {
    fn new<'a>(
        home: &'a Home,
        connection: &'a Connection,
        vectorizer: &'a Vectorizer,
        table: Table,
    ) -> Result<Run<'a>, Error> {
        let key = KeyColumn::all_of(&table)?;
        for source in &vectorizer.sources {
            table.text_column(source)?;
        }
        vectorizer.open_model()?;
        let dimensions = models::dimensions(&vectorizer.model)?;
        let name = vectorizer.place.column();
        let column = match vectorizer.place.table() {
            None => table.vector_column(name, home.function)?,
            Some(other) => Table::open(other)?.vector_column(name, home.function)?,
        };
        column.check_dimensions(name, &vectorizer.model, dimensions)?;
        let statements = Statements::new(&table, &key, vectorizer)?;
        Ok(Run { home, connection, vectorizer, table, key, statements })
    }

    fn batch(&self, most: usize) -> Result<Batch, Error> {
        let claim = Claim::take(self.home, self.connection, self.vectorizer.id, most);
        let mut batch = Batch { keys: claim.keys.len(), ..Batch::default() };
        if claim.keys.is_empty() {
            return Ok(batch);
        }
        let (keys, others): (Vec<Key>, Vec<Key>) =
            claim.keys.iter().cloned().partition(|key| key.len() == self.key.len());
        for key in &others {
            claim.failed(self.connection, key, &Error::from(PipelineError::OtherKey).into());
        }
        batch.failed += others.len();
        let mut locked = vec![];
        let mut looked_at = 0;
        if !keys.is_empty() {
            let (reads, count) = match keys.as_slice() {
                // What is wrong with one key, or with what it leads to, is its own fault.
                [key] => match in_subtransaction(|| self.read(self.connection, &keys)) {
                    Ok(found) => found,
                    Err(failure) => {
                        claim.failed(self.connection, key, &failure);
                        batch.failed += 1;
                        (vec![], 0)
                    }
                },
                _ => self.read(self.connection, &keys),
            };
            looked_at = if keys.len() == 1 { 1 } else { count };
            if count > 0 {
                self.embed_and_write(&claim, &keys[..count], reads, &mut locked, &mut batch)?;
            }
        }
        let locked: Vec<&Key> = locked.iter().map(|&at: &usize| &keys[at]).collect();
        claim.done(self.connection, &locked, &keys[looked_at..]);
        batch.locked = locked.len();
        batch.keys -= keys.len() - looked_at;
        self.note(batch);
        Ok(batch)
    }

    /// The rows of some keys, and how many keys that are: as many as have [`BATCH_BYTES`] of text. Not all rows may be there.
    fn read(&self, connection: &Connection, keys: &[Key]) -> (Vec<Read>, usize) {
        as_user(self.table.owner, || {
            let cursor = connection.cursor(&self.statements.read, &self.key_lists(keys));
            let (mut reads, mut bytes, mut looked_at) = (vec![], 0, keys.len());
            loop {
                let rows = cursor.fetch(1);
                let Some(number) = rows.first(1) else { break };
                let at = number.value() - 1;
                if bytes > BATCH_BYTES {
                    // Rows come in the order of the keys.
                    looked_at = at;
                    break;
                }
                bytes += rows.bytes(0, 4);
                reads.push(Read { key: at, text: text_at(&rows, 0) });
            }
            cursor.close();
            (reads, looked_at)
        })
    }

    fn embed_and_write(
        &self,
        claim: &Claim,
        keys: &[Key],
        reads: Vec<Read>,
        again: &mut Vec<usize>,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        let connection = self.connection;
        let mut made = self.embed(&reads)?;
        let texts: HashMap<usize, &Result<String, Failure>> =
            reads.iter().map(|read| (read.key, &read.text)).collect();
        let owner = self.table.owner;
        let locked = as_user(owner, || connection.run(&self.statements.lock, &self.key_lists(keys)));
        let mut products = vec![];
        let mut seen = vec![false; keys.len()];
        for row in 0..locked.len() {
            let Some(number) = locked.datum(row, 1) else { continue };
            let at = number.value() - 1;
            seen[at] = true;
            let now = text_at(&locked, row);
            // One whose text has changed is in the queue again; so is one that is new.
            if texts.get(&at).is_none_or(|then| **then != now) {
                continue;
            }
            match made.remove(&at) {
                Some(Ok(parts)) => {
                    let datum = |column| locked.datum(row, column).unwrap_or(pg_sys::Datum::null());
                    products.push(Product { key: at, table: datum(2), address: datum(3), parts });
                }
                Some(Err(failure)) => {
                    claim.failed(connection, &keys[at], &failure);
                    batch.failed += 1;
                }
                None => {}
            }
        }
        // Rows that were there and are not among the locked ones are deleted, or locked by somebody else.
        again.extend(reads.iter().map(|read| read.key).filter(|&key| !seen[key]));
        let written = isolate(&products.iter().collect::<Vec<_>>(), &mut |products: &[&Product]| {
            in_subtransaction(|| as_user(owner, || self.write(connection, keys, products).or_raise()))
                .map_err(Trouble::WithSome)?;
            Ok(vec![(); products.len()])
        })?;
        let mut succeeded: Vec<&Key> =
            (0..keys.len()).filter(|at| !seen[*at] && !texts.contains_key(at)).map(|at| &keys[at]).collect();
        for (product, result) in products.iter().zip(written) {
            match result {
                Ok(()) => succeeded.push(&keys[product.key]),
                Err(failure) => {
                    claim.failed(connection, &keys[product.key], &failure);
                    batch.failed += 1;
                }
            }
        }
        claim.succeeded(connection, &succeeded);
        Ok(())
    }

    /// What each row's text gives, by its key.
    #[allow(clippy::type_complexity)] // a row's parts with their vectors, or why there are none
    fn embed(
        &self,
        reads: &[Read],
    ) -> Result<HashMap<usize, Result<Vec<(Part, Arc<[f32]>)>, Failure>>, Error> {
        let model = &self.vectorizer.model;
        let mut made = HashMap::new();
        // The parts of all rows, so that those of equal length are embedded together.
        let mut all: Vec<(usize, Part)> = vec![];
        for read in reads {
            let parts = match (&read.text, &self.vectorizer.place) {
                (Err(failure), _) => Err(failure.clone()),
                (Ok(text), Place::Column(_) | Place::Beside(_)) => Ok(vec![Part::whole(text)]),
                (Ok(text), Place::Chunks { options, .. }) => {
                    match models::chunk(Some(model), text, options) {
                        Ok(chunks) => Ok(parts(text, &chunks)),
                        Err(error) => Err(super::embed::of_one_text(error)?),
                    }
                }
            };
            match parts {
                Ok(parts) => {
                    made.insert(read.key, Ok(Vec::with_capacity(parts.len())));
                    all.extend(parts.into_iter().map(|part| (read.key, part)));
                }
                Err(failure) => {
                    made.insert(read.key, Err(failure));
                }
            }
        }
        let mut all = all.into_iter();
        loop {
            let some: Vec<(usize, Part)> = all.by_ref().take(CHUNKS_AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            let texts: Vec<&str> = some.iter().map(|(_, part)| part.content.as_str()).collect();
            let vectors = each(model, &texts)?;
            for ((key, part), vector) in some.into_iter().zip(vectors) {
                let row = made.entry(key).or_insert_with(|| Ok(vec![]));
                match (row.as_mut(), vector) {
                    (Ok(parts), Ok(Some(vector))) => parts.push((part, vector)),
                    (Ok(_), Err(failure)) => *row = Err(failure),
                    _ => {}
                }
            }
        }
        Ok(made)
    }

    /// The lists that stand for keys in a statement: one for each column.
    fn key_lists(&self, keys: &[Key]) -> Vec<Value> {
        (0..self.key.len())
            .map(|column| Value::texts(keys.iter().filter_map(|key| key.get(column))))
            .collect()
    }

    fn write(&self, connection: &Connection, keys: &[Key], products: &[&Product]) -> Result<(), Error> {
        let _writing = Writing::begin();
        match self.vectorizer.place {
            Place::Column(_) => self.write_column(connection, products),
            Place::Chunks { .. } | Place::Beside(_) => self.write_elsewhere(connection, keys, products),
        }
    }

    fn write_column(&self, connection: &Connection, products: &[&Product]) -> Result<(), Error> {
        let [set, clear] = &self.statements.write;
        let (blank, full): (Vec<&Product>, Vec<&Product>) =
            products.iter().copied().partition(|product| product.parts.is_empty());
        let addresses = |products: &[&Product]| {
            let mut tables: Vec<_> = products.iter().map(|product| product.table).collect();
            let mut addresses: Vec<_> = products.iter().map(|product| product.address).collect();
            [Value::array(pg_sys::OIDOID, &mut tables), Value::array(pg_sys::TIDOID, &mut addresses)]
        };
        if !full.is_empty() {
            let [tables, at] = addresses(&full);
            let vectors = full.iter().flat_map(|product| &product.parts).map(|(_, vector)| vector);
            let vectors = self.vectors(vectors)?;
            let written = connection.run(set, &[tables, at, vectors]).processed();
            if written != full.len() as u64 {
                return Err(PipelineError::NotWritten.into());
            }
        }
        if !blank.is_empty() {
            connection.run(clear, &addresses(&blank));
        }
        Ok(())
    }

    fn write_elsewhere(
        &self,
        connection: &Connection,
        keys: &[Key],
        products: &[&Product],
    ) -> Result<(), Error> {
        let [delete, insert] = &self.statements.write;
        let written: Vec<Key> = products.iter().map(|product| keys[product.key].clone()).collect();
        connection.run(delete, &self.key_lists(&written));
        let parts =
            || products.iter().flat_map(|product| product.parts.iter().map(|part| (product.key, part)));
        let owners: Vec<Key> = parts().map(|(key, _)| keys[key].clone()).collect();
        if owners.is_empty() {
            return Ok(());
        }
        let mut arguments = self.key_lists(&owners);
        if let Place::Chunks { .. } = self.vectorizer.place {
            let mut contents: Vec<_> =
                parts().map(|(_, (part, _))| TextBuf::new(&part.content).datum()).collect();
            arguments.extend([
                Value::ints(parts().map(|(_, (part, _))| part.ordinal)),
                Value::array(pg_sys::TEXTOID, &mut contents),
                Value::ints(parts().map(|(_, (part, _))| part.start)),
                Value::ints(parts().map(|(_, (part, _))| part.end)),
            ]);
        }
        arguments.push(self.vectors(parts().map(|(_, (_, vector))| vector))?);
        connection.run(insert, &arguments);
        Ok(())
    }

    fn vectors<'v>(&self, vectors: impl Iterator<Item = &'v Arc<[f32]>>) -> Result<Value, Error> {
        let datums = vectors.map(|vector| Ok(VectorBuf::from_slice(vector)?.into_datum()));
        let mut datums = datums.collect::<Result<Vec<_>, Error>>()?;
        Ok(Value::array(crate::embed::vector_type(self.home.function), &mut datums))
    }

    /// Counts what was done, minute by minute, and takes back what was wrong with the vectorizer.
    fn note(&self, batch: Batch) {
        let insert = "INSERT INTO {home}.vectorizer_activity AS a (vectorizer, minute, rows)
            VALUES ($1, date_trunc('minute', clock_timestamp()), $2)
            ON CONFLICT (vectorizer, minute) DO UPDATE SET rows = a.rows + excluded.rows";
        let delete = "DELETE FROM {home}.vectorizer_activity AS a
            WHERE a.vectorizer = $1 AND a.minute < clock_timestamp() - interval '10 minutes'";
        // Rows of users are locked: whoever pauses it and does not commit must not let them wait.
        let served = "UPDATE {home}.vectorizer AS v SET served_at = clock_timestamp(),
            failed_at = NULL, sqlstate = NULL, error = NULL, not_before = '-infinity'
            WHERE v.id = (SELECT w.id FROM {home}.vectorizer AS w WHERE w.id = $1 FOR NO KEY UPDATE SKIP LOCKED)";
        let id = Value::int(self.vectorizer.id);
        let done = batch.keys.saturating_sub(batch.failed + batch.locked);
        self.home.run(self.connection, insert, &[id, Value::bigint(done as i64)]);
        self.home.run(self.connection, delete, &[id]);
        self.home.run(self.connection, served, &[id]);
    }
}

/// Notes why none of a vectorizer's rows can be embedded, and lets it rest for a while.
pub fn note_failure(home: &Home, id: i32, failure: &Failure) {
    let connection = Connection::open();
    let update = "UPDATE {home}.vectorizer AS v SET failed_at = clock_timestamp(), sqlstate = $2, error = $3,
        not_before = clock_timestamp() + interval '30 seconds', served_at = clock_timestamp() WHERE v.id = $1";
    home.run(
        &connection,
        update,
        &[Value::int(id), Value::text(&failure.code()), Value::text(&failure.text())],
    );
}

/// Likewise; for a lock that somebody else has it only waits.
pub fn note_or_postpone(home: &Home, id: i32, failure: &Failure) {
    if failure.is_about_a_lock() {
        catalog::postpone(home, id);
    } else {
        note_failure(home, id, failure);
    }
}

/// While it lives, vectors are written by a vectorizer.
pub struct Writing(());

impl Writing {
    pub fn begin() -> Writing {
        WRITING.set(true);
        Writing(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.set(false);
    }
}

fn text_at(rows: &Rows, row: usize) -> Result<String, Failure> {
    super::embed::readable(&rows.text(row, 4).unwrap_or_default())
}
