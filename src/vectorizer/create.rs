//! `vectorizer_create`: a row in the extension's table, triggers, where asked a table of chunks.

use std::ffi::{CStr, CString};

use pgrx::fcinfo::pg_getarg_datum;
use pgrx::{pg_extern, pg_sys};

use super::catalog::{Place, Vectorizer, forget_dropped};
use super::fill::has_text;
use super::home::Home;
use super::source::Source;
use super::table::{Table, owned, owned_list};
use super::{chunks, index, triggers, wake};
use crate::embed::models;
use crate::embed::text::{self, TextBuf};
use crate::error::{Error, OrRaise, PipelineError};
use crate::spi::{Connection, Value, as_user, quoted, statement};

#[pg_extern(sql = false)]
fn vectorizer_create(fcinfo: pg_sys::FunctionCallInfo) -> TextBuf {
    // SAFETY: Postgres passes a valid call of the function that sql/vectorizer.sql declares.
    unsafe { Wanted::of_call(fcinfo).and_then(|wanted| wanted.create()).or_raise() }
}

/// What is asked for.
struct Wanted {
    home: Home,
    table: Table,
    sources: Vec<CString>,
    target: Option<CString>,
    destination: Option<CString>,
    /// A jsonb.
    chunk: Option<pg_sys::Datum>,
    name: Option<CString>,
    model: String,
    backfill: bool,
    index: Option<bool>,
    replicated: bool,
}

impl Wanted {
    /// # Safety
    /// `fcinfo` is that of the running function.
    unsafe fn of_call(fcinfo: pg_sys::FunctionCallInfo) -> Result<Wanted, Error> {
        let missing = |name| Error::from(PipelineError::NullArgument { name });
        // SAFETY: the caller's promise; the arguments are of the declared types.
        unsafe {
            let text_of = |i| pg_getarg_datum(fcinfo, i).map(|text| owned(text));
            let truth = |i| pg_getarg_datum(fcinfo, i).map(|truth| truth.value() != 0);
            let relation = pg_getarg_datum(fcinfo, 0).ok_or_else(|| missing("relation"))?;
            let sources = pg_getarg_datum(fcinfo, 1).ok_or_else(|| missing("sources"))?;
            let model = text_of(6);
            Ok(Wanted {
                home: Home::of_call(fcinfo),
                table: Table::open(pg_sys::Oid::from(relation.value() as u32))?,
                sources: owned_list(sources),
                target: text_of(2),
                destination: text_of(3),
                chunk: pg_getarg_datum(fcinfo, 4),
                name: text_of(5),
                model: models::named(model.as_deref().map(|name| text::utf8(name.to_bytes())).as_deref()),
                backfill: truth(7).unwrap_or(true),
                index: truth(8),
                replicated: truth(9).unwrap_or(false),
            })
        }
    }

    /// Returns the vectorizer's name.
    fn create(&self) -> Result<TextBuf, Error> {
        self.table.check_owner();
        self.table.check_kind()?;
        check_sources(&self.table, &self.sources)?;
        let (hash, dimensions) = models::newest(&self.model)?;
        let connection = Connection::open();
        let source = Source::of(&self.home, &connection, &self.table)?;
        // They may have the name.
        forget_dropped(&self.home, &connection);
        let id = match (&self.target, &self.destination) {
            (Some(target), None) => self.of_column(&source, target, &hash, dimensions)?,
            (None, Some(destination)) => self.of_chunks(&source, destination, &hash, dimensions)?,
            _ => return Err(PipelineError::OnePlace.into()),
        };
        triggers::make(&self.home, &connection, &self.table, id, self.replicated);
        if self.backfill {
            let mut condition = has_text(&self.sources);
            if let Some(target) = &self.target {
                condition.extend([b" AND t.", quoted(target).as_slice(), b" IS NULL"].concat());
            }
            source.queue_rows(id, &condition);
        }
        wake::at_commit(&self.home);
        let find = "SELECT v.name FROM {home}.vectorizer AS v WHERE v.id = $1";
        let name = self.home.run(&connection, find, &[Value::int(id)]).text(0, 1).unwrap_or_default();
        // What is returned must not be freed with it.
        drop(source);
        drop(connection);
        Ok(TextBuf::new(&text::utf8(name.to_bytes())))
    }

    /// Vectors in a column of the same table, which is made if it is not there.
    fn of_column(&self, source: &Source, target: &CStr, hash: &str, dimensions: usize) -> Result<i32, Error> {
        if self.chunk.is_some() {
            return Err(PipelineError::ChunksInAColumn.into());
        }
        let column = quoted(target);
        if !self.table.has_column(target) {
            let vector = chunks::vector_type(&self.home, dimensions);
            let add = "ALTER TABLE {table} ADD COLUMN {column} {vector}";
            let parts = [("column", column.as_slice()), ("vector", &vector)];
            self.home.ddl(source.connection, &self.table, add, &parts);
        }
        let found = self.table.vector_column(target, self.home.function)?;
        found.check_dimensions(target, &self.model, dimensions)?;
        let with_index = self.index.unwrap_or(false);
        let id = self.register(source.connection, Some(target), None, hash, with_index)?;
        if with_index {
            self.make_index(source.connection, &self.table.sql, &column);
        }
        Ok(id)
    }

    /// Vectors in a table of chunks, which is made, with a view that joins it to the source.
    fn of_chunks(
        &self,
        source: &Source,
        destination: &CStr,
        hash: &str,
        dimensions: usize,
    ) -> Result<i32, Error> {
        let [chunks, view] = source.names(destination);
        source.make_chunks(&chunks, dimensions)?;
        let with_index = self.index.unwrap_or(true);
        let table = Value::text(&statement("{chunks}", &[("chunks", &chunks)]));
        chunks::check_options(&self.home, source.connection, self.chunk)?;
        let id = self.register(source.connection, None, Some(table), hash, with_index)?;
        check_sizes(&self.home, source.connection, id)?;
        if with_index {
            self.make_index(source.connection, &chunks, b"embedding");
        }
        source.make_view(&view, &chunks);
        Ok(id)
    }

    fn make_index(&self, connection: &Connection, table: &[u8], column: &[u8]) {
        as_user(self.table.owner, || index::make(&self.home, connection, table, column));
    }

    /// Makes the row in the extension's table. Returns its number.
    fn register(
        &self,
        connection: &Connection,
        target: Option<&CStr>,
        destination: Option<Value>,
        hash: &str,
        with_index: bool,
    ) -> Result<i32, Error> {
        let insert = "INSERT INTO {home}.vectorizer
                (name, relation, sources, target, destination, chunk, model, model_hash, index)
            SELECT coalesce($1, CASE WHEN $4 IS NULL THEN c.relname || '_' || $3 ELSE d.relname END),
                $2, $5, $3, d.oid, CASE WHEN $4 IS NOT NULL THEN coalesce($6, '{}') END,
                $7, $8, $9
            FROM pg_class AS c LEFT JOIN pg_class AS d ON d.oid = $4::regclass WHERE c.oid = $2
            ON CONFLICT (name) DO NOTHING RETURNING id";
        let none = Value::optional_text(None);
        let arguments = [
            Value::optional_text(self.name.as_deref()),
            Value::oid(self.table.oid),
            Value::optional_text(target),
            destination.unwrap_or(none),
            Value::texts(&self.sources),
            Value::jsonb(self.chunk),
            Value::text(&text::server(&self.model)),
            Value::text(&text::server(hash)),
            Value::boolean(with_index),
        ];
        let id = self.home.run(connection, insert, &arguments).first(1);
        id.map(|id| id.value() as i32).ok_or_else(|| PipelineError::NameTaken.into())
    }
}

/// Checks that there are sources, and that they have text that a trigger sees.
pub fn check_sources(table: &Table, sources: &[CString]) -> Result<(), Error> {
    if sources.is_empty() {
        return Err(PipelineError::NoSources.into());
    }
    for source in sources {
        table.text_column(source)?;
        table.check_stored(source)?;
    }
    Ok(())
}

/// Has the model say what is wrong with the sizes of a vectorizer's chunks.
pub fn check_sizes(home: &Home, connection: &Connection, id: i32) -> Result<(), Error> {
    if let Some(Vectorizer { place: Place::Chunks { options, .. }, model, .. }) =
        Vectorizer::by_id(home, connection, id)
    {
        models::chunk(Some(&model), "", &options)?;
    }
    Ok(())
}
