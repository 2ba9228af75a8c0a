//! What the window functions can refuse.

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::panic::ErrorReport;

use super::{Error, report};

/// How the window functions can be misused.
#[derive(Debug)]
pub enum AnalysisError {
    /// They are called as if they were none.
    NoWindow,
    /// A number that is to be 1..=limit.
    OutOfBounds { what: &'static str, value: i32, limit: usize },
    /// A row asks for something else than the first row of its partition.
    OtherArguments,
    /// `work_mem` is too small to learn from a sample; in bytes.
    Memory { needed: usize, available: usize },
}

impl From<AnalysisError> for Error {
    fn from(error: AnalysisError) -> Self {
        Error::Analysis(error)
    }
}

pub(super) fn report_of(error: AnalysisError) -> ErrorReport {
    match error {
        AnalysisError::NoWindow => {
            report(Code::ERRCODE_WRONG_OBJECT_TYPE, "function must be called as a window function")
        }
        AnalysisError::OutOfBounds { what, value, limit } => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("{what} must be between 1 and {limit}, not {value}"),
        ),
        AnalysisError::OtherArguments => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "arguments beside the vector must be the same in all rows of a partition",
        ),
        AnalysisError::Memory { needed, available } => {
            let kilobytes = |bytes: usize| bytes.div_ceil(1024);
            report(
                Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!(
                    "memory required is {} kB, work_mem is {} kB",
                    kilobytes(needed),
                    kilobytes(available)
                ),
            )
            .set_hint("Raise work_mem, or ask for less.")
        }
    }
}
