//! `ivf_check(index, heapallindexed => true)`: whether an index has every row of its table, with the values of today.

use std::hash::{DefaultHasher, Hash, Hasher};

use ivf::columns::Value;
use ivf::index::Index;
use ivf::layout::Tid;
use pgrx::pg_sys;

use super::columns::IndexColumns;
use super::distance::has_distance;
use super::page::Pages;
use super::rows::Source;
use super::{OfIndex, metric_of};
use crate::error::Error;

/// What is wrong, at most `limit` problems. `memory`: bytes for the rows of the index, which are compared in several rounds
/// if they do not fit.
///
/// # Safety
/// As for [`Source::for_each_visible`].
pub unsafe fn compare(source: &Source, limit: usize, memory: usize) -> Result<Vec<String>, Error> {
    // SAFETY: the caller's promise: index and table are open.
    unsafe {
        let pages = Pages::of(source.index);
        let (columns, metric) = (IndexColumns::of(source.index)?, metric_of(source.index)?);
        let index = Index::open(&pages).or_raise_for(source.index);
        let mut all = 0;
        ivf::rows::for_each(&pages, &index, |_, _| all += 1).or_raise_for(source.index);
        let rounds = (all * size_of::<Entry>()).div_ceil(memory.max(1)).max(1) as u32;
        // Of now: for an older one, a row's newer version may be in the index. What it sees was in the index before.
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let mut problems = Vec::new();
        for round in 0..rounds {
            let is_due = |tid: Tid| tid.block() % rounds == round;
            let mut entries: Vec<Entry> = Vec::new();
            ivf::rows::for_each(&pages, &index, |tid, values| {
                if is_due(tid) {
                    entries.push((tid, fingerprint(values)));
                }
            })
            .or_raise_for(source.index);
            entries.sort_unstable();
            let mut numbers = Vec::new();
            source.for_each_visible(snapshot, |row| {
                if !is_due(row.tid) || problems.len() >= limit {
                    return;
                }
                let vector = row.vector();
                row.read(&columns, &mut numbers);
                let at = entries.partition_point(|&(tid, _)| tid < row.tid);
                let here = || format!("row ({},{}) of the table", row.tid.block(), row.tid.offset);
                match entries.get(at).filter(|(tid, _)| *tid == row.tid) {
                    None if has_distance(metric, &vector) => {
                        problems.push(format!("{} is not in the index", here()))
                    }
                    Some((_, values)) if *values != fingerprint(&numbers) => {
                        problems.push(format!("{} has other values in its columns than the index", here()));
                    }
                    _ => {}
                }
            });
        }
        pg_sys::UnregisterSnapshot(snapshot);
        Ok(problems)
    }
}

/// A row of the index and the [`fingerprint`] of its values.
type Entry = (Tid, u64);

fn fingerprint(values: &[Value]) -> u64 {
    let mut hasher = DefaultHasher::new();
    values.hash(&mut hasher);
    hasher.finish()
}
