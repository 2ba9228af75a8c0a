//! The index that a vectorizer has made for its vectors.

use pgrx::pg_sys;

use super::home::Home;
use crate::spi::{Connection, SAFE_PATH, Value, as_user, in_subtransaction, quoted, statement, under};

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
        let reindex = statement("REINDEX INDEX {name}", &[("name", &name)]);
        // If others use the table, another time will do.
        let _ = in_subtransaction(|| {
            as_user(owner, || {
                under(&[SAFE_PATH, (c"lock_timeout", c"100ms")], || connection.run(&reindex, &[]))
            })
        });
    }
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
