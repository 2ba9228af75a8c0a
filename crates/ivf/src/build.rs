//! Building an index: train on a sample, encode the rows, sort them by list (the caller), write the pages once.

use crate::columns::{Columns, Value, check_count, write_values};
use crate::geometry::Geometry;
use crate::kmeans::KMeans;
use crate::layout::{Page, Row, Tid};
use crate::metric::Metric;
use crate::quantize::encode;
use crate::random::SplitMix64;
use crate::recall::QUERIES;
use crate::store::IndexError;
use crate::trained::SEED;
pub use crate::trained::Trained;
use crate::writer::RUN;
pub use crate::writer::{Writer, write_without_dimensions};

/// Lists that `lists` can ask for; pgvector's limit.
pub const MAX_LISTS: usize = 32_768;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub dims: usize,
    /// 1..=8
    pub bits: usize,
    pub metric: Metric,
    pub columns: Columns,
    /// Lists wanted, 1..=[`MAX_LISTS`]; there are fewer if the sample has fewer different vectors.
    pub lists: usize,
}

/// Lists for a number of rows, when the user does not say: 500 rows a list, and from 4 million rows on 4 * sqrt(rows)
/// lists, so that ranking the lists and scanning the probed ones cost alike.
pub fn default_lists(rows: f64) -> usize {
    let lists = (rows / 500.0).min(4.0 * rows.max(0.0).sqrt());
    (lists.round() as usize).clamp(1, MAX_LISTS)
}

/// Rows sampled for each list, if memory allows: see k-means for what 48 or 96 would change.
const SAMPLE_PER_LIST: usize = 64;
/// With fewer, a centroid is hardly more than one of its rows.
const LEAST_SAMPLE_PER_LIST: usize = 8;

/// Rows to sample for the training within `memory` bytes; `Err` has the bytes that the training needs at least.
///
/// `rows`: those of the table, about.
pub fn sample_rows(options: &Options, rows: f64, memory: usize) -> Result<usize, usize> {
    let bytes = |sample: usize| {
        let (lists, dims) = (options.lists, options.dims);
        let k_means = KMeans { lists, dims, spherical: true, rotated: false, seed: SEED };
        // The sample is gone when the rows are loaded.
        let training = sample * dims * size_of::<f32>() + k_means.memory(sample);
        training.max(load_memory(options, options.lists.min(sample), memory))
    };
    // Somewhat more than there are said to be.
    let wanted = (training_rows(options) + examples(options)).min((rows * 1.1) as usize + 100);
    let least = (options.lists * LEAST_SAMPLE_PER_LIST).min(wanted);
    if bytes(least) > memory {
        return Err(bytes(least));
    }
    // The largest sample that fits, to a 64th: memory() need not be linear in the rows.
    let step = ((wanted - least) / 64).max(1);
    let fitting =
        (0..=64).rev().map(|i| (least + i * step).min(wanted)).find(|&sample| bytes(sample) <= memory);
    Ok(fitting.unwrap_or(least))
}

/// Rows that training is the better for.
fn training_rows(options: &Options) -> usize {
    options.lists * SAMPLE_PER_LIST
}

/// Rows that the recall of the lists is tried with: of one list it is known.
fn examples(options: &Options) -> usize {
    if options.lists > 1 { QUERIES } else { 0 }
}

/// Takes rows out of a sample for trying the recall, as lists fit those rows better that they are made of. Of `vectors`,
/// rows × dims with these TIDs, as many as are to spare, or else an eighth.
pub fn hold_out(
    vectors: &mut Vec<f32>,
    tids: &mut Vec<Tid>,
    dims: usize,
    options: &Options,
) -> Vec<(Tid, Vec<f32>)> {
    let rows = tids.len();
    let count = rows.saturating_sub(training_rows(options)).max(rows / 8).min(examples(options));
    let mut random = SplitMix64(SEED);
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let row = random.below(tids.len());
        let (start, last) = (row * dims, (tids.len() - 1) * dims);
        held.push((tids.swap_remove(row), vectors[start..start + dims].to_vec()));
        vectors.copy_within(last.., start);
        vectors.truncate(last);
    }
    held
}

/// Bytes that [`Trained`], [`Encoder`] and [`Writer`] need, at most, when the build has `memory`.
pub(crate) fn load_memory(options: &Options, lists: usize, memory: usize) -> usize {
    let geometry = Geometry::new(options.dims, options.bits, options.columns);
    let batch = batch(&geometry, memory);
    // Centroids as floats, as the matrix multiplication wants them, and as codes, and its products.
    let centroids = lists * (3 * geometry.padded + batch) * size_of::<f32>();
    // For the inner product, the vectors are copied.
    let encoder = batch * (2 * geometry.padded * size_of::<f32>() + options.columns.row_bytes());
    let run = RUN * (1 + geometry.refinement_pages()) * size_of::<Page>();
    centroids + encoder + 2 * run
}

/// Encodes rows, some hundreds at a time.
pub struct Encoder<'a> {
    trained: &'a Trained,
    /// Rows at a time.
    batch: usize,
    tids: Vec<Tid>,
    /// Of the columns, as [`write_values`] has them.
    values: Vec<u8>,
    /// Centred and rotated vectors, rows × padded.
    vectors: Vec<f32>,
    z: Vec<f32>,
    lists: Vec<u32>,
    row: Vec<u8>,
    signs: Vec<u8>,
    refinement: Vec<u8>,
}

/// Rows whose lists are sought together at most: enough for the matrix multiplication to run at speed.
const BATCH: usize = 512;
/// Bytes of them at most: at 512 dimensions as many as that.
const BATCH_BYTES: usize = 1 << 20;
/// They have one part in so many of the build's memory at most.
const BATCH_SHARE: usize = 16;
/// Rows however little memory there is.
const LEAST_BATCH: usize = 16;
/// Multiplications of one batch at most, as it cannot be interrupted: some 50 ms with AVX2.
const BATCH_WORK: usize = 1 << 31;

pub(crate) fn batch(geometry: &Geometry, memory: usize) -> usize {
    let rows = BATCH_BYTES.min(memory / BATCH_SHARE) / (geometry.padded * size_of::<f32>());
    rows.clamp(LEAST_BATCH, BATCH)
}

impl<'a> Encoder<'a> {
    /// `memory`: bytes that the build has.
    pub fn new(trained: &'a Trained, memory: usize) -> Encoder<'a> {
        let geometry = &trained.geometry;
        let batch = batch(geometry, memory);
        Encoder {
            trained,
            batch,
            tids: Vec::with_capacity(batch),
            values: Vec::with_capacity(batch * geometry.columns.row_bytes()),
            vectors: Vec::with_capacity(batch * geometry.padded),
            z: Vec::new(),
            lists: Vec::with_capacity(batch),
            row: Vec::with_capacity(geometry.row_bytes()),
            signs: vec![0; geometry.sign_bytes()],
            refinement: vec![0; geometry.refinement_bytes()],
        }
    }

    /// Takes a row, with a value for each column; false if it is not indexed (zero under cosine).
    pub fn push(&mut self, tid: Tid, vector: &[f32], values: &[Value]) -> Result<bool, IndexError> {
        check_count(self.trained.options().columns, values)?;
        let indexed = self.trained.space.centre(vector, &mut self.z);
        if indexed {
            self.tids.push(tid);
            write_values(values, &mut self.values);
            self.vectors.extend_from_slice(&self.z);
        }
        Ok(indexed)
    }

    /// It is time to [drain](Encoder::drain).
    pub fn is_full(&self) -> bool {
        let work = self.tids.len() * self.trained.lists() * self.trained.geometry.padded;
        self.tids.len() >= self.batch || work >= BATCH_WORK
    }

    /// Hands over the rows taken so far: the number of the list, and the encoded row.
    pub fn drain<E>(&mut self, mut take: impl FnMut(u32, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let geometry = &self.trained.geometry;
        self.lists.clear();
        self.trained.assign(&self.vectors, &mut self.lists);
        let rows = self.vectors.chunks_exact(geometry.padded).zip(&self.tids).zip(&self.lists);
        let value_bytes = geometry.columns.row_bytes();
        for (i, ((z, &tid), &list)) in rows.enumerate() {
            let factors = encode(z, geometry.bits, &mut self.signs, &mut self.refinement);
            self.row.clear();
            let values = &self.values[i * value_bytes..(i + 1) * value_bytes];
            Row { tid, factors, values, signs: &self.signs, refinement: &self.refinement }
                .write(&mut self.row);
            take(list, &self.row)?;
        }
        self.tids.clear();
        self.values.clear();
        self.vectors.clear();
        Ok(())
    }
}
