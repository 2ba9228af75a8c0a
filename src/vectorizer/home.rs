//! Where the extension is: its schema, which the user chooses, and the role that its tables belong to.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::table::Table;
use crate::error::{OrRaise, PipelineError};
use crate::spi::{Connection, Cursor, Rows, SAFE_PATH, Value, as_user, quoted, statement, under};

pub struct Home {
    /// A function of the extension.
    pub function: pg_sys::Oid,
    /// The extension's schema, quoted.
    pub schema: Vec<u8>,
    pub owner: pg_sys::Oid,
    /// The table of the queue, by whose number locks are known.
    pub log: pg_sys::Oid,
}

impl Home {
    /// # Safety
    /// `fcinfo` is that of a running function of the extension.
    pub unsafe fn of_call(fcinfo: pg_sys::FunctionCallInfo) -> Home {
        // SAFETY: the caller's promise.
        let home = unsafe { Home::of_function((*(*fcinfo).flinfo).fn_oid) };
        home.ok_or(PipelineError::NoExtension).or_raise()
    }

    /// That of the extension in this database; `None` where there is none.
    pub fn of_database() -> Option<Home> {
        let connection = Connection::open();
        let find = c"SELECT p.oid FROM pg_extension AS e, pg_depend AS d, pg_proc AS p
            WHERE e.extname IN ('pg_embed', 'pg_embed_pgvector') AND p.proname = 'vectorizer_enqueue'
                AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
                AND d.classid = 'pg_proc'::regclass AND d.objid = p.oid";
        let found = under(&[SAFE_PATH], || connection.run(find, &[])).first(1)?;
        // SAFETY: a function of the extension's.
        unsafe { Home::of_function(pg_sys::Oid::from(found.value() as u32)) }
    }

    /// Runs a statement about the extension's own tables, with the rights of their owner. `{home}` in it is their schema.
    pub fn run(&self, connection: &Connection, template: &str, arguments: &[Value]) -> Rows {
        let sql = statement(template, &[("home", &self.schema)]);
        as_user(self.owner, || under(&[SAFE_PATH], || connection.run(&sql, arguments)))
    }

    /// Like [`run`](Home::run), for a query that sees what the active snapshot does.
    pub fn look(&self, connection: &Connection, template: &str, arguments: &[Value]) -> Rows {
        let sql = statement(template, &[("home", &self.schema)]);
        as_user(self.owner, || under(&[SAFE_PATH], || connection.look(&sql, arguments)))
    }

    /// Runs a statement about a user's table as its owner. `{table}` in it is the table, `{home}` the extension's schema.
    pub fn ddl(&self, connection: &Connection, table: &Table, template: &str, parts: &[(&str, &[u8])]) {
        let mut all = vec![("table", table.sql.as_slice()), ("home", &self.schema)];
        all.extend(parts);
        let sql = statement(template, &all);
        as_user(table.owner, || under(&[SAFE_PATH], || connection.run(&sql, &[])));
    }

    /// Like [`run`](Home::run), for a statement whose rows are fetched a few at a time.
    pub fn cursor(&self, connection: &Connection, template: &str, arguments: &[Value]) -> Cursor {
        let sql = statement(template, &[("home", &self.schema)]);
        as_user(self.owner, || under(&[SAFE_PATH], || connection.cursor(&sql, arguments)))
    }

    /// `None`: it has been dropped.
    ///
    /// # Safety
    /// `function` is one of the extension.
    unsafe fn of_function(function: pg_sys::Oid) -> Option<Home> {
        // SAFETY: the caller's promise; the function's row of the catalog is held until it is released.
        unsafe {
            let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
            let tuple = pg_sys::SearchSysCache1(cache, function.into());
            if tuple.is_null() {
                return None;
            }
            let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
            let schema = pg_sys::get_namespace_name(form.pronamespace);
            if schema.is_null() {
                pg_sys::ReleaseSysCache(tuple);
                return None;
            }
            let schema = CStr::from_ptr(schema);
            let log = pg_sys::get_relname_relid(c"vectorizer_log".as_ptr(), form.pronamespace);
            let home = Home { function, schema: quoted(schema), owner: form.proowner, log };
            pg_sys::ReleaseSysCache(tuple);
            Some(home)
        }
    }
}
