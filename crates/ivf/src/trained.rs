//! What a training learns: the mean, and the centroids of the lists.

use std::cell::RefCell;

use crate::build::{Options, load_memory};
use crate::columns::Columns;
use crate::geometry::Geometry;
use crate::kernel::norm_squared;
use crate::kmeans::{Assigner, KMeans};
use crate::layout::{DIRECTORY_BITS, Row, Tid};
use crate::metric::Metric;
use crate::quantize::{Space, decode, encode};
use crate::random::SplitMix64;
use crate::rotate::{Rotation, padded};

/// Of the rotation and of k-means: builds can be repeated. Any number does.
pub(crate) const SEED: u64 = 0x70675f656d626564;

/// Mean and centroids.
pub struct Trained {
    options: Options,
    pub(crate) geometry: Geometry,
    pub(crate) space: Space,
    /// Over the rotated vectors. It writes to its own memory as it works.
    assigner: RefCell<Assigner>,
    /// What [`Metric::InnerProduct`] adds to a centred vector before its centroid is sought: the rotated mean.
    uncentre: Option<Vec<f32>>,
    /// Encoded rows of the directory, one for each list; their TIDs are not known yet.
    pub(crate) centroids: Vec<Vec<u8>>,
}

impl Trained {
    /// `sample`: rows × dims, the vectors as the user stored them; it may be empty.
    pub fn train<E>(
        options: &Options,
        mut sample: Vec<f32>,
        check_interrupts: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Trained, E> {
        let Options { dims, metric, .. } = *options;
        // It comes in the order of the table, and k-means begins with half of it.
        shuffle(&mut sample, dims);
        if metric.normalises() {
            normalise_rows(&mut sample, dims);
        }
        let mut mean = mean_of(&sample, dims);
        let space = Space::new(metric, SEED, mean.clone());
        if metric == Metric::L2 {
            // Distances alone are the same around any point, and sums of products lose least around this one.
            sample.chunks_exact_mut(dims).for_each(|row| subtract(row, &mean));
            mean.fill(0.0);
        }
        // Of rows that are rotated once, none has to be each time that its centroid is sought; but they are not to grow.
        let rotated = padded(dims) == dims;
        let rotation = space.rotation();
        if rotated {
            rotate_rows(&mut sample, dims, rotation, check_interrupts)?;
            rotate_rows(&mut mean, dims, rotation, check_interrupts)?;
        }
        let mut centroids = centroids(options, sample, &mean, rotated, check_interrupts)?;
        if !rotated {
            rotate_rows(&mut centroids, dims, rotation, check_interrupts)?;
        }
        Ok(Trained::encode_centroids(*options, space, &centroids))
    }

    /// Trains again on rows of an index. `sample`: rows × padded, centred and rotated as `space` does it, in any order.
    pub fn train_again<E>(
        options: &Options,
        space: Space,
        mut sample: Vec<f32>,
        check_interrupts: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Trained, E> {
        let dims = padded(options.dims);
        shuffle(&mut sample, dims);
        let mut mean = vec![0.0; dims];
        if options.metric != Metric::L2 {
            space.origin(&mut mean);
            mean.iter_mut().for_each(|x| *x = -*x);
            sample
                .chunks_exact_mut(dims)
                .for_each(|row| row.iter_mut().zip(&mean).for_each(|(x, m)| *x += m));
        }
        if options.metric.normalises() {
            normalise_rows(&mut sample, dims);
        }
        let centroids = centroids(options, sample, &mean, true, check_interrupts)?;
        Ok(Trained::encode_centroids(*options, space, &centroids))
    }

    /// Encodes the centroids for the directory. `centroids`: lists × padded, centred and rotated.
    fn encode_centroids(options: Options, space: Space, centroids: &[f32]) -> Trained {
        let directory = Geometry::new(options.dims, DIRECTORY_BITS, Columns::default());
        let mut signs = vec![0; directory.sign_bytes()];
        let mut refinement = vec![0; directory.refinement_bytes()];
        let mut encoded: Vec<Vec<u8>> = Vec::new();
        for z in centroids.chunks_exact(directory.padded) {
            let factors = encode(z, DIRECTORY_BITS, &mut signs, &mut refinement);
            let mut row = Vec::with_capacity(directory.row_bytes());
            Row { tid: Tid::new(0, 0), factors, values: &[], signs: &signs, refinement: &refinement }
                .write(&mut row);
            encoded.push(row);
        }
        Trained::of(options, space, encoded)
    }

    /// Keeps the centroids as the directory's codes say them: a row goes to the list that a scan for it looks at first.
    fn of(options: Options, space: Space, centroids: Vec<Vec<u8>>) -> Trained {
        let directory = Geometry::new(options.dims, DIRECTORY_BITS, Columns::default());
        let uncentre = (options.metric == Metric::InnerProduct).then(|| {
            let mut origin = Vec::new();
            space.origin(&mut origin);
            origin.iter().map(|x| -x).collect::<Vec<f32>>()
        });
        let mut decoded = vec![0.0; directory.padded];
        let mut matrix = Vec::with_capacity(centroids.len() * directory.padded);
        for centroid in &centroids {
            let Row { factors, signs, refinement, .. } = Row::read(&directory, centroid);
            decode(signs, refinement, DIRECTORY_BITS, &factors, &mut decoded);
            if let Some(mean) = &uncentre {
                decoded.iter_mut().zip(mean).for_each(|(x, m)| *x += m);
            }
            matrix.extend_from_slice(&decoded);
        }
        let mut assigner = Assigner::new(matrix, directory.padded, true);
        if uncentre.is_some() {
            assigner.by_inner_product();
        }
        Trained {
            options,
            geometry: Geometry::new(options.dims, options.bits, options.columns),
            space,
            assigner: RefCell::new(assigner),
            uncentre,
            centroids,
        }
    }

    /// What another process of the same build makes an equal one of, with [`Trained::from_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let Options { dims, bits, metric, columns, lists } = self.options;
        let mut bytes = bytemuck::bytes_of(&columns).to_vec();
        for number in [dims as u32, bits as u32, metric as u32, lists as u32] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        bytes.extend_from_slice(bytemuck::cast_slice(self.space.mean()));
        self.centroids.iter().for_each(|centroid| bytes.extend_from_slice(centroid));
        bytes
    }

    /// `None` for what [`Trained::to_bytes`] did not make.
    pub fn from_bytes(bytes: &[u8]) -> Option<Trained> {
        let (columns, bytes) = bytes.split_at_checked(size_of::<Columns>())?;
        let columns: Columns = bytemuck::pod_read_unaligned(columns);
        let (numbers, bytes) = bytes.split_at_checked(4 * size_of::<u32>())?;
        let [dims, bits, metric, lists]: [u32; 4] = bytemuck::pod_read_unaligned(numbers);
        let metric = Metric::from_stored(metric)?;
        let options =
            Options { dims: dims as usize, bits: bits as usize, metric, columns, lists: lists as usize };
        let (mean, centroids) = bytes.split_at_checked(options.dims * size_of::<f32>())?;
        let mean = mean.chunks_exact(size_of::<f32>()).map(bytemuck::pod_read_unaligned).collect();
        let space = Space::new(metric, SEED, mean);
        let row_bytes = Geometry::new(options.dims, DIRECTORY_BITS, Columns::default()).row_bytes();
        Some(Trained::of(options, space, centroids.chunks_exact(row_bytes).map(<[u8]>::to_vec).collect()))
    }

    /// Appends to `lists` the list of each row of `vectors` (rows × padded, centred and rotated).
    pub(crate) fn assign(&self, vectors: &[f32], lists: &mut Vec<u32>) {
        let mut assigner = self.assigner.borrow_mut();
        match &self.uncentre {
            None => assigner.assign(vectors, lists),
            Some(mean) => {
                let add = |row: &[f32]| row.iter().zip(mean).map(|(z, m)| z + m).collect::<Vec<f32>>();
                let rows: Vec<f32> = vectors.chunks_exact(self.geometry.padded).flat_map(add).collect();
                assigner.assign(&rows, lists);
            }
        }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn lists(&self) -> usize {
        self.centroids.len()
    }

    /// Bytes that this, an [`Encoder`] and a [`Writer`] need, at most, when the build has `memory`.
    pub fn memory(&self, memory: usize) -> usize {
        load_memory(&self.options, self.lists(), memory)
    }
}

/// Centroids, centred. `sample`: rows of as many dimensions as the mean, in random order, not centred but for L2, for which the
/// mean is zero; those of cosine have length 1. `rotated`: they and the mean are.
fn centroids<E>(
    options: &Options,
    mut sample: Vec<f32>,
    mean: &[f32],
    rotated: bool,
    check_interrupts: &mut dyn FnMut() -> Result<(), E>,
) -> Result<Vec<f32>, E> {
    let (Options { metric, lists, .. }, dims) = (*options, mean.len());
    let mut length = 1.0;
    if metric == Metric::InnerProduct {
        length = normalise_rows(&mut sample, dims);
    }
    let k_means = KMeans { lists, dims, spherical: metric.spherical(), rotated, seed: SEED };
    let mut centroids = k_means.train(&sample, check_interrupts)?;
    drop(sample);
    if metric == Metric::InnerProduct {
        // As long as the rows are: with a common factor the order of the lists is the same, and the centroids'
        // codes, which are relative to the mean, are as precise as the rows'.
        centroids.iter_mut().for_each(|x| *x *= length);
    }
    if metric != Metric::L2 {
        centroids.chunks_exact_mut(dims).for_each(|centroid| subtract(centroid, mean));
    }
    Ok(centroids)
}

/// Makes rows × dims rows × padded, rotated.
fn rotate_rows<E>(
    rows: &mut Vec<f32>,
    dims: usize,
    rotation: &Rotation,
    check_interrupts: &mut dyn FnMut() -> Result<(), E>,
) -> Result<(), E> {
    let (count, padded) = (rows.len() / dims, padded(dims));
    rows.reserve_exact(count * padded - rows.len());
    rows.resize(count * padded, 0.0);
    // Each moves on to where those after it have been.
    for row in (0..count).rev() {
        // Some ms: one takes 1 µs for 384 dimensions.
        if row % 4096 == 0 {
            check_interrupts()?;
        }
        rows.copy_within(row * dims..(row + 1) * dims, row * padded);
        let row = &mut rows[row * padded..][..padded];
        row[dims..].fill(0.0);
        rotation.apply(row);
    }
    Ok(())
}

/// Scales every row to length 1 and drops the zero rows; returns their mean length before (1 without rows).
fn normalise_rows(rows: &mut Vec<f32>, dims: usize) -> f32 {
    let (mut kept, mut total) = (0, 0.0);
    for start in (0..rows.len()).step_by(dims) {
        let row = &rows[start..start + dims];
        let norm = norm_squared(row).sqrt();
        if norm == 0.0 {
            continue;
        }
        for i in 0..dims {
            rows[kept * dims + i] = (f64::from(rows[start + i]) / norm) as f32;
        }
        kept += 1;
        total += norm;
    }
    rows.truncate(kept * dims);
    if kept == 0 {
        1.0
    } else {
        (total / kept as f64).clamp(f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)) as f32
    }
}

/// Puts the rows into a random order (Fisher and Yates).
fn shuffle(rows: &mut [f32], dims: usize) {
    let mut random = SplitMix64(SEED);
    for remaining in (2..=rows.len() / dims).rev() {
        let (others, last) = rows.split_at_mut((remaining - 1) * dims);
        let other = random.below(remaining) * dims;
        if let Some(other) = others.get_mut(other..other + dims) {
            other.swap_with_slice(&mut last[..dims]);
        }
    }
}

fn subtract(row: &mut [f32], mean: &[f32]) {
    row.iter_mut().zip(mean).for_each(|(x, m)| *x -= m);
}

/// The mean of all rows, zero without rows.
fn mean_of(rows: &[f32], dims: usize) -> Vec<f32> {
    let mut sums = vec![0.0; dims];
    for row in rows.chunks_exact(dims) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
    }
    let count = (rows.len() / dims).max(1) as f64;
    sums.iter().map(|sum| (sum / count) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::tests::normal;

    #[test]
    fn rows_are_rotated_in_place_as_a_space_does_it() {
        for dims in [1, 64, 65, 2000] {
            let space = Space::new(Metric::L2, SEED, vec![0.0; dims]);
            let rows = normal(1, 3 * dims);
            let mut rotated = rows.clone();
            rotate_rows(&mut rotated, dims, space.rotation(), &mut || Ok::<(), ()>(())).unwrap();
            let mut z = Vec::new();
            for (row, rotated) in rows.chunks_exact(dims).zip(rotated.chunks_exact(padded(dims))) {
                space.centre(row, &mut z);
                assert_eq!(z, rotated, "{dims}");
            }
            assert_eq!(rotated.len(), 3 * padded(dims));
        }
    }
}
