//! `ivfhandler`: what Postgres may ask of the access method, and whom.

use std::ffi::c_char;
use std::ptr::null_mut;

use ivf::metric::Metric;
use pgrx::prelude::*;

use super::{build, cost, insert, options, scan, vacuum, validate};

/// Returns the address of an `IndexAmRoutine`, as the protocol wants.
#[pg_extern(sql = false)]
fn ivfhandler(_fcinfo: pg_sys::FunctionCallInfo) -> i64 {
    // Zeros and nulls stand for what the access method cannot do.
    let routine = pg_sys::IndexAmRoutine {
        type_: pg_sys::NodeTag::T_IndexAmRoutine,
        amsupport: super::HASH_FUNCTION,
        amcanorderbyop: true,
        // A scan without a condition is the usual one.
        amoptionalkey: true,
        amcanmulticol: true,
        amsearcharray: true,
        amsearchnulls: true,
        // Of those that vacuum in parallel, each gets its share: a training takes as much as there is.
        amusemaintenanceworkmem: true,
        amparallelvacuumoptions: (pg_sys::VACUUM_OPTION_PARALLEL_BULKDEL
            | pg_sys::VACUUM_OPTION_PARALLEL_COND_CLEANUP) as u8,
        // Before PostgreSQL 17 nobody asks; the build itself does (parallel.rs).
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        amcanbuildparallel: true,
        ambuild: Some(build::build),
        ambuildempty: Some(build::build_empty),
        aminsert: Some(insert::insert),
        ambulkdelete: Some(vacuum::bulk_delete),
        amvacuumcleanup: Some(vacuum::cleanup),
        amcostestimate: Some(cost::estimate),
        amoptions: Some(options::options),
        ambuildphasename: Some(phase_name),
        amvalidate: Some(validate::validate),
        ambeginscan: Some(scan::begin),
        amrescan: Some(scan::rescan),
        amgettuple: Some(scan::get_tuple),
        amendscan: Some(scan::end),
        ..Default::default()
    };
    // SAFETY: palloc returns enough bytes, aligned.
    unsafe {
        let copy = pg_sys::palloc(size_of::<pg_sys::IndexAmRoutine>()).cast::<pg_sys::IndexAmRoutine>();
        copy.write(routine);
        copy as i64
    }
}

/// `ambuildphasename`
#[pg_guard]
unsafe extern "C-unwind" fn phase_name(phase: i64) -> *mut c_char {
    build::Phase::name(phase).map_or(null_mut(), |name| name.as_ptr().cast_mut())
}

// The support functions of the operator classes: which metric their operator is.

#[pg_extern(sql = false)]
fn ivf_metric_l2() -> i32 {
    Metric::L2 as i32
}

#[pg_extern(sql = false)]
fn ivf_metric_inner_product() -> i32 {
    Metric::InnerProduct as i32
}

#[pg_extern(sql = false)]
fn ivf_metric_cosine() -> i32 {
    Metric::Cosine as i32
}
