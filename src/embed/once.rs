//! A search text is embedded once, here, where the rows come from other servers.
//!
//! postgres_fdw lets the other server sort only by what both compute alike, which it takes from no STABLE function: with
//! `ORDER BY embedding <=> embed('text')` it would fetch every row. A parameter it does pass on. So the call becomes what
//! a user could write by hand, `(SELECT embed('text'))`: the planner makes it a parameter that is computed before the first row.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use pgrx::{PgBox, PgList, is_a, pg_guard, pg_sys};

/// What stands for `call` in a query of foreign tables; `None` where nothing is to be gained, or it would do harm.
///
/// # Safety
/// The planner is simplifying `call`, of a STRICT function whose arguments it has simplified, for `root`, or for no query
/// if that is null.
pub unsafe fn before_the_scan(
    root: *mut pg_sys::PlannerInfo,
    call: *mut pg_sys::FuncExpr,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the caller's promise.
    unsafe {
        if root.is_null() || !is_known_before((*call).args) {
            return None;
        }
        // The planner looks for subqueries in an expression after it has simplified it, and not again later, when it
        // has begun to work on relations.
        let query = (*root).parse;
        if !(*root).simple_rel_array.is_null()
            || compares_expressions(query)
            || !reads_foreign_table(query)
            || has_exists(root)
            || is_in_from((*query).rtable, (*call).funcid)
        {
            return None;
        }
        (*query).hasSubLinks = true;
        Some(subquery(call))
    }
}

/// Whether all that the arguments depend on are constants and the statement's own parameters.
///
/// # Safety
/// A list of expressions.
unsafe fn is_known_before(arguments: *mut pg_sys::List) -> bool {
    // SAFETY: the caller's promise; the tag tells a node's type.
    unsafe {
        PgList::<pg_sys::Node>::from_pg(arguments).iter_ptr().all(|argument| {
            is_a(argument, pg_sys::NodeTag::T_Const)
                || is_a(argument, pg_sys::NodeTag::T_Param)
                    && (*argument.cast::<pg_sys::Param>()).paramkind == pg_sys::ParamKind::PARAM_EXTERN
        })
    }
}

/// Whether the query may have the call twice and need to see that both are the same, as for `GROUP BY` and what is
/// selected. Two subqueries never are.
///
/// # Safety
/// A query.
unsafe fn compares_expressions(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the caller's promise.
    let query = unsafe { &*query };
    query.hasAggs
        || query.hasWindowFuncs
        || !query.groupClause.is_null()
        || !query.groupingSets.is_null()
        || !query.distinctClause.is_null()
        || !query.setOperations.is_null()
        || !query.havingQual.is_null()
}

/// # Safety
/// A query whose tables are locked.
unsafe fn reads_foreign_table(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the caller's promise; a range table has entries of this type, counted from 1.
    unsafe {
        let written = match (*query).commandType {
            pg_sys::CmdType::CMD_INSERT => (*query).resultRelation,
            _ => 0,
        };
        PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr().zip(1..).any(
            |(entry, number)| {
                number != written
                    && (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
                    && is_foreign((*entry).relid, (*entry).relkind as u8)
            },
        )
    }
}

/// Whether a table, or one of its partitions, is a foreign table. Partitions of partitions are not looked at, as one would
/// have to wait for their locks.
///
/// # Safety
/// A relation that is locked, and its kind.
unsafe fn is_foreign(relation: pg_sys::Oid, kind: u8) -> bool {
    if kind != pg_sys::RELKIND_PARTITIONED_TABLE {
        return kind == pg_sys::RELKIND_FOREIGN_TABLE;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let partitions = &*pg_sys::RelationGetPartitionDesc(opened, true);
        let count = partitions.nparts as usize;
        let oids = if count == 0 { &[][..] } else { std::slice::from_raw_parts(partitions.oids, count) };
        let foreign =
            oids.iter().any(|&oid| pg_sys::get_rel_relkind(oid) as u8 == pg_sys::RELKIND_FOREIGN_TABLE);
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        foreign
    }
}

/// Whether the query has an EXISTS: the planner simplifies what is in there for the outer query, and would look in vain for
/// subqueries of the inner one.
///
/// # Safety
/// The planner's, of a query whose expressions it is simplifying.
unsafe fn has_exists(root: *mut pg_sys::PlannerInfo) -> bool {
    let flags = pg_sys::QTW_IGNORE_RT_SUBQUERIES | pg_sys::QTW_IGNORE_CTE_SUBQUERIES;
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::query_tree_walker((*root).parse, Some(is_exists), null_mut(), flags as c_int)
            // What the members of a UNION ALL select has moved there.
            || is_exists((*root).append_rel_list.cast(), null_mut())
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn is_exists(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: the walker passes nodes of the query; the tag tells a node's type.
    unsafe {
        if node.is_null() || is_a(node, pg_sys::NodeTag::T_Query) {
            return false;
        }
        let exists = is_a(node, pg_sys::NodeTag::T_SubLink)
            && (*node.cast::<pg_sys::SubLink>()).subLinkType == pg_sys::SubLinkType::EXISTS_SUBLINK;
        exists || pg_sys::expression_tree_walker(node, Some(is_exists), context)
    }
}

/// Whether a function in FROM has such a call among its arguments: with a subquery there, Postgres would not inline it.
///
/// # Safety
/// A query's range table.
unsafe fn is_in_from(entries: *mut pg_sys::List, function: pg_sys::Oid) -> bool {
    let mut function = function;
    // SAFETY: the caller's promise; the walker reads the context only.
    unsafe {
        PgList::<pg_sys::RangeTblEntry>::from_pg(entries).iter_ptr().any(|entry| {
            (*entry).rtekind == pg_sys::RTEKind::RTE_FUNCTION
                && is_call((*entry).functions.cast(), (&raw mut function).cast())
        })
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn is_call(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: the walker passes nodes of the query, and the context that it was given.
    unsafe {
        if node.is_null() {
            return false;
        }
        let found = is_a(node, pg_sys::NodeTag::T_FuncExpr)
            && (*node.cast::<pg_sys::FuncExpr>()).funcid == *context.cast::<pg_sys::Oid>();
        found || pg_sys::expression_tree_walker(node, Some(is_call), context)
    }
}

/// `(SELECT call)`
///
/// # Safety
/// An expression that refers to no table.
unsafe fn subquery(call: *mut pg_sys::FuncExpr) -> *mut pg_sys::Node {
    // SAFETY: nodes are made in the planner's memory context; the call is copied, as the planner may change it.
    unsafe {
        let expression = pg_sys::copyObjectImpl(call.cast()).cast::<pg_sys::Expr>();
        let mut query = PgBox::<pg_sys::Query>::alloc_node(pg_sys::NodeTag::T_Query);
        query.commandType = pg_sys::CmdType::CMD_SELECT;
        query.canSetTag = true;
        query.jointree = pg_sys::makeFromExpr(null_mut(), null_mut());
        let mut selected = PgList::<pg_sys::TargetEntry>::new();
        selected.push(pg_sys::makeTargetEntry(expression, 1, c"embed".as_ptr().cast_mut(), false));
        query.targetList = selected.into_pg();
        let mut link = PgBox::<pg_sys::SubLink>::alloc_node(pg_sys::NodeTag::T_SubLink);
        link.subLinkType = pg_sys::SubLinkType::EXPR_SUBLINK;
        link.subselect = query.into_pg().cast();
        link.location = (*call).location;
        link.into_pg().cast()
    }
}
