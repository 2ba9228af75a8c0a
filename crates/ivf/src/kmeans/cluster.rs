//! Clusters for people to look at, where [`KMeans::train`] makes lists for an index.

use super::{KMeans, Pacer, squared_distance};
use crate::kernel::l2_squared;
use crate::random::SplitMix64;

/// Lloyd's iterations at most. They end before, as a rule, when the rows stay where they are.
const ITERATIONS: usize = 100;

impl KMeans {
    /// Centroids of `sample`, as [`train`](KMeans::train) gives them, but such that the rows are near to them: from the seeds of
    /// k-means++, which lie far apart, until the rows stay where they are.
    ///
    /// Source: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", with several candidates for each
    /// seed, of which the best is taken, as their own program and scikit-learn do.
    pub fn cluster<E>(
        &self,
        sample: &[f32],
        check_interrupts: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<f32>, E> {
        let pacer = &mut Pacer::new(check_interrupts);
        let rows = self.finite_rows(sample, pacer)?;
        if rows.is_empty() {
            return Ok(vec![0.0; self.dims]);
        }
        let seeds = self.spread_seeds(sample, &rows, pacer)?;
        let plan = [(rows.len(), ITERATIONS)];
        let centroids = self.iterate(sample, &rows, rows.clone(), seeds, &plan, pacer)?;
        self.deduplicate(centroids, pacer)
    }

    /// Bytes that [`cluster`](KMeans::cluster) needs at most beside a sample of `rows` rows.
    pub fn cluster_memory(&self, rows: usize) -> usize {
        // Two lists of distances.
        self.memory(rows).saturating_add(rows.saturating_mul(2 * size_of::<f64>()))
    }

    /// Up to `lists` different rows of at least one, far from each other.
    fn spread_seeds<E>(&self, sample: &[f32], rows: &[u32], pacer: &mut Pacer<E>) -> Result<Vec<f32>, E> {
        let mut random = SplitMix64(self.seed);
        let candidates = 2 + (self.lists as f64).ln() as usize;
        let mut seeds = Vec::with_capacity(self.lists.min(rows.len()) * self.dims);
        // Of each row to its nearest seed, squared; and the same with one seed more, a candidate.
        let mut distances = vec![f64::MAX; rows.len()];
        let mut with_candidate = distances.clone();
        let mut chosen = rows[random.below(rows.len())];
        loop {
            seeds.extend_from_slice(self.row(sample, chosen));
            let total = self.approach(sample, rows, chosen, &distances, &mut with_candidate, pacer)?;
            std::mem::swap(&mut distances, &mut with_candidate);
            if seeds.len() == self.lists * self.dims || total == 0.0 {
                break;
            }
            let mut least = f64::INFINITY;
            for _ in 0..candidates {
                let candidate = rows[drawn(&distances, total, &mut random)];
                let total = self.approach(sample, rows, candidate, &distances, &mut with_candidate, pacer)?;
                if total < least {
                    (least, chosen) = (total, candidate);
                }
            }
        }
        for seed in seeds.chunks_exact_mut(self.dims) {
            self.normalise(seed);
        }
        Ok(seeds)
    }

    /// What the distances of the rows to their nearest seed become with one more. Returns their sum.
    fn approach<E>(
        &self,
        sample: &[f32],
        rows: &[u32],
        seed: u32,
        distances: &[f64],
        with_seed: &mut [f64],
        pacer: &mut Pacer<E>,
    ) -> Result<f64, E> {
        let seed = self.row(sample, seed);
        let mut total = 0.0;
        for ((&row, &distance), new) in rows.iter().zip(distances).zip(with_seed) {
            *new = between(self.row(sample, row), seed).min(distance);
            total += *new;
            pacer.spend(self.dims)?;
        }
        Ok(total)
    }
}

/// The squared distance of two vectors, in f64 only where it is too small or too great for f32.
fn between(a: &[f32], b: &[f32]) -> f64 {
    let distance = l2_squared(a, b);
    if distance.is_normal() { distance.into() } else { squared_distance(a, b) }
}

/// The position of a distance, each as probable as it is great. `total`: their sum, more than 0.
fn drawn(distances: &[f64], total: f64, random: &mut SplitMix64) -> usize {
    let mut left = random.unit() * total;
    let mut last = 0;
    for (at, &distance) in distances.iter().enumerate().filter(|(_, distance)| **distance > 0.0) {
        last = at;
        left -= distance;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// The number of the centroid nearest to a row, the first of equals. `centroids`: at least one, of as many dimensions as `row`.
pub fn nearest(centroids: &[f32], row: &[f32]) -> usize {
    let mut nearest = (f64::INFINITY, 0);
    for (number, centroid) in centroids.chunks_exact(row.len()).enumerate() {
        let distance = between(centroid, row);
        if distance < nearest.0 {
            nearest = (distance, number);
        }
    }
    nearest.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::tests::normal;

    fn cluster(kmeans: &KMeans, sample: &[f32]) -> Vec<f32> {
        kmeans.cluster(sample, &mut || Ok::<(), ()>(())).unwrap()
    }

    /// `count` points around each of `centres`, in two dimensions.
    fn clouds(centres: &[[f32; 2]], count: usize) -> Vec<f32> {
        let noise = normal(3, centres.len() * count * 2);
        let centre = |point: usize| centres[point % centres.len()];
        noise.chunks(2).enumerate().flat_map(|(i, n)| [centre(i)[0] + n[0], centre(i)[1] + n[1]]).collect()
    }

    #[test]
    fn clouds_are_found_whatever_the_seed() {
        let centres: Vec<[f32; 2]> = (0..9).map(|i| [(i % 3) as f32 * 20.0, (i / 3) as f32 * 20.0]).collect();
        let sample = clouds(&centres, 50);
        for seed in 0..20 {
            let kmeans = KMeans { lists: 9, dims: 2, spherical: false, rotated: false, seed };
            let centroids = cluster(&kmeans, &sample);
            let cloud_of: Vec<usize> = sample.chunks(2).map(|point| nearest(&centroids, point)).collect();
            for (i, cloud) in cloud_of.iter().enumerate() {
                assert_eq!(*cloud, cloud_of[i % 9], "seed {seed}");
            }
            assert_eq!(centroids.len(), 18);
            assert_eq!(centroids, cluster(&kmeans, &sample));
        }
    }

    #[test]
    fn few_rows_and_strange_ones() {
        let kmeans = |lists, dims| KMeans { lists, dims, spherical: false, rotated: false, seed: 1 };
        assert_eq!(cluster(&kmeans(5, 2), &[]), [0.0, 0.0]);
        assert_eq!(cluster(&kmeans(5, 1), &[2.0, 2.0, f32::NAN, 2.0]), [2.0]);
        let mut two = cluster(&kmeans(5, 1), &[2.0, 3.0, 2.0]);
        two.sort_by(f32::total_cmp);
        assert_eq!(two, [2.0, 3.0]);
        let mut tiny = cluster(&kmeans(2, 1), &[1e-30, 2e-30, 1e-30]);
        tiny.sort_by(f32::total_cmp);
        assert_eq!(tiny, [1e-30, 2e-30]);
        let far = [3e38, 1e38, -1e38];
        assert_eq!([2.4e38, 1.5e38, -3e38].map(|x| nearest(&far, &[x])), [0, 1, 2]);
        let far = cluster(&kmeans(2, 1), &[f32::MAX, -f32::MAX, f32::MAX]);
        assert_eq!(far.len(), 2);
        assert_ne!(nearest(&far, &[f32::MAX]), nearest(&far, &[-f32::MAX]));
    }

    #[test]
    fn it_is_interrupted() {
        let sample = normal(1, 5000 * 384);
        let kmeans = KMeans { lists: 50, dims: 384, spherical: false, rotated: false, seed: 1 };
        let mut checks = 0;
        let result = kmeans.cluster(&sample, &mut || {
            checks += 1;
            if checks == 3 { Err("cancelled") } else { Ok(()) }
        });
        assert_eq!(result, Err("cancelled"));
    }
}
