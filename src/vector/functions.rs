//! Functions of one vector.

use super::call::vector_functions;
use super::datum::{Palloced, Vector, VectorBuf};
use crate::error::OrRaise;
use ivf::vector;
use pgrx::prelude::*;

vector_functions! {
    fn vector_dims(v) -> i32 {
        v.len() as i32
    }

    fn vector_norm(v) -> f64 {
        vector::norm(&v)
    }
}

#[pg_extern(sql = false)]
fn l2_normalize(v: Vector<'_>) -> VectorBuf {
    let mut result = VectorBuf::zeroed(v.len()).or_raise();
    vector::normalize(&v, &mut result).or_raise();
    result
}

/// Like `substring`: positions count from 1, and those outside the vector are left out.
#[pg_extern(sql = false)]
fn subvector(v: Vector<'_>, start: i32, count: i32) -> VectorBuf {
    let len = v.len() as i64;
    let first = i64::from(start).max(1) - 1;
    let end = (i64::from(start) + i64::from(count) - 1).min(len);
    let part = if first < end { &v[first as usize..end as usize] } else { &[] };
    VectorBuf::from_slice(part).or_raise()
}

/// A `bit(n)`: its length in bits, then the bits, the first at the top of the first byte.
#[pg_extern(sql = false)]
fn binary_quantize(v: Vector<'_>) -> Palloced {
    Palloced::varlena(size_of::<i32>() + v.len().div_ceil(8), |bit| {
        let (len, bits) = bit.split_at_mut(size_of::<i32>());
        len.copy_from_slice(&(v.len() as i32).to_ne_bytes());
        vector::positive_bits(&v, bits);
    })
}
