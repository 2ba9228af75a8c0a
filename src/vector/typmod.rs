//! `vector(n)`: the type modifier is the number of dimensions.

use super::array::Array;
use super::datum::MAX_DIMENSIONS;
use crate::error::{Error, OrRaise};
use pgrx::prelude::*;

#[pg_extern(sql = false)]
fn vector_typmod_in(modifiers: Array) -> i32 {
    let mut len = 0;
    // SAFETY: Postgres passes a valid array; that it is a cstring[] of integers is checked in there.
    let modifiers = unsafe {
        let first = pg_sys::ArrayGetIntegerTypmods(modifiers.as_ptr(), &mut len);
        std::slice::from_raw_parts(first, len as usize)
    };
    dimensions(modifiers).or_raise()
}

fn dimensions(modifiers: &[i32]) -> Result<i32, Error> {
    match *modifiers {
        [n] if n < 1 => Err(Error::ModifierTooSmall),
        [n] if n as usize > MAX_DIMENSIONS => Err(Error::ModifierTooLarge),
        [n] => Ok(n),
        _ => Err(Error::NotOneModifier),
    }
}
