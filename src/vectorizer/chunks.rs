//! Tables that a vectorizer makes: that of its chunks with a view that joins it to the source, and the one that keeps the vectors of
//! another model until they take the place of those in a column.

use std::ffi::{CStr, CString};

use embedder::chunk::Format;
use pgrx::pg_sys;

use super::catalog::EMBEDDING;
use super::home::Home;
use super::source::Source;
use super::table::{Table, type_sql};
use crate::error::{Error, PipelineError, quotable};
use crate::spi::{Connection, Value, joined, quoted};

/// What a table of chunks has beside the key of the source.
pub const CHUNK_COLUMNS: [&CStr; 5] = [c"ordinal", c"content", c"start_offset", c"end_offset", EMBEDDING];

// What tables have beside the key's columns.
const CHUNKS: &str = "ordinal pg_catalog.int4 NOT NULL, content pg_catalog.text NOT NULL,
    start_offset pg_catalog.int4 NOT NULL, end_offset pg_catalog.int4 NOT NULL, embedding {vector} NOT NULL,
    PRIMARY KEY ({columns}, ordinal)";
const VECTORS: &str = "embedding {vector} NOT NULL, PRIMARY KEY ({columns})";
const OF_SOURCE: &str =
    "FOREIGN KEY ({columns}) REFERENCES {table} ({columns}) ON DELETE CASCADE ON UPDATE CASCADE";

impl Source<'_> {
    /// Makes a table of chunks, whose rows go with those of the source. `name`: quoted, with its schema.
    ///
    /// # Errors
    /// [`PipelineError::ReservedColumn`].
    pub fn make_chunks(&self, name: &[u8], dimensions: usize) -> Result<(), Error> {
        for column in &self.key {
            if CHUNK_COLUMNS.contains(&column.name.as_c_str()) {
                return Err(PipelineError::ReservedColumn { column: quotable(&column.name) }.into());
            }
        }
        self.make(name, dimensions, &[CHUNKS, OF_SOURCE].join(", "));
        Ok(())
    }

    /// Makes a table of chunks or of a vector for each row, for as long as a model is being changed. It knows nothing of the source: a
    /// foreign key would keep that from being truncated, and those who read it from reading when the table is dropped.
    pub fn make_next(&self, name: &[u8], dimensions: usize, of_chunks: bool) {
        self.make(name, dimensions, if of_chunks { CHUNKS } else { VECTORS });
    }

    fn make(&self, name: &[u8], dimensions: usize, more: &str) {
        let definitions = joined(", ", &self.key, |column| {
            [&quoted(&column.name), b" ".as_slice(), &column.type_sql, &column.collation(), b" NOT NULL"]
                .concat()
        });
        let columns = joined(", ", &self.key, |column| quoted(&column.name));
        let vector = vector_type(self.home, dimensions);
        let parts = [
            ("name", name),
            ("definitions", definitions.as_slice()),
            ("columns", &columns),
            ("vector", &vector),
        ];
        let create = format!("CREATE TABLE {{name}} ({{definitions}}, {more})");
        self.home.ddl(self.connection, self.table, &create, &parts);
    }

    /// Makes the view of the rows with their chunks.
    pub fn make_view(&self, view: &[u8], chunks: &[u8]) {
        let own = self.table.columns();
        let shown = joined(", ", &CHUNK_COLUMNS, |&column| {
            let is_taken = own.iter().any(|name| name.as_c_str() == column);
            let alias = if is_taken { b"chunk_".as_slice() } else { b"" };
            [b"c.".as_slice(), column.to_bytes(), b" AS ", alias, column.to_bytes()].concat()
        });
        let on = joined(" AND ", &self.key, |column| column.equal_columns("s", "c"));
        let parts = [("view", view), ("chunks", chunks), ("shown", &shown), ("on", &on)];
        self.home.ddl(
            self.connection,
            self.table,
            "CREATE VIEW {view} AS SELECT s.*, {shown} FROM {table} AS s JOIN {chunks} AS c ON {on}",
            &parts,
        );
    }

    /// The names of a table of chunks that a user has named and of its view, with their schema: the source's, if none is named.
    pub fn names(&self, destination: &CStr) -> [Vec<u8>; 2] {
        let parse = "SELECT format('%I.%I', schema, name), format('%I.%I', schema, left(name, 58) || '_view')
            FROM (SELECT i[cardinality(i)] AS name,
                    CASE WHEN cardinality(i) > 1 THEN i[1]
                        ELSE (SELECT n.nspname FROM pg_namespace AS n, pg_class AS c
                            WHERE c.oid = $2 AND n.oid = c.relnamespace) END AS schema
                FROM parse_ident($1) AS i) AS parsed";
        let arguments = [Value::text(destination), Value::oid(self.table.oid)];
        let rows = self.home.run(self.connection, parse, &arguments);
        [1, 2].map(|column| rows.text(0, column).unwrap_or_default().into_bytes())
    }
}

/// `vector(n)` as SQL has it.
pub fn vector_type(home: &Home, dimensions: usize) -> Vec<u8> {
    let name = type_sql(crate::embed::vector_type(home.function));
    [name, format!("({dimensions})").into_bytes()].concat()
}

/// The view that was made for a table of chunks, if it is there and belongs to the same role: its name as SQL has it.
pub fn view_of(home: &Home, connection: &Connection, chunks: &Table) -> Option<CString> {
    let find =
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c, pg_namespace AS n, pg_class AS d
        WHERE d.oid = $1 AND c.relname = left(d.relname, 58) || '_view' AND c.relkind = 'v'
            AND c.relnamespace = d.relnamespace AND n.oid = c.relnamespace AND c.relowner = d.relowner";
    let rows = home.run(connection, find, &[Value::oid(chunks.oid)]);
    if rows.is_empty() { None } else { rows.text(0, 1) }
}

/// Checks the sizes and the format of chunks, a jsonb.
///
/// # Errors
/// [`PipelineError::ChunkOption`]
pub fn check_options(
    home: &Home,
    connection: &Connection,
    chunk: Option<pg_sys::Datum>,
) -> Result<(), Error> {
    let wrong = "SELECT o.key, o.value FROM jsonb_each_text($1) AS o
        WHERE o.key NOT IN ('max_tokens', 'overlap', 'format')
            OR o.key = 'format' AND o.value <> ALL ($2)
            OR o.key IN ('max_tokens', 'overlap') AND o.value !~ '^[0-9]{1,9}$'";
    let formats = Format::NAMES.map(|(name, _)| CString::new(name).unwrap_or_default());
    let found = home.run(connection, wrong, &[Value::jsonb(chunk), Value::texts(&formats)]);
    if found.is_empty() {
        return Ok(());
    }
    let word = |column| found.text(0, column).map(|word| quotable(&word)).unwrap_or_default();
    Err(PipelineError::ChunkOption { name: word(1), value: word(2) }.into())
}
