//! An opened index: what its metapage says.

use crate::layout::{DIRECTORY_BITS, Geometry, META_BLOCK, Meta, PageKind};
use crate::metric::Metric;
use crate::quantize::Space;
use crate::store::{IndexError, PageStore};

pub struct Index {
    pub meta: Meta,
    /// Of the lists' segments.
    pub geometry: Geometry,
    /// Of the directory's segments.
    pub directory: Geometry,
    pub space: Space,
}

impl Index {
    /// Reads metapage and mean. What is kept stays true until the index is rebuilt, but for the counters in `meta`.
    pub fn open<S: PageStore>(_store: &S) -> Result<Index, S::Error> {
        todo!()
    }
}
