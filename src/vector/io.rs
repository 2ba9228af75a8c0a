//! Input, output and typmod functions.
use super::datum::Vector;
use pgrx::prelude::*;

#[pg_extern(sql = false, immutable, strict, parallel_safe)]
fn vector_dims(v: Vector<'_>) -> i32 {
    v.len() as i32
}
