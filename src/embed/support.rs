//! What the planner should think that a call of `embed` costs.

use pgrx::datum::Internal;
use pgrx::is_a;
use pgrx::prelude::*;

/// Cost of running the model on one text, in `cpu_operator_cost`s. An operator on two vectors takes about 50 ns and a
/// short text about 5 ms, both measured with all-minilm-l6-v2.
const MODEL_OPERATORS: f64 = 100_000.0;

/// Cost of finding a text in the cache of recent results, likewise: 0.2 us.
const CACHED_OPERATORS: f64 = 4.0;

/// Planner support function of `embed` and its kin (SupportRequestCost).
///
/// With a column among the arguments every row costs a run of the model: worth a parallel plan. Without, the first row
/// does and the others find its result in the cache. A fixed COST would be wrong for one or the other.
///
/// Returns the address of the request, as the protocol wants, or 0 for a request of another kind.
#[pg_extern(sql = false)]
fn embed_support(request: Internal) -> i64 {
    let Some(datum) = request.unwrap() else { return 0 };
    let node = datum.cast_mut_ptr::<pg_sys::Node>();
    // SAFETY: the planner passes a request node, of the struct that its tag names; a request for costs holds the
    // function call or null.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_SupportRequestCost) {
            return 0;
        }
        let request = node.cast::<pg_sys::SupportRequestCost>();
        let call = (*request).node;
        let unit = pg_sys::cpu_operator_cost;
        if !call.is_null() && pg_sys::contain_var_clause(call) {
            (*request).startup = 0.0;
            (*request).per_tuple = MODEL_OPERATORS * unit;
        } else {
            (*request).startup = MODEL_OPERATORS * unit;
            (*request).per_tuple = CACHED_OPERATORS * unit;
        }
    }
    node as i64
}
