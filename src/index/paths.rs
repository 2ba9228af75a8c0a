//! Conditions that the planner does not offer to an index by itself: its hook adds them to the paths that are ordered by the
//! distance.
//!
//! These are distances ([`super::threshold`]), and of the columns beside the vector those that Postgres only knows of its
//! own access methods' (truth values, before 16) or does not combine with an order (arrays, before 17).

use std::ptr::{addr_eq, null_mut};

use pgrx::{PgBox, PgList, is_a, pg_guard, pg_sys};

use super::{cost, threshold};

static mut PREVIOUS: pg_sys::set_rel_pathlist_hook_type = None;

pub fn register() {
    // SAFETY: a process of Postgres has one thread for these.
    unsafe {
        PREVIOUS = pg_sys::set_rel_pathlist_hook;
        pg_sys::set_rel_pathlist_hook = Some(set_rel_pathlist);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn set_rel_pathlist(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    number: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner passes a table for which it has made the paths; those of its indexes are of this type.
    unsafe {
        if let Some(previous) = PREVIOUS {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous(root, table, number, entry));
        }
        if (*table).baserestrictinfo.is_null() || (*table).indexlist.is_null() {
            return;
        }
        let paths: Vec<*mut pg_sys::IndexPath> = PgList::<pg_sys::Path>::from_pg((*table).pathlist)
            .iter_ptr()
            .filter(|&path| is_a(path.cast(), pg_sys::NodeTag::T_IndexPath))
            .map(|path| path.cast::<pg_sys::IndexPath>())
            .filter(|&path| is_ordered_by_distance(path))
            .collect();
        for path in paths {
            let mut clauses = column_clauses(root, table, path);
            let mut has_bound = false;
            if is_wanted((*root).parse) {
                let bounds = threshold::clauses(root, table, path);
                has_bound = !bounds.is_empty();
                clauses.extend(bounds);
            }
            if clauses.is_empty() {
                continue;
            }
            let pathkeys = (*path).path.pathkeys;
            let path_with_all = with_clauses(root, path, &clauses, pathkeys);
            // Never the one without: it may look cheaper to meet the rows that a filter lets pass by and by, but these are
            // not the nearest ones.
            (*table).pathlist = pg_sys::list_delete_ptr((*table).pathlist, path.cast());
            pg_sys::add_path(table, path_with_all.cast());
            if has_bound && (*root).tuple_fraction <= 0.0 {
                // All rows within a distance are wanted: those of further lists are sorted in.
                let unordered = with_clauses(root, path, &clauses, null_mut());
                (*unordered).path.pathkeys = pathkeys;
                // The planner takes a third of the table for "less than", which would be dear to sort.
                let rows = ((*unordered).indexselectivity * (*table).tuples).max(1.0);
                (*unordered).path.rows = rows.min((*table).rows);
                let sorted = pg_sys::create_sort_path(root, table, unordered.cast(), pathkeys, -1.0);
                pg_sys::add_path(table, sorted.cast());
            }
        }
    }
}

/// Whether it is `ORDER BY` that wants the order. What comes from further lists is not in it, which who groups rows would not
/// bear; and who counts wants all of them.
///
/// # Safety
/// A query.
unsafe fn is_wanted(query: *const pg_sys::Query) -> bool {
    // SAFETY: the caller's promise.
    let query = unsafe { &*query };
    !(query.hasAggs || query.hasWindowFuncs)
        && query.groupClause.is_null()
        && query.groupingSets.is_null()
        && query.distinctClause.is_null()
}

/// # Safety
/// A path of the planner's.
unsafe fn is_ordered_by_distance(path: *const pg_sys::IndexPath) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let of_ours = (*(*path).indexinfo)
            .amcostestimate
            .is_some_and(|estimate| addr_eq(estimate as *const (), cost::estimate as *const ()));
        of_ours && !(*path).indexorderbys.is_null() && (*path).path.param_info.is_null()
    }
}

/// The same path with more conditions; without `pathkeys`, one whose order nobody relies on, for [`cost`].
///
/// # Safety
/// A path ordered by a distance, and conditions on its index.
unsafe fn with_clauses(
    root: *mut pg_sys::PlannerInfo,
    path: *const pg_sys::IndexPath,
    clauses: &[*mut pg_sys::IndexClause],
    pathkeys: *mut pg_sys::List,
) -> *mut pg_sys::IndexPath {
    // SAFETY: the caller's promise.
    unsafe {
        let known = PgList::<pg_sys::IndexClause>::from_pg((*path).indexclauses);
        let mut sorted: Vec<*mut pg_sys::IndexClause> =
            known.iter_ptr().chain(clauses.iter().copied()).collect();
        // As the planner has them.
        sorted.sort_by_key(|&clause| (*clause).indexcol);
        let mut all = PgList::<pg_sys::IndexClause>::new();
        sorted.into_iter().for_each(|clause| all.push(clause));
        pg_sys::create_index_path(
            root,
            (*path).indexinfo,
            all.into_pg(),
            (*path).indexorderbys,
            (*path).indexorderbycols,
            pathkeys,
            pg_sys::ScanDirection::ForwardScanDirection,
            false,
            null_mut(),
            1.0,
            false,
        )
    }
}

/// Conditions on the columns beside the vector that the planner has not found.
///
/// # Safety
/// A path of this table's.
unsafe fn column_clauses(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    path: *mut pg_sys::IndexPath,
) -> Vec<*mut pg_sys::IndexClause> {
    // SAFETY: the caller's promise.
    unsafe {
        let index = (*path).indexinfo;
        let known = PgList::<pg_sys::IndexClause>::from_pg((*path).indexclauses);
        let known: Vec<*mut pg_sys::RestrictInfo> = known.iter_ptr().map(|clause| (*clause).rinfo).collect();
        let mut found = Vec::new();
        for condition in PgList::<pg_sys::RestrictInfo>::from_pg((*table).baserestrictinfo).iter_ptr() {
            // One that has to wait for a policy's conditions, as its operator may tell of the rows that it looks at.
            if !pg_sys::restriction_is_securely_promotable(condition, table) {
                continue;
            }
            for column in 1..(*index).nkeycolumns {
                if known.contains(&condition) {
                    break;
                }
                let qual = if is_of_array(index, column, condition) {
                    Some(condition)
                } else {
                    truth(index, column, (*condition).clause.cast())
                        .map(|qual| restriction(root, qual, condition))
                };
                if let Some(qual) = qual {
                    found.push(clause(condition, qual, column, false));
                    break;
                }
            }
        }
        found
    }
}

/// Whether a condition is `column <operator> ANY (array)`.
///
/// # Safety
/// A condition on the index's table, and a key column of the index.
unsafe fn is_of_array(
    index: *mut pg_sys::IndexOptInfo,
    column: i32,
    condition: *const pg_sys::RestrictInfo,
) -> bool {
    // SAFETY: the caller's promise; the tag tells a node's type.
    unsafe {
        let clause = (*condition).clause;
        if !is_a(clause.cast(), pg_sys::NodeTag::T_ScalarArrayOpExpr) {
            return false;
        }
        let clause = clause.cast::<pg_sys::ScalarArrayOpExpr>();
        let arguments = PgList::<pg_sys::Node>::from_pg((*clause).args);
        let (Some(operand), Some(array)) = (arguments.get_ptr(0), arguments.get_ptr(1)) else {
            return false;
        };
        let family = *(*index).opfamily.add(column as usize);
        let collation = *(*index).indexcollations.add(column as usize);
        (*clause).useOr
            && pg_sys::match_index_to_operand(operand, column, index)
            && pg_sys::op_in_opfamily((*clause).opno, family)
            && (collation == pg_sys::InvalidOid || collation == (*clause).inputcollid)
            && !pg_sys::contain_var_clause(array)
            && !pg_sys::contain_volatile_functions(array)
    }
}

/// What `column`, `NOT column`, `column IS TRUE` or `column IS FALSE` say as an equation.
///
/// # Safety
/// A condition on the index's table, and a key column of the index.
unsafe fn truth(
    index: *mut pg_sys::IndexOptInfo,
    column: i32,
    condition: *mut pg_sys::Node,
) -> Option<*mut pg_sys::Expr> {
    // SAFETY: the caller's promise; the tag tells a node's type.
    unsafe {
        let equality = pg_sys::Oid::from(pg_sys::BooleanEqualOperator);
        if !pg_sys::op_in_opfamily(equality, *(*index).opfamily.add(column as usize)) {
            return None;
        }
        let (operand, value) = if pg_sys::match_index_to_operand(condition, column, index) {
            (condition, true)
        } else if is_a(condition, pg_sys::NodeTag::T_BoolExpr)
            && (*condition.cast::<pg_sys::BoolExpr>()).boolop == pg_sys::BoolExprType::NOT_EXPR
        {
            let arguments = PgList::<pg_sys::Node>::from_pg((*condition.cast::<pg_sys::BoolExpr>()).args);
            (arguments.get_ptr(0)?, false)
        } else if is_a(condition, pg_sys::NodeTag::T_BooleanTest) {
            let test = condition.cast::<pg_sys::BooleanTest>();
            let value = match (*test).booltesttype {
                pg_sys::BoolTestType::IS_TRUE => true,
                pg_sys::BoolTestType::IS_FALSE => false,
                _ => return None,
            };
            ((*test).arg.cast(), value)
        } else {
            return None;
        };
        if !pg_sys::match_index_to_operand(operand, column, index) {
            return None;
        }
        let none = pg_sys::InvalidOid;
        let value = pg_sys::makeBoolConst(value, false);
        let qual =
            pg_sys::make_opclause(equality, pg_sys::BOOLOID, false, operand.cast(), value.cast(), none, none);
        pg_sys::set_opfuncid(qual.cast());
        Some(qual)
    }
}

/// A condition of an index: `written` is what the query says, and `qual` what the scan gets. If it is lossy, the query's is
/// checked, too.
///
/// # Safety
/// Conditions of one table.
pub unsafe fn clause(
    written: *mut pg_sys::RestrictInfo,
    qual: *mut pg_sys::RestrictInfo,
    column: i32,
    lossy: bool,
) -> *mut pg_sys::IndexClause {
    // SAFETY: the caller's promise; a new node is zeros but for its tag.
    unsafe {
        let mut quals = PgList::<pg_sys::RestrictInfo>::new();
        quals.push(qual);
        let mut clause = PgBox::<pg_sys::IndexClause>::alloc_node(pg_sys::NodeTag::T_IndexClause);
        clause.rinfo = written;
        clause.indexquals = quals.into_pg();
        clause.lossy = lossy;
        clause.indexcol = column as pg_sys::AttrNumber;
        clause.into_pg()
    }
}

/// A condition that follows from `source`.
///
/// # Safety
/// A condition of the table that `source` is one of.
pub unsafe fn restriction(
    root: *mut pg_sys::PlannerInfo,
    clause: *mut pg_sys::Expr,
    source: *const pg_sys::RestrictInfo,
) -> *mut pg_sys::RestrictInfo {
    // SAFETY: the caller's promise.
    unsafe {
        let (level, relids, none) = ((*source).security_level, (*source).required_relids, null_mut());
        #[cfg(feature = "pg15")]
        return pg_sys::make_restrictinfo(root, clause, true, false, false, level, relids, none, none);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::make_restrictinfo(root, clause, true, false, false, false, level, relids, none, none);
    }
}
