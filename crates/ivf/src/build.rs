//! Building an index: train on a sample, encode the rows, sort them by list (the caller), write the pages once.

use std::cell::RefCell;

use crate::columns::{Columns, Value, check_count, write_values};
use crate::geometry::Geometry;
use crate::kernel::norm_squared;
use crate::kmeans::{Assigner, KMeans};
use crate::layout::{CodesMut, DIRECTORY, DIRECTORY_BITS, META_BLOCK, NO_BLOCK, Page, PageKind, Row, Tid};
use crate::metric::Metric;
use crate::quantize::{Space, decode, encode};
use crate::random::SplitMix64;
use crate::rotate::Rotation;
use crate::store::{Block, IndexError, PageSink};

/// Of the rotation and of k-means: builds can be repeated. Any number does.
const SEED: u64 = 0x70675f656d626564;

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
        let k_means = KMeans { lists: options.lists, dims: options.dims, spherical: true, seed: SEED };
        // The sample is gone when the rows are loaded.
        let training = sample * options.dims * size_of::<f32>() + k_means.memory(sample);
        training.max(load_memory(options, options.lists.min(sample), memory))
    };
    // Somewhat more than there are said to be.
    let wanted = (options.lists * SAMPLE_PER_LIST).min((rows * 1.1) as usize + 100);
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

/// Bytes that [`Trained`], [`Encoder`] and [`Writer`] need, at most, when the build has `memory`.
fn load_memory(options: &Options, lists: usize, memory: usize) -> usize {
    let geometry = Geometry::new(options.dims, options.bits, options.columns);
    let batch = batch(&geometry, memory);
    // Centroids as floats, as the matrix multiplication wants them, and as codes, and its products.
    let centroids = lists * (3 * geometry.padded + batch) * size_of::<f32>();
    // For the inner product, the vectors are copied.
    let encoder = batch * (2 * geometry.padded * size_of::<f32>() + options.columns.row_bytes());
    let run = RUN * (1 + geometry.refinement_pages()) * size_of::<Page>();
    centroids + encoder + 2 * run
}

/// Mean and centroids.
pub struct Trained {
    options: Options,
    geometry: Geometry,
    space: Space,
    /// Over the rotated vectors. It writes to its own memory as it works.
    assigner: RefCell<Assigner>,
    /// What [`Metric::InnerProduct`] adds to a centred vector before its centroid is sought: the rotated mean.
    uncentre: Option<Vec<f32>>,
    /// Encoded rows of the directory, one for each list; their TIDs are not known yet.
    centroids: Vec<Vec<u8>>,
}

impl Trained {
    /// `sample`: rows × dims, the vectors as the user stored them; it may be empty.
    pub fn train<E>(
        options: &Options,
        mut sample: Vec<f32>,
        check_interrupts: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Trained, E> {
        let Options { dims, metric, lists, .. } = *options;
        // It comes in the order of the table, and k-means begins with half of it.
        shuffle(&mut sample, dims);
        if metric.normalises() {
            normalise_rows(&mut sample, dims);
        }
        let mean = mean_of(&sample, dims);
        let mut length = 1.0;
        match metric {
            Metric::InnerProduct => length = normalise_rows(&mut sample, dims),
            // Sums of products lose less around the origin.
            Metric::L2 => sample.chunks_exact_mut(dims).for_each(|row| subtract(row, &mean)),
            Metric::Cosine => {}
        }
        let k_means = KMeans { lists, dims, spherical: metric.spherical(), seed: SEED };
        let mut centroids = k_means.train(&sample, check_interrupts)?;
        drop(sample);
        if metric == Metric::InnerProduct {
            // As long as the rows are: with a common factor the order of the lists is the same, and the centroids'
            // codes, which are relative to the mean, are as precise as the rows'.
            centroids.iter_mut().for_each(|x| *x *= length);
        }
        if metric != Metric::L2 {
            centroids.chunks_exact_mut(dims).for_each(|centroid| subtract(centroid, &mean));
        }
        let space = Space::new(metric, SEED, mean);
        Ok(Trained::encode_centroids(*options, space, &centroids))
    }

    /// Encodes the centroids for the directory. `centroids` are centred.
    fn encode_centroids(options: Options, space: Space, centroids: &[f32]) -> Trained {
        let directory = Geometry::new(options.dims, DIRECTORY_BITS, Columns::default());
        let rotation = Rotation::new(options.dims, SEED);
        let mut z = Vec::new();
        let mut signs = vec![0; directory.sign_bytes()];
        let mut refinement = vec![0; directory.refinement_bytes()];
        let mut encoded: Vec<Vec<u8>> = Vec::new();
        for centroid in centroids.chunks_exact(options.dims) {
            z.clear();
            z.extend_from_slice(centroid);
            z.resize(directory.padded, 0.0);
            rotation.apply(&mut z);
            let factors = encode(&z, DIRECTORY_BITS, &mut signs, &mut refinement);
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
            space.centre(&vec![0.0; options.dims], &mut origin);
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

fn batch(geometry: &Geometry, memory: usize) -> usize {
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
        check_count(self.trained.options.columns, values)?;
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
        let Trained { geometry, assigner, uncentre, .. } = self.trained;
        self.lists.clear();
        let mut assigner = assigner.borrow_mut();
        match uncentre {
            None => assigner.assign(&self.vectors, &mut self.lists),
            Some(mean) => {
                let add = |row: &[f32]| row.iter().zip(mean).map(|(z, m)| z + m).collect::<Vec<f32>>();
                let rows: Vec<f32> = self.vectors.chunks_exact(geometry.padded).flat_map(add).collect();
                assigner.assign(&rows, &mut self.lists);
            }
        }
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

/// Code pages that are written side by side, followed by their refinement pages: a scan reads code pages only.
const RUN: usize = 8;

/// Writes the pages of a new index.
pub struct Writer<'a, S> {
    sink: &'a mut S,
    trained: &'a Trained,
    /// The list that is being written.
    list: ListWriter,
    /// The lists before it: first segment and length of its run.
    finished: Vec<Tid>,
    mean: Block,
    rows: u64,
}

impl<'a, S: PageSink> Writer<'a, S> {
    pub fn new(sink: &'a mut S, trained: &'a Trained) -> Result<Writer<'a, S>, S::Error> {
        // Rewritten at the end; until then no index.
        sink.append(&Page::zeroed())?;
        let mut page = Page::zeroed();
        page.initialize(PageKind::Mean, NO_BLOCK);
        let mean = trained.space.mean();
        page.mean_mut(mean.len()).copy_from_slice(mean);
        let mean = sink.append(&page)?;
        let list = ListWriter::new(0, mean + 1);
        Ok(Writer { sink, trained, list, finished: Vec::with_capacity(trained.lists()), mean, rows: 0 })
    }

    /// Takes the rows of [`Encoder::drain`], in ascending order of their lists.
    pub fn push(&mut self, list: u32, row: &[u8]) -> Result<(), S::Error> {
        while self.list.number < list {
            self.next_list()?;
        }
        self.rows += 1;
        self.list.push(self.sink, &self.trained.geometry, row)
    }

    fn next_list(&mut self) -> Result<(), S::Error> {
        let next = ListWriter::new(self.list.number + 1, self.list.next_block);
        let list = std::mem::replace(&mut self.list, next);
        let (tid, end) = list.finish(self.sink, &self.trained.geometry)?;
        self.list.next_block = end;
        self.finished.push(tid);
        Ok(())
    }

    /// `now`: microseconds since 1970. Returns the number of rows.
    pub fn finish(mut self, now: i64) -> Result<u64, S::Error> {
        while self.finished.len() < self.trained.lists() {
            self.next_list()?;
        }
        let Trained { options, centroids, .. } = self.trained;
        let geometry = Geometry::new(options.dims, DIRECTORY_BITS, Columns::default());
        let mut directory = ListWriter::new(DIRECTORY, self.list.next_block);
        let mut row = Vec::with_capacity(geometry.row_bytes());
        for (centroid, &tid) in centroids.iter().zip(&self.finished) {
            row.clear();
            Row { tid, ..Row::read(&geometry, centroid) }.write(&mut row);
            directory.push(self.sink, &geometry, &row)?;
        }
        let (first, pages) = directory.finish(self.sink, &geometry)?;

        let mut page = Page::zeroed();
        page.initialize(PageKind::Meta, NO_BLOCK);
        let meta = page.meta_mut();
        meta.set_up(options.metric, options.bits, options.columns, SEED);
        meta.dims = options.dims as u32;
        meta.mean = self.mean;
        meta.directory = first.block();
        meta.lists = centroids.len() as u32;
        meta.pages = pages;
        meta.rows = self.rows;
        meta.trained_rows = self.rows;
        meta.trained_at = now;
        self.sink.overwrite(META_BLOCK, &page)?;
        Ok(self.rows)
    }
}

/// Writes an index without rows on values whose type does not say their dimensions: the
/// [first row](crate::insert::settle) will.
pub fn write_without_dimensions<S: PageSink>(
    sink: &mut S,
    metric: Metric,
    bits: usize,
    columns: Columns,
) -> Result<(), S::Error> {
    let mut page = Page::zeroed();
    sink.append(&page)?;
    page.initialize(PageKind::Mean, NO_BLOCK);
    let mean = sink.append(&page)?;
    let directory = mean + 1;
    page.initialize(PageKind::Codes, NO_BLOCK);
    page.segment_mut().list = DIRECTORY;
    page.segment_mut().insert_at = directory;
    sink.append(&page)?;
    page.initialize(PageKind::Meta, NO_BLOCK);
    let meta = page.meta_mut();
    meta.set_up(metric, bits, columns, SEED);
    meta.mean = mean;
    meta.directory = directory;
    meta.pages = directory + 1;
    sink.overwrite(META_BLOCK, &page)
}

/// Writes the segments of one list.
struct ListWriter {
    number: u32,
    /// Where the next page goes.
    next_block: Block,
    /// Encoded rows of the run that is being filled.
    rows: Vec<u8>,
    /// The list's first segment, once written, with the length of its run.
    first: Option<(Tid, Page)>,
}

impl ListWriter {
    fn new(number: u32, next_block: Block) -> ListWriter {
        ListWriter { number, next_block, rows: Vec::new(), first: None }
    }

    fn push<S: PageSink>(&mut self, sink: &mut S, geometry: &Geometry, row: &[u8]) -> Result<(), S::Error> {
        if self.rows.len() == RUN * geometry.lanes() * geometry.row_bytes() {
            self.write_run(sink, geometry, false)?;
        }
        self.rows.extend_from_slice(row);
        Ok(())
    }

    /// Returns first segment and length of its run, and the block after the list's last.
    fn finish<S: PageSink>(mut self, sink: &mut S, geometry: &Geometry) -> Result<(Tid, Block), S::Error> {
        let last = self.write_run(sink, geometry, true)?;
        match self.first {
            None => Ok((Tid::new(last.0, last.1), self.next_block)),
            Some((tid, mut page)) => {
                // Room is in the last segment, if anywhere; the first one was written before that was known.
                page.segment_mut().insert_at = last.0 + Block::from(last.1) - 1;
                sink.overwrite(tid.block(), &page)?;
                Ok((tid, self.next_block))
            }
        }
    }

    /// Writes the code pages of the rows so far, then their refinement pages. Returns the first block and the code
    /// pages.
    fn write_run<S: PageSink>(
        &mut self,
        sink: &mut S,
        geometry: &Geometry,
        last: bool,
    ) -> Result<(Block, u16), S::Error> {
        sink.check_interrupts()?;
        let row_bytes = geometry.row_bytes();
        let segments: Vec<&[u8]> = match self.rows.is_empty() {
            true => vec![&[]],
            false => self.rows.chunks(geometry.lanes() * row_bytes).collect(),
        };
        let first = self.next_block;
        let first_refinement = first + segments.len() as Block;
        let mut pages = Vec::new();
        let mut refinements: Vec<Page> = Vec::new();
        for (block, segment) in (first..).zip(&segments) {
            let mut page = Page::zeroed();
            page.initialize(PageKind::Codes, block + 1);
            page.segment_mut().list = self.number;
            let mut codes = CodesMut::new(&mut page, geometry);
            for (lane, row) in segment.chunks_exact(row_bytes).enumerate() {
                let row = Row::read(geometry, row);
                codes.fill(lane, &row);
                if geometry.bits == 1 {
                    continue;
                }
                let (number, record) = geometry.record(lane);
                if lane % geometry.records_per_page == 0 {
                    codes.set_refinement_page(number, first_refinement + refinements.len() as Block);
                    let mut page = Page::zeroed();
                    page.initialize(PageKind::Refinements, block);
                    refinements.push(page);
                }
                if let Some(page) = refinements.last_mut() {
                    page.bytes_mut()[record].copy_from_slice(row.refinement);
                }
            }
            pages.push(page);
        }
        let run = pages.len() as u16;
        self.next_block = first_refinement + refinements.len() as Block;
        if let Some(page) = pages.last_mut() {
            // The next run follows this run's refinement pages.
            page.set_link(if last { NO_BLOCK } else { self.next_block });
        }
        pages[0].segment_mut().insert_at = first_refinement - 1;
        if !last && self.first.is_none() {
            self.first = Some((Tid::new(first, run), pages[0].clone()));
        }
        for (block, page) in (first..).zip(pages.iter().chain(&refinements)) {
            // Pages are written one after the other by one process: their blocks are known before.
            let appended = sink.append(page)?;
            debug_assert_eq!(appended, block);
        }
        self.rows.clear();
        Ok((first, run))
    }
}
