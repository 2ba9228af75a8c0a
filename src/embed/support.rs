//! What the planner should know of a call of `embed`.

use pgrx::datum::Internal;
use pgrx::is_a;
use pgrx::prelude::*;

use super::once;

/// Cost of running the model on one text, in `cpu_operator_cost`s. An operator on two vectors takes about 50 ns and a
/// short text about 5 ms, both measured with all-minilm-l6-v2.
const MODEL_OPERATORS: f64 = 100_000.0;

/// Cost of finding a text in the cache of recent results, likewise: 0.2 us.
const CACHED_OPERATORS: f64 = 4.0;

/// Planner support function of `embed` and its kin.
///
/// Returns the address that the protocol wants for the request, or 0 for a request of another kind.
#[pg_extern(sql = false)]
fn embed_support(request: Internal) -> i64 {
    let Some(datum) = request.unwrap() else { return 0 };
    let node = datum.cast_mut_ptr::<pg_sys::Node>();
    // SAFETY: the planner passes a request node, of the struct that its tag names.
    unsafe {
        if is_a(node, pg_sys::NodeTag::T_SupportRequestCost) {
            tell_cost(&mut *node.cast());
            return node as i64;
        }
        if is_a(node, pg_sys::NodeTag::T_SupportRequestSimplify) {
            let request = &*node.cast::<pg_sys::SupportRequestSimplify>();
            return once::before_the_scan(request.root, request.fcall).map_or(0, |node| node as i64);
        }
    }
    0
}

/// With a column among the arguments every row costs a run of the model: worth a parallel plan. Without, the first row
/// does and the others find its result in the cache. A fixed COST would be wrong for one or the other.
///
/// # Safety
/// A request of the planner's.
unsafe fn tell_cost(request: &mut pg_sys::SupportRequestCost) {
    // SAFETY: the caller's promise; the request holds the function call or null.
    unsafe {
        let unit = pg_sys::cpu_operator_cost;
        if !request.node.is_null() && pg_sys::contain_var_clause(request.node) {
            request.startup = 0.0;
            request.per_tuple = MODEL_OPERATORS * unit;
        } else {
            request.startup = MODEL_OPERATORS * unit;
            request.per_tuple = CACHED_OPERATORS * unit;
        }
    }
}
