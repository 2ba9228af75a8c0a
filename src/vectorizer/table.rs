//! The table whose texts are embedded, and the columns that it must have.

use std::ffi::{CStr, CString, c_char};
use std::ptr::null_mut;

use pgrx::pg_sys;

use super::home::Home;
use crate::embed::vector_type;
use crate::error::{Error, PipelineError, quotable};
use crate::spi::{Connection, quoted, statement};

unsafe extern "C-unwind" {
    /// Of catalog/pg_inherits.h, which pgrx leaves out.
    fn has_superclass(relation: pg_sys::Oid) -> bool;
}

/// A table, locked against changes of its columns until the transaction ends.
///
/// It is opened for each question: a table that this session has open cannot be changed by it.
pub struct Table {
    pub oid: pg_sys::Oid,
    /// Its name with its schema, quoted.
    pub sql: Vec<u8>,
    name: CString,
    /// The role that it belongs to.
    pub owner: pg_sys::Oid,
}

/// A column that holds vectors.
pub struct VectorColumn {
    pub type_oid: pg_sys::Oid,
    /// The n of `vector(n)`.
    pub dimensions: Option<usize>,
}

impl VectorColumn {
    /// Whether its dimensions are fixed, and others.
    pub fn is_other(&self, dimensions: usize) -> bool {
        self.dimensions.is_some_and(|now| now != dimensions)
    }

    /// Whether vectors of a model fit. `name`: the column's.
    pub fn check_dimensions(&self, name: &CStr, model: &str, found: usize) -> Result<(), Error> {
        match self.dimensions {
            Some(expected) if expected != found => Err(PipelineError::WrongDimensions {
                column: quotable(name),
                expected,
                model: model.to_string(),
                found,
            }
            .into()),
            _ => Ok(()),
        }
    }
}

impl Table {
    /// # Errors
    /// [`PipelineError::NotATable`] for a view, a foreign table and the like; an ERROR for what does not exist.
    pub fn open(oid: pg_sys::Oid) -> Result<Table, Error> {
        // SAFETY: opens a relation; the lock stays until the transaction ends.
        unsafe { Table::of(pg_sys::relation_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE)) }
    }

    /// `None`: it has been dropped, or is no table.
    pub fn if_exists(oid: pg_sys::Oid) -> Option<Table> {
        Table::if_exists_with(oid, pg_sys::AccessShareLock)
    }

    /// Likewise, with the lock of those who write to it.
    pub fn to_write_if_exists(oid: pg_sys::Oid) -> Option<Table> {
        Table::if_exists_with(oid, pg_sys::RowExclusiveLock)
    }

    fn if_exists_with(oid: pg_sys::Oid, lock: u32) -> Option<Table> {
        // SAFETY: opens a relation; the lock stays until the transaction ends.
        unsafe {
            let relation = pg_sys::try_relation_open(oid, lock as pg_sys::LOCKMODE);
            if relation.is_null() { None } else { Table::of(relation).ok() }
        }
    }

    /// # Safety
    /// An open relation, which is closed.
    unsafe fn of(relation: pg_sys::Relation) -> Result<Table, Error> {
        // SAFETY: the caller's promise. Its name and schema are C strings.
        unsafe {
            let form = &*(*relation).rd_rel;
            let is_table =
                [pg_sys::RELKIND_RELATION, pg_sys::RELKIND_PARTITIONED_TABLE].contains(&(form.relkind as u8));
            let schema = CStr::from_ptr(pg_sys::get_namespace_name(form.relnamespace));
            let name = CStr::from_ptr(form.relname.data.as_ptr());
            let table = Table {
                oid: (*relation).rd_id,
                sql: [quoted(schema), quoted(name)].join(&b'.'),
                name: name.to_owned(),
                owner: form.relowner,
            };
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            if is_table { Ok(table) } else { Err(PipelineError::NotATable { name: table.name() }.into()) }
        }
    }

    /// Waits until nobody writes to it, and lets nobody until the transaction ends; its partitions neither.
    pub fn lock_against_writers(&self, home: &Home, connection: &Connection) {
        home.ddl(connection, self, "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE", &[]);
    }

    /// Lets nobody even read it until the transaction ends.
    pub fn lock_against_all(&self, home: &Home, connection: &Connection) {
        home.ddl(connection, self, "LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE", &[]);
    }

    /// Calls `read` with the table open.
    pub fn with<T>(&self, read: impl FnOnce(pg_sys::Relation) -> T) -> T {
        // SAFETY: locked since `open`.
        unsafe {
            let relation = pg_sys::relation_open(self.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
            let result = read(relation);
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            result
        }
    }

    /// What messages call it.
    pub fn name(&self) -> String {
        quotable(&self.name)
    }

    /// The number of a column.
    pub fn number(&self, column: &CStr) -> Result<pg_sys::AttrNumber, Error> {
        // SAFETY: open; SPI_fnumber gives a column's number, or something below 1 for system columns and names unknown.
        let number =
            self.with(|relation| unsafe { pg_sys::SPI_fnumber((*relation).rd_att, column.as_ptr()) });
        if number < 1 {
            return Err(PipelineError::NoColumn { column: quotable(column), table: self.name() }.into());
        }
        Ok(number as pg_sys::AttrNumber)
    }

    /// The type of a column, without domains around it, and its modifier.
    pub fn type_of(&self, number: pg_sys::AttrNumber) -> (pg_sys::Oid, i32) {
        let (mut declared, mut typmod, mut collation) = Default::default();
        // SAFETY: a column that exists.
        unsafe {
            pg_sys::get_atttypetypmodcoll(self.oid, number, &mut declared, &mut typmod, &mut collation);
            (pg_sys::getBaseTypeAndTypmod(declared, &mut typmod), typmod)
        }
    }

    /// A column to write vectors into. `function` is one of this extension, whose type it must have.
    pub fn vector_column(&self, column: &CStr, function: pg_sys::Oid) -> Result<VectorColumn, Error> {
        let number = self.number(column)?;
        let (type_oid, typmod) = self.type_of(number);
        if type_oid != vector_type(function) {
            return Err(PipelineError::NotAVector { column: quotable(column) }.into());
        }
        // SAFETY: a column that exists.
        if unsafe { pg_sys::get_attgenerated(self.oid, number) } != 0 {
            return Err(PipelineError::Generated { column: quotable(column) }.into());
        }
        Ok(VectorColumn { type_oid, dimensions: usize::try_from(typmod).ok() })
    }

    /// Checks that a column has text of some kind.
    pub fn text_column(&self, column: &CStr) -> Result<(), Error> {
        let (type_oid, _) = self.type_of(self.number(column)?);
        let (mut category, mut preferred) = (0 as c_char, false);
        // SAFETY: the type of a column exists.
        unsafe { pg_sys::get_type_category_preferred(type_oid, &mut category, &mut preferred) };
        if category as u8 == pg_sys::TYPCATEGORY_STRING {
            Ok(())
        } else {
            Err(PipelineError::NotText { column: quotable(column) }.into())
        }
    }

    /// Sets a column of some rows to vectors; arguments: lists of the rows' tables, their addresses, and the vectors.
    pub fn statement_to_set(&self, target: &CStr) -> CString {
        statement(
            "UPDATE {table} AS t SET {target} = v.vector
            FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))
                AS v (tableoid, address, vector)
            WHERE t.ctid OPERATOR(pg_catalog.=) v.address AND t.tableoid OPERATOR(pg_catalog.=) v.tableoid",
            &[("table", &self.sql), ("target", &quoted(target))],
        )
    }

    pub fn has_column(&self, column: &CStr) -> bool {
        self.number(column).is_ok()
    }

    /// The names of its columns.
    pub fn columns(&self) -> Vec<CString> {
        // SAFETY: open; a descriptor has as many columns as it says, and their names are C strings.
        self.with(|relation| unsafe {
            let descriptor = (*relation).rd_att;
            let names = (1..=(*descriptor).natts).map(|number| pg_sys::SPI_fname(descriptor, number));
            names.map(|name| CStr::from_ptr(name).to_owned()).collect()
        })
    }

    /// Whether its rows are written as its own only: it has no partitions, and is neither a partition nor the child of another
    /// table.
    pub fn is_plain(&self) -> bool {
        // SAFETY: open; looks into a catalog.
        self.with(|relation| unsafe {
            let form = &*(*relation).rd_rel;
            form.relkind as u8 == pg_sys::RELKIND_RELATION
                && !form.relispartition
                && !has_superclass(self.oid)
        })
    }

    /// # Errors
    /// [`PipelineError::Temporary`]: no other session can read it. [`PipelineError::HasChildren`]: what is written to them does not
    /// fire the table's triggers.
    pub fn check_kind(&self) -> Result<(), Error> {
        // SAFETY: open.
        let (persistence, kind, has_children) = self.with(|relation| unsafe {
            let form = &*(*relation).rd_rel;
            (form.relpersistence as u8, form.relkind as u8, form.relhassubclass)
        });
        if persistence == pg_sys::RELPERSISTENCE_TEMP {
            return Err(PipelineError::Temporary { table: self.name() }.into());
        }
        if kind == pg_sys::RELKIND_RELATION && has_children {
            return Err(PipelineError::HasChildren { table: self.name() }.into());
        }
        Ok(())
    }

    /// Checks that a column's values are there when a trigger looks: not computed when they are read.
    pub fn check_stored(&self, column: &CStr) -> Result<(), Error> {
        /// Of pg_attribute.attgenerated, since PostgreSQL 18.
        const VIRTUAL: u8 = b'v';
        let number = self.number(column)?;
        // SAFETY: a column that exists.
        if unsafe { pg_sys::get_attgenerated(self.oid, number) } as u8 == VIRTUAL {
            return Err(PipelineError::Virtual { column: quotable(column) }.into());
        }
        Ok(())
    }

    /// Raises an ERROR if the current user is not its owner, or of that role.
    pub fn check_owner(&self) {
        // SAFETY: the name is a C string.
        unsafe {
            if !pg_sys::has_privs_of_role(pg_sys::GetUserId(), self.owner) {
                let not_owner = pg_sys::AclResult::ACLCHECK_NOT_OWNER;
                pg_sys::aclcheck_error(not_owner, pg_sys::ObjectType::OBJECT_TABLE, self.name.as_ptr());
            }
        }
    }

    /// Checks that the current user has a privilege on a column, or raises Postgres's own ERROR.
    pub fn check_privilege(&self, column: &CStr, privilege: u32) -> Result<(), Error> {
        let number = self.number(column)?;
        // SAFETY: a table and one of its columns; the name is a C string.
        unsafe {
            let (user, mode) = (pg_sys::GetUserId(), privilege as pg_sys::AclMode);
            let of_table = pg_sys::pg_class_aclcheck(self.oid, user, mode);
            if of_table != pg_sys::AclResult::ACLCHECK_OK {
                let of_column = pg_sys::pg_attribute_aclcheck(self.oid, number, user, mode);
                pg_sys::aclcheck_error(of_column, pg_sys::ObjectType::OBJECT_TABLE, self.name.as_ptr());
            }
        }
        Ok(())
    }
}

/// A type as SQL has it, with its schema.
pub fn type_sql(type_oid: pg_sys::Oid) -> Vec<u8> {
    // SAFETY: a type that exists; what is returned is a C string.
    unsafe { CStr::from_ptr(pg_sys::format_type_be_qualified(type_oid)) }.to_bytes().to_vec()
}

/// The text of an argument of type `text`, in the database's encoding.
///
/// # Safety
/// A `text` that is not NULL.
pub unsafe fn owned(text: pg_sys::Datum) -> CString {
    // SAFETY: the caller's promise; what is returned is a C string.
    unsafe {
        let copy = pg_sys::text_to_cstring(text.cast_mut_ptr());
        let owned = CStr::from_ptr(copy).to_owned();
        pg_sys::pfree(copy.cast());
        owned
    }
}

/// The elements of a `text[]`, NULLs left out.
///
/// # Safety
/// A `text[]` that is not NULL.
pub unsafe fn owned_list(array: pg_sys::Datum) -> Vec<CString> {
    let (mut datums, mut nulls, mut count) = (null_mut(), null_mut(), 0);
    // SAFETY: the caller's promise: the elements have length -1 and alignment int. Both lists have `count` entries.
    unsafe {
        pg_sys::deconstruct_array(
            pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast(),
            pg_sys::TEXTOID,
            -1,
            false,
            pg_sys::TYPALIGN_INT as c_char,
            &mut datums,
            &mut nulls,
            &mut count,
        );
        (0..count as usize).filter(|&i| !*nulls.add(i)).map(|i| owned(*datums.add(i))).collect()
    }
}
