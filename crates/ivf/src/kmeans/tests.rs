use super::assign::multiply;
use super::*;
use proptest::prelude::*;
use std::convert::Infallible;
use std::time::{Duration, Instant};

fn train(kmeans: &KMeans, sample: &[f32]) -> Vec<f32> {
    let Ok(centroids) = kmeans.train(sample, &mut || Ok::<(), Infallible>(()));
    assert!(!centroids.is_empty() && centroids.len() <= kmeans.lists.max(1) * kmeans.dims);
    assert!(centroids.iter().all(|x| x.is_finite()));
    for (i, a) in centroids.chunks(kmeans.dims).enumerate() {
        let mut others = centroids.chunks(kmeans.dims).skip(i + 1);
        assert!(others.all(|b| a != b), "centroid {i} is there twice");
    }
    centroids
}

fn assign(centroids: &[f32], dims: usize, rows: &[f32]) -> Vec<u32> {
    let mut lists = Vec::new();
    Assigner::new(centroids.to_vec(), dims, false).assign(rows, &mut lists);
    lists
}

impl SplitMix64 {
    /// -1..1
    fn element(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.element()).collect()
    }
}

/// `rows` vectors, each within 0.1 an element of one of `clusters` centres.
fn clustered(rows: usize, dims: usize, clusters: usize) -> Vec<f32> {
    let mut random = SplitMix64(1);
    let centres = random.vector(clusters * dims);
    let mut sample = Vec::new();
    for row in 0..rows {
        let centre = &centres[row % clusters * dims..][..dims];
        sample.extend(centre.iter().map(|x| x + 0.1 * random.element()));
    }
    sample
}

fn unit(sample: &mut [f32], dims: usize) {
    for row in sample.chunks_mut(dims) {
        let norm = norm_squared(row).sqrt() as f32;
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

/// Mean squared distance of the rows from their centroids.
fn spread(sample: &[f32], dims: usize, centroids: &[f32]) -> f64 {
    let lists = assign(centroids, dims, sample);
    let rows = sample.chunks(dims).zip(&lists);
    rows.map(|(row, &list)| squared_distance(row, &centroids[list as usize * dims..][..dims])).sum::<f64>()
        / lists.len() as f64
}

#[test]
fn separated_clusters_are_not_mixed() {
    let (dims, clusters) = (24, 20);
    let sample = clustered(4000, dims, clusters);
    // Enough seeds for every cluster to get one.
    let centroids = train(&KMeans { lists: 150, dims, spherical: false, rotated: false, seed: 5 }, &sample);
    assert_eq!(centroids.len(), 150 * dims);
    let lists = assign(&centroids, dims, &sample);
    for (row, &list) in lists.iter().enumerate() {
        let first = lists.iter().position(|&other| other == list).unwrap();
        assert_eq!(row % clusters, first % clusters, "list {list}");
    }
}

#[test]
fn iterations_find_the_means() {
    let dims = 4;
    let mut sample = vec![0.0; 300 * dims];
    for (i, row) in sample.chunks_mut(dims).enumerate() {
        row[i % 3] = 10.0;
        row[3] = (i / 3) as f32 / 100.0;
    }
    let kmeans = |seed| KMeans { lists: 3, dims, spherical: false, rotated: false, seed };
    // A seed in each group, which not every choice has.
    let trained = (0..50).map(|seed| train(&kmeans(seed), &sample));
    let mut best =
        trained.min_by(|a, b| spread(&sample, dims, a).total_cmp(&spread(&sample, dims, b))).unwrap();
    best.chunks_mut(dims).for_each(|c| assert!((c[3] - 0.495).abs() < 1e-6, "{c:?}"));
    let mut places: Vec<_> = best.chunks(dims).map(|c| c[..3].iter().position(|&x| x == 10.0)).collect();
    places.sort();
    assert_eq!(places, [Some(0), Some(1), Some(2)]);
}

#[test]
fn iterations_are_worth_their_time() {
    let dims = 16;
    let sample = clustered(3000, dims, 60);
    let kmeans = KMeans { lists: 60, dims, spherical: false, rotated: false, seed: 9 };
    let mut never = || Ok::<(), Infallible>(());
    let mut rows: Vec<u32> = (0..3000).collect();
    let Ok((seeds, exhausted)) = kmeans.seeds(&sample, &mut rows, &mut Pacer::new(&mut never));
    assert!(!exhausted);
    let (before, after) = (spread(&sample, dims, &seeds), spread(&sample, dims, &train(&kmeans, &sample)));
    assert!(after < 0.9 * before, "{before} {after}");
}

#[test]
fn a_seed_decides() {
    let dims = 10;
    let sample = clustered(2000, dims, 50);
    let kmeans = |seed| KMeans { lists: 40, dims, spherical: false, rotated: false, seed };
    assert_eq!(train(&kmeans(1), &sample), train(&kmeans(1), &sample));
    assert_ne!(train(&kmeans(1), &sample), train(&kmeans(2), &sample));
}

#[test]
fn spherical_centroids_are_unit_vectors() {
    let dims = 12;
    let mut sample = clustered(2000, dims, 40);
    unit(&mut sample, dims);
    // Opposite rows, whose mean has no direction.
    sample.extend(sample[..dims].iter().map(|x| -x).collect::<Vec<_>>());
    for (lists, rows) in [(30, 2000), (1, 2000), (2, 1), (5000, 2000)] {
        let centroids =
            train(&KMeans { lists, dims, spherical: true, rotated: false, seed: 3 }, &sample[..rows * dims]);
        assert!(centroids.chunks(dims).all(|c| (norm_squared(c) - 1.0).abs() < 1e-6));
    }
    let opposite = [1.0, 0.0, -1.0, 0.0];
    let centroids = train(&KMeans { lists: 1, dims: 2, spherical: true, rotated: false, seed: 3 }, &opposite);
    assert_eq!(centroids, [1.0, 0.0]);
    // A zero vector is not of this kind, but a sample of an inner product can have it.
    let centroids =
        train(&KMeans { lists: 3, dims: 2, spherical: true, rotated: false, seed: 3 }, &[0.0, 0.0, 0.0, 2.0]);
    assert_eq!(centroids.len(), 4);
}

#[test]
fn an_empty_sample_gives_a_zero_centroid() {
    for spherical in [false, true] {
        let kmeans = KMeans { lists: 7, dims: 3, spherical, rotated: false, seed: 0 };
        assert_eq!(train(&kmeans, &[]), [0.0; 3]);
        assert_eq!(train(&kmeans, &[f32::NAN, 0.0, 0.0, 1.0, f32::INFINITY, 0.0]), [0.0; 3]);
    }
}

#[test]
fn few_different_rows_are_the_centroids() {
    let dims = 3;
    let different = SplitMix64(4).vector(10 * dims);
    let sample = different.repeat(50);
    for lists in [10, 11, 500, 32768] {
        let centroids = train(&KMeans { lists, dims, spherical: false, rotated: false, seed: 1 }, &sample);
        assert_eq!(centroids.len(), different.len(), "{lists}");
        assert!(different.chunks(dims).all(|row| centroids.chunks(dims).any(|c| c == row)), "{lists}");
    }
    // Zeros of either sign are the same number.
    let centroids = train(
        &KMeans { lists: 5, dims: 2, spherical: false, rotated: false, seed: 1 },
        &[0.0, -0.0, -0.0, 0.0],
    );
    assert_eq!(centroids.len(), 2);
}

#[test]
fn equal_rows_give_one_centroid_quickly() {
    let dims = 100;
    let mut row = clustered(1, dims, 1);
    unit(&mut row, dims);
    let sample = row.repeat(100_000);
    let start = Instant::now();
    for lists in [1, 600] {
        for spherical in [false, true] {
            let centroids = train(&KMeans { lists, dims, spherical, rotated: false, seed: 1 }, &sample);
            assert_eq!(centroids.len(), dims);
            assert!(squared_distance(&centroids, &row) < 1e-12);
        }
    }
    // 1.5 s in a debug build.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

/// Two hundred rows and a great many equal ones: lists that lose their rows split those with different rows.
#[test]
fn empty_lists_are_filled_again() {
    let dims = 8;
    let kmeans = KMeans { lists: 4, dims, spherical: false, rotated: false, seed: 1 };
    let mut sample = clustered(200, dims, 200);
    sample.extend([5.0; 8].repeat(5000));
    let rows: Vec<u32> = (0..5200).collect();
    // Three of four centroids are too far away for any row.
    let mut centroids: Vec<f32> = [0.0, 100.0, 200.0, 300.0].iter().flat_map(|&x| [x; 8]).collect();
    let mut never = || Ok::<(), Infallible>(());
    let pacer = &mut Pacer::new(&mut never);
    for iteration in 0..3 {
        let assigned = assign(&centroids, dims, &sample);
        let mut members = rows.clone();
        let lists = Lists::group(&rows, &assigned, centroids.len() / dims, &mut members);
        let (full, empty): (Vec<_>, Vec<_>) =
            (0..lists.len()).partition(|&list| !lists.members(list).is_empty());
        assert_eq!((full.is_empty(), empty.is_empty()), (false, iteration > 0), "{iteration}");
        let Ok(()) = kmeans.update(&sample, &lists, &mut centroids, pacer);
        // One split a list and iteration; without the others, the next one fills up.
        if iteration == 0 {
            assert_eq!(centroids.len(), 2 * dims);
        }
    }
    let trained = train(&KMeans { lists: 150, ..kmeans }, &sample);
    assert_eq!(trained.len(), 150 * dims);
    let mut used = assign(&trained, dims, &sample);
    used.sort();
    used.dedup();
    assert!(used.len() >= 149, "{}", used.len());
}

#[test]
fn extreme_values_do_no_harm() {
    let dims = 5;
    let ordinary = clustered(400, dims, 20);
    for factor in [3.4e38 / 1.2, 1e38, 1e20, 1e-20, 1e-37, 1e-42, 1e-45] {
        let sample: Vec<f32> = ordinary.iter().map(|x| x * factor).collect();
        for spherical in [false, true] {
            let centroids = train(&KMeans { lists: 30, dims, spherical, rotated: false, seed: 2 }, &sample);
            if spherical || factor < 1e-40 {
                continue;
            }
            // A good clustering, not only one without NaN.
            let scale = f64::from(factor) * f64::from(factor);
            let got = spread(&sample, dims, &centroids) / scale;
            let expected = spread(
                &ordinary,
                dims,
                &train(&KMeans { lists: 30, dims, spherical, rotated: false, seed: 2 }, &ordinary),
            );
            assert!((got - expected).abs() < 1e-3 * expected, "{factor}: {got} {expected}");
        }
    }
    let mut mixed: Vec<f32> = ordinary.clone();
    mixed.extend([f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -1e-45].repeat(100));
    mixed.extend([f32::MAX; 5].repeat(100));
    mixed.extend([f32::MIN; 5].repeat(100));
    mixed.extend([f32::NAN, f32::INFINITY, 0.0, 1.0, f32::NEG_INFINITY].repeat(100));
    for spherical in [false, true] {
        for lists in [1, 2, 3, 30, 1000] {
            train(&KMeans { lists, dims, spherical, rotated: false, seed: 2 }, &mixed);
        }
    }
}

#[test]
fn an_interrupt_stops_the_training() {
    let dims = 200;
    let sample = SplitMix64(8).vector(20_000 * dims);
    let kmeans = KMeans { lists: 2000, dims, spherical: false, rotated: false, seed: 1 };
    let (mut calls, mut last, mut gap) = (0, Instant::now(), Duration::ZERO);
    let end = kmeans.train(&sample, &mut || {
        calls += 1;
        gap = gap.max(last.elapsed());
        last = Instant::now();
        if calls < 100 { Ok(()) } else { Err("cancelled") }
    });
    assert_eq!((end, calls), (Err("cancelled"), 100));
    // Far more than the 12 ms that they are, for a debug build on a busy machine.
    assert!(gap.max(last.elapsed()) < Duration::from_millis(400), "{gap:?}");
}

#[test]
fn the_first_of_equal_centroids_is_taken() {
    for (dims, lists) in [(1, 3), (7, 1500), (300, 1500)] {
        let centroids = vec![1.5; lists * dims];
        assert_eq!(assign(&centroids, dims, &vec![2.0; 700 * dims]), [0; 700]);
    }
    let mut centroids = vec![0.0; 2000];
    centroids[600..].fill(3.0);
    assert_eq!(assign(&centroids, 1, &[1.0, 2.0, f32::NAN]), [0, 600, 0]);
}

/// By sign bits the nearest one may be missed, but seldom, and then another is nearly as near.
#[test]
fn the_nearest_of_many_centroids_is_found() {
    for (dims, lists) in [(64, 200), (100, 1001), (384, 600)] {
        let mut rows = clustered(2000 + lists, dims, 300);
        let centroids = rows.split_off(2000 * dims);
        let found = assign(&centroids, dims, &rows);
        let mut together = vec![0.0; 2000 * lists];
        multiply(&rows, &centroids, dims, &mut together);
        let norms: Vec<f64> = centroids.chunks(dims).map(norm_squared).collect();
        let (mut missed, mut lost, mut total) = (0, 0.0, 0.0);
        for ((products, &list), row) in together.chunks(lists).zip(&found).zip(rows.chunks(dims)) {
            let distance = |list: usize| norm_squared(row) + norms[list] - 2.0 * f64::from(products[list]);
            let least = (0..lists).map(distance).fold(f64::INFINITY, f64::min);
            let difference = distance(list as usize) - least;
            missed += usize::from(difference > 1e-5 * least);
            (lost, total) = (lost + difference, total + least);
        }
        assert!(missed < 40 && lost < 0.01 * total, "{dims} {lists}: {missed} rows, {lost} of {total}");

        // Nothing that a row can be is wrong, or slow.
        for (row, size) in rows.chunks_mut(dims).zip([0.0, 1e-45, 1e-38, 1e-20, 1e20, 3e38, f32::NAN]) {
            row.iter_mut().for_each(|x| *x *= size);
        }
        assert!(assign(&centroids, dims, &rows).iter().all(|&list| (list as usize) < lists));
    }
}

#[test]
fn other_rows_do_not_change_an_answer() {
    for (dims, lists) in [(1, 1), (3, 37), (300, 20), (520, 600)] {
        let mut random = SplitMix64(6);
        let (rows, centroids) = (random.vector(67 * dims), random.vector(lists * dims));
        let mut together = vec![0.0; 67 * lists];
        multiply(&rows, &centroids, dims, &mut together);
        for (row, expected) in rows.chunks(dims).zip(together.chunks(lists)) {
            let mut alone = vec![0.0; lists];
            multiply(row, &centroids, dims, &mut alone);
            assert!(alone.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{dims} {lists}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Ordinary, huge and tiny centroids and rows; more than one block of both.
    #[test]
    fn the_nearest_centroid_is_found(
        (dims, lists, rows) in prop_oneof![
            (1usize..300, 1usize..60, 1usize..50),
            (1usize..6, 500usize..530, 500usize..530),
            (1usize..3, 1000usize..1050, 1usize..20),
        ],
        magnitude in prop_oneof![Just(0), -36..37],
        seed: u64,
    ) {
        let mut random = SplitMix64(seed);
        let factor = 10f32.powi(magnitude);
        let mut vectors = |n: usize| random.vector(n * dims).iter().map(|x| x * factor).collect::<Vec<_>>();
        let (centroids, rows) = (vectors(lists), vectors(rows));
        let product = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let half_norms: Vec<f64> = centroids.chunks(dims).map(|c| product(c, c) / 2.0).collect();
        let score = |row: &[f32], list: usize| {
            half_norms[list] - product(row, &centroids[list * dims..][..dims])
        };
        let found = assign(&centroids, dims, &rows);
        prop_assert_eq!(found.len(), rows.len() / dims);
        for (row, &list) in rows.chunks(dims).zip(&found) {
            let best = (0..lists).map(|list| score(row, list)).fold(f64::INFINITY, f64::min);
            let score = score(row, list as usize);
            // Each of the compared two is rounded dims + 2 times.
            let rounding = 2.0 * (dims + 2) as f64 * f64::from(f32::EPSILON) * dims as f64 * f64::from(factor).powi(2);
            prop_assert!(score <= best + rounding, "{} {} {}", score, best, rounding);
        }
    }

    /// A grid, so that many rows are equal, nearly equal, or opposite.
    #[test]
    fn training_holds_what_it_promises(
        (dims, rows) in (1usize..5, 0usize..200),
        lists in 1usize..250,
        steps in 1u64..5,
        spherical: bool,
        seed: u64,
    ) {
        let mut random = SplitMix64(seed);
        let sample: Vec<f32> = (0..rows * dims).map(|_| (random.next() % steps) as f32 - 1.0).collect();
        let centroids = train(&KMeans { lists, dims, spherical, rotated: false, seed }, &sample);
        let mut different: Vec<_> = sample.chunks(dims).collect();
        different.sort_by(|a, b| a.partial_cmp(b).unwrap());
        different.dedup();
        if !spherical && different.len() <= lists {
            prop_assert_eq!(centroids.len() / dims, different.len().max(1));
        }
    }
}
