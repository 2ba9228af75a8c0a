//! Values of a row in a trigger, and whether an UPDATE has changed them.

use std::ffi::CStr;

use pgrx::{pg_sys, varlena};

/// A column, and how its values are kept.
#[derive(Clone, Copy)]
pub struct Column {
    pub number: i32,
    /// As in pg_type: the bytes of a value, -1 for a varlena, -2 for a C string.
    length: i16,
    by_value: bool,
}

impl Column {
    /// A column by its name; `None` if there is none, or the name is empty.
    ///
    /// # Safety
    /// `relation` is open.
    pub unsafe fn named(relation: pg_sys::Relation, name: &CStr) -> Option<Column> {
        // SAFETY: the caller's promise; SPI_fnumber gives a column's number, or something below 1.
        unsafe {
            let number = pg_sys::SPI_fnumber((*relation).rd_att, name.as_ptr());
            (number > 0).then(|| Column::numbered(relation, number))
        }
    }

    /// # Safety
    /// `relation` is open and has a column of this number.
    pub unsafe fn numbered(relation: pg_sys::Relation, number: i32) -> Column {
        let (mut length, mut by_value) = Default::default();
        // SAFETY: the caller's promise; the type of a column exists.
        unsafe {
            let type_oid = pg_sys::SPI_gettypeid((*relation).rd_att, number);
            pg_sys::get_typlenbyval(type_oid, &mut length, &mut by_value);
        }
        Column { number, length, by_value }
    }

    /// # Safety
    /// A slot with a row that has this column.
    pub unsafe fn value(&self, slot: *mut pg_sys::TupleTableSlot) -> Option<pg_sys::Datum> {
        let mut is_null = false;
        // SAFETY: the caller's promise.
        let datum = unsafe { pg_sys::slot_getattr(slot, self.number, &mut is_null) };
        (!is_null).then_some(datum)
    }

    /// Whether two rows have the same bytes in this column.
    ///
    /// # Safety
    /// As for [`Column::value`].
    pub unsafe fn is_same(&self, old: *mut pg_sys::TupleTableSlot, new: *mut pg_sys::TupleTableSlot) -> bool {
        // SAFETY: the caller's promise; the column's type says how its values are kept.
        unsafe {
            match (self.value(old), self.value(new)) {
                (None, None) => true,
                (Some(old), Some(new)) if self.by_value => old.value() == new.value(),
                (Some(old), Some(new)) => match self.length {
                    -1 => is_same_varlena(old.cast_mut_ptr(), new.cast_mut_ptr()),
                    -2 => CStr::from_ptr(old.cast_mut_ptr()) == CStr::from_ptr(new.cast_mut_ptr()),
                    length => {
                        bytes(old.cast_mut_ptr(), length as usize)
                            == bytes(new.cast_mut_ptr(), length as usize)
                    }
                },
                _ => false,
            }
        }
    }
}

/// # Safety
/// Points to as many bytes.
unsafe fn bytes<'a>(start: *const u8, length: usize) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, length) }
}

/// # Safety
/// Both are values of a varlena type.
unsafe fn is_same_varlena(old: *mut pg_sys::varlena, new: *mut pg_sys::varlena) -> bool {
    // SAFETY: the caller's promise; detoasting returns a varlena.
    unsafe {
        // Values that are stored elsewhere are the same if they are in the same place.
        let stored = |raw: *mut pg_sys::varlena| bytes(raw.cast(), varlena::varsize_any(raw));
        if stored(old) == stored(new) {
            return true;
        }
        let [a, b] = [old, new].map(|raw| pg_sys::pg_detoast_datum_packed(raw));
        let same = varlena::varlena_to_byte_slice(a) == varlena::varlena_to_byte_slice(b);
        for (copy, raw) in [(a, old), (b, new)] {
            if copy != raw {
                pg_sys::pfree(copy.cast());
            }
        }
        same
    }
}
