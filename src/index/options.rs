//! Options of an index: `WITH (lists = ..., bits = ..., rerank = ...)`.

use std::cell::OnceCell;
use std::mem::offset_of;
use std::ptr::{null, null_mut};

use ivf::scan::Order;
use pgrx::pg_sys::relopt_type::{RELOPT_TYPE_ENUM, RELOPT_TYPE_INT};
use pgrx::{pg_guard, pg_sys};

/// Lists that an index can have, and a scan can read.
pub const MAX_LISTS: i32 = ivf::build::MAX_LISTS as i32;

/// Lists are chosen by the number of rows.
const AUTOMATIC_LISTS: i32 = 0;

const MAX_BITS: i32 = 8;
/// About two surplus heap fetches for ten rows (measured, see design/ivf.md); fewer bits save space and fetch more.
const DEFAULT_BITS: i32 = 8;

/// As Postgres keeps them with the relation.
#[repr(C)]
struct Stored {
    vl_len_: i32,
    lists: i32,
    bits: i32,
    rerank: i32,
}

const RERANK_AUTO: i32 = 0;
const RERANK_ON: i32 = 1;
const RERANK_OFF: i32 = 2;

struct Names([pg_sys::relopt_enum_elt_def; 4]);

// SAFETY: pointers to constants; Postgres's C code takes them as mutable, but only reads.
unsafe impl Sync for Names {}

static RERANK_NAMES: Names = Names([
    pg_sys::relopt_enum_elt_def { string_val: c"auto".as_ptr(), symbol_val: RERANK_AUTO },
    pg_sys::relopt_enum_elt_def { string_val: c"on".as_ptr(), symbol_val: RERANK_ON },
    pg_sys::relopt_enum_elt_def { string_val: c"off".as_ptr(), symbol_val: RERANK_OFF },
    pg_sys::relopt_enum_elt_def { string_val: null(), symbol_val: 0 },
]);

/// The options of an index.
pub struct Options {
    /// `None`: by the number of rows.
    pub lists: Option<usize>,
    /// Bits of code a dimension, 1..=8.
    pub bits: usize,
    rerank: i32,
}

impl Options {
    /// # Safety
    /// `index` is an open index of this access method.
    pub unsafe fn of(index: pg_sys::Relation) -> Options {
        // SAFETY: the caller's promise; what `amoptions` made is a `Stored`.
        let stored = unsafe { (*index).rd_options.cast::<Stored>().as_ref() };
        let (lists, bits, rerank) =
            stored.map_or((AUTOMATIC_LISTS, DEFAULT_BITS, RERANK_AUTO), |o| (o.lists, o.bits, o.rerank));
        let lists = (lists != AUTOMATIC_LISTS).then_some(lists as usize);
        Options { lists, bits: bits as usize, rerank }
    }

    /// What a scan returns. Unless told otherwise, an index on an expression does not let the executor compute the
    /// distance: it would have to evaluate the expression, which may run a model, for every row.
    pub fn order(&self, on_expression: bool) -> Order {
        match self.rerank {
            RERANK_ON => Order::Bound,
            RERANK_OFF => Order::Estimate,
            _ if on_expression => Order::Estimate,
            _ => Order::Bound,
        }
    }
}

/// Our kind of options, which Postgres learns about once in a session.
fn kind() -> pg_sys::relopt_kind::Type {
    thread_local!(static KIND: OnceCell<pg_sys::relopt_kind::Type> = const { OnceCell::new() });
    KIND.with(|kind| *kind.get_or_init(register))
}

fn register() -> pg_sys::relopt_kind::Type {
    let lock = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: names and descriptions are NUL-terminated and copied; the names of `rerank` are static.
    unsafe {
        let kind = pg_sys::add_reloption_kind();
        // The default is outside of the bounds: it cannot be written, as in pgvector, only left out.
        pg_sys::add_int_reloption(
            kind,
            c"lists".as_ptr(),
            c"Number of lists; chosen by the number of rows if it is not set".as_ptr(),
            AUTOMATIC_LISTS,
            1,
            MAX_LISTS,
            lock,
        );
        pg_sys::add_int_reloption(
            kind,
            c"bits".as_ptr(),
            c"Bits a dimension that the index keeps of a vector".as_ptr(),
            DEFAULT_BITS,
            1,
            MAX_BITS,
            lock,
        );
        pg_sys::add_enum_reloption(
            kind,
            c"rerank".as_ptr(),
            c"Whether rows are put into the order of their exact distances".as_ptr(),
            RERANK_NAMES.0.as_ptr().cast_mut(),
            RERANK_AUTO,
            c"Valid values are \"on\", \"off\", and \"auto\".".as_ptr(),
            lock,
        );
        kind
    }
}

/// `amoptions`
#[pg_guard]
#[allow(clippy::needless_update)] // PostgreSQL 18 has a field more
pub unsafe extern "C-unwind" fn options(reloptions: pg_sys::Datum, validate: bool) -> *mut pg_sys::bytea {
    let element = |name: &'static std::ffi::CStr, opttype, offset: usize| pg_sys::relopt_parse_elt {
        optname: name.as_ptr(),
        opttype,
        offset: offset as i32,
        ..Default::default()
    };
    let table = [
        element(c"lists", RELOPT_TYPE_INT, offset_of!(Stored, lists)),
        element(c"bits", RELOPT_TYPE_INT, offset_of!(Stored, bits)),
        element(c"rerank", RELOPT_TYPE_ENUM, offset_of!(Stored, rerank)),
    ];
    // SAFETY: the offsets are those of the struct whose size is given.
    let built = unsafe {
        let size = size_of::<Stored>();
        pg_sys::build_reloptions(reloptions, validate, kind(), size, table.as_ptr(), table.len() as i32)
    };
    if built.is_null() { null_mut() } else { built.cast() }
}
