//! Columns of an index beside the vector: a number for each row, or NULL, for conditions to be evaluated on.
//!
//! What a number means is the caller's: one that keeps the order of the column's values, or a hash of them.

use crate::layout::META_BLOCK;
use crate::store::IndexError;
use bytemuck::{Pod, Zeroable};

/// Columns that an index can have beside the vector. At [`MAX_DIMENSIONS`](crate::layout::MAX_DIMENSIONS) 16 wide ones
/// still fit a page (tested).
pub const MAX_COLUMNS: usize = 16;

/// What a row has in a column; `None` is NULL.
pub type Value = Option<i64>;

/// Bytes of a number on a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// The numbers are those of an `i32`.
    Four,
    Eight,
}

impl Width {
    pub fn bytes(self) -> usize {
        match self {
            Width::Four => size_of::<i32>(),
            Width::Eight => size_of::<i64>(),
        }
    }
}

/// The columns of an index, as the metapage keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Columns {
    count: u16,
    /// A bit for each that is [`Width::Eight`].
    wide: u16,
}

impl Columns {
    /// `None` for more than [`MAX_COLUMNS`].
    pub fn new(widths: &[Width]) -> Option<Columns> {
        let wide = widths.iter().enumerate().fold(0u32, |wide, (i, &width)| match width {
            Width::Eight if i < MAX_COLUMNS => wide | 1 << i,
            _ => wide,
        });
        (widths.len() <= MAX_COLUMNS).then_some(Columns { count: widths.len() as u16, wide: wide as u16 })
    }

    pub fn count(self) -> usize {
        self.count.into()
    }

    /// Those that a metapage can have.
    pub fn is_possible(self) -> bool {
        self.count() <= MAX_COLUMNS && u32::from(self.wide) >> self.count == 0
    }

    /// Of column `number`, from 0.
    pub fn width(self, number: usize) -> Width {
        if self.wide >> number & 1 == 1 { Width::Eight } else { Width::Four }
    }

    /// Bytes of a row's values on their way into the index.
    pub fn row_bytes(self) -> usize {
        self.count() * VALUE_BYTES
    }
}

/// Of a value on its way into the index: whether it is NULL, and the number.
const VALUE_BYTES: usize = 1 + size_of::<i64>();

/// Appends the values of a row.
pub fn write_values(values: &[Value], bytes: &mut Vec<u8>) {
    for value in values {
        bytes.push(u8::from(value.is_none()));
        bytes.extend_from_slice(&value.unwrap_or(0).to_ne_bytes());
    }
}

/// Reads what [`write_values`] wrote, aligned or not.
pub fn read_values(bytes: &[u8]) -> impl Iterator<Item = Value> {
    bytes.as_chunks::<VALUE_BYTES>().0.iter().map(|[is_null, number @ ..]| {
        let number = i64::from_ne_bytes(*number);
        (*is_null == 0).then_some(number)
    })
}

/// Fails unless a row brings a value for each column.
pub fn check_count(columns: Columns, values: &[Value]) -> Result<(), IndexError> {
    if columns.count() == values.len() {
        Ok(())
    } else {
        Err(IndexError::corrupt(
            META_BLOCK,
            format!("says {} columns, not {}", columns.count(), values.len()),
        ))
    }
}
