//! Where things are on the pages of the lists.

use crate::columns::{Columns, Width};
use crate::layout::{LANES, MAX_DIMENSIONS, PAGE_BYTES, PAGE_HEADER_BYTES, Segment, Start, Tid};
use crate::quantize::Factors;
use crate::rotate::padded;
use crate::store::Block;
use std::ops::Range;

/// Where things are in the segments of an index, which follows from dimensions, bits and columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    pub dims: usize,
    /// Dimensions of the codes: `dims` filled up with zeros before the rotation.
    pub padded: usize,
    /// Bits a dimension, 1..=8.
    pub bits: usize,
    pub columns: Columns,
    /// Blocks of [`LANES`] rows in a segment.
    pub blocks: usize,
    /// Rows in a segment: the last block may have fewer.
    lanes: usize,
    /// Refinement records in a page; 0 for codes of one bit.
    pub records_per_page: usize,
    pub(crate) refinements: Range<usize>,
    pub(crate) live: Range<usize>,
    pub(crate) tids: Range<usize>,
    /// Of each column which rows are NULL, one bit a lane and one `u16` a block.
    pub(crate) nulls: Vec<Range<usize>>,
    /// Of each column the numbers, of its width.
    pub(crate) numbers: Vec<Range<usize>>,
    pub(crate) factors: [Range<usize>; 5],
    pub(crate) codes: Range<usize>,
}

impl Geometry {
    /// `dims` is 1..=[`MAX_DIMENSIONS`], `bits` 1..=8.
    pub fn new(dims: usize, bits: usize, columns: Columns) -> Geometry {
        assert!((1..=MAX_DIMENSIONS).contains(&dims) && (1..=8).contains(&bits) && columns.is_possible());
        // As many rows as fit the code page, or somewhat fewer if their records then fill their pages better.
        let fitting =
            (1..=PAGE_BYTES / LANES).map_while(|blocks| Geometry::with_blocks(dims, bits, columns, blocks));
        let best = fitting.min_by(|a, b| a.pages_per_lane().total_cmp(&b.pages_per_lane()));
        best.unwrap_or_else(|| {
            unreachable!("a block of {MAX_DIMENSIONS} dimensions fits a page; a test tries all of them")
        })
    }

    fn pages_per_lane(&self) -> f64 {
        (1 + self.refinement_pages()) as f64 / self.lanes() as f64
    }

    fn with_blocks(dims: usize, bits: usize, columns: Columns, blocks: usize) -> Option<Geometry> {
        let padded = padded(dims);
        // Lanes there is room for.
        let room = blocks * LANES;
        let record = padded / 8 * (bits - 1);
        let records_per_page = if bits == 1 { 0 } else { (PAGE_BYTES - size_of::<Start>()) / record };
        let lanes = match records_per_page {
            0 => room,
            // A refinement page for part of a block is worth its space if that fills at least half of it.
            records => match room / records * records {
                full if full > room - LANES && room - full < records / 2 => full,
                _ => room,
            },
        };
        let refinement_pages = if bits == 1 { 0 } else { lanes.div_ceil(records_per_page) };

        let mut end = size_of::<Segment>();
        let mut take = |bytes: usize| {
            let start = end;
            end += bytes;
            start..end
        };
        let refinements = take(refinement_pages * size_of::<Block>());
        let live = take(blocks * size_of::<u16>());
        let tids = take(room * size_of::<Tid>());
        let nulls: Vec<_> = (0..columns.count()).map(|_| take(blocks * size_of::<u16>())).collect();
        let start = nulls.last().map_or(tids.end, |nulls| nulls.end);
        // Numbers of eight bytes come first, where they are aligned; without columns four do.
        let alignment = if columns.count() > 0 { size_of::<i64>() } else { size_of::<f32>() };
        take((alignment - start % alignment) % alignment);
        let mut numbers = vec![0..0; columns.count()];
        for width in [Width::Eight, Width::Four] {
            for number in (0..columns.count()).filter(|&number| columns.width(number) == width) {
                numbers[number] = take(room * width.bytes());
            }
        }
        let factors = std::array::from_fn(|_| take(room * size_of::<f32>()));
        // The codes start on a cache line of the page, its header included, so that no load crosses one.
        let unaligned = (PAGE_HEADER_BYTES + factors[4].end) % 64;
        take((64 - unaligned) % 64);
        let codes = take(room * padded / 8);
        (end <= PAGE_BYTES).then_some(Geometry {
            dims,
            padded,
            bits,
            columns,
            blocks,
            lanes,
            records_per_page,
            refinements,
            live,
            tids,
            nulls,
            numbers,
            factors,
            codes,
        })
    }

    /// Rows in a segment.
    #[inline]
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Bytes of a row's sign bits.
    #[inline]
    pub fn sign_bytes(&self) -> usize {
        self.padded / 8
    }

    /// Bytes of a row's refinement record.
    #[inline]
    pub fn refinement_bytes(&self) -> usize {
        self.sign_bytes() * (self.bits - 1)
    }

    /// Refinement pages of a full segment.
    pub fn refinement_pages(&self) -> usize {
        self.refinements.len() / size_of::<Block>()
    }

    /// Which of the segment's refinement pages has a lane's record, and the record's bytes in it.
    #[inline]
    pub fn record(&self, lane: usize) -> (usize, Range<usize>) {
        let bytes = self.refinement_bytes();
        let start = size_of::<Start>() + lane % self.records_per_page * bytes;
        (lane / self.records_per_page, start..start + bytes)
    }

    /// Bytes of an [encoded row](Row): TID, factors, values of the columns, sign bits, refinement.
    pub fn row_bytes(&self) -> usize {
        size_of::<Tid>()
            + size_of::<Factors>()
            + self.columns.row_bytes()
            + self.sign_bytes()
            + self.refinement_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::MAX_COLUMNS;

    #[test]
    fn every_geometry_fits_a_page() {
        let widths = [&[][..], &[Width::Four], &[Width::Four, Width::Eight], &[Width::Eight; MAX_COLUMNS]];
        for columns in widths.map(|widths| Columns::new(widths).unwrap()) {
            for (dims, bits) in (1..=MAX_DIMENSIONS).flat_map(|dims| (1..=8).map(move |bits| (dims, bits))) {
                let geometry = Geometry::new(dims, bits, columns);
                assert!(geometry.codes.end <= PAGE_BYTES);
                assert_eq!((geometry.codes.start + PAGE_HEADER_BYTES) % 64, 0);
                assert!(geometry.lanes() <= geometry.blocks * LANES);
                assert!(geometry.lanes() > (geometry.blocks - 1) * LANES);
                for (number, range) in geometry.numbers.iter().enumerate() {
                    assert_eq!(range.start % columns.width(number).bytes(), 0);
                }
                if bits > 1 {
                    assert!(geometry.record(geometry.lanes() - 1).0 < geometry.refinement_pages());
                    assert!(geometry.record(geometry.records_per_page - 1).1.end <= PAGE_BYTES);
                }
            }
        }
    }

    /// What columns cost at 384 dimensions, in bytes a row: nothing, until the page of the codes is full.
    #[test]
    fn columns_cost_little() {
        use Width::{Eight, Four};
        let bytes = |widths: &[Width]| {
            let columns = Columns::new(widths).unwrap();
            Geometry::new(384, 8, columns).pages_per_lane() * 8192.0
        };
        let without = bytes(&[]);
        for (widths, most) in [
            (&[Four][..], 0.0),
            (&[Eight], 0.0),
            (&[Four, Four], 0.0),
            (&[Four, Eight], 30.0),
            (&[Eight, Eight, Eight], 30.0),
            (&[Four, Four, Four, Four, Eight], 30.0),
        ] {
            assert!(bytes(widths) - without <= most, "{widths:?}: {} more", bytes(widths) - without);
        }
    }

    #[test]
    fn fewer_bits_take_no_more_space() {
        for dims in 1..=MAX_DIMENSIONS {
            let sizes: Vec<f64> =
                (1..=8).map(|bits| Geometry::new(dims, bits, Columns::default()).pages_per_lane()).collect();
            assert!(sizes.is_sorted(), "{dims} dimensions: {sizes:?}");
        }
    }

    #[test]
    fn a_segment_of_384_dimensions() {
        let geometry = Geometry::new(384, 8, Columns::default());
        assert_eq!((geometry.lanes(), geometry.records_per_page, geometry.refinement_pages()), (96, 24, 4));
    }
}
