//! `vectorizer_create` and `vectorizer_drop`: the row in the extension's table, the triggers, the table of chunks.

use std::ffi::{CStr, CString};

use embedder::chunk::Format;
use pgrx::fcinfo::pg_getarg_datum;
use pgrx::{pg_extern, pg_sys};

use super::catalog::{Place, Vectorizer, forget_dropped};
use super::enqueue::{KEYS_PER_ROW, WRITING};
use super::home::Home;
use super::source::KeyColumn;
use super::table::{Table, owned, owned_list};
use super::{index, wake};
use crate::embed::models;
use crate::embed::text::{self, TextBuf};
use crate::error::{Error, OrRaise, PipelineError, quotable};
use crate::spi::{
    Connection, SAFE_PATH, Value, as_user, at_latest_snapshot, literal, quoted, statement, under,
};

/// What a table of chunks has beside the key of the source.
const CHUNK_COLUMNS: [&CStr; 5] = [c"ordinal", c"content", c"start_offset", c"end_offset", c"embedding"];

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
        if self.sources.is_empty() {
            return Err(PipelineError::NoSources.into());
        }
        for source in &self.sources {
            self.table.text_column(source)?;
            self.table.check_stored(source)?;
        }
        let key = KeyColumn::all_of(&self.table)?;
        let dimensions = models::dimensions(&self.model)?;
        let connection = Connection::open();
        // They may have the name.
        forget_dropped(&self.home, &connection);
        let id = match (&self.target, &self.destination) {
            (Some(target), None) => self.of_column(&connection, target, dimensions)?,
            (None, Some(destination)) => self.of_chunks(&connection, destination, &key, dimensions)?,
            _ => return Err(PipelineError::OnePlace.into()),
        };
        self.make_triggers(&connection, id);
        if self.backfill {
            self.queue_all(&connection, id, &key);
        }
        wake::at_commit(&self.home);
        let find = "SELECT v.name FROM {home}.vectorizer AS v WHERE v.id = $1";
        let name = self.home.run(&connection, find, &[Value::int(id)]).text(0, 1).unwrap_or_default();
        // What is returned must not be freed with it.
        drop(connection);
        Ok(TextBuf::new(&text::utf8(name.to_bytes())))
    }

    /// Vectors in a column of the same table, which is made if it is not there.
    fn of_column(&self, connection: &Connection, target: &CStr, dimensions: usize) -> Result<i32, Error> {
        if self.chunk.is_some() {
            return Err(PipelineError::ChunksInAColumn.into());
        }
        let column = quoted(target);
        if !self.table.has_column(target) {
            let vector = self.vector_type(dimensions);
            self.ddl(
                connection,
                "ALTER TABLE {table} ADD COLUMN {column} {vector}",
                &[("column", &column), ("vector", &vector)],
            );
        }
        let found = self.table.vector_column(target, self.home.function)?;
        found.check_dimensions(target, &self.model, dimensions)?;
        let with_index = self.index.unwrap_or(false);
        let id = self.register(connection, Some(target), None, with_index)?;
        if with_index {
            self.as_owner(|| index::make(&self.home, connection, &self.table.sql, &column));
        }
        Ok(id)
    }

    /// Vectors in a table of chunks, which is made, with a view that joins it to the source.
    fn of_chunks(
        &self,
        connection: &Connection,
        destination: &CStr,
        key: &[KeyColumn],
        dimensions: usize,
    ) -> Result<i32, Error> {
        let [chunks, view] = self.names(connection, destination);
        let definitions: Vec<Vec<u8>> = key
            .iter()
            .map(|column| {
                [&quoted(&column.name), b" ".as_slice(), &column.type_sql, &column.collation(), b" NOT NULL"]
                    .concat()
            })
            .collect();
        let columns: Vec<Vec<u8>> = key.iter().map(|column| quoted(&column.name)).collect();
        let (definitions, columns) = (definitions.join(b", ".as_slice()), columns.join(b", ".as_slice()));
        let vector = self.vector_type(dimensions);
        let parts = [
            ("chunks", chunks.as_slice()),
            ("definitions", &definitions),
            ("columns", &columns),
            ("vector", &vector),
        ];
        for column in key {
            if CHUNK_COLUMNS.contains(&column.name.as_c_str()) {
                return Err(PipelineError::ReservedColumn { column: quotable(&column.name) }.into());
            }
        }
        self.ddl(
            connection,
            "CREATE TABLE {chunks} ({definitions},
                ordinal pg_catalog.int4 NOT NULL, content pg_catalog.text NOT NULL,
                start_offset pg_catalog.int4 NOT NULL, end_offset pg_catalog.int4 NOT NULL, embedding {vector} NOT NULL,
                PRIMARY KEY ({columns}, ordinal),
                FOREIGN KEY ({columns}) REFERENCES {table} ({columns}) ON DELETE CASCADE ON UPDATE CASCADE)",
            &parts,
        );
        let with_index = self.index.unwrap_or(true);
        let table = Value::text(&statement("{chunks}", &parts));
        self.check_chunk(connection)?;
        let id = self.register(connection, None, Some(table), with_index)?;
        if let Some(Vectorizer { place: Place::Chunks { options, .. }, .. }) =
            Vectorizer::by_id(&self.home, connection, id)
        {
            // Says what is wrong with the sizes.
            models::chunk(Some(&self.model), "", &options)?;
        }
        if with_index {
            self.as_owner(|| index::make(&self.home, connection, &chunks, b"embedding"));
        }
        let own = self.table.columns();
        let shown: Vec<Vec<u8>> = CHUNK_COLUMNS
            .into_iter()
            .map(|column| {
                let alias = if own.iter().any(|name| name.as_c_str() == column) {
                    [b"chunk_".as_slice(), column.to_bytes()].concat()
                } else {
                    column.to_bytes().to_vec()
                };
                [b"c.".as_slice(), column.to_bytes(), b" AS ", &alias].concat()
            })
            .collect();
        let on: Vec<Vec<u8>> = key.iter().map(|column| column.equal_columns("s", "c")).collect();
        let (shown, on) = (shown.join(b", ".as_slice()), on.join(b" AND ".as_slice()));
        let parts = [("view", view.as_slice()), ("chunks", &chunks), ("shown", &shown), ("on", &on)];
        self.ddl(
            connection,
            "CREATE VIEW {view} AS SELECT s.*, {shown} FROM {table} AS s JOIN {chunks} AS c ON {on}",
            &parts,
        );
        Ok(id)
    }

    /// The names of the table of chunks and of its view, with their schema: the source's, if none is named.
    fn names(&self, connection: &Connection, destination: &CStr) -> [Vec<u8>; 2] {
        let parse = "SELECT format('%I.%I', schema, name), format('%I.%I', schema, left(name, 58) || '_view')
            FROM (SELECT i[cardinality(i)] AS name,
                    CASE WHEN cardinality(i) > 1 THEN i[1]
                        ELSE (SELECT n.nspname FROM pg_namespace AS n, pg_class AS c
                            WHERE c.oid = $2 AND n.oid = c.relnamespace) END AS schema
                FROM parse_ident($1) AS i) AS parsed";
        let rows = self.home.run(connection, parse, &[Value::text(destination), Value::oid(self.table.oid)]);
        [1, 2].map(|column| rows.text(0, column).unwrap_or_default().into_bytes())
    }

    /// # Errors
    /// [`PipelineError::ChunkOption`]
    fn check_chunk(&self, connection: &Connection) -> Result<(), Error> {
        let wrong = "SELECT o.key, o.value FROM jsonb_each_text($1) AS o
            WHERE o.key NOT IN ('max_tokens', 'overlap', 'format')
                OR o.key = 'format' AND o.value <> ALL ($2)
                OR o.key IN ('max_tokens', 'overlap') AND o.value !~ '^[0-9]{1,9}$'";
        let formats = Format::NAMES.map(|(name, _)| CString::new(name).unwrap_or_default());
        let found = self.home.run(connection, wrong, &[Value::jsonb(self.chunk), Value::texts(&formats)]);
        if found.is_empty() {
            return Ok(());
        }
        let word = |column| found.text(0, column).map(|word| quotable(&word)).unwrap_or_default();
        Err(PipelineError::ChunkOption { name: word(1), value: word(2) }.into())
    }

    /// Makes the row in the extension's table. Returns its number.
    fn register(
        &self,
        connection: &Connection,
        target: Option<&CStr>,
        destination: Option<Value>,
        with_index: bool,
    ) -> Result<i32, Error> {
        let insert = "INSERT INTO {home}.vectorizer
                (name, relation, sources, target, destination, chunk, model, model_hash, index)
            SELECT coalesce($1, CASE WHEN $4 IS NULL THEN c.relname || '_' || $3 ELSE d.relname END),
                $2, $5, $3, d.oid, CASE WHEN $4 IS NOT NULL THEN coalesce($6, '{}') END,
                $7, $8, $9
            FROM pg_class AS c LEFT JOIN pg_class AS d ON d.oid = $4::regclass WHERE c.oid = $2
            ON CONFLICT (name) DO NOTHING RETURNING id";
        let utf8 = |text: String| text::server(&text);
        let none = Value::optional_text(None);
        let arguments = [
            Value::optional_text(self.name.as_deref()),
            Value::oid(self.table.oid),
            Value::optional_text(target),
            destination.unwrap_or(none),
            Value::texts(&self.sources),
            Value::jsonb(self.chunk),
            Value::text(&utf8(self.model.clone())),
            Value::text(&utf8(models::content_hash(&self.model)?)),
            Value::boolean(with_index),
        ];
        let id = self.home.run(connection, insert, &arguments).first(1);
        id.map(|id| id.value() as i32).ok_or_else(|| PipelineError::NameTaken.into())
    }

    /// Triggers for a statement where they see all that happens: those of a partition, of a child, or of what replication
    /// writes must be for each row.
    fn make_triggers(&self, connection: &Connection, id: i32) {
        let by_row = self.replicated || !self.table.is_plain();
        let mut arguments = vec![id.to_string().into_bytes(), literal(self.target.as_deref().unwrap_or(c""))];
        arguments.extend(self.sources.iter().map(|source| literal(source)));
        let (arguments, number) = (arguments.join(b", ".as_slice()), id.to_string());
        let parts = [("arguments", arguments.as_slice()), ("id", number.as_bytes())];
        let mut triggers = vec![("truncate", "AFTER TRUNCATE ON {table} FOR EACH STATEMENT")];
        if by_row {
            triggers.push(("write", "AFTER INSERT OR UPDATE ON {table} FOR EACH ROW"));
        } else {
            triggers.push((
                "insert",
                "AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT",
            ));
            triggers.push((
                "update",
                "AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT",
            ));
        }
        for (event, when) in triggers {
            let create = format!(
                "CREATE TRIGGER vectorizer_{{id}}_{event} {when} EXECUTE FUNCTION {{home}}.vectorizer_enqueue({{arguments}})"
            );
            self.ddl(connection, &create, &parts);
            if self.replicated {
                let always = format!("ALTER TABLE {{table}} ENABLE ALWAYS TRIGGER vectorizer_{{id}}_{event}");
                self.ddl(connection, &always, &parts);
            }
        }
    }

    /// Queues the rows that are there.
    fn queue_all(&self, connection: &Connection, id: i32, key: &[KeyColumn]) {
        let columns: Vec<Vec<u8>> =
            key.iter().map(|column| [b"t.".as_slice(), &quoted(&column.name)].concat()).collect();
        let sources: Vec<Vec<u8>> = self
            .sources
            .iter()
            .map(|source| [b"t.", quoted(source).as_slice(), b" IS NOT NULL"].concat())
            .collect();
        let (columns, sources) = (columns.join(b", ".as_slice()), sources.join(b" OR ".as_slice()));
        let only_missing = match &self.target {
            Some(target) => [b" AND t.", quoted(target).as_slice(), b" IS NULL"].concat(),
            None => vec![],
        };
        let parts = [
            ("table", self.table.sql.as_slice()),
            ("columns", &columns),
            ("sources", &sources),
            ("only missing", &only_missing),
        ];
        let list = statement("SELECT {columns} FROM {table} AS t WHERE ({sources}){only missing}", &parts);
        // Also what others have committed while the triggers were made.
        let cursor = at_latest_snapshot(|| self.as_owner(|| connection.cursor_to_look(&list, &[])));
        loop {
            let inner = Connection::open();
            let rows = self.as_owner(|| under(&WRITING, || cursor.fetch(KEYS_PER_ROW)));
            if rows.is_empty() {
                break;
            }
            let keys: Vec<CString> = under(&WRITING, || {
                let all = (0..rows.len()).flat_map(|row| (1..=key.len()).map(move |column| (row, column)));
                all.filter_map(|(row, column)| rows.text(row, column)).collect()
            });
            let insert =
                "INSERT INTO {home}.vectorizer_log (vectorizer, keys, key_columns) VALUES ($1, $2, $3)";
            let arguments = [Value::int(id), Value::texts(&keys), Value::int(key.len() as i32)];
            self.home.run(&inner, insert, &arguments);
        }
        cursor.close();
    }

    fn vector_type(&self, dimensions: usize) -> Vec<u8> {
        [
            super::table::type_sql(crate::embed::vector_type(self.home.function)),
            format!("({dimensions})").into_bytes(),
        ]
        .concat()
    }

    /// Runs a statement as the table's owner. `{table}` in it is the table, `{home}` the extension's schema.
    fn ddl(&self, connection: &Connection, template: &str, parts: &[(&str, &[u8])]) {
        let mut all = vec![("table", self.table.sql.as_slice()), ("home", &self.home.schema)];
        all.extend(parts);
        let sql = statement(template, &all);
        self.as_owner(|| under(&[SAFE_PATH], || connection.run(&sql, &[])));
    }

    fn as_owner<T>(&self, work: impl FnOnce() -> T) -> T {
        as_user(self.table.owner, work)
    }
}

/// `vectorizer_drop(name, drop_destination)`
#[pg_extern(sql = false)]
fn vectorizer_drop(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: Postgres passes a valid call of the function that sql/vectorizer.sql declares, which is strict.
    unsafe {
        let home = Home::of_call(fcinfo);
        let (Some(name), Some(with_destination)) = (pg_getarg_datum(fcinfo, 0), pg_getarg_datum(fcinfo, 1))
        else {
            return;
        };
        let connection = Connection::open();
        let vectorizer = Vectorizer::by_name(&home, &connection, &owned(name)).or_raise();
        drop_it(&home, &connection, &vectorizer, with_destination.value() != 0).or_raise();
    }
}

fn drop_it(
    home: &Home,
    connection: &Connection,
    vectorizer: &Vectorizer,
    with_destination: bool,
) -> Result<(), Error> {
    if super::run::exists(vectorizer.relation) {
        let table = Table::open(vectorizer.relation)?;
        table.check_owner();
        let id = vectorizer.id.to_string();
        let parts = [("table", table.sql.as_slice()), ("id", id.as_bytes())];
        as_user(table.owner, || {
            under(&[SAFE_PATH, (c"client_min_messages", c"warning")], || {
                for event in ["truncate", "write", "insert", "update"] {
                    let sql = format!("DROP TRIGGER IF EXISTS vectorizer_{{id}}_{event} ON {{table}}");
                    connection.run(&statement(&sql, &parts), &[]);
                }
            });
        });
        if let Place::Chunks { table: oid, .. } = vectorizer.place
            && with_destination
            && super::run::exists(oid)
        {
            let chunks = Table::open(oid)?;
            chunks.check_owner();
            // With the view; what else depends on the table keeps it from being dropped.
            let view = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c, pg_namespace AS n, pg_class AS d
                WHERE d.oid = $1 AND c.relname = left(d.relname, 58) || '_view' AND c.relkind = 'v'
                    AND c.relnamespace = d.relnamespace AND n.oid = c.relnamespace";
            let view = home.run(connection, view, &[Value::oid(oid)]);
            as_user(chunks.owner, || {
                under(&[SAFE_PATH], || {
                    if let Some(name) = if view.is_empty() { None } else { view.text(0, 1) } {
                        connection.run(&statement("DROP VIEW {view}", &[("view", name.to_bytes())]), &[]);
                    }
                    connection.run(&statement("DROP TABLE {chunks}", &[("chunks", &chunks.sql)]), &[]);
                });
            });
        }
    }
    vectorizer.forget(home, connection);
    Ok(())
}
