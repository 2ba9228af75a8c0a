//! `ivf_calibrate`: how far scans have to read, measured with queries that users have sent.

use std::ffi::c_char;
use std::ptr::null_mut;

use ivf::index::Index;
use ivf::measure;
use pgrx::prelude::*;

use super::distance::has_distance;
use super::inspect::{Opened, Privilege};
use super::sample::check_dimensions;
use super::{OfIndex, maintain};
use crate::error::{Error, IvfError, OrRaise};
use crate::vector::Vector;

/// The argument with the queries, from 0.
const QUERIES: usize = 1;

/// Measures how far scans have to read for these queries, and keeps it. False if the index is such that there is nothing to
/// be measured: it has one list. NULLs, and vectors that have no distance, are left out.
#[pg_extern(sql = false)]
fn ivf_calibrate(index: Option<pg_sys::Oid>, fcinfo: pg_sys::FunctionCallInfo) -> Option<bool> {
    let opened = Opened::new(index?, Privilege::Owner, pg_sys::AccessShareLock).or_raise();
    // SAFETY: both are open; the SQL declares the argument as `vector[]`.
    unsafe {
        maintain::lock(&opened).or_raise();
        let pages = opened.pages();
        let engine = Index::open(&pages).or_raise_for(opened.index);
        if !engine.knows_dimensions() {
            return Some(false);
        }
        let queries = pgrx::fcinfo::pg_getarg_datum(fcinfo, QUERIES)?;
        let mut usable = Vec::new();
        let memory = pg_sys::maintenance_work_mem as usize * 1024;
        for query in vectors(queries) {
            check_dimensions(engine.geometry.dims, query.len()).or_raise();
            if has_distance(engine.space.metric(), &query) {
                usable.push(query.to_vec());
            }
            let needed = measure::memory(&engine, usable.len().min(measure::MOST_QUERIES))
                + usable.len() * engine.geometry.dims * size_of::<f32>();
            if needed > memory {
                Error::from(IvfError::Memory { needed, available: memory }).raise();
            }
        }
        if usable.len() < measure::LEAST_QUERIES {
            let (least, given) = (measure::LEAST_QUERIES, usable.len());
            Error::from(IvfError::FewQueries { least, given }).raise();
        }
        Some(measure::calibrate(&pages, &engine, &usable).or_raise_for(opened.index))
    }
}

/// The elements of an array but NULLs.
///
/// # Safety
/// `array` is a `vector[]`.
unsafe fn vectors(array: pg_sys::Datum) -> impl Iterator<Item = Vector<'static>> {
    let (mut datums, mut nulls, mut count) = (null_mut(), null_mut(), 0);
    let (mut length, mut by_value, mut align): (i16, bool, c_char) = (0, false, 0);
    // SAFETY: the caller's promise. deconstruct_array allocates `count` entries, which live as long as this call of the
    // function, and the elements with them.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let of = (*array).elemtype;
        pg_sys::get_typlenbyvalalign(of, &mut length, &mut by_value, &mut align);
        pg_sys::deconstruct_array(
            array,
            of,
            length.into(),
            by_value,
            align,
            &mut datums,
            &mut nulls,
            &mut count,
        );
        let present = (0..count as usize).filter(move |&i| !*nulls.add(i));
        present.map(move |i| Vector::detoast(*datums.add(i)))
    }
}
