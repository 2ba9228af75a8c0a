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

/// Rounds of factors and Hadamard transforms of windows, see [`super::rotate`].
pub fn rotate(x: &[f32], factors: &[f32], window: usize) -> Vec<f64> {
    let mut x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    for (round, factors) in factors.chunks_exact(x.len()).enumerate() {
        if round > 0 && window < x.len() {
            let half = x.len() / 2;
            for i in 0..half {
                (x[i], x[i + half]) = (x[i] + x[i + half], x[i] - x[i + half]);
            }
        }
        for (x, &factor) in x.iter_mut().zip(factors) {
            *x *= f64::from(factor);
        }
        let start = if round % 2 == 0 { 0 } else { x.len() - window };
        let x = &mut x[start..start + window];
        for stride in (0..window.ilog2()).map(|step| 1 << step) {
            for i in (0..window).filter(|i| i & stride == 0) {
                (x[i], x[i + stride]) = (x[i] + x[i + stride], x[i] - x[i + stride]);
            }
        }
    }
    x
}

/// The code that bits stand for, see [`crate::quantize::encode`].
pub fn code(signs: &[u8], refinement: &[u8], bits: usize) -> Vec<f64> {
    let bit = |bytes: &[u8], i: usize| u32::from(bytes[i / 8] >> (i % 8) & 1);
    let level = |i: usize| {
        let planes = refinement[i / 64 * 8 * (bits - 1)..].chunks_exact(8).take(bits - 1);
        planes.fold(bit(signs, i), |level, plane| level << 1 | bit(plane, i % 64))
    };
    (0..signs.len() * 8).map(|i| f64::from(level(i)) - f64::from((1 << bits) - 1) / 2.0).collect()
}

/// Step and offset of look-up tables, see [`super::Tables`].
pub fn table_scale(w: &[f32]) -> [f64; 2] {
    let groups = || w.chunks_exact(4).map(|group| group.iter().map(|&x| f64::from(x.abs())).sum::<f64>());
    [groups().fold(0.0, f64::max) * 2.0 / 255.0, -groups().sum::<f64>()]
}

/// `sum sign_i w_i`, less its least value, of four dimensions whose signs are the bits of `entry`.
pub fn table_entry(group: &[f32], entry: usize) -> f64 {
    let signed = |(i, &x): (usize, &f32)| if entry >> i & 1 == 1 { f64::from(x) } else { -f64::from(x) };
    group.iter().enumerate().map(signed).sum::<f64>() + group.iter().map(|&x| f64::from(x.abs())).sum::<f64>()
}

/// What the tables say of a row of a block.
pub fn table_sum(low: &[u8], high: &[u8], block: &[u8], row: usize) -> u32 {
    let bytes = (0..low.len() / 16).map(|k| (k, usize::from(block[k * 16 + row])));
    bytes.map(|(k, byte)| u32::from(low[k * 16 + byte % 16]) + u32::from(high[k * 16 + byte / 16])).sum()
}
