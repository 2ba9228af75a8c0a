//! What a vectorizer is: a row of the extension's table `vectorizer`.

use std::ffi::{CStr, CString};
use std::time::Duration;

use embedder::chunk::{ChunkOptions, Format};
use pgrx::pg_sys;

use super::home::Home;
use super::table::{Table, owned_list};
use crate::embed::{models, text};
use crate::error::{Error, PipelineError, quotable};
use crate::spi::{Connection, Rows, Value, at_latest_snapshot};

pub struct Vectorizer {
    pub id: i32,
    pub name: CString,
    pub relation: pg_sys::Oid,
    pub sources: Vec<CString>,
    pub place: Place,
    pub model: String,
    /// Of the model that has made its vectors.
    pub model_hash: String,
    /// The vectorizer whose place it takes when all is embedded.
    pub replaces: Option<i32>,
    pub paused: bool,
}

/// Where its vectors are.
pub enum Place {
    /// In a column of the same table: that of the whole text.
    Column(CString),
    /// In a table with a row for each chunk.
    Chunks { table: pg_sys::Oid, options: ChunkOptions },
    /// In a table with a row for each row, until they take the place of those in a column.
    Beside(pg_sys::Oid),
}

impl Place {
    /// The table that the vectors are in, if it is not that of the texts.
    pub fn table(&self) -> Option<pg_sys::Oid> {
        match self {
            Place::Column(_) => None,
            Place::Chunks { table, .. } | Place::Beside(table) => Some(*table),
        }
    }

    /// The column that the vectors are in.
    pub fn column(&self) -> &CStr {
        match self {
            Place::Column(target) => target,
            Place::Chunks { .. } | Place::Beside(_) => EMBEDDING,
        }
    }
}

/// The column of vectors in a table of the extension's making.
pub const EMBEDDING: &CStr = c"embedding";

const COLUMNS: &str = "SELECT v.id, v.name, v.relation, v.sources, v.target, v.destination,
    (v.chunk ->> 'max_tokens')::int4,
    (v.chunk ->> 'overlap')::int4, v.chunk ->> 'format',
    v.model, v.model_hash, v.replaces, v.chunk, v.paused
    FROM {home}.vectorizer AS v WHERE ";

impl Vectorizer {
    /// `None`: it has been dropped.
    pub fn by_id(home: &Home, connection: &Connection, id: i32) -> Option<Vectorizer> {
        Vectorizer::read(home, connection, "v.id = $1", Value::int(id))
    }

    /// # Errors
    /// [`PipelineError::NoVectorizer`].
    pub fn by_name(home: &Home, connection: &Connection, name: &CStr) -> Result<Vectorizer, Error> {
        Vectorizer::read(home, connection, "v.name = $1", Value::text(name))
            .ok_or_else(|| PipelineError::NoVectorizer { name: quotable(name) }.into())
    }

    /// Likewise, as the statement that has called sees it.
    pub fn seen_by_name(home: &Home, connection: &Connection, name: &CStr) -> Result<Vectorizer, Error> {
        Vectorizer::of(home.look(connection, &[COLUMNS, "v.name = $1"].concat(), &[Value::text(name)]))
            .ok_or_else(|| PipelineError::NoVectorizer { name: quotable(name) }.into())
    }

    fn read(home: &Home, connection: &Connection, which: &str, argument: Value) -> Option<Vectorizer> {
        // As it is now, also at REPEATABLE READ.
        let sql = [COLUMNS, which].concat();
        Vectorizer::of(at_latest_snapshot(|| home.look(connection, &sql, &[argument])))
    }

    fn of(rows: Rows) -> Option<Vectorizer> {
        if rows.is_empty() {
            return None;
        }
        let number = |column| rows.datum(0, column).map(|datum| datum.value() as i32);
        let oid = |column| rows.datum(0, column).map(|datum| pg_sys::Oid::from(datum.value() as u32));
        let words = |column| rows.text(0, column);
        let utf8 = |column| words(column).map(|name| text::utf8(name.to_bytes()).into_owned());
        let table = oid(6).unwrap_or(pg_sys::InvalidOid);
        let place = match words(5) {
            Some(target) => Place::Column(target),
            None if rows.datum(0, 13).is_none() => Place::Beside(table),
            None => Place::Chunks {
                table,
                options: ChunkOptions {
                    max_tokens: number(7).map(|tokens| tokens as usize),
                    overlap: number(8).unwrap_or(0) as usize,
                    format: utf8(9).as_deref().and_then(Format::named).unwrap_or(Format::Plain),
                },
            },
        };
        Some(Vectorizer {
            id: number(1)?,
            name: words(2)?,
            relation: oid(3)?,
            // SAFETY: a text[] that is not NULL, as the table has it.
            sources: unsafe { owned_list(rows.datum(0, 4)?) },
            place,
            model: utf8(10)?,
            model_hash: utf8(11)?,
            replaces: number(12),
            paused: rows.datum(0, 14)?.value() != 0,
        })
    }

    /// The one that is to take its place, if its model is being changed.
    pub fn next(&self, home: &Home, connection: &Connection) -> Option<Vectorizer> {
        Vectorizer::read(home, connection, "v.replaces = $1", Value::int(self.id))
    }

    /// Opens the model that has made its vectors.
    ///
    /// # Errors
    /// [`PipelineError::ModelChanged`]: it has other files now.
    pub fn open_model(&self) -> Result<(), Error> {
        if models::open_version(&self.model, &self.model_hash)? {
            return Ok(());
        }
        let (name, model) = (quotable(&self.name), self.model.clone());
        Err(PipelineError::ModelChanged { name, model }.into())
    }

    /// Whether no more than so many rows wait to be looked at, and none that has failed once to be tried again.
    pub fn has_at_most(&self, rows: i32, home: &Home, connection: &Connection) -> bool {
        let more = "SELECT FROM {home}.vectorizer_log AS l WHERE l.vectorizer = $1
            HAVING sum(cardinality(l.keys) / l.key_columns) > $2
            UNION ALL
            SELECT FROM {home}.vectorizer_failure AS e WHERE e.vectorizer = $1 AND e.attempts = 1 LIMIT 1";
        home.run(connection, more, &[Value::int(self.id), Value::int(rows)]).is_empty()
    }

    /// Takes it out of the extension's tables, with the table of vectors that were to replace others. Whether it was there: a
    /// transaction may not see what others have made since it began.
    pub fn forget(&self, home: &Home, connection: &Connection) -> bool {
        for table in ["vectorizer_log", "vectorizer_failure", "vectorizer_activity"] {
            let sql = format!("DELETE FROM {{home}}.{table} AS t WHERE t.vectorizer = $1");
            home.run(connection, &sql, &[Value::int(self.id)]);
        }
        let vectors = self.place.table().filter(|_| self.replaces.is_some()).and_then(Table::if_exists);
        if let Some(vectors) = vectors {
            home.ddl(connection, &vectors, "DROP TABLE {table}", &[]);
        }
        let delete = "DELETE FROM {home}.vectorizer AS v WHERE v.id = $1";
        home.run(connection, delete, &[Value::int(self.id)]).processed() > 0
    }
}

/// Takes those out of the extension's tables whose own tables have been dropped.
pub fn forget_dropped(home: &Home, connection: &Connection) {
    let find = "SELECT v.id FROM {home}.vectorizer AS v WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = v.relation)";
    let rows = home.run(connection, find, &[]);
    for id in (0..rows.len()).filter_map(|row| rows.datum(row, 1)) {
        if let Some(dropped) = Vectorizer::by_id(home, connection, id.value() as i32) {
            dropped.forget(home, connection);
        }
    }
}

/// Lets one rest for two seconds.
pub fn postpone(home: &Home, id: i32) {
    let update = "UPDATE {home}.vectorizer AS v SET not_before = clock_timestamp() + interval '2 seconds' WHERE v.id = $1";
    home.run(&Connection::open(), update, &[Value::int(id)]);
}

/// What there is to do in a database.
pub struct Due {
    /// Vectorizers with rows that are due, least recently served first.
    pub vectorizers: Vec<i32>,
    /// When the next row is due that is not yet.
    pub next: Option<Duration>,
}

pub fn due(home: &Home) -> Due {
    let connection = Connection::open();
    // Of each vectorizer the moment from which on it has something to do.
    let sql = "SELECT v.id, CASE WHEN w.at <= clock_timestamp() THEN 0
            ELSE extract(epoch FROM w.at - clock_timestamp()) END::float8
        FROM (
            SELECT v.id, v.served_at, CASE WHEN c.oid IS NULL OR NOT v.paused AND EXISTS (
                    SELECT FROM {home}.vectorizer_log AS l
                    WHERE l.vectorizer = v.id AND l.not_before <= clock_timestamp()) THEN '-infinity'
                WHEN NOT v.paused AND v.stale_indexes <> '{}' THEN '-infinity'
                -- One that can take its place.
                WHEN NOT v.paused AND v.replaces IS NOT NULL AND NOT EXISTS (
                    SELECT FROM {home}.vectorizer_failure AS e WHERE e.vectorizer = v.id AND e.attempts = 1) THEN '-infinity'
                WHEN NOT v.paused THEN least(
                    (SELECT min(l.not_before) FROM {home}.vectorizer_log AS l WHERE l.vectorizer = v.id),
                    (SELECT min(e.not_before) FROM {home}.vectorizer_failure AS e WHERE e.vectorizer = v.id)) END AS at,
                CASE WHEN c.oid IS NULL THEN '-infinity' ELSE v.not_before END AS not_before
            FROM {home}.vectorizer AS v LEFT JOIN pg_class AS c ON c.oid = v.relation) AS v,
            greatest(v.at, v.not_before) AS w (at)
        WHERE v.at < 'infinity'
        ORDER BY 2, v.served_at";
    let rows = home.run(&connection, sql, &[]);
    let mut due = Due { vectorizers: vec![], next: None };
    for row in 0..rows.len() {
        let (Some(id), Some(wait)) = (rows.datum(row, 1), rows.datum(row, 2)) else { continue };
        match f64::from_bits(wait.value() as u64) {
            wait if wait > 0.0 => {
                due.next = Some(Duration::from_secs_f64(wait));
                break;
            }
            _ => due.vectorizers.push(id.value() as i32),
        }
    }
    due
}
