//! `avg`: its state is a `float8[]` of the count and a sum per dimension, `{0}` before the first row.
//! `sum` is `vector_add`.

use super::array::Array;
use super::datum::{Vector, VectorBuf, check_dimensions, check_typmod};
use crate::error::{Error, OrRaise};
use ivf::vector;
use pgrx::prelude::*;

/// Whether the call is an aggregate's: its first argument then is the state, which may be changed in place.
pub fn in_aggregate(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: Postgres passes a valid `fcinfo`; most calls have no context and are spared the question.
    unsafe { !(*fcinfo).context.is_null() && pg_sys::AggCheckCallContext(fcinfo, std::ptr::null_mut()) != 0 }
}

/// The state in an array: the count, and the sums after the first row.
fn state<'a>(array: &'a Array, function: &'static str) -> Result<&'a [f64], Error> {
    let state = if array.ndim() == 1 && !array.has_null_bitmap() { array.elements() } else { None };
    state.filter(|state| !state.is_empty()).ok_or(Error::NotAState { function })
}

/// A state to be changed: an aggregate's own, a copy of any other, room for `dim` sums where there are none yet.
fn to_change(array: Array, dim: usize, fcinfo: pg_sys::FunctionCallInfo) -> Array {
    let state: &[f64] = array.elements().unwrap_or_default();
    if state.len() > 1 && in_aggregate(fcinfo) {
        return array;
    }
    Array::build(state.len().max(1 + dim), |new| {
        // What leaves every number as it is when added, 0 and -0 as well.
        new.fill(-0.0);
        new[..state.len()].copy_from_slice(state);
    })
}

#[pg_extern(sql = false)]
fn vector_accum(array: Array, value: Vector<'_>, fcinfo: pg_sys::FunctionCallInfo) -> Array {
    accumulate(array, &value, fcinfo).or_raise()
}

fn accumulate(array: Array, value: &[f32], fcinfo: pg_sys::FunctionCallInfo) -> Result<Array, Error> {
    let dim = state(&array, "vector_accum")?.len() - 1;
    if dim > 0 {
        check_typmod(dim as i32, value.len())?;
    }
    let mut result = to_change(array, value.len(), fcinfo);
    // SAFETY: `to_change` returns what may be changed.
    vector::accumulate(unsafe { result.elements_mut() }.unwrap_or_default(), value)?;
    Ok(result)
}

#[pg_extern(sql = false)]
fn vector_combine(a: Array, b: Array, fcinfo: pg_sys::FunctionCallInfo) -> Array {
    combine(a, &b, fcinfo).or_raise()
}

fn combine(a: Array, b: &Array, fcinfo: pg_sys::FunctionCallInfo) -> Result<Array, Error> {
    let dim = state(&a, "vector_combine")?.len() - 1;
    let other = state(b, "vector_combine")?;
    let other_dim = other.len() - 1;
    match (dim, other_dim) {
        (0, 0) => (),
        (0, dim) | (dim, 0) => check_dimensions(dim)?,
        _ => {
            check_dimensions(dim)?;
            check_typmod(dim as i32, other_dim)?;
        }
    }
    let mut result = to_change(a, other_dim, fcinfo);
    // SAFETY: `to_change` returns what may be changed.
    vector::combine(unsafe { result.elements_mut() }.unwrap_or_default(), other)?;
    Ok(result)
}

#[pg_extern(sql = false)]
fn vector_avg(array: Array) -> Option<VectorBuf> {
    average(&array).or_raise()
}

fn average(array: &Array) -> Result<Option<VectorBuf>, Error> {
    let state = state(array, "vector_avg")?;
    // The average of no rows is NULL.
    if state[0] == 0.0 {
        return Ok(None);
    }
    let mut result = VectorBuf::zeroed(state.len() - 1)?;
    vector::mean(state, &mut result)?;
    Ok(Some(result))
}
