//! Rows by the bounds that their sign bits give, of which the nearest are taken a few at a time.
//!
//! Of the ten thousand rows that a scan sees it needs about sixty. So the bounds stay as the kernel leaves them, block
//! by block, and only the least of them are ever copied and sorted.

use crate::layout::{Codes, LANES};
use crate::quantize::Query;
use crate::store::Recent;

#[derive(Default)]
pub struct Shortlist {
    /// Code pages.
    segments: Vec<Recent>,
    /// Their blocks that have a row.
    blocks: Vec<BlockPlace>,
    /// Of all lanes of the blocks; NaN for one that has no row for the scan, or whose row was taken.
    bounds: Vec<f32>,
    /// Bounds that are not NaN.
    open: usize,
    sample: Vec<f32>,
}

#[derive(Debug, Clone, Copy)]
struct BlockPlace {
    /// Number of the segment, as they were added.
    segment: u32,
    /// Number in the segment.
    block: u32,
}

/// A row that was taken from the shortlist.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sketch {
    pub bound: f32,
    /// Lane, counted over all blocks.
    place: u32,
}

/// Bounds looked at to guess how many are below a threshold. Of 10,000 rows the guess for 100 is then off by a third,
/// and takes 1 µs.
const SAMPLE: usize = 1024;

const BLOCK_BYTES: usize = size_of::<BlockPlace>() + LANES * size_of::<f32>();

impl Shortlist {
    /// Makes room for so many segments of so many blocks, as far as `memory` bytes allow.
    pub fn reserve(&mut self, segments: usize, blocks: usize, memory: usize) {
        self.segments.reserve(segments.min(memory / size_of::<Recent>()));
        let blocks = (segments * blocks).min(memory / BLOCK_BYTES);
        self.blocks.reserve(blocks);
        self.bounds.reserve(blocks * LANES);
    }

    /// Adds rows of a segment: one bit a lane and one element a block, of lanes in use.
    pub fn add(&mut self, page: Recent, codes: Codes, rows: &[u16], query: &Query) {
        let segment = self.segments.len() as u32;
        let [norm_squared, rescale, error, ..] = codes.factor_columns();
        let signs = codes.codes();
        let sign_bytes = signs.len() / (rows.len() * LANES);
        let (open, mut first) = (self.open, 0);
        // Blocks side by side that have rows are computed together: without conditions, all of them.
        for run in rows.chunk_by(|&a, &b| (a == 0) == (b == 0)) {
            let blocks = first..first + run.len();
            first = blocks.end;
            if run[0] == 0 {
                continue;
            }
            let lanes = blocks.start * LANES..blocks.end * LANES;
            let start = self.bounds.len();
            self.bounds.resize(start + lanes.len(), 0.0);
            let bounds = &mut self.bounds[start..];
            let signs = &signs[lanes.start * sign_bytes..lanes.end * sign_bytes];
            let [norm_squared, rescale, error] =
                [norm_squared, rescale, error].map(|column| &column[lanes.clone()]);
            query.lower_bounds(signs, norm_squared, rescale, error, bounds);
            for (&rows, bounds) in run.iter().zip(bounds.as_chunks_mut::<LANES>().0) {
                self.open += rows.count_ones() as usize;
                if rows != u16::MAX {
                    let others = (0..LANES).filter(|lane| rows >> lane & 1 == 0);
                    others.for_each(|lane| bounds[lane] = f32::NAN);
                }
            }
            self.blocks.extend(blocks.map(|block| BlockPlace { segment, block: block as u32 }));
        }
        if self.open > open {
            self.segments.push(page);
        }
    }

    /// Of all lanes of the blocks that were added; NaN for one that has no row for the scan.
    pub fn bounds(&self) -> &[f32] {
        &self.bounds
    }

    /// Rows that were not taken yet.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Bytes that the rows take at most, were they all taken: in vectors that grow by doubling.
    pub fn memory(&self) -> usize {
        2 * (self.blocks.len() * BLOCK_BYTES + self.open * size_of::<Sketch>())
    }

    /// Segments added so far.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Forgets all segments but the first ones. Nothing was taken yet.
    pub fn truncate(&mut self, segments: usize) {
        self.segments.truncate(segments);
        let kept = self.blocks.partition_point(|place| (place.segment as usize) < segments);
        self.blocks.truncate(kept);
        let rest = self.bounds.split_off(kept * LANES);
        self.open -= rest.iter().filter(|bound| !bound.is_nan()).count();
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.blocks.clear();
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
        let BlockPlace { segment, block } = self.blocks[place / LANES];
        (self.segments[segment as usize], block as usize * LANES + place % LANES)
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
            blocks in 1usize..4,
        ) {
            let lanes = blocks * LANES;
            let mut bounds = bounds;
            bounds.resize(bounds.len().next_multiple_of(lanes), f32::NAN);
            let mut expected: Vec<f32> = bounds.iter().copied().filter(|bound| !bound.is_nan()).collect();
            let mut shortlist = Shortlist {
                segments: (100..).take(bounds.len() / lanes).map(|block| Recent { block, buffer: 0 }).collect(),
                blocks: (0..(bounds.len() / LANES) as u32)
                    .map(|i| BlockPlace { segment: i / blocks as u32, block: i % blocks as u32 })
                    .collect(),
                open: expected.len(),
                bounds: bounds.clone(),
                sample: Vec::new(),
            };

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
