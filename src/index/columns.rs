//! The columns of an index beside the vector: what is stored of their values, and the conditions on them.
//!
//! Of a type with an order an index keeps a number in that order, which is all there is to it; of another type a hash.
//! Where a number may let a row through that is none, the executor checks the condition with the row of the table.

use std::ptr::null_mut;

use ivf::columns::{Columns, MAX_COLUMNS, Value, Width};
use ivf::filter::{Condition, Test};
use pgrx::pg_sys;

use super::{COLUMN, HASH_FUNCTION, METRIC_FUNCTION};
use crate::error::{Error, IvfError};

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

pub struct IndexColumns(Vec<Column>);

struct Column {
    kind: Kind,
    /// The type that its operator class is for.
    input: pg_sys::Oid,
}

/// How a value becomes a number.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Date,
    Timestamp,
    TimestampTz,
    Float4,
    Float8,
    Hash { function: *mut pg_sys::FmgrInfo, collation: pg_sys::Oid },
}

impl IndexColumns {
    /// # Errors
    /// The first column is not a vector, or another one is, or there are too many, or the operator class of one tells
    /// neither order nor hash.
    ///
    /// # Safety
    /// `index` is an open index of this access method, which stays open.
    pub unsafe fn of(index: pg_sys::Relation) -> Result<IndexColumns, Error> {
        // SAFETY: the caller's promise: the arrays have an element a key column.
        unsafe {
            let count = (*(*index).rd_index).indnkeyatts as usize;
            if count > 1 + MAX_COLUMNS {
                return Err(IvfError::TooManyColumns.into());
            }
            let has = |number: usize, function: u16| {
                pg_sys::index_getprocid(index, number as i16, function) != pg_sys::InvalidOid
            };
            let mut columns = Vec::with_capacity(count - 1);
            for number in COLUMN + 1..=count {
                if has(number, METRIC_FUNCTION) {
                    return Err(IvfError::VectorNotFirst.into());
                }
                let input = *(*index).rd_opcintype.add(number - 1);
                let kind = if has(number, HASH_FUNCTION) {
                    let function = pg_sys::index_getprocinfo(index, number as i16, HASH_FUNCTION);
                    Some(Kind::Hash { function, collation: *(*index).rd_indcollation.add(number - 1) })
                } else {
                    Kind::of(input)
                };
                columns.push(Column { kind: kind.ok_or(IvfError::NoNumber)?, input });
            }
            if has(COLUMN, HASH_FUNCTION) || has_order(*(*index).rd_opcintype) {
                return Err(IvfError::VectorNotFirst.into());
            }
            Ok(IndexColumns(columns))
        }
    }

    /// What the index keeps.
    pub fn stored(&self) -> Columns {
        let widths: Vec<Width> = self.0.iter().map(|column| column.kind.width()).collect();
        Columns::new(&widths).unwrap_or_else(|| unreachable!("there are no more than MAX_COLUMNS"))
    }

    /// The numbers of a row's values, into `out`.
    ///
    /// # Safety
    /// The arrays have an element a column of the index, the vector first.
    pub unsafe fn read(&self, values: *const pg_sys::Datum, nulls: *const bool, out: &mut Vec<Value>) {
        out.clear();
        // SAFETY: the caller's promise.
        out.extend(
            (1..)
                .zip(&self.0)
                .map(|(i, column)| unsafe { (!*nulls.add(i)).then(|| column.kind.number(*values.add(i))) }),
        );
    }

    /// What a key of a scan on one of these columns says, and whether it says all of it: rows may be let through that the
    /// executor has to check.
    ///
    /// # Safety
    /// A key that the executor has made for this index.
    pub unsafe fn condition(&self, key: &pg_sys::ScanKeyData) -> (Condition, bool) {
        let column = key.sk_attno as usize - 1 - COLUMN;
        let has = |flag: u32| key.sk_flags as u32 & flag != 0;
        let (test, is_exact) = if has(pg_sys::SK_SEARCHNULL) {
            (Test::IsNull, true)
        } else if has(pg_sys::SK_SEARCHNOTNULL) {
            (Test::IsNotNull, true)
        } else if has(pg_sys::SK_ISNULL) {
            // No comparison with NULL is true.
            (Test::NEVER, true)
        } else if has(pg_sys::SK_SEARCHARRAY) {
            // SAFETY: the caller's promise: an array of the argument's type.
            let values = unsafe { elements(key.sk_argument) };
            any(values.into_iter().map(|value| self.0[column].range(key, value)).collect())
        } else {
            let Range { least, greatest, is_exact } = self.0[column].range(key, key.sk_argument);
            (Test::Between(least, greatest), is_exact)
        };
        (Condition { column, test }, is_exact)
    }
}

/// The numbers from the least to the greatest one; none if that is less.
#[derive(Clone, Copy)]
struct Range {
    least: i64,
    greatest: i64,
    /// No row in it fails the condition.
    is_exact: bool,
}

impl Column {
    /// Between which numbers the rows are for which `column <operator> value` can be true.
    fn range(&self, key: &pg_sys::ScanKeyData, value: pg_sys::Datum) -> Range {
        let everything = Range { least: i64::MIN, greatest: i64::MAX, is_exact: false };
        let is_equality = u32::from(key.sk_strategy) == pg_sys::BTEqualStrategyNumber;
        let argument = if key.sk_subtype == pg_sys::InvalidOid { self.input } else { key.sk_subtype };
        match self.kind {
            Kind::Hash { .. } if is_equality && argument == self.input => {
                let number = self.kind.number(value);
                Range { least: number, greatest: number, is_exact: false }
            }
            // Of an operator class of somebody's own.
            Kind::Hash { .. } => everything,
            kind => Kind::of(argument)
                .map_or(everything, |argument| kind.range(&argument, key.sk_strategy.into(), value)),
        }
    }
}

/// Whether an index can keep the order of a type's values.
pub fn has_order(type_: pg_sys::Oid) -> bool {
    Kind::of(type_).is_some()
}

/// Of an array, those that are not NULL.
///
/// # Safety
/// An array.
unsafe fn elements(array: pg_sys::Datum) -> Vec<pg_sys::Datum> {
    // SAFETY: the caller's promise; what is allocated has as many elements as is said, and is given back.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let element = (*array).elemtype;
        let (mut length, mut by_value, mut alignment) = (0, false, 0);
        pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut alignment);
        let (mut values, mut nulls, mut count) = (null_mut(), null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            element,
            length.into(),
            by_value,
            alignment,
            &mut values,
            &mut nulls,
            &mut count,
        );
        let found = (0..count as usize).filter(|&i| !*nulls.add(i)).map(|i| *values.add(i)).collect();
        pg_sys::pfree(values.cast());
        pg_sys::pfree(nulls.cast());
        found
    }
}

/// What a comparison with any of several values says.
fn any(ranges: Vec<Range>) -> (Test, bool) {
    let possible: Vec<Range> = ranges.into_iter().filter(|range| range.least <= range.greatest).collect();
    let is_exact = possible.iter().all(|range| range.is_exact);
    if possible.iter().all(|range| range.least == range.greatest) {
        return (Test::one_of(possible.into_iter().map(|range| range.least).collect()), is_exact);
    }
    let least = possible.iter().map(|range| range.least).min().unwrap_or(i64::MAX);
    let greatest = possible.iter().map(|range| range.greatest).max().unwrap_or(i64::MIN);
    // There may be gaps between several.
    (Test::Between(least, greatest), is_exact && possible.len() == 1)
}

impl Kind {
    /// Of a type with an order.
    fn of(type_: pg_sys::Oid) -> Option<Kind> {
        Some(match type_ {
            pg_sys::BOOLOID => Kind::Bool,
            pg_sys::INT2OID => Kind::Int2,
            pg_sys::INT4OID => Kind::Int4,
            pg_sys::INT8OID => Kind::Int8,
            pg_sys::OIDOID => Kind::Oid,
            pg_sys::DATEOID => Kind::Date,
            pg_sys::TIMESTAMPOID => Kind::Timestamp,
            pg_sys::TIMESTAMPTZOID => Kind::TimestampTz,
            pg_sys::FLOAT4OID => Kind::Float4,
            pg_sys::FLOAT8OID => Kind::Float8,
            _ => return None,
        })
    }

    fn width(&self) -> Width {
        match self {
            Kind::Bool | Kind::Int2 | Kind::Int4 | Kind::Oid | Kind::Date => Width::Four,
            Kind::Int8 | Kind::Timestamp | Kind::TimestampTz => Width::Eight,
            // A float4 as the float8 that it is compared with.
            Kind::Float4 | Kind::Float8 | Kind::Hash { .. } => Width::Eight,
        }
    }

    /// Of a value that is not NULL, and of the kind's type.
    fn number(&self, value: pg_sys::Datum) -> i64 {
        let bits = value.value();
        match *self {
            Kind::Bool => i64::from(bits as u8 != 0),
            Kind::Int2 => (bits as i16).into(),
            Kind::Int4 | Kind::Date => (bits as i32).into(),
            Kind::Int8 | Kind::Timestamp | Kind::TimestampTz => bits as i64,
            // Into the numbers of an i32.
            Kind::Oid => i64::from(bits as u32) + i64::from(i32::MIN),
            Kind::Float4 => float_number(f32::from_bits(bits as u32).into()),
            Kind::Float8 => float_number(f64::from_bits(bits as u64)),
            // SAFETY: amvalidate sees to the function's signature: the type, and a seed.
            Kind::Hash { function, collation } => unsafe {
                pg_sys::FunctionCall2Coll(function, collation, value, pg_sys::Datum::from(0i64)).value()
                    as i64
            },
        }
    }

    /// As for [`Column::range`], of the `strategy` of a btree; `argument`: of the value.
    fn range(&self, argument: &Kind, strategy: u32, value: pg_sys::Datum) -> Range {
        // What equals the value lies between these.
        let (low, high) = self.equal_to(argument, value);
        let is_exact = low == high;
        let none = (i64::MAX, i64::MIN);
        let (least, greatest) = match strategy {
            pg_sys::BTLessStrategyNumber if is_exact => {
                high.checked_sub(1).map_or(none, |below| (i64::MIN, below))
            }
            pg_sys::BTGreaterStrategyNumber if is_exact => {
                low.checked_add(1).map_or(none, |above| (above, i64::MAX))
            }
            pg_sys::BTLessStrategyNumber | pg_sys::BTLessEqualStrategyNumber => (i64::MIN, high),
            pg_sys::BTGreaterStrategyNumber | pg_sys::BTGreaterEqualStrategyNumber => (low, i64::MAX),
            _ => (low, high),
        };
        Range { least, greatest, is_exact }
    }

    /// Between which of the column's numbers a value of another type is.
    fn equal_to(&self, argument: &Kind, value: pg_sys::Datum) -> (i64, i64) {
        use Kind::{Date, Timestamp, TimestampTz};
        let number = argument.number(value);
        let (first_day, last_day) = (i64::from(i32::MIN), i64::from(i32::MAX));
        match (self, argument) {
            (Date, Timestamp | TimestampTz) => match number {
                // The infinities of both.
                i64::MIN => (first_day, first_day),
                i64::MAX => (last_day, last_day),
                time => {
                    let (before, after) = (time.div_euclid(DAY), -(-time).div_euclid(DAY));
                    if *argument == Timestamp { (before, after) } else { (before - ZONE, after + ZONE) }
                }
            },
            (Timestamp | TimestampTz, Date) if number == first_day => (i64::MIN, i64::MIN),
            (Timestamp | TimestampTz, Date) if number == last_day => (i64::MAX, i64::MAX),
            (Timestamp, Date) => (number.saturating_mul(DAY), number.saturating_mul(DAY)),
            (TimestampTz, Date) => match number.saturating_mul(DAY) {
                time if TIMES.contains(&time) => called(pg_sys::F_TIMESTAMPTZ_DATE, value),
                time => around(time),
            },
            (TimestampTz, Timestamp) if TIMES.contains(&number) => {
                called(pg_sys::F_TIMESTAMPTZ_TIMESTAMP, value)
            }
            (Timestamp, TimestampTz) | (TimestampTz, Timestamp) => around(number),
            _ => (number, number),
        }
    }
}

/// Days within which a time without a zone is of the instant of the same name: a zone can be 167 hours away (POSIX).
const ZONE: i64 = 8;

/// Times that are one in every zone: those of Postgres but for the first and the last days (timestamp.h).
const TIMES: std::ops::Range<i64> =
    -211_813_488_000_000_000 + ZONE * DAY..9_223_371_331_200_000_000 - ZONE * DAY;

fn around(time: i64) -> (i64, i64) {
    (time.saturating_sub(ZONE * DAY), time.saturating_add(ZONE * DAY))
}

/// The instant that a cast of Postgres's makes of a time.
fn called(cast: u32, value: pg_sys::Datum) -> (i64, i64) {
    // SAFETY: a function of Postgres's own with one argument, of which the callers have a value.
    let instant = unsafe { pg_sys::OidFunctionCall1Coll(cast.into(), pg_sys::InvalidOid, value) };
    (instant.value() as i64, instant.value() as i64)
}

/// In the order that Postgres has for floats: zeros are equal, and so are NaNs, which are above all others.
fn float_number(x: f64) -> i64 {
    let x = if x == 0.0 { 0.0 } else { x };
    let x = if x.is_nan() { f64::NAN.abs() } else { x };
    let bits = x.to_bits() as i64;
    // Of the negative ones the greater bits are the lesser number.
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_their_order() {
        let ascending = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.5,
            -f64::from_bits(1),
            0.0,
            f64::from_bits(1),
            1.5,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ];
        assert!(ascending.map(float_number).is_sorted_by(|a, b| a < b));
        assert_eq!(float_number(-0.0), float_number(0.0));
        assert_eq!(float_number(-f64::NAN), float_number(f64::NAN));
    }
}
