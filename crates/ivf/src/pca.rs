//! Principal components: the directions in which vectors differ most.
//!
//! Subspace iteration with Rayleigh-Ritz steps on the covariance, which is never written out: an iteration multiplies the
//! vectors with a few directions and back. Source: Halko, Martinsson, Tropp, "Finding structure with randomness".

use nalgebra::{DMatrix, SymmetricEigen};

use crate::random::SplitMix64;

/// Directions beyond those that are asked for: they make up for directions that differ little in variance.
const SPARE: usize = 8;

/// Iterations at most, and the change of the variances, relative to the greatest, from which on there is none worth another.
/// Not measured by themselves: with both, two components of 117,000 glosses (MiniLM) have the variances of scikit-learn's to the
/// seventh digit.
const ITERATIONS: usize = 60;
const SETTLED: f64 = 1e-7;

/// Of the small matrix, for each of its rows, at most: a few are needed.
const EIGENVALUE_STEPS: usize = 100;

/// Directions at most: an iteration's steps on its small matrices, between which nothing is checked, take a second
/// or two then (estimated from their operations).
pub const MAX_COMPONENTS: usize = 512;

/// Vectors multiplied at once: with 384 dimensions they take a megabyte.
const BLOCK: usize = 256;

/// Vectors of `dims` elements, one after the other.
pub struct Pca {
    pub dims: usize,
    /// Directions wanted, 1 to `dims` and [`MAX_COMPONENTS`].
    pub components: usize,
    pub seed: u64,
}

impl Pca {
    /// The mean of `sample` (rows × dims, finite), and then the directions from there, by falling variance: unit vectors,
    /// orthogonal to each other, of which the element with the greatest magnitude is positive. Directions beyond those in which the rows
    /// differ are zero.
    ///
    /// Fails only if `check_interrupts`, called many times a second, does.
    pub fn fit<E>(
        &self,
        sample: &[f32],
        check_interrupts: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<f32>, E> {
        let mean = self.mean(sample);
        let width = (self.components + SPARE).min(self.dims);
        let mut random = SplitMix64(self.seed);
        let start = DMatrix::from_fn(self.dims, width, |_, _| random.unit() - 0.5);
        let mut directions = start.qr().q();
        let mut variances = vec![0.0; width];
        for _ in 0..ITERATIONS {
            let moved = self.moved(sample, &mean, &directions, check_interrupts)?;
            // The covariance as these directions see it; its own directions are nearer to the true ones.
            let small = directions.transpose() * &moved;
            check_interrupts()?;
            let Some(seen) = SymmetricEigen::try_new(small, f64::EPSILON, EIGENVALUE_STEPS * width) else {
                break;
            };
            check_interrupts()?;
            let mut order: Vec<usize> = (0..width).collect();
            order.sort_by(|&a, &b| seen.eigenvalues[b].total_cmp(&seen.eigenvalues[a]));
            let turned =
                DMatrix::from_fn(width, width, |row, column| seen.eigenvectors[(row, order[column])]);
            let now: Vec<f64> = order.iter().map(|&at| seen.eigenvalues[at]).collect();
            let greatest = now[0].max(f64::MIN_POSITIVE);
            let change = |i: usize| (now[i] - variances[i]).abs() / greatest;
            let is_settled = (0..self.components).all(|i| change(i) < SETTLED);
            variances = now;
            directions = if is_settled { directions * turned } else { (moved * turned).qr().q() };
            if is_settled {
                break;
            }
        }
        let mut model: Vec<f32> = mean.iter().map(|&x| x as f32).collect();
        let least = variances[0] * f64::from(f32::EPSILON);
        for (direction, variance) in directions.column_iter().zip(variances).take(self.components) {
            let largest = direction.iter().fold(0.0f64, |a, &b| if b.abs() > a.abs() { b } else { a });
            let sign = if variance > least { largest.signum() } else { 0.0 };
            model.extend(direction.iter().map(|x| (x * sign) as f32));
        }
        Ok(model)
    }

    /// Bytes that [`fit`](Pca::fit) needs beside its sample.
    pub fn memory(&self) -> usize {
        let width = self.components + SPARE;
        // A block of rows, and a handful of matrices as wide as the directions.
        (self.dims.saturating_mul(BLOCK + 8 * width)).saturating_mul(size_of::<f64>())
    }

    fn mean(&self, sample: &[f32]) -> Vec<f64> {
        let mut mean = vec![0.0; self.dims];
        for row in sample.chunks_exact(self.dims) {
            mean.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let rows = (sample.len() / self.dims).max(1) as f64;
        mean.iter_mut().for_each(|sum| *sum /= rows);
        mean
    }

    /// The covariance times `directions`: dims × their number.
    fn moved<E>(
        &self,
        sample: &[f32],
        mean: &[f64],
        directions: &DMatrix<f64>,
        check_interrupts: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<DMatrix<f64>, E> {
        let mut moved = DMatrix::zeros(self.dims, directions.ncols());
        let rows = (sample.len() / self.dims).max(1) as f64;
        for block in sample.chunks(BLOCK * self.dims) {
            check_interrupts()?;
            // A column a row.
            let centred = DMatrix::from_fn(self.dims, block.len() / self.dims, |element, row| {
                f64::from(block[row * self.dims + element]) - mean[element]
            });
            let along = centred.tr_mul(directions);
            moved.gemm(1.0 / rows, &centred, &along, 1.0);
        }
        Ok(moved)
    }
}

/// Where a vector lies along the directions of a model that [`Pca::fit`] has made: as many numbers as directions.
pub fn project<'m>(model: &'m [f32], vector: &'m [f32]) -> impl Iterator<Item = f32> + 'm {
    let (mean, directions) = model.split_at(vector.len());
    directions.chunks_exact(vector.len()).map(move |direction| {
        let terms = vector.iter().zip(mean).zip(direction);
        terms.map(|((&x, &mean), &d)| (f64::from(x) - f64::from(mean)) * f64::from(d)).sum::<f64>() as f32
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::tests::normal;

    fn fit(components: usize, dims: usize, sample: &[f32]) -> Vec<f32> {
        Pca { dims, components, seed: 7 }.fit(sample, &mut || Ok::<(), ()>(())).unwrap()
    }

    /// Noise with its own deviation along each axis of a turned space.
    #[test]
    fn directions_are_those_of_the_whole_covariance() {
        let (rows, dims) = (600, 12);
        let turn = DMatrix::from_vec(dims, dims, normal(5, dims * dims)).cast::<f64>().qr().q();
        let noise = DMatrix::from_vec(dims, rows, normal(6, rows * dims)).cast::<f64>();
        let deviations =
            DMatrix::from_diagonal(&nalgebra::DVector::from_fn(dims, |i, _| 0.7f64.powi(i as i32)));
        let points = (&turn * deviations * noise).add_scalar(3.0).cast::<f32>();
        let model = fit(3, dims, points.as_slice());

        let points = points.cast::<f64>();
        let mean = points.column_mean();
        let centred = DMatrix::from_fn(dims, rows, |i, j| points[(i, j)] - mean[i]);
        let exact = (&centred * centred.transpose()).symmetric_eigen();
        let mut order: Vec<usize> = (0..dims).collect();
        order.sort_by(|&a, &b| exact.eigenvalues[b].total_cmp(&exact.eigenvalues[a]));
        for (direction, at) in model[dims..].chunks(dims).zip(order) {
            let cosine: f64 = direction
                .iter()
                .zip(exact.eigenvectors.column(at).iter())
                .map(|(&a, b)| f64::from(a) * b)
                .sum();
            assert!(cosine.abs() > 0.9999, "{cosine}");
            let largest = direction.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
            assert!(largest > 0.0);
        }
        let (first, second) = model[dims..].split_at(dims);
        let product: f32 = first.iter().zip(second).map(|(a, b)| a * b).sum();
        assert!(product.abs() < 1e-5, "{product}");
        assert_eq!(fit(3, dims, points.cast::<f32>().as_slice()), model);
    }

    #[test]
    fn points_are_told_by_their_distance_from_the_mean() {
        // A line in three dimensions.
        let sample: Vec<f32> =
            (0..5).flat_map(|i| [1.0, 2.0 + 3.0 * i as f32, 5.0 + 4.0 * i as f32]).collect();
        let model = fit(2, 3, &sample);
        let along: Vec<Vec<f32>> = sample.chunks(3).map(|point| project(&model, point).collect()).collect();
        for (i, found) in along.iter().enumerate() {
            assert!((found[0] - 5.0 * (i as f32 - 2.0)).abs() < 1e-4, "{found:?}");
            assert_eq!(found[1], 0.0);
        }
    }

    #[test]
    fn too_few_rows() {
        for sample in [&[][..], &[1.0, 2.0], &[1.0, 2.0, 1.0, 2.0]] {
            let model = fit(2, 2, sample);
            assert_eq!(model.len(), 6);
            assert_eq!(model[2..], [0.0; 4]);
        }
    }
}
