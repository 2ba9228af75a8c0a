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
use pgrx::{PgLogLevel, check_for_interrupts, pg_extern, pg_sys, varlena};

use super::home::Home;
use super::{source, wake};
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
        Trigger::new((*fcinfo).context.cast(), &home).and_then(|trigger| trigger.run()).or_raise();
    }
    0
}

/// A call of the trigger.
struct Trigger<'a> {
    data: *mut pg_sys::TriggerData,
    home: &'a Home,
    vectorizer: i32,
    /// The vectorizer's table: the trigger's own, or one that this is a partition of.
    relation: pg_sys::Oid,
    is_partition: bool,
    /// Columns of the primary key.
    key: Vec<Output>,
    /// Columns whose change makes a vector stale. `None`: one of them is not there any more.
    sources: Option<Vec<Column>>,
    target: Option<Column>,
}

#[derive(Clone, Copy)]
struct Column {
    number: i32,
    /// As in pg_type.
    length: i16,
}

/// A column and the function that makes text of it.
struct Output {
    number: i32,
    function: pg_sys::FmgrInfo,
}

impl Trigger<'_> {
    /// # Safety
    /// `data` is what Postgres passed to the trigger function.
    unsafe fn new(data: *mut pg_sys::TriggerData, home: &Home) -> Result<Trigger<'_>, Error> {
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
            let vectorizer = id.to_str().ok().and_then(|id| id.parse().ok()).ok_or(PipelineError::NotATrigger)?;
            let relation = (*data).tg_relation;
            let column = |name: &&CStr| column(relation, name);
            let is_partition = (*(*relation).rd_rel).relispartition;
            let root = if is_partition {
                partitioned(home, vectorizer, (*relation).rd_id)
            } else {
                None
            };
            let key = match root {
                None => source::numbers(relation),
                Some(root) => numbers_in(relation, root),
            };
            Ok(Trigger {
                data,
                home,
                vectorizer,
                relation: root.unwrap_or((*relation).rd_id),
                is_partition,
                key: key.into_iter().map(|number| output(relation, number)).collect(),
                sources: sources.iter().map(column).collect(),
                target: column(target),
            })
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
            if new.is_null() || !(trigger_fired_by_insert(event) || !old.is_null()) {
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
    unsafe fn wants(&self, old: Option<*mut pg_sys::TupleTableSlot>, new: *mut pg_sys::TupleTableSlot) -> bool {
        let Some(sources) = &self.sources else { return true };
        // SAFETY: the caller's promise.
        unsafe {
            let has_vector = |slot| self.target.is_some_and(|target| value(slot, target.number).is_some());
            match old {
                // A row that an UPDATE moves to another partition comes in with its old vector.
                None => {
                    (self.is_partition || !has_vector(new))
                        && sources.iter().any(|source| value(new, source.number).is_some())
                }
                Some(old) => {
                    sources.iter().any(|&source| !is_same(old, new, source))
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
                let datum = value(slot, column.number).unwrap_or(pg_sys::Datum::null());
                let text = pg_sys::OutputFunctionCall(&mut column.function, datum);
                keys.push(pg_sys::cstring_to_text(text).into());
                pg_sys::pfree(text.cast());
            }
        }
    }

    /// Adds a row to the queue, unless the trigger is not that of a vectorizer of this table, as after a restore without
    /// the extension's own rows.
    fn enqueue(&self, mut keys: Vec<pg_sys::Datum>) -> Result<(), Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let connection = Connection::open();
        let width = Value::int(self.key.len() as i32);
        let arguments =
            [Value::int(self.vectorizer), Value::oid(self.relation), Value::array(pg_sys::TEXTOID, &mut keys), width];
        let insert = "INSERT INTO {home}.vectorizer_log (vectorizer, keys, key_columns)
            SELECT v.id, $3, $4 FROM {home}.vectorizer AS v
            WHERE v.id OPERATOR(pg_catalog.=) $1 AND v.relation OPERATOR(pg_catalog.=) $2";
        let added = PLANS.with_borrow_mut(|plans| {
            let sql = statement(insert, &[("home", &self.home.schema)]);
            let plan = plans.entry(sql.clone()).or_insert_with(|| connection.keep(&sql, &arguments));
            connection.run_plan(plan, &arguments).processed()
        });
        if added > 0 {
            wake::at_commit(self.home);
        }
        for key in keys {
            // SAFETY: made by `write_key`, and copied into the list.
            unsafe { pg_sys::pfree(key.cast_mut_ptr()) };
        }
        Ok(())
    }

    /// There is nothing left to embed. What a worker has in hand it finds out itself.
    fn forget_all(&self) -> Result<(), Error> {
        let connection = Connection::open();
        let delete = "DELETE FROM {home}.vectorizer_log AS l
            WHERE (l.vectorizer, l.id) IN (
                SELECT m.vectorizer, m.id FROM {home}.vectorizer_log AS m, {home}.vectorizer AS v
                WHERE m.vectorizer OPERATOR(pg_catalog.=) v.id AND v.id OPERATOR(pg_catalog.=) $1
                    AND v.relation OPERATOR(pg_catalog.=) $2
                FOR UPDATE OF m SKIP LOCKED)";
        under(&[(c"search_path", c"pg_catalog, pg_temp")], || {
            let sql = statement(delete, &[("home", &self.home.schema)]);
            connection.run(&sql, &[Value::int(self.vectorizer), Value::oid(self.relation)]);
        });
        Ok(())
    }
}

thread_local! {
    /// Plans for the queue: one for each schema that the extension has been in.
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

/// The vectorizer's table, if it is one that `partition` is a part of.
fn partitioned(home: &Home, vectorizer: i32, partition: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let find = "SELECT v.relation FROM {home}.vectorizer AS v, pg_partition_ancestors($2) AS a
        WHERE v.id = $1 AND a.relid = v.relation";
    let connection = Connection::open();
    let found = home.run(&connection, find, &[Value::int(vectorizer), Value::oid(partition)]);
    found.first(1).map(|oid| pg_sys::Oid::from(oid.value() as u32))
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
        let names = source::numbers(root)
            .into_iter()
            .map(|number| pg_sys::SPI_fname((*root).rd_att, number.into()));
        let numbers = names.map(|name| pg_sys::SPI_fnumber((*relation).rd_att, name) as pg_sys::AttrNumber).collect();
        pg_sys::relation_close(root, lock);
        numbers
    }
}

/// A column by its name; `None` if there is none, or the name is empty.
///
/// # Safety
/// `relation` is open.
unsafe fn column(relation: pg_sys::Relation, name: &CStr) -> Option<Column> {
    // SAFETY: the caller's promise; SPI_fnumber gives a column's number, or something below 1.
    unsafe {
        let descriptor = (*relation).rd_att;
        let number = pg_sys::SPI_fnumber(descriptor, name.as_ptr());
        (number > 0)
            .then(|| Column { number, length: pg_sys::get_typlen(pg_sys::SPI_gettypeid(descriptor, number)) })
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
        Output { number: number.into(), function }
    }
}

/// # Safety
/// A slot with a row, and a column of it.
unsafe fn value(slot: *mut pg_sys::TupleTableSlot, number: i32) -> Option<pg_sys::Datum> {
    let mut is_null = false;
    // SAFETY: the caller's promise.
    let datum = unsafe { pg_sys::slot_getattr(slot, number, &mut is_null) };
    (!is_null).then_some(datum)
}

/// Whether two rows have the same bytes in a column of some kind of text.
///
/// # Safety
/// As for [`value`].
unsafe fn is_same(old: *mut pg_sys::TupleTableSlot, new: *mut pg_sys::TupleTableSlot, column: Column) -> bool {
    // SAFETY: the caller's promise; the column's length says how its values are kept.
    unsafe {
        let (old, new) = match (value(old, column.number), value(new, column.number)) {
            (Some(old), Some(new)) => (old, new),
            (old, new) => return old.is_none() && new.is_none(),
        };
        if column.length > 0 {
            let bytes = |datum: pg_sys::Datum| {
                std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), column.length as usize)
            };
            return bytes(old) == bytes(new);
        }
        // Values that are stored elsewhere are the same if they are in the same place.
        let stored = |datum: pg_sys::Datum| {
            let raw = datum.cast_mut_ptr::<pg_sys::varlena>();
            std::slice::from_raw_parts(raw.cast::<u8>(), varlena::varsize_any(raw))
        };
        if stored(old) == stored(new) {
            return true;
        }
        let (a, b) = (pg_sys::pg_detoast_datum_packed(old.cast_mut_ptr()), pg_sys::pg_detoast_datum_packed(new.cast_mut_ptr()));
        let same = varlena::varlena_to_byte_slice(a) == varlena::varlena_to_byte_slice(b);
        for (copy, raw) in [(a, old), (b, new)] {
            if copy != raw.cast_mut_ptr() {
                pg_sys::pfree(copy.cast());
            }
        }
        same
    }
}
