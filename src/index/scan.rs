//! Index scans: `ambeginscan`, `amrescan`, `amgettuple`, `amendscan`.

use std::ptr::fn_addr_eq;
use std::rc::Rc;
use std::slice;

use ivf::filter::Filter;
use ivf::index::Index;
use ivf::layout::Tid;
use ivf::metric::Metric;
use ivf::reorder::Reorder;
use ivf::scan::{Options, Order, Scan};
use ivf::store::IndexError;
use ivf::vector::{self, VectorError};
use pgrx::{PgMemoryContexts, pg_guard, pg_sys};

use super::columns::IndexColumns;
use super::distance::RowDistance;
use super::page::Pages;
use super::{COLUMN, OfIndex, is_on_expression, open, options, to_pointer};
use crate::error::{Error, IvfError, OrRaise};
use crate::guc::{self, IterativeScan};
use crate::vector::Vector;

/// Times that a scan begins anew, on a standby that replays one training after the other.
const RESTARTS: usize = 3;

/// What a scan keeps between calls; dropped with the scan's memory context.
#[derive(Default)]
struct State {
    kept: Kept,
    /// Since the last rescan.
    started: Option<Started>,
}

/// What stays over rescans.
#[derive(Default)]
struct Kept {
    /// Opened when the first row is asked for.
    index: Option<Rc<Index>>,
    /// The executor must get the rows in exact order: see [`super::executor`].
    exact_order: bool,
    /// For that.
    row_distance: Option<RowDistance>,
}

struct Started {
    scan: Scan,
    has_returned: bool,
    /// The distance of every row, if the query alone tells it.
    constant: Option<f64>,
    /// The executor is to check the scan's conditions.
    recheck_conditions: bool,
    /// The executor is to compute the distances, of which it gets bounds.
    recheck: bool,
    /// Computes them itself, for this query.
    reorder: Option<(Reorder, Vec<f32>)>,
}

/// `ambeginscan`
#[pg_guard]
pub unsafe extern "C-unwind" fn begin(
    index: pg_sys::Relation,
    keys: i32,
    orderbys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: Postgres passes an open index. The arrays live, and the state is dropped, with the memory context that
    // the scan itself is in.
    unsafe {
        let scan = pg_sys::RelationGetIndexScan(index, keys, orderbys);
        if orderbys > 0 {
            let count = orderbys as usize;
            (*scan).xs_orderbyvals = pg_sys::palloc0(count * size_of::<pg_sys::Datum>()).cast();
            (*scan).xs_orderbynulls = pg_sys::palloc0(count * size_of::<bool>()).cast();
        }
        let state = PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(State::default());
        (*scan).opaque = state.cast();
        scan
    }
}

/// `amrescan`
#[pg_guard]
pub unsafe extern "C-unwind" fn rescan(
    scan: pg_sys::IndexScanDesc,
    keys: pg_sys::ScanKey,
    _key_count: i32,
    orderbys: pg_sys::ScanKey,
    _orderby_count: i32,
) {
    // SAFETY: Postgres passes a scan that `begin` made, and as many keys as it said there; they may be the scan's own.
    unsafe {
        if !keys.is_null() {
            (*scan).keyData.copy_from(keys, (*scan).numberOfKeys as usize);
        }
        if !orderbys.is_null() {
            (*scan).orderByData.copy_from(orderbys, (*scan).numberOfOrderBys as usize);
        }
        state(scan).started = None;
    }
}

/// `amgettuple`
#[pg_guard]
pub unsafe extern "C-unwind" fn get_tuple(
    scan: pg_sys::IndexScanDesc,
    _direction: pg_sys::ScanDirection::Type,
) -> bool {
    // SAFETY: Postgres passes a scan that `begin` made and `rescan` started; an operator cannot be scanned backwards.
    unsafe {
        let index = (*scan).indexRelation;
        let pages = Pages::of(index);
        let state = state(scan);
        let mut attempts = 0..RESTARTS;
        let (started, next) = loop {
            let started = match &mut state.started {
                Some(started) => started,
                none => none.insert(start(scan, &pages, &mut state.kept).or_raise()),
            };
            let next = match (&mut started.reorder, &state.kept.row_distance) {
                (Some((reorder, query)), Some(row_distance)) => {
                    reorder.next(&mut started.scan, &pages, |tid| {
                        distance_of_visible(scan, tid, row_distance, query).or_raise()
                    })
                }
                _ => started.scan.next(&pages),
            };
            if let Err(IndexError::Replaced(_)) = next
                && !started.has_returned
                && attempts.next().is_some()
            {
                // Nobody has seen a row of the old lists.
                (state.started, state.kept.index) = (None, None);
                continue;
            }
            // Taken once more: the borrow of the last round is not the loop's.
            break (state.started.as_mut(), next);
        };
        let Some(hit) = next.or_raise_for(index) else { return false };
        let Some(started) = started else { unreachable!("it has been started") };
        started.has_returned = true;
        (*scan).xs_heaptid = to_pointer(hit.tid);
        (*scan).xs_recheck = started.recheck_conditions;
        // The distance to NULL is NULL.
        let distance = started.constant.or(hit.distance);
        (*scan).xs_recheckorderby = started.recheck && hit.distance.is_some();
        *(*scan).xs_orderbyvals = pg_sys::Datum::from(distance.unwrap_or(0.0).to_bits());
        *(*scan).xs_orderbynulls = distance.is_none();
        true
    }
}

/// `amendscan`
#[pg_guard]
pub unsafe extern "C-unwind" fn end(scan: pg_sys::IndexScanDesc) {
    // SAFETY: Postgres passes a scan that `begin` made.
    unsafe {
        let state = state(scan);
        if let Some(row_distance) = &mut state.kept.row_distance {
            row_distance.free();
        }
        *state = State::default();
    }
}

/// # Safety
/// `begin` made the scan; the reference is the only one.
unsafe fn state<'a>(scan: pg_sys::IndexScanDesc) -> &'a mut State {
    // SAFETY: the caller's promise.
    unsafe { &mut *(*scan).opaque.cast::<State>() }
}

/// Whether an index is one of this access method; none is not.
///
/// # Safety
/// `index` is open, or null.
pub unsafe fn is_ours(index: pg_sys::Relation) -> bool {
    let ours: unsafe extern "C-unwind" fn(_, _, _) -> _ = begin;
    // SAFETY: the caller's promise; an open index has its access method's routines.
    unsafe {
        let routine = index.as_ref().and_then(|index| index.rd_indam.as_ref());
        routine.and_then(|routine| routine.ambeginscan).is_some_and(|other| fn_addr_eq(other, ours))
    }
}

/// Makes a scan bring its rows in exact order, with their distances.
///
/// # Safety
/// `begin` made the scan, for the executor; no row was asked for yet.
pub unsafe fn bring_exact_order(scan: pg_sys::IndexScanDesc) {
    // SAFETY: the caller's promise.
    unsafe { state(scan) }.kept.exact_order = true;
}

/// # Safety
/// As for `amgettuple`; the scan has a table.
unsafe fn make_row_distance(scan: pg_sys::IndexScanDesc, metric: Metric) -> RowDistance {
    // SAFETY: the caller's promise; what is allocated lives as long as the scan.
    unsafe {
        let context = pg_sys::GetMemoryChunkContext(scan.cast());
        PgMemoryContexts::For(context).switch_to(|_| {
            let info = pg_sys::BuildIndexInfo((*scan).indexRelation);
            RowDistance::new((*scan).heapRelation, info, metric)
        })
    }
}

/// The exact distance of a row; `None` if the scan's snapshot does not see it.
///
/// # Safety
/// As for `amgettuple`; the scan has a table.
unsafe fn distance_of_visible(
    scan: pg_sys::IndexScanDesc,
    tid: Tid,
    row_distance: &RowDistance,
    query: &[f32],
) -> Result<Option<f64>, Error> {
    // SAFETY: the caller's promise. What the executor fetches after this call begins anew, as an MVCC snapshot sees one
    // row of a chain at most.
    unsafe {
        (*scan).xs_heaptid = to_pointer(tid);
        if !pg_sys::index_fetch_heap(scan, row_distance.slot()) {
            return Ok(None);
        }
        let distance = row_distance.of_slot(query);
        pg_sys::ExecClearTuple(row_distance.slot());
        distance.map(Some)
    }
}

/// The distance that no row is to exceed, by the scan's conditions on the vector, -infinity if they cannot be met; and whether
/// they must be checked for each row, as those that [`super::threshold`] did not make.
///
/// # Safety
/// As for `amgettuple`; `query` is what the scan is ordered by, if that has distances.
unsafe fn within(scan: pg_sys::IndexScanDesc, query: Option<&[f32]>) -> (Option<f64>, bool) {
    let (mut within, mut recheck): (Option<f64>, bool) = (None, false);
    // SAFETY: the caller's promise; a key is of the only kind of operators that this access method searches vectors by, whose
    // right argument has these three fields.
    unsafe {
        for key in keys(scan).iter().filter(|key| key.sk_attno as usize == COLUMN) {
            if key.sk_flags as u32 & pg_sys::SK_SEARCHNOTNULL != 0 {
                // All rows of the index have one.
                continue;
            }
            if key.sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
                return (Some(f64::NEG_INFINITY), true);
            }
            let sphere = pg_sys::pg_detoast_datum(key.sk_argument.cast_mut_ptr()).cast();
            let field = |number| {
                let mut is_null = false;
                let datum = pg_sys::GetAttributeByNum(sphere, number, &mut is_null);
                (!is_null).then_some(datum)
            };
            recheck |= field(3).is_none_or(|checked| checked.value() == 0);
            let (Some(center), Some(radius)) = (field(1), field(2)) else {
                return (Some(f64::NEG_INFINITY), true);
            };
            // Two parameters that the planner could not compare may differ.
            if query.is_some_and(|query| Vector::detoast(center)[..] == *query) {
                let radius = widened(f64::from_bits(radius.value() as u64));
                // NaN is above every number for Postgres, and no bound here.
                within = Some(within.map_or(radius, |within| within.min(radius)));
            }
        }
    }
    (within, recheck)
}

/// # Safety
/// As for `amgettuple`.
unsafe fn keys<'a>(scan: pg_sys::IndexScanDesc) -> &'a [pg_sys::ScanKeyData] {
    // SAFETY: the caller's promise: there are so many.
    unsafe {
        match (*scan).numberOfKeys as usize {
            0 => &[],
            count => slice::from_raw_parts((*scan).keyData, count),
        }
    }
}

/// The scan's conditions on the columns beside the vector, and whether they must be checked for each row.
///
/// # Safety
/// As for `amgettuple`; `columns` are those of the scan's index.
unsafe fn filter(scan: pg_sys::IndexScanDesc, columns: &IndexColumns) -> (Filter, bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let keys = keys(scan).iter().filter(|key| key.sk_attno as usize > COLUMN);
        let (conditions, exact): (Vec<_>, Vec<bool>) = keys.map(|key| columns.condition(key)).unzip();
        (Filter::new(conditions), exact.contains(&false))
    }
}

/// A number that `radius` cannot be above however what it was computed from was rounded: see [`super::threshold`].
fn widened(radius: f64) -> f64 {
    if radius.is_infinite() {
        return radius;
    }
    radius + 4.0 * f64::EPSILON * (radius.abs() + super::threshold::LARGEST_CONSTANT)
}

/// # Safety
/// As for `amgettuple`.
unsafe fn start(scan: pg_sys::IndexScanDesc, pages: &Pages, kept: &mut Kept) -> Result<Started, Error> {
    // SAFETY: the caller's promise; the operator's right argument is a `vector`, as amvalidate checks.
    unsafe {
        let index = (*scan).indexRelation;
        count_scan(scan);
        if (*scan).numberOfOrderBys < 1 {
            return Err(IvfError::NoOrder.into());
        }
        if !is_mvcc((*scan).xs_snapshot) {
            return Err(IvfError::NotMvcc.into());
        }
        let columns = IndexColumns::of(index)?;
        let opened = match &mut kept.index {
            Some(opened) => opened.clone(),
            none => none.insert(open(pages, &columns).or_raise_for(index)).clone(),
        };
        let orderby = &*(*scan).orderByData;
        let query =
            (orderby.sk_flags as u32 & pg_sys::SK_ISNULL == 0).then(|| Vector::detoast(orderby.sk_argument));
        let dims = opened.geometry.dims;
        if let Some(query) = query.as_deref()
            && opened.knows_dimensions()
            && query.len() != dims
        {
            return Err(VectorError::DifferentDimensions(dims, query.len()).into());
        }
        let metric = opened.space.metric();
        let constant = query.as_deref().and_then(|query| constant_distance(metric, query));
        let query = query.filter(|_| constant.is_none());
        let order = options::Options::of(index).order(is_on_expression(index));
        let (within, recheck_distances) = within(scan, query.as_deref());
        let (filter, recheck_columns) = filter(scan, &columns);
        let recheck_conditions = recheck_distances || recheck_columns;
        let options = Options {
            within,
            probes: guc::probes(),
            recall: guc::target_recall(),
            iterative: guc::iterative_scan() != IterativeScan::Off,
            max_probes: guc::max_probes(),
            // In KiB.
            memory: pg_sys::work_mem as usize * 1024,
            order,
        };
        let by_bounds = order == Order::Bound;
        let reorder = match &query {
            Some(query) if by_bounds && kept.exact_order => {
                kept.row_distance.get_or_insert_with(|| make_row_distance(scan, metric));
                Some((Reorder::default(), query.to_vec()))
            }
            _ => None,
        };
        let scan = Scan::new(opened, query.as_deref(), options).matching(filter);
        let has_returned = false;
        Ok(Started {
            scan,
            has_returned,
            constant,
            recheck_conditions,
            recheck: by_bounds && reorder.is_none(),
            reorder,
        })
    }
}

/// A zero vector is equally far from every row, but under L2. Its rows need no order; with bounds that no row
/// reaches, the executor would read all of them.
fn constant_distance(metric: Metric, query: &[f32]) -> Option<f64> {
    match metric {
        Metric::L2 => None,
        _ if vector::norm(query) > 0.0 => None,
        Metric::InnerProduct => Some(0.0),
        Metric::Cosine => Some(f64::NAN),
    }
}

/// A row's TID may be used again as soon as VACUUM has removed it from the index, which need not wait for a scan that
/// has copied it: a snapshot of this kind does not see the new row.
///
/// # Safety
/// `snapshot` is one, or null.
unsafe fn is_mvcc(snapshot: pg_sys::Snapshot) -> bool {
    use pg_sys::SnapshotType::{SNAPSHOT_HISTORIC_MVCC, SNAPSHOT_MVCC};
    // SAFETY: the caller's promise.
    unsafe { snapshot.as_ref() }
        .is_some_and(|snapshot| [SNAPSHOT_MVCC, SNAPSHOT_HISTORIC_MVCC].contains(&snapshot.snapshot_type))
}

/// Counts a scan in `pg_stat_user_indexes`, and for EXPLAIN.
///
/// # Safety
/// As for `amgettuple`.
unsafe fn count_scan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: the caller's promise.
    unsafe {
        let index = (*scan).indexRelation;
        if (*index).pgstat_info.is_null() && (*index).pgstat_enabled {
            pg_sys::pgstat_assoc_relation(index);
        }
        if let Some(statistics) = (*index).pgstat_info.as_mut() {
            #[cfg(feature = "pg15")]
            let scans = &mut statistics.t_counts.t_numscans;
            #[cfg(not(feature = "pg15"))]
            let scans = &mut statistics.counts.numscans;
            *scans += 1;
        }
        #[cfg(feature = "pg18")]
        if let Some(instrument) = (*scan).instrument.as_mut() {
            instrument.nsearches += 1;
        }
    }
}
