//! SQL functions that look into an index: `ivf_info`, `ivf_check`; [`super::recall`] has another.

use ivf::metric::Metric;
use ivf::scan::expected_lists;
use ivf::{check, info};
use pgrx::iter::{SetOfIterator, TableIterator};
use pgrx::prelude::*;

use super::compare::compare;
use super::options::Options;
use super::page::Pages;
use super::rows::Source;
use super::{COLUMN, OfIndex, owned};
use crate::error::{Error, IvfError, OrRaise};
use crate::guc;
use crate::spi::as_user;

/// Problems that `ivf_check` tells at most: many pages can be broken in the same way.
const MAX_PROBLEMS: usize = 100;
/// Microseconds from Unix's epoch, 1970, to Postgres's, 2000.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// An index and its table, open, for somebody who may ask about them.
pub struct Opened {
    pub table: pg_sys::Relation,
    pub index: pg_sys::Relation,
}

/// What the current user must be allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    Select,
    Owner,
}

impl Opened {
    /// # Errors
    /// It is no index of this access method, or the user lacks the privilege.
    pub fn new(index: pg_sys::Oid, privilege: Privilege, lock: u32) -> Result<Opened, Error> {
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

    pub fn pages(&self) -> Pages {
        // SAFETY: the index is open until `self` is dropped.
        unsafe { Pages::of(self.index) }
    }

    /// For [`Source::for_each_visible`].
    pub fn visible_rows(&self) -> Source {
        // SAFETY: both are open until `self` is dropped.
        unsafe {
            let info = pg_sys::BuildIndexInfo(self.index);
            // Rows are read as a concurrent build reads them: under a snapshot.
            (*info).ii_Concurrent = true;
            Source { heap: self.table, index: self.index, info }
        }
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
        name!(columns, Vec<String>),
        name!(fresh_rows, i64),
        name!(training_due, bool),
        name!(probes_at_90, f64),
        name!(probes_at_95, f64),
        name!(probes_at_99, f64),
        name!(calibrated, bool),
    ),
> {
    let opened = Opened::new(index, Privilege::Select, pg_sys::AccessShareLock).or_raise();
    // SAFETY: the index is open.
    let info = unsafe {
        let lists = Options::of(opened.index).lists;
        info::info(&opened.pages(), lists).or_raise_for(opened.index)
    };
    let metric = match info.metric {
        Metric::L2 => "l2",
        Metric::InnerProduct => "inner product",
        Metric::Cosine => "cosine",
    };
    let limits = (0, guc::max_probes());
    let probes = |recall| expected_lists(&info.curve, limits, recall, info.lists.into(), 1.0);
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
        probes(guc::target_recall()).round() as i32,
        // SAFETY: the index is open.
        unsafe { column_names(opened.index) },
        info.fresh_rows as i64,
        info.due,
        probes(0.9),
        probes(0.95),
        probes(0.99),
        info.curve.calibrated != 0,
    ))
}

/// The names of the columns beside the vector; of a computed one that of the index's column.
///
/// # Safety
/// `index` is open.
unsafe fn column_names(index: pg_sys::Relation) -> Vec<String> {
    // SAFETY: the caller's promise: there are as many numbers as columns, and the catalog has a name for each.
    unsafe {
        let form = (*index).rd_index;
        let columns = (*form).indkey.values.as_slice((*form).indnkeyatts as usize);
        let name = |(number, &column): (usize, &i16)| {
            let (relation, number) =
                if column == 0 { ((*index).rd_id, number as i16 + 1) } else { ((*form).indrelid, column) };
            owned(pg_sys::get_attname(relation, number, false))
        };
        columns.iter().enumerate().skip(COLUMN).map(name).collect()
    }
}

/// What is wrong with an index, one row a problem; none if it is sound. On request it is compared with its table, too.
///
/// Vacuum waits meanwhile. On a standby, where no such lock can be had, replay may change the index under the check,
/// which can then tell of problems that are none.
#[pg_extern(sql = false)]
fn ivf_check(index: pg_sys::Oid, heapallindexed: bool) -> SetOfIterator<'static, String> {
    // SAFETY: asks for the state of the server.
    let in_recovery = unsafe { pg_sys::RecoveryInProgress() };
    let lock = if in_recovery { pg_sys::AccessShareLock } else { pg_sys::ShareUpdateExclusiveLock };
    let opened = Opened::new(index, Privilege::Owner, lock).or_raise();
    // SAFETY: reads a setting; the index is open.
    let problems = unsafe {
        let memory = pg_sys::maintenance_work_mem as usize * 1024;
        let mut problems = check::check(&opened.pages(), MAX_PROBLEMS, memory).or_raise_for(opened.index);
        if heapallindexed && problems.is_empty() {
            problems = as_owner_of(opened.table, || {
                compare(&opened.visible_rows(), MAX_PROBLEMS, memory).or_raise()
            });
        }
        problems
    };
    SetOfIterator::new(problems)
}

/// Runs something that evaluates an index's expressions, which belong to the table's owner, with that owner's rights,
/// as Postgres does when it builds the index. An ERROR restores the user, too, with the transaction's abort.
///
/// # Safety
/// `table` is open.
pub unsafe fn as_owner_of<T>(table: pg_sys::Relation, run: impl FnOnce() -> T) -> T {
    // SAFETY: the caller's promise.
    let owner = unsafe { (*(*table).rd_rel).relowner };
    as_user(owner, || {
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        // SAFETY: sets search_path; as_user puts it back.
        unsafe {
            pg_sys::RestrictSearchPath();
        }
        run()
    })
}
