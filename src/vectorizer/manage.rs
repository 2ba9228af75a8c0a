//! What an owner does with a vectorizer that there is: `vectorizer_pause`, `vectorizer_resume`, `vectorizer_retry`,
//! `vectorizer_drop`, and `CALL vectorizer_run`, which does the work of a worker in the session itself.

use std::time::Instant;

use pgrx::fcinfo::pg_getarg_datum;
use pgrx::{check_for_interrupts, pg_extern, pg_sys};

use super::backfill::may_commit;
use super::catalog::Vectorizer;
use super::home::Home;
use super::pace::Pace;
use super::table::{Table, owned};
use super::{chunks, index, run, swap, triggers, wake, watch};
use crate::error::{Error, OrRaise, PipelineError, quotable};
use crate::spi::{Connection, Failure, Value};

/// The vectorizer that the first argument names, if the current user may do something with it.
///
/// # Safety
/// `fcinfo` is that of a running function whose first argument is a text.
pub unsafe fn named(
    fcinfo: pg_sys::FunctionCallInfo,
    home: &Home,
    connection: &Connection,
) -> Result<Vectorizer, Error> {
    // SAFETY: the caller's promise.
    let name = unsafe { pg_getarg_datum(fcinfo, 0).map(|name| owned(name)) };
    let name = name.ok_or(PipelineError::NullArgument { name: "name" })?;
    let vectorizer = Vectorizer::by_name(home, connection, &name)?;
    if let Some(table) = Table::if_exists(vectorizer.relation) {
        table.check_owner();
    }
    Ok(vectorizer)
}

#[pg_extern(sql = false)]
fn vectorizer_pause(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: Postgres passes a valid call of the function that sql/vectorizer.sql declares.
    unsafe { set_paused(fcinfo, true).or_raise() }
}

#[pg_extern(sql = false)]
fn vectorizer_resume(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: as above.
    unsafe { set_paused(fcinfo, false).or_raise() }
}

/// # Safety
/// As for [`named`].
unsafe fn set_paused(fcinfo: pg_sys::FunctionCallInfo, paused: bool) -> Result<(), Error> {
    // SAFETY: the caller's promise.
    unsafe {
        let home = Home::of_call(fcinfo);
        let connection = Connection::open();
        let vectorizer = named(fcinfo, &home, &connection)?;
        if let Some(table) = Table::if_exists(vectorizer.relation) {
            if !paused {
                // A writer that takes it for paused would not wake anybody.
                table.lock_against_writers(&home, &connection);
            }
            watch::changed(table.oid);
        }
        let update = "UPDATE {home}.vectorizer AS v SET paused = $2 WHERE v.id = $1 OR v.replaces = $1";
        home.run(&connection, update, &[Value::int(vectorizer.id), Value::boolean(paused)]);
        wake::at_commit(&home);
        Ok(())
    }
}

/// Makes due what has failed, given up or not. Returns how many rows that are.
#[pg_extern(sql = false)]
fn vectorizer_retry(fcinfo: pg_sys::FunctionCallInfo) -> i64 {
    // SAFETY: as above.
    unsafe {
        let home = Home::of_call(fcinfo);
        let connection = Connection::open();
        let vectorizer = named(fcinfo, &home, &connection).or_raise();
        let well =
            "UPDATE {home}.vectorizer AS v SET not_before = '-infinity' WHERE v.id = $1 OR v.replaces = $1";
        home.run(&connection, well, &[Value::int(vectorizer.id)]);
        let retry = "UPDATE {home}.vectorizer_failure AS e SET attempts = 0, not_before = '-infinity'
            WHERE e.vectorizer IN (SELECT v.id FROM {home}.vectorizer AS v WHERE v.id = $1 OR v.replaces = $1)";
        let rows = home.run(&connection, retry, &[Value::int(vectorizer.id)]).processed();
        wake::at_commit(&home);
        rows as i64
    }
}

/// `vectorizer_drop(name, drop_destination)`
#[pg_extern(sql = false)]
fn vectorizer_drop(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: Postgres passes a valid call of the function that sql/vectorizer.sql declares.
    unsafe {
        let home = Home::of_call(fcinfo);
        let with_destination = pg_getarg_datum(fcinfo, 1).is_some_and(|truth| truth.value() != 0);
        let connection = Connection::open();
        let vectorizer = named(fcinfo, &home, &connection).or_raise();
        drop_it(&home, &connection, &vectorizer, with_destination).or_raise();
    }
}

fn drop_it(
    home: &Home,
    connection: &Connection,
    vectorizer: &Vectorizer,
    with_destination: bool,
) -> Result<(), Error> {
    if let Some(table) = Table::if_exists(vectorizer.relation) {
        if vectorizer.replaces.is_some() {
            // It has no triggers of its own. Who writes now may queue something for it.
            table.lock_against_writers(home, connection);
            watch::changed(table.oid);
        } else {
            triggers::drop(connection, &table, vectorizer);
        }
    }
    // It may have gone before the lock was there.
    if Vectorizer::by_id(home, connection, vectorizer.id).is_none() {
        return Err(PipelineError::NoVectorizer { name: quotable(&vectorizer.name) }.into());
    }
    if let Some(next) = vectorizer.next(home, connection) {
        drop_it(home, connection, &next, true)?;
    }
    let vectors = vectorizer.place.table().filter(|_| with_destination && vectorizer.replaces.is_none());
    if let Some(vectors) = vectors.and_then(Table::if_exists) {
        vectors.check_owner();
        // With the view; what else depends on the table keeps it from being dropped.
        if let Some(view) = chunks::view_of(home, connection, &vectors) {
            home.ddl(connection, &vectors, "DROP VIEW {view}", &[("view", view.to_bytes())]);
        }
        home.ddl(connection, &vectors, "DROP TABLE {table}", &[]);
    }
    if vectorizer.forget(home, connection) { Ok(()) } else { Err(PipelineError::ChangedSince.into()) }
}

/// `vectorizer_run(name, max_rows)`
#[pg_extern(sql = false)]
fn vectorizer_run(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: Postgres passes a valid call of the procedure that sql/vectorizer.sql declares.
    unsafe { run_all(fcinfo).or_raise() }
}

/// # Safety
/// `fcinfo` is that of the running procedure.
unsafe fn run_all(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), Error> {
    // SAFETY: the caller's promise; the arguments are of the declared types.
    let (home, max_rows, wanted) = unsafe {
        if !may_commit(fcinfo) {
            return Err(PipelineError::TransactionBlock { procedure: "vectorizer_run" }.into());
        }
        let home = Home::of_call(fcinfo);
        let max_rows =
            pg_getarg_datum(fcinfo, 1).map_or(usize::MAX, |rows| (rows.value() as i64).max(0) as usize);
        let inner = Connection::open();
        let wanted = match pg_getarg_datum(fcinfo, 0) {
            Some(_) => {
                let vectorizer = named(fcinfo, &home, &inner)?;
                let next = vectorizer.next(&home, &inner).map(|next| next.id);
                [Some(vectorizer.id), next].into_iter().flatten().collect()
            }
            None => owned_by_user(&home, &inner),
        };
        (home, max_rows, wanted)
    };
    let connection = Connection::open_for_commits();
    // From here on at READ COMMITTED.
    connection.commit();
    let mut left = max_rows;
    for id in wanted {
        let mut pace = Pace::default();
        while left > 0 {
            let (rows, start) = (pace.rows(run::MAX_BATCH.min(left)), Instant::now());
            let batch = or_note(&home, &connection, id, run::batch_or_one(&home, id, rows))?;
            connection.commit();
            check_for_interrupts!();
            pace.took(batch.keys, start.elapsed());
            left -= batch.keys.min(left);
            // What is left is another session's.
            if batch.keys == 0 || batch.keys == batch.locked {
                break;
            }
        }
        if left > 0 {
            let changed = or_note(&home, &connection, id, swap::if_done(&home, id))?;
            connection.commit();
            while index::rebuild(&home, changed.unwrap_or(id)) {
                connection.commit();
            }
            connection.commit();
        }
        index::keep_in_shape(&home, id);
        connection.commit();
    }
    Ok(())
}

/// The result, or an error that is noted in the vectorizer.
fn or_note<T>(home: &Home, connection: &Connection, id: i32, result: Result<T, Failure>) -> Result<T, Error> {
    result.map_err(|failure| {
        run::note_failure(home, id, &failure);
        connection.commit();
        Error::Failed(failure)
    })
}

/// Those of all vectorizers that the current user may run.
fn owned_by_user(home: &Home, connection: &Connection) -> Vec<i32> {
    // SAFETY: asks who the user is.
    let user = unsafe { pg_sys::GetUserId() };
    let find = "SELECT v.id FROM {home}.vectorizer AS v, pg_class AS c
        WHERE c.oid = v.relation AND NOT v.paused AND pg_has_role($1, c.relowner, 'USAGE') ORDER BY v.served_at";
    let rows = home.run(connection, find, &[Value::oid(user)]);
    (0..rows.len()).filter_map(|row| Some(rows.datum(row, 1)?.value() as i32)).collect()
}
