//! SQL functions that look into an index: `ivf_info`, `ivf_check`, `ivf_recall`.

use std::ptr::null_mut;

use ivf::metric::Metric;
use ivf::{check, info};
use pgrx::iter::{SetOfIterator, TableIterator};
use pgrx::prelude::*;

use super::distance::RowDistance;
use super::page::Pages;
use super::rows::Source;
use super::sample::{Plan, Sample};
use super::{COLUMN, DISTANCE_STRATEGY, OfIndex, metric_of, owned};
use crate::error::{Error, IvfError, OrRaise};
use crate::vector::VectorBuf;

/// Problems that `ivf_check` tells at most: many pages can be broken in the same way.
const MAX_PROBLEMS: usize = 100;
/// Neighbours and queries that `ivf_recall` can be asked for; their distances are kept in memory.
const MAX_RECALL: i32 = 10_000;
/// Microseconds from Unix's epoch, 1970, to Postgres's, 2000.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// An index and its table, open, for somebody who may ask about them.
struct Opened {
    table: pg_sys::Relation,
    index: pg_sys::Relation,
}

/// What the current user must be allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Privilege {
    Select,
    Owner,
}

impl Opened {
    /// # Errors
    /// It is no index of this access method, or the user lacks the privilege.
    fn new(index: pg_sys::Oid, privilege: Privilege, lock: u32) -> Result<Opened, Error> {
        // SAFETY: reads the catalog; a relation that has gone meanwhile is an ERROR. The table is locked before its
        // index, as Postgres does it, and only when the privilege is there.
        unsafe {
            if !is_ivf(index) {
                let name = pg_sys::get_rel_name(index);
                let name = if name.is_null() { index.to_u32().to_string() } else { owned(name) };
                return Err(IvfError::NotAnIndex { name }.into());
            }
            let table = pg_sys::IndexGetRelation(index, false);
            require(table, privilege);
            let lock = lock as pg_sys::LOCKMODE;
            let table = pg_sys::table_open(table, lock);
            let index = pg_sys::index_open(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            Ok(Opened { table, index })
        }
    }

    fn pages(&self) -> Pages {
        // SAFETY: the index is open until `self` is dropped.
        unsafe { Pages::of(self.index) }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // After an ERROR the transaction's abort closes them. The locks are kept to the transaction's end.
        if !std::thread::panicking() {
            // SAFETY: opened in `new`.
            unsafe {
                pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE);
                pg_sys::table_close(self.table, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
        }
    }
}

/// # Safety
/// Called in a transaction.
unsafe fn is_ivf(relation: pg_sys::Oid) -> bool {
    // SAFETY: a row of pg_class, held until it is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, relation.into());
        if tuple.is_null() {
            return false;
        }
        let class = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let (kind, method) = ((*class).relkind as u8, (*class).relam);
        pg_sys::ReleaseSysCache(tuple);
        kind == pg_sys::RELKIND_INDEX && method == pg_sys::get_index_am_oid(c"ivf".as_ptr(), true)
    }
}

/// Raises an ERROR unless the current user has the privilege.
///
/// # Safety
/// `table` exists.
unsafe fn require(table: pg_sys::Oid, privilege: Privilege) {
    use pg_sys::AclResult::{ACLCHECK_NOT_OWNER, ACLCHECK_OK};
    // SAFETY: the caller's promise.
    unsafe {
        let user = pg_sys::GetUserId();
        let result = if privilege == Privilege::Select {
            pg_sys::pg_class_aclcheck(table, user, pg_sys::ACL_SELECT as pg_sys::AclMode)
        } else {
            #[cfg(feature = "pg15")]
            let is_owner = pg_sys::pg_class_ownercheck(table, user);
            #[cfg(not(feature = "pg15"))]
            let is_owner = pg_sys::object_ownercheck(pg_sys::RelationRelationId, table, user);
            if is_owner { ACLCHECK_OK } else { ACLCHECK_NOT_OWNER }
        };
        if result != ACLCHECK_OK {
            let name = pg_sys::get_rel_name(table);
            pg_sys::aclcheck_error(result, pg_sys::ObjectType::OBJECT_TABLE, name);
        }
    }
}

/// One row about an index.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the columns of the SQL declaration
fn ivf_info(
    index: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(metric, String),
        name!(dimensions, i32),
        name!(bits, i32),
        name!(lists, i32),
        name!(rows, i64),
        name!(longest_list, i64),
        name!(empty_lists, i64),
        name!(imbalance, f64),
        name!(bytes, i64),
        name!(free_bytes, i64),
        name!(trained_rows, i64),
        name!(trained_at, Option<TimestampWithTimeZone>),
        name!(automatic_probes, i32),
    ),
> {
    let opened = Opened::new(index, Privilege::Select, pg_sys::AccessShareLock).or_raise();
    // SAFETY: the index is open.
    let info = unsafe { info::info(&opened.pages()).or_raise_for(opened.index) };
    let metric = match info.metric {
        Metric::L2 => "l2",
        Metric::InnerProduct => "inner product",
        Metric::Cosine => "cosine",
    };
    let bytes = |pages: u32| i64::from(pages) * i64::from(pg_sys::BLCKSZ);
    TableIterator::once((
        metric.to_owned(),
        info.dims as i32,
        info.bits as i32,
        info.lists as i32,
        info.rows as i64,
        info.longest_list as i64,
        info.empty_lists as i64,
        info.imbalance,
        bytes(info.pages),
        bytes(info.free_pages),
        info.trained_rows as i64,
        // 0: not yet.
        (info.trained_at != 0)
            .then(|| TimestampWithTimeZone::try_from(info.trained_at - POSTGRES_EPOCH).ok())
            .flatten(),
        info.automatic_probes as i32,
    ))
}

/// What is wrong with an index, one row a problem; none if it is sound.
///
/// Vacuum waits meanwhile. On a standby, where no such lock can be had, replay may change the index under the check,
/// which can then tell of problems that are none.
#[pg_extern(sql = false)]
fn ivf_check(index: pg_sys::Oid) -> SetOfIterator<'static, String> {
    // SAFETY: asks for the state of the server.
    let in_recovery = unsafe { pg_sys::RecoveryInProgress() };
    let lock = if in_recovery { pg_sys::AccessShareLock } else { pg_sys::ShareUpdateExclusiveLock };
    let opened = Opened::new(index, Privilege::Owner, lock).or_raise();
    // SAFETY: reads a setting; the index is open.
    let problems = unsafe {
        let memory = pg_sys::maintenance_work_mem as usize * 1024;
        check::check(&opened.pages(), MAX_PROBLEMS, memory).or_raise_for(opened.index)
    };
    SetOfIterator::new(problems)
}

/// Recall of the first `k` rows, with the current settings, of queries that are rows of the table: the share of rows
/// that are no farther than the `k`th of an exact scan. `None` for an index without rows.
#[pg_extern(sql = false)]
fn ivf_recall(index: pg_sys::Oid, k: i32, sample: i32) -> Option<f64> {
    let k = count("k", k).or_raise();
    let sample = count("sample", sample).or_raise();
    let opened = Opened::new(index, Privilege::Select, pg_sys::AccessShareLock).or_raise();
    // SAFETY: table and index are open.
    unsafe {
        as_owner_of(opened.table, || {
            let info = pg_sys::BuildIndexInfo(opened.index);
            // Rows are read as a concurrent build reads them: under a snapshot.
            (*info).ii_Concurrent = true;
            let source = Source { heap: opened.table, index: opened.index, info };
            recall(&source, k, sample).or_raise()
        })
    }
}

fn count(name: &'static str, value: i32) -> Result<usize, Error> {
    if (1..=MAX_RECALL).contains(&value) {
        Ok(value as usize)
    } else {
        Err(IvfError::OutOfBounds { name, value, limit: MAX_RECALL }.into())
    }
}

/// Runs something that evaluates an index's expressions, which belong to the table's owner, with that owner's rights,
/// as Postgres does when it builds the index. An ERROR restores the user, too, with the transaction's abort.
///
/// # Safety
/// `table` is open.
unsafe fn as_owner_of<T>(table: pg_sys::Relation, run: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: the caller's promise; what was there before is put back.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restricted = context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
        pg_sys::SetUserIdAndSecContext((*(*table).rd_rel).relowner, restricted);
        let level = pg_sys::NewGUCNestLevel();
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        pg_sys::RestrictSearchPath();
        let result = run();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}

/// # Safety
/// As for [`Source::for_each_visible`].
unsafe fn recall(source: &Source, k: usize, sample: usize) -> Result<Option<f64>, Error> {
    // SAFETY: the caller's promise; a SQL function runs under a snapshot.
    unsafe {
        let metric = metric_of(source.index)?;
        let plan = Plan { blocks: sample as u32, rows: sample, bytes: usize::MAX };
        let sample = Sample::take(source, None, plan);
        let Some(dims) = sample.dims else { return Ok(None) };
        // A zero vector has no direction.
        let has_distance = |query: &&[f32]| metric.operator(query, query).is_ok_and(|d| !d.is_nan());
        let queries: Vec<&[f32]> = sample.vectors.chunks_exact(dims).filter(has_distance).collect();

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
            if let Some(farthest) = exact.farthest() {
                let found = search.nearest(query, k, snapshot)?;
                let hits = found.0.iter().filter(|&&distance| distance <= farthest).count();
                shares.push(hits as f64 / exact.0.len() as f64);
            }
        }
        let total: f64 = shares.iter().sum();
        Ok((!shares.is_empty()).then(|| total / shares.len() as f64))
    }
}

/// The least `1` of the distances added to it, in ascending order.
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
            let family = *(*source.index).rd_opfamily;
            let input = *(*source.index).rd_opcintype;
            let operator = pg_sys::get_opfamily_member(family, input, input, DISTANCE_STRATEGY as i16);
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
