//! What the triggers of a table have to look for. It is looked up once, and again when Postgres says that anything about tables has
//! changed: whoever changes a vectorizer locks its table against writers, and [tells](changed) so.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Once;

use pgrx::{pg_guard, pg_sys};

use super::cell::Column;
use super::home::Home;
use super::source;
use super::table::owned_list;
use crate::spi::{Connection, Rows, Value, at_latest_snapshot};

/// For one trigger of a table.
pub struct Watched {
    /// Columns of the primary key, each with the function that makes text of it.
    pub key: Vec<(Column, pg_sys::Oid)>,
    /// The vectorizer, and the one that is to take its place.
    pub vectorizers: Vec<Watch>,
}

/// For one vectorizer.
pub struct Watch {
    pub id: i32,
    /// Nobody is to be woken.
    pub paused: bool,
    /// Columns whose change makes a vector stale. `None`: one of them is not there any more.
    pub sources: Option<Vec<Column>>,
    /// `None` where vectors are kept in another table.
    pub target: Option<Column>,
}

thread_local! {
    /// By vectorizer and relation.
    static KNOWN: RefCell<HashMap<(i32, pg_sys::Oid), Rc<Watched>>> = RefCell::default();
    /// Counts what Postgres has told.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
    /// Of those, how many there had been when the first of the known ones was looked up.
    static KNOWN_SINCE: Cell<u64> = const { Cell::new(0) };
}

/// What the trigger of a vectorizer has to look for in a relation, which is its table or a partition of it. `None`: the trigger is not
/// that of a vectorizer of this table, as after a restore without the extension's own rows.
///
/// # Safety
/// `relation` is open.
pub unsafe fn watched(home: &Home, vectorizer: i32, relation: pg_sys::Relation) -> Option<Rc<Watched>> {
    static ONCE: Once = Once::new();
    // SAFETY: the function stays where it is, as Postgres never unloads a library.
    ONCE.call_once(|| unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(note_change), pg_sys::Datum::null())
    });
    if KNOWN_SINCE.replace(CHANGES.get()) != CHANGES.get() {
        KNOWN.take();
    }
    // SAFETY: the caller's promise.
    let key = unsafe { (vectorizer, (*relation).rd_id) };
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&key).cloned()) {
        return Some(known);
    }
    // SAFETY: the caller's promise.
    let found = Rc::new(unsafe { look_up(home, vectorizer, relation)? });
    KNOWN.with_borrow_mut(|known| known.insert(key, found.clone()));
    Some(found)
}

/// Tells all sessions that a vectorizer of this table has changed, once this transaction has committed.
pub fn changed(relation: pg_sys::Oid) {
    // SAFETY: a table that exists.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
}

/// `RelcacheCallbackFunction`
#[pg_guard]
unsafe extern "C-unwind" fn note_change(_argument: pg_sys::Datum, _relation: pg_sys::Oid) {
    CHANGES.set(CHANGES.get() + 1);
}

/// # Safety
/// As for [`watched`].
unsafe fn look_up(home: &Home, vectorizer: i32, relation: pg_sys::Relation) -> Option<Watched> {
    let connection = Connection::open();
    // As it is now, also in a transaction that began before the vectorizer was made.
    let find = "SELECT v.relation, v.id, v.paused, v.sources, v.target FROM {home}.vectorizer AS v
        WHERE v.id = $1 OR v.replaces = $1 ORDER BY v.id";
    let rows = at_latest_snapshot(|| home.look(&connection, find, &[Value::int(vectorizer)]));
    let root = pg_sys::Oid::from(rows.first(1)?.value() as u32);
    // SAFETY: the caller's promise.
    unsafe {
        if !belongs_to(home, &connection, relation, root) {
            return None;
        }
        let numbers =
            if root == (*relation).rd_id { source::numbers(relation) } else { numbers_in(relation, root) };
        Some(Watched {
            key: numbers.into_iter().map(|number| with_output(relation, number)).collect(),
            vectorizers: (0..rows.len()).filter_map(|row| Watch::of(&rows, row, relation)).collect(),
        })
    }
}

impl Watch {
    /// # Safety
    /// A row of the query in [`look_up`]; the relation is open.
    unsafe fn of(rows: &Rows, row: usize, relation: pg_sys::Relation) -> Option<Watch> {
        // SAFETY: the caller's promise: the fourth column is a text[].
        unsafe {
            let sources = owned_list(rows.datum(row, 4)?);
            Some(Watch {
                id: rows.datum(row, 2)?.value() as i32,
                paused: rows.datum(row, 3)?.value() != 0,
                sources: sources.iter().map(|source| Column::named(relation, source)).collect(),
                target: rows.text(row, 5).and_then(|target| Column::named(relation, &target)),
            })
        }
    }
}

/// Whether a relation is `root`, or a partition of it.
///
/// # Safety
/// `relation` is open.
unsafe fn belongs_to(
    home: &Home,
    connection: &Connection,
    relation: pg_sys::Relation,
    root: pg_sys::Oid,
) -> bool {
    // SAFETY: the caller's promise.
    let (own, is_partition) = unsafe { ((*relation).rd_id, (*(*relation).rd_rel).relispartition) };
    if own == root || !is_partition {
        return own == root;
    }
    let ancestor = "SELECT FROM pg_partition_ancestors($1) AS a WHERE a.relid = $2";
    !home.run(connection, ancestor, &[Value::oid(own), Value::oid(root)]).is_empty()
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
unsafe fn with_output(relation: pg_sys::Relation, number: pg_sys::AttrNumber) -> (Column, pg_sys::Oid) {
    // SAFETY: the caller's promise; every type has an output function.
    unsafe {
        let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
        let type_oid = pg_sys::SPI_gettypeid((*relation).rd_att, number.into());
        pg_sys::getTypeOutputInfo(type_oid, &mut function, &mut is_varlena);
        (Column::numbered(relation, number.into()), function)
    }
}
