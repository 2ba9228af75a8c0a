//! Kernels written as plain loops over independent sums, which the compiler turns into SIMD.
//!
//! Each body is compiled once per instruction set and chosen at run time. [`WIDTH`] sums side by side are one AVX-512
//! register or two of AVX2; several such banks hide the latency of an addition, which one bank would wait for.

use std::hint::black_box;
use std::ops::AddAssign;

use super::inner_product;

const WIDTH: usize = 16;

/// Adds both slices to the banks of sums with `step`, `WIDTH` elements to one bank after the other.
#[inline(always)]
fn fold<S: Copy, const BANKS: usize>(
    a: &[f32],
    b: &[f32],
    zero: S,
    step: impl Fn(&mut S, &[f32; WIDTH], &[f32; WIDTH]),
) -> [S; BANKS] {
    debug_assert_eq!(a.len(), b.len());
    let mut banks = [zero; BANKS];
    let (a_chunks, a_rest) = a.as_chunks::<WIDTH>();
    let (b_chunks, _) = b.as_chunks::<WIDTH>();
    let (a_rounds, a_last) = a_chunks.as_chunks::<BANKS>();
    let (b_rounds, b_last) = b_chunks.as_chunks::<BANKS>();
    for (x, y) in a_rounds.iter().zip(b_rounds) {
        // By index: with iterators the cosine is not turned into SIMD (nine times slower).
        for i in 0..BANKS {
            step(&mut banks[i], &x[i], &y[i]);
        }
    }
    for (i, bank) in banks.iter_mut().enumerate() {
        if let (Some(x), Some(y)) = (a_last.get(i), b_last.get(i)) {
            step(bank, x, y);
        }
    }
    if !a_rest.is_empty() {
        step(&mut banks[0], &tail(a, a_rest.len()), &tail(b, a_rest.len()));
    }
    banks
}

/// The last `rest` elements, fewer than `WIDTH`, among zeros.
#[inline(always)]
fn tail(a: &[f32], rest: usize) -> [f32; WIDTH] {
    let mut padded = [0.0; WIDTH];
    if let Some(last) = a.last_chunk::<WIDTH>() {
        for i in 0..WIDTH {
            padded[i] = if i + rest >= WIDTH { last[i] } else { 0.0 };
        }
    } else {
        padded[..rest].copy_from_slice(a);
    }
    padded
}

/// Adds banks of sums to one.
#[inline(always)]
fn add<T: Copy + AddAssign, const BANKS: usize>(banks: [[T; WIDTH]; BANKS]) -> [T; WIDTH] {
    let mut sums = banks[0];
    for bank in &banks[1..] {
        for i in 0..WIDTH {
            sums[i] += bank[i];
        }
    }
    sums
}

/// Adds all sums, those of one bank pairwise.
#[inline(always)]
fn total<T: Copy + AddAssign, const BANKS: usize>(banks: [[T; WIDTH]; BANKS]) -> T {
    let mut sums = add(banks);
    let mut width = WIDTH;
    while width > 1 {
        width /= 2;
        let (low, high) = sums.split_at_mut(width);
        for (x, y) in low.iter_mut().zip(&*high) {
            *x += *y;
        }
    }
    sums[0]
}

#[inline(always)]
fn norm_squared_body<const AVX512: bool>(a: &[f32]) -> f64 {
    total(fold::<_, 2>(a, a, [0.0; WIDTH], |sums, x, _| {
        for i in 0..WIDTH {
            // The product of two f32 is exact in an f64: a fused operation would have nothing to save.
            sums[i] += f64::from(x[i]) * f64::from(x[i]);
        }
    }))
}

#[inline(always)]
fn cosine_products_body<const AVX512: bool>(a: &[f32], b: &[f32]) -> [f32; 3] {
    if !AVX512 {
        // One pass needs more registers than there are (AVX2, 1536 dimensions: 303 ns).
        return [inner_product(a, b), inner_product(a, a), inner_product(b, b)];
    }
    let banks = fold::<_, 2>(a, b, [[0.0; WIDTH]; 3], |[ab, aa, bb], x, y| {
        for i in 0..WIDTH {
            ab[i] = x[i].mul_add(y[i], ab[i]);
            aa[i] = x[i].mul_add(x[i], aa[i]);
            bb[i] = y[i].mul_add(y[i], bb[i]);
        }
    });
    let [[ab, aa, bb], [more_ab, more_aa, more_bb]] = banks;
    // black_box: else the compiler shuffles the three totals into each other, at a cost (384 dimensions: 64 ns, not
    // 45).
    let total = |one, other| total([black_box(add([one, other]))]);
    [total(ab, more_ab), total(aa, more_aa), total(bb, more_bb)]
}

#[inline(always)]
fn l1_body<const AVX512: bool>(a: &[f32], b: &[f32]) -> f32 {
    total(fold::<_, 4>(a, b, [0.0; WIDTH], |sums, x, y| {
        for i in 0..WIDTH {
            sums[i] += (x[i] - y[i]).abs();
        }
    }))
}

per_cpu!(
    /// `[a·b, a·a, b·b]`, the parts of a cosine; in one pass with AVX-512.
    cosine_products(a: &[f32], b: &[f32]) -> [f32; 3], cosine_products_versions, cosine_products_body
);
per_cpu!(
    /// Taxicab distance.
    l1(a: &[f32], b: &[f32]) -> f32, l1_versions, l1_body
);
per_cpu!(
    /// Squared Euclidean norm, in `f64` and so finite for every vector.
    norm_squared(a: &[f32]) -> f64, norm_squared_versions, norm_squared_body
);
