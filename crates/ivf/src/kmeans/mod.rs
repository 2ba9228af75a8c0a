//! k-means on a sample, and the assignment of rows to centroids, both by matrix multiplication.

mod assign;
mod cluster;
mod signs;
#[cfg(test)]
mod tests;

use crate::kernel::norm_squared;
use crate::random::{GOLDEN_GAMMA, SplitMix64};
pub use assign::Assigner;
pub use cluster::nearest;
use std::collections::HashSet;
use std::ops::Range;

/// Lloyd's iterations at most over a sample of fewer than [`HALVED_FROM`] rows a list: on four mixtures of
/// 32,000 × 384 for 600 lists, 5 left the mean squared distance 0.2 to 2% higher, and 20 took off another 0.1 to 0.4%.
const ITERATIONS: usize = 10;

/// Rows a list from which the first [`HALVED`] iterations make do with half of the sample, and [`WHOLE`] more see all
/// of it. Measured on 117,000 glosses of WordNet (MiniLM, 384 dims, 234 lists), as the mean squared distance of all
/// rows, and the recall of scans of 1% and 4% of them: 10 iterations over 48 rows a list .9343, .62, .889; these, over
/// 32 and then 64 rows, half the work, .9337, .62, .894; 5 over 48 rows .9407; 4 over 24 and then 2 over 96 .9310, but
/// .60 where few rows are scanned.
const HALVED_FROM: usize = 48;
const HALVED: usize = 4;
const WHOLE: usize = 2;

/// Iterations end when less than one row in this many has changed its list.
const SETTLED: usize = 1000;

/// Multiply-adds between two checks for interrupts: about 12 ms where they are done one by one, in f64, from main
/// memory.
const WORK_BETWEEN_CHECKS: usize = 1 << 23;

/// Vectors of `dims` elements, one after the other.
pub struct KMeans {
    /// Centroids wanted.
    pub lists: usize,
    pub dims: usize,
    /// Centroids are unit vectors, and the sample too.
    pub spherical: bool,
    /// The sample went through a [`Rotation`](crate::rotate::Rotation), which need not be repeated.
    pub rotated: bool,
    pub seed: u64,
}

impl KMeans {
    /// Centroids of `sample` (rows × dims, in random order): at most `lists`, at least one, no two of them equal. The
    /// same input gives the same centroids on the same machine. Rows with elements that are not finite do not count;
    /// without any other row, the one centroid is zero. A sample of no more than `lists` different rows is its own set
    /// of centroids.
    ///
    /// Lloyd's algorithm from random different rows, which follow density, as the lists of an index should. k-means++
    /// follows distance: measured on four mixtures of 32,000 × 384 for 600 lists, its seeds cost 7 iterations, the
    /// mean squared distance was 0 to 4% less (29% where a few tight clumps held most rows), and a scan of one list,
    /// weighted by its rows, up to six times as long.
    ///
    /// Fails only if `check_interrupts`, called many times a second, does.
    pub fn train<E>(
        &self,
        sample: &[f32],
        check_interrupts: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<f32>, E> {
        let pacer = &mut Pacer::new(check_interrupts);
        let rows = self.finite_rows(sample, pacer)?;
        let mut members = rows.clone();
        let (seeds, exhausted) = self.seeds(sample, &mut members, pacer)?;
        if exhausted {
            return self.deduplicate(seeds, pacer);
        }
        let all = rows.len();
        let plan = match all >= HALVED_FROM * self.lists {
            true => [(all / 2, HALVED), (all, WHOLE)],
            false => [(0, 0), (all, ITERATIONS)],
        };
        let centroids = self.iterate(sample, &rows, members, seeds, &plan, pacer)?;
        self.deduplicate(centroids, pacer)
    }

    /// Bytes that [`KMeans::train`], and after it an [`Assigner`] of its centroids, need at most beside a sample of
    /// `rows` rows.
    pub fn memory(&self, rows: usize) -> usize {
        let lists = self.lists.min(rows).max(1);
        // The finite rows, the rows by list, and each row's list now and before.
        let by_row = rows.saturating_mul(4 * size_of::<u32>());
        // Where a list's rows start, its spread, its place among the empty ones; or the hashes of its centroids, in a
        // table filled to between 7/16 and 7/8.
        let by_list = lists * 64;
        // One sum. The rest is for the small change of the allocator and of tables.
        let fixed = self.dims * size_of::<f64>() + 4096;
        Assigner::memory(lists, self.dims).saturating_add(by_row).saturating_add(by_list + fixed)
    }

    /// The numbers of the rows without NaN and infinity.
    fn finite_rows<E>(&self, sample: &[f32], pacer: &mut Pacer<E>) -> Result<Vec<u32>, E> {
        let mut rows = Vec::with_capacity(sample.len() / self.dims);
        for (number, row) in (0..u32::MAX).zip(sample.chunks_exact(self.dims)) {
            if row.iter().fold(true, |finite, x| finite & x.is_finite()) {
                rows.push(number);
            }
            pacer.spend(self.dims)?;
        }
        Ok(rows)
    }

    /// Up to `lists` different rows, chosen at random, and whether there are no others. Shuffles `rows`.
    fn seeds<E>(
        &self,
        sample: &[f32],
        rows: &mut [u32],
        pacer: &mut Pacer<E>,
    ) -> Result<(Vec<f32>, bool), E> {
        let wanted = self.lists.min(rows.len()).max(1);
        let mut seeds = Vec::with_capacity(wanted * self.dims);
        let mut seen = Distinct::new(wanted);
        let mut random = SplitMix64(self.seed);
        for i in 0..rows.len() {
            if seeds.len() == wanted * self.dims {
                return Ok((seeds, false));
            }
            rows.swap(i, i + random.below(rows.len() - i));
            let row = self.row(sample, rows[i]);
            if seen.insert(row) {
                seeds.extend_from_slice(row);
                let seed = seeds.len() - self.dims;
                self.normalise(&mut seeds[seed..]);
            }
            // Looked up, copied to new memory, measured and scaled.
            pacer.spend(4 * self.dims)?;
        }
        if seeds.is_empty() {
            seeds.resize(self.dims, 0.0);
        }
        Ok((seeds, true))
    }

    /// `rows`: the rows that count. `members`: as long, for the rows sorted by list. `plan`: how many of the rows to look
    /// at, and how often at most.
    fn iterate<E>(
        &self,
        sample: &[f32],
        rows: &[u32],
        mut members: Vec<u32>,
        seeds: Vec<f32>,
        plan: &[(usize, usize)],
        pacer: &mut Pacer<E>,
    ) -> Result<Vec<f32>, E> {
        let count = sample.len() / self.dims;
        let (mut assigned, mut before) = (Vec::with_capacity(count), vec![u32::MAX; count]);
        let mut assigner = Assigner::prepare(seeds, self.dims, self.rotated, pacer)?;
        for (rows, iterations) in plan.iter().map(|&(count, iterations)| (&rows[..count], iterations)) {
            // Up to the last row that counts.
            let sample = &sample[..rows.last().map_or(0, |&row| self.elements(row as usize).end)];
            for _ in 0..iterations {
                assigned.clear();
                assigner.assign_paced(sample, &mut assigned, pacer)?;
                let has_moved = |&&row: &&u32| assigned[row as usize] != before[row as usize];
                if rows.iter().filter(has_moved).count() * SETTLED < rows.len() {
                    break;
                }
                let members = &mut members[..rows.len()];
                let lists = Lists::group(rows, &assigned, assigner.lists(), members);
                let mut centroids = assigner.into_centroids();
                self.update(sample, &lists, &mut centroids, pacer)?;
                assigner = Assigner::prepare(centroids, self.dims, self.rotated, pacer)?;
                before[..assigned.len()].copy_from_slice(&assigned);
            }
        }
        Ok(assigner.into_centroids())
    }

    /// Moves each centroid to the mean of its list's rows. Those without rows split other lists, or are removed.
    fn update<E>(
        &self,
        sample: &[f32],
        lists: &Lists,
        centroids: &mut Vec<f32>,
        pacer: &mut Pacer<E>,
    ) -> Result<(), E> {
        let mut empty = Vec::new();
        let mut sum = vec![0f64; self.dims];
        for (list, centroid) in centroids.chunks_exact_mut(self.dims).enumerate() {
            let members = lists.members(list);
            let Some(&first) = members.first() else {
                empty.push(list);
                continue;
            };
            sum.fill(0.0);
            for &row in members {
                for (sum, &x) in sum.iter_mut().zip(self.row(sample, row)) {
                    *sum += f64::from(x);
                }
                pacer.spend(self.dims)?;
            }
            for (centroid, sum) in centroid.iter_mut().zip(&sum) {
                *centroid = (sum / members.len() as f64) as f32;
            }
            if !self.normalise(centroid) {
                // The rows cancel each other out.
                centroid.copy_from_slice(self.row(sample, first));
                self.normalise(centroid);
            }
        }
        if empty.is_empty() {
            return Ok(());
        }

        let splits = self.splits(sample, lists, centroids, pacer)?;
        for (&list, split) in empty.iter().zip(&splits) {
            let centroid = &mut centroids[self.elements(list)];
            centroid.copy_from_slice(self.row(sample, split.farthest));
            self.normalise(centroid);
        }
        // From the last on, so that the numbers of the others stay true.
        for &list in empty.iter().skip(splits.len()).rev() {
            centroids.drain(self.elements(list));
        }
        Ok(())
    }

    /// The lists worth splitting, the best first: the largest by the sum of squared distances. By the number of rows
    /// it would be one of a hundred thousand equal rows, of which no second list can be made.
    fn splits<E>(
        &self,
        sample: &[f32],
        lists: &Lists,
        centroids: &[f32],
        pacer: &mut Pacer<E>,
    ) -> Result<Vec<Split>, E> {
        // Nearer than some float32 roundings of the centroid, a row is no different from it.
        const SAME: f64 = (4.0 * f32::EPSILON as f64) * (4.0 * f32::EPSILON as f64);

        let mut splits = Vec::with_capacity(lists.len());
        for (list, centroid) in centroids.chunks_exact(self.dims).enumerate() {
            let (mut spread, mut farthest) = (0.0, (0.0, 0));
            for &row in lists.members(list) {
                let distance = squared_distance(self.row(sample, row), centroid);
                spread += distance;
                if distance > farthest.0 {
                    farthest = (distance, row);
                }
                pacer.spend(self.dims)?;
            }
            if farthest.0 > SAME * norm_squared(centroid) {
                splits.push(Split { spread, farthest: farthest.1 });
            }
        }
        // Stable: the first of equals stays the first.
        splits.sort_by(|a, b| b.spread.total_cmp(&a.spread));
        Ok(splits)
    }

    /// Without the centroids that are equal to an earlier one.
    fn deduplicate<E>(&self, mut centroids: Vec<f32>, pacer: &mut Pacer<E>) -> Result<Vec<f32>, E> {
        let mut seen = Distinct::new(centroids.len() / self.dims);
        let mut kept = 0;
        for list in 0..centroids.len() / self.dims {
            let elements = self.elements(list);
            if seen.insert(&centroids[elements.clone()]) {
                centroids.copy_within(elements, kept);
                kept += self.dims;
            }
            pacer.spend(self.dims)?;
        }
        centroids.truncate(kept);
        Ok(centroids)
    }

    /// Makes a centroid a unit vector, if they are to be; false if it has no direction.
    fn normalise(&self, centroid: &mut [f32]) -> bool {
        if !self.spherical {
            return true;
        }
        let norm = norm_squared(centroid).sqrt();
        if norm == 0.0 {
            return false;
        }
        let factor = 1.0 / norm;
        for x in centroid {
            *x = (f64::from(*x) * factor) as f32;
        }
        true
    }

    fn row<'a>(&self, sample: &'a [f32], number: u32) -> &'a [f32] {
        &sample[self.elements(number as usize)]
    }

    /// Where row or centroid `number` is.
    fn elements(&self, number: usize) -> Range<usize> {
        number * self.dims..(number + 1) * self.dims
    }
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let difference = |(&a, &b)| f64::from(a) - f64::from(b);
    a.iter().zip(b).map(difference).map(|x| x * x).sum()
}

/// A list to be split, and the row that becomes the other centroid.
struct Split {
    spread: f64,
    farthest: u32,
}

/// The rows of each list.
struct Lists<'a> {
    /// Sorted by list, then ascending.
    members: &'a [u32],
    /// Of each list: where its rows end; they start where those of the one before it end.
    ends: Vec<u32>,
}

impl<'a> Lists<'a> {
    /// `assigned`: the list of every row. `members`: as long as `rows`.
    fn group(rows: &[u32], assigned: &[u32], lists: usize, members: &'a mut [u32]) -> Lists<'a> {
        let mut next = vec![0; lists + 1];
        for &row in rows {
            next[assigned[row as usize] as usize + 1] += 1;
        }
        for list in 1..next.len() {
            next[list] += next[list - 1];
        }
        for &row in rows {
            let next = &mut next[assigned[row as usize] as usize];
            members[*next as usize] = row;
            *next += 1;
        }
        next.pop();
        Lists { members, ends: next }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn members(&self, list: usize) -> &[u32] {
        let start = if list == 0 { 0 } else { self.ends[list - 1] };
        &self.members[start as usize..self.ends[list] as usize]
    }
}

/// Tells different vectors apart by 64-bit hashes: equal ones always count as equal; should two different ones
/// collide, which chance will not do, there is one list less.
struct Distinct(HashSet<u64>);

impl Distinct {
    fn new(vectors: usize) -> Distinct {
        Distinct(HashSet::with_capacity(vectors))
    }

    /// False if an equal vector was inserted before.
    fn insert(&mut self, vector: &[f32]) -> bool {
        let mut hash = GOLDEN_GAMMA;
        for x in vector {
            // -0 + 0 = +0, as they are equal. Both halves of the product, for the bits to spread up and down.
            let product = u128::from(hash ^ u64::from((x + 0.0).to_bits())) * u128::from(GOLDEN_GAMMA);
            hash = product as u64 ^ (product >> 64) as u64;
        }
        self.0.insert(hash)
    }
}

/// Calls the caller's check for interrupts once in [`WORK_BETWEEN_CHECKS`].
struct Pacer<'a, E> {
    check: &'a mut dyn FnMut() -> Result<(), E>,
    work: usize,
}

impl<'a, E> Pacer<'a, E> {
    fn new(check: &'a mut dyn FnMut() -> Result<(), E>) -> Pacer<'a, E> {
        Pacer { check, work: 0 }
    }

    /// `work`: multiply-adds done since the last call.
    fn spend(&mut self, work: usize) -> Result<(), E> {
        self.work += work;
        if self.work < WORK_BETWEEN_CHECKS {
            return Ok(());
        }
        self.work = 0;
        (self.check)()
    }
}
