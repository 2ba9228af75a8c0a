//! `WHERE distance < number ORDER BY distance`: a scan need not go on beyond the number.
//!
//! Postgres offers an index conditions of the form "column operator value", and this is none of them. So one is added to the
//! paths that are ordered by the distance: `column <<=>> ROW(vector, number, true)`, "within this sphere".
//! The condition that was written stays as a filter, and what the index makes of the other can only leave out rows that the
//! filter would.

use std::ffi::c_char;

use pgrx::pg_sys::SysCacheIdentifier::AMOPSTRATEGY;
use pgrx::{PgBox, PgList, is_a, pg_sys};

use super::validate::{FLOAT_BTREE_FAMILY, for_each_member};
use super::{WITHIN_STRATEGY, paths};
use crate::vector::Vector;

/// The largest c in `c - distance` that is looked into: no number minus it overflows.
pub const LARGEST_CONSTANT: f64 = 1e3;

/// Whether the conditions that were added are known to be of the distance that the path is ordered by. Two parameters may
/// turn out to be different.
///
/// # Safety
/// A path with such conditions.
pub unsafe fn is_sure(path: *const pg_sys::IndexPath) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(order) = PgList::<pg_sys::OpExpr>::from_pg((*path).indexorderbys).get_ptr(0) else {
            return false;
        };
        let Some((_, query)) = sides(order) else { return false };
        let clauses = PgList::<pg_sys::IndexClause>::from_pg((*path).indexclauses);
        clauses.iter_ptr().filter(|&clause| is_distance(clause)).all(|clause| {
            let quals = PgList::<pg_sys::RestrictInfo>::from_pg((*clause).indexquals);
            let sphere = quals.get_ptr(0).and_then(|qual| sides((*qual).clause.cast()));
            sphere.is_some_and(|(_, row)| {
                is_a(row, pg_sys::NodeTag::T_RowExpr)
                    && PgList::<pg_sys::Node>::from_pg((*row.cast::<pg_sys::RowExpr>()).args)
                        .get_ptr(0)
                        .is_some_and(|center| pg_sys::equal(center.cast(), query.cast()))
            })
        })
    }
}

/// Whether a condition is one of [`clauses`]: the only operators on the vector that an index is searched by.
///
/// # Safety
/// A condition of an index of ours.
pub unsafe fn is_distance(clause: *const pg_sys::IndexClause) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let quals = PgList::<pg_sys::RestrictInfo>::from_pg((*clause).indexquals);
        (*clause).indexcol == 0
            && quals.get_ptr(0).is_some_and(|qual| is_a((*qual).clause.cast(), pg_sys::NodeTag::T_OpExpr))
    }
}

/// The vector that a path's distances are measured from and the number that none is to exceed, as far as the planner can know
/// them.
///
/// # Safety
/// A path that [is sure](is_sure) of its conditions.
pub unsafe fn known(
    root: *mut pg_sys::PlannerInfo,
    path: *const pg_sys::IndexPath,
) -> Option<(Vec<f32>, f64)> {
    // SAFETY: the caller's promise; `clauses` has made a row of a vector and a float8 for each.
    unsafe {
        let mut known: Option<(Vec<f32>, f64)> = None;
        let clauses = PgList::<pg_sys::IndexClause>::from_pg((*path).indexclauses);
        for clause in clauses.iter_ptr().filter(|&clause| is_distance(clause)) {
            let qual = PgList::<pg_sys::RestrictInfo>::from_pg((*clause).indexquals).get_ptr(0)?;
            let (_, row) = sides((*qual).clause.cast())?;
            let fields = PgList::<pg_sys::Node>::from_pg((*row.cast::<pg_sys::RowExpr>()).args);
            let value = |field| {
                let value = pg_sys::estimate_expression_value(root, fields.get_ptr(field)?);
                let is_known = is_a(value, pg_sys::NodeTag::T_Const);
                let value = value.cast::<pg_sys::Const>();
                (is_known && !(*value).constisnull).then(|| (*value).constvalue)
            };
            let (center, radius) = (value(0)?, f64::from_bits(value(1)?.value() as u64));
            let least = known.map_or(f64::INFINITY, |(_, least)| least);
            known = Some((Vector::detoast(center).to_vec(), least.min(radius)));
        }
        known
    }
}

/// The conditions on the distance that the path is ordered by.
///
/// # Safety
/// A path of this table's, ordered by a distance.
pub unsafe fn clauses(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    path: *mut pg_sys::IndexPath,
) -> Vec<*mut pg_sys::IndexClause> {
    let mut clauses = Vec::new();
    // SAFETY: the caller's promise. The planner puts the index's column on the left side of an ordering operator.
    unsafe {
        let index = (*path).indexinfo;
        let order = PgList::<pg_sys::OpExpr>::from_pg((*path).indexorderbys).get_ptr(0);
        let query = order.and_then(|order| sides(order));
        let (Some(order), Some((_, query)), Some((within, sphere))) =
            (order, query, within_operator(*(*index).opfamily))
        else {
            return clauses;
        };
        let distance = Distance { index, operator: (*order).opno, query };
        if !may_execute(pg_sys::get_opcode(within)) {
            return clauses;
        }
        for condition in PgList::<pg_sys::RestrictInfo>::from_pg((*table).baserestrictinfo).iter_ptr() {
            let Some((operand, center, radius)) = distance.bound((*condition).clause.cast()) else {
                continue;
            };
            let mut row = PgBox::<pg_sys::RowExpr>::alloc_node(pg_sys::NodeTag::T_RowExpr);
            let mut fields = PgList::<pg_sys::Node>::new();
            fields.push(center);
            fields.push(radius);
            fields.push(pg_sys::makeBoolConst(true, false));
            row.args = fields.into_pg();
            row.row_typeid = sphere;
            row.row_format = pg_sys::CoercionForm::COERCE_EXPLICIT_CAST;
            row.location = -1;
            let none = pg_sys::InvalidOid;
            let row = row.into_pg().cast();
            let qual = pg_sys::make_opclause(within, pg_sys::BOOLOID, false, operand.cast(), row, none, none);
            pg_sys::set_opfuncid(qual.cast());
            clauses.push(paths::clause(condition, paths::restriction(root, qual, condition), 0, true));
        }
    }
    clauses
}

/// What a scan is ordered by.
struct Distance {
    index: *mut pg_sys::IndexOptInfo,
    operator: pg_sys::Oid,
    query: *mut pg_sys::Node,
}

impl Distance {
    /// What a condition says of the distance: the index's column, the vector that it is measured from, and the number that
    /// it cannot exceed, as float8.
    ///
    /// # Safety
    /// A condition of a query on the index's table.
    unsafe fn bound(
        &self,
        clause: *mut pg_sys::Node,
    ) -> Option<(*mut pg_sys::Node, *mut pg_sys::Node, *mut pg_sys::Node)> {
        // SAFETY: the caller's promise.
        unsafe {
            if !is_a(clause, pg_sys::NodeTag::T_OpExpr) {
                return None;
            }
            let comparison = clause.cast::<pg_sys::OpExpr>();
            let (left, right) = sides(comparison)?;
            let family = pg_sys::Oid::from(FLOAT_BTREE_FAMILY);
            let strategy = pg_sys::get_op_opfamily_strategy((*comparison).opno, family) as u32;
            let (small, large) = match strategy {
                pg_sys::BTLessStrategyNumber | pg_sys::BTLessEqualStrategyNumber => (left, right),
                pg_sys::BTGreaterStrategyNumber | pg_sys::BTGreaterEqualStrategyNumber => (right, left),
                _ => return None,
            };
            // Either the distance is on the small side, or what shrinks as it grows is on the large one.
            match self.solve(small, large, true) {
                None => self.solve(large, small, false),
                found => found,
            }
        }
    }

    /// Of `expression <= limit` if `below`, else of `expression >= limit`.
    ///
    /// # Safety
    /// As for [`Distance::bound`].
    unsafe fn solve(
        &self,
        expression: *mut pg_sys::Node,
        limit: *mut pg_sys::Node,
        below: bool,
    ) -> Option<(*mut pg_sys::Node, *mut pg_sys::Node, *mut pg_sys::Node)> {
        // SAFETY: the caller's promise; the tag tells a node's type.
        unsafe {
            if !is_a(expression, pg_sys::NodeTag::T_OpExpr)
                || pg_sys::contain_var_clause(limit)
                || pg_sys::contain_volatile_functions(limit)
            {
                return None;
            }
            let operation = expression.cast::<pg_sys::OpExpr>();
            if below && let Some((operand, center)) = self.is_measured_by(operation) {
                return Some((operand, center, as_float8(limit)?));
            }
            let limit = as_float8(limit)?;
            pg_sys::set_opfuncid(operation);
            match (*operation).opfuncid.to_u32() {
                pg_sys::F_FLOAT8UM => {
                    let inner = PgList::<pg_sys::Node>::from_pg((*operation).args).get_ptr(0)?;
                    self.solve(inner, call(pg_sys::F_FLOAT8UM, &[limit]), !below)
                }
                pg_sys::F_FLOAT8MUL => {
                    let (left, right) = sides(operation)?;
                    let inner = match (constant(left), constant(right)) {
                        (Some(-1.0), _) => right,
                        (_, Some(-1.0)) => left,
                        _ => return None,
                    };
                    self.solve(inner, call(pg_sys::F_FLOAT8UM, &[limit]), !below)
                }
                pg_sys::F_FLOAT8MI => {
                    let (whole, inner) = sides(operation)?;
                    constant(whole).filter(|whole| whole.abs() <= LARGEST_CONSTANT)?;
                    self.solve(inner, call(pg_sys::F_FLOAT8MI, &[whole, limit]), !below)
                }
                _ => None,
            }
        }
    }

    /// If this is the distance, the index's column and the vector it is measured from. Two parameters may be equal when the
    /// query runs: the scan sees to that.
    ///
    /// # Safety
    /// As for [`Distance::bound`].
    unsafe fn is_measured_by(
        &self,
        operation: *mut pg_sys::OpExpr,
    ) -> Option<(*mut pg_sys::Node, *mut pg_sys::Node)> {
        // SAFETY: the caller's promise.
        unsafe {
            let operator = (*operation).opno;
            if operator != self.operator && pg_sys::get_commutator(operator) != self.operator {
                return None;
            }
            let (left, right) = sides(operation)?;
            let (operand, center) = if pg_sys::match_index_to_operand(left, 0, self.index) {
                (left, right)
            } else if pg_sys::match_index_to_operand(right, 0, self.index) {
                (right, left)
            } else {
                return None;
            };
            let parameters =
                is_a(center, pg_sys::NodeTag::T_Param) && is_a(self.query, pg_sys::NodeTag::T_Param);
            let same = parameters || pg_sys::equal(center.cast(), self.query.cast());
            same.then_some((operand, center))
        }
    }
}

/// Both sides of a binary operator.
///
/// # Safety
/// An operator's expression.
unsafe fn sides(operation: *mut pg_sys::OpExpr) -> Option<(*mut pg_sys::Node, *mut pg_sys::Node)> {
    // SAFETY: the caller's promise.
    let arguments = unsafe { PgList::<pg_sys::Node>::from_pg((*operation).args) };
    Some((arguments.get_ptr(0)?, arguments.get_ptr(1)?))
}

/// The value of a float8 that is known.
///
/// # Safety
/// An expression.
unsafe fn constant(expression: *mut pg_sys::Node) -> Option<f64> {
    // SAFETY: the caller's promise; the tag tells a node's type, and the type the datum.
    unsafe {
        let constant = expression.cast::<pg_sys::Const>();
        let known = is_a(expression, pg_sys::NodeTag::T_Const)
            && (*constant).consttype == pg_sys::FLOAT8OID
            && !(*constant).constisnull;
        known.then(|| f64::from_bits((*constant).constvalue.value() as u64))
    }
}

/// # Safety
/// An expression, of a type that the comparison of floats takes.
unsafe fn as_float8(expression: *mut pg_sys::Node) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise.
    unsafe {
        match pg_sys::exprType(expression) {
            pg_sys::FLOAT8OID => Some(expression),
            pg_sys::FLOAT4OID => Some(call(pg_sys::F_FLOAT8_FLOAT4, &[expression])),
            _ => None,
        }
    }
}

/// A call of a function of Postgres's own that returns float8.
///
/// # Safety
/// Arguments as the function wants them.
unsafe fn call(function: u32, arguments: &[*mut pg_sys::Node]) -> *mut pg_sys::Node {
    let mut list = PgList::<pg_sys::Node>::new();
    arguments.iter().for_each(|&argument| list.push(argument));
    let none = pg_sys::InvalidOid;
    let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::makeFuncExpr(function.into(), pg_sys::FLOAT8OID, list.into_pg(), none, none, form).cast()
    }
}

/// The operator of a family that says "within a sphere", and the type of the sphere. A class that somebody made himself may
/// have none.
///
/// # Safety
/// A family of this access method.
unsafe fn within_operator(family: pg_sys::Oid) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    let mut found = None;
    // SAFETY: the caller's promise; the catalog's rows are of this type.
    unsafe {
        for_each_member(AMOPSTRATEGY, family, |operator: &pg_sys::FormData_pg_amop| {
            if operator.amopstrategy == WITHIN_STRATEGY as i16
                && operator.amoppurpose == pg_sys::AMOP_SEARCH as c_char
            {
                found = Some((operator.amopopr, operator.amoprighttype));
            }
        });
    }
    found
}

/// Whether the user may call a function: the executor asks before it prepares the condition.
fn may_execute(function: pg_sys::Oid) -> bool {
    let right = pg_sys::ACL_EXECUTE as pg_sys::AclMode;
    // SAFETY: asks the catalog about a function that exists.
    unsafe {
        let user = pg_sys::GetUserId();
        #[cfg(feature = "pg15")]
        let result = pg_sys::pg_proc_aclcheck(function, user, right);
        #[cfg(not(feature = "pg15"))]
        let result = pg_sys::object_aclcheck(pg_sys::ProcedureRelationId, function, user, right);
        result == pg_sys::AclResult::ACLCHECK_OK
    }
}
