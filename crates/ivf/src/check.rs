//! Checking the structure of an index.

use crate::geometry::Geometry;
use crate::index::{Index, read_meta};
use crate::kernel;
use crate::layout::{Codes, DIRECTORY, FRESH, META_BLOCK, Meta, NO_BLOCK, PageKind, Segment, Tid};
use crate::quantize::decode;
use crate::store::{Block, PageStore};

/// Reads every page and returns what is wrong, at most `limit` problems. Rows may be inserted meanwhile, but no vacuum
/// or training may run.
///
/// Every page is used once, or is garbage of which the metapage knows; every list's chain, counters and hint are in
/// order; every TID is in one lane only; every row's factors agree with its code. `memory`: bytes for the TIDs, which are compared in several rounds if they do
/// not fit.
pub fn check<S: PageStore>(store: &S, limit: usize, memory: usize) -> Result<Vec<String>, S::Error> {
    let index = Index::open(store)?;
    let mut check = Check {
        store,
        limit,
        problems: Vec::new(),
        used: Vec::new(),
        free: Vec::new(),
        rows: 0,
        generation: index.meta.generation,
        training: index.meta.training,
    };
    // First: without a vacuum pages leave this list only, and are then found in use.
    check.free_list()?;
    check.mark(META_BLOCK, "the metapage")?;
    check.mark(index.meta.mean, "the mean")?;

    let mut firsts = Vec::new();
    let (directory, first) = (&index.directory, index.meta.directory);
    check.chain(directory, first, DIRECTORY, &mut |tid| firsts.push(tid.block()))?;
    if firsts.len() != index.meta.lists as usize {
        check.problem(|| format!("the directory has {} lists, not {}", firsts.len(), index.meta.lists));
    }
    check.rows = 0;
    for &first in &firsts {
        check.list(&index.geometry, first)?;
    }
    check.chain(&index.geometry, index.meta.fresh, FRESH, &mut |_| ())?;
    firsts.push(index.meta.fresh);
    check.unused_pages(&index.meta)?;

    if check.problems.is_empty() {
        let rounds = (check.rows * size_of::<Tid>() as u64).div_ceil(memory.max(1) as u64).max(1);
        for round in 0..rounds {
            check.duplicates(&index.geometry, &firsts, rounds, round)?;
        }
    }
    Ok(check.problems)
}

/// Each takes one page that an insert takes off the free list while that is read.
const FREE_LIST_ATTEMPTS: usize = 100;

struct Check<'a, S> {
    store: &'a S,
    limit: usize,
    problems: Vec<String>,
    /// Pages that have been reached.
    used: Vec<bool>,
    /// Pages on the free list.
    free: Vec<bool>,
    rows: u64,
    /// What the metapage says.
    generation: u32,
    training: u32,
}

impl<S: PageStore> Check<'_, S> {
    fn problem(&mut self, problem: impl FnOnce() -> String) {
        if self.problems.len() < self.limit {
            self.problems.push(problem());
        }
    }

    /// Notes that a page is used; false if it cannot be.
    fn mark(&mut self, block: Block, what: &str) -> Result<bool, S::Error> {
        if block as usize >= self.used.len() {
            // It may have been added meanwhile.
            self.used.resize(self.store.blocks()? as usize, false);
        }
        let problem = match self.used.get_mut(block as usize) {
            None => format!("{what} should be on block {block}, which does not exist"),
            Some(true) => format!("block {block} is used for {what} and for something else"),
            Some(used) => {
                *used = true;
                return Ok(true);
            }
        };
        self.problem(|| problem);
        Ok(false)
    }

    fn list(&mut self, geometry: &Geometry, first: Block) -> Result<(), S::Error> {
        if first >= self.store.blocks()? {
            self.problem(|| format!("a list should start on block {first}, which does not exist"));
            return Ok(());
        }
        // Whatever page it is, its number is to be that of the others of the chain.
        let list = self.store.read(first)?.segment().list;
        self.chain(geometry, first, list, &mut |_| ())
    }

    fn chain(
        &mut self,
        geometry: &Geometry,
        first: Block,
        list: u32,
        each: &mut dyn FnMut(Tid),
    ) -> Result<(), S::Error> {
        let mut segments = Vec::new();
        let mut insert_at = NO_BLOCK;
        let mut block = first;
        while block != NO_BLOCK && self.mark(block, "a list's codes")? {
            self.store.check_interrupts()?;
            let page = self.store.read(block)?;
            let codes = match Codes::of(&page, geometry, block) {
                Ok(codes) if codes.segment().list == list => codes,
                Ok(codes) => {
                    let other = codes.segment().list;
                    self.problem(|| format!("block {block} belongs to list {other}, not {list}"));
                    break;
                }
                Err(error) => {
                    self.problem(|| error.to_string());
                    break;
                }
            };
            if block == first {
                insert_at = codes.segment().insert_at;
            }
            let &Segment { generation, sealed, .. } = codes.segment();
            if generation != self.generation || sealed > self.training {
                self.problem(|| {
                    format!("block {block} is of generation {generation}, and sealed by training {sealed}")
                });
            }
            self.rows += codes.count() as u64;
            codes.live_lanes().for_each(|lane| each(codes.tid(lane)));
            self.segment(geometry, block, codes)?;
            segments.push(block);
            block = codes.next();
        }
        if !segments.contains(&insert_at) {
            self.problem(|| format!("list {list} has no segment {insert_at}, where it says there is room"));
        }
        Ok(())
    }

    /// Checks the rows of a segment, whose code page is locked.
    fn segment(&mut self, geometry: &Geometry, block: Block, codes: Codes) -> Result<(), S::Error> {
        let mut signs = vec![0; geometry.sign_bytes()];
        let mut z = vec![0.0; geometry.padded];
        if geometry.bits == 1 {
            for lane in codes.live_lanes() {
                codes.signs(lane, &mut signs);
                self.row(geometry, (block, lane), codes, (&signs, &[]), &mut z);
            }
            return Ok(());
        }
        for (number, &refinement) in codes.refinements().iter().enumerate() {
            let lanes: Vec<usize> =
                codes.live_lanes().filter(|&lane| geometry.record(lane).0 == number).collect();
            if refinement == NO_BLOCK {
                if let Some(lane) = lanes.first() {
                    self.problem(|| format!("block {block} has no refinement page for lane {lane}"));
                }
                continue;
            }
            if !self.mark(refinement, "refinements")? {
                continue;
            }
            let page = self.store.read(refinement)?;
            if !page.is(PageKind::Refinements) || page.start().link != block {
                self.problem(|| format!("block {refinement} should be a refinement page of block {block}"));
                continue;
            }
            for lane in lanes {
                codes.signs(lane, &mut signs);
                let record = &page.bytes()[geometry.record(lane).1];
                self.row(geometry, (block, lane), codes, (&signs, record), &mut z);
            }
        }
        Ok(())
    }

    /// |z|² = |sc|² + |z - sc|², as s is the scale that makes the error orthogonal to the code.
    fn row(
        &mut self,
        geometry: &Geometry,
        (block, lane): (Block, usize),
        codes: Codes,
        (signs, refinement): (&[u8], &[u8]),
        z: &mut [f32],
    ) {
        let factors = codes.factors(lane);
        if factors.residual == f32::INFINITY {
            return; // a row of no known bound, which every scan looks at
        }
        decode(signs, refinement, geometry.bits, &factors, z);
        let coded = kernel::norm_squared(z);
        let norm_squared = f64::from(factors.norm_squared);
        let lost = f64::from(factors.residual).powi(2);
        // Storage and sums round, each by less than 1e-4 at 2048 dimensions; the residual is an upper bound.
        let tolerance = 1e-3 * norm_squared + f64::from(f32::MIN_POSITIVE);
        let consistent = (coded - norm_squared).abs() <= lost + tolerance;
        let possible = factors.rescale >= 0.0 && factors.error >= 0.0 && !factors.residual.is_nan();
        if !(consistent && possible) {
            self.problem(|| {
                format!("lane {lane} of block {block}: factors {factors:?} do not agree with the code")
            });
        }
    }

    /// Notes the pages on the free list. An insert can take its first page at any time: then it is read again.
    fn free_list(&mut self) -> Result<(), S::Error> {
        for _ in 0..FREE_LIST_ATTEMPTS {
            let (meta, _) = read_meta(self.store)?;
            self.free = vec![false; self.store.blocks()? as usize];
            let problem = self.walk_free_list(meta.free, meta.free_pages)?;
            if read_meta(self.store)?.0.free == meta.free {
                if let Some(problem) = problem {
                    self.problem(|| problem);
                }
                break;
            }
        }
        Ok(())
    }

    fn walk_free_list(&mut self, mut block: Block, pages: u32) -> Result<Option<String>, S::Error> {
        let mut count = 0;
        while block != NO_BLOCK {
            self.store.check_interrupts()?;
            match self.free.get_mut(block as usize) {
                Some(free) if !*free => *free = true,
                _ => return Ok(Some(format!("the free list leads astray to block {block}"))),
            }
            let page = self.store.read(block)?;
            if !page.is(PageKind::Free) {
                return Ok(Some(format!("block {block} is on the free list and not free")));
            }
            count += 1;
            block = page.start().link;
        }
        Ok((count != pages).then(|| format!("the free list has {count} pages, not {pages}")))
    }

    /// Pages in use, of which there were those of `meta` at the start, are reached from the metapage, or garbage; those beyond
    /// were added just before a crash.
    fn unused_pages(&mut self, meta: &Meta) -> Result<(), S::Error> {
        let (now, blocks) = (read_meta(self.store)?.0.pages, self.store.blocks()?);
        let (pages, is_clean) = (meta.pages, meta.garbage == 0);
        if now > blocks && is_clean {
            self.problem(|| format!("{now} pages are in use, of {blocks}"));
        }
        let set = |pages: &[bool], block: Block| pages.get(block as usize).copied().unwrap_or(false);
        for block in 0..blocks {
            let used = set(&self.used, block);
            if is_clean && !used && !set(&self.free, block) && block < pages {
                self.problem(|| format!("block {block} is not reached from anywhere"));
            }
            if used && block >= now {
                self.problem(|| format!("block {block} is in use beyond the last page"));
            }
        }
        Ok(())
    }

    /// Looks for TIDs in two lanes, among one of `rounds` shares of them.
    fn duplicates(
        &mut self,
        geometry: &Geometry,
        firsts: &[Block],
        rounds: u64,
        round: u64,
    ) -> Result<(), S::Error> {
        let mut tids = Vec::new();
        for &first in firsts {
            let mut block = first;
            while block != NO_BLOCK {
                self.store.check_interrupts()?;
                let page = self.store.read(block)?;
                let codes = Codes::of(&page, geometry, block)?;
                tids.extend(
                    codes
                        .live_lanes()
                        .map(|lane| codes.tid(lane))
                        .filter(|tid| u64::from(tid.block()) % rounds == round),
                );
                block = codes.next();
            }
        }
        tids.sort_unstable();
        for pair in tids.windows(2).filter(|pair| pair[0] == pair[1]) {
            self.problem(|| format!("row ({},{}) is in two lanes", pair[0].block(), pair[0].offset));
        }
        Ok(())
    }
}
