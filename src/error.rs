//! The one place where typed errors become SQLSTATE, message, detail and hint.

use ivf::vector::VectorError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode as Code};

/// Everything pg_embed can refuse. Functions return `Result<_, ErrorReport>`; `?` converts.
#[derive(Debug)]
pub enum Error {
    Vector(VectorError),
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
    pub fn raise(self) -> ! {
        ErrorReport::from(self).report(PgLogLevel::ERROR);
        unreachable!("report(ERROR) does not return")
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        let report = |code, message: String| ErrorReport::new(code, message, "pg_embed");
        match error {
            Error::Vector(e @ VectorError::DifferentDimensions(..)) => {
                report(Code::ERRCODE_DATA_EXCEPTION, e.to_string())
            }
            Error::Vector(e) => report(Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, e.to_string()),
            Error::CorruptVector { dim, bytes } => report(
                Code::ERRCODE_DATA_CORRUPTED,
                format!("vector of {dim} dimensions is stored in {bytes} bytes"),
            ),
        }
    }
}
