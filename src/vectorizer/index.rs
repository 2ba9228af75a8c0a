//! Indexes of a vectorizer's vectors: the one that it makes, and those that are there when its model changes.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::catalog;
use super::home::Home;
use super::table::Table;
use crate::spi::{
    Connection, Failure, SAFE_PATH, Value, as_user, in_subtransaction, quoted, statement, under,
};

/// Makes an index of the vectors in a column, as its table's owner. `table` and `column` are quoted.
pub fn make(home: &Home, connection: &Connection, table: &[u8], column: &[u8]) {
    let parts = [("table", table), ("column", column), ("home", home.schema.as_slice())];
    let create = statement("CREATE INDEX ON {table} USING ivf ({column} {home}.vector_cosine_ops)", &parts);
    under(&[SAFE_PATH], || connection.run(&create, &[]));
}

/// Trains the index of a table of chunks anew when it has grown to four times what it was trained on, as it was made for an empty
/// table. Only workers write there; searches wait meanwhile, a second for 100,000 chunks.
pub fn keep_in_shape(home: &Home, id: i32) {
    let connection = Connection::open();
    let find = "SELECT i.indexrelid, i.indrelid
        FROM {home}.vectorizer AS v
            JOIN pg_index AS i ON i.indrelid = v.destination
            JOIN pg_class AS c ON c.oid = i.indexrelid AND c.relkind = 'i'
            JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'ivf'
            JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                AND a.attname = 'embedding',
            LATERAL {home}.ivf_info(i.indexrelid) AS f
        WHERE v.id = $1 AND v.index AND f.rows > 4 * greatest(f.trained_rows, 250)
            AND NOT EXISTS (SELECT FROM {home}.vectorizer_log AS l WHERE l.vectorizer = v.id)";
    let found = home.run(&connection, find, &[Value::int(id)]);
    for row in 0..found.len() {
        let (Some(index), Some(table)) = (found.datum(row, 1), found.datum(row, 2)) else { continue };
        let (index, table) =
            (pg_sys::Oid::from(index.value() as u32), pg_sys::Oid::from(table.value() as u32));
        let Some((owner, name)) = described(home, &connection, index, table) else { continue };
        let _ = reindex(&connection, owner, &name);
    }
}

/// Builds an index anew. If others use the table, another time will do.
fn reindex(connection: &Connection, owner: pg_sys::Oid, name: &[u8]) -> Result<(), Failure> {
    let reindex = statement("REINDEX INDEX {name}", &[("name", name)]);
    in_subtransaction(|| {
        as_user(owner, || under(&[SAFE_PATH, (c"lock_timeout", c"100ms")], || connection.run(&reindex, &[])));
    })
}

/// The indexes that have to do with a column of vectors, also those of partitions: a list of numbers.
pub fn of_vectors(home: &Home, connection: &Connection, table: &Table, column: &CStr) -> Value {
    let find = "SELECT c.oid
        FROM (SELECT $1 AS oid UNION SELECT p.relid::oid FROM pg_partition_tree($1) AS p) AS r
            JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attname = $2
            JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                AND d.refobjid = r.oid AND d.refobjsubid = a.attnum
            JOIN pg_class AS c ON c.oid = d.objid AND c.relkind = 'i'
        GROUP BY c.oid";
    let rows = home.run(connection, find, &[Value::oid(table.oid), Value::text(column)]);
    let mut indexes: Vec<_> = (0..rows.len()).filter_map(|row| rows.datum(row, 1)).collect();
    Value::array(pg_sys::OIDOID, &mut indexes)
}

/// Builds one of the indexes anew that have learnt from another model's vectors. Returns whether there is another one to do now.
pub fn rebuild(home: &Home, id: i32) -> bool {
    let connection = Connection::open();
    let find =
        "SELECT s.oid, i.indrelid FROM {home}.vectorizer AS v CROSS JOIN unnest(v.stale_indexes) AS s (oid)
        LEFT JOIN pg_index AS i ON i.indexrelid = s.oid AND (i.indrelid IN (v.relation, v.destination)
            OR i.indrelid IN (SELECT p.relid FROM pg_partition_tree(v.relation) AS p)) WHERE v.id = $1";
    let found = home.run(&connection, find, &[Value::int(id)]);
    for row in 0..found.len() {
        let Some(index) = found.datum(row, 1).map(|oid| pg_sys::Oid::from(oid.value() as u32)) else {
            continue;
        };
        let table = found.datum(row, 2).map(|oid| pg_sys::Oid::from(oid.value() as u32));
        let described = table.and_then(|table| described(home, &connection, index, table));
        let is_done = match &described {
            // Its owner has dropped it, or the number is one of the server that this database was restored from.
            None => true,
            Some((owner, name)) => match reindex(&connection, *owner, name) {
                Ok(()) => true,
                Err(failure) => !failure.is_about_a_lock(),
            },
        };
        if is_done {
            let update = "UPDATE {home}.vectorizer AS v SET stale_indexes = array_remove(v.stale_indexes, $2) WHERE v.id = $1";
            home.run(&connection, update, &[Value::int(id), Value::oid(index)]);
            return found.len() > 1;
        }
    }
    if !found.is_empty() {
        catalog::postpone(home, id);
    }
    false
}

/// The owner of a table, and the name of its index as SQL has it.
fn described(
    home: &Home,
    connection: &Connection,
    index: pg_sys::Oid,
    table: pg_sys::Oid,
) -> Option<(pg_sys::Oid, Vec<u8>)> {
    let find = "SELECT t.relowner, n.nspname, c.relname FROM pg_class AS c, pg_namespace AS n, pg_class AS t
        WHERE c.oid = $1 AND n.oid = c.relnamespace AND t.oid = $2";
    let rows = home.run(connection, find, &[Value::oid(index), Value::oid(table)]);
    let owner = pg_sys::Oid::from(rows.first(1)?.value() as u32);
    let names: Vec<Vec<u8>> =
        [2, 3].into_iter().filter_map(|column| Some(quoted(&rows.text(0, column)?))).collect();
    Some((owner, names.join(b".".as_slice())))
}
