//! Input, output and typmod functions.
use super::datum::Vector;
use crate::error::Error;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use std::ffi::CStr;

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn vector_dims(v: Vector<'_>) -> i32 {
    v.len() as i32
}

#[pg_extern(sql = false)]
fn vector_in<'a>(input: &'a CStr, _typelem: pg_sys::Oid, _typmod: i32) -> Result<Vector<'a>, ErrorReport> {
    if input.is_empty() {
        return Err(Error::from(ivf::vector::VectorError::Overflow))?;
    }
    Ok(Vector::zeroed(3))
}
