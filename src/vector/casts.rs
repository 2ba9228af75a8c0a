//! Casts between `vector` and arrays of numbers. The last argument, whether the cast is explicit, does not matter.

use super::array::Array;
use super::datum::{Vector, VectorBuf, check_dimensions, check_typmod};
use crate::error::{Error, OrRaise};
use ivf::vector::check_finite;
use pgrx::prelude::*;

/// Checks the type modifier.
#[pg_extern(sql = false)]
fn vector_to_vector(v: Vector<'_>, typmod: i32, _explicit: bool) -> Vector<'_> {
    check_typmod(typmod, v.len()).or_raise();
    v
}

#[pg_extern(sql = false)]
fn array_to_vector(array: Array, typmod: i32, _explicit: bool) -> VectorBuf {
    from_array(&array, typmod).or_raise()
}

fn from_array(array: &Array, typmod: i32) -> Result<VectorBuf, Error> {
    if array.ndim() > 1 {
        return Err(Error::ArrayNotFlat);
    }
    if array.has_nulls() {
        return Err(Error::ArrayHasNulls);
    }
    check_dimensions(array.len())?;
    check_typmod(typmod, array.len())?;
    let mut vector = VectorBuf::zeroed(array.len())?;
    if let Some(elements) = array.elements::<f32>() {
        vector.copy_from_slice(elements);
    } else if let Some(elements) = array.elements::<f64>() {
        convert(elements, &mut vector, |x| x as f32);
    } else if let Some(elements) = array.elements::<i32>() {
        convert(elements, &mut vector, |x| x as f32);
    } else if let Some(elements) = array.numerics() {
        vector.copy_from_slice(&elements);
    } else {
        return Err(Error::UnsupportedArray);
    }
    check_finite(&vector)?;
    Ok(vector)
}

fn convert<T: Copy>(elements: &[T], vector: &mut [f32], to_f32: impl Fn(T) -> f32) {
    for (x, &element) in vector.iter_mut().zip(elements) {
        *x = to_f32(element);
    }
}

#[pg_extern(sql = false)]
fn vector_to_float4(v: Vector<'_>, _typmod: i32, _explicit: bool) -> Array {
    Array::build(v.len(), |elements| elements.copy_from_slice(&v))
}
