//! The statements of a batch.

use std::ffi::{CStr, CString};

use super::catalog::{Place, Vectorizer};
use super::chunks::CHUNK_COLUMNS;
use super::source::KeyColumn;
use super::table::Table;
use crate::error::Error;
use crate::spi::{joined, quoted, statement};

/// In the database's encoding. `$1`, `$2`, ... of all but those that write to a column are lists of the key's columns.
pub struct Statements {
    /// Of each row, in the order of the keys: which key, where it is, its text.
    pub read: CString,
    /// The same, locking the rows that nobody else has locked.
    pub lock: CString,
    /// Into a column: to set vectors and to clear them. Elsewhere: to delete what a row has, and to insert what it is to have.
    pub write: [CString; 2],
}

impl Statements {
    pub fn new(table: &Table, key: &[KeyColumn], vectorizer: &Vectorizer) -> Result<Statements, Error> {
        let (lists, names) = (lists(key.len()), aliases(key.len()));
        let on = matches(key, "t");
        let sources =
            joined(", ", &vectorizer.sources, |source| [b"t.".as_slice(), &quoted(source)].concat());
        let parts = [
            ("table", table.sql.as_slice()),
            ("lists", lists.as_bytes()),
            ("names", names.as_bytes()),
            ("match", &on),
            ("sources", &sources),
        ];
        const READ: &str = "SELECT k.n, t.tableoid, t.ctid, pg_catalog.concat_ws(E'\\n', {sources})
            FROM ROWS FROM ({lists}) WITH ORDINALITY AS k ({names}, n) JOIN {table} AS t ON {match}";
        let write = match &vectorizer.place {
            Place::Column(target) => into_column(table, target),
            Place::Chunks { table, .. } => elsewhere(&Table::open(*table)?, key, &CHUNK_COLUMNS),
            Place::Beside(table) => elsewhere(&Table::open(*table)?, key, &[vectorizer.place.column()]),
        };
        Ok(Statements {
            read: statement(&format!("{READ} ORDER BY k.n"), &parts),
            lock: statement(&format!("{READ} FOR NO KEY UPDATE OF t SKIP LOCKED"), &parts),
            write,
        })
    }
}

fn into_column(table: &Table, target: &CStr) -> [CString; 2] {
    let quoted_target = quoted(target);
    let parts = [("table", table.sql.as_slice()), ("target", quoted_target.as_slice())];
    let clear = statement(
        "UPDATE {table} AS t SET {target} = NULL
        FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS v (tableoid, address)
        WHERE t.ctid OPERATOR(pg_catalog.=) v.address AND t.tableoid OPERATOR(pg_catalog.=) v.tableoid
            AND t.{target} IS NOT NULL",
        &parts,
    );
    [table.statement_to_set(target), clear]
}

/// Into a table that has the key's columns, and others.
fn elsewhere(table: &Table, key: &[KeyColumn], others: &[&CStr]) -> [CString; 2] {
    let columns = joined(", ", key, |column| quoted(&column.name));
    let numbered: Vec<(usize, &KeyColumn)> = (1..).zip(key).collect();
    let values = joined(", ", &numbered, |(i, column)| column.cast(&format!("k.k{i}")));
    let names = joined(", ", others, |name| name.to_bytes().to_vec());
    let (of_key, all) = (lists(key.len()), lists(key.len() + others.len()));
    let (aliases, on) = (aliases(key.len()), matches(key, "c"));
    let parts = [
        ("table", table.sql.as_slice()),
        ("lists", of_key.as_bytes()),
        ("all", all.as_bytes()),
        ("aliases", aliases.as_bytes()),
        ("columns", &columns),
        ("values", &values),
        ("others", &names),
        ("match", &on),
    ];
    [
        statement(
            "DELETE FROM {table} AS c USING ROWS FROM ({lists}) AS k ({aliases}) WHERE {match}",
            &parts,
        ),
        // The names of the others are no columns of the key.
        statement(
            "INSERT INTO {table} ({columns}, {others}) SELECT {values}, {others}
            FROM ROWS FROM ({all}) AS k ({aliases}, {others})",
            &parts,
        ),
    ]
}

/// As many lists: the arguments from `$1` on.
fn lists(count: usize) -> String {
    let lists: Vec<String> = (1..=count).map(|i| format!("pg_catalog.unnest(${i})")).collect();
    lists.join(", ")
}

/// What the columns of the key are called in the lists.
fn aliases(count: usize) -> String {
    let aliases: Vec<String> = (1..=count).map(|i| format!("k{i}")).collect();
    aliases.join(", ")
}

/// The condition that a row of `alias` has a key of the lists.
fn matches(key: &[KeyColumn], alias: &str) -> Vec<u8> {
    let numbered: Vec<(usize, &KeyColumn)> = (1..).zip(key).collect();
    joined(" AND ", &numbered, |(i, column)| column.condition(alias, &format!("k.k{i}")))
}
