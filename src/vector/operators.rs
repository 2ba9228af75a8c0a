//! Distances, arithmetic and comparison: the functions behind the operators.

use super::aggregates::in_aggregate;
use super::call::vector_functions;
use super::datum::{Vector, VectorBuf};
use crate::error::OrRaise;
use ivf::vector::VectorError;
use ivf::{distance, vector};
use pgrx::prelude::*;

vector_functions! {
    fn l2_distance(a, b) -> f64 {
        distance::l2(&a, &b).or_raise()
    }

    fn vector_l2_squared_distance(a, b) -> f64 {
        distance::l2_squared(&a, &b).or_raise()
    }

    fn inner_product(a, b) -> f64 {
        distance::inner_product(&a, &b).or_raise()
    }

    fn vector_negative_inner_product(a, b) -> f64 {
        distance::negative_inner_product(&a, &b).or_raise()
    }

    fn cosine_distance(a, b) -> f64 {
        distance::cosine(&a, &b).or_raise()
    }

    fn vector_spherical_distance(a, b) -> f64 {
        distance::spherical(&a, &b).or_raise()
    }

    fn l1_distance(a, b) -> f64 {
        distance::l1(&a, &b).or_raise()
    }
}

/// Also the transition function of `sum`, whose state it changes in place.
#[pg_extern(sql = false)]
fn vector_add(a: Vector<'_>, b: Vector<'_>, fcinfo: pg_sys::FunctionCallInfo) -> VectorBuf {
    if in_aggregate(fcinfo) {
        // SAFETY: in an aggregate the first argument is its state, which nobody else uses.
        let mut sum = unsafe { a.into_mut() };
        vector::add_assign(&mut sum, &b).or_raise();
        return sum;
    }
    element_wise(a, b, vector::add)
}

#[pg_extern(sql = false)]
fn vector_sub(a: Vector<'_>, b: Vector<'_>) -> VectorBuf {
    element_wise(a, b, vector::sub)
}

#[pg_extern(sql = false)]
fn vector_mul(a: Vector<'_>, b: Vector<'_>) -> VectorBuf {
    element_wise(a, b, vector::mul)
}

fn element_wise(
    a: Vector<'_>,
    b: Vector<'_>,
    operator: impl FnOnce(&[f32], &[f32], &mut [f32]) -> Result<(), VectorError>,
) -> VectorBuf {
    let mut result = VectorBuf::zeroed(a.len()).or_raise();
    operator(&a, &b, &mut result).or_raise();
    result
}

#[pg_extern(sql = false)]
fn vector_concat(a: Vector<'_>, b: Vector<'_>) -> VectorBuf {
    let mut result = VectorBuf::zeroed(a.len() + b.len()).or_raise();
    let (left, right) = result.split_at_mut(a.len());
    left.copy_from_slice(&a);
    right.copy_from_slice(&b);
    result
}

vector_functions! {
    fn vector_lt(a, b) -> bool {
        vector::compare(&a, &b).is_lt()
    }

    fn vector_le(a, b) -> bool {
        vector::compare(&a, &b).is_le()
    }

    fn vector_eq(a, b) -> bool {
        vector::compare(&a, &b).is_eq()
    }

    fn vector_ne(a, b) -> bool {
        vector::compare(&a, &b).is_ne()
    }

    fn vector_ge(a, b) -> bool {
        vector::compare(&a, &b).is_ge()
    }

    fn vector_gt(a, b) -> bool {
        vector::compare(&a, &b).is_gt()
    }

    fn vector_cmp(a, b) -> i32 {
        vector::compare(&a, &b) as i32
    }
}
