//! `amcostestimate`: what the planner should think that a scan costs.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ptr::null_mut;

use ivf::build::default_lists;
use ivf::estimate;
use ivf::geometry::Geometry;
use ivf::index::{Index, read_meta};
use ivf::recall::Curve;
use ivf::scan::expected_lists;
use ivf::store::{IndexError, PageStore};
use ivf::vector::norm;
use pgrx::{PgList, PgLogLevel, is_a, pg_guard, pg_sys};

use super::page::Pages;
use super::{owned, threshold};
use crate::error::{Error, IvfError};
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
    /// How far scans have to read.
    curve: Curve,
}

/// `amcostestimate`
#[pg_guard]
#[allow(clippy::too_many_arguments)] // the interface of Postgres
pub unsafe extern "C-unwind" fn estimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    _loop_count: f64,
    startup_cost: *mut pg_sys::Cost,
    total_cost: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    index_pages: *mut f64,
) {
    // SAFETY: the planner passes a path on an index of ours, and where to put the results.
    unsafe {
        *correlation = 0.0;
        // Without the order there is nothing to read in; and neither rows without a vector, which the index does not have,
        // nor all rows for each one of another table are to be had from it.
        let unusable =
            (*path).indexorderbys.is_null() || !(*path).path.param_info.is_null() || wants_null(path);
        if unusable || is_of_another_format((*path).indexinfo) {
            (*startup_cost, *total_cost) = (f64::INFINITY, f64::INFINITY);
            (*selectivity, *index_pages) = (0.0, 0.0);
            // Infinity no longer keeps a path from being the only one left.
            #[cfg(feature = "pg18")]
            {
                (*path).path.disabled_nodes = 2;
            }
            return;
        }
        let info = (*path).indexinfo;
        let shape = Shape::of(info);
        let page_costs = PageCosts::of((*info).reltablespace);
        *index_pages = shape.pages;
        let table = &*(*info).rel;
        // A partial index has a part of the rows.
        let part = (shape.rows / table.tuples.max(1.0)).min(1.0);
        let everything = (*root).tuple_fraction <= 0.0;
        let clauses = PgList::<pg_sys::IndexClause>::from_pg((*path).indexclauses);
        let bounded = clauses.iter_ptr().any(|clause| threshold::is_distance(clause));
        let share = share_matching(root, path).max(1.0 / shape.rows);
        *selectivity = share * part;
        let is_sure = bounded && threshold::is_sure(path);
        let share_within = match (everything, (*path).path.pathkeys.is_null()) {
            _ if !is_sure => None,
            // Within a distance, rows of the first lists come. A third of them, as the planner has it for "less than", would
            // be nothing to search for: a distance has a lower end, so that this is a range.
            (false, _) => Some((shape.probed(1.0) / 3.0).min(RANGE_SELECTIVITY)),
            // All of them, to be sorted: there may be many.
            (true, true) => threshold::known(root, path).and_then(|known| share_within(info, &known)),
            (true, false) => None,
        };
        if let Some(share_within) = share_within {
            *selectivity *= share_within;
            (*startup_cost, *total_cost) = shape.costs_of(&page_costs, share, share * share_within);
            if everything {
                // The scan goes on to further lists while there are such rows.
                *total_cost += shape.reading(&page_costs, share_within * (1.0 - shape.probed(share)));
            }
        } else {
            (*startup_cost, *total_cost) = shape.costs(&page_costs, share);
            if everything {
                // Dearer than to read the table, however few rows satisfy the conditions.
                let scan =
                    f64::from(table.pages) * page_costs.sequential + table.tuples * pg_sys::cpu_tuple_cost;
                *total_cost = (*total_cost + scan) * WHOLE_RESULT;
            }
            if bounded {
                // Nobody knows how far it reaches. It is no dearer than the same scan without an end.
                *total_cost *= 0.999;
            }
        }
    }
}

/// Whether an index was written by another version of pg_embed, and cannot be read by this one: then queries do without it,
/// and each session says so once.
///
/// # Safety
/// `info` is the planner's, of an index of ours, which it has locked.
unsafe fn is_of_another_format(info: *const pg_sys::IndexOptInfo) -> bool {
    thread_local! {
        static TOLD: RefCell<HashSet<pg_sys::Oid>> = RefCell::new(HashSet::new());
    }
    // SAFETY: the caller's promise.
    unsafe {
        let index = (*info).indexoid;
        let error = match (*info).hypothetical {
            true => None,
            false => with_pages(index, |pages| read_meta(pages).err()),
        };
        let Some(error @ IndexError::Version(_)) = error else { return false };
        if TOLD.with_borrow_mut(|told| told.insert(index)) {
            let name = owned(pg_sys::get_rel_name(index));
            Error::from(IvfError::Unreadable { name, error }).say(PgLogLevel::WARNING);
        }
        true
    }
}

/// The share of an index's rows that is within a distance of a vector, as the index says.
///
/// # Safety
/// The planner's, of an index of ours, which it has locked.
unsafe fn share_within(info: *const pg_sys::IndexOptInfo, (query, within): &(Vec<f32>, f64)) -> Option<f64> {
    // SAFETY: the caller's promise.
    unsafe {
        if (*info).hypothetical {
            return None;
        }
        with_pages((*info).indexoid, |pages| {
            let index = Index::open(pages).ok()?;
            let fits = index.knows_dimensions() && index.geometry.dims == query.len();
            // Nothing has a distance from a zero vector, but by L2.
            if !fits || norm(query) == 0.0 {
                return None;
            }
            estimate::share_within(pages, &index, query, *within).ok()
        })
    }
}

/// Whether rows without a vector are asked for.
///
/// # Safety
/// A path on an index of ours.
unsafe fn wants_null(path: *const pg_sys::IndexPath) -> bool {
    // SAFETY: the caller's promise; the tag tells a node's type.
    unsafe {
        PgList::<pg_sys::IndexClause>::from_pg((*path).indexclauses).iter_ptr().any(|clause| {
            let written = (*(*clause).rinfo).clause;
            (*clause).indexcol == 0
                && is_a(written.cast(), pg_sys::NodeTag::T_NullTest)
                && (*written.cast::<pg_sys::NullTest>()).nulltesttype == pg_sys::NullTestType::IS_NULL
        })
    }
}

/// The share of rows that satisfy the conditions on the columns beside the vector.
///
/// # Safety
/// A path on an index of ours.
unsafe fn share_matching(root: *mut pg_sys::PlannerInfo, path: *const pg_sys::IndexPath) -> f64 {
    // SAFETY: the caller's promise.
    unsafe {
        let mut quals = PgList::<pg_sys::RestrictInfo>::new();
        for clause in PgList::<pg_sys::IndexClause>::from_pg((*path).indexclauses).iter_ptr() {
            if (*clause).indexcol > 0 {
                PgList::from_pg((*clause).indexquals).iter_ptr().for_each(|qual| quals.push(qual));
            }
        }
        if quals.is_empty() {
            return 1.0;
        }
        let table = (*(*(*path).indexinfo).rel).relid as i32;
        pg_sys::clauselist_selectivity(root, quals.into_pg(), table, pg_sys::JoinType::JOIN_INNER, null_mut())
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
        let (lists, code_pages, curve) =
            known.unwrap_or_else(|| (default_lists(rows) as f64, CODE_PAGES, Curve::UNKNOWN));
        Shape { rows, pages, lists: lists.max(1.0), code_pages, curve }
    }

    /// Before the first row, and for all rows, of which this share satisfies the conditions on columns of the index. The
    /// planner takes a LIMIT's share of the difference, and another condition's: with a selective one it expects to read
    /// more of the rows, and the scan goes on to more lists.
    fn costs(&self, page: &PageCosts, matching: f64) -> (f64, f64) {
        let first = self.probed(matching);
        let all = self.limit().max(first);
        let (startup, rows) = self.costs_of(page, matching, all * matching);
        (startup, rows + self.reading(page, all - first))
    }

    /// Before the first row, and for this share of the rows, all in the lists that are read by then.
    fn costs_of(&self, page: &PageCosts, matching: f64, share: f64) -> (f64, f64) {
        // SAFETY: read settings.
        let (operator, tuple) = unsafe { (pg_sys::cpu_operator_cost, pg_sys::cpu_index_tuple_cost) };
        // The directory holds lists as the lists hold rows.
        let directory_pages = (self.lists * self.pages / self.rows).ceil();
        let directory =
            directory_pages * page.sequential + self.lists * (CODE_OPERATORS + REFINE_OPERATORS) * operator;
        let rows = share * self.pages * (1.0 - self.code_pages) * page.random
            + share * self.rows * (REFINE_OPERATORS * operator + tuple);
        let startup = directory + self.reading(page, self.probed(matching));
        (startup, startup + rows)
    }

    /// Reading this share of the lists. Each starts somewhere, and goes on in the pages behind.
    fn reading(&self, page: &PageCosts, share: f64) -> f64 {
        // SAFETY: reads a setting.
        let operator = unsafe { pg_sys::cpu_operator_cost };
        share * (self.lists * page.random + self.pages * self.code_pages * page.sequential)
            + share * self.rows * CODE_OPERATORS * operator
    }

    /// Share of the lists that are read before the first row, if this share of the rows satisfies the conditions on
    /// columns of the index.
    fn probed(&self, matching: f64) -> f64 {
        let share = |matching| {
            let probes = (guc::probes(), guc::max_probes());
            let lists = expected_lists(&self.curve, probes, guc::target_recall(), self.lists, matching);
            lists / self.lists
        };
        share(matching).min(self.limit()).max(share(1.0)).min(1.0)
    }

    /// Share of the lists that a scan reads at most, beyond its probes.
    fn limit(&self) -> f64 {
        let lists = if guc::iterative_scan() == IterativeScan::Off { 0 } else { guc::max_probes() };
        (lists as f64 / self.lists).min(1.0)
    }
}

/// Lists, the share of the pages with 1-bit codes, and how far to read, as the index itself says; `None` if it cannot be
/// read, which is for a scan to complain about, not for the planner.
///
/// # Safety
/// The index exists and is locked.
unsafe fn stored(index: pg_sys::Oid) -> Option<(f64, f64, Curve)> {
    // SAFETY: the caller's promise.
    unsafe { with_pages(index, shape) }
}

/// Reads an index, if it has a page: reading beyond the end would be an ERROR.
///
/// # Safety
/// The index exists and is locked.
unsafe fn with_pages<T>(index: pg_sys::Oid, read: impl FnOnce(&Pages) -> Option<T>) -> Option<T> {
    // SAFETY: the caller's promise.
    unsafe {
        let relation = pg_sys::index_open(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        let pages = Pages::of(relation);
        let result = match pages.blocks() {
            Ok(1..) => read(&pages),
            _ => None,
        };
        pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        result
    }
}

fn shape(pages: &Pages) -> Option<(f64, f64, Curve)> {
    let (meta, _) = read_meta(pages).ok().filter(|(meta, _)| meta.dims > 0)?;
    let geometry = Geometry::new(meta.dims as usize, meta.bits as usize, meta.columns);
    Some((f64::from(meta.lists), 1.0 / (1.0 + geometry.refinement_pages() as f64), meta.curve))
}
