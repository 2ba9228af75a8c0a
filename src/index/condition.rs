//! Queries with a condition for `ivf_recall`, run with the rights of whoever asks: the text of the condition becomes an
//! expression on the table, and only as such a part of a query.

use std::ffi::{CStr, CString, c_char};
use std::ptr::null_mut;

use pgrx::{PgList, is_a, pg_sys};

use super::inspect::Opened;
use super::{COLUMN, distance_operator, is_on_expression, name_of, recall};
use crate::error::{Error, IvfError, OrRaise};
use crate::spi::{operator, under};

/// Searches under a condition: what they are made of, as SQL in the database's encoding.
pub struct Filtered {
    index: pg_sys::Oid,
    name: String,
    /// The indexed vector.
    vector: CString,
    operator: CString,
    type_: CString,
    table: CString,
    /// Of the rows that the index has, if it is a partial one.
    predicate: CString,
    condition: CString,
}

type Settings = [(&'static CStr, &'static CStr); 4];

/// The settings under which a query is answered by the index, and by looking at every row.
const BY_INDEX: Settings = [
    (c"enable_indexscan", c"on"),
    (c"enable_seqscan", c"off"),
    (c"enable_bitmapscan", c"off"),
    (c"enable_sort", c"off"),
];
const BY_SORTING: Settings = [
    (c"enable_indexscan", c"off"),
    (c"enable_seqscan", c"on"),
    (c"enable_bitmapscan", c"on"),
    (c"enable_sort", c"on"),
];

impl Filtered {
    /// # Errors
    /// The text is not one expression; what Postgres's parser says of it is an ERROR. Or the queries would hold expressions
    /// of the table's owner, which are not run with the rights of another user.
    ///
    /// # Safety
    /// `opened` stays open.
    pub unsafe fn of(opened: &Opened, condition: &CStr) -> Result<Filtered, Error> {
        // SAFETY: the caller's promise; an index has an operator family for its column.
        unsafe {
            let (index, table) = (opened.index, opened.table);
            let alias = (*(*table).rd_rel).relname.data.as_ptr();
            let schema = pg_sys::get_namespace_name((*(*table).rd_rel).relnamespace);
            let context = pg_sys::deparse_context_for(alias, (*table).rd_id);
            let sql = |expression| copied(pg_sys::deparse_expression(expression, context, true, false));
            let predicate = pg_sys::RelationGetIndexPredicate(index);
            if (is_on_expression(index) || !predicate.is_null())
                && (*(*table).rd_rel).relowner != pg_sys::GetUserId()
            {
                return Err(IvfError::NotTheOwner { name: name_of(index) }.into());
            }
            let condition = sql(expression(table, condition)?);
            let predicate = match predicate.is_null() {
                true => c"true".to_owned(),
                false => sql(pg_sys::make_ands_explicit(predicate).cast()),
            };
            let vector = pg_sys::OidFunctionCall3Coll(
                pg_sys::F_PG_GET_INDEXDEF_OID_INT4_BOOL.into(),
                pg_sys::InvalidOid,
                (*index).rd_id.into(),
                (COLUMN as i32).into(),
                false.into(),
            );
            Ok(Filtered {
                index: (*index).rd_id,
                name: name_of(index),
                vector: copied(pg_sys::text_to_cstring(vector.cast_mut_ptr())),
                operator: CString::new(operator(distance_operator(index))).unwrap_or_default(),
                type_: copied(pg_sys::format_type_be_qualified(*(*index).rd_opcintype)),
                table: join(&[
                    &copied(pg_sys::quote_qualified_identifier(schema, alias)),
                    c" AS ",
                    &copied(pg_sys::quote_identifier(alias)),
                ]),
                predicate,
                condition,
            })
        }
    }

    /// As `ivf_recall` has it, of queries that are rows which the current user may see.
    pub fn recall(&self, k: usize, sample: usize) -> Result<Option<f64>, Error> {
        let mut shares = Vec::new();
        for query in self.sample(sample)? {
            pgrx::check_for_interrupts!();
            let sql = self.search(&query, k);
            let exact = under(&BY_SORTING, || self.distances(&sql, false).or_raise());
            // No row satisfies the condition, which the planner may know; or a zero vector has no distances.
            if exact.is_empty() {
                continue;
            }
            let found = under(&BY_INDEX, || self.distances(&sql, true).or_raise());
            shares.extend(recall::share(&exact, &found));
        }
        Ok(recall::mean(&shares))
    }

    /// The vectors of rows, as text: always the same ones, in the order of a hash.
    fn sample(&self, rows: usize) -> Result<Vec<CString>, Error> {
        let sql = join(&[
            c"SELECT (",
            &self.vector,
            c")::pg_catalog.text FROM ONLY ",
            &self.table,
            c" WHERE (",
            &self.predicate,
            c") AND (",
            &self.vector,
            c") IS NOT NULL ORDER BY pg_catalog.hashtid(ctid)",
            &ascii(format!(" LIMIT {rows}")),
        ]);
        // SAFETY: the column is a text.
        self.answer(&sql, false, |text| unsafe { copied(pg_sys::text_to_cstring(text.cast_mut_ptr())) })
    }

    /// Asks for the distances of the `k` nearest rows.
    fn search(&self, query: &CStr, k: usize) -> CString {
        join(&[
            c"SELECT (",
            &self.vector,
            c") ",
            &self.operator,
            c" '",
            query,
            c"'::",
            &self.type_,
            c" FROM ONLY ",
            &self.table,
            c" WHERE (",
            &self.predicate,
            c") AND (",
            &self.condition,
            &ascii(format!(") ORDER BY 1 LIMIT {k}")),
        ])
    }

    fn distances(&self, sql: &CStr, by_index: bool) -> Result<Vec<f64>, Error> {
        let distances = self.answer(sql, by_index, |datum| f64::from_bits(datum.value() as u64))?;
        // Rows without a distance are not in the index.
        Ok(distances.into_iter().filter(|distance| !distance.is_nan()).collect())
    }

    /// The values of a query's one column that are not NULL; `by_index`: they must be the index's.
    fn answer<T>(
        &self,
        sql: &CStr,
        by_index: bool,
        read: impl Fn(pg_sys::Datum) -> T,
    ) -> Result<Vec<T>, Error> {
        // SAFETY: SPI is used as its documentation says: connected, and what it returns is read before it is finished.
        unsafe {
            pg_sys::SPI_connect();
            let plan = pg_sys::SPI_prepare(sql.as_ptr(), 0, null_mut());
            if by_index {
                let cached = pg_sys::SPI_plan_get_cached_plan(plan);
                let statement = PgList::<pg_sys::PlannedStmt>::from_pg((*cached).stmt_list).get_ptr(0);
                let used = statement.is_some_and(|statement| reads((*statement).planTree, self.index));
                // The plan is not saved: no resource owner has it.
                pg_sys::ReleaseCachedPlan(cached, null_mut());
                if !used {
                    return Err(IvfError::NotUsed { name: self.name.clone() }.into());
                }
            }
            pg_sys::SPI_execute_plan(plan, null_mut(), null_mut(), true, 0);
            let table = pg_sys::SPI_tuptable;
            let rows = (0..(*table).numvals as usize).filter_map(|i| {
                let mut is_null = false;
                let datum = pg_sys::SPI_getbinval(*(*table).vals.add(i), (*table).tupdesc, 1, &mut is_null);
                (!is_null).then(|| read(datum))
            });
            let values = rows.collect();
            pg_sys::SPI_finish();
            Ok(values)
        }
    }
}

/// Whether a plan without joins reads this index.
///
/// # Safety
/// A plan, or null.
unsafe fn reads(mut plan: *mut pg_sys::Plan, index: pg_sys::Oid) -> bool {
    // SAFETY: the caller's promise; the tag tells a node's type.
    unsafe {
        while !plan.is_null() {
            if is_a(plan.cast(), pg_sys::NodeTag::T_IndexScan) {
                return (*plan.cast::<pg_sys::IndexScan>()).indexid == index;
            }
            plan = (*plan).lefttree;
        }
        false
    }
}

/// What a text says as an expression on the table, of type boolean.
///
/// # Safety
/// `table` is open.
unsafe fn expression(table: pg_sys::Relation, text: &CStr) -> Result<*mut pg_sys::Node, Error> {
    // SAFETY: the caller's promise; the parser returns statements of this type, and reads more than an expression in this
    // mode: nothing else may be there.
    unsafe {
        let parsed = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR);
        let statement = PgList::<pg_sys::RawStmt>::from_pg(parsed).get_ptr(0);
        let select = statement.map(|statement| (*statement).stmt.cast::<pg_sys::SelectStmt>());
        let select = select.and_then(|select| select.as_ref()).ok_or(IvfError::NotAnExpression)?;
        let clauses = [
            select.distinctClause,
            select.fromClause,
            select.groupClause,
            select.windowClause,
            select.sortClause,
            select.lockingClause,
        ];
        let nodes = [select.whereClause, select.havingClause, select.limitOffset, select.limitCount];
        let targets = PgList::<pg_sys::ResTarget>::from_pg(select.targetList);
        let (Some(target), 1) = (targets.get_ptr(0), targets.len()) else {
            return Err(IvfError::NotAnExpression.into());
        };
        let alone = clauses.iter().all(|clause| clause.is_null())
            && nodes.iter().all(|node| node.is_null())
            && (*target).name.is_null();
        // `*`, which only the parser of whole queries knows.
        if !alone || is_star((*target).val) {
            return Err(IvfError::NotAnExpression.into());
        }
        let state = pg_sys::make_parsestate(null_mut());
        (*state).p_sourcetext = text.as_ptr();
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let item = pg_sys::addRangeTableEntryForRelation(state, table, lock, null_mut(), false, true);
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        let kind = pg_sys::ParseExprKind::EXPR_KIND_WHERE;
        let expression = pg_sys::transformExpr(state, (*target).val, kind);
        let expression = pg_sys::coerce_to_boolean(state, expression, c"WHERE".as_ptr());
        pg_sys::assign_expr_collations(state, expression);
        pg_sys::free_parsestate(state);
        Ok(expression)
    }
}

/// # Safety
/// A node of the parser's.
unsafe fn is_star(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise; the tag tells a node's type.
    unsafe {
        is_a(node, pg_sys::NodeTag::T_ColumnRef) && {
            let fields = PgList::<pg_sys::Node>::from_pg((*node.cast::<pg_sys::ColumnRef>()).fields);
            fields.iter_ptr().any(|field| is_a(field, pg_sys::NodeTag::T_A_Star))
        }
    }
}

/// # Safety
/// `text` ends in a NUL.
unsafe fn copied(text: *const c_char) -> CString {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_owned()
}

fn ascii(text: String) -> CString {
    CString::new(text).unwrap_or_else(|_| unreachable!("numbers and words have no NUL"))
}

fn join(parts: &[&CStr]) -> CString {
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_bytes()).copied().collect();
    CString::new(bytes).unwrap_or_else(|_| unreachable!("a C string has no NUL within"))
}
