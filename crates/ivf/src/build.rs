//! Building an index: train on a sample, encode the rows, sort them by list (the caller), write the pages once.

use crate::kmeans::{Assigner, KMeans};
use crate::layout::{Geometry, Tid};
use crate::metric::Metric;
use crate::quantize::Space;
use crate::store::PageSink;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub dims: usize,
    /// 1..=8
    pub bits: usize,
    pub metric: Metric,
    /// Lists wanted; there are fewer if the sample has fewer different vectors.
    pub lists: usize,
}

/// Lists for a number of rows, when the user does not say.
pub fn default_lists(_rows: f64) -> usize {
    todo!()
}

/// Rows to sample for the training within `memory` bytes, at most `rows`; `Err` has the bytes that the training needs at least.
pub fn sample_rows(_options: &Options, _rows: f64, _memory: usize) -> Result<usize, usize> {
    todo!()
}

/// Mean and centroids.
pub struct Trained {
    geometry: Geometry,
    space: Space,
}

impl Trained {
    /// `sample`: rows × dims, the vectors as the user stored them; it may be empty.
    pub fn train<E>(
        _options: &Options,
        _sample: Vec<f32>,
        _check_interrupts: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Trained, E> {
        todo!()
    }

    pub fn lists(&self) -> usize {
        todo!()
    }
}

/// Encodes rows, some hundreds at a time.
pub struct Encoder<'a> {
    trained: &'a Trained,
}

impl<'a> Encoder<'a> {
    pub fn new(trained: &'a Trained) -> Encoder<'a> {
        Encoder { trained }
    }

    /// Takes a row; false if it is not indexed (zero under cosine).
    pub fn push(&mut self, _tid: Tid, _vector: &[f32]) -> bool {
        todo!()
    }

    /// It is time to [drain](Encoder::drain).
    pub fn is_full(&self) -> bool {
        todo!()
    }

    /// Hands over the rows taken so far: the number of the list, and the encoded row.
    pub fn drain<E>(&mut self, _take: impl FnMut(u32, &[u8]) -> Result<(), E>) -> Result<(), E> {
        todo!()
    }
}

/// Writes the pages of a new index.
pub struct Writer<'a, S> {
    sink: &'a mut S,
    trained: &'a Trained,
}

impl<'a, S: PageSink> Writer<'a, S> {
    pub fn new(_sink: &'a mut S, _trained: &'a Trained) -> Result<Writer<'a, S>, S::Error> {
        todo!()
    }

    /// Takes the rows of [`Encoder::drain`], in ascending order of their lists.
    pub fn push(&mut self, _list: u32, _row: &[u8]) -> Result<(), S::Error> {
        todo!()
    }

    /// `now`: microseconds since 1970. Returns the number of rows.
    pub fn finish(self, _now: i64) -> Result<u64, S::Error> {
        todo!()
    }
}
