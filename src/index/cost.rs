//! `amcostestimate`: what the planner should think that a scan costs.

use ivf::build::default_lists;
use ivf::index::{automatic_probes, read_meta};
use ivf::layout::Geometry;
use ivf::store::PageStore;
use pgrx::{pg_guard, pg_sys};

use super::page::Pages;
use super::threshold;
use crate::guc::{self, IterativeScan};

/// Looking at the 1-bit code of a row, in `cpu_operator_cost`s: design/ivf.md's goal of 10 ns, where a distance
/// between two vectors takes 50 ns (measured).
const CODE_OPERATORS: f64 = 0.2;
/// Returning a row, likewise: its refinement record is read, with its page, and decoded. An estimate, not measured.
const REFINE_OPERATORS: f64 = 5.0;
/// Pages of the index that hold 1-bit codes, when the index cannot be asked: one of five at 384 dimensions and 8 bits.
const CODE_PAGES: f64 = 0.2;
/// How much dearer a scan is whose every row is wanted. It would leave out NULLs, and go on to all lists to sort what a
/// sort sorts faster; yet it must stay cheaper than what `enable_seqscan = off` adds. Chosen, not measured.
const WHOLE_RESULT: f64 = 10.0;

/// `DEFAULT_RANGE_INEQ_SEL` (selfuncs.h): of a range whose ends nothing is known of.
const RANGE_SELECTIVITY: f64 = 0.005;

/// What the cost depends on.
struct Shape {
    rows: f64,
    pages: f64,
    lists: f64,
    /// Share of the pages that hold 1-bit codes.
    code_pages: f64,
}

/// `amcostestimate`
#[pg_guard]
#[allow(clippy::too_many_arguments)] // the interface of Postgres
pub unsafe extern "C-unwind" fn estimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    loop_count: f64,
    startup_cost: *mut pg_sys::Cost,
    total_cost: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    index_pages: *mut f64,
) {
    // SAFETY: the planner passes a path on an index of ours, and where to put the results.
    unsafe {
        *correlation = 0.0;
        if (*path).indexorderbys.is_null() {
            (*startup_cost, *total_cost) = (f64::INFINITY, f64::INFINITY);
            (*selectivity, *index_pages) = (0.0, 0.0);
            // Infinity no longer keeps a path from being the only one left.
            #[cfg(feature = "pg18")]
            {
                (*path).path.disabled_nodes = 2;
            }
            return;
        }
        let mut generic = pg_sys::GenericCosts::default();
        pg_sys::genericcostestimate(root, path, loop_count, &mut generic);
        let shape = Shape::of((*path).indexinfo);
        let page_costs = PageCosts::of((*(*path).indexinfo).reltablespace);
        *selectivity = generic.indexSelectivity;
        *index_pages = shape.pages;
        let everything = (*root).tuple_fraction <= 0.0;
        let bounded = !(*path).indexclauses.is_null();
        if bounded && !everything && threshold::is_sure(path) {
            // Within a distance, rows of the first lists come. A third of them, as the planner has it for "less than", would
            // be nothing to search for: a distance has a lower end, so that this is a range.
            *selectivity = (*selectivity * shape.probed()).min(RANGE_SELECTIVITY);
            (*startup_cost, *total_cost) = shape.costs_of(&page_costs, *selectivity);
        } else {
            let (startup, total) = shape.costs(&page_costs);
            (*startup_cost, *total_cost) = (startup, if everything { total * WHOLE_RESULT } else { total });
            if bounded {
                // Nobody knows how far it reaches. It is no dearer than the same scan without an end.
                *selectivity = 1.0;
                *total_cost *= 0.999;
            }
        }
    }
}

struct PageCosts {
    random: f64,
    sequential: f64,
}

impl PageCosts {
    /// # Safety
    /// The tablespace exists, or is 0 for the database's.
    unsafe fn of(tablespace: pg_sys::Oid) -> PageCosts {
        let mut costs = PageCosts { random: 0.0, sequential: 0.0 };
        // SAFETY: the caller's promise.
        unsafe { pg_sys::get_tablespace_page_costs(tablespace, &mut costs.random, &mut costs.sequential) };
        costs
    }
}

impl Shape {
    /// # Safety
    /// `info` is the planner's, of an index of ours, which it has locked.
    unsafe fn of(info: *const pg_sys::IndexOptInfo) -> Shape {
        // SAFETY: the caller's promise.
        let (rows, pages) = unsafe { ((*info).tuples.max(1.0), f64::from((*info).pages).max(1.0)) };
        // SAFETY: as above; a hypothetical index has no pages to read.
        let known = unsafe { if (*info).hypothetical { None } else { stored((*info).indexoid) } };
        let (lists, code_pages) = known.unwrap_or_else(|| (default_lists(rows) as f64, CODE_PAGES));
        Shape { rows, pages, lists: lists.max(1.0), code_pages }
    }

    /// Before the first row, and for all rows. The planner takes a LIMIT's share of the difference, and a
    /// condition's: with a selective one it expects to read more of the rows, and the scan goes on to more lists.
    fn costs(&self, page: &PageCosts) -> (f64, f64) {
        let limit = if guc::iterative_scan() == IterativeScan::Off { 0 } else { guc::max_probes() };
        let first = self.probed();
        let all = (limit as f64 / self.lists).clamp(first, 1.0);
        let (startup, rows) = self.costs_of(page, all);
        (startup, rows + self.reading(page, all - first))
    }

    /// Before the first row, and for this share of the rows, all in the lists that are read by then.
    fn costs_of(&self, page: &PageCosts, share: f64) -> (f64, f64) {
        // SAFETY: read settings.
        let (operator, tuple) = unsafe { (pg_sys::cpu_operator_cost, pg_sys::cpu_index_tuple_cost) };
        // The directory holds lists as the lists hold rows.
        let directory_pages = (self.lists * self.pages / self.rows).ceil();
        let directory =
            directory_pages * page.sequential + self.lists * (CODE_OPERATORS + REFINE_OPERATORS) * operator;
        let rows = share * self.pages * (1.0 - self.code_pages) * page.random
            + share * self.rows * (REFINE_OPERATORS * operator + tuple);
        let startup = directory + self.reading(page, self.probed());
        (startup, startup + rows)
    }

    /// Reading this share of the lists. Each starts somewhere, and goes on in the pages behind.
    fn reading(&self, page: &PageCosts, share: f64) -> f64 {
        // SAFETY: reads a setting.
        let operator = unsafe { pg_sys::cpu_operator_cost };
        share * (self.lists * page.random + self.pages * self.code_pages * page.sequential)
            + share * self.rows * CODE_OPERATORS * operator
    }

    /// Share of the lists that are read before the first row.
    fn probed(&self) -> f64 {
        (self.probes() / self.lists).min(1.0)
    }

    /// Lists that are read before the first row.
    fn probes(&self) -> f64 {
        match guc::probes() {
            0 => automatic_probes(self.lists as usize) as f64,
            probes => probes as f64,
        }
    }
}

/// Lists, and the share of the pages with 1-bit codes, as the index itself says; `None` if it cannot be read, which
/// is for a scan to complain about, not for the planner.
///
/// # Safety
/// The index exists and is locked.
unsafe fn stored(index: pg_sys::Oid) -> Option<(f64, f64)> {
    // SAFETY: the caller's promise.
    unsafe {
        let relation = pg_sys::index_open(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        let known = shape(&Pages::of(relation));
        pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        known
    }
}

fn shape(pages: &Pages) -> Option<(f64, f64)> {
    // Reading beyond the end would be an ERROR.
    if pages.blocks().ok()? == 0 {
        return None;
    }
    let (meta, _) = read_meta(pages).ok().filter(|(meta, _)| meta.dims > 0)?;
    let geometry = Geometry::new(meta.dims as usize, meta.bits as usize);
    Some((f64::from(meta.lists), 1.0 / (1.0 + geometry.refinement_pages() as f64)))
}
