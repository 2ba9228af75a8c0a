//! `pca(vector, n) OVER (...)`: where each row lies along the directions in which the partition's vectors differ most.

use ivf::pca::{MAX_COMPONENTS, Pca, project};
use ivf::vector::{VectorError, check_finite};
use pgrx::prelude::*;

use super::window::{Budget, Window, check_interrupts};
use crate::error::{AnalysisError, Error, OrRaise};
use crate::vector::VectorBuf;

/// Rows of the sample for each direction, at least.
const ROWS_PER_COMPONENT: usize = 8;

/// The argument behind the vector.
const COMPONENTS: i32 = 1;

/// Any number: the same rows give the same picture.
const SEED: u64 = 0;

/// A vector of as many dimensions as are asked for. NULL for a NULL vector, or without a number of them.
#[pg_extern(sql = false)]
fn pca(fcinfo: pg_sys::FunctionCallInfo) -> Option<VectorBuf> {
    // SAFETY: the SQL declares it as a window function.
    components(&unsafe { Window::of_call(fcinfo) }.or_raise()).or_raise()
}

fn components(window: &Window) -> Result<Option<VectorBuf>, Error> {
    let Some(wanted) = window.integer(COMPONENTS) else { return Ok(None) };
    let out_of_bounds =
        |limit| AnalysisError::OutOfBounds { what: "number of components", value: wanted, limit };
    if !(1..=MAX_COMPONENTS as i32).contains(&wanted) {
        return Err(out_of_bounds(MAX_COMPONENTS).into());
    }
    let of = |dims| Pca { dims, components: wanted as usize, seed: SEED };
    let budget = Budget {
        memory: &|_, dims| of(dims).memory(),
        least_rows: wanted as usize * ROWS_PER_COMPONENT,
        check: &|dims| match wanted as usize > dims {
            true => Err(out_of_bounds(dims).into()),
            false => Ok(()),
        },
    };
    let (model, dims) = window
        .learned([wanted, 0], budget, |sample| of(sample.dims).fit(&sample.vectors, &mut check_interrupts))?;
    let Some(vector) = window.vector(dims)? else { return Ok(None) };
    let mut result = VectorBuf::zeroed(wanted as usize)?;
    result.iter_mut().zip(project(model, &vector)).for_each(|(to, x)| *to = x);
    if check_finite(&result).is_err() {
        return Err(VectorError::Overflow.into());
    }
    Ok(Some(result))
}
