//! The trigger that puts the keys of changed rows into the queue.
//!
//! It costs a writer little: one row of the queue holds the keys of up to 256 rows of a statement, nothing of it is compared
//! with what is there already, and no writer ever waits for a worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::trigger_support::{
    called_as_trigger, trigger_fired_before, trigger_fired_by_insert, trigger_fired_by_truncate,
    trigger_fired_by_update, trigger_fired_for_row,
};
use pgrx::{PgLogLevel, check_for_interrupts, pg_extern, pg_sys};

use super::cell::Column;
use super::home::Home;
use super::watch::{self, Watch, Watched};
use super::{queue, wake};
use crate::error::{Error, OrRaise, PipelineError, quotable};
use crate::spi::{Connection, Plan, Value, statement, under};

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

/// `vectorizer_enqueue(id)`: AFTER INSERT, UPDATE or TRUNCATE.
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
    is_partition: bool,
    watched: Rc<Watched>,
    /// Of the columns of the key.
    outputs: Vec<pg_sys::FmgrInfo>,
    /// Of each vectorizer, keys that are not in its queue yet.
    keys: Vec<Vec<pg_sys::Datum>>,
}

impl Trigger<'_> {
    /// `None`: the trigger is not that of a vectorizer of this table.
    ///
    /// # Safety
    /// `data` is what Postgres passed to the trigger function.
    unsafe fn new(data: *mut pg_sys::TriggerData, home: &Home) -> Result<Option<Trigger<'_>>, Error> {
        // SAFETY: the caller's promise; a trigger has `tgnargs` arguments, and a relation.
        unsafe {
            let trigger = &*(*data).tg_trigger;
            if trigger_fired_before((*data).tg_event) || trigger.tgnargs == 0 {
                return Err(PipelineError::NotATrigger.into());
            }
            let number = CStr::from_ptr(*trigger.tgargs).to_str().ok().and_then(|id| id.parse().ok());
            let vectorizer = number.ok_or(PipelineError::NotATrigger)?;
            let relation = (*data).tg_relation;
            let Some(watched) = watch::watched(home, vectorizer, relation) else { return Ok(None) };
            let output = |&(_, function): &(Column, pg_sys::Oid)| {
                let mut output = pg_sys::FmgrInfo::default();
                pg_sys::fmgr_info(function, &mut output);
                output
            };
            Ok(Some(Trigger {
                data,
                home,
                is_partition: (*(*relation).rd_rel).relispartition,
                outputs: watched.key.iter().map(output).collect(),
                keys: watched.vectorizers.iter().map(|_| vec![]).collect(),
                watched,
            }))
        }
    }

    fn run(mut self) -> Result<(), Error> {
        // SAFETY: what Postgres passed.
        let event = unsafe { (*self.data).tg_event };
        if trigger_fired_by_truncate(event) {
            self.forget_all();
            return Ok(());
        }
        if self.watched.key.is_empty() {
            // SAFETY: as above; a name ends in a NUL.
            let table = unsafe { (*(*(*self.data).tg_relation).rd_rel).relname };
            // SAFETY: as above.
            let table = quotable(unsafe { CStr::from_ptr(table.data.as_ptr()) });
            Error::from(PipelineError::NoPrimaryKey { table }).say(PgLogLevel::WARNING);
            return Ok(());
        }
        under(&WRITING, || {
            if trigger_fired_for_row(event) {
                self.of_row(event)
            } else {
                self.of_statement(event)?
            }
            self.enqueue();
            Ok(())
        })
    }

    fn of_row(&mut self, event: u32) {
        // SAFETY: tuples of the relation; the slots are freed.
        unsafe {
            let descriptor = (*(*self.data).tg_relation).rd_att;
            let slot = |tuple: pg_sys::HeapTuple| {
                let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &pg_sys::TTSOpsHeapTuple);
                pg_sys::ExecStoreHeapTuple(tuple, slot, false);
                slot
            };
            let update = trigger_fired_by_update(event);
            let old = slot((*self.data).tg_trigtuple);
            let new = if update { slot((*self.data).tg_newtuple) } else { old };
            self.look_at(update.then_some(old), new);
            if update {
                pg_sys::ExecDropSingleTupleTableSlot(old);
            }
            pg_sys::ExecDropSingleTupleTableSlot(new);
        }
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
            while new.next() {
                check_for_interrupts!();
                let before = old.as_ref().filter(|old| old.next()).map(|old| old.slot);
                self.look_at(before, new.slot);
                if self.keys.iter().any(|keys| keys.len() >= KEYS_PER_ROW * self.outputs.len()) {
                    self.enqueue();
                }
            }
            Ok(())
        }
    }

    /// Notes the key of a row for each vectorizer that has to look at it.
    ///
    /// # Safety
    /// Slots with rows of the relation. `old`: before an UPDATE.
    unsafe fn look_at(&mut self, old: Option<*mut pg_sys::TupleTableSlot>, new: *mut pg_sys::TupleTableSlot) {
        let watched = self.watched.clone();
        for (watch, keys) in watched.vectorizers.iter().zip(&mut self.keys) {
            // SAFETY: the caller's promise; a column of a primary key is not NULL, and its output function returns a C string.
            unsafe {
                if !wants(watch, &watched.key, self.is_partition, old, new) {
                    continue;
                }
                for ((column, _), output) in watched.key.iter().zip(&mut self.outputs) {
                    let datum = column.value(new).unwrap_or(pg_sys::Datum::null());
                    let text = pg_sys::OutputFunctionCall(output, datum);
                    keys.push(pg_sys::cstring_to_text(text).into());
                    pg_sys::pfree(text.cast());
                }
            }
        }
    }

    /// Adds a row to the queue of each vectorizer that has to look at something.
    fn enqueue(&mut self) {
        let width = Value::int(self.outputs.len() as i32);
        for (watch, keys) in self.watched.vectorizers.iter().zip(&mut self.keys) {
            if keys.is_empty() {
                continue;
            }
            let connection = Connection::open();
            let arguments = [Value::int(watch.id), Value::array(pg_sys::TEXTOID, keys), width];
            connection.run_plan(plan(self.home, &connection, &arguments), &arguments);
            if !watch.paused {
                wake::at_commit(self.home);
            }
            for key in keys.drain(..) {
                // SAFETY: made by `look_at`, and copied into the list.
                unsafe { pg_sys::pfree(key.cast_mut_ptr()) };
            }
        }
    }

    /// There is nothing left to embed. What a worker has in hand it finds out itself, and so it does with all where the
    /// transaction may not touch what others have changed since it began.
    fn forget_all(&self) {
        // SAFETY: reads a setting of the transaction.
        if unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32 {
            return;
        }
        let connection = Connection::open();
        let delete = "DELETE FROM {home}.vectorizer_log AS l WHERE l.vectorizer = $1 AND l.id IN (
            SELECT m.id FROM {home}.vectorizer_log AS m WHERE m.vectorizer = $1 FOR UPDATE SKIP LOCKED)";
        for watch in &self.watched.vectorizers {
            self.home.run(&connection, delete, &[Value::int(watch.id)]);
        }
    }
}

/// Whether a row needs another vector than it has.
///
/// # Safety
/// Slots with rows of the relation. `old`: before an UPDATE.
unsafe fn wants(
    watch: &Watch,
    key: &[(Column, pg_sys::Oid)],
    is_partition: bool,
    old: Option<*mut pg_sys::TupleTableSlot>,
    new: *mut pg_sys::TupleTableSlot,
) -> bool {
    let Some(sources) = &watch.sources else { return true };
    // SAFETY: the caller's promise.
    unsafe {
        let has_vector = |slot| watch.target.is_some_and(|target| target.value(slot).is_some());
        match old {
            // A row that an UPDATE moves to another partition comes in with its old vector.
            None => {
                (is_partition || !has_vector(new)) && sources.iter().any(|source| source.value(new).is_some())
            }
            Some(old) => {
                let key = key.iter().map(|(column, _)| column);
                // A row whose key changes may be in the queue by its old one.
                sources.iter().chain(key).any(|column| !column.is_same(old, new))
                    // `SET embedding = NULL` asks for another one; the engine's own NULL is for a blank text.
                    || watch.target.is_some() && has_vector(old) && !has_vector(new) && !super::run::is_writing()
            }
        }
    }
}

/// The plan of the statement that adds a row to the queue; it is made once in a session.
fn plan(home: &Home, connection: &Connection, arguments: &[Value]) -> Plan {
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&home.schema).copied()) {
        return plan;
    }
    let plan = connection.keep(&statement(queue::ADD, &[("home", &home.schema)]), arguments);
    PLANS.with_borrow_mut(|plans| plans.insert(home.schema.clone(), plan));
    plan
}

thread_local! {
    /// One for each schema that the extension has been in.
    static PLANS: RefCell<HashMap<Vec<u8>, Plan>> = RefCell::default();
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
