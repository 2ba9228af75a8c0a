//! The pages of an index, to the byte.
//!
//! Integers and floats are in the machine's byte order, as in every Postgres relation. README.md draws the pages.

use crate::columns::{Columns, Value, Width, read_values, write_values};
use crate::geometry::Geometry;
use crate::metric::Metric;
use crate::quantize::Factors;
use crate::recall::Curve;
use crate::store::{Block, IndexError};
use crate::writer::Written;
use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut, from_bytes, from_bytes_mut};
use std::ops::Range;

/// What Postgres leaves of a page of 8192 bytes after its own header.
pub const PAGE_BYTES: usize = 8192 - PAGE_HEADER_BYTES;
/// `SizeOfPageHeaderData`.
pub(crate) const PAGE_HEADER_BYTES: usize = 24;

/// Rows of one block of codes.
pub const LANES: usize = 16;

/// Dimensions an index can have at most, as in pgvector.
pub const MAX_DIMENSIONS: usize = 2000;

/// Bits of a centroid's code: all that there can be, as the directory is small.
pub const DIRECTORY_BITS: usize = 8;

/// The `list` of the directory's own segments.
pub const DIRECTORY: u32 = u32::MAX;

/// The `list` of the fresh list's segments: rows that came while a training was reading the others. Every scan reads it.
pub const FRESH: u32 = u32::MAX - 1;

/// Stands for "no page": block 0 holds the metapage, which nothing points to.
pub const NO_BLOCK: Block = 0;

pub const META_BLOCK: Block = 0;

const MAGIC: u16 = 0x7645;

/// Raised when the meaning of a page changes; another version is refused with the hint to REINDEX.
pub const FORMAT_VERSION: u32 = 4;

/// The content of a page.
#[derive(Clone)]
#[repr(C, align(8))]
pub struct Page([u8; PAGE_BYTES]);

impl Page {
    pub fn zeroed() -> Page {
        Page([0; PAGE_BYTES])
    }

    #[inline]
    pub fn bytes(&self) -> &[u8; PAGE_BYTES] {
        &self.0
    }

    pub fn bytes_mut(&mut self) -> &mut [u8; PAGE_BYTES] {
        &mut self.0
    }

    #[inline]
    pub fn start(&self) -> &Start {
        self.read(0)
    }

    /// Whether it was ever written.
    pub fn is_ours(&self) -> bool {
        self.start().magic == MAGIC
    }

    #[inline]
    pub fn is(&self, kind: PageKind) -> bool {
        let start = self.start();
        start.magic == MAGIC && start.kind == kind as u16
    }

    /// Fails unless the page is of this kind.
    #[inline]
    pub fn expect(&self, kind: PageKind, block: Block) -> Result<(), IndexError> {
        if self.is(kind) {
            Ok(())
        } else {
            Err(IndexError::corrupt(block, format!("is not a {kind:?} page")))
        }
    }

    /// Makes this an empty page of a kind.
    pub fn initialize(&mut self, kind: PageKind, link: Block) {
        self.0.fill(0);
        self.set_kind(kind, link);
    }

    /// Makes this the first page of an empty list.
    pub fn initialize_list(&mut self, list: u32, generation: u32, block: Block) {
        self.initialize(PageKind::Codes, NO_BLOCK);
        let segment = self.segment_mut();
        (segment.list, segment.generation, segment.insert_at) = (list, generation, block);
    }

    /// Makes this a page of a kind, and leaves what is on it: a page on the free list is written whole when it is used.
    pub fn set_kind(&mut self, kind: PageKind, link: Block) {
        *self.start_mut() = Start { magic: MAGIC, kind: kind as u16, link };
    }

    pub fn set_link(&mut self, link: Block) {
        self.start_mut().link = link;
    }

    fn start_mut(&mut self) -> &mut Start {
        self.write(0)
    }

    #[inline]
    fn read<T: Pod>(&self, offset: usize) -> &T {
        from_bytes(&self.0[offset..offset + size_of::<T>()])
    }

    fn write<T: Pod>(&mut self, offset: usize) -> &mut T {
        from_bytes_mut(&mut self.0[offset..offset + size_of::<T>()])
    }

    #[inline]
    fn slice<T: Pod>(&self, range: &Range<usize>) -> &[T] {
        cast_slice(&self.0[range.clone()])
    }

    fn slice_mut<T: Pod>(&mut self, range: &Range<usize>) -> &mut [T] {
        cast_slice_mut(&mut self.0[range.clone()])
    }

    /// The metapage's content; call [`Page::expect`] first.
    pub fn meta(&self) -> &Meta {
        self.read(0)
    }

    pub fn meta_mut(&mut self) -> &mut Meta {
        self.write(0)
    }

    /// The global mean, `dims` floats; call [`Page::expect`] first.
    pub fn mean(&self, dims: usize) -> &[f32] {
        self.slice(&mean_range(dims))
    }

    pub fn mean_mut(&mut self, dims: usize) -> &mut [f32] {
        self.slice_mut(&mean_range(dims))
    }

    /// The header of a code page; call [`Page::expect`] first.
    #[inline]
    pub fn segment(&self) -> &Segment {
        self.read(0)
    }

    pub fn segment_mut(&mut self) -> &mut Segment {
        self.write(0)
    }

    /// Whether this is a code page of a list of a generation.
    #[inline]
    pub fn is_segment_of(&self, list: u32, generation: u32) -> bool {
        self.is(PageKind::Codes) && (self.segment().list, self.segment().generation) == (list, generation)
    }
}

fn mean_range(dims: usize) -> Range<usize> {
    size_of::<Start>()..size_of::<Start>() + dims * size_of::<f32>()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum PageKind {
    Meta = 1,
    Mean = 2,
    Codes = 3,
    Refinements = 4,
    Free = 5,
}

/// How every page starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Start {
    magic: u16,
    kind: u16,
    /// Codes: the next segment of the list. Refinements: the code page they belong to. Free: the next free page.
    pub link: Block,
}

/// The metapage.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Meta {
    pub(crate) start: Start,
    pub version: u32,
    /// 0: of an index without rows on values whose type does not say; the first row will.
    pub dims: u32,
    pub metric: u32,
    pub bits: u32,
    /// Of the rotation.
    pub seed: u64,
    /// The page of the global mean.
    pub mean: Block,
    /// First segment of the directory.
    pub directory: Block,
    /// None as long as the dimensions are not known.
    pub lists: u32,
    /// First segment of the fresh list.
    pub fresh: Block,
    /// Number of the training that made the lists in force; 0 for the build. Every segment of theirs carries it.
    pub generation: u32,
    /// Number of the last training that was begun. No seal with a lower number counts any more.
    pub training: u32,
    /// 1 while that training runs, and after it has died.
    pub is_training: u32,
    /// First page of the free list.
    pub free: Block,
    pub free_pages: u32,
    /// Pages that were ever in use; what lies beyond was added to the relation just before a crash.
    pub pages: Block,
    pub(crate) reserved: u32,
    pub columns: Columns,
    /// 0: every page is in use or on the free list. Otherwise some are neither, as lists were replaced or a training
    /// died; they are free as soon as the store says that [this has passed](crate::store::PageStore::has_passed).
    pub garbage: u64,
    /// Rows, as of the build or the last vacuum.
    pub rows: u64,
    /// Rows at the time of the training.
    pub trained_rows: u64,
    /// Rows deleted since the training, as of the last vacuum.
    pub deleted: u64,
    /// Rows that the next training may read without costing more than the changes since the build are worth; see
    /// [`crate::shape`].
    pub credit: u64,
    /// Rows that trainings were to read that were begun since the last one that is in force.
    pub spent: u64,
    /// When the centroids were trained, microseconds since 1970.
    pub trained_at: i64,
    /// [`crate::shape::imbalance`] at that time.
    pub trained_imbalance: f64,
    /// How far scans have to read.
    pub curve: Curve,
}

/// The header of a code page, which is the first page of a segment.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Segment {
    pub start: Start,
    /// Number of the list, from 0, or [`DIRECTORY`].
    pub list: u32,
    /// In a list's first segment: the first segment that may have a free lane.
    pub insert_at: Block,
    /// In a list's first segment: how many segments were unlinked from the list so far, modulo 2^32.
    pub unlinked: u32,
    /// That of the lists, see [`Meta::generation`].
    pub generation: u32,
    /// Number of the last training that has read the segment, or is about to; 0 for none. See [`Meta::is_sealed`].
    pub sealed: u32,
}

const _: () = assert!(size_of::<Start>() == 8);
const _: () = assert!(size_of::<Meta>() == 480);
const _: () = assert!(size_of::<Segment>() == 28);
const _: () = assert!(size_of::<Factors>() == 20);
const _: () = assert!(size_of::<Tid>() == 6);
const _: () = assert!(size_of::<Start>() + MAX_DIMENSIONS * size_of::<f32>() <= PAGE_BYTES);

/// A heap tuple's address, laid out as Postgres's `ItemPointerData`. In the directory: a list's first segment, and how
/// many code pages follow it on consecutive blocks (itself included, a hint for prefetching).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Tid {
    block_high: u16,
    block_low: u16,
    pub offset: u16,
}

impl Tid {
    pub fn new(block: u32, offset: u16) -> Tid {
        Tid { block_high: (block >> 16) as u16, block_low: block as u16, offset }
    }

    #[inline]
    pub fn block(self) -> u32 {
        u32::from(self.block_high) << 16 | u32::from(self.block_low)
    }
}

/// An encoded row on its way into the index.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub tid: Tid,
    pub factors: Factors,
    /// As [`crate::columns::write_values`] has them.
    pub values: &'a [u8],
    pub signs: &'a [u8],
    pub refinement: &'a [u8],
}

impl Row<'_> {
    /// Reads what [`Row::write`] wrote: [`Geometry::row_bytes`] bytes, aligned or not.
    pub fn read<'a>(geometry: &Geometry, bytes: &'a [u8]) -> Row<'a> {
        let (tid, bytes) = bytes.split_at(size_of::<Tid>());
        let (factors, bytes) = bytes.split_at(size_of::<Factors>());
        let (values, codes) = bytes.split_at(geometry.columns.row_bytes());
        let (signs, refinement) = codes.split_at(geometry.sign_bytes());
        Row {
            tid: bytemuck::pod_read_unaligned(tid),
            factors: bytemuck::pod_read_unaligned(factors),
            values,
            signs,
            refinement,
        }
    }

    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(bytemuck::bytes_of(&self.tid));
        bytes.extend_from_slice(bytemuck::bytes_of(&self.factors));
        bytes.extend_from_slice(self.values);
        bytes.extend_from_slice(self.signs);
        bytes.extend_from_slice(self.refinement);
    }
}

/// A code page to read.
#[derive(Clone, Copy)]
pub struct Codes<'a> {
    page: &'a Page,
    geometry: &'a Geometry,
}

impl<'a> Codes<'a> {
    /// Fails unless the page is a code page.
    #[inline]
    pub fn of(page: &'a Page, geometry: &'a Geometry, block: Block) -> Result<Codes<'a>, IndexError> {
        page.expect(PageKind::Codes, block)?;
        Ok(Codes { page, geometry })
    }

    #[inline]
    pub fn segment(self) -> &'a Segment {
        self.page.segment()
    }

    #[inline]
    pub fn next(self) -> Block {
        self.page.start().link
    }

    /// The segment's refinement pages, [`NO_BLOCK`] where none was needed yet.
    #[inline]
    pub fn refinements(self) -> &'a [Block] {
        self.page.slice(&self.geometry.refinements)
    }

    /// One bit a lane and one element a block.
    #[inline]
    pub fn live(self) -> &'a [u16] {
        self.page.slice(&self.geometry.live)
    }

    /// Lanes in use.
    #[inline]
    pub fn count(self) -> usize {
        count(self.live())
    }

    #[inline]
    pub fn is_live(self, lane: usize) -> bool {
        self.live()[lane / LANES] >> (lane % LANES) & 1 == 1
    }

    /// The lanes in use.
    #[inline]
    pub fn live_lanes(self) -> impl Iterator<Item = usize> + 'a {
        lanes_of(self.live())
    }

    pub fn free_lane(self) -> Option<usize> {
        let block = self.live().iter().position(|&mask| mask != u16::MAX)?;
        let lane = block * LANES + self.live()[block].trailing_ones() as usize;
        (lane < self.geometry.lanes()).then_some(lane)
    }

    #[inline]
    pub fn tid(self, lane: usize) -> Tid {
        self.page.slice::<Tid>(&self.geometry.tids)[lane]
    }

    /// Of a column, from 0.
    pub fn width(self, column: usize) -> Width {
        self.geometry.columns.width(column)
    }

    /// Of a column which rows are NULL: one bit a lane and one element a block.
    pub fn nulls(self, column: usize) -> &'a [u16] {
        self.page.slice(&self.geometry.nulls[column])
    }

    /// Of a column the numbers of all lanes, block by block. `T` is of the column's width.
    pub fn numbers<T: Pod>(self, column: usize) -> &'a [[T; LANES]] {
        self.page.slice::<T>(&self.geometry.numbers[column]).as_chunks().0
    }

    /// What a row has in the columns.
    pub fn values(self, lane: usize) -> impl Iterator<Item = Value> + 'a {
        (0..self.geometry.columns.count()).map(move |column| {
            let (block, place) = (lane / LANES, lane % LANES);
            let number = match self.geometry.columns.width(column) {
                Width::Eight => self.numbers::<i64>(column)[block][place],
                Width::Four => self.numbers::<i32>(column)[block][place].into(),
            };
            (self.nulls(column)[block] >> place & 1 == 0).then_some(number)
        })
    }

    /// Likewise, as [`write_values`] has them.
    pub fn write_values(self, lane: usize, bytes: &mut Vec<u8>) {
        write_values(&self.values(lane).collect::<Vec<_>>(), bytes);
    }

    /// One element a lane each: [`Factors`] transposed, in the order of its fields.
    #[inline]
    pub fn factor_columns(self) -> [&'a [f32]; 5] {
        std::array::from_fn(|i| self.page.slice(&self.geometry.factors[i]))
    }

    #[inline]
    pub fn factors(self, lane: usize) -> Factors {
        bytemuck::cast(self.factor_columns().map(|column| column[lane]))
    }

    /// The sign bits of all blocks: in each, byte `k` of row `r` is at `k * LANES + r`.
    #[inline]
    pub fn codes(self) -> &'a [u8] {
        &self.page.bytes()[self.geometry.codes.clone()]
    }

    /// A lane's sign bits, into [`Geometry::sign_bytes`] bytes.
    #[inline]
    pub fn signs(self, lane: usize, out: &mut [u8]) {
        let block = &self.codes()[lane / LANES * LANES * self.geometry.sign_bytes()..];
        for (byte, column) in out.iter_mut().zip(block.as_chunks::<LANES>().0) {
            *byte = column[lane % LANES];
        }
    }
}

/// How many rows these are: one bit a lane and one element a block.
#[inline]
pub fn count(rows: &[u16]) -> usize {
    rows.iter().map(|rows| rows.count_ones() as usize).sum()
}

/// The lanes of such rows.
#[inline]
pub fn lanes_of(rows: &[u16]) -> impl Iterator<Item = usize> {
    (0..rows.len() * LANES).filter(|lane| rows[lane / LANES] >> (lane % LANES) & 1 == 1)
}

/// A code page to change.
pub struct CodesMut<'a> {
    page: &'a mut Page,
    geometry: &'a Geometry,
}

impl<'a> CodesMut<'a> {
    /// `page` is a code page.
    pub fn new(page: &'a mut Page, geometry: &'a Geometry) -> CodesMut<'a> {
        CodesMut { page, geometry }
    }

    pub fn set_refinement_page(&mut self, index: usize, block: Block) {
        self.page.slice_mut(&self.geometry.refinements)[index] = block;
    }

    /// Writes a row's code, factors, values and TID into a free lane; its refinement record is not on this page.
    pub fn fill(&mut self, lane: usize, row: &Row) {
        let geometry = self.geometry;
        self.page.slice_mut(&geometry.tids)[lane] = row.tid;
        let factors: [f32; 5] = bytemuck::cast(row.factors);
        for (range, factor) in geometry.factors.iter().zip(factors) {
            self.page.slice_mut(range)[lane] = factor;
        }
        for (column, value) in read_values(row.values).enumerate() {
            let nulls = &mut self.page.slice_mut::<u16>(&geometry.nulls[column])[lane / LANES];
            *nulls = *nulls & !(1 << (lane % LANES)) | u16::from(value.is_none()) << (lane % LANES);
            let (range, number) = (&geometry.numbers[column], value.unwrap_or(0));
            match geometry.columns.width(column) {
                Width::Eight => self.page.slice_mut::<i64>(range)[lane] = number,
                Width::Four => self.page.slice_mut::<i32>(range)[lane] = number as i32,
            }
        }
        let block = lane / LANES * LANES * geometry.sign_bytes();
        let codes = &mut self.page.bytes_mut()[geometry.codes.clone()][block..];
        for (column, &byte) in codes.as_chunks_mut::<LANES>().0.iter_mut().zip(row.signs) {
            column[lane % LANES] = byte;
        }
        self.page.slice_mut::<u16>(&geometry.live)[lane / LANES] |= 1 << (lane % LANES);
    }

    /// Frees a lane in use.
    pub fn clear(&mut self, lane: usize) {
        self.page.slice_mut::<u16>(&self.geometry.live)[lane / LANES] &= !(1 << (lane % LANES));
    }
}

impl Meta {
    /// Whether a segment's rows have been read by a training that counts, so that no row may be added to it.
    ///
    /// The metapage can have changed since this copy of it was read: then it says yes rather too often, never too rarely.
    pub fn is_sealed(&self, segment: &Segment) -> bool {
        segment.sealed != 0 && segment.sealed >= self.training
    }

    /// Leads to a generation. `now`: microseconds since 1970.
    pub(crate) fn enter(&mut self, written: &Written, now: i64) {
        let &Written { mean, directory, fresh, lists, rows, imbalance, .. } = written;
        (self.mean, self.directory, self.fresh, self.lists) = (mean, directory, fresh, lists);
        (self.rows, self.trained_rows, self.deleted) = (rows, rows, 0);
        (self.trained_at, self.trained_imbalance) = (now, imbalance);
        // It was of other lists. How much harder queries are than rows stays.
        self.curve.queries = 0;
    }

    /// A metapage's first content; the page has been initialised.
    pub fn set_up(&mut self, metric: Metric, bits: usize, columns: Columns, seed: u64) {
        self.version = FORMAT_VERSION;
        self.metric = metric as u32;
        self.bits = bits as u32;
        self.columns = columns;
        self.seed = seed;
        self.curve = Curve::UNKNOWN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_holds_what_was_put_into_it() {
        let columns = Columns::new(&[Width::Four, Width::Eight, Width::Four]).unwrap();
        let geometry = Geometry::new(100, 3, columns);
        let mut page = Page::zeroed();
        page.initialize(PageKind::Codes, 7);
        let signs: Vec<u8> = (0..geometry.sign_bytes() as u8).collect();
        let factors = Factors { norm_squared: 1.0, rescale: 2.0, error: 3.0, scale: 4.0, residual: 5.0 };
        let given = [Some(-7), Some(i64::MIN), None];
        let mut values = Vec::new();
        write_values(&given, &mut values);
        let row = Row { tid: Tid::new(70_000, 3), factors, values: &values, signs: &signs, refinement: &[] };
        let lane = 37;
        CodesMut::new(&mut page, &geometry).fill(lane, &row);

        let codes = Codes::of(&page, &geometry, 1).unwrap();
        let mut read = vec![0; signs.len()];
        codes.signs(lane, &mut read);
        assert_eq!(read, signs);
        assert_eq!((codes.tid(lane), codes.factors(lane)), (row.tid, factors));
        assert_eq!(codes.tid(lane).block(), 70_000);
        assert_eq!(codes.values(lane).collect::<Vec<_>>(), given);
        assert_eq!(codes.live_lanes().collect::<Vec<_>>(), [lane]);
        assert_eq!((codes.free_lane(), codes.next(), codes.count()), (Some(0), 7, 1));
        CodesMut::new(&mut page, &geometry).clear(lane);
        assert_eq!(Codes::of(&page, &geometry, 1).unwrap().live_lanes().count(), 0);
    }
}
