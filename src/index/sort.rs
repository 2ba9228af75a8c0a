//! Encoded rows sorted by their lists, on disk if they need more memory than there is.

use std::ptr::null_mut;
use std::thread::panicking;

use ivf::train::RowSort;
use pgrx::{pg_sys, varlena};

/// Who else takes part in a sort.
#[derive(Clone, Copy)]
pub enum Role {
    Alone,
    /// Sorts a part of the rows, which the leader will read: this one cannot.
    Worker(*mut pg_sys::Sharedsort),
    /// Merges what so many workers have sorted; takes no rows of its own.
    Leader(*mut pg_sys::Sharedsort, i32),
}

/// A `tuplesort` of (list, row).
pub struct Sort {
    state: *mut pg_sys::Tuplesortstate,
    /// For rows on their way in.
    input: *mut pg_sys::TupleTableSlot,
    /// For rows on their way out.
    output: *mut pg_sys::TupleTableSlot,
    /// The row as a `bytea`.
    bytes: Vec<u8>,
}

impl Sort {
    /// `memory`: KiB.
    ///
    /// # Safety
    /// What `role` shares outlives this; a leader's workers have all sorted their rows.
    pub unsafe fn new(memory: i32, role: Role) -> Sort {
        let mut coordinate = match role {
            Role::Alone => None,
            // -1: "I am one of them, and do not care how many there are", as Postgres wants it.
            Role::Worker(sharedsort) => {
                Some(pg_sys::SortCoordinateData { isWorker: true, nParticipants: -1, sharedsort })
            }
            Role::Leader(sharedsort, workers) => {
                Some(pg_sys::SortCoordinateData { isWorker: false, nParticipants: workers, sharedsort })
            }
        };
        let mut columns: [pg_sys::AttrNumber; 1] = [1];
        let mut operators = [pg_sys::Oid::from(pg_sys::Int4LessOperator)];
        let mut collations = [pg_sys::InvalidOid];
        let mut nulls_first = [false];
        // SAFETY: a description of two columns, and one sort key; the arrays and `coordinate` are copied or only read
        // at once; the rest is the caller's promise.
        unsafe {
            let columns_of_row = pg_sys::CreateTemplateTupleDesc(2);
            pg_sys::TupleDescInitEntry(columns_of_row, 1, c"list".as_ptr(), pg_sys::INT4OID, -1, 0);
            pg_sys::TupleDescInitEntry(columns_of_row, 2, c"row".as_ptr(), pg_sys::BYTEAOID, -1, 0);
            let state = pg_sys::tuplesort_begin_heap(
                columns_of_row,
                1,
                columns.as_mut_ptr(),
                operators.as_mut_ptr(),
                collations.as_mut_ptr(),
                nulls_first.as_mut_ptr(),
                memory,
                coordinate.as_mut().map_or(null_mut(), |coordinate| coordinate),
                Default::default(), // rows are read once, in order
            );
            let input = pg_sys::MakeSingleTupleTableSlot(columns_of_row, &raw const pg_sys::TTSOpsVirtual);
            let output =
                pg_sys::MakeSingleTupleTableSlot(columns_of_row, &raw const pg_sys::TTSOpsMinimalTuple);
            Sort { state, input, output, bytes: Vec::new() }
        }
    }
}

impl RowSort for Sort {
    fn push(&mut self, list: u32, row: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; pg_sys::VARHDRSZ]);
        self.bytes.extend_from_slice(row);
        // SAFETY: the slot has two columns; a row is far smaller than a varlena can be; the sort copies it.
        unsafe {
            varlena::set_varsize_4b(self.bytes.as_mut_ptr().cast(), self.bytes.len() as i32);
            pg_sys::ExecClearTuple(self.input);
            let (values, nulls) = ((*self.input).tts_values, (*self.input).tts_isnull);
            values.write(pg_sys::Datum::from(list as i32));
            values.add(1).write(pg_sys::Datum::from(self.bytes.as_mut_ptr()));
            nulls.write(false);
            nulls.add(1).write(false);
            pg_sys::ExecStoreVirtualTuple(self.input);
            pg_sys::tuplesort_puttupleslot(self.state, self.input);
        }
    }

    fn sort(&mut self) {
        // SAFETY: the state lives until it is dropped.
        unsafe { pg_sys::tuplesort_performsort(self.state) }
    }

    fn next(&mut self) -> Option<(u32, &[u8])> {
        // SAFETY: the slot has the two columns that were pushed, never null, and keeps a row until the next one.
        unsafe {
            if !pg_sys::tuplesort_gettupleslot(self.state, true, false, self.output, null_mut()) {
                return None;
            }
            pg_sys::slot_getsomeattrs_int(self.output, 2);
            let values = (*self.output).tts_values;
            let list = (*values).value() as u32;
            let row = (*values.add(1)).cast_mut_ptr::<pg_sys::varlena>();
            let bytes = varlena::vardata_any(row).cast::<u8>();
            Some((list, std::slice::from_raw_parts(bytes, varlena::varsize_any_exhdr(row))))
        }
    }
}

impl Drop for Sort {
    fn drop(&mut self) {
        // After an ERROR the transaction's abort frees memory and files.
        if !panicking() {
            // SAFETY: made in `new`, and not used any more.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.input);
                pg_sys::ExecDropSingleTupleTableSlot(self.output);
                pg_sys::tuplesort_end(self.state);
            }
        }
    }
}
