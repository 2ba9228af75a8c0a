//! k-means on a sample, and the assignment of rows to centroids, both by matrix multiplication.

/// Vectors of `dims` elements, one after the other.
pub struct KMeans {
    /// Centroids wanted.
    pub lists: usize,
    pub dims: usize,
    /// Centroids are unit vectors, and the sample too.
    pub spherical: bool,
    pub seed: u64,
}

impl KMeans {
    /// Centroids of `sample` (rows × dims): at most `lists`, at least one, no two of them equal. The same input gives the same
    /// centroids on the same machine.
    ///
    /// Fails only if `check_interrupts`, called many times a second, does.
    pub fn train<E>(
        &self,
        _sample: &[f32],
        _check_interrupts: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<f32>, E> {
        todo!()
    }

    /// Bytes that [`KMeans::train`] and an [`Assigner`] need beside a sample of `rows` rows.
    pub fn memory(&self, _rows: usize) -> usize {
        todo!()
    }
}

/// Finds the nearest centroid of many rows at once.
pub struct Assigner {}

impl Assigner {
    /// `centroids`: lists × dims.
    pub fn new(_centroids: Vec<f32>, _dims: usize, _nearest: Nearest) -> Assigner {
        todo!()
    }

    pub fn lists(&self) -> usize {
        todo!()
    }

    pub fn centroids(&self) -> &[f32] {
        todo!()
    }

    /// Appends to `out`, for each row of `rows` (rows × dims), the centroid c with the least |c|²/2 - c·x; the first of equals.
    /// A row whose products are not finite goes to any.
    pub fn assign(&self, _rows: &[f32], _out: &mut Vec<u32>) {
        todo!()
    }
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nearest {
    L2,
    InnerProduct,
}
