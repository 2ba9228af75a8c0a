//! A window function's partition: a sample of its vectors, and what was learned from it.

use std::ffi::{c_int, c_void};

use ivf::random::SplitMix64;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{FromDatum, PgMemoryContexts, pg_sys};

use crate::error::{AnalysisError, Error};
use crate::vector::Vector;

// Of windowapi.h, which pgrx leaves out. Those that may raise an ERROR are called behind pgrx's guard.
unsafe extern "C-unwind" {
    fn WinGetPartitionLocalMemory(window: *mut pg_sys::WindowObjectData, size: usize) -> *mut c_void;
    fn WinGetPartitionRowCount(window: *mut pg_sys::WindowObjectData) -> i64;
    fn WinGetFuncArgInPartition(
        window: *mut pg_sys::WindowObjectData,
        argument: c_int,
        position: c_int,
        seek_type: c_int,
        set_mark: bool,
        is_null: *mut bool,
        is_out: *mut bool,
    ) -> pg_sys::Datum;
    fn WinGetFuncArgCurrent(
        window: *mut pg_sys::WindowObjectData,
        argument: c_int,
        is_null: *mut bool,
    ) -> pg_sys::Datum;
}

/// WINDOW_SEEK_HEAD: positions are counted from the partition's first row.
const SEEK_HEAD: c_int = 1;

/// The argument that is the vector.
const VECTOR: c_int = 0;

/// A call of a window function whose first argument is a vector.
pub struct Window(*mut pg_sys::WindowObjectData);

/// What was learned from a partition. Postgres keeps it, zeroed at first, until the partition's end.
struct Kept {
    /// Those of the first row.
    arguments: [i32; 2],
    numbers: *mut f32,
    count: usize,
    dims: usize,
}

/// Vectors of a partition, one after the other.
pub struct Sample {
    pub vectors: Vec<f32>,
    /// 0 if all vectors are NULL.
    pub dims: usize,
}

/// How much a sample may take.
pub struct Budget<'a> {
    /// Bytes to learn from so many rows, of so many dimensions, the sample itself left out.
    pub memory: &'a dyn Fn(usize, usize) -> usize,
    /// Fewer vectors than these, unless the partition has no more, are not worth learning from.
    pub least_rows: usize,
    /// What is to be said of the dimensions.
    pub check: &'a dyn Fn(usize) -> Result<(), Error>,
}

impl Window {
    /// # Safety
    /// `fcinfo` is that of a running window function. What is made of it does not outlive the call.
    pub unsafe fn of_call(fcinfo: pg_sys::FunctionCallInfo) -> Result<Window, Error> {
        // SAFETY: the caller's promise. A call as an ordinary function has no window.
        let window = unsafe { (*fcinfo).context };
        let is_window =
            // SAFETY: null or a node.
            !window.is_null() && unsafe { (*window).type_ } == pg_sys::NodeTag::T_WindowObjectData;
        if is_window { Ok(Window(window.cast())) } else { Err(AnalysisError::NoWindow.into()) }
    }

    /// An argument of the current row; `None` for NULL.
    fn argument(&self, argument: c_int) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: a window, and an argument that the function's declaration has.
        let datum = unsafe { pg_guard_ffi_boundary(|| WinGetFuncArgCurrent(self.0, argument, &mut is_null)) };
        (!is_null).then_some(datum)
    }

    /// An argument of type `integer`.
    pub fn integer(&self, argument: c_int) -> Option<i32> {
        self.argument(argument).map(|datum| datum.value() as i32)
    }

    /// The vector of the current row.
    ///
    /// # Errors
    /// [`Error::UnexpectedDimensions`]
    pub fn vector(&self, dims: usize) -> Result<Option<Vector<'_>>, Error> {
        // SAFETY: the function is declared with a vector first. A detoasted copy lives as long as the call.
        let vector = self.argument(VECTOR).and_then(|datum| unsafe { Vector::from_datum(datum, false) });
        vector.map(|vector| check_dimensions(&vector, dims).map(|()| vector)).transpose()
    }

    /// What was learned from the partition, and the dimensions of its vectors, by `learn` if this is the first row. `arguments`: what
    /// it depends on, the same for all rows.
    pub fn learned(
        &self,
        arguments: [i32; 2],
        budget: Budget,
        learn: impl FnOnce(Sample) -> Result<Vec<f32>, Error>,
    ) -> Result<(&[f32], usize), Error> {
        // SAFETY: Postgres gives zeroed memory, aligned for anything, and the same for each call of a partition.
        let kept = unsafe {
            let memory = pg_guard_ffi_boundary(|| WinGetPartitionLocalMemory(self.0, size_of::<Kept>()));
            &mut *memory.cast::<Kept>()
        };
        if kept.numbers.is_null() {
            let sample = self.sample(budget)?;
            let dims = sample.dims;
            let learned = if dims == 0 { vec![] } else { learn(sample)? };
            // SAFETY: memory beside Postgres's own for the partition, large enough for the numbers.
            unsafe {
                let context = pg_sys::GetMemoryChunkContext((&raw mut *kept).cast());
                let bytes = size_of_val(learned.as_slice()).max(1);
                let numbers = pg_sys::MemoryContextAllocHuge(context, bytes).cast::<f32>();
                numbers.copy_from_nonoverlapping(learned.as_ptr(), learned.len());
                *kept = Kept { arguments, numbers, count: learned.len(), dims };
            }
        }
        if kept.arguments != arguments {
            return Err(AnalysisError::OtherArguments.into());
        }
        // SAFETY: so many numbers, which live as long as the partition.
        Ok((unsafe { std::slice::from_raw_parts(kept.numbers, kept.count) }, kept.dims))
    }

    /// As many vectors as `work_mem` has room for, chosen at random, the same ones each time: each vector has the same chance to be
    /// among them (Vitter's algorithm R).
    fn sample(&self, budget: Budget) -> Result<Sample, Error> {
        // SAFETY: a window; reads a setting.
        let (rows, available) = unsafe {
            (
                // Positions are 32-bit.
                pg_guard_ffi_boundary(|| WinGetPartitionRowCount(self.0)).min(i32::MAX.into()) as usize,
                pg_sys::work_mem as usize * 1024,
            )
        };
        let mut sample = Sample { vectors: vec![], dims: 0 };
        let (mut seen, mut room) = (0, 0);
        let mut random = SplitMix64(0);
        let mut scratch = PgMemoryContexts::new("pg_embed sample");
        for position in 0..rows {
            pgrx::check_for_interrupts!();
            let mut take = |vector: &[f32]| {
                if seen == 0 {
                    (budget.check)(vector.len())?;
                    sample.dims = vector.len();
                    room = budget.rows(available, vector.len(), rows - position)?;
                    sample.vectors.reserve_exact(room * vector.len());
                }
                seen += 1;
                if seen > room && room < budget.least_rows {
                    let needed = budget.needed(budget.least_rows, sample.dims);
                    return Err(AnalysisError::Memory { needed, available }.into());
                }
                let at = if seen <= room { seen - 1 } else { random.below(seen) };
                if at < room { sample.put(at, vector) } else { check_dimensions(vector, sample.dims) }
            };
            // SAFETY: the vector is copied before the context is reset.
            unsafe {
                scratch.switch_to(|_| self.vector_at(position).map_or(Ok(()), |vector| take(&vector)))?;
                scratch.reset();
            }
        }
        Ok(sample)
    }

    /// The vector of a row of the partition; it lives in the current memory context.
    ///
    /// # Safety
    /// The caller's context outlives the vector.
    unsafe fn vector_at(&self, position: usize) -> Option<Vector<'_>> {
        let (mut is_null, mut is_out) = (false, false);
        // SAFETY: a window, and a position in its partition; no mark is set, so all rows stay.
        unsafe {
            let datum = pg_guard_ffi_boundary(|| {
                WinGetFuncArgInPartition(
                    self.0,
                    VECTOR,
                    position as c_int,
                    SEEK_HEAD,
                    false,
                    &mut is_null,
                    &mut is_out,
                )
            });
            Vector::from_datum(datum, is_null || is_out)
        }
    }
}

impl Sample {
    /// At a place that is taken, or at the end.
    fn put(&mut self, at: usize, vector: &[f32]) -> Result<(), Error> {
        check_dimensions(vector, self.dims)?;
        match self.vectors.get_mut(at * self.dims..(at + 1) * self.dims) {
            Some(place) => place.copy_from_slice(vector),
            None => self.vectors.extend_from_slice(vector),
        }
        Ok(())
    }
}

fn check_dimensions(vector: &[f32], expected: usize) -> Result<(), Error> {
    match vector.len() {
        actual if actual == expected => Ok(()),
        actual => Err(Error::UnexpectedDimensions { expected, actual }),
    }
}

/// For those who learn. An ERROR unwinds.
pub fn check_interrupts() -> Result<(), Error> {
    pgrx::check_for_interrupts!();
    Ok(())
}

impl Budget<'_> {
    /// How many vectors of at most `rows` there is room for.
    fn rows(&self, available: usize, dims: usize, rows: usize) -> Result<usize, Error> {
        let (mut fitting, mut most) = (0, rows);
        while fitting < most {
            let middle = fitting + (most - fitting).div_ceil(2);
            if self.needed(middle, dims) <= available {
                fitting = middle;
            } else {
                most = middle - 1;
            }
        }
        embedder::ensure_memory(self.needed(fitting, dims))?;
        Ok(fitting)
    }

    /// Bytes to learn from so many vectors.
    fn needed(&self, rows: usize, dims: usize) -> usize {
        let sample = rows.saturating_mul(dims * size_of::<f32>());
        sample.saturating_add((self.memory)(rows, dims))
    }
}
