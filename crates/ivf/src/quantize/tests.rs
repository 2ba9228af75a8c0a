use super::*;
use crate::kernel::naive;
use crate::layout::LANES;
use crate::random::tests::normal;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

struct Code {
    signs: Vec<u8>,
    refinement: Vec<u8>,
    factors: Factors,
}

fn coded(z: &[f32], bits: usize) -> Code {
    let (mut signs, mut refinement) = (vec![0; z.len() / 8], vec![0; z.len() / 8 * (bits - 1)]);
    let factors = encode(z, bits, &mut signs, &mut refinement);
    Code { signs, refinement, factors }
}

fn bound(space: &Space, query: &Query, x: &[f32], bits: usize) -> Option<Refined> {
    let mut z = Vec::new();
    space.centre(x, &mut z).then(|| {
        let code = coded(&z, bits);
        query.refine(&code.signs, &code.refinement, bits, &code.factors)
    })
}

fn scaled(x: &[f32], by: f32) -> Vec<f32> {
    x.iter().map(|x| (x * by).clamp(f32::MIN, f32::MAX)).collect()
}

/// Of rows around `mean`, and as long as those of a normal distribution.
fn mean_for(metric: Metric, mean: &[f32]) -> Vec<f32> {
    if metric.normalises() { scaled(mean, 1.0 / (mean.len() as f32).sqrt()) } else { mean.to_vec() }
}

/// Vectors of every kind that a column can hold, as different from each other as from the usual.
fn vector(dims: usize) -> BoxedStrategy<Vec<f32>> {
    let size = prop_oneof![
        6 => Just(1.0f32),
        1 => (-45.0f32..38.6).prop_map(|exponent| 10f32.powf(exponent)),
        1 => prop::sample::select(vec![1e-44, 1e-38, 1e-30, 1e-16, 1e-15, 1e15, 1e18, 1e19, 3e38]),
    ];
    let usual = (any::<u64>(), size.clone()).prop_map(move |(seed, size)| scaled(&normal(seed, dims), size));
    let one_hot = (0..dims, size).prop_map(move |(element, size)| {
        let mut x = vec![0.0; dims];
        x[element] = size;
        x
    });
    let constant = (-2f32..2.0).prop_map(move |element| vec![element; dims]);
    let bits = prop::collection::vec(
        prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
        dims,
    );
    prop_oneof![6 => usual, 1 => one_hot, 1 => constant, 1 => bits, 1 => Just(vec![0.0; dims])].boxed()
}

/// A vector near another: the other plus a vector of a size relative to its own, or the very same.
fn near(x: Vec<f32>) -> impl Strategy<Value = Vec<f32>> {
    let spread = prop_oneof![Just(0.0f32), (-8.0f32..1.0).prop_map(|exponent| 10f32.powf(exponent))];
    (any::<u64>(), spread).prop_map(move |(seed, spread)| {
        let size = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let difference = scaled(&normal(seed, x.len()), spread * size);
        x.iter().zip(difference).map(|(x, d)| (x + d).clamp(f32::MIN, f32::MAX)).collect()
    })
}

/// A row, a query and a mean, independent of each other or clustered.
fn triple() -> impl Strategy<Value = [Vec<f32>; 3]> {
    let dims = prop_oneof![2 => 1usize..200, 1 => 1usize..=2000, 1 => prop::sample::select(vec![64, 384, 1024, 2000])];
    dims.prop_flat_map(|dims| {
        let independent = [vector(dims), vector(dims), vector(dims)];
        let close_to_query = (vector(dims), vector(dims))
            .prop_flat_map(|(q, mean)| (near(q.clone()), Just(q), Just(mean)).prop_map(<[_; 3]>::from));
        let all_close = vector(dims).prop_flat_map(|mean| {
            (near(mean.clone()), near(mean.clone()), Just(mean)).prop_map(<[_; 3]>::from)
        });
        let close_to_mean = (vector(dims), vector(dims))
            .prop_flat_map(|(q, mean)| (near(mean.clone()), Just(q), Just(mean)).prop_map(<[_; 3]>::from));
        // Boxed, or their types' size overflows the stack.
        prop_oneof![independent.boxed(), close_to_query.boxed(), close_to_mean.boxed(), all_close.boxed()]
    })
}

/// The operator's result is NaN if it divides by zero, or multiplies infinity; NaN sorts last.
fn not_above(lower: f32, metric: Metric, x: &[f32], q: &[f32]) -> bool {
    let distance = metric.operator(x, q).unwrap();
    distance.is_nan() || metric.distance(lower) <= distance
}

#[test]
fn a_refined_bound_is_never_above_the_distance() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(triple(), 1usize..=8, any::<u64>()), |([x, q, mean], bits, seed)| {
        for metric in METRICS {
            let space = Space::new(metric, seed, mean.clone());
            let query = space.query(&q);
            // The row that the operator compares with itself, too.
            for row in [&x, &q] {
                let Some(refined) = bound(&space, &query, row, bits) else { continue };
                prop_assert!(!refined.lower.is_nan() && refined.estimate.is_finite());
                prop_assert!(
                    not_above(refined.lower, metric, row, &q),
                    "{metric:?}, {bits} bits, {} dimensions: {refined:?}, distance {}",
                    x.len(),
                    metric.operator(row, &q).unwrap()
                );
            }
        }
        Ok(())
    });
    result.unwrap();
}

/// The bound is of use: with 8 bits nearly the distance.
#[test]
fn a_refined_bound_is_close_to_the_distance() {
    for metric in METRICS {
        for (dims, seed) in [(100, 1), (384, 2), (1536, 3), (2000, 4)] {
            let space = Space::new(metric, 7, mean_for(metric, &normal(seed, dims)));
            let q = normal(seed + 10, dims);
            let query = space.query(&q);
            let size = match metric {
                Metric::L2 => (dims as f64).sqrt(),
                Metric::InnerProduct => dims as f64,
                Metric::Cosine => 1.0,
            };
            for row in 0..20 {
                let x = normal(seed + 20 + row, dims);
                let refined = bound(&space, &query, &x, 8).unwrap();
                let distance = metric.operator(&x, &q).unwrap();
                let [lower, estimate] = [refined.lower, refined.estimate].map(|key| metric.distance(key));
                assert!(
                    (distance - estimate).abs() < 0.004 * size,
                    "{metric:?} {dims}: {distance} {estimate}"
                );
                assert!(distance - lower < 0.04 * size, "{metric:?} {dims}: {distance} {lower}");
            }
        }
    }
}

proptest! {
    #[test]
    fn decoded_vectors_are_within_the_residual(
        words in 1usize..=32,
        seed: u64,
        exponent in -44f32..18.0,
        bits in 1usize..=8,
    ) {
        let z = scaled(&normal(seed, words * 64), 10f32.powf(exponent) / (words as f32 * 64.0));
        let Code { signs, refinement, factors } = coded(&z, bits);
        for (i, z) in z.iter().enumerate() {
            prop_assert_eq!(signs[i / 8] >> (i % 8) & 1 == 1, *z >= 0.0);
        }
        let mut decoded = vec![0.0; z.len()];
        decode(&signs, &refinement, bits, &factors, &mut decoded);
        let code = naive::code(&signs, &refinement, bits);
        let mut lost = 0.0;
        for ((z, decoded), c) in z.iter().zip(&decoded).zip(code) {
            let exact = c * f64::from(factors.scale);
            prop_assert_eq!(*decoded, exact as f32);
            lost += (f64::from(*z) - exact).powi(2);
        }
        prop_assert!(lost.sqrt() <= f64::from(factors.residual));
        let norm_squared = naive::inner_product(&z, &z);
        prop_assert!((f64::from(factors.norm_squared) - norm_squared).abs() <= norm_squared * UNIT * 1.01 + 1e-45);
    }
}

#[test]
fn each_bit_nearly_halves_what_is_lost() {
    let z = normal(1, 384);
    let shares = [1, 2, 3, 4, 5, 6, 7, 8].map(|bits| {
        let factors = coded(&z, bits).factors;
        factors.residual / factors.norm_squared.sqrt()
    });
    // Of a normal distribution with the best step: sqrt(0.3634), sqrt(0.1188), ... (Max, "Quantizing for minimum
    // distortion", 1960).
    for (share, expected) in shares.into_iter().zip([0.603f32, 0.345, 0.194, 0.107]) {
        assert!((share / expected - 1.0).abs() < 0.1, "{shares:?}");
    }
    assert!(shares.windows(2).all(|pair| pair[1] < 0.62 * pair[0]), "{shares:?}");
}

#[test]
fn a_vector_equal_to_the_mean() {
    for bits in 1..=8 {
        assert_eq!(coded(&[0.0; 128], bits).factors, Factors::zeroed());
        for metric in METRICS {
            let x = normal(1, 100);
            let space = Space::new(metric, 1, normalised(&x, norm_squared(&x).sqrt()));
            let q = normal(2, 100);
            let refined = bound(&space, &space.query(&q), space.mean(), bits).unwrap();
            let distance = metric.operator(space.mean(), &q).unwrap();
            let [lower, estimate] = [refined.lower, refined.estimate].map(|key| metric.distance(key));
            assert!(lower <= distance && distance - lower < 1e-2, "{metric:?} {lower} {distance}");
            assert!((estimate - distance).abs() < 1e-3);
        }
    }
}

#[test]
fn what_cannot_be_bounded_has_the_lowest_bound() {
    let huge = vec![1e20; 70];
    let usual = normal(1, 70);
    for metric in METRICS {
        let floor = Form::of(metric).floor;
        let space = Space::new(metric, 1, vec![0.5; 70]);
        let tiny_or_huge =
            if metric == Metric::Cosine { vec![huge.clone(), vec![1e-20; 70]] } else { vec![huge.clone()] };
        for x in tiny_or_huge {
            let mut z = Vec::new();
            assert!(space.centre(&x, &mut z));
            assert!(z.iter().all(|z| z.is_finite()));
            assert_eq!(coded(&z, 8).factors, Factors::UNBOUNDED);
            assert_eq!(bound(&space, &space.query(&usual), &x, 8).unwrap().lower, floor);
            assert_eq!(bound(&space, &space.query(&x), &usual, 8).unwrap().lower, floor);
            assert_eq!(lower_bounds(&space, &space.query(&usual), std::slice::from_ref(&x)), [floor]);
            assert_eq!(lower_bounds(&space, &space.query(&x), std::slice::from_ref(&usual)), [floor]);
        }
    }
    assert_eq!(coded(&[f32::NAN; 64], 4).factors, Factors::UNBOUNDED);
}

#[test]
fn zero_vectors() {
    let space = Space::new(Metric::Cosine, 1, vec![0.5; 70]);
    assert!(!space.centre(&[0.0; 70], &mut Vec::new()));
    let refined = bound(&space, &space.query(&[0.0; 70]), &normal(1, 70), 8).unwrap();
    assert_eq!(refined.lower, 0.0);
    for metric in [Metric::L2, Metric::InnerProduct] {
        let space = Space::new(metric, 1, vec![0.5; 70]);
        assert!(space.centre(&[0.0; 70], &mut Vec::new()));
    }
}

/// The 1-bit bounds of rows, put into blocks as a code page has them.
fn lower_bounds(space: &Space, query: &Query, rows: &[Vec<f32>]) -> Vec<f32> {
    let lanes = rows.len().next_multiple_of(LANES);
    let bytes = padded(space.mean().len()) / 8;
    let (mut codes, mut columns) = (vec![0; lanes * bytes], [(); 3].map(|()| vec![0.0; lanes]));
    for (lane, x) in rows.iter().enumerate() {
        let mut z = Vec::new();
        assert!(space.centre(x, &mut z));
        let Code { signs, factors, .. } = coded(&z, 1);
        for (k, byte) in signs.into_iter().enumerate() {
            codes[(lane / LANES * bytes + k) * LANES + lane % LANES] = byte;
        }
        for (column, factor) in columns.iter_mut().zip([factors.norm_squared, factors.rescale, factors.error])
        {
            column[lane] = factor;
        }
    }
    let mut out = vec![f32::NAN; lanes];
    query.lower_bounds(&codes, &columns[0], &columns[1], &columns[2], &mut out);
    out.truncate(rows.len());
    out
}

/// 1.9 standard deviations: 2.9% of a normal distribution are beyond.
#[test]
fn one_bit_bounds_miss_few_rows() {
    for metric in METRICS {
        for dims in [65, 384, 1000] {
            let mean = scaled(&normal(5, dims), 0.3);
            let space = Space::new(metric, 3, mean_for(metric, &mean));
            let rows: Vec<_> = (0..1000)
                .map(|row| normal(100 + row, dims).iter().zip(&mean).map(|(x, mean)| x + mean).collect())
                .collect();
            let mut misses = 0;
            for seed in 0..5 {
                let q: Vec<f32> =
                    normal(50 + seed, dims).iter().zip(&rows[0]).map(|(x, y)| x + 0.5 * y).collect();
                let query = space.query(&q);
                for (x, lower) in rows.iter().zip(lower_bounds(&space, &query, &rows)) {
                    let distance = metric.operator(x, &q).unwrap();
                    let lower = metric.distance(lower);
                    misses += usize::from(lower > distance);
                }
            }
            assert!(misses > 50 && misses < 250, "{metric:?} {dims}: {misses} of 5000 missed");
        }
    }
}

#[test]
fn one_bit_bounds_find_a_row_itself() {
    for metric in METRICS {
        for dims in [1, 3, 64, 384, 2000] {
            let space = Space::new(metric, 3, scaled(&normal(5, dims), 0.3));
            for row in 0..20 {
                let x = normal(100 + row, dims);
                let lower = lower_bounds(&space, &space.query(&x), std::slice::from_ref(&x))[0];
                let distance = metric.operator(&x, &x).unwrap();
                assert!(
                    f64::from(lower) <= distance + 1e-3 * distance.abs().max(1.0),
                    "{metric:?} {dims}: {lower}"
                );
            }
        }
    }
}

/// Speed: `cargo test --release -p ivf -- --ignored --nocapture speed`.
#[test]
#[ignore = "prints how fast things are"]
fn speed() {
    use std::hint::black_box;
    use std::time::Instant;
    let time = |what: &str, rows: usize, run: &mut dyn FnMut()| {
        let best = (0..20).map(|_| {
            let start = Instant::now();
            (0..200).for_each(|_| run());
            start.elapsed().as_nanos() as f64 / 200.0 / rows as f64
        });
        println!("{what}: {:.1} ns", best.fold(f64::INFINITY, f64::min));
    };
    for dims in [384, 1536] {
        let space = Space::new(Metric::Cosine, 1, scaled(&normal(9, dims), 0.01));
        let (x, q) = (normal(1, dims), normal(2, dims));
        let (query, mut z) = (space.query(&q), Vec::new());
        time(&format!("{dims} query"), 1, &mut || drop(black_box(space.query(black_box(&q)))));
        time(&format!("{dims} centre"), 1, &mut || assert!(space.centre(black_box(&x), &mut z)));
        for bits in [1, 4, 8] {
            let mut code = coded(&z, bits);
            time(&format!("{dims} encode, {bits} bits"), 1, &mut || {
                black_box(encode(black_box(&z), bits, &mut code.signs, &mut code.refinement));
            });
            time(&format!("{dims} refine, {bits} bits"), 1, &mut || {
                black_box(query.refine(black_box(&code.signs), &code.refinement, bits, &code.factors));
            });
        }
        let blocks = 6;
        let (codes, column) = (vec![0x5a; blocks * LANES * z.len() / 8], vec![1.0; blocks * LANES]);
        let mut out = column.clone();
        time(&format!("{dims} lower bounds"), blocks * LANES, &mut || {
            query.lower_bounds(black_box(&codes), &column, &column, &column, &mut out);
        });
    }
}
