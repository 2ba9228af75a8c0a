//! `ivf_recall`: how much of the exact answers an index finds.
//!
//! Without a condition the index is scanned as a query with ORDER BY does it. With one, such queries are planned and run,
//! with the rights of whoever asks.

use std::ffi::CStr;
use std::ptr::null_mut;

use ivf::metric::Metric;
use pgrx::prelude::*;

use super::condition::Filtered;
use super::distance::{RowDistance, has_distance};
use super::inspect::{Opened, Privilege, as_owner_of};
use super::rows::Source;
use super::sample::{Plan, Sample};
use super::{COLUMN, DISTANCE_STRATEGY, distance_operator, metric_of};
use crate::error::{Error, IvfError, OrRaise};
use crate::vector::VectorBuf;

/// Neighbours and queries that can be asked for; their distances are kept in memory.
const MAX_RECALL: i32 = 10_000;
/// The argument of `ivf_recall`, from 0.
const CONDITION: usize = 3;

/// Recall of the first `k` rows, with the current settings, of queries that are rows of the table: the share of rows
/// that are no farther than the `k`th of an exact scan. `None` for an index without rows, or if no row satisfies the
/// condition.
#[pg_extern(sql = false)]
fn ivf_recall(
    index: Option<pg_sys::Oid>,
    k: Option<i32>,
    sample: Option<i32>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Option<f64> {
    let (index, k, sample) = (index?, count("k", k?).or_raise(), count("sample", sample?).or_raise());
    let opened = Opened::new(index, Privilege::Select, pg_sys::AccessShareLock).or_raise();
    let source = opened.visible_rows();
    // SAFETY: table and index are open.
    unsafe {
        // A text in the database's encoding, which Rust's need not be.
        match pgrx::fcinfo::pg_getarg_datum(fcinfo, CONDITION) {
            None => as_owner_of(opened.table, || {
                queries(&source, sample).and_then(|queries| recall(&source, k, &queries)).or_raise()
            }),
            Some(condition) => {
                let condition = CStr::from_ptr(pg_sys::text_to_cstring(condition.cast_mut_ptr()));
                Filtered::of(&opened, condition).and_then(|search| search.recall(k, sample)).or_raise()
            }
        }
    }
}

fn count(name: &'static str, value: i32) -> Result<usize, Error> {
    if (1..=MAX_RECALL).contains(&value) {
        Ok(value as usize)
    } else {
        Err(IvfError::OutOfBounds { name, value, limit: MAX_RECALL }.into())
    }
}

/// Rows of the table that have a distance: a zero vector may have no direction.
///
/// # Safety
/// As for [`Source::for_each_visible`].
unsafe fn queries(source: &Source, sample: usize) -> Result<Vec<Vec<f32>>, Error> {
    // SAFETY: the caller's promise.
    unsafe {
        let metric = metric_of(source.index)?;
        let plan = Plan { blocks: sample as u32, rows: sample, bytes: usize::MAX };
        let sample = Sample::take(source, None, plan);
        let Some(dims) = sample.dims else { return Ok(Vec::new()) };
        let rows = sample.vectors.chunks_exact(dims).map(<[f32]>::to_vec);
        Ok(rows.filter(|query| has_distance(metric, query)).collect())
    }
}

/// # Safety
/// As for [`Source::for_each_visible`].
unsafe fn recall(source: &Source, k: usize, queries: &[Vec<f32>]) -> Result<Option<f64>, Error> {
    // SAFETY: the caller's promise; a SQL function runs under a snapshot.
    unsafe {
        let metric = metric_of(source.index)?;
        let snapshot = pg_sys::GetActiveSnapshot();
        let mut exact = vec![Nearest::new(k); queries.len()];
        source.for_each_visible(snapshot, |row| {
            let vector = row.vector();
            for (query, nearest) in queries.iter().zip(&mut exact) {
                nearest.add(metric.operator(&vector, query).or_raise());
            }
        });

        let search = Search::new(source, metric);
        let mut shares = Vec::with_capacity(queries.len());
        for (query, exact) in queries.iter().zip(&exact) {
            if exact.farthest().is_some() {
                shares.extend(share(&exact.0, &search.nearest(query, k, snapshot)?.0));
            }
        }
        Ok(mean(&shares))
    }
}

/// How much of the exact answer another one has, both as distances; rows at the same distance count alike. `None` if there is
/// nothing to find.
pub fn share(exact: &[f64], found: &[f64]) -> Option<f64> {
    let farthest = exact.last()?;
    let hits = found.iter().filter(|&distance| distance <= farthest).count();
    Some(hits as f64 / exact.len() as f64)
}

pub fn mean(shares: &[f64]) -> Option<f64> {
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

/// The least of the distances added to it, as many as the second field says, in ascending order.
#[derive(Clone)]
struct Nearest(Vec<f64>, usize);

impl Nearest {
    fn new(k: usize) -> Nearest {
        Nearest(Vec::new(), k)
    }

    fn add(&mut self, distance: f64) {
        // NaN is the distance of a row that is not indexed.
        if distance.is_nan() || self.is_full() && self.farthest().is_some_and(|farthest| farthest <= distance)
        {
            return;
        }
        let place = self.0.partition_point(|&nearer| nearer <= distance);
        self.0.insert(place, distance);
        self.0.truncate(self.1);
    }

    fn is_full(&self) -> bool {
        self.0.len() == self.1
    }

    fn farthest(&self) -> Option<f64> {
        self.0.last().copied()
    }
}

/// Searches as a query with ORDER BY does it.
struct Search<'a> {
    source: &'a Source,
    /// The function behind the operator.
    function: pg_sys::Oid,
    row_distance: RowDistance,
}

impl Search<'_> {
    /// # Safety
    /// Table and index are open.
    unsafe fn new(source: &Source, metric: Metric) -> Search<'_> {
        // SAFETY: the caller's promise; an index has an operator family for its column.
        unsafe {
            let operator = distance_operator(source.index);
            let row_distance = RowDistance::new(source.heap, source.info, metric);
            Search { source, function: pg_sys::get_opcode(operator), row_distance }
        }
    }

    /// The exact distances of the `k` rows that a query gets.
    ///
    /// # Safety
    /// As for [`Search::new`]; `snapshot` is registered or active.
    unsafe fn nearest(&self, query: &[f32], k: usize, snapshot: pg_sys::Snapshot) -> Result<Nearest, Error> {
        let mut found = Nearest::new(k);
        let query_datum = VectorBuf::from_slice(query)?.into_datum();
        // SAFETY: the caller's promise; the scan has one key, for ORDER BY, and is ended below.
        unsafe {
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyEntryInitialize(
                &mut key,
                pg_sys::SK_ORDER_BY as i32,
                COLUMN as pg_sys::AttrNumber,
                DISTANCE_STRATEGY,
                pg_sys::InvalidOid,
                pg_sys::InvalidOid,
                self.function,
                query_datum,
            );
            let (table, index) = (self.source.heap, self.source.index);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(table, index, snapshot, null_mut(), 0, 1);
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(table, index, snapshot, 0, 1);
            pg_sys::index_rescan(scan, null_mut(), 0, &mut key, 1);
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            while pg_sys::index_getnext_slot(scan, forward, self.row_distance.slot()) {
                let bound = f64::from_bits((*(*scan).xs_orderbyvals).value() as u64);
                // Without a recheck the rows come in the order in which they are returned; with it, a row cannot be
                // nearer than its bound.
                let done =
                    !(*scan).xs_recheckorderby || found.farthest().is_some_and(|farthest| farthest <= bound);
                if found.is_full() && done {
                    break;
                }
                found.add(self.row_distance.of_slot(query)?);
            }
            pg_sys::index_endscan(scan);
            pg_sys::ExecClearTuple(self.row_distance.slot());
            pg_sys::pfree(query_datum.cast_mut_ptr());
        }
        Ok(found)
    }
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made in `new`, where the memory context still is.
            unsafe { self.row_distance.free() };
        }
    }
}
