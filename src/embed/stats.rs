//! What the models have done: in the whole cluster where the server has preloaded the library, else in this process.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgrx::iter::TableIterator;
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgLwLock, pg_shmem_init};

use crate::error::presentable;

/// What was done for a model.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Calls of SQL functions, and rows of the trigger.
    pub calls: u64,
    /// Texts that were asked for, NULLs left out.
    pub texts: u64,
    /// Tokens that the model computed, padding left out.
    pub tokens: u64,
    /// Texts that were longer than the model's maximum.
    pub truncations: u64,
    /// Texts whose result was in the cache.
    pub cache_hits: u64,
    /// Spent on the other texts.
    pub time: Duration,
}

/// Counters of a model: those of [`Counts`] in their order, the time in nanoseconds.
const COUNTERS: usize = 6;

impl Counts {
    fn to_numbers(self) -> [u64; COUNTERS] {
        let Counts { calls, texts, tokens, truncations, cache_hits, time } = self;
        [calls, texts, tokens, truncations, cache_hits, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)]
    }

    fn from_numbers([calls, texts, tokens, truncations, cache_hits, nanoseconds]: [u64; COUNTERS]) -> Counts {
        Counts { calls, texts, tokens, truncations, cache_hits, time: Duration::from_nanos(nanoseconds) }
    }

    fn add(&mut self, more: Counts) {
        let (mut sum, more) = (self.to_numbers(), more.to_numbers());
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        *self = Counts::from_numbers(sum);
    }
}

/// Models that are counted cluster-wide; more are not counted. A server has a handful, and each takes 0.3 kB.
const MAX_MODELS: usize = 64;

/// Bytes of the longest name of a folder on Linux (NAME_MAX).
const MAX_NAME: usize = 255;

/// A model's counters in shared memory. An unused one has an empty name.
struct Slot {
    name_length: u8,
    name: [u8; MAX_NAME],
    counters: [AtomicU64; COUNTERS],
}

impl Slot {
    fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.name_length)]
    }

    /// For those who hold the lock in whatever mode.
    fn add(&self, counts: Counts) {
        for (counter, number) in self.counters.iter().zip(counts.to_numbers()) {
            counter.fetch_add(number, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> Counts {
        Counts::from_numbers(self.counters.each_ref().map(|counter| counter.load(Ordering::Relaxed)))
    }
}

impl Default for Slot {
    fn default() -> Self {
        Slot { name_length: 0, name: [0; MAX_NAME], counters: Default::default() }
    }
}

struct Table([Slot; MAX_MODELS]);

impl Default for Table {
    fn default() -> Self {
        Table(std::array::from_fn(|_| Slot::default()))
    }
}

// SAFETY: it holds bytes and atomic numbers, and no pointer.
unsafe impl PGRXSharedMemory for Table {}

/// The lock guards the names. Counters are added to by those who share it.
// SAFETY: the name is this extension's own.
static SHARED: PgLwLock<Table> = unsafe { PgLwLock::new(c"pg_embed_stats") };

/// Whether [`SHARED`] is there: the postmaster asked for it. Its children inherit the answer.
static IS_SHARED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// What this process has done, or, where [`SHARED`] is there, what has not been added to it yet.
    static LOCAL: RefCell<Vec<(String, Counts)>> = const { RefCell::new(vec![]) };
}

/// Asks for shared memory. For a library that the postmaster loads at its start.
#[allow(unexpected_cfgs)] // pgrx's macro asks for pg13
pub fn share() {
    pg_shmem_init!(SHARED = Table::default());
    // SAFETY: the callback stays, as does the library.
    unsafe { pg_sys::RegisterXactCallback(Some(at_end_of_transaction), std::ptr::null_mut()) };
    IS_SHARED.store(true, Ordering::Relaxed);
}

/// Counts what was done for a model.
///
/// What only the cache has answered, every row of a scan maybe, waits for the end of the transaction: no processor has
/// to wait for the others then.
pub fn record(model: &str, counts: Counts) {
    LOCAL.with_borrow_mut(|local| {
        match local.iter_mut().find(|(name, _)| name == model) {
            Some((_, sum)) => sum.add(counts),
            None => local.push((model.to_string(), counts)),
        }
        if counts.cache_hits < counts.texts {
            flush(local);
        }
    });
}

/// Adds what is in `local` to the shared counters, if there are any.
fn flush(local: &mut Vec<(String, Counts)>) {
    if !IS_SHARED.load(Ordering::Relaxed) {
        return;
    }
    for (name, counts) in local.drain(..) {
        let name = name.as_bytes();
        let known = SHARED.share().0.iter().find(|slot| slot.name() == name).map(|slot| slot.add(counts));
        if known.is_none() {
            add_to_new(name, counts);
        }
    }
}

/// Adds to a slot that may have to be taken first.
fn add_to_new(name: &[u8], counts: Counts) {
    let Ok(name_length) = u8::try_from(name.len()) else { return };
    let mut table = SHARED.exclusive();
    // Another process may have been faster. Names fill the table from its start.
    if let Some(slot) = table.0.iter_mut().find(|slot| slot.name() == name || slot.name_length == 0) {
        slot.name_length = name_length;
        slot.name[..name.len()].copy_from_slice(name);
        slot.add(counts);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end_of_transaction(_event: pg_sys::XactEvent::Type, _state: *mut c_void) {
    // It is there and borrowed by nobody, but nothing in here may fail. An error that ended the transaction has
    // unwound.
    let _ = LOCAL.try_with(|local| local.try_borrow_mut().map(|mut local| flush(&mut local)));
}

/// One row for each model that was asked for something, by name.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the columns of the SQL declaration
fn embed_stats() -> TableIterator<
    'static,
    (
        name!(model, String),
        name!(calls, i64),
        name!(texts, i64),
        name!(tokens, i64),
        name!(truncations, i64),
        name!(cache_hits, i64),
        name!(seconds, f64),
    ),
> {
    let mut found = LOCAL.with_borrow_mut(|local| {
        flush(local);
        local.clone()
    });
    if IS_SHARED.load(Ordering::Relaxed) {
        let table = SHARED.share();
        let used = table.0.iter().take_while(|slot| slot.name_length > 0);
        found.extend(used.map(|slot| (String::from_utf8_lossy(slot.name()).into_owned(), slot.counts())));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    TableIterator::new(found.into_iter().map(|(name, counts)| {
        let [calls, texts, tokens, truncations, cache_hits, _] =
            counts.to_numbers().map(|number| number as i64);
        let seconds = counts.time.as_secs_f64();
        (presentable(name), calls, texts, tokens, truncations, cache_hits, seconds)
    }))
}
