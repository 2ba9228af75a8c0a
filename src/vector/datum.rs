//! The in-memory form of `vector`, identical to pgvector's:
//! `int32 vl_len_ | int16 dim | int16 unused = 0 | float4 x[dim]`, 8 + 4·dim bytes.

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::{FromDatum, impl_sql_translatable, pg_sys, varlena};

/// Dimensions a `vector` can have at most; pgvector's limit.
pub const MAX_DIMENSIONS: usize = 16_000;

#[repr(C)]
struct Header {
    vl_len_: i32,
    dim: i16,
    unused: i16,
}

const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(HEADER_BYTES == 8);

/// A `vector` value in Postgres memory: at least one element, all of them finite (input functions see to it).
///
/// Dereferences to its elements. A copy made by detoasting is freed on drop, so that a function called a million
/// times in one memory context (a sort, say) does not fill it.
pub struct Vector<'a> {
    header: NonNull<Header>,
    free_on_drop: bool,
    lifetime: PhantomData<&'a [f32]>,
}

impl Vector<'_> {
    /// Allocates a zeroed vector in the current memory context.
    ///
    /// # Panics
    /// Raises a Postgres ERROR when memory runs out. `dim` is within `1..=MAX_DIMENSIONS` by the callers' checks.
    pub fn zeroed(dim: usize) -> Vector<'static> {
        debug_assert!((1..=MAX_DIMENSIONS).contains(&dim));
        let bytes = HEADER_BYTES + dim * size_of::<f32>();
        // SAFETY: palloc0 returns `bytes` zeroed bytes aligned to MAXALIGN or raises; the header fits in them.
        unsafe {
            let header = pg_sys::palloc0(bytes).cast::<Header>();
            varlena::set_varsize_4b(header.cast(), bytes as i32);
            (*header).dim = dim as i16;
            Vector { header: NonNull::new_unchecked(header), free_on_drop: false, lifetime: PhantomData }
        }
    }

    /// Allocates a vector with these elements in the current memory context.
    pub fn from_slice(elements: &[f32]) -> Vector<'static> {
        let mut vector = Vector::zeroed(elements.len());
        vector.elements_mut().copy_from_slice(elements);
        vector
    }

    /// The elements, for filling a vector that [`Vector::zeroed`] made.
    pub fn elements_mut(&mut self) -> &mut [f32] {
        // SAFETY: `&mut self` is the only handle on a value this module allocated with room for `dim` elements.
        unsafe {
            let dim = self.header.as_ref().dim as usize;
            std::slice::from_raw_parts_mut(self.header.as_ptr().add(1).cast(), dim)
        }
    }

    /// Reads a datum of type `vector`, detoasting it when it is compressed, out of line or has a short header.
    ///
    /// # Safety
    /// `datum` is a non-null `vector` that lives for `'a`.
    pub unsafe fn detoast<'a>(datum: pg_sys::Datum) -> Vector<'a> {
        let raw = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the caller's promise; a plain 4-byte header needs no detoasting (the usual case, kept cheap).
        let (header, free_on_drop) = unsafe {
            if varlena::varatt_is_4b_u(raw) {
                (raw, false)
            } else {
                let copy = pg_sys::pg_detoast_datum(raw);
                (copy, copy != raw)
            }
        };
        // SAFETY: detoasting returns a non-null pointer to a varlena of at least a header.
        unsafe {
            let vector = Vector {
                header: NonNull::new_unchecked(header.cast::<Header>()),
                free_on_drop,
                lifetime: PhantomData,
            };
            let stored = varlena::varsize_4b(header) as usize;
            let dim = vector.header.as_ref().dim;
            if dim < 1 || stored != HEADER_BYTES + dim as usize * size_of::<f32>() {
                crate::error::Error::CorruptVector { dim, bytes: stored }.raise();
            }
            vector
        }
    }

    /// Hands the value to Postgres, which owns it from here on.
    pub fn into_datum(self) -> pg_sys::Datum {
        let datum = pg_sys::Datum::from(self.header.as_ptr());
        std::mem::forget(self);
        datum
    }
}

impl Deref for Vector<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `detoast` and `zeroed` checked that `dim` elements follow the header.
        unsafe {
            let dim = self.header.as_ref().dim as usize;
            std::slice::from_raw_parts(self.header.as_ptr().add(1).cast(), dim)
        }
    }
}

impl Drop for Vector<'_> {
    fn drop(&mut self) {
        if self.free_on_drop {
            // SAFETY: `free_on_drop` is set only for a copy palloc'd by detoasting, which nothing else refers to.
            unsafe { pg_sys::pfree(self.header.as_ptr().cast()) }
        }
    }
}

impl FromDatum for Vector<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: the caller promises a datum of type `vector` unless `is_null`.
        (!is_null).then(|| unsafe { Vector::detoast(datum) })
    }
}

impl_sql_translatable!(Vector<'_>, "vector");

// SAFETY: the SQL declares these arguments as `vector`.
unsafe impl<'fcx> ArgAbi<'fcx> for Vector<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller promises a non-null `vector`.
        unsafe { arg.unbox_arg_using_from_datum().unwrap_unchecked() }
    }
}

// SAFETY: the SQL declares these results as `vector`, and the datum is a palloc'd value of that layout.
unsafe impl BoxRet for Vector<'_> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.into_datum()) }
    }
}
