//! SQL functions that take vectors and return a plain number, with less around them than `#[pg_extern]` puts.
//!
//! A comparison or a short distance takes as long as pgrx's handling of its arguments, so that a sort of 100,000
//! vectors took 1.3 times as long as with C functions.

use super::datum::Vector;
use pgrx::pg_sys;

/// A result that is passed by value.
pub trait ByValue {
    fn into_datum(self) -> pg_sys::Datum;
}

impl ByValue for bool {
    fn into_datum(self) -> pg_sys::Datum {
        self.into()
    }
}

impl ByValue for i32 {
    fn into_datum(self) -> pg_sys::Datum {
        self.into()
    }
}

impl ByValue for f64 {
    fn into_datum(self) -> pg_sys::Datum {
        self.to_bits().into()
    }
}

/// Calls `function` with the arguments of a SQL function.
///
/// # Safety
/// `fcinfo` is that of a strict function declared with `N` arguments of type `vector`.
#[inline(always)]
pub unsafe fn call<const N: usize, R: ByValue>(
    fcinfo: pg_sys::FunctionCallInfo,
    function: impl FnOnce([Vector<'_>; N]) -> R,
) -> pg_sys::Datum {
    // SAFETY: this is the outermost Rust frame, so that nothing is left to drop when the guard raises an ERROR; the
    // function being strict, the arguments are there and not null, and they outlive the call.
    unsafe {
        pg_sys::submodules::panic::pgrx_extern_c_guard(|| {
            let arguments = (*fcinfo).args.as_ptr();
            let vectors = std::array::from_fn(|i| Vector::detoast((*arguments.add(i)).value));
            function(vectors).into_datum()
        })
    }
}

/// Defines SQL functions of vectors: symbol `<name>_wrapper`, as `#[pg_extern]` would name it.
macro_rules! vector_functions {
    ($(fn $name:ident($($argument:ident),+) -> $result:ty $body:block)+) => {
        $(
            const _: () = {
                #[unsafe(export_name = concat!("pg_finfo_", stringify!($name), "_wrapper"))]
                extern "C" fn finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
                    &pgrx::pg_sys::Pg_finfo_record { api_version: 1 }
                }

                #[unsafe(export_name = concat!(stringify!($name), "_wrapper"))]
                unsafe extern "C-unwind" fn wrapper(
                    fcinfo: pgrx::pg_sys::FunctionCallInfo,
                ) -> pgrx::pg_sys::Datum {
                    // SAFETY: the SQL declares the function as STRICT and with these arguments.
                    unsafe { $crate::vector::call::call(fcinfo, |[$($argument),+]| -> $result { $body }) }
                }
            };
        )+
    };
}
pub(super) use vector_functions;
