//! `vectorizer_alter`: other sources or chunks, or another model.
//!
//! With the same model all rows are queued again, and each has its old vectors until it has new ones. Another model's vectors cannot be
//! compared with those that are there: they are made beside them, by a vectorizer that [takes the place](super::swap) of this one
//! when it is done.

use std::ffi::{CStr, CString};

use pgrx::fcinfo::pg_getarg_datum;
use pgrx::{pg_extern, pg_sys};

use super::catalog::{Place, Vectorizer};
use super::create::{check_sizes, check_sources};
use super::fill::has_text;
use super::home::Home;
use super::manage::named;
use super::source::Source;
use super::table::{Table, owned, owned_list};
use super::{chunks, wake, watch};
use crate::embed::{models, text};
use crate::error::{Error, OrRaise, PipelineError, quotable};
use crate::spi::{Connection, Value};

/// `vectorizer_alter(name, sources, chunk, model)`
#[pg_extern(sql = false)]
fn vectorizer_alter(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: Postgres passes a valid call of the function that sql/vectorizer.sql declares.
    unsafe { alter(fcinfo).or_raise() }
}

/// # Safety
/// `fcinfo` is that of the running function.
unsafe fn alter(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), Error> {
    // SAFETY: the caller's promise; the arguments are of the declared types.
    let (home, sources, chunk, model) = unsafe {
        let model = pg_getarg_datum(fcinfo, 3).map(|model| owned(model));
        let model = model.map(|model| models::named(Some(&text::utf8(model.to_bytes()))));
        let sources = pg_getarg_datum(fcinfo, 1).map(|sources| owned_list(sources));
        (Home::of_call(fcinfo), sources, pg_getarg_datum(fcinfo, 2), model)
    };
    let connection = Connection::open();
    // SAFETY: as above.
    let vectorizer = unsafe { named(fcinfo, &home, &connection)? };
    let gone = || Error::from(PipelineError::NoVectorizer { name: quotable(&vectorizer.name) });
    let table = Table::if_exists(vectorizer.relation).ok_or_else(gone)?;
    if let Some(sources) = &sources {
        check_sources(&table, sources)?;
    }
    if chunk.is_some() {
        if vectorizer.place.table().is_none() {
            return Err(PipelineError::ChunksInAColumn.into());
        }
        chunks::check_options(&home, &connection, chunk)?;
    }
    // Who writes now may go by what the vectorizer was.
    table.lock_against_writers(&home, &connection);
    // It may have been changed before the lock was there.
    let vectorizer = Vectorizer::by_id(&home, &connection, vectorizer.id).ok_or_else(gone)?;
    // An ERROR if it has changed since this transaction began, at REPEATABLE READ.
    let lock = "SELECT FROM {home}.vectorizer AS v WHERE v.id = $1 FOR NO KEY UPDATE";
    if home.run(&connection, lock, &[Value::int(vectorizer.id)]).is_empty() {
        return Err(PipelineError::ChangedSince.into());
    }
    let next = match vectorizer.replaces {
        Some(_) => Some(vectorizer.name.clone()),
        None => vectorizer.next(&home, &connection).map(|next| next.name),
    };
    if let Some(next) = next {
        return Err(PipelineError::ModelChanges { next: quotable(&next) }.into());
    }
    let change = Change { source: Source::of(&home, &connection, &table)?, vectorizer, sources, chunk };
    let version = model.as_deref().map(models::newest).transpose()?;
    match model.zip(version) {
        Some((model, (hash, dimensions))) if change.is_other(&model, &hash) => {
            change.begin_next(&model, &hash, dimensions)?;
        }
        _ => change.in_place()?,
    }
    watch::changed(table.oid);
    wake::at_commit(&home);
    Ok(())
}

struct Change<'a> {
    source: Source<'a>,
    vectorizer: Vectorizer,
    sources: Option<Vec<CString>>,
    /// A jsonb.
    chunk: Option<pg_sys::Datum>,
}

impl Change<'_> {
    /// Whether a model is another one than that of the vectors, be it by its files.
    fn is_other(&self, model: &str, hash: &str) -> bool {
        model != self.vectorizer.model || hash != self.vectorizer.model_hash
    }

    fn in_place(&self) -> Result<(), Error> {
        let Source { home, connection, .. } = self.source;
        let update = "UPDATE {home}.vectorizer AS v SET sources = n.sources, chunk = n.chunk
            FROM (SELECT coalesce($2, w.sources) AS sources, coalesce($3, w.chunk) AS chunk
                FROM {home}.vectorizer AS w WHERE w.id = $1) AS n
            WHERE v.id = $1 AND (v.sources, v.chunk) IS DISTINCT FROM (n.sources, n.chunk)";
        let id = self.vectorizer.id;
        let arguments =
            [Value::int(id), Value::optional_texts(self.sources.as_deref()), Value::jsonb(self.chunk)];
        if home.run(connection, update, &arguments).processed() == 0 {
            return Ok(());
        }
        check_sizes(home, connection, id)?;
        // Also those that have no text any more.
        self.source.queue_rows(id, b"true");
        Ok(())
    }

    /// Makes the vectorizer that is to take the place of this one, and where its vectors are until then.
    fn begin_next(&self, model: &str, hash: &str, dimensions: usize) -> Result<(), Error> {
        let Source { home, connection, .. } = self.source;
        self.check_views(dimensions)?;
        let name = self.name_of_next();
        let of_chunks = matches!(self.vectorizer.place, Place::Chunks { .. });
        self.source.make_next(name.to_bytes(), dimensions, of_chunks);
        let insert = "INSERT INTO {home}.vectorizer
                (name, relation, sources, destination, chunk, model, model_hash, index, paused, replaces)
            SELECT v.name || ' (next)', v.relation, coalesce($2, v.sources), $4::regclass, coalesce($3, v.chunk), $5, $6,
                false, v.paused, v.id
            FROM {home}.vectorizer AS v WHERE v.id = $1 ON CONFLICT (name) DO NOTHING RETURNING id";
        let arguments = [
            Value::int(self.vectorizer.id),
            Value::optional_texts(self.sources.as_deref()),
            Value::jsonb(self.chunk),
            Value::text(&name),
            Value::text(&text::server(model)),
            Value::text(&text::server(hash)),
        ];
        let id = home.run(connection, insert, &arguments).first(1).ok_or(PipelineError::NameTaken)?;
        let id = id.value() as i32;
        check_sizes(home, connection, id)?;
        let sources = self.sources.as_ref().unwrap_or(&self.vectorizer.sources);
        self.source.queue_rows(id, &has_text(sources));
        Ok(())
    }

    /// The table of the next vectors, beside those that are there.
    fn name_of_next(&self) -> CString {
        let Source { home, connection, table, .. } = self.source;
        let name = "SELECT format('%I.%I', n.nspname, format('vectorizer_%s_next', $2)) FROM pg_class AS c, pg_namespace AS n
            WHERE c.oid = $1 AND n.oid = c.relnamespace";
        let table = self.vectorizer.place.table().unwrap_or(table.oid);
        let rows = home.run(connection, name, &[Value::oid(table), Value::int(self.vectorizer.id)]);
        if rows.is_empty() { CString::default() } else { rows.text(0, 1).unwrap_or_default() }
    }

    /// Checks that no view keeps the column of vectors from getting other dimensions, which would else come out at the end.
    ///
    /// # Errors
    /// [`PipelineError::UsedByView`].
    fn check_views(&self, dimensions: usize) -> Result<(), Error> {
        let Source { home, connection, table, .. } = self.source;
        let column: &CStr = self.vectorizer.place.column();
        let vectors = self.vectorizer.place.table().map(Table::open).transpose()?;
        let vectors = vectors.as_ref().unwrap_or(table);
        let now = vectors.vector_column(column, home.function)?.dimensions;
        let Some(now) = now.filter(|&now| now != dimensions) else { return Ok(()) };
        // That of a table of chunks is made anew, if it is no more than a view.
        let own = self.vectorizer.place.table().and_then(|_| chunks::view_of(home, connection, vectors));
        let find =
            "SELECT r.ev_class::regclass::text FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
            WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
                AND (r.ev_class IS DISTINCT FROM $3::regclass OR EXISTS (
                    SELECT FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
                    WHERE c.oid = $3::regclass AND (c.relhastriggers OR a.attacl IS NOT NULL)))
                AND (d.refobjid = $3::regclass
                    OR d.refobjid = $1 AND d.refobjsubid =
                        (SELECT a.attnum FROM pg_attribute AS a WHERE a.attrelid = $1 AND a.attname = $2))
            LIMIT 1";
        let arguments = [Value::oid(vectors.oid), Value::text(column), Value::optional_text(own.as_deref())];
        let found = home.run(connection, find, &arguments);
        if found.is_empty() {
            return Ok(());
        }
        let view = found.text(0, 1).map(|view| quotable(&view)).unwrap_or_default();
        Err(PipelineError::UsedByView { view, column: quotable(column), now, then: dimensions }.into())
    }
}
