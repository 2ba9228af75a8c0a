//! Where the extension is: its schema, which the user chooses, and the role that its tables belong to.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::spi::quoted;

pub struct Home {
    /// A function of the extension.
    pub function: pg_sys::Oid,
    /// The extension's schema, quoted.
    pub schema: Vec<u8>,
    pub owner: pg_sys::Oid,
}

impl Home {
    /// # Safety
    /// `fcinfo` is that of a running function of the extension.
    pub unsafe fn of_call(fcinfo: pg_sys::FunctionCallInfo) -> Home {
        // SAFETY: the caller's promise; the function's row of the catalog is held until it is released.
        unsafe {
            let function = (*(*fcinfo).flinfo).fn_oid;
            let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
            let tuple = pg_sys::SearchSysCache1(cache, function.into());
            let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
            let schema = CStr::from_ptr(pg_sys::get_namespace_name(form.pronamespace));
            let home = Home { function, schema: quoted(schema), owner: form.proowner };
            pg_sys::ReleaseSysCache(tuple);
            home
        }
    }
}
