//! Writing lists and directory, page by page.

use crate::columns::Columns;
use crate::geometry::Geometry;
use crate::layout::{
    CodesMut, DIRECTORY, DIRECTORY_BITS, FRESH, META_BLOCK, NO_BLOCK, Page, PageKind, Row, Tid,
};
use crate::metric::Metric;
use crate::shape;
use crate::store::{Block, PageSink};
use crate::trained::{SEED, Trained};

/// Code pages that are written side by side, followed by their refinement pages: a scan reads code pages only.
pub(crate) const RUN: usize = 8;

/// Writes the pages of a new index, or of a new generation of one.
pub struct Writer<'a, S> {
    sink: &'a mut S,
    trained: &'a Trained,
    generation: u32,
    /// The list that is being written.
    list: ListWriter,
    /// The lists before it: first segment and length of its run.
    finished: Vec<Tid>,
    /// Rows of them, and of that one.
    lengths: Vec<u64>,
    mean: Block,
    fresh: Block,
}

/// A generation, to which nothing leads yet.
pub(crate) struct Written {
    pub mean: Block,
    pub directory: Block,
    pub fresh: Block,
    /// First segments of the lists.
    pub firsts: Vec<Block>,
    pub lists: u32,
    pub rows: u64,
    /// [`shape::imbalance`]
    pub imbalance: f64,
    /// Of the directory's pages the last that the sink has given.
    pub last: Block,
}

impl<'a, S: PageSink> Writer<'a, S> {
    /// Of a new index.
    pub fn new(sink: &'a mut S, trained: &'a Trained) -> Result<Writer<'a, S>, S::Error> {
        // Rewritten at the end; until then no index.
        let meta = sink.next_block()?;
        debug_assert_eq!(meta, META_BLOCK);
        sink.write(meta, &Page::zeroed())?;
        Writer::of_generation(sink, trained, 0)
    }

    pub(crate) fn of_generation(
        sink: &'a mut S,
        trained: &'a Trained,
        generation: u32,
    ) -> Result<Writer<'a, S>, S::Error> {
        let mean = write_mean(sink, trained.space.mean())?;
        let fresh = write_fresh_list(sink, Some(&trained.geometry), generation)?;
        let list = ListWriter::new(sink, 0, generation)?;
        let (finished, lengths) = (Vec::with_capacity(trained.lists()), vec![0]);
        Ok(Writer { sink, trained, generation, list, finished, lengths, mean, fresh })
    }

    /// Takes the rows of [`Encoder::drain`](crate::build::Encoder::drain), in ascending order of their lists.
    pub fn push(&mut self, list: u32, row: &[u8]) -> Result<(), S::Error> {
        while self.list.number < list {
            self.next_list()?;
        }
        if let Some(length) = self.lengths.last_mut() {
            *length += 1;
        }
        self.list.push(self.sink, &self.trained.geometry, row)
    }

    fn next_list(&mut self) -> Result<(), S::Error> {
        self.finished.push(self.list.finish(self.sink, &self.trained.geometry)?);
        self.list = ListWriter::new(self.sink, self.list.number + 1, self.generation)?;
        self.lengths.push(0);
        Ok(())
    }

    /// Writes what is left of the lists, and the directory.
    pub(crate) fn finish_lists(&mut self) -> Result<Written, S::Error> {
        let Trained { centroids, geometry, .. } = self.trained;
        while self.lengths.len() < centroids.len() {
            self.next_list()?;
        }
        self.finished.push(self.list.finish(self.sink, geometry)?);
        let geometry = Geometry::new(geometry.dims, DIRECTORY_BITS, Columns::default());
        let mut directory = ListWriter::new(self.sink, DIRECTORY, self.generation)?;
        let mut row = Vec::with_capacity(geometry.row_bytes());
        for (centroid, &tid) in centroids.iter().zip(&self.finished) {
            row.clear();
            Row { tid, ..Row::read(&geometry, centroid) }.write(&mut row);
            directory.push(self.sink, &geometry, &row)?;
        }
        let first = directory.finish(self.sink, &geometry)?.block();
        Ok(Written {
            mean: self.mean,
            directory: first,
            fresh: self.fresh,
            firsts: self.finished.iter().map(|tid| tid.block()).collect(),
            lists: centroids.len() as u32,
            rows: self.lengths.iter().sum(),
            imbalance: shape::imbalance(&self.lengths),
            last: directory.last,
        })
    }

    /// `now`: microseconds since 1970. Returns the number of rows.
    pub fn finish(mut self, now: i64) -> Result<u64, S::Error> {
        let written = self.finish_lists()?;
        let options = self.trained.options();
        let mut page = Page::zeroed();
        page.initialize(PageKind::Meta, NO_BLOCK);
        let meta = page.meta_mut();
        meta.set_up(options.metric, options.bits, options.columns, SEED);
        meta.dims = options.dims as u32;
        meta.enter(&written, now);
        meta.pages = written.last + 1;
        self.sink.write(META_BLOCK, &page)?;
        Ok(written.rows)
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
    let meta = sink.next_block()?;
    let mut page = Page::zeroed();
    sink.write(meta, &page)?;
    let mean = write_mean(sink, &[])?;
    let fresh = write_fresh_list(sink, None, 0)?;
    let directory = sink.next_block()?;
    page.initialize_list(DIRECTORY, 0, directory);
    sink.write(directory, &page)?;
    page.initialize(PageKind::Meta, NO_BLOCK);
    let content = page.meta_mut();
    content.set_up(metric, bits, columns, SEED);
    (content.mean, content.directory, content.fresh) = (mean, directory, fresh);
    content.pages = directory + 1;
    sink.write(meta, &page)
}

fn write_mean<S: PageSink>(sink: &mut S, mean: &[f32]) -> Result<Block, S::Error> {
    let mut page = Page::zeroed();
    page.initialize(PageKind::Mean, NO_BLOCK);
    page.mean_mut(mean.len()).copy_from_slice(mean);
    let block = sink.next_block()?;
    sink.write(block, &page)?;
    Ok(block)
}

/// Writes a list without rows, with a page for the first refinements: [training](crate::train) counts on that. Without the
/// geometry, which the first row will tell, it has none.
fn write_fresh_list<S: PageSink>(
    sink: &mut S,
    geometry: Option<&Geometry>,
    generation: u32,
) -> Result<Block, S::Error> {
    let block = sink.next_block()?;
    let mut page = Page::zeroed();
    page.initialize_list(FRESH, generation, block);
    match geometry.filter(|geometry| geometry.bits > 1) {
        None => sink.write(block, &page)?,
        Some(geometry) => {
            let refinement = sink.next_block()?;
            CodesMut::new(&mut page, geometry).set_refinement_page(0, refinement);
            sink.write(block, &page)?;
            page.initialize(PageKind::Refinements, block);
            sink.write(refinement, &page)?;
        }
    }
    Ok(block)
}

/// Writes the segments of one list.
struct ListWriter {
    number: u32,
    generation: u32,
    /// Where the next run begins.
    start: Block,
    /// Encoded rows of the run that is being filled.
    rows: Vec<u8>,
    /// The list's first segment, once written, with the length of its run.
    first: Option<(Tid, Page)>,
    /// The last page of the run that was written last.
    last: Block,
}

impl ListWriter {
    fn new<S: PageSink>(sink: &mut S, number: u32, generation: u32) -> Result<ListWriter, S::Error> {
        let start = sink.next_block()?;
        Ok(ListWriter { number, generation, start, rows: Vec::new(), first: None, last: start })
    }

    fn push<S: PageSink>(&mut self, sink: &mut S, geometry: &Geometry, row: &[u8]) -> Result<(), S::Error> {
        if self.rows.len() == RUN * geometry.lanes() * geometry.row_bytes() {
            self.write_run(sink, geometry, false)?;
        }
        self.rows.extend_from_slice(row);
        Ok(())
    }

    /// Returns first segment and length of its run.
    fn finish<S: PageSink>(&mut self, sink: &mut S, geometry: &Geometry) -> Result<Tid, S::Error> {
        let last = self.write_run(sink, geometry, true)?;
        let Some((tid, page)) = &mut self.first else { unreachable!("a run has been written") };
        if last != page.segment().insert_at {
            // Room is in the last segment, if anywhere; the first one was written before that was known.
            page.segment_mut().insert_at = last;
            sink.write(tid.block(), page)?;
        }
        Ok(*tid)
    }

    /// Writes the code pages of the rows so far, then their refinement pages. Returns the last code page.
    fn write_run<S: PageSink>(
        &mut self,
        sink: &mut S,
        geometry: &Geometry,
        last: bool,
    ) -> Result<Block, S::Error> {
        sink.check_interrupts()?;
        let row_bytes = geometry.row_bytes();
        let segments: Vec<&[u8]> = match self.rows.is_empty() {
            true => vec![&[]],
            false => self.rows.chunks(geometry.lanes() * row_bytes).collect(),
        };
        let mut blocks = vec![self.start];
        for _ in 1..segments.len() {
            blocks.push(sink.next_block()?);
        }
        let mut pages = Vec::with_capacity(segments.len());
        let mut refinements: Vec<(Block, Page)> = Vec::new();
        for (&block, segment) in blocks.iter().zip(&segments) {
            let mut page = Page::zeroed();
            page.initialize_list(self.number, self.generation, blocks[blocks.len() - 1]);
            let mut codes = CodesMut::new(&mut page, geometry);
            for (lane, row) in segment.chunks_exact(row_bytes).enumerate() {
                let row = Row::read(geometry, row);
                codes.fill(lane, &row);
                if geometry.bits == 1 {
                    continue;
                }
                let (number, record) = geometry.record(lane);
                if lane % geometry.records_per_page == 0 {
                    let refinement = sink.next_block()?;
                    codes.set_refinement_page(number, refinement);
                    let mut page = Page::zeroed();
                    page.initialize(PageKind::Refinements, block);
                    refinements.push((refinement, page));
                }
                if let Some((_, page)) = refinements.last_mut() {
                    page.bytes_mut()[record].copy_from_slice(row.refinement);
                }
            }
            pages.push(page);
        }
        // The next run follows this run's refinement pages.
        let next = if last { NO_BLOCK } else { sink.next_block()? };
        let links = blocks[1..].iter().copied().chain([next]);
        for (page, link) in pages.iter_mut().zip(links) {
            page.set_link(link);
        }
        if self.first.is_none() {
            let consecutive = (self.start..).zip(&blocks).take_while(|(expected, block)| expected == *block);
            let tid = Tid::new(self.start, consecutive.count() as u16);
            self.first = Some((tid, pages[0].clone()));
        }
        let code_pages = blocks.iter().zip(&pages);
        for (&block, page) in code_pages.chain(refinements.iter().map(|(block, page)| (block, page))) {
            sink.write(block, page)?;
        }
        self.last = refinements.last().map_or(blocks[blocks.len() - 1], |&(block, _)| block);
        self.rows.clear();
        self.start = next;
        Ok(blocks[blocks.len() - 1])
    }
}
