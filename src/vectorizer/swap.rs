//! The end of a change of model: the next vectors take the place of those that are there, in one transaction. Searches see the old ones
//! before its commit and the new ones after it. Writers wait from the last batch on; searches do only if the dimensions change, as
//! for any ALTER TABLE that rewrites a table. Indexes are [built anew](super::index::rebuild) after it.
//!
//! No lock is ever asked for on a table that is locked less already: two who do that end each other.

use std::ffi::{CStr, CString};

use super::catalog::{self, EMBEDDING, Place, Vectorizer};
use super::chunks::{self, CHUNK_COLUMNS};
use super::fill::has_text;
use super::home::Home;
use super::run::{Writing, batch_or_one};
use super::source::Source;
use super::table::Table;
use super::{index, watch};
use crate::embed::models;
use crate::error::{Error, OrRaise};
use crate::spi::{Connection, Failure, Value, as_user, in_subtransaction, joined, quoted, statement, under};

/// Rows that are embedded while writers wait, so that those who write all the time do not put off the end for ever. With the
/// batch's own limit that is three seconds at most.
const LAST_ROWS: i32 = 64;

/// For a lock, as others wait behind it: less than the second after which Postgres looks for those who wait for each other, so that
/// nobody else's transaction is ended for that.
const WAIT: (&CStr, &CStr) = (c"lock_timeout", c"500ms");

/// What became of an attempt.
enum Outcome {
    /// There is more to embed first, or nothing to replace.
    Nothing,
    /// Somebody is in the way.
    Later,
    /// The vectorizer that has got the vectors.
    Done(i32),
}

/// Lets a vectorizer take the place of the one that it is to replace, if it replaces one, and all is embedded, or nearly all. Returns
/// that other one if so.
///
/// # Errors
/// What stands in the way. It is to be noted in the vectorizer, which is tried again later.
pub fn if_done(home: &Home, id: i32) -> Result<Option<i32>, Failure> {
    let outcome = in_subtransaction(|| {
        let connection = Connection::open();
        let next = Vectorizer::by_id(home, &connection, id);
        match next.filter(|next| next.has_at_most(LAST_ROWS, home, &connection)) {
            Some(next) => under(&[WAIT], || swap(home, &connection, &next)).or_raise(),
            None => Outcome::Nothing,
        }
    });
    match outcome {
        Ok(Outcome::Done(old)) => return Ok(Some(old)),
        Ok(Outcome::Nothing) => {}
        Ok(Outcome::Later) => catalog::postpone(home, id),
        Err(failure) if failure.is_about_a_lock() => catalog::postpone(home, id),
        Err(failure) => return Err(failure),
    }
    Ok(None)
}

fn swap(home: &Home, connection: &Connection, next: &Vectorizer) -> Result<Outcome, Error> {
    let (Some(old), Some(from)) = (next.replaces, next.place.table()) else { return Ok(Outcome::Nothing) };
    let Some(old) = Vectorizer::by_id(home, connection, old) else {
        next.forget(home, connection);
        return Ok(Outcome::Nothing);
    };
    let Some(table) = Table::if_exists(old.relation) else { return Ok(Outcome::Nothing) };
    next.open_model()?;
    let dimensions = models::dimensions(&next.model)?;
    match &old.place {
        Place::Column(target) if table.vector_column(target, home.function)?.is_other(dimensions) => {
            table.lock_against_all(home, connection);
        }
        _ => table.lock_against_writers(home, connection),
    }
    // From here on nothing is queued, and nobody else is at work on either of the two.
    let is_still_there = Vectorizer::by_id(home, connection, next.id).is_some_and(|next| !next.paused);
    if !is_still_there || !next.has_at_most(LAST_ROWS, home, connection) {
        return Ok(Outcome::Nothing);
    }
    // Nobody has locked a row any more to write to it.
    let now = "UPDATE {home}.vectorizer_log AS l SET not_before = '-infinity' WHERE l.vectorizer = $1 AND l.not_before > '-infinity'";
    home.run(connection, now, &[Value::int(next.id)]);
    batch_or_one(home, next.id, LAST_ROWS as usize).map_err(Error::Failed)?;
    if !next.has_at_most(0, home, connection) {
        return Ok(Outcome::Later);
    }
    // Within a part of a transaction that is another user's, nothing can be put off.
    connection.run(c"SET CONSTRAINTS ALL IMMEDIATE", &[]);
    // What triggers of the table do when the vectors are written is queued behind that.
    let both = [Value::int(old.id), Value::int(next.id)];
    for step in [
        "DELETE FROM {home}.vectorizer_log AS l WHERE l.vectorizer IN ($1, $2)",
        "DELETE FROM {home}.vectorizer_failure AS e WHERE e.vectorizer = $1 AND $2 <> $1",
        "UPDATE {home}.vectorizer_failure AS e SET vectorizer = $1 WHERE e.vectorizer = $2",
    ] {
        home.run(connection, step, &both);
    }
    let from = Table::open(from)?;
    let source = Source::of(home, connection, &table)?;
    let vectors = Move { source, from: &from, next, dimensions };
    let stale = match old.place.table() {
        None => {
            vectors.to_column(old.id, old.place.column())?;
            index::of_vectors(home, connection, &table, old.place.column())
        }
        Some(chunks) => {
            let chunks = Table::open(chunks)?;
            vectors.to_chunks(old.id, &chunks)?;
            index::of_vectors(home, connection, &chunks, EMBEDDING)
        }
    };
    let update = "UPDATE {home}.vectorizer AS v SET sources = n.sources, chunk = n.chunk, model = n.model, model_hash = n.model_hash,
            stale_indexes = $3, failed_at = NULL, sqlstate = NULL, error = NULL, not_before = '-infinity'
        FROM {home}.vectorizer AS n WHERE v.id = $1 AND n.id = $2";
    home.run(connection, update, &[both[0], both[1], stale]);
    next.forget(home, connection);
    watch::changed(table.oid);
    Ok(Outcome::Done(old.id))
}

/// Vectors on their way to where they are to be.
struct Move<'a> {
    source: Source<'a>,
    /// Where they are.
    from: &'a Table,
    /// The vectorizer that has made them.
    next: &'a Vectorizer,
    dimensions: usize,
}

impl Move<'_> {
    /// Sets a column to them; NULL where there is none. Queues for the vectorizer `id` the rows that have text and no vector.
    fn to_column(&self, id: i32, target: &CStr) -> Result<(), Error> {
        let Source { connection, table, .. } = self.source;
        self.set_dimensions(table, target)?;
        let (column, on) = (quoted(target), self.is_of_row());
        let parts =
            [("table", table.sql.as_slice()), ("from", &self.from.sql), ("column", &column), ("on", &on)];
        let rows = "t.{column} IS NOT NULL OR EXISTS (SELECT FROM {from} AS n WHERE {on})";
        let count =
            statement(&format!("SELECT pg_catalog.count(*) FROM {{table}} AS t WHERE {rows}"), &parts);
        let set = "UPDATE {table} AS t SET {column} = (SELECT n.embedding FROM {from} AS n WHERE {on})";
        let set = statement(&format!("{set} WHERE {rows}"), &parts);
        let is_complete = as_user(table.owner, || {
            let wanted = connection.run(&count, &[]).first(1).map_or(0, |count| count.value() as u64);
            let _writing = Writing::begin();
            connection.run(&set, &[]).processed() == wanted
        });
        // A trigger has kept some from being written: they are to fail one by one.
        let missing = if is_complete {
            statement("{text} AND t.{column} IS NULL", &[("text", &self.has_text()), ("column", &column)])
        } else {
            c"true".to_owned()
        };
        self.source.queue_rows(id, missing.to_bytes());
        Ok(())
    }

    /// Puts them, with their chunks, in the place of those of a table. Queues rows that have text and no chunk.
    fn to_chunks(&self, id: i32, chunks: &Table) -> Result<(), Error> {
        let Source { home, connection, table, ref key } = self.source;
        if chunks.vector_column(EMBEDDING, home.function)?.is_other(self.dimensions) {
            chunks.lock_against_all(home, connection);
        }
        let columns: Vec<&CStr> =
            key.iter().map(|column| column.name.as_c_str()).chain(CHUNK_COLUMNS).collect();
        let list = joined(", ", &columns, |&column| quoted(column));
        let values = joined(", ", &columns, |&column| [b"n.".as_slice(), &quoted(column)].concat());
        let (on, of_chunk) = (self.is_of_row(), self.has_key_of_row());
        let parts = [
            ("chunks", chunks.sql.as_slice()),
            ("columns", &list),
            ("values", &values),
            ("from", &self.from.sql),
            ("source", &table.sql),
            ("on", &on),
            ("of chunk", &of_chunk),
            ("text", &self.has_text()),
        ];
        let run = |sql: &str| as_user(table.owner, || connection.run(&statement(sql, &parts), &[]));
        run("DELETE FROM {chunks}");
        self.set_dimensions(chunks, EMBEDDING)?;
        run("INSERT INTO {chunks} ({columns}) SELECT {values} FROM {from} AS n JOIN {source} AS t ON {on}");
        let missing = statement("{text} AND NOT EXISTS (SELECT FROM {chunks} AS n WHERE {of chunk})", &parts);
        self.source.queue_rows(id, missing.to_bytes());
        Ok(())
    }

    /// The condition that a row `t` of the source has text.
    fn has_text(&self) -> Vec<u8> {
        has_text(&self.next.sources)
    }

    /// The condition that a row of `n` has the key of a row `t` of the source.
    fn has_key_of_row(&self) -> Vec<u8> {
        joined(" AND ", &self.source.key, |column| column.equal_columns("n", "t"))
    }

    /// The condition that a row of `n` is that of a row `t` of the source. One that was deleted is not, nor is one that has come back
    /// without text, and so is not in the queue.
    fn is_of_row(&self) -> Vec<u8> {
        [&self.has_key_of_row(), b" AND ".as_slice(), &self.has_text()].concat()
    }

    /// Gives a column of vectors their dimensions, if those are fixed and differ; what is in it is gone then. The view of a table of
    /// chunks is made anew.
    fn set_dimensions(&self, table: &Table, column: &CStr) -> Result<(), Error> {
        let Source { home, connection, .. } = self.source;
        if !table.vector_column(column, home.function)?.is_other(self.dimensions) {
            return Ok(());
        }
        let is_source = table.oid == self.source.table.oid;
        let view = if is_source { None } else { chunks::view_of(home, connection, table) };
        let grants = "GRANT %1$s ON %2$s TO %3$s%4$s";
        let again = view.as_deref().map(|view| {
            (statement_for_view(home, connection, view), rights_of_view(home, connection, view, grants))
        });
        if let Some(view) = &view {
            home.ddl(connection, table, "DROP VIEW {view}", &[("view", view.to_bytes())]);
        }
        let (name, vector) = (quoted(column), chunks::vector_type(home, self.dimensions));
        let alter = "ALTER TABLE {table} ALTER COLUMN {column} TYPE {vector} USING CAST(NULL AS {vector})";
        home.ddl(connection, table, alter, &[("column", &name), ("vector", &vector)]);
        if let (Some((create, grants)), Some(view)) = (again, &view) {
            let run = |sql: &CStr| home.ddl(connection, table, "{sql}", &[("sql", sql.to_bytes())]);
            run(&create);
            // Default privileges may have given away more than there was.
            let revokes = rights_of_view(home, connection, view, "REVOKE ALL ON %2$s FROM %3$s");
            revokes.iter().chain(&grants).for_each(|sql| run(sql));
        }
        Ok(())
    }
}

/// What makes a view anew, with its options.
fn statement_for_view(home: &Home, connection: &Connection, view: &CStr) -> CString {
    let create =
        "SELECT 'CREATE VIEW ' || $1 || coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '')
        || ' AS ' || pg_get_viewdef(c.oid) FROM pg_class AS c WHERE c.oid = $1::regclass";
    home.run(connection, create, &[Value::text(view)]).text(0, 1).unwrap_or_default()
}

/// For each right that others than the owner have on a view, a statement with it, the view, the role, and whether that may pass it on.
fn rights_of_view(home: &Home, connection: &Connection, view: &CStr, sql: &str) -> Vec<CString> {
    let find = format!(
        "SELECT format('{sql}', a.privilege_type, $1,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class AS c, aclexplode(c.relacl) AS a WHERE c.oid = $1::regclass AND a.grantee <> c.relowner"
    );
    let rows = home.run(connection, &find, &[Value::text(view)]);
    (0..rows.len()).filter_map(|row| rows.text(row, 1)).collect()
}
