//! What a panic says.

use pgrx::pg_sys::panic::{CaughtError, ErrorReport, ErrorReportWithLevel};

/// Keeps Rust's backtraces out of errors. Those of Postgres and ours unwind as panics, to which pgrx's hook adds a
/// backtrace where RUST_BACKTRACE is in the server's environment: in the DETAIL of what a user did wrong it says nothing
/// to him. A panic that is one, a fault of ours, keeps its backtrace.
pub fn keep_backtraces_out_of_errors() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let is_error = payload.is::<CaughtError>()
            || payload.is::<ErrorReportWithLevel>()
            || payload.is::<ErrorReport>();
        if !is_error {
            hook(info);
        }
    }));
}
