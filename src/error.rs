//! The one place where typed errors become SQLSTATE, message, detail and hint.

use crate::vector::MAX_DIMENSIONS;
use ivf::vector::VectorError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode as Code};
use std::ffi::CStr;

/// Everything pg_embed can refuse; [`OrRaise`] turns it into the ERROR.
#[derive(Debug)]
pub enum Error {
    Vector(VectorError),
    /// Text that is not a vector, and what is wrong with it if that is worth saying.
    Syntax {
        input: String,
        detail: Option<&'static str>,
    },
    /// A number that is finite as it is written, but not as `float4`.
    OutOfRange {
        number: String,
    },
    NoDimensions,
    TooManyDimensions,
    /// Dimensions other than those of the column, or of the vectors before it in an average.
    UnexpectedDimensions {
        expected: usize,
        actual: usize,
    },
    /// The reserved field of the binary format is in use.
    UnusedNotZero(u32),
    ArrayNotFlat,
    ArrayHasNulls,
    UnsupportedArray,
    NotOneModifier,
    ModifierTooSmall,
    ModifierTooLarge,
    /// An aggregate's support function was called with a state that it did not make.
    NotAState {
        function: &'static str,
    },
    /// A stored `vector` whose header and size disagree.
    CorruptVector {
        dim: i16,
        bytes: usize,
    },
}

impl From<VectorError> for Error {
    fn from(error: VectorError) -> Self {
        Error::Vector(error)
    }
}

impl Error {
    /// Raises the ERROR. Postgres's error handling unwinds from here.
    #[cold]
    pub fn raise(self) -> ! {
        ErrorReport::from(self).report(PgLogLevel::ERROR);
        unreachable!("report(ERROR) does not return")
    }
}

/// How a SQL function ends that may fail.
pub trait OrRaise<T> {
    fn or_raise(self) -> T;
}

impl<T, E: Into<Error>> OrRaise<T> for Result<T, E> {
    #[inline]
    fn or_raise(self) -> T {
        self.unwrap_or_else(|error| error.into().raise())
    }
}

/// Text to quote in a message. Bytes that are not UTF-8, which other server encodings can hold, are escaped.
pub fn quotable(text: &CStr) -> String {
    match text.to_str() {
        Ok(text) => text.to_owned(),
        Err(_) => text.to_bytes().escape_ascii().to_string(),
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        let report = |code, message: String| ErrorReport::new(code, message, "pg_embed");
        match error {
            Error::Vector(e @ (VectorError::Overflow | VectorError::Underflow)) => {
                report(Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, e.to_string())
            }
            Error::Vector(e) => report(Code::ERRCODE_DATA_EXCEPTION, e.to_string()),
            Error::Syntax { input, detail } => {
                let message = format!("invalid input syntax for type vector: \"{input}\"");
                let report = report(Code::ERRCODE_INVALID_TEXT_REPRESENTATION, message);
                match detail {
                    Some(detail) => report.set_detail(detail),
                    None => report,
                }
            }
            Error::OutOfRange { number } => report(
                Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!("\"{number}\" is out of range for type vector"),
            ),
            Error::NoDimensions => {
                report(Code::ERRCODE_DATA_EXCEPTION, "vector must have at least 1 dimension".into())
            }
            Error::TooManyDimensions => report(
                Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("vector cannot have more than {MAX_DIMENSIONS} dimensions"),
            ),
            Error::UnexpectedDimensions { expected, actual } => {
                report(Code::ERRCODE_DATA_EXCEPTION, format!("expected {expected} dimensions, not {actual}"))
            }
            Error::UnusedNotZero(unused) => {
                report(Code::ERRCODE_DATA_EXCEPTION, format!("expected unused to be 0, not {unused}"))
            }
            Error::ArrayNotFlat => report(Code::ERRCODE_DATA_EXCEPTION, "array must be 1-D".into()),
            Error::ArrayHasNulls => {
                report(Code::ERRCODE_NULL_VALUE_NOT_ALLOWED, "array must not contain nulls".into())
            }
            Error::UnsupportedArray => report(Code::ERRCODE_DATA_EXCEPTION, "unsupported array type".into()),
            Error::NotOneModifier => {
                report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "invalid type modifier".into())
            }
            Error::ModifierTooSmall => report(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                "dimensions for type vector must be at least 1".into(),
            ),
            Error::ModifierTooLarge => report(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("dimensions for type vector cannot exceed {MAX_DIMENSIONS}"),
            ),
            Error::NotAState { function } => {
                report(Code::ERRCODE_INTERNAL_ERROR, format!("{function}: expected state array"))
            }
            Error::CorruptVector { dim, bytes } => report(
                Code::ERRCODE_DATA_CORRUPTED,
                format!("vector of {dim} dimensions is stored in {bytes} bytes"),
            ),
        }
    }
}
