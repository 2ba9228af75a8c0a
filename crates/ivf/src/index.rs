//! An opened index: what its metapage says.

use std::rc::Rc;

use crate::build::MAX_LISTS;
use crate::columns::Columns;
use crate::geometry::Geometry;
use crate::layout::{DIRECTORY_BITS, FORMAT_VERSION, MAX_DIMENSIONS, META_BLOCK, Meta, PageKind};
use crate::metric::Metric;
use crate::quantize::Space;
use crate::store::{Block, IndexError, PageStore};

/// The chains of segments of one kind, lists or directory.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub index: &'a Index,
    pub geometry: &'a Geometry,
}

pub struct Index {
    pub meta: Meta,
    /// Of the lists' segments.
    pub geometry: Geometry,
    /// Of the directory's segments.
    pub directory: Geometry,
    pub space: Space,
}

impl Index {
    /// Reads metapage and mean. What is kept stays true until the index is trained again, but for the counters in `meta`;
    /// and so long may it be used for reading as what reads it keeps [`PageStore::has_passed`] from saying so.
    ///
    /// An index without rows may not [know its dimensions](Index::knows_dimensions): nothing but
    /// [`insert::settle`](crate::insert::settle) may change it then, and this is to be opened again.
    pub fn open<S: PageStore>(store: &S) -> Result<Index, S::Error> {
        let (meta, metric, page) = read(store)?;
        Ok(Index::of(meta, metric, page.mean(dimensions(&meta))))
    }

    /// Likewise, but if the index is still, or again, the same as `known`, there is nothing to be computed.
    pub fn reopen<S: PageStore>(store: &S, known: Option<Rc<Index>>) -> Result<Rc<Index>, S::Error> {
        let (meta, metric, page) = read(store)?;
        let mean = page.mean(dimensions(&meta));
        let same = |known: &Rc<Index>| {
            let fixed = |meta: &Meta| {
                let lists = (meta.mean, meta.directory, meta.lists, meta.fresh, meta.generation);
                let counts = (meta.training, meta.is_training, meta.curve);
                (meta.dims, meta.bits, meta.columns, meta.seed, lists, counts)
            };
            fixed(&known.meta) == fixed(&meta) && known.space.metric() == metric && known.space.mean() == mean
        };
        Ok(known.filter(same).unwrap_or_else(|| Rc::new(Index::of(meta, metric, mean))))
    }

    pub(crate) fn of(meta: Meta, metric: Metric, mean: &[f32]) -> Index {
        Index {
            meta,
            geometry: Geometry::new(mean.len(), meta.bits as usize, meta.columns),
            directory: Geometry::new(mean.len(), DIRECTORY_BITS, Columns::default()),
            space: Space::new(metric, meta.seed, mean.to_vec()),
        }
    }

    /// How to read the lists.
    pub(crate) fn lists(&self) -> Part<'_> {
        Part { index: self, geometry: &self.geometry }
    }

    /// How to read the directory.
    pub(crate) fn directory(&self) -> Part<'_> {
        Part { index: self, geometry: &self.directory }
    }

    /// The error for a page that is not what the index says, as it was when this was opened: that it has been trained
    /// again, or else that it is damaged.
    pub(crate) fn astray<S: PageStore>(&self, store: &S, block: Block, problem: String) -> S::Error {
        match read_meta(store) {
            Ok((meta, _)) if meta.generation != self.meta.generation => IndexError::Replaced(block).into(),
            _ => IndexError::corrupt(block, problem).into(),
        }
    }

    pub fn knows_dimensions(&self) -> bool {
        self.meta.dims != 0
    }
}

/// The vectors' dimensions, or 1 if they are not known.
fn dimensions(meta: &Meta) -> usize {
    meta.dims.max(1) as usize
}

/// The metapage's content, checked, and the page with the mean.
fn read<S: PageStore>(store: &S) -> Result<(Meta, Metric, S::Read<'_>), S::Error> {
    let (mut meta, mut metric) = read_meta(store)?;
    loop {
        let page = store.read(meta.mean)?;
        if page.is(PageKind::Mean) {
            return Ok((meta, metric, page));
        }
        // A standby may have replayed a training, and what freed the pages of the lists before it.
        drop(page);
        let before = meta;
        (meta, metric) = read_meta(store)?;
        if meta.generation == before.generation {
            return Err(IndexError::corrupt(meta.mean, "is not a Mean page").into());
        }
    }
}

/// The metapage's content, checked.
pub fn read_meta<S: PageStore>(store: &S) -> Result<(Meta, Metric), S::Error> {
    let page = store.read(META_BLOCK)?;
    page.expect(PageKind::Meta, META_BLOCK)?;
    let meta = *page.meta();
    if meta.version != FORMAT_VERSION {
        return Err(IndexError::Version(meta.version).into());
    }
    let metric = Metric::from_stored(meta.metric);
    let known =
        (1..=MAX_DIMENSIONS as u32).contains(&meta.dims) && (1..=MAX_LISTS as u32).contains(&meta.lists);
    let possible = (known || (meta.dims, meta.lists) == (0, 0)) && (1..=8).contains(&meta.bits);
    let possible = possible && meta.columns.is_possible();
    match metric {
        Some(metric) if possible => Ok((meta, metric)),
        _ => Err(IndexError::corrupt(META_BLOCK, "says what cannot be").into()),
    }
}

/// Lists that a scan reads when neither it is told nor a [curve](crate::recall) is known, for a recall of about 0.95 on text
/// embeddings.
///
/// Measured on real MiniLM embeddings: 117k WordNet glosses have .95 with 17 to 19 of 234 lists, 21 of 400 and 35 of 1000;
/// 144k captions with 16 of 400, 297k captions and posts with 45 of 1000 (design/ivf.md). A million rows made from the
/// glosses have it with 28 of 2000.
pub fn automatic_probes(lists: usize) -> usize {
    let lists = lists as f64;
    (2.0 * lists).sqrt().min(lists).ceil() as usize
}
