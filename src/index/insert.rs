//! `aminsert`

use std::rc::Rc;

use ivf::index::Index;
use ivf::insert;
use pgrx::{PgMemoryContexts, pg_guard, pg_sys};

use super::columns::IndexColumns;
use super::page::Pages;
use super::sample::{check_dimensions, check_limit};
use super::{OfIndex, open, to_tid};
use crate::error::OrRaise;
use crate::vector::Vector;

/// `aminsert`; NULL is not indexed. Never says that the row is unique, which nobody asks.
#[pg_guard]
#[allow(clippy::too_many_arguments)] // the interface of Postgres
pub unsafe extern "C-unwind" fn insert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    heap_tid: pg_sys::ItemPointer,
    _heap: pg_sys::Relation,
    _check_unique: pg_sys::IndexUniqueCheck::Type,
    _index_unchanged: bool,
    info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: Postgres passes an open index and a value for each column, the first of which is a `vector`.
    unsafe {
        if *nulls {
            return false;
        }
        let pages = Pages::of(index);
        let vector = Vector::detoast(*values);
        let columns = IndexColumns::of(index).or_raise();
        let opened = opened(index, &pages, &columns, info, vector.len());
        check_dimensions(opened.geometry.dims, vector.len()).or_raise();
        let mut numbers = Vec::new();
        columns.read(values, nulls, &mut numbers);
        insert::insert(&pages, opened, to_tid(*heap_tid), &vector, &numbers).or_raise_for(index);
    }
    false
}

/// The index as the statement's first row opened it, or a later one after a training; if that is the index's first row
/// of all, its dimensions may
/// become the index's.
///
/// # Safety
/// As for `aminsert`.
unsafe fn opened<'a>(
    index: pg_sys::Relation,
    pages: &Pages,
    columns: &IndexColumns,
    info: *mut pg_sys::IndexInfo,
    dims: usize,
) -> &'a mut Rc<Index> {
    // SAFETY: the caller's promise. Nobody but us uses `ii_AmCache`; what it points to is dropped with the memory
    // context that `info` is in, which outlives the call.
    unsafe {
        let cache = &mut (*info).ii_AmCache;
        if cache.is_null() {
            let mut opened = open(pages, columns).or_raise_for(index);
            if !opened.knows_dimensions() {
                check_limit(dims).or_raise();
                insert::settle(pages, dims).or_raise_for(index);
                opened = open(pages, columns).or_raise_for(index);
            }
            *cache = PgMemoryContexts::For((*info).ii_Context).leak_and_drop_on_delete(opened).cast();
        }
        &mut *cache.cast::<Rc<Index>>()
    }
}
