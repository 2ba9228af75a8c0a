//! A random sample of a table's vectors: random pages, and of their rows as many as there is room for.

use ivf::layout::Tid;
use ivf::random::SplitMix64;
use pgrx::pg_sys;

use super::rows::Source;
use crate::error::{Error, IvfError, OrRaise};

/// Any number: the same table gives the same sample, and so the same index.
const SEED: u32 = 0x5eed;

/// What to read, and how much of it to keep.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Pages of the table.
    pub blocks: u32,
    pub rows: usize,
    pub bytes: usize,
}

pub struct Sample {
    /// Of the vectors, which all have the same; `None` if there is no vector.
    pub dims: Option<usize>,
    /// Rows × dims.
    pub vectors: Vec<f32>,
    /// Of these rows.
    pub tids: Vec<Tid>,
    /// Rows that the pages hold, kept or not.
    pub rows: u64,
    blocks: u32,
    blocks_of_table: u32,
}

impl Sample {
    /// # Errors
    /// Vectors of other dimensions than `dims`, or than each other.
    ///
    /// # Safety
    /// As for [`Source::for_each`].
    pub unsafe fn take(source: &Source, dims: Option<usize>, plan: Plan) -> Sample {
        let blocks_of_table = source.blocks();
        let mut sample =
            Sample { dims, vectors: Vec::new(), tids: Vec::new(), rows: 0, blocks: 0, blocks_of_table };
        if let (Some(dims), true) = (dims, plan.rows < usize::MAX) {
            // Not more than is asked for, as a vector that grows would take.
            let wanted = plan.rows * dims;
            let reserved = sample.vectors.try_reserve_exact(wanted);
            reserved.map_err(|_| IvfError::OutOfMemory { wanted: wanted * size_of::<f32>() }).or_raise();
        }
        let mut random = SplitMix64(SEED.into());
        let mut sampler = pg_sys::BlockSamplerData::default();
        let wanted = plan.blocks.min(i32::MAX as u32) as i32;
        // SAFETY: the state of the sampler is ours; the rest is the caller's promise.
        unsafe {
            pg_sys::BlockSampler_Init(&mut sampler, blocks_of_table, wanted, SEED as _);
            while pg_sys::BlockSampler_HasMore(&mut sampler) {
                pgrx::check_for_interrupts!();
                let block = pg_sys::BlockSampler_Next(&mut sampler);
                source.for_each_of_block(block, |row| {
                    if row.is_alive {
                        sample.add(row, plan, &mut random).or_raise();
                    } else if sample.dims.is_none() {
                        // It is not to be trained on, but is in the index.
                        sample.dims = Some(row.vector().len());
                    }
                });
                sample.blocks += 1;
            }
        }
        sample
    }

    /// Reservoir sampling: of all rows so far, each is kept with the same probability (Vitter's algorithm R).
    fn add(&mut self, row: &super::rows::Row, plan: Plan, random: &mut SplitMix64) -> Result<(), Error> {
        self.rows += 1;
        let place = match self.dims {
            Some(dims) => {
                let room = plan.rows.min(plan.bytes / (dims * size_of::<f32>()));
                let kept = self.vectors.len() / dims;
                let place = if kept < room { kept } else { random.below(self.rows as usize) };
                if place >= room {
                    return Ok(());
                }
                Some(place)
            }
            None => None,
        };
        let vector = row.vector();
        let dims = *self.dims.get_or_insert(vector.len());
        check_dimensions(dims, vector.len())?;
        let place = place.unwrap_or(0);
        let start = place * dims;
        if place == self.tids.len() {
            self.vectors.extend_from_slice(&vector);
            self.tids.push(row.tid);
        } else {
            self.vectors[start..start + dims].copy_from_slice(&vector);
            self.tids[place] = row.tid;
        }
        Ok(())
    }

    /// Rows a page, on average.
    pub fn density(&self) -> f64 {
        self.rows as f64 / f64::from(self.blocks.max(1))
    }

    /// Rows in the table, by what the pages hold.
    pub fn rows_of_table(&self) -> f64 {
        self.density() * f64::from(self.blocks_of_table)
    }

    pub fn read_whole_table(&self) -> bool {
        self.blocks >= self.blocks_of_table
    }

    /// Every row is in the sample.
    pub fn has_whole_table(&self) -> bool {
        self.read_whole_table() && self.vectors.len() as u64 == self.rows * self.dims.unwrap_or(0) as u64
    }
}

/// Refuses a vector that does not fit the index.
pub fn check_dimensions(expected: usize, actual: usize) -> Result<(), Error> {
    if actual == expected { Ok(()) } else { Err(Error::UnexpectedDimensions { expected, actual }) }
}

/// Refuses dimensions that an index cannot have.
pub fn check_limit(dims: usize) -> Result<(), Error> {
    if dims > ivf::layout::MAX_DIMENSIONS { Err(IvfError::TooManyDimensions.into()) } else { Ok(()) }
}
