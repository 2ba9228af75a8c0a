//! Scalar twins of the kernels: what each must compute, written as plainly as possible and in `f64`.

fn sum(a: &[f32], b: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| term(x.into(), y.into())).sum()
}

pub fn l2_squared(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |x, y| (x - y) * (x - y))
}

pub fn inner_product(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |x, y| x * y)
}

/// `[a·b, a·a, b·b]`
pub fn cosine_products(a: &[f32], b: &[f32]) -> [f64; 3] {
    [inner_product(a, b), inner_product(a, a), inner_product(b, b)]
}

pub fn l1(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |x, y| (x - y).abs())
}

/// Sum of the magnitudes of the terms of an inner product: what its rounding error is relative to.
pub fn magnitude(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |x, y| (x * y).abs())
}
