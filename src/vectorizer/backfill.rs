//! `CALL embed_backfill(...)`: vectors for the rows that have none. Each batch is a transaction of its own, so that what is done
//! stays done, and sessions that do the same share the rows: each passes over those that another one has locked.

use std::ffi::{CStr, CString};
use std::time::Instant;

use pgrx::{PgLogLevel, is_a, pg_extern, pg_sys};

use super::embed::{Trouble, Vector, each, isolate, readable};
use super::fill::has_text;
use super::home::Home;
use super::pace::Pace;
use super::progress::Progress;
use super::table::{Table, VectorColumn, owned, owned_list};
use crate::embed::{models, text};
use crate::error::{Error, OrRaise, PipelineError};
use crate::spi::{Connection, Cursor, Failure, Rows, Value, in_subtransaction, joined, quoted, statement};
use crate::vector::VectorBuf;

/// Rows that one batch may have: their locks are held for as long as it takes.
const MAX_BATCH: i32 = 10_000;

#[pg_extern(sql = false)]
fn embed_backfill(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: Postgres passes a valid call of the procedure that sql/vectorizer.sql declares.
    unsafe { Backfill::of_call(fcinfo).and_then(|backfill| backfill.run()).or_raise() }
}

/// What is asked for, checked.
struct Backfill {
    home: Home,
    relation: pg_sys::Oid,
    target: CString,
    model: String,
    batch_size: usize,
    max_rows: u64,
    statements: Statements,
    vector: pg_sys::Oid,
}

/// In the database's encoding; functions and operators with their schemas, as the table's triggers are to see the session's
/// own search_path.
struct Statements {
    /// Where rows without a vector are: table and address.
    list: CString,
    /// Locks those of them that nobody else has locked, and reads their texts.
    read: CString,
    write: CString,
}

/// A row that is locked.
struct Row {
    table: pg_sys::Oid,
    address: pg_sys::ItemPointerData,
    text: Result<String, Failure>,
}

impl Row {
    /// From a row of [`Statements::read`], which is freed then.
    fn of(fetched: &Rows) -> Option<Row> {
        let (table, address) = (fetched.first(1)?, fetched.first(2)?);
        // SAFETY: a value of type tid.
        let address = unsafe { *address.cast_mut_ptr::<pg_sys::ItemPointerData>() };
        let text = readable(&fetched.text(0, 3).unwrap_or_default());
        Some(Row { table: pg_sys::Oid::from(table.value() as u32), address, text })
    }
}

impl Backfill {
    /// # Safety
    /// `fcinfo` is that of the running procedure.
    unsafe fn of_call(fcinfo: pg_sys::FunctionCallInfo) -> Result<Backfill, Error> {
        use pgrx::fcinfo::pg_getarg_datum;
        let missing = |name| Error::from(PipelineError::NullArgument { name });
        // SAFETY: the caller's promise; the arguments are of the declared types.
        unsafe {
            if !may_commit(fcinfo) {
                return Err(PipelineError::TransactionBlock { procedure: "embed_backfill" }.into());
            }
            let home = Home::of_call(fcinfo);
            let relation = pg_getarg_datum(fcinfo, 0).ok_or_else(|| missing("relation"))?;
            let relation = pg_sys::Oid::from(relation.value() as u32);
            let target = owned(pg_getarg_datum(fcinfo, 1).ok_or_else(|| missing("target"))?);
            let sources = owned_list(pg_getarg_datum(fcinfo, 2).ok_or_else(|| missing("sources"))?);
            let model = pg_getarg_datum(fcinfo, 3).map(|model| owned(model));
            let batch_size = pg_getarg_datum(fcinfo, 4).ok_or_else(|| missing("batch_size"))?.value() as i32;
            let max_rows = pg_getarg_datum(fcinfo, 5).map(|rows| rows.value() as i64);
            let batch_size = match batch_size {
                1..=MAX_BATCH => batch_size as usize,
                _ => return Err(PipelineError::BatchSize { given: batch_size, most: MAX_BATCH }.into()),
            };
            let table = Table::open(relation)?;
            let column = check(&table, &target, &sources, home.function)?;
            let model = models::named(model.as_deref().map(|name| text::utf8(name.to_bytes())).as_deref());
            let dimensions = models::dimensions(&model)?;
            column.check_dimensions(&target, &model, dimensions)?;
            Ok(Backfill {
                statements: Statements::new(&table, &target, &sources),
                home,
                relation,
                target,
                model,
                batch_size,
                max_rows: max_rows.map_or(u64::MAX, |rows| rows.max(0) as u64),
                vector: column.type_oid,
            })
        }
    }

    fn run(&self) -> Result<(), Error> {
        let connection = Connection::open_for_commits();
        let model = CString::new(self.model.as_str()).unwrap_or_default();
        let mut progress = Progress::begin(&self.home, &connection, self.relation, &self.target, &model);
        let (mut first_failure, mut pace) = (None, Pace::default());
        loop {
            let before = progress.done;
            let cursor = connection.cursor(&self.statements.list, &[]);
            cursor.hold();
            connection.commit();
            progress.total = progress.done + cursor.kept();
            (progress.failed, progress.skipped) = (0, 0);
            while progress.done < self.max_rows {
                progress.lock(&connection);
                let room = (self.max_rows - progress.done).min(pace.rows(self.batch_size) as u64);
                let start = Instant::now();
                let listed = self.batch(&cursor, room as usize, &mut progress, &mut first_failure)?;
                if listed == 0 {
                    break;
                }
                connection.commit();
                pace.took(listed, start.elapsed());
                progress.tell();
            }
            cursor.close();
            // Rows that were changed or locked by others meanwhile are found by another look.
            if progress.done == before || progress.skipped == 0 || progress.done >= self.max_rows {
                break;
            }
        }
        progress.end(&connection);
        if let (Some(failure), failed @ 1..) = (first_failure, progress.failed) {
            Error::from(PipelineError::SomeFailed { failed, failure }).say(PgLogLevel::WARNING);
        }
        Ok(())
    }

    /// Embeds the next rows of the list. Returns how many that are.
    fn batch(
        &self,
        cursor: &Cursor,
        rows: usize,
        progress: &mut Progress,
        first_failure: &mut Option<Failure>,
    ) -> Result<usize, Error> {
        let inner = Connection::open();
        let listed = cursor.fetch(rows);
        let count = listed.len();
        let column = |number| -> Vec<pg_sys::Datum> {
            (0..count).filter_map(|row| listed.datum(row, number)).collect()
        };
        let (mut tables, mut addresses) = (column(1), column(2));
        let tables = Value::array(pg_sys::OIDOID, &mut tables);
        let addresses = Value::array(pg_sys::TIDOID, &mut addresses);
        let reader = inner.cursor(&self.statements.read, &[addresses, tables]);
        let mut read = 0;
        loop {
            let part = Connection::open();
            let rows = read_some(&reader);
            if rows.is_empty() {
                break;
            }
            read += rows.len();
            for result in self.embed_and_write(&part, &rows)? {
                match result {
                    Ok(true) => progress.done += 1,
                    Ok(false) => progress.skipped += 1,
                    Err(failure) => {
                        progress.failed += 1;
                        first_failure.get_or_insert(failure);
                    }
                }
            }
        }
        reader.close();
        progress.skipped += count.saturating_sub(read) as u64;
        progress.save(&inner);
        Ok(count)
    }

    /// Whether each row has got a vector. The others are blank.
    fn embed_and_write(
        &self,
        connection: &Connection,
        rows: &[Row],
    ) -> Result<Vec<Result<bool, Failure>>, Error> {
        let texts: Vec<&str> = rows.iter().filter_map(|row| row.text.as_deref().ok()).collect();
        let mut vectors = each(&self.model, &texts)?.into_iter();
        let results: Vec<Result<Vector, Failure>> = rows
            .iter()
            .map(|row| {
                row.text.as_ref().map_err(Failure::clone).and_then(|_| vectors.next().unwrap_or(Ok(None)))
            })
            .collect();
        let ready: Vec<(&Row, &[f32])> = rows
            .iter()
            .zip(&results)
            .filter_map(|(row, result)| Some((row, result.as_ref().ok()?.as_deref()?)))
            .collect();
        let mut written = isolate(&ready, &mut |ready| {
            in_subtransaction(|| self.write(connection, ready).or_raise()).map_err(Trouble::WithSome)?;
            Ok(vec![true; ready.len()])
        })?
        .into_iter();
        let written = results.into_iter().map(|result| match result? {
            Some(_) => written.next().unwrap_or(Ok(false)),
            None => Ok(false),
        });
        Ok(written.collect())
    }

    fn write(&self, connection: &Connection, ready: &[(&Row, &[f32])]) -> Result<(), Error> {
        let mut tables: Vec<pg_sys::Datum> = ready.iter().map(|(row, _)| row.table.into()).collect();
        let address = |row: &Row| pg_sys::Datum::from((&raw const row.address).cast_mut());
        let mut addresses: Vec<pg_sys::Datum> = ready.iter().map(|(row, _)| address(row)).collect();
        let vectors = ready.iter().map(|(_, vector)| Ok(VectorBuf::from_slice(vector)?.into_datum()));
        let mut vectors = vectors.collect::<Result<Vec<_>, Error>>()?;
        let arguments = [
            Value::array(pg_sys::OIDOID, &mut tables),
            Value::array(pg_sys::TIDOID, &mut addresses),
            Value::array(self.vector, &mut vectors),
        ];
        if connection.run(&self.statements.write, &arguments).processed() == ready.len() as u64 {
            Ok(())
        } else {
            Err(PipelineError::NotWritten.into())
        }
    }
}

impl Statements {
    fn new(table: &Table, target: &CStr, sources: &[CString]) -> Statements {
        let quoted_target = quoted(target);
        let list = joined(", ", sources, |source| [b"t.".as_slice(), &quoted(source)].concat());
        let has_text = has_text(sources);
        let parts = [
            ("table", table.sql.as_slice()),
            ("target", quoted_target.as_slice()),
            ("has text", has_text.as_slice()),
            ("sources", list.as_slice()),
        ];
        Statements {
            list: statement(
                "SELECT t.tableoid, t.ctid FROM {table} AS t
                WHERE t.{target} IS NULL AND {has text}",
                &parts,
            ),
            read: statement(
                "SELECT t.tableoid, t.ctid, pg_catalog.concat_ws(E'\\n', {sources}) FROM {table} AS t
                WHERE t.ctid OPERATOR(pg_catalog.=) ANY ($1) AND t.tableoid OPERATOR(pg_catalog.=) ANY ($2)
                    AND t.{target} IS NULL AND {has text}
                FOR NO KEY UPDATE SKIP LOCKED",
                &parts,
            ),
            write: table.statement_to_set(target),
        }
    }
}

/// Checks the table's columns and what the current user may do with them, before the first row is read.
fn check(
    table: &Table,
    target: &CStr,
    sources: &[CString],
    function: pg_sys::Oid,
) -> Result<VectorColumn, Error> {
    if sources.is_empty() {
        return Err(PipelineError::NoSources.into());
    }
    for source in sources {
        table.text_column(source)?;
        table.check_privilege(source, pg_sys::ACL_SELECT)?;
    }
    let column = table.vector_column(target, function)?;
    table.check_privilege(target, pg_sys::ACL_SELECT)?;
    table.check_privilege(target, pg_sys::ACL_UPDATE)?;
    Ok(column)
}

/// The next rows, until their texts fill work_mem, or there are none left.
fn read_some(reader: &Cursor) -> Vec<Row> {
    // SAFETY: reads a setting, in kB.
    let limit = unsafe { pg_sys::work_mem } as usize * 1024;
    let (mut rows, mut bytes) = (vec![], 0);
    while bytes < limit {
        let Some(row) = Row::of(&reader.fetch(1)) else { break };
        bytes += row.text.as_ref().map_or(0, String::len);
        rows.push(row);
    }
    rows
}

/// Whether a procedure was called where it may commit: by CALL, outside a transaction block.
///
/// # Safety
/// `fcinfo` is that of a running procedure.
pub unsafe fn may_commit(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: the caller's promise; the tag tells the node's type.
    unsafe {
        let context = (*fcinfo).context;
        !context.is_null()
            && is_a(context, pg_sys::NodeTag::T_CallContext)
            && !(*context.cast::<pg_sys::CallContext>()).atomic
    }
}
