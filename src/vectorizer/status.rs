//! `vectorizer_coverage`: how many rows have vectors. The rest of `vectorizer_status` is SQL.

use pgrx::iter::TableIterator;
use pgrx::{name, pg_extern, pg_sys};

use super::catalog::{Place, Vectorizer};
use super::home::Home;
use super::table::Table;
use crate::embed::models;
use crate::spi::{Connection, as_user, quoted, statement};

/// Rows, those with vectors, and those of another model than the one that has its name now. NULL for a vectorizer whose table
/// belongs to somebody else, unless the caller may see all statistics.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the columns of the SQL declaration
fn vectorizer_coverage(
    id: i32,
    fcinfo: pg_sys::FunctionCallInfo,
) -> TableIterator<
    'static,
    (name!(rows, Option<i64>), name!(embedded, Option<i64>), name!(of_other_models, Option<i64>)),
> {
    // SAFETY: Postgres passes a valid call.
    let home = unsafe { Home::of_call(fcinfo) };
    let (rows, embedded, others) = match coverage(&home, id) {
        Some((rows, embedded, others)) => (Some(rows), Some(embedded), others),
        None => (None, None, None),
    };
    TableIterator::once((rows, embedded, others))
}

fn coverage(home: &Home, id: i32) -> Option<(i64, i64, Option<i64>)> {
    let connection = Connection::open();
    let vectorizer = Vectorizer::by_id(home, &connection, id)?;
    let table = Table::if_exists(vectorizer.relation).filter(|table| may_see(table.owner))?;
    let target = quoted(vectorizer.place.column());
    let count = match vectorizer.place {
        Place::Column(ref column) if !table.has_column(column) => return None,
        Place::Column(_) => statement(
            "SELECT pg_catalog.count(*), pg_catalog.count(t.{target}) FROM {table} AS t",
            &[("table", &table.sql), ("target", &target)],
        ),
        Place::Chunks { table: oid, .. } | Place::Beside(oid) => {
            let vectors = Table::if_exists(oid)?;
            // Chunks are numbered from 1.
            let first = match vectorizer.place {
                Place::Chunks { .. } => " WHERE c.ordinal OPERATOR(pg_catalog.=) 1",
                _ => "",
            };
            statement(
                "SELECT (SELECT pg_catalog.count(*) FROM {table}), (SELECT pg_catalog.count(*) FROM {vectors} AS c{first})",
                &[("table", &table.sql), ("vectors", &vectors.sql), ("first", first.as_bytes())],
            )
        }
    };
    let counted = as_user(table.owner, || connection.look(&count, &[]));
    let number = |column| counted.first(column).map(|count| count.value() as i64);
    let embedded = number(2)?;
    let hash = models::content_hash(&vectorizer.model).ok();
    let others = hash.map(|hash| if hash == vectorizer.model_hash { 0 } else { embedded });
    Some((number(1)?, embedded, others))
}

fn may_see(owner: pg_sys::Oid) -> bool {
    // SAFETY: looks up who is a member of what.
    unsafe {
        let user = pg_sys::GetUserId();
        pg_sys::has_privs_of_role(user, owner)
            || pg_sys::has_privs_of_role(user, pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_STATS))
    }
}
