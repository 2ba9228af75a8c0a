//! `text[]` in, an array of the same shape out.

use std::ffi::{c_char, c_int};
use std::ptr;

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::{FromDatum, impl_sql_translatable, pg_sys};

use super::text::Text;
use crate::error::Error;

/// What the lists of an array's elements take, its texts and their vectors left out; in bytes.
const BYTES_PER_ELEMENT: usize = 64;

/// A `text[]` argument: its elements in storage order, NULLs kept.
pub struct TextArray {
    array: *mut pg_sys::ArrayType,
    elements: Vec<Option<Text<'static>>>,
}

impl TextArray {
    pub fn texts(&self) -> Vec<Option<&str>> {
        self.elements.iter().map(|text| text.as_deref()).collect()
    }
}

impl FromDatum for TextArray {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        let mut datums = ptr::null_mut();
        let mut nulls = ptr::null_mut();
        let mut count = 0;
        // SAFETY: the caller promises a `text[]`, whose elements have length -1 and alignment int. deconstruct_array
        // allocates both arrays with `count` entries, and the elements live as long as the detoasted array: until the
        // memory context of this call is reset.
        unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            pg_sys::deconstruct_array(
                array,
                pg_sys::TEXTOID,
                -1,
                false,
                pg_sys::TYPALIGN_INT as c_char,
                &mut datums,
                &mut nulls,
                &mut count,
            );
            if let Err(error) = embedder::ensure_memory(count as usize * BYTES_PER_ELEMENT) {
                Error::from(error).raise();
            }
            let elements =
                (0..count as usize).map(|i| Text::from_datum(*datums.add(i), *nulls.add(i))).collect();
            Some(TextArray { array, elements })
        }
    }
}

/// The result of a function that returns an array.
pub struct ArrayLike(pg_sys::Datum);

impl ArrayLike {
    /// Builds the result of the function that `fcinfo` calls, whose elements are of its type: one for each of `input`'s, NULL
    /// for `None`, in an array of the same dimensions and bounds.
    pub fn new(
        input: &TextArray,
        elements: impl Iterator<Item = Result<Option<pg_sys::Datum>, Error>>,
        fcinfo: pg_sys::FunctionCallInfo,
    ) -> Result<ArrayLike, Error> {
        let elements: Vec<Option<pg_sys::Datum>> = elements.collect::<Result<_, _>>()?;
        let mut nulls: Vec<bool> = elements.iter().map(Option::is_none).collect();
        let mut datums: Vec<pg_sys::Datum> =
            elements.into_iter().map(|element| element.unwrap_or(pg_sys::Datum::null())).collect();
        let (mut length, mut by_value, mut align) = Default::default();
        // SAFETY: the array header is followed by `ndim` dimensions and as many lower bounds; both vectors hold an
        // entry for every element; fcinfo is that of a running function, whose result type is an array.
        unsafe {
            let ndim = (*input.array).ndim;
            let dims = input.array.add(1).cast::<c_int>();
            let result_type = pg_sys::get_func_rettype((*(*fcinfo).flinfo).fn_oid);
            let element_type = pg_sys::get_element_type(result_type);
            pg_sys::get_typlenbyvalalign(element_type, &mut length, &mut by_value, &mut align);
            let array = pg_sys::construct_md_array(
                datums.as_mut_ptr(),
                nulls.as_mut_ptr(),
                ndim,
                dims,
                dims.add(ndim as usize),
                element_type,
                length.into(),
                by_value,
                align,
            );
            Ok(ArrayLike(array.into()))
        }
    }
}

impl_sql_translatable!(TextArray, "text[]");
impl_sql_translatable!(ArrayLike, "anyarray");

// SAFETY: the SQL declares these arguments as `text[]`.
unsafe impl<'fcx> ArgAbi<'fcx> for TextArray {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller promises a non-null `text[]`.
        unsafe { arg.unbox_arg_using_from_datum().unwrap_unchecked() }
    }
}

// SAFETY: the array was built for the result type that the SQL declares.
unsafe impl BoxRet for ArrayLike {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: construct_md_array made the datum.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}
