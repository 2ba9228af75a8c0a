//! `amvalidate`: whether an operator class is one that this access method can use.

use pgrx::pg_sys::SysCacheIdentifier::{AMOPSTRATEGY, AMPROCNUM, CLAOID};
use pgrx::{pg_guard, pg_sys};

use super::{columns, owned};

/// `float_ops` of btree (pg_opfamily.dat): distances are sorted as float8.
pub const FLOAT_BTREE_FAMILY: u32 = 1970;

/// The strategy of `=` on columns beside the vector.
const EQUALITY: u16 = pg_sys::BTEqualStrategyNumber as u16;

/// `amvalidate`; says in INFO messages what is wrong, as Postgres's own access methods do.
#[pg_guard]
pub unsafe extern "C-unwind" fn validate(opclass: pg_sys::Oid) -> bool {
    let mut problems = Vec::new();
    // SAFETY: reads the catalog.
    unsafe { find_problems(opclass, &mut problems) };
    for problem in &problems {
        pgrx::info!("{problem}");
    }
    problems.is_empty()
}

/// # Safety
/// Called in a transaction.
unsafe fn find_problems(opclass: pg_sys::Oid, problems: &mut Vec<String>) {
    // SAFETY: rows of the system caches have the structs of their catalogs, and are held until they are released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(CLAOID as i32, opclass.into());
        if tuple.is_null() {
            problems.push(format!("operator class {opclass} does not exist"));
            return;
        }
        let class = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_opclass>();
        let name = owned((*class).opcname.data.as_ptr());
        let (family, input) = ((*class).opcfamily, (*class).opcintype);
        if (*class).opckeytype != pg_sys::InvalidOid {
            problems.push(format!("operator class \"{name}\" of access method ivf has a storage type"));
        }
        pg_sys::ReleaseSysCache(tuple);

        let say = |what: String| format!("operator family \"{name}\" of access method ivf contains {what}");
        let has = |function: u16| {
            pg_sys::get_opfamily_proc(family, input, input, function as i16) != pg_sys::InvalidOid
        };
        let has_hash = has(super::HASH_FUNCTION);
        // Else of columns beside the vector.
        let is_vector = !has_hash && !columns::has_order(input);
        for_each_member(AMOPSTRATEGY, family, |operator: &pg_sys::FormData_pg_amop| {
            let shown = owned(pg_sys::format_operator(operator.amopopr));
            let mut sides = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            pg_sys::op_input_types(operator.amopopr, &mut sides.0, &mut sides.1);
            let types = (operator.amoplefttype, operator.amoprighttype);
            let result = pg_sys::get_op_rettype(operator.amopopr);
            let wrong = match (operator.amopstrategy as u16, operator.amoppurpose as u8) {
                (super::DISTANCE_STRATEGY, pg_sys::AMOP_ORDER) if is_vector => {
                    if operator.amopsortfamily != pg_sys::Oid::from(FLOAT_BTREE_FAMILY) {
                        problems.push(say(format!("operator {shown} which is not sorted by float_ops")));
                    }
                    types != (input, input) || result != pg_sys::FLOAT8OID
                }
                (super::DISTANCE_STRATEGY, _) if is_vector => {
                    problems.push(say(format!("operator {shown} which is not for ordering")));
                    false
                }
                (super::WITHIN_STRATEGY, pg_sys::AMOP_SEARCH) if is_vector => {
                    types.0 != input || result != pg_sys::BOOLOID
                }
                // Those of a btree, on columns beside the vector.
                (number @ 1..=5, pg_sys::AMOP_SEARCH) if !is_vector => {
                    if has_hash && number != EQUALITY {
                        problems.push(say(format!("operator {shown} which a hash cannot answer")));
                    }
                    let right = if has_hash { types.1 == input } else { columns::has_order(types.1) };
                    types.0 != input && has_hash || !right || result != pg_sys::BOOLOID
                }
                (number, _) if number == super::WITHIN_STRATEGY || !is_vector && number <= 5 => {
                    problems.push(say(format!("operator {shown} which is not for searching")));
                    false
                }
                (number, _) => {
                    problems.push(say(format!("operator {shown} with invalid strategy number {number}")));
                    false
                }
            };
            if wrong || sides != types {
                problems.push(say(format!("operator {shown} with wrong signature")));
            }
        });
        for_each_member(AMPROCNUM, family, |function: &pg_sys::FormData_pg_amproc| {
            let shown = owned(pg_sys::format_procedure(function.amproc));
            let (result, arguments) =
                (pg_sys::get_func_rettype(function.amproc), pg_sys::get_func_nargs(function.amproc));
            let right = match function.amprocnum as u16 {
                super::METRIC_FUNCTION => (result, arguments) == (pg_sys::INT4OID, 0),
                super::HASH_FUNCTION => (result, arguments) == (pg_sys::INT8OID, 2),
                number => {
                    problems.push(say(format!("function {shown} with invalid support number {number}")));
                    true
                }
            };
            if !right {
                let number = function.amprocnum;
                problems
                    .push(say(format!("function {shown} with wrong signature for support number {number}")));
            }
        });
        let (needed, what) = if is_vector { (super::DISTANCE_STRATEGY, "1") } else { (EQUALITY, "3") };
        if pg_sys::get_opfamily_member(family, input, input, needed as i16) == pg_sys::InvalidOid {
            problems
                .push(format!("operator class \"{name}\" of access method ivf is missing operator {what}"));
        }
        if is_vector && !has(super::METRIC_FUNCTION) {
            problems.push(format!(
                "operator class \"{name}\" of access method ivf is missing support function 1"
            ));
        }
    }
}

/// Visits what a system cache has of an operator family.
///
/// # Safety
/// The cache's first key is the family, and its rows are of type `T`.
pub unsafe fn for_each_member<T>(
    cache: pg_sys::SysCacheIdentifier::Type,
    family: pg_sys::Oid,
    mut each: impl FnMut(&T),
) {
    let none = pg_sys::Datum::null();
    // SAFETY: the caller's promise; the list is held until it is released.
    unsafe {
        let list = pg_sys::SearchSysCacheList(cache as i32, 1, family.into(), none, none);
        for &member in (*list).members.as_slice((*list).n_members as usize) {
            each(&*pg_sys::GETSTRUCT(&mut (*member).tuple).cast::<T>());
        }
        pg_sys::ReleaseCatCacheList(list);
    }
}
