//! Text arguments: UTF-8 for the tokenizer, whatever the database's encoding.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_int};
use std::ops::Deref;

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::{FromDatum, IntoDatum, impl_sql_translatable, pg_sys, varlena};

use crate::error::{Error, OrRaise};

/// A `text` argument.
pub struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromDatum for Text<'_> {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        if is_null {
            return None;
        }
        let raw = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the caller promises a `text` datum. A detoasted copy lives in the current memory context, which
        // outlives the call that the argument belongs to.
        let bytes = unsafe {
            let plain =
                varlena::varatt_is_4b_u(raw) || (varlena::varatt_is_1b(raw) && !varlena::varatt_is_1b_e(raw));
            varlena::varlena_to_byte_slice(if plain { raw } else { pg_sys::pg_detoast_datum_packed(raw) })
        };
        Some(Text(utf8(bytes)))
    }
}

impl_sql_translatable!(Text<'_>, "text");

// SAFETY: the SQL declares these arguments as `text`.
unsafe impl<'fcx> ArgAbi<'fcx> for Text<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller promises a non-null `text`.
        unsafe { arg.unbox_arg_using_from_datum().unwrap_unchecked() }
    }
}

/// A `text` result, made of UTF-8 that came from the database: it has its characters in its own encoding.
pub struct TextBuf(pg_sys::Datum);

impl TextBuf {
    pub fn new(text: &str) -> TextBuf {
        // SAFETY: pointer and length are those of a slice. The result is the same bytes, or a NUL-terminated copy; it is copied
        // into the datum.
        unsafe {
            let start = text.as_ptr().cast();
            let converted =
                pg_sys::pg_any_to_server(start, text.len() as c_int, pg_sys::pg_enc::PG_UTF8 as c_int);
            let bytes = if std::ptr::eq(converted, start) {
                text.as_bytes()
            } else {
                CStr::from_ptr(converted).to_bytes()
            };
            let datum = pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as c_int);
            TextBuf(datum.into())
        }
    }
}

impl TextBuf {
    pub fn datum(self) -> pg_sys::Datum {
        self.0
    }
}

impl IntoDatum for TextBuf {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

impl_sql_translatable!(TextBuf, "text");

// SAFETY: the SQL declares these results as `text`.
unsafe impl BoxRet for TextBuf {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: cstring_to_text_with_len made the datum.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}

/// Text that has come from the database, in its encoding.
pub fn server(text: &str) -> CString {
    // SAFETY: the datum was just made; what is returned is a C string.
    unsafe { CStr::from_ptr(pg_sys::text_to_cstring(TextBuf::new(text).datum().cast_mut_ptr())) }.to_owned()
}

/// How many characters the database sees in a text; in SQL_ASCII each byte is one.
pub fn characters(text: &str) -> usize {
    // SAFETY: reads a setting of the database.
    if unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_SQL_ASCII as c_int {
        text.len()
    } else {
        text.chars().count()
    }
}

/// A string in the database's encoding, as UTF-8. Raises an ERROR for bytes that are no text in that encoding, which
/// only an SQL_ASCII database can hold.
pub fn utf8(bytes: &[u8]) -> Cow<'_, str> {
    try_utf8(bytes).or_raise()
}

/// Likewise, with the ERROR as [`Error::NotUtf8`].
pub fn try_utf8(bytes: &[u8]) -> Result<Cow<'_, str>, Error> {
    // SAFETY: reads a setting of the database.
    if unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as c_int {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Ok(Cow::Borrowed(text));
        }
    } else {
        // SAFETY: the pointer and length are those of a slice; the result is the same bytes or a NUL-terminated copy.
        let converted = unsafe {
            let start = bytes.as_ptr().cast();
            let converted =
                pg_sys::pg_server_to_any(start, bytes.len() as c_int, pg_sys::pg_enc::PG_UTF8 as c_int);
            if std::ptr::eq(converted, start) { bytes } else { CStr::from_ptr(converted).to_bytes() }
        };
        if let Ok(text) = std::str::from_utf8(converted) {
            return Ok(Cow::Borrowed(text));
        }
    }
    Err(Error::NotUtf8)
}
