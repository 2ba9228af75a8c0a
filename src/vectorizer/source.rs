//! The source of vectors: a table with a key, how that is written into the queue, and how rows are found again by it.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use super::home::Home;
use super::table::Table;
use crate::error::{Error, PipelineError, quotable};
use crate::spi::{Connection, operator, quoted};

/// A table with texts, and by what its rows are told from each other.
pub struct Source<'a> {
    pub home: &'a Home,
    pub connection: &'a Connection,
    pub table: &'a Table,
    pub key: Vec<KeyColumn>,
}

impl Source<'_> {
    /// # Errors
    /// [`PipelineError::NoPrimaryKey`].
    pub fn of<'a>(home: &'a Home, connection: &'a Connection, table: &'a Table) -> Result<Source<'a>, Error> {
        Ok(Source { home, connection, table, key: KeyColumn::all_of(table)? })
    }
}

/// One column of a primary key, or another one that rows are found by.
pub struct KeyColumn {
    pub name: CString,
    /// Its type with modifiers, as SQL has it.
    pub type_sql: Vec<u8>,
    /// The operator that its index compares with, as SQL has it.
    equals: Vec<u8>,
    collation: Option<Vec<u8>>,
}

impl KeyColumn {
    /// The columns of a table's primary key, in the order of the table's.
    ///
    /// # Errors
    /// [`PipelineError::NoPrimaryKey`].
    pub fn all_of(table: &Table) -> Result<Vec<KeyColumn>, Error> {
        let numbers = table.with(numbers);
        if numbers.is_empty() {
            return Err(PipelineError::NoPrimaryKey { table: table.name() }.into());
        }
        Ok(numbers.into_iter().map(|number| KeyColumn::of(table, number)).collect())
    }

    /// Any column, to be compared with values that its type's modifiers must not cut.
    ///
    /// # Errors
    /// [`PipelineError::NoColumn`], [`PipelineError::NoEquality`].
    pub fn to_compare(table: &Table, name: &CStr) -> Result<KeyColumn, Error> {
        let number = table.number(name)?;
        let (base, _) = table.type_of(number);
        // SAFETY: the type of a column exists. What is returned is a C string: without a modifier that cuts values, as
        // `character` has one.
        let type_sql = unsafe {
            let types = &*pg_sys::lookup_type_cache(base, pg_sys::TYPECACHE_EQ_OPR as i32);
            if types.eq_opr == pg_sys::InvalidOid {
                return Err(PipelineError::NoEquality { column: quotable(name) }.into());
            }
            let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
            CStr::from_ptr(pg_sys::format_type_extended(base, -1, flags as u16)).to_bytes().to_vec()
        };
        Ok(KeyColumn { type_sql, ..KeyColumn::of(table, number) })
    }

    /// Of a type that has equality.
    fn of(table: &Table, number: pg_sys::AttrNumber) -> KeyColumn {
        // SAFETY: a column of the primary key of an open table; its type has a btree operator class. What the functions return
        // are C strings.
        unsafe {
            let (mut type_oid, mut typmod, mut collation) = Default::default();
            pg_sys::get_atttypetypmodcoll(table.oid, number, &mut type_oid, &mut typmod, &mut collation);
            let types = pg_sys::lookup_type_cache(type_oid, pg_sys::TYPECACHE_EQ_OPR as i32);
            let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
            let type_sql = pg_sys::format_type_extended(type_oid, typmod, flags as u16);
            let name = table.with(|relation| pg_sys::SPI_fname((*relation).rd_att, number.into()));
            KeyColumn {
                name: CStr::from_ptr(name).to_owned(),
                type_sql: CStr::from_ptr(type_sql).to_bytes().to_vec(),
                equals: operator((*types).eq_opr),
                collation: collation_sql(collation),
            }
        }
    }

    /// `alias.name = CAST(value AS type)`
    pub fn condition(&self, alias: &str, value: &str) -> Vec<u8> {
        [alias.as_bytes(), b".", &quoted(&self.name), b" ", &self.equals, b" ", &self.cast(value)].concat()
    }

    /// `alias.name = ANY (...)`, of a list of texts.
    pub fn any_of(&self, alias: &str, texts: &str) -> Vec<u8> {
        let list = [b" ANY (CAST(".as_slice(), texts.as_bytes(), b" AS ", &self.type_sql, b"[]))"].concat();
        [alias.as_bytes(), b".", &quoted(&self.name), b" ", &self.equals, &list].concat()
    }

    /// Whether its values are arrays.
    pub fn has_arrays(&self) -> bool {
        self.type_sql.ends_with(b"[]")
    }

    pub fn is_null(&self, alias: &str) -> Vec<u8> {
        [alias.as_bytes(), b".", &quoted(&self.name), b" IS NULL"].concat()
    }

    /// A text of the queue as a value of the column.
    pub fn cast(&self, value: &str) -> Vec<u8> {
        [b"CAST(".as_slice(), value.as_bytes(), b" AS ", &self.type_sql, b")"].concat()
    }

    /// `COLLATE ...`; nothing for a type without.
    pub fn collation(&self) -> Vec<u8> {
        self.collation.clone().unwrap_or_default()
    }

    /// `a.name = b.name`
    pub fn equal_columns(&self, a: &str, b: &str) -> Vec<u8> {
        let name = quoted(&self.name);
        [a.as_bytes(), b".", &name, b" ", &self.equals, b" ", b.as_bytes(), b".", &name].concat()
    }
}

/// ` COLLATE schema.name`
fn collation_sql(oid: pg_sys::Oid) -> Option<Vec<u8>> {
    // SAFETY: a row of the catalog, held until it is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::COLLOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, oid.into());
        if tuple.is_null() {
            return None;
        }
        let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_collation>();
        let schema = quoted(CStr::from_ptr(pg_sys::get_namespace_name(form.collnamespace)));
        let name = quoted(CStr::from_ptr(form.collname.data.as_ptr()));
        pg_sys::ReleaseSysCache(tuple);
        Some([b" COLLATE ".as_slice(), &schema, b".", &name].concat())
    }
}

/// The numbers of the columns of a relation's primary key, ascending; none without one.
pub fn numbers(relation: pg_sys::Relation) -> Vec<pg_sys::AttrNumber> {
    let kind = pg_sys::IndexAttrBitmapKind::INDEX_ATTR_BITMAP_PRIMARY_KEY;
    // SAFETY: an open relation; members of the set are numbers of columns that begin with those of system columns.
    unsafe {
        let set = pg_sys::RelationGetIndexAttrBitmap(relation, kind);
        let mut numbers = vec![];
        let mut member = -1;
        loop {
            member = pg_sys::bms_next_member(set, member);
            if member < 0 {
                break;
            }
            numbers.push((member + pg_sys::FirstLowInvalidHeapAttributeNumber) as pg_sys::AttrNumber);
        }
        pg_sys::bms_free(set);
        numbers
    }
}
