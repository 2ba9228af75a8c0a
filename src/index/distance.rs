//! The exact distance of a table's row, as the operator computes it.

use std::ptr::null_mut;

use ivf::metric::Metric;
use pgrx::pg_sys;

use crate::error::Error;
use crate::vector::Vector;

/// Whether there is a distance from a vector at all: from a zero vector there is none by the cosine.
pub fn has_distance(metric: Metric, vector: &[f32]) -> bool {
    metric.operator(vector, vector).is_ok_and(|distance| !distance.is_nan())
}

/// Computes what an index's column or expression is for a row, and how far that is.
pub struct RowDistance {
    metric: Metric,
    info: *mut pg_sys::IndexInfo,
    /// For the index's expression.
    state: *mut pg_sys::EState,
    slot: *mut pg_sys::TupleTableSlot,
}

impl RowDistance {
    /// Everything is allocated in the current memory context, or below it.
    ///
    /// # Safety
    /// `table` is open, and `info` describes an index on it; both stay until [`RowDistance::free`].
    pub unsafe fn new(table: pg_sys::Relation, info: *mut pg_sys::IndexInfo, metric: Metric) -> RowDistance {
        // SAFETY: the caller's promise.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let slot = pg_sys::table_slot_create(table, null_mut());
            (*pg_sys::MakePerTupleExprContext(state)).ecxt_scantuple = slot;
            RowDistance { metric, info, state, slot }
        }
    }

    /// Where the row is to be put.
    pub fn slot(&self) -> *mut pg_sys::TupleTableSlot {
        self.slot
    }

    /// NaN where the index has no value.
    ///
    /// # Safety
    /// The slot holds a row of the table.
    pub unsafe fn of_slot(&self, query: &[f32]) -> Result<f64, Error> {
        const COLUMNS: usize = pg_sys::INDEX_MAX_KEYS as usize;
        let mut values = [pg_sys::Datum::null(); COLUMNS];
        let mut nulls = [false; COLUMNS];
        // SAFETY: the caller's promise; there is room for all columns, the first of which is of type `vector`.
        unsafe {
            let context = (*(*self.state).es_per_tuple_exprcontext).ecxt_per_tuple_memory;
            let distance = pgrx::PgMemoryContexts::For(context).switch_to(|_| {
                let (to, null) = (values.as_mut_ptr(), nulls.as_mut_ptr());
                pg_sys::FormIndexDatum(self.info, self.slot, self.state, to, null);
                if nulls[0] {
                    return Ok(f64::NAN);
                }
                let vector = Vector::detoast(values[0]);
                Ok(self.metric.operator(&vector, query)?)
            });
            pg_sys::MemoryContextReset(context);
            distance
        }
    }

    /// Not done by dropping: after an ERROR the memory has gone before, with its context.
    ///
    /// # Safety
    /// The memory context that this was made in is there, and this is not used any more.
    pub unsafe fn free(&mut self) {
        // SAFETY: made in `new`; the prepared expression belongs to the state that goes.
        unsafe {
            (*self.info).ii_ExpressionsState = null_mut();
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::FreeExecutorState(self.state);
        }
    }
}
