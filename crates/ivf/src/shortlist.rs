//! Rows by the bounds that their sign bits give, of which the nearest are taken a few at a time.
//!
//! Of the ten thousand rows that a scan sees it needs about sixty. So the bounds stay as the kernel leaves them, segment
//! by segment, and only the least of them are ever copied and sorted.

use crate::layout::{Codes, LANES};
use crate::quantize::Query;
use crate::store::Recent;

pub struct Shortlist {
    /// Lanes of a segment.
    lanes: usize,
    /// Code pages.
    segments: Vec<Recent>,
    /// Of all lanes of the segments; NaN for a lane that is not in use, or was taken.
    bounds: Vec<f32>,
    /// Bounds that are not NaN.
    open: usize,
    sample: Vec<f32>,
}

/// A row that was taken from the shortlist.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sketch {
    pub bound: f32,
    /// Counted over all segments.
    place: u32,
}

/// Bounds looked at to guess how many are below a threshold. Of 10,000 rows the guess for 100 is then off by a third,
/// and takes 1 µs.
const SAMPLE: usize = 1024;

impl Shortlist {
    /// For segments of so many lanes.
    pub fn new(lanes: usize) -> Shortlist {
        Shortlist { lanes, segments: Vec::new(), bounds: Vec::new(), open: 0, sample: Vec::new() }
    }

    /// Makes room for so many segments, as far as `memory` bytes allow.
    pub fn reserve(&mut self, segments: usize, memory: usize) {
        self.segments.reserve(segments.min(memory / size_of::<Recent>()));
        self.bounds.reserve((segments * self.lanes).min(memory / size_of::<f32>()));
    }

    /// Adds the rows of a segment; returns how many.
    pub fn add(&mut self, page: Recent, codes: Codes, query: &Query) -> usize {
        let start = self.bounds.len();
        self.segments.push(page);
        self.bounds.resize(start + self.lanes, 0.0);
        let bounds = &mut self.bounds[start..];
        let [norm_squared, rescale, error, ..] = codes.factor_columns();
        query.lower_bounds(codes.codes(), norm_squared, rescale, error, bounds);
        let mut rows = 0;
        for (&live, bounds) in codes.live().iter().zip(bounds.as_chunks_mut::<LANES>().0) {
            rows += live.count_ones() as usize;
            if live != u16::MAX {
                let unused = (0..LANES).filter(|lane| live >> lane & 1 == 0);
                unused.for_each(|lane| bounds[lane] = f32::NAN);
            }
        }
        self.open += rows;
        rows
    }

    /// Rows that were not taken yet.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Bytes that the rows take at most, were they all taken: in vectors that grow by doubling.
    pub fn memory(&self) -> usize {
        2 * (self.bounds.len() * size_of::<f32>() + self.open * size_of::<Sketch>())
    }

    /// Segments added so far.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Forgets all segments but the first ones. Nothing was taken yet.
    pub fn truncate(&mut self, segments: usize) {
        self.segments.truncate(segments);
        let rest = self.bounds.split_off((segments * self.lanes).min(self.bounds.len()));
        self.open -= rest.iter().filter(|bound| !bound.is_nan()).count();
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.bounds.clear();
        self.open = 0;
    }

    /// Moves about `wanted` rows to the end of `taken`, at least one if there is one: those of the least bounds, in no
    /// order. No bound that stays is below what is returned.
    pub fn take(&mut self, wanted: usize, taken: &mut Vec<Sketch>) -> f32 {
        let threshold = self.threshold(wanted);
        let before = taken.len();
        for (block, bounds) in self.bounds.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            // Without a branch in the loop, which becomes a comparison of registers; false for NaN.
            if !bounds.iter().fold(false, |any, &bound| any | (bound <= threshold)) {
                continue;
            }
            for (lane, bound) in bounds.iter_mut().enumerate() {
                if *bound <= threshold {
                    taken.push(Sketch { bound: *bound, place: (block * LANES + lane) as u32 });
                    *bound = f32::NAN;
                }
            }
        }
        self.open -= taken.len() - before;
        threshold
    }

    /// A bound up to which there are about `wanted` rows.
    fn threshold(&mut self, wanted: usize) -> f32 {
        if self.open <= wanted {
            return f32::INFINITY;
        }
        let step = (self.bounds.len() / SAMPLE).max(1);
        self.sample.clear();
        self.sample.extend(self.bounds.iter().step_by(step).copied().filter(|bound| !bound.is_nan()));
        let rank = (wanted * self.sample.len()).div_ceil(self.open);
        if !(1..self.sample.len()).contains(&rank) {
            return f32::INFINITY;
        }
        *self.sample.select_nth_unstable_by(rank - 1, f32::total_cmp).1
    }

    /// Code page and lane of a row.
    pub fn place(&self, row: Sketch) -> (Recent, usize) {
        let place = row.place as usize;
        (self.segments[place / self.lanes], place % self.lanes)
    }
}

/// The nearest last.
pub fn sort(rows: &mut [Sketch]) {
    rows.sort_unstable_by(|a, b| b.bound.total_cmp(&a.bound));
}

/// By segments, and by lanes in each.
pub fn sort_by_place(rows: &mut [Sketch]) {
    rows.sort_unstable_by_key(|row| row.place);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is asked for, rows come in the order of their bounds, and each once.
        #[test]
        fn rows_are_taken_in_order(
            bounds in prop::collection::vec(prop_oneof![
                4 => (0u8..50).prop_map(f32::from),
                1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX]),
            ], 1..300),
            wanted in 1usize..40,
            lanes in 1usize..4,
        ) {
            let lanes = lanes * LANES;
            let mut bounds = bounds;
            bounds.resize(bounds.len().next_multiple_of(lanes), f32::NAN);
            let mut expected: Vec<f32> = bounds.iter().copied().filter(|bound| !bound.is_nan()).collect();
            let mut shortlist = Shortlist::new(lanes);
            shortlist.segments = (100..).take(bounds.len() / lanes).map(|block| Recent { block, buffer: 0 }).collect();
            shortlist.open = expected.len();
            shortlist.bounds = bounds.clone();

            let mut all = Vec::new();
            while shortlist.open() > 0 {
                let mut taken = Vec::new();
                let threshold = shortlist.take(wanted, &mut taken);
                prop_assert!(!taken.is_empty() && taken.iter().all(|row| row.bound <= threshold));
                prop_assert!(!shortlist.bounds.iter().any(|&bound| bound <= threshold));
                sort(&mut taken);
                all.extend(taken.into_iter().rev());
            }
            for row in &all {
                let (page, lane) = shortlist.place(*row);
                prop_assert_eq!(bounds[(page.block - 100) as usize * lanes + lane].to_bits(), row.bound.to_bits());
            }
            let mut places: Vec<_> = all.iter().map(|row| row.place).collect();
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(places.len(), all.len());
            let order = |a: &f32, b: &f32| a.partial_cmp(b).unwrap();
            expected.sort_by(order);
            prop_assert!(all.iter().map(|row| row.bound).eq(expected));
        }
    }
}
