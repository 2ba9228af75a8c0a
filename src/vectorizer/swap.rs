//! The end of a change of model: the next vectors take the place of those that are there, in one transaction. Searches see the old ones
//! before its commit and the new ones after it, and wait only while indexes are built anew. Writers wait.

use std::ffi::{CStr, CString};

use super::catalog::{Place, Vectorizer};
use super::chunks::{self, CHUNK_COLUMNS};
use super::fill::has_text;
use super::home::Home;
use super::run::{Writing, exists};
use super::source::Source;
use super::table::Table;
use super::watch;
use crate::embed::models;
use crate::error::{Error, OrRaise};
use crate::spi::{Connection, Failure, Value, in_subtransaction, joined, quoted};

/// Lets a vectorizer take the place of the one that it is to replace, if it replaces one, and all is embedded.
///
/// # Errors
/// What stands in the way. It is to be noted in the vectorizer, which is tried again later.
pub fn if_done(home: &Home, id: i32) -> Result<(), Failure> {
    in_subtransaction(|| {
        let connection = Connection::open();
        let next = Vectorizer::by_id(home, &connection, id);
        let Some(next) = next.filter(|next| next.replaces.is_some() && exists(next.relation)) else { return };
        if next.is_done(home, &connection) {
            swap(home, &connection, &next).or_raise();
        }
    })
}

fn swap(home: &Home, connection: &Connection, next: &Vectorizer) -> Result<(), Error> {
    let (Some(old), Some(from)) = (next.replaces, next.place.table()) else { return Ok(()) };
    let Some(old) = Vectorizer::by_id(home, connection, old) else { return Ok(()) };
    let table = Table::open(old.relation)?;
    table.lock_against_writers(home, connection);
    // From here on nothing is queued, and nobody else is at work on either of the two.
    if Vectorizer::by_id(home, connection, next.id).is_none() || !next.is_done(home, connection) {
        return Ok(());
    }
    // Within a part of a transaction that is another user's, nothing can be put off.
    connection.run(c"SET CONSTRAINTS ALL IMMEDIATE", &[]);
    let from = Table::open(from)?;
    let source = Source::of(home, connection, &table)?;
    let dimensions = models::dimensions(&next.model)?;
    match &old.place {
        Place::Column(target) => to_column(&source, &from, target, &next.sources, dimensions)?,
        Place::Chunks { table: chunks, .. } => to_chunks(&source, &from, &Table::open(*chunks)?, dimensions)?,
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

/// Sets a column to the vectors of another table; NULL where that has none.
fn to_column(
    source: &Source,
    from: &Table,
    target: &CStr,
    sources: &[CString],
    dimensions: usize,
) -> Result<(), Error> {
    set_dimensions(source, source.table, target, dimensions)?;
    let column = quoted(target);
    let on = joined(" AND ", &source.key, |column| column.equal_columns("n", "t"));
    // A row that was deleted and came back without text is not in the queue.
    let has_text = has_text(sources);
    let parts = [("from", from.sql.as_slice()), ("column", &column), ("on", &on), ("has_text", &has_text)];
    let update = "UPDATE {table} AS t SET {column} = (SELECT n.embedding FROM {from} AS n WHERE {on} AND {has_text})
        WHERE t.{column} IS NOT NULL OR EXISTS (SELECT FROM {from} AS n WHERE {on} AND {has_text})";
    let writing = Writing::begin();
    source.home.ddl(source.connection, source.table, update, &parts);
    drop(writing);
    reindex(source, source.table, target);
    Ok(())
}

/// Puts the chunks of another table in the place of those of a table.
fn to_chunks(source: &Source, from: &Table, chunks: &Table, dimensions: usize) -> Result<(), Error> {
    let run = |sql: &str, parts: &[(&str, &[u8])]| source.home.ddl(source.connection, chunks, sql, parts);
    run("DELETE FROM {table}", &[]);
    set_dimensions(source, chunks, super::catalog::EMBEDDING, dimensions)?;
    let key = joined(", ", &source.key, |column| quoted(&column.name));
    let others = joined(", ", &CHUNK_COLUMNS, |column| column.to_bytes().to_vec());
    let insert = "INSERT INTO {table} ({key}, {others}) SELECT {key}, {others} FROM {from}";
    run(insert, &[("key", &key), ("others", &others), ("from", &from.sql)]);
    reindex(source, chunks, super::catalog::EMBEDDING);
    Ok(())
}

/// Gives a column of vectors other dimensions, where they are fixed and differ; what is in it is gone then. The view of a table of
/// chunks is made anew.
fn set_dimensions(source: &Source, table: &Table, column: &CStr, dimensions: usize) -> Result<(), Error> {
    let Source { home, connection, .. } = source;
    if table.vector_column(column, home.function)?.dimensions.is_none_or(|now| now == dimensions) {
        return Ok(());
    }
    let view = (table.oid != source.table.oid).then(|| chunks::view_of(home, connection, table)).flatten();
    let again = view.as_deref().map(|view| statements_for_view(home, connection, view));
    if let Some(view) = &view {
        home.ddl(connection, table, "DROP VIEW {view}", &[("view", view.to_bytes())]);
    }
    let (name, vector) = (quoted(column), chunks::vector_type(home, dimensions));
    home.ddl(
        connection,
        table,
        "ALTER TABLE {table} ALTER COLUMN {column} TYPE {vector} USING CAST(NULL AS {vector})",
        &[("column", &name), ("vector", &vector)],
    );
    for sql in again.unwrap_or_default() {
        home.ddl(connection, table, "{sql}", &[("sql", sql.to_bytes())]);
    }
    Ok(())
}

/// What makes a view anew, with its options, and who may do what with it.
fn statements_for_view(home: &Home, connection: &Connection, view: &CStr) -> Vec<CString> {
    let find = "SELECT 'CREATE VIEW ' || $1 || coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '')
            || ' AS ' || pg_get_viewdef(c.oid) FROM pg_class AS c WHERE c.oid = $1::regclass
        UNION ALL
        SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, $1,
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class AS c, aclexplode(c.relacl) AS a WHERE c.oid = $1::regclass AND a.grantee <> c.relowner";
    let rows = home.run(connection, find, &[Value::text(view)]);
    (0..rows.len()).filter_map(|row| rows.text(row, 1)).collect()
}

/// Builds anew the indexes that have to do with a column: what they have learnt is about other vectors.
fn reindex(source: &Source, table: &Table, column: &CStr) {
    let Source { home, connection, .. } = source;
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
    for name in names {
        home.ddl(connection, table, "REINDEX INDEX {name}", &[("name", name.to_bytes())]);
    }
}
