//! The in-memory form of `vector`, identical to pgvector's:
//! `int32 vl_len_ | int16 dim | int16 unused = 0 | float4 x[dim]`, 8 + 4·dim bytes.

use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::error::Error;
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

/// Refuses numbers of dimensions that a `vector` cannot have.
pub fn check_dimensions(dim: usize) -> Result<(), Error> {
    match dim {
        0 => Err(Error::NoDimensions),
        1..=MAX_DIMENSIONS => Ok(()),
        _ => Err(Error::TooManyDimensions),
    }
}

/// Refuses a vector that does not fit its column's type modifier; -1 stands for none.
pub fn check_typmod(typmod: i32, dim: usize) -> Result<(), Error> {
    if typmod == -1 || typmod as usize == dim {
        Ok(())
    } else {
        Err(Error::UnexpectedDimensions { expected: typmod as usize, actual: dim })
    }
}

/// A `vector` that belongs to Postgres: at least one element, all of them finite (input functions see to it).
///
/// Dereferences to its elements. A copy made by detoasting is freed on drop, so that a function called a million
/// times in one memory context (a sort, say) does not fill it.
pub struct Vector<'a> {
    header: NonNull<Header>,
    free_on_drop: bool,
    lifetime: PhantomData<&'a [f32]>,
}

impl Vector<'_> {
    /// Reads a datum of type `vector`, detoasting it when it is compressed, out of line or has a short header.
    ///
    /// # Safety
    /// `datum` is a non-null `vector` that lives for `'a`.
    #[inline(always)]
    pub unsafe fn detoast<'a>(datum: pg_sys::Datum) -> Vector<'a> {
        let raw = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the caller's promise; a plain 4-byte header needs no detoasting (the usual case, kept cheap).
        let (header, free_on_drop) = unsafe {
            if varlena::varatt_is_4b_u(raw) {
                (raw, false)
            } else {
                let plain = detoasted(raw);
                (plain, plain != raw)
            }
        };
        // SAFETY: detoasting returns a non-null pointer to a varlena, which has a size.
        let (header, stored) = unsafe {
            let stored = varlena::varsize_4b(header);
            (NonNull::new_unchecked(header.cast::<Header>()), stored)
        };
        let vector = Vector { header, free_on_drop, lifetime: PhantomData };
        // SAFETY: a value of at least HEADER_BYTES has a header.
        let dim = if stored < HEADER_BYTES { 0 } else { unsafe { header.as_ref().dim } };
        if dim < 1 || stored != HEADER_BYTES + dim as usize * size_of::<f32>() {
            Error::CorruptVector { dim, bytes: stored }.raise();
        }
        vector
    }

    /// Takes the value for writing, as an aggregate may with its own state.
    ///
    /// # Safety
    /// Nothing else reads or writes the value from here on, and it is not part of a buffer page.
    pub unsafe fn into_mut(self) -> VectorBuf {
        VectorBuf { header: ManuallyDrop::new(self).header }
    }
}

/// Kept out of line, with all that a call to Postgres takes, so that [`Vector::detoast`] stays small.
///
/// # Safety
/// As for `pg_detoast_datum`.
#[cold]
#[inline(never)]
pub(super) unsafe fn detoasted(value: *mut pg_sys::varlena) -> *mut pg_sys::varlena {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::pg_detoast_datum(value) }
}

/// # Safety
/// As for `pfree`.
#[cold]
#[inline(never)]
pub(super) unsafe fn free(value: *mut pg_sys::varlena) {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::pfree(value.cast()) }
}

impl Deref for Vector<'_> {
    type Target = [f32];

    #[inline]
    fn deref(&self) -> &[f32] {
        // SAFETY: `detoast` checked that `dim` elements follow the header, and the value lives for `'a`.
        unsafe {
            let dim = self.header.as_ref().dim as usize;
            std::slice::from_raw_parts(self.header.as_ptr().add(1).cast(), dim)
        }
    }
}

impl Drop for Vector<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.free_on_drop {
            // SAFETY: `free_on_drop` is set only for a copy palloc'd by detoasting, which nothing else refers to.
            unsafe { free(self.header.as_ptr().cast()) }
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

// SAFETY: the SQL declares these results as `vector`, which this is; a detoasted copy goes to Postgres.
unsafe impl BoxRet for Vector<'_> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let datum = pg_sys::Datum::from(ManuallyDrop::new(self).header.as_ptr());
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(datum) }
    }
}

/// A `vector` to be filled and handed to Postgres, in the memory context that was current when it was made.
pub struct VectorBuf {
    header: NonNull<Header>,
}

impl VectorBuf {
    /// A vector of zeros.
    pub fn zeroed(dim: usize) -> Result<VectorBuf, Error> {
        check_dimensions(dim)?;
        let bytes = HEADER_BYTES + dim * size_of::<f32>();
        // SAFETY: palloc0 returns `bytes` zeroed bytes aligned to MAXALIGN or raises; the header fits in them.
        unsafe {
            let header = pg_sys::palloc0(bytes).cast::<Header>();
            varlena::set_varsize_4b(header.cast(), bytes as i32);
            (*header).dim = dim as i16;
            Ok(VectorBuf { header: NonNull::new_unchecked(header) })
        }
    }

    /// A vector with these elements.
    pub fn from_slice(elements: &[f32]) -> Result<VectorBuf, Error> {
        let mut vector = VectorBuf::zeroed(elements.len())?;
        vector.copy_from_slice(elements);
        Ok(vector)
    }

    /// Hands the value to Postgres.
    pub fn into_datum(self) -> pg_sys::Datum {
        self.header.as_ptr().into()
    }
}

impl Deref for VectorBuf {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `dim` elements follow the header (see `zeroed`; `into_mut` takes a checked value).
        unsafe {
            let dim = self.header.as_ref().dim as usize;
            std::slice::from_raw_parts(self.header.as_ptr().add(1).cast(), dim)
        }
    }
}

impl DerefMut for VectorBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as for `deref`, and this is the only handle on the value.
        unsafe {
            let dim = self.header.as_ref().dim as usize;
            std::slice::from_raw_parts_mut(self.header.as_ptr().add(1).cast(), dim)
        }
    }
}

impl_sql_translatable!(VectorBuf, "vector");

// SAFETY: the SQL declares these results as `vector`, and the datum is a palloc'd value of that layout.
unsafe impl BoxRet for VectorBuf {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(self.into_datum()) }
    }
}

/// A palloc'd value of the type that the SQL declaration of the function names.
pub struct Palloced(NonNull<std::ffi::c_void>);

impl Palloced {
    /// A varlena with `len` bytes after its 4-byte header, zeros until `fill` sets them.
    pub fn varlena(len: usize, fill: impl FnOnce(&mut [u8])) -> Palloced {
        let bytes = pg_sys::VARHDRSZ + len;
        // SAFETY: palloc0 returns `bytes` zeroed bytes or raises, and nothing else refers to them.
        unsafe {
            let value = NonNull::new_unchecked(pg_sys::palloc0(bytes));
            varlena::set_varsize_4b(value.as_ptr().cast(), bytes as i32);
            fill(std::slice::from_raw_parts_mut(value.as_ptr().cast::<u8>().add(pg_sys::VARHDRSZ), len));
            Palloced(value)
        }
    }

    /// `len` bytes without a header, a cstring say, all that Postgres will read of them set by `fill`.
    pub fn bytes(len: usize, fill: impl FnOnce(&mut [MaybeUninit<u8>])) -> Palloced {
        // SAFETY: palloc returns `len` bytes or raises, and nothing else refers to them.
        unsafe {
            let value = NonNull::new_unchecked(pg_sys::palloc(len));
            fill(std::slice::from_raw_parts_mut(value.as_ptr().cast(), len));
            Palloced(value)
        }
    }
}

impl_sql_translatable!(Palloced, "internal");

// SAFETY: the functions that return this build what their SQL declaration names.
unsafe impl BoxRet for Palloced {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(pg_sys::Datum::from(self.0.as_ptr())) }
    }
}
