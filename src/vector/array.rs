//! Postgres arrays read, changed and built in place, without a datum per element.

use std::ffi::c_char;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use super::datum::{detoasted, free};
use pgrx::array::RawArray;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::{direct_function_call, impl_sql_translatable, pg_sys, varlena};

/// A type whose values lie one after the other in an array without nulls.
///
/// # Safety
/// `OID` is the type whose array elements have exactly this representation, and every bit pattern is a value.
pub unsafe trait Element: Copy {
    const OID: pg_sys::Oid;
}

// SAFETY: pg_type's int4, float4 and float8.
unsafe impl Element for i32 {
    const OID: pg_sys::Oid = pg_sys::INT4OID;
}
// SAFETY: as above.
unsafe impl Element for f32 {
    const OID: pg_sys::Oid = pg_sys::FLOAT4OID;
}
// SAFETY: as above.
unsafe impl Element for f64 {
    const OID: pg_sys::Oid = pg_sys::FLOAT8OID;
}

/// An array argument, detoasted; a copy made for that is freed on drop.
pub struct Array {
    header: NonNull<pg_sys::ArrayType>,
    free_on_drop: bool,
}

impl Array {
    /// # Safety
    /// `datum` is a non-null array that outlives the value.
    unsafe fn detoast(datum: pg_sys::Datum) -> Array {
        let raw = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the caller's promise; a plain 4-byte header needs no detoasting.
        unsafe {
            let plain = if varlena::varatt_is_4b_u(raw) { raw } else { detoasted(raw) };
            Array { header: NonNull::new_unchecked(plain.cast()), free_on_drop: plain != raw }
        }
    }

    /// A one-dimensional array of `len` elements, zeros until `fill` sets them.
    pub fn build<T: Element>(len: usize, fill: impl FnOnce(&mut [T])) -> Array {
        // Header, one dimension, one lower bound; no padding, as 24 is a multiple of MAXALIGN.
        const DATA_OFFSET: usize = size_of::<pg_sys::ArrayType>() + 2 * size_of::<i32>();
        const { assert!(DATA_OFFSET.is_multiple_of(8)) };
        let bytes = DATA_OFFSET + len * size_of::<T>();
        // SAFETY: palloc0 returns `bytes` zeroed bytes aligned to MAXALIGN or raises, enough for header and elements;
        // zeros are values of `T`. A data offset of 0 in the header says that there are no nulls.
        let (array, elements) = unsafe {
            let header = pg_sys::palloc0(bytes).cast::<pg_sys::ArrayType>();
            varlena::set_varsize_4b(header.cast(), bytes as i32);
            (*header).ndim = 1;
            (*header).elemtype = T::OID;
            header.add(1).cast::<[i32; 2]>().write([len as i32, 1]);
            let elements = std::slice::from_raw_parts_mut(header.byte_add(DATA_OFFSET).cast::<T>(), len);
            (Array { header: NonNull::new_unchecked(header), free_on_drop: false }, elements)
        };
        fill(elements);
        array
    }

    fn raw(&self) -> RawArray {
        // SAFETY: the header is a detoasted array's; `raw` is used for reading only while `self` is borrowed.
        unsafe { RawArray::from_ptr(self.header) }
    }

    pub fn element_type(&self) -> pg_sys::Oid {
        self.raw().oid()
    }

    /// Number of dimensions; 0 for an empty array.
    pub fn ndim(&self) -> usize {
        self.raw().dims().len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.raw().len()
    }

    pub fn has_nulls(&self) -> bool {
        // SAFETY: a valid array. It looks at the null bitmap, if there is one.
        self.raw().nulls().is_some() && unsafe { pg_sys::array_contains_nulls(self.header.as_ptr()) }
    }

    /// Whether the array has a null bitmap, be it with no bit for a null.
    pub fn has_null_bitmap(&self) -> bool {
        self.raw().nulls().is_some()
    }

    /// The elements, or nothing when they are of another type or some are null.
    pub fn elements<T: Element>(&self) -> Option<&[T]> {
        if self.element_type() != T::OID || self.has_nulls() {
            return None;
        }
        let data = self.raw().data::<T>();
        if data.is_empty() {
            return Some(&[]);
        }
        // SAFETY: `Element` promises the representation; without nulls there is a value for every element, aligned as
        // its type within a MAXALIGNed array; the borrow of `self` keeps it alive.
        Some(unsafe { data.as_ref() })
    }

    /// As [`Array::elements`], to be changed.
    ///
    /// # Safety
    /// The array is an aggregate's own state: nothing else reads it meanwhile, and it is not part of a buffer page.
    pub unsafe fn elements_mut<T: Element>(&mut self) -> Option<&mut [T]> {
        let len = self.elements::<T>()?.len();
        if len == 0 {
            return Some(&mut []);
        }
        // SAFETY: as for `elements`, and exclusive by the caller's promise.
        Some(unsafe { self.raw().data::<T>().as_mut() })
    }

    /// The elements of a `numeric[]` without nulls as `float4`; nothing for other arrays.
    pub fn numerics(&self) -> Option<Vec<f32>> {
        if self.element_type() != pg_sys::NUMERICOID || self.has_nulls() {
            return None;
        }
        let (mut elements, mut len) = (std::ptr::null_mut(), 0);
        // SAFETY: a valid array of numeric, whose length, passing by reference and alignment are these; no nulls, so
        // that their flags need not be asked for. `elements` then has `len` numeric datums, what numeric_float4
        // takes.
        unsafe {
            let (varlena, align) = (-1, pg_sys::TYPALIGN_INT as c_char);
            let (oid, array) = (pg_sys::NUMERICOID, self.header.as_ptr());
            pg_sys::deconstruct_array(
                array,
                oid,
                varlena,
                false,
                align,
                &mut elements,
                std::ptr::null_mut(),
                &mut len,
            );
            let elements = std::slice::from_raw_parts(elements, len as usize);
            elements.iter().map(|&x| direct_function_call(pg_sys::numeric_float4, &[Some(x)])).collect()
        }
    }

    pub fn as_ptr(&self) -> *mut pg_sys::ArrayType {
        self.header.as_ptr()
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        if self.free_on_drop {
            // SAFETY: the copy was palloc'd by detoasting, and nothing else refers to it.
            unsafe { free(self.header.as_ptr().cast()) }
        }
    }
}

impl_sql_translatable!(Array, "anyarray");

// SAFETY: the SQL declares these arguments as arrays.
unsafe impl<'fcx> ArgAbi<'fcx> for Array {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller promises a non-null array.
        unsafe { Array::detoast(arg.unbox_arg_using_from_datum::<pg_sys::Datum>().unwrap_unchecked()) }
    }
}

// SAFETY: the SQL declares these results as arrays of the element type in the header.
unsafe impl BoxRet for Array {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let datum = pg_sys::Datum::from(ManuallyDrop::new(self).header.as_ptr());
        // SAFETY: as above.
        unsafe { fcinfo.return_raw_datum(datum) }
    }
}
