//! `kmeans(vector, k) OVER (...)`: the cluster of each row of a partition.

use ivf::kmeans::{KMeans, nearest};
use pgrx::prelude::*;

use super::window::{Budget, Window, check_interrupts};
use crate::error::{AnalysisError, Error, OrRaise};

/// As many as an index can have lists.
const MAX_CLUSTERS: i32 = crate::index::MAX_LISTS;

/// Rows of the sample for each cluster, at least.
const ROWS_PER_CLUSTER: usize = 8;

/// The arguments behind the vector.
const CLUSTERS: i32 = 1;
const SEED: i32 = 2;

/// The number of the row's cluster, from 0. NULL for a NULL vector, or without a number of clusters.
#[pg_extern(sql = false)]
fn kmeans(fcinfo: pg_sys::FunctionCallInfo) -> Option<i32> {
    // SAFETY: the SQL declares it as a window function.
    cluster(&unsafe { Window::of_call(fcinfo) }.or_raise()).or_raise()
}

fn cluster(window: &Window) -> Result<Option<i32>, Error> {
    let (Some(clusters), Some(seed)) = (window.integer(CLUSTERS), window.integer(SEED)) else {
        return Ok(None);
    };
    if !(1..=MAX_CLUSTERS).contains(&clusters) {
        return Err(AnalysisError::OutOfBounds {
            what: "number of clusters",
            value: clusters,
            limit: MAX_CLUSTERS as usize,
        }
        .into());
    }
    let lists = clusters as usize;
    let of = |dims| KMeans { lists, dims, spherical: false, rotated: false, seed: seed as u64 };
    let budget = Budget {
        memory: &|rows, dims| of(dims).cluster_memory(rows),
        least_rows: lists.saturating_mul(ROWS_PER_CLUSTER),
        check: &|_| Ok(()),
    };
    let (centroids, dims) = window.learned([clusters, seed], budget, |sample| {
        of(sample.dims).cluster(&sample.vectors, &mut check_interrupts)
    })?;
    let Some(vector) = window.vector(dims)? else { return Ok(None) };
    Ok(Some(nearest(centroids, &vector) as i32))
}
