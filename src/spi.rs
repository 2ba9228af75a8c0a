//! Queries inside the server: as much of SPI as pg_embed uses.
//!
//! Names and texts are in the database's encoding here, which need not be Rust's: statements are C strings.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::panic::{AssertUnwindSafe, UnwindSafe};
use std::ptr::{null, null_mut};

use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::{IntoDatum, PgSqlErrorCode, PgTryBuilder, pg_sys};

use crate::error::{Error, presentable};

/// A connection to SPI. What is allocated while it is the innermost one is freed with it.
pub struct Connection(());

impl Connection {
    pub fn open() -> Connection {
        // SAFETY: runs in a transaction. It cannot fail, but for memory.
        unsafe { pg_sys::SPI_connect() };
        Connection(())
    }

    /// One that can [`commit`](Connection::commit).
    pub fn open_for_commits() -> Connection {
        // SAFETY: as above.
        unsafe { pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as c_int) };
        Connection(())
    }

    /// Runs a statement, and returns its rows, if it has any.
    pub fn run(&self, sql: &CStr, arguments: &[Value]) -> Rows {
        self.execute(sql, arguments, false)
    }

    /// Runs a query that sees what the active snapshot does: that of the statement which has called, or the
    /// [latest one](at_latest_snapshot).
    pub fn look(&self, sql: &CStr, arguments: &[Value]) -> Rows {
        self.execute(sql, arguments, true)
    }

    fn execute(&self, sql: &CStr, arguments: &[Value], read_only: bool) -> Rows {
        let mut types = types(arguments);
        let (mut datums, nulls) = split(arguments);
        // SAFETY: connected; the lists have an entry for each argument, of the type that is told.
        unsafe {
            pg_sys::SPI_execute_with_args(
                sql.as_ptr(),
                arguments.len() as c_int,
                types.as_mut_ptr(),
                datums.as_mut_ptr(),
                nulls.as_ptr(),
                read_only,
                0,
            );
        }
        Rows::taken()
    }

    /// Prepares a statement for the rest of the session.
    pub fn keep(&self, sql: &CStr, arguments: &[Value]) -> Plan {
        let mut types = types(arguments);
        // SAFETY: connected; the list has an entry for each argument. A plan that is kept belongs to the session.
        unsafe {
            let plan = pg_sys::SPI_prepare(sql.as_ptr(), arguments.len() as c_int, types.as_mut_ptr());
            pg_sys::SPI_keepplan(plan);
            Plan(plan)
        }
    }

    pub fn run_plan(&self, plan: Plan, arguments: &[Value]) -> Rows {
        let (mut datums, nulls) = split(arguments);
        // SAFETY: connected; the plan was made for arguments of these types.
        unsafe { pg_sys::SPI_execute_plan(plan.0, datums.as_mut_ptr(), nulls.as_ptr(), false, 0) };
        Rows::taken()
    }

    /// A statement whose rows are fetched a few at a time.
    pub fn cursor(&self, sql: &CStr, arguments: &[Value]) -> Cursor {
        self.open_cursor(sql, arguments, false)
    }

    /// Likewise, like [`look`](Connection::look).
    pub fn cursor_to_look(&self, sql: &CStr, arguments: &[Value]) -> Cursor {
        self.open_cursor(sql, arguments, true)
    }

    fn open_cursor(&self, sql: &CStr, arguments: &[Value], read_only: bool) -> Cursor {
        let mut types = types(arguments);
        let (mut datums, nulls) = split(arguments);
        // SAFETY: as in `run`.
        Cursor(unsafe {
            pg_sys::SPI_cursor_open_with_args(
                null(),
                sql.as_ptr(),
                arguments.len() as c_int,
                types.as_mut_ptr(),
                datums.as_mut_ptr(),
                nulls.as_ptr(),
                read_only,
                0,
            )
        })
    }

    /// Ends the transaction and begins another, at READ COMMITTED. Cursors that are [held](Cursor::hold) go on.
    pub fn commit(&self) {
        // SAFETY: the connection is the innermost one, and of those that may commit; Postgres checks both. No query of the
        // new transaction has run that would need its isolation level.
        unsafe {
            pg_sys::SPI_commit();
            pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as c_int;
            pg_sys::EnsurePortalSnapshotExists();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // An ERROR closes the connections itself.
        if !std::thread::panicking() {
            // SAFETY: opened by the constructors, and innermost, as values are dropped in the order of their scopes.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

/// A statement that is prepared for the rest of the session. Postgres plans it anew when what it is about changes.
#[derive(Clone, Copy)]
pub struct Plan(pg_sys::SPIPlanPtr);

fn types(arguments: &[Value]) -> Vec<pg_sys::Oid> {
    arguments.iter().map(|argument| argument.type_oid).collect()
}

/// Arguments as SPI wants them: a blank for each one that is not NULL.
fn split(arguments: &[Value]) -> (Vec<pg_sys::Datum>, Vec<c_char>) {
    let datums = arguments.iter().map(|argument| argument.datum.unwrap_or(pg_sys::Datum::null()));
    let nulls = arguments.iter().map(|argument| if argument.datum.is_some() { b' ' } else { b'n' } as c_char);
    (datums.collect(), nulls.collect())
}

/// A statement that is being read.
pub struct Cursor(pg_sys::Portal);

impl Cursor {
    /// Lets it live on when the transaction commits, as its result is kept then.
    pub fn hold(&self) {
        // SAFETY: an open portal, which is unpinned before it is closed.
        unsafe { pg_sys::PinPortal(self.0) };
    }

    /// The rows of a held cursor that a commit has kept.
    pub fn kept(&self) -> u64 {
        // SAFETY: an open portal; its store is there once a commit has kept its rows.
        unsafe {
            let store = (*self.0).holdStore;
            if store.is_null() { 0 } else { pg_sys::tuplestore_tuple_count(store) as u64 }
        }
    }

    pub fn fetch(&self, rows: usize) -> Rows {
        // SAFETY: an open portal, and a connection, as the cursor has come from one.
        unsafe { pg_sys::SPI_cursor_fetch(self.0, true, rows as c_long) };
        Rows::taken()
    }

    pub fn close(self) {
        // SAFETY: an open portal; one that is not pinned has no mark to take away.
        unsafe {
            if (*self.0).portalPinned {
                pg_sys::UnpinPortal(self.0);
            }
            pg_sys::SPI_cursor_close(self.0);
        }
    }
}

/// What a statement has returned, and how many rows it has gone through.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    processed: u64,
}

impl Rows {
    fn taken() -> Rows {
        // SAFETY: SPI sets both with each statement.
        unsafe {
            let rows = Rows { table: pg_sys::SPI_tuptable, processed: pg_sys::SPI_processed };
            pg_sys::SPI_tuptable = null_mut();
            rows
        }
    }

    pub fn len(&self) -> usize {
        // SAFETY: null or a table that is not freed yet.
        unsafe { self.table.as_ref() }.map_or(0, |table| table.numvals as usize)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A value of the first row; `None` also if there is no row.
    pub fn first(&self, column: usize) -> Option<pg_sys::Datum> {
        if self.is_empty() { None } else { self.datum(0, column) }
    }

    /// The size of a value that is not stored elsewhere, such as a computed text; 0 for NULL.
    pub fn bytes(&self, row: usize, column: usize) -> usize {
        // SAFETY: a varlena, as the caller knows of the column, which has a size.
        self.datum(row, column).map_or(0, |value| unsafe { pg_sys::toast_raw_datum_size(value) })
    }

    /// Rows that an INSERT, UPDATE or DELETE has changed.
    pub fn processed(&self) -> u64 {
        self.processed
    }

    /// A value, which lives as long as the rows; `None` for NULL. Columns are counted from 1.
    pub fn datum(&self, row: usize, column: usize) -> Option<pg_sys::Datum> {
        assert!(row < self.len());
        let mut is_null = false;
        // SAFETY: a row of the table; SPI checks the column.
        let datum = unsafe {
            let tuple = *(*self.table).vals.add(row);
            pg_sys::SPI_getbinval(tuple, (*self.table).tupdesc, column as c_int, &mut is_null)
        };
        (!is_null).then_some(datum)
    }

    /// Adds the rows to the result of a function that returns rows of the same types.
    ///
    /// # Safety
    /// `fcinfo` is that of a running function, after InitMaterializedSRF.
    pub unsafe fn into_result(self, fcinfo: pg_sys::FunctionCallInfo) {
        // SAFETY: the caller's promise. The store copies what it is given.
        unsafe {
            let result = (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            for row in 0..self.len() {
                pg_sys::tuplestore_puttuple((*result).setResult, *(*self.table).vals.add(row));
            }
        }
    }

    /// A value as its type writes it.
    pub fn text(&self, row: usize, column: usize) -> Option<CString> {
        assert!(row < self.len());
        // SAFETY: as above; what is returned is a C string or null.
        unsafe {
            let tuple = *(*self.table).vals.add(row);
            let text = pg_sys::SPI_getvalue(tuple, (*self.table).tupdesc, column as c_int);
            if text.is_null() {
                return None;
            }
            let copy = CStr::from_ptr(text).to_owned();
            pg_sys::pfree(text.cast());
            Some(copy)
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if !self.table.is_null() && !std::thread::panicking() {
            // SAFETY: nothing refers to the table after its last use.
            unsafe { pg_sys::SPI_freetuptable(self.table) };
        }
    }
}

/// An argument of a statement.
#[derive(Clone, Copy)]
pub struct Value {
    type_oid: pg_sys::Oid,
    datum: Option<pg_sys::Datum>,
}

impl Value {
    pub fn oid(value: pg_sys::Oid) -> Value {
        Value { type_oid: pg_sys::OIDOID, datum: Some(value.into()) }
    }

    pub fn bigint(value: i64) -> Value {
        Value { type_oid: pg_sys::INT8OID, datum: Some(value.into()) }
    }

    pub fn int(value: i32) -> Value {
        Value { type_oid: pg_sys::INT4OID, datum: Some(value.into()) }
    }

    pub fn float(value: f64) -> Value {
        Value { type_oid: pg_sys::FLOAT8OID, datum: value.into_datum() }
    }

    pub fn floats(values: impl IntoIterator<Item = f64>) -> Value {
        let mut datums: Vec<_> = values.into_iter().filter_map(f64::into_datum).collect();
        Value::array(pg_sys::FLOAT8OID, &mut datums)
    }

    /// A regconfig.
    pub fn config(value: pg_sys::Oid) -> Value {
        Value::of_type(pg_sys::REGCONFIGOID, value.into())
    }

    /// A value of another type.
    pub fn of_type(type_oid: pg_sys::Oid, value: pg_sys::Datum) -> Value {
        Value { type_oid, datum: Some(value) }
    }

    pub fn boolean(value: bool) -> Value {
        Value { type_oid: pg_sys::BOOLOID, datum: Some(value.into()) }
    }

    /// One that the caller has as a datum.
    pub fn jsonb(value: Option<pg_sys::Datum>) -> Value {
        Value { type_oid: pg_sys::JSONBOID, datum: value }
    }

    pub fn text(value: &CStr) -> Value {
        Value { type_oid: pg_sys::TEXTOID, datum: Some(Value::text_datum(value)) }
    }

    pub fn optional_text(value: Option<&CStr>) -> Value {
        Value { type_oid: pg_sys::TEXTOID, datum: value.map(Value::text_datum) }
    }

    pub fn text_datum(value: &CStr) -> pg_sys::Datum {
        // SAFETY: copies a C string.
        unsafe { pg_sys::cstring_to_text(value.as_ptr()).into() }
    }

    pub fn texts<'t>(values: impl IntoIterator<Item = &'t CString>) -> Value {
        let mut datums: Vec<_> = values.into_iter().map(|value| Value::text_datum(value)).collect();
        Value::array(pg_sys::TEXTOID, &mut datums)
    }

    pub fn optional_texts(values: Option<&[CString]>) -> Value {
        values.map_or(Value { type_oid: pg_sys::TEXTARRAYOID, datum: None }, Value::texts)
    }

    pub fn ints(values: impl IntoIterator<Item = i32>) -> Value {
        let mut datums: Vec<_> = values.into_iter().map(pg_sys::Datum::from).collect();
        Value::array(pg_sys::INT4OID, &mut datums)
    }

    /// A list without NULLs.
    pub fn array(element: pg_sys::Oid, datums: &mut [pg_sys::Datum]) -> Value {
        let (mut length, mut by_value, mut align) = Default::default();
        // SAFETY: a type that exists, and as many values of it as are told.
        unsafe {
            pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut align);
            let array = pg_sys::construct_array(
                datums.as_mut_ptr(),
                datums.len() as c_int,
                element,
                length.into(),
                by_value,
                align,
            );
            Value { type_oid: pg_sys::get_array_type(element), datum: Some(array.into()) }
        }
    }
}

/// Lets `work` [look](Connection::look) at what is committed now, whatever the transaction's isolation level.
pub fn at_latest_snapshot<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: in a transaction; an ERROR pops the snapshot.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}

/// A statement from its text, with what stands for `{name}` put in: names that are quoted already, lists of them.
pub fn statement(template: &str, parts: &[(&str, &[u8])]) -> CString {
    let mut sql = vec![];
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, after) = behind.split_once('}').unwrap_or((behind, ""));
        sql.extend(before.as_bytes());
        match parts.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => sql.extend(*value),
            // Braces of the statement's own.
            None => sql.extend(format!("{{{name}}}").as_bytes()),
        }
        rest = after;
    }
    sql.extend(rest.as_bytes());
    // Names come from the catalogs, which have none.
    CString::new(sql).unwrap_or_else(|_| unreachable!("a statement has no NUL"))
}

/// Parts of a statement, one for each item, with a separator between them.
pub fn joined<T>(separator: &str, items: &[T], part: impl Fn(&T) -> Vec<u8>) -> Vec<u8> {
    items.iter().map(part).collect::<Vec<_>>().join(separator.as_bytes())
}

/// A name as SQL has it.
pub fn quoted(name: &CStr) -> Vec<u8> {
    // SAFETY: a C string; the result is one, too.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())) }.to_bytes().to_vec()
}

/// `OPERATOR(schema.name)`
///
/// # Safety
/// An operator that exists.
pub unsafe fn operator(operator: pg_sys::Oid) -> Vec<u8> {
    // SAFETY: the caller's promise; a row of the catalog, held until it is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::OPEROID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, operator.into());
        let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_operator>();
        let schema = quoted(CStr::from_ptr(pg_sys::get_namespace_name(form.oprnamespace)));
        let name = CStr::from_ptr(form.oprname.data.as_ptr()).to_bytes().to_vec();
        pg_sys::ReleaseSysCache(tuple);
        [b"OPERATOR(".as_slice(), &schema, b".", &name, b")"].concat()
    }
}

/// The setting under which names without a schema are Postgres's own.
pub const SAFE_PATH: (&CStr, &CStr) = (c"search_path", c"pg_catalog, pg_temp");

/// Why a part of a transaction was rolled back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// As Postgres packs it; also one that somebody has made up.
    pub sqlstate: i32,
    pub message: String,
}

impl Failure {
    /// Of an error that was caught.
    pub fn of(error: &CaughtError) -> Failure {
        match error {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => failure(report, 0),
            CaughtError::RustPanic { ereport, .. } => failure(ereport, 0),
        }
    }

    /// Its SQLSTATE.
    pub fn code(&self) -> CString {
        let characters = [0, 6, 12, 18, 24].map(|shift| (self.sqlstate >> shift & 0x3f) as u8 + b'0');
        CString::new(characters).unwrap_or_default()
    }

    /// Whether somebody else held a lock for too long.
    pub fn is_about_a_lock(&self) -> bool {
        self.sqlstate == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE as i32
    }

    /// Its message, as the database may hold it.
    pub fn text(&self) -> CString {
        CString::new(presentable(self.message.replace('\0', ""))).unwrap_or_default()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        // Only as an ERROR has it a SQLSTATE that can be read.
        match in_subtransaction(|| error.raise()) {
            Err(failure) => failure,
            Ok(never) => never,
        }
    }
}

/// Runs `work` in a subtransaction. If it raises an ERROR, what it did is undone, and `Err` has the error; one that is about
/// the session or the server rather than about what `work` does is raised again.
pub fn in_subtransaction<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    // SAFETY: the calls are those of PL/pgSQL for a block with an EXCEPTION clause: memory context and resource owner are put
    // back after each.
    unsafe {
        let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        let put_back = || {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        };
        pg_sys::BeginInternalSubTransaction(null());
        pg_sys::MemoryContextSwitchTo(context);
        let caught: RefCell<Option<CaughtError>> = None.into();
        let sqlstate = Cell::new(0);
        let mut note = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(note_sqlstate),
            arg: (&raw const sqlstate).cast_mut().cast(),
        };
        pg_sys::error_context_stack = &mut note;
        let work = AssertUnwindSafe(|| Some(work()));
        let result = attempt(work, |error| *caught.borrow_mut() = Some(error));
        pg_sys::error_context_stack = note.previous;
        match (result, caught.into_inner()) {
            (Some(result), _) => {
                pg_sys::ReleaseCurrentSubTransaction();
                put_back();
                Ok(result)
            }
            (None, error) => {
                pg_sys::MemoryContextSwitchTo(context);
                pg_sys::RollbackAndReleaseCurrentSubTransaction();
                put_back();
                match error {
                    Some(CaughtError::PostgresError(report) | CaughtError::ErrorReport(report))
                        if is_about_the_work(&report, sqlstate.get()) =>
                    {
                        Err(failure(&report, sqlstate.get()))
                    }
                    Some(error) => error.rethrow(),
                    None => unreachable!("work has returned or raised an error"),
                }
            }
        }
    }
}

/// Of an ERROR that Postgres raises pgrx keeps the SQLSTATE only if it knows it.
///
/// `ErrorContextCallback`; is called while the error is raised.
unsafe extern "C-unwind" fn note_sqlstate(state: *mut c_void) {
    // SAFETY: the cell of `in_subtransaction`, which has not returned; an error is being raised.
    unsafe { (*state.cast::<Cell<i32>>()).set(pg_sys::geterrcode()) };
}

fn attempt<T>(work: impl FnOnce() -> Option<T> + UnwindSafe, caught: impl Fn(CaughtError)) -> Option<T> {
    let caught = AssertUnwindSafe(caught);
    PgTryBuilder::new(work)
        .catch_others(move |error| {
            let caught = &caught;
            (caught.0)(error);
            None
        })
        .execute()
}

/// `noted`: the SQLSTATE, where the error was one of Postgres's own.
fn failure(report: &ErrorReportWithLevel, noted: i32) -> Failure {
    let known = report.sql_error_code();
    let sqlstate =
        if known == PgSqlErrorCode::ERRCODE_INTERNAL_ERROR && noted != 0 { noted } else { known as i32 };
    Failure { sqlstate, message: report.message().to_string() }
}

/// Whether an error says something about the rows at hand: not a cancel, a shutdown, a want of memory or disk, a conflict
/// with another transaction, or a file that cannot be read.
fn is_about_the_work(report: &ErrorReportWithLevel, noted: i32) -> bool {
    let code = failure(report, noted).code();
    !matches!(code.to_bytes().first_chunk(), Some(b"40" | b"53" | b"57" | b"58"))
}

/// Runs `work` with other rights. An ERROR puts back those of before, as the transaction is aborted.
///
/// As when autovacuum or REINDEX runs functions of a table's owner: what they do cannot outlast the call.
pub fn as_user<T>(user: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let (mut before, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: what was there before is put back.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut before, &mut context);
        let restricted = context | pg_sys::SECURITY_RESTRICTED_OPERATION as c_int;
        pg_sys::SetUserIdAndSecContext(user, restricted);
        // Nor can the settings that they change.
        let level = pg_sys::NewGUCNestLevel();
        let result = work();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(before, context);
        result
    }
}

/// Runs `work` under settings that hold for it alone. An ERROR restores them, too, with the transaction's abort.
pub fn under<T>(settings: &[(&CStr, &CStr)], work: impl FnOnce() -> T) -> T {
    // SAFETY: sets settings that anybody may set, and puts back what there was.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        let result = work();
        pg_sys::AtEOXact_GUC(false, level);
        result
    }
}
