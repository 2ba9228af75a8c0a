//! The end of a change of model: the next vectors take the place of those that are there, in one transaction. Searches see the old ones
//! before its commit and the new ones after it, and wait only while indexes are built anew. Writers wait from the last batch on.

use std::ffi::{CStr, CString};

use super::catalog::{EMBEDDING, Place, Vectorizer};
use super::chunks::{self, CHUNK_COLUMNS};
use super::fill::has_text;
use super::home::Home;
use super::run::{Writing, batch_or_one};
use super::source::Source;
use super::table::Table;
use super::watch;
use crate::embed::models;
use crate::error::{Error, OrRaise};
use crate::spi::{Connection, Failure, Value, in_subtransaction, joined, quoted, under};

/// Rows that are embedded while writers wait, so that those who write all the time do not put off the end for ever. With the
/// batch's own limit that is three seconds at most.
const LAST_ROWS: i32 = 64;

/// For a lock, as others wait behind it: less than the second after which Postgres looks for those who wait for each other, so that
/// nobody else's transaction is ended for that.
const WAIT: (&CStr, &CStr) = (c"lock_timeout", c"500ms");

/// Lets a vectorizer take the place of the one that it is to replace, if it replaces one, and all is embedded, or nearly all.
///
/// # Errors
/// What stands in the way. It is to be noted in the vectorizer, which is tried again later.
pub fn if_done(home: &Home, id: i32) -> Result<(), Failure> {
    in_subtransaction(|| {
        let connection = Connection::open();
        let Some(next) = Vectorizer::by_id(home, &connection, id) else { return };
        if next.replaces.is_some() && next.has_at_most(LAST_ROWS, home, &connection) {
            under(&[WAIT], || swap(home, &connection, &next)).or_raise();
        }
    })
}

fn swap(home: &Home, connection: &Connection, next: &Vectorizer) -> Result<(), Error> {
    let (Some(old), Some(from)) = (next.replaces, next.place.table()) else { return Ok(()) };
    let Some(old) = Vectorizer::by_id(home, connection, old) else { return Ok(()) };
    let Some(table) = Table::if_exists(old.relation) else { return Ok(()) };
    table.lock_against_writers(home, connection);
    // From here on nothing is queued, and nobody else is at work on either of the two.
    if Vectorizer::by_id(home, connection, next.id).is_none()
        || !next.has_at_most(LAST_ROWS, home, connection)
    {
        return Ok(());
    }
    // Nobody has locked a row any more to write to it.
    let now = "UPDATE {home}.vectorizer_log AS l SET not_before = '-infinity' WHERE l.vectorizer = $1 AND l.not_before > '-infinity'";
    home.run(connection, now, &[Value::int(next.id)]);
    batch_or_one(home, next.id, LAST_ROWS as usize).map_err(Error::Failed)?;
    if !next.has_at_most(0, home, connection) {
        return Ok(());
    }
    // Within a part of a transaction that is another user's, nothing can be put off.
    connection.run(c"SET CONSTRAINTS ALL IMMEDIATE", &[]);
    let from = Table::open(from)?;
    let source = Source::of(home, connection, &table)?;
    let move_it =
        Move { source, from: &from, sources: &next.sources, dimensions: models::dimensions(&next.model)? };
    match &old.place {
        Place::Column(target) => move_it.to_column(target)?,
        Place::Chunks { table: chunks, .. } => move_it.to_chunks(&Table::open(*chunks)?)?,
        Place::Beside(_) => return Ok(()),
    }
    let steps = [
        "UPDATE {home}.vectorizer AS v SET sources = n.sources, chunk = n.chunk, model = n.model, model_hash = n.model_hash,
            failed_at = NULL, sqlstate = NULL, error = NULL, not_before = '-infinity'
        FROM {home}.vectorizer AS n WHERE v.id = $1 AND n.id = $2",
        "DELETE FROM {home}.vectorizer_log AS l WHERE l.vectorizer = $1 AND $2 <> $1",
        "DELETE FROM {home}.vectorizer_failure AS e WHERE e.vectorizer = $1 AND $2 <> $1",
        "UPDATE {home}.vectorizer_failure AS e SET vectorizer = $1 WHERE e.vectorizer = $2",
    ];
    for step in steps {
        home.run(connection, step, &[Value::int(old.id), Value::int(next.id)]);
    }
    next.forget(home, connection);
    home.ddl(connection, &from, "DROP TABLE {table}", &[]);
    watch::changed(table.oid);
    Ok(())
}

/// Vectors on their way to where they are to be.
struct Move<'a> {
    source: Source<'a>,
    /// Where they are.
    from: &'a Table,
    /// The columns that they are made of.
    sources: &'a [CString],
    dimensions: usize,
}

impl Move<'_> {
    /// Sets a column to them; NULL where there is none.
    fn to_column(&self, target: &CStr) -> Result<(), Error> {
        let Source { home, connection, table, .. } = self.source;
        table.wait_for_readers();
        self.set_dimensions(table, target)?;
        let (column, on) = (quoted(target), self.is_of_row());
        let parts = [("from", self.from.sql.as_slice()), ("column", &column), ("on", &on)];
        let update = "UPDATE {table} AS t SET {column} = (SELECT n.embedding FROM {from} AS n WHERE {on})
            WHERE t.{column} IS NOT NULL OR EXISTS (SELECT FROM {from} AS n WHERE {on})";
        let writing = Writing::begin();
        home.ddl(connection, table, update, &parts);
        drop(writing);
        self.reindex(table, target);
        Ok(())
    }

    /// Puts them, with their chunks, in the place of those of a table.
    fn to_chunks(&self, chunks: &Table) -> Result<(), Error> {
        let Source { home, connection, table, ref key } = self.source;
        let run = |sql: &str, parts: &[(&str, &[u8])]| home.ddl(connection, chunks, sql, parts);
        chunks.wait_for_readers();
        run("DELETE FROM {table}", &[]);
        self.set_dimensions(chunks, EMBEDDING)?;
        let columns: Vec<&CStr> =
            key.iter().map(|column| column.name.as_c_str()).chain(CHUNK_COLUMNS).collect();
        let list = joined(", ", &columns, |&column| quoted(column));
        let values = joined(", ", &columns, |&column| [b"n.".as_slice(), &quoted(column)].concat());
        let on = self.is_of_row();
        let parts = [
            ("columns", list.as_slice()),
            ("values", &values),
            ("from", &self.from.sql),
            ("source", &table.sql),
            ("on", &on),
        ];
        run(
            "INSERT INTO {table} ({columns}) SELECT {values} FROM {from} AS n JOIN {source} AS t ON {on}",
            &parts,
        );
        self.reindex(chunks, EMBEDDING);
        Ok(())
    }

    /// The condition that a row of `n` is that of a row `t` of the source. One that was deleted is not, nor is one that has come back
    /// without text, and so is not in the queue.
    fn is_of_row(&self) -> Vec<u8> {
        let on = joined(" AND ", &self.source.key, |column| column.equal_columns("n", "t"));
        [&on, b" AND ".as_slice(), &has_text(self.sources)].concat()
    }

    /// Gives a column of vectors their dimensions, if those are fixed and differ; what is in it is gone then. The view of a table of
    /// chunks is made anew.
    fn set_dimensions(&self, table: &Table, column: &CStr) -> Result<(), Error> {
        let Source { home, connection, .. } = self.source;
        let now = table.vector_column(column, home.function)?.dimensions;
        if now.is_none_or(|now| now == self.dimensions) {
            return Ok(());
        }
        let is_source = table.oid == self.source.table.oid;
        let view = if is_source { None } else { chunks::view_of(home, connection, table) };
        let again = view.as_deref().map(|view| statements_for_view(home, connection, view));
        if let Some(view) = &view {
            home.ddl(connection, table, "DROP VIEW {view}", &[("view", view.to_bytes())]);
        }
        let (name, vector) = (quoted(column), chunks::vector_type(home, self.dimensions));
        let alter = "ALTER TABLE {table} ALTER COLUMN {column} TYPE {vector} USING CAST(NULL AS {vector})";
        home.ddl(connection, table, alter, &[("column", &name), ("vector", &vector)]);
        for sql in again.unwrap_or_default() {
            home.ddl(connection, table, "{sql}", &[("sql", sql.to_bytes())]);
        }
        Ok(())
    }

    /// Builds anew the indexes that have to do with a column: what they have learnt is about other vectors.
    fn reindex(&self, table: &Table, column: &CStr) {
        let Source { home, connection, .. } = self.source;
        let find = "SELECT format('%I.%I', n.nspname, c.relname)
            FROM (SELECT DISTINCT d.objid AS oid FROM pg_depend AS d JOIN pg_attribute AS a
                    ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid = $1 AND a.attname = $2) AS i
                LEFT JOIN LATERAL pg_partition_tree(i.oid) AS p ON p.isleaf
                JOIN pg_class AS c ON c.oid = coalesce(p.relid, i.oid) AND c.relkind = 'i'
                JOIN pg_namespace AS n ON n.oid = c.relnamespace";
        let rows = home.run(connection, find, &[Value::oid(table.oid), Value::text(column)]);
        let names: Vec<CString> = (0..rows.len()).filter_map(|row| rows.text(row, 1)).collect();
        if !names.is_empty() {
            // Whoever plans a query locks all indexes of a table: he waits here, and not for one of them with another one locked.
            table.lock_against_all(home, connection);
        }
        for name in names {
            home.ddl(connection, table, "REINDEX INDEX {name}", &[("name", name.to_bytes())]);
        }
    }
}

/// What makes a view anew, with its options, and who may do what with it.
fn statements_for_view(home: &Home, connection: &Connection, view: &CStr) -> Vec<CString> {
    let find =
        "SELECT 'CREATE VIEW ' || $1 || coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '')
            || ' AS ' || pg_get_viewdef(c.oid) FROM pg_class AS c WHERE c.oid = $1::regclass
        UNION ALL
        SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, $1,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class AS c, aclexplode(c.relacl) AS a WHERE c.oid = $1::regclass AND a.grantee <> c.relowner";
    let rows = home.run(connection, find, &[Value::text(view)]);
    (0..rows.len()).filter_map(|row| rows.text(row, 1)).collect()
}
