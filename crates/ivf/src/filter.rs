//! Conditions on the columns of an index, evaluated for a block of rows at a time.

use crate::columns::Width;
use crate::layout::{Codes, LANES};

/// What a row is to satisfy; without conditions every row does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    conditions: Vec<Condition>,
}

/// A condition on one column.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// Number of the column, from 0; the index has it.
    pub column: usize,
    pub test: Test,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    IsNull,
    IsNotNull,
    /// Not NULL, and neither less than the first nor greater than the last.
    Between(i64, i64),
    /// One of these, in ascending order.
    OneOf(Vec<i64>),
}

impl Test {
    /// What no row satisfies.
    pub const NEVER: Test = Test::Between(i64::MAX, i64::MIN);

    /// Equal to one of these.
    pub fn one_of(mut values: Vec<i64>) -> Test {
        values.sort_unstable();
        values.dedup();
        match values[..] {
            [] => Test::NEVER,
            [value] => Test::Between(value, value),
            _ => Test::OneOf(values),
        }
    }
}

impl Filter {
    pub fn new(conditions: Vec<Condition>) -> Filter {
        Filter { conditions }
    }

    /// Every row satisfies it.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The rows of a segment that are in use and satisfy all conditions: one bit a lane and one element a block, into
    /// `out`.
    pub fn matching(&self, codes: Codes, out: &mut Vec<u16>) {
        out.clear();
        out.extend_from_slice(codes.live());
        for Condition { column, test } in &self.conditions {
            let width = codes.width(*column);
            let nulls = codes.nulls(*column);
            match test {
                Test::IsNull => out.iter_mut().zip(nulls).for_each(|(rows, nulls)| *rows &= nulls),
                _ => out.iter_mut().zip(nulls).for_each(|(rows, nulls)| *rows &= !nulls),
            }
            match (test, width) {
                (Test::IsNull | Test::IsNotNull, _) => {}
                (Test::Between(from, to), Width::Eight) => {
                    each(out, codes.numbers::<i64>(*column), |block| between(block, *from, *to));
                }
                (Test::Between(from, to), Width::Four) => match (narrow_from(*from), narrow_to(*to)) {
                    (Some(from), Some(to)) => {
                        each(out, codes.numbers::<i32>(*column), |block| between(block, from, to));
                    }
                    _ => out.fill(0),
                },
                (Test::OneOf(values), Width::Eight) => {
                    each(out, codes.numbers::<i64>(*column), |block| one_of(block, values));
                }
                (Test::OneOf(values), Width::Four) => {
                    each(out, codes.numbers::<i32>(*column), |block| one_of(block, values));
                }
            }
        }
    }
}

/// The least `i32` that is no less.
fn narrow_from(from: i64) -> Option<i32> {
    i32::try_from(from.max(i32::MIN.into())).ok()
}

/// The greatest `i32` that is no greater.
fn narrow_to(to: i64) -> Option<i32> {
    i32::try_from(to.min(i32::MAX.into())).ok()
}

/// Takes out of the blocks' rows those that do not pass; not called for a block without rows.
fn each<T>(rows: &mut [u16], numbers: &[[T; LANES]], pass: impl Fn(&[T; LANES]) -> u16) {
    for (rows, block) in rows.iter_mut().zip(numbers) {
        if *rows != 0 {
            *rows &= pass(block);
        }
    }
}

/// Without a branch, so that it becomes comparisons of registers.
fn between<T: PartialOrd>(block: &[T; LANES], from: T, to: T) -> u16 {
    bits(block, |number| (*number >= from) & (*number <= to))
}

/// Values that are compared with one by one: more are searched by halves. Not measured.
const FEW: usize = 8;

fn one_of<T: Copy + Into<i64>>(block: &[T; LANES], values: &[i64]) -> u16 {
    if values.len() <= FEW {
        bits(block, |&number| values.iter().fold(false, |any, &value| any | (number.into() == value)))
    } else {
        bits(block, |&number| values.binary_search(&number.into()).is_ok())
    }
}

fn bits<T>(block: &[T; LANES], pass: impl Fn(&T) -> bool) -> u16 {
    block.iter().enumerate().fold(0, |rows, (lane, number)| rows | u16::from(pass(number)) << lane)
}
