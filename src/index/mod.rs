//! The access method `ivf`: Postgres's side of the index in `crates/ivf`.
//!
//! One file a verb of the access method; [`page`] holds the guards over Postgres's buffers that the engine works on.

mod build;
mod calibrate;
mod columns;
mod compare;
mod condition;
mod cost;
mod distance;
mod executor;
mod handler;
mod insert;
mod inspect;
mod maintain;
mod options;
mod page;
mod parallel;
mod paths;
mod recall;
mod rows;
mod sample;
mod scan;
mod sort;
mod threshold;
mod vacuum;
mod validate;

pub use options::MAX_LISTS;

use std::cell::RefCell;
use std::ffi::{CStr, c_char};
use std::rc::Rc;

use ivf::index::Index;
use ivf::layout::{META_BLOCK, Page, Tid};
use ivf::metric::Metric;
use ivf::store::IndexError;
use pgrx::pg_sys;

use self::columns::IndexColumns;
use self::page::Pages;
use crate::error::{Error, IvfError, quotable};

/// Hooks into what Postgres does with each statement. To be called when the library is loaded, which the planner does at
/// the latest when it considers an index.
pub fn register() {
    executor::register();
    paths::register();
}

/// The vector's column of an index, the first; others are for conditions ([`columns`]).
const COLUMN: usize = 1;
/// The operator that an index can order by.
const DISTANCE_STRATEGY: u16 = 1;
/// The operator that says that a vector is within a sphere; see [`threshold`].
const WITHIN_STRATEGY: u16 = 2;
/// The support function that tells the metric.
const METRIC_FUNCTION: u16 = 1;
/// The support function that hashes a value of a column beside the vector.
const HASH_FUNCTION: u16 = 2;

// A page of the engine fills what Postgres leaves of a block, and a float8 is passed by value.
const _: () = assert!(pg_sys::BLCKSZ as usize == page::HEADER_BYTES + size_of::<Page>());
const _: () = assert!(size_of::<Tid>() == size_of::<pg_sys::ItemPointerData>());
const _: () = assert!(size_of::<pg_sys::Datum>() == size_of::<f64>());

/// The name of a relation, to show it.
///
/// # Safety
/// `relation` is open.
unsafe fn name_of(relation: pg_sys::Relation) -> String {
    // SAFETY: the caller's promise; a name ends in a NUL.
    unsafe { owned((*(*relation).rd_rel).relname.data.as_ptr()) }
}

/// # Safety
/// `text` ends in a NUL.
unsafe fn owned(text: *const c_char) -> String {
    // SAFETY: the caller's promise.
    quotable(unsafe { CStr::from_ptr(text) })
}

/// What can be done with a result of the engine, for which it needs the name of the index.
trait OfIndex<T> {
    /// Raises the error.
    ///
    /// # Safety
    /// `index` is open.
    unsafe fn or_raise_for(self, index: pg_sys::Relation) -> T;
}

impl<T> OfIndex<T> for Result<T, IndexError> {
    #[inline]
    unsafe fn or_raise_for(self, index: pg_sys::Relation) -> T {
        self.unwrap_or_else(|error| {
            // SAFETY: the caller's promise.
            let name = unsafe { name_of(index) };
            Error::from(IvfError::Unreadable { name, error }).raise()
        })
    }
}

/// What the index's operator class orders by, as its support function says.
///
/// # Safety
/// `index` is an open index of this access method.
unsafe fn metric_of(index: pg_sys::Relation) -> Result<Metric, Error> {
    // SAFETY: the caller's promise; amvalidate and CREATE OPERATOR CLASS see to the function's signature.
    let stored = unsafe {
        let function = pg_sys::index_getprocid(index, COLUMN as pg_sys::AttrNumber, METRIC_FUNCTION);
        if function == pg_sys::InvalidOid {
            return Err(IvfError::NoMetric.into());
        }
        pg_sys::OidFunctionCall0Coll(function, pg_sys::InvalidOid)
    };
    Metric::from_stored(stored.value() as u32).ok_or_else(|| IvfError::NoMetric.into())
}

/// The operator that an index orders by.
///
/// # Safety
/// `index` is an open index of this access method.
unsafe fn distance_operator(index: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: the caller's promise: it has an operator family for its first column.
    unsafe {
        let (family, input) = (*(*index).rd_opfamily, *(*index).rd_opcintype);
        pg_sys::get_opfamily_member(family, input, input, DISTANCE_STRATEGY as i16)
    }
}

/// Opens an index that has these columns; if it is the one that was opened last, what was computed then serves again: the
/// rotation's signs took 3 µs a query (measured).
fn open(pages: &Pages, columns: &IndexColumns) -> Result<Rc<Index>, IndexError> {
    thread_local! {
        static LAST: RefCell<Option<Rc<Index>>> = const { RefCell::new(None) };
    }
    // Not borrowed meanwhile, as an ERROR may end this.
    let last = LAST.with_borrow(Option::clone);
    let opened = Index::reopen(pages, last)?;
    LAST.set(Some(opened.clone()));
    if opened.meta.columns != columns.stored() {
        return Err(IndexError::corrupt(META_BLOCK, "has other columns than the catalog says"));
    }
    Ok(opened)
}

/// The indexed value is computed, not a column of the table.
///
/// # Safety
/// `index` is an open index.
unsafe fn is_on_expression(index: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise; an index has at least one column.
    unsafe { *(*(*index).rd_index).indkey.values.as_ptr() == 0 }
}

/// A heap tuple's address as the engine keeps it.
fn to_tid(pointer: pg_sys::ItemPointerData) -> Tid {
    let block = u32::from(pointer.ip_blkid.bi_hi) << 16 | u32::from(pointer.ip_blkid.bi_lo);
    Tid::new(block, pointer.ip_posid)
}

fn to_pointer(tid: Tid) -> pg_sys::ItemPointerData {
    let block = tid.block();
    let ip_blkid = pg_sys::BlockIdData { bi_hi: (block >> 16) as u16, bi_lo: block as u16 };
    pg_sys::ItemPointerData { ip_blkid, ip_posid: tid.offset }
}

/// Ends the statement if it was cancelled; for the engine's loops without a page store.
fn check_interrupts() -> Result<(), IndexError> {
    pgrx::check_for_interrupts!();
    Ok(())
}
