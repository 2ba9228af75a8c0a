//! The trigger that puts the keys of changed rows into the queue.
//!
//! It costs a writer little: one row of the queue holds the keys of up to 256 rows of a statement, nothing of it is compared
//! with what is there already, and no writer ever waits for a worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

use pgrx::trigger_support::{
    called_as_trigger, trigger_fired_before, trigger_fired_by_insert, trigger_fired_by_truncate,
    trigger_fired_by_update, trigger_fired_for_row,
};
use pgrx::{PgLogLevel, check_for_interrupts, pg_extern, pg_sys};

use super::cell::Column;
use super::home::Home;
use super::{source, wake};
use crate::error::{Error, OrRaise, PipelineError, quotable};
use crate::spi::{Connection, Plan, Value, at_latest_snapshot, statement, under};

/// Keys that one row of the queue holds at most: what a worker takes at once.
pub const KEYS_PER_ROW: usize = 256;

/// Settings under which a key is the same text for whoever writes it.
pub const WRITING: [(&CStr, &CStr); 5] = [
    (c"datestyle", c"ISO, YMD"),
    (c"intervalstyle", c"postgres"),
    (c"timezone", c"UTC"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
];

/// `vectorizer_enqueue(id, target, source, ...)`: AFTER INSERT, UPDATE or TRUNCATE. `target` is '' where vectors are kept in
/// another table.
#[pg_extern(sql = false)]
fn vectorizer_enqueue(fcinfo: pg_sys::FunctionCallInfo) -> i64 {
    // SAFETY: Postgres passes a valid call; called_as_trigger has seen that its context is a TriggerData.
    unsafe {
        if !called_as_trigger(fcinfo) {
            Error::from(PipelineError::NotATrigger).raise();
        }
        let home = Home::of_call(fcinfo);
        if let Some(trigger) = Trigger::new((*fcinfo).context.cast(), &home).or_raise() {
            trigger.run().or_raise();
        }
    }
    0
}

/// A call of the trigger.
struct Trigger<'a> {
    data: *mut pg_sys::TriggerData,
    home: &'a Home,
    vectorizer: i32,
    is_partition: bool,
    /// Nobody is to be woken.
    paused: bool,
    /// Columns of the primary key.
    key: Vec<Output>,
    /// Columns whose change makes a vector stale. `None`: one of them is not there any more.
    sources: Option<Vec<Column>>,
    target: Option<Column>,
}

/// A column and the function that makes text of it.
struct Output {
    column: Column,
    function: pg_sys::FmgrInfo,
}

impl Trigger<'_> {
    /// `None`: the trigger is not that of a vectorizer of this table, as after a restore without the extension's own rows.
    ///
    /// # Safety
    /// `data` is what Postgres passed to the trigger function.
    unsafe fn new(data: *mut pg_sys::TriggerData, home: &Home) -> Result<Option<Trigger<'_>>, Error> {
        // SAFETY: the caller's promise; a trigger has `tgnargs` arguments, and a relation with a descriptor.
        unsafe {
            if trigger_fired_before((*data).tg_event) {
                return Err(PipelineError::NotATrigger.into());
            }
            let trigger = &*(*data).tg_trigger;
            let arguments: Vec<&CStr> =
                (0..trigger.tgnargs as usize).map(|i| CStr::from_ptr(*trigger.tgargs.add(i))).collect();
            let [id, target, sources @ ..] = arguments.as_slice() else {
                return Err(PipelineError::NotATrigger.into());
            };
            let vectorizer =
                id.to_str().ok().and_then(|id| id.parse().ok()).ok_or(PipelineError::NotATrigger)?;
            let relation = (*data).tg_relation;
            let column = |name: &&CStr| Column::named(relation, name);
            let is_partition = (*(*relation).rd_rel).relispartition;
            let Some((root, paused)) = root(home, vectorizer, (*relation).rd_id, is_partition) else {
                return Ok(None);
            };
            let key = if root == (*relation).rd_id {
                source::numbers(relation)
            } else {
                numbers_in(relation, root)
            };
            Ok(Some(Trigger {
                data,
                home,
                vectorizer,
                is_partition,
                paused,
                key: key.into_iter().map(|number| output(relation, number)).collect(),
                sources: sources.iter().map(column).collect(),
                target: column(target),
            }))
        }
    }

    fn run(mut self) -> Result<(), Error> {
        // SAFETY: what Postgres passed.
        let event = unsafe { (*self.data).tg_event };
        if trigger_fired_by_truncate(event) {
            return self.forget_all();
        }
        if self.key.is_empty() {
            // SAFETY: as above.
            let table = unsafe { (*(*(*self.data).tg_relation).rd_rel).relname };
            // SAFETY: a name ends in a NUL.
            let table = quotable(unsafe { CStr::from_ptr(table.data.as_ptr()) });
            Error::from(PipelineError::NoPrimaryKey { table }).say(PgLogLevel::WARNING);
            return Ok(());
        }
        under(&WRITING, || {
            if trigger_fired_for_row(event) { self.of_row(event) } else { self.of_statement(event) }
        })
    }

    fn of_row(&mut self, event: u32) -> Result<(), Error> {
        // SAFETY: tuples of the relation; the slots are freed.
        let keys = unsafe {
            let descriptor = (*(*self.data).tg_relation).rd_att;
            let slot = |tuple: pg_sys::HeapTuple| {
                let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &pg_sys::TTSOpsHeapTuple);
                pg_sys::ExecStoreHeapTuple(tuple, slot, false);
                slot
            };
            let update = trigger_fired_by_update(event);
            let old = slot((*self.data).tg_trigtuple);
            let new = if update { slot((*self.data).tg_newtuple) } else { old };
            let mut keys = vec![];
            if self.wants(update.then_some(old), new) {
                self.write_key(new, &mut keys);
            }
            if update {
                pg_sys::ExecDropSingleTupleTableSlot(old);
            }
            pg_sys::ExecDropSingleTupleTableSlot(new);
            keys
        };
        self.enqueue(keys)
    }

    /// Postgres hands over the rows of a statement, old and new ones in the same order.
    fn of_statement(&mut self, event: u32) -> Result<(), Error> {
        // SAFETY: what Postgres passed; tables are there if the trigger asked for them.
        unsafe {
            let (old, new) = ((*self.data).tg_oldtable, (*self.data).tg_newtable);
            if new.is_null() || (old.is_null() && !trigger_fired_by_insert(event)) {
                return Err(PipelineError::NotATrigger.into());
            }
            let descriptor = (*(*self.data).tg_relation).rd_att;
            let new = Reader::new(new, descriptor);
            let old = (!old.is_null()).then(|| Reader::new(old, descriptor));
            let mut keys = vec![];
            while new.next() {
                check_for_interrupts!();
                let before = old.as_ref().filter(|old| old.next()).map(|old| old.slot);
                if self.wants(before, new.slot) {
                    self.write_key(new.slot, &mut keys);
                }
                if keys.len() >= KEYS_PER_ROW * self.key.len() {
                    self.enqueue(std::mem::take(&mut keys))?;
                }
            }
            self.enqueue(keys)
        }
    }

    /// Whether a row needs another vector than it has.
    ///
    /// # Safety
    /// Slots with rows of the relation. `old`: before an UPDATE.
    unsafe fn wants(
        &self,
        old: Option<*mut pg_sys::TupleTableSlot>,
        new: *mut pg_sys::TupleTableSlot,
    ) -> bool {
        let Some(sources) = &self.sources else { return true };
        // SAFETY: the caller's promise.
        unsafe {
            let has_vector = |slot| self.target.is_some_and(|target| target.value(slot).is_some());
            match old {
                // A row that an UPDATE moves to another partition comes in with its old vector.
                None => {
                    (self.is_partition || !has_vector(new))
                        && sources.iter().any(|source| source.value(new).is_some())
                }
                Some(old) => {
                    let key = self.key.iter().map(|key| &key.column);
                    // A row whose key changes may be in the queue by its old one.
                    sources.iter().chain(key).any(|column| !column.is_same(old, new))
                        // `SET embedding = NULL` asks for another one; the engine's own NULL is for a blank text.
                        || self.target.is_some() && has_vector(old) && !has_vector(new) && !super::run::is_writing()
                }
            }
        }
    }

    /// # Safety
    /// As for [`Trigger::wants`].
    unsafe fn write_key(&mut self, slot: *mut pg_sys::TupleTableSlot, keys: &mut Vec<pg_sys::Datum>) {
        for column in &mut self.key {
            // SAFETY: the caller's promise; a column of a primary key is not NULL, and its output function returns a C string.
            unsafe {
                let datum = column.column.value(slot).unwrap_or(pg_sys::Datum::null());
                let text = pg_sys::OutputFunctionCall(&mut column.function, datum);
                keys.push(pg_sys::cstring_to_text(text).into());
                pg_sys::pfree(text.cast());
            }
        }
    }

    /// Adds a row to the queue.
    fn enqueue(&self, mut keys: Vec<pg_sys::Datum>) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let connection = Connection::open();
        let width = Value::int(self.key.len() as i32);
        let arguments = [Value::int(self.vectorizer), Value::array(pg_sys::TEXTOID, &mut keys), width];
        let insert = "INSERT INTO {home}.vectorizer_log (vectorizer, keys, key_columns) VALUES ($1, $2, $3)";
        connection.run_plan(plan(self.home, insert, &connection, &arguments), &arguments);
        if !self.paused {
            wake::at_commit(self.home);
        }
        for key in keys {
            // SAFETY: made by `write_key`, and copied into the list.
            unsafe { pg_sys::pfree(key.cast_mut_ptr()) };
        }
        Ok(())
    }

    /// There is nothing left to embed. What a worker has in hand it finds out itself, and so it does with all where the
    /// transaction may not touch what others have changed since it began.
    fn forget_all(&self) -> Result<(), Error> {
        // SAFETY: reads a setting of the transaction.
        if unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32 {
            return Ok(());
        }
        let connection = Connection::open();
        let delete = "DELETE FROM {home}.vectorizer_log AS l WHERE l.vectorizer = $1 AND l.id IN (
            SELECT m.id FROM {home}.vectorizer_log AS m WHERE m.vectorizer = $1 FOR UPDATE SKIP LOCKED)";
        self.home.run(&connection, delete, &[Value::int(self.vectorizer)]);
        Ok(())
    }
}

/// The plan of a statement that is prepared once in a session. `{home}` in it is the extension's schema.
fn plan(home: &Home, template: &str, connection: &Connection, arguments: &[Value]) -> Plan {
    let sql = statement(template, &[("home", &home.schema)]);
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&sql).copied()) {
        return plan;
    }
    let plan = connection.keep(&sql, arguments);
    PLANS.with_borrow_mut(|plans| plans.insert(sql, plan));
    plan
}

thread_local! {
    /// Two for each schema that the extension has been in.
    static PLANS: RefCell<HashMap<CString, Plan>> = RefCell::default();
}

/// The rows of a transition table.
struct Reader {
    store: *mut pg_sys::Tuplestorestate,
    pointer: i32,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Reader {
    /// # Safety
    /// A transition table, of rows of this shape, which stays.
    unsafe fn new(store: *mut pg_sys::Tuplestorestate, descriptor: pg_sys::TupleDesc) -> Reader {
        // SAFETY: the caller's promise. Others read from the same store, each with a pointer of its own.
        unsafe {
            let pointer = pg_sys::tuplestore_alloc_read_pointer(store, pg_sys::EXEC_FLAG_REWIND as i32);
            pg_sys::tuplestore_select_read_pointer(store, pointer);
            pg_sys::tuplestore_rescan(store);
            let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &pg_sys::TTSOpsMinimalTuple);
            Reader { store, pointer, slot }
        }
    }

    /// Whether there is another row, which is then in the slot.
    fn next(&self) -> bool {
        // SAFETY: as in `new`.
        unsafe {
            pg_sys::tuplestore_select_read_pointer(self.store, self.pointer);
            pg_sys::tuplestore_gettupleslot(self.store, true, false, self.slot)
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made in `new`.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) };
        }
    }
}

/// The vectorizer's table, the trigger's own or one that this is a partition of, and whether it is paused. `None`: neither.
///
/// Looked for as it is now, also by a transaction that began before the vectorizer was made.
fn root(
    home: &Home,
    vectorizer: i32,
    relation: pg_sys::Oid,
    is_partition: bool,
) -> Option<(pg_sys::Oid, bool)> {
    let connection = Connection::open();
    let find = "SELECT v.relation, v.paused FROM {home}.vectorizer AS v WHERE v.id OPERATOR(pg_catalog.=) $1";
    let arguments = [Value::int(vectorizer)];
    let plan = plan(home, find, &connection, &arguments);
    let found = at_latest_snapshot(|| {
        let rows = connection.look_by_plan(plan, &arguments);
        Some((rows.first(1)?, rows.first(2)?))
    });
    let (root, paused) = found?;
    let (root, paused) = (pg_sys::Oid::from(root.value() as u32), paused.value() != 0);
    if root == relation {
        return Some((root, paused));
    }
    if !is_partition {
        return None;
    }
    let ancestor = "SELECT FROM pg_partition_ancestors($1) AS a WHERE a.relid = $2";
    let found = home.run(&connection, ancestor, &[Value::oid(relation), Value::oid(root)]);
    (!found.is_empty()).then_some((root, paused))
}

/// The columns of the primary key of `root`, in its order, as those of its partition `relation`.
///
/// # Safety
/// `relation` is open, and a partition of `root`.
unsafe fn numbers_in(relation: pg_sys::Relation, root: pg_sys::Oid) -> Vec<pg_sys::AttrNumber> {
    // SAFETY: the caller's promise; a partition has the columns of its root, by name.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let root = pg_sys::relation_open(root, lock);
        let names =
            source::numbers(root).into_iter().map(|number| pg_sys::SPI_fname((*root).rd_att, number.into()));
        let numbers =
            names.map(|name| pg_sys::SPI_fnumber((*relation).rd_att, name) as pg_sys::AttrNumber).collect();
        pg_sys::relation_close(root, lock);
        numbers
    }
}

/// # Safety
/// An open relation and a column of it.
unsafe fn output(relation: pg_sys::Relation, number: pg_sys::AttrNumber) -> Output {
    // SAFETY: the caller's promise; every type has an output function.
    unsafe {
        let (mut oid, mut is_varlena) = (pg_sys::InvalidOid, false);
        let type_oid = pg_sys::SPI_gettypeid((*relation).rd_att, number.into());
        pg_sys::getTypeOutputInfo(type_oid, &mut oid, &mut is_varlena);
        let mut function = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info(oid, &mut function);
        Output { column: Column::numbered(relation, number.into()), function }
    }
}
