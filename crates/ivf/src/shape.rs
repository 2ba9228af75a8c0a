//! Whether an index is to be trained again.

use crate::build::default_lists;
use crate::layout::Meta;

/// How many more rows a scan for a stored row reads than with lists of equal length, of lists with so many rows:
/// `lists * sum(n²) / (sum n)²`.
pub fn imbalance(lengths: &[u64]) -> f64 {
    let rows: u64 = lengths.iter().sum();
    let squares: f64 = lengths.iter().map(|&rows| (rows as f64).powi(2)).sum();
    if rows == 0 { 1.0 } else { lengths.len() as f64 * squares / (rows as f64).powi(2) }
}

/// What an index has become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Rows, those of the fresh list included.
    pub rows: u64,
    /// Rows of the fresh list.
    pub fresh: u64,
    /// [`imbalance`] of the lists.
    pub imbalance: f64,
}

/// Why an index is to be trained again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There are more rows than at the time of the training, or fewer.
    Rows,
    /// Rows have gathered in some lists.
    Uneven,
    /// Many rows are in the fresh list, which every scan reads.
    Fresh,
    /// More pages are free than are in use.
    Space,
}

/// Rows that trainings may read for each row that was inserted or deleted: then all of them together read at most so many
/// times the rows of one build, at .7 of its cost for each (measured on 116,033 glosses, one process).
const CREDIT: u64 = 3;

/// Growth that is worth a training: the lists are then a sixth too few, and a scan reads about a tenth more rows, as it
/// reads about sqrt(lists) of them.
const GROWN: f64 = 1.2;
/// With fewer rows too many lists are read, which costs less.
const SHRUNK: f64 = 0.6;
/// Times the imbalance that the training left.
const UNEVEN: f64 = 1.5;
/// Share of the rows that are in the fresh list.
const FRESH: f64 = 0.02;
/// Rows of the fresh list that cost nothing: some µs a scan.
const FRESH_ROWS: u64 = 1000;
/// Trainings that may have died before the next one waits until the changes since are worth it.
const PATIENCE: u64 = 3;
/// Pages worth giving back.
const SPACE: u32 = 1024;

impl Shape {
    /// Of lists with so many rows, the last of which is the fresh one.
    pub fn of(lengths: &[u64]) -> Shape {
        let (&fresh, lists) = lengths.split_last().unwrap_or((&0, &[]));
        Shape { rows: lengths.iter().sum(), fresh, imbalance: imbalance(lists) }
    }

    /// Whether an index is to be trained again; `lists` if the user says how many.
    pub fn is_due(&self, meta: &Meta, lists: Option<usize>) -> Option<Reason> {
        let wanted = lists.unwrap_or_else(|| default_lists(self.rows as f64));
        if wanted <= 1 && meta.lists <= 1 {
            return None; // one list is as good as another
        }
        if self.rows == 0 {
            return None; // the lists are the best guess for the rows to come
        }
        let growth = self.rows as f64 / meta.trained_rows.max(1) as f64;
        let reason = if !(SHRUNK..GROWN).contains(&growth) {
            Reason::Rows
        } else if self.imbalance > UNEVEN * meta.trained_imbalance {
            Reason::Uneven
        } else if self.fresh > FRESH_ROWS.max((FRESH * self.rows as f64) as u64) {
            Reason::Fresh
        } else if meta.free_pages >= SPACE
            && u64::from(meta.free_pages) * 2 > u64::from(meta.pages) + u64::from(SPACE)
        {
            Reason::Space
        } else {
            return None;
        };
        // One that died, as autovacuum does when somebody waits for the table, is tried again; a fresh list that is long is what
        // it has left. But what makes it die may last, and would have every vacuum fail.
        let in_patience = (reason == Reason::Fresh || meta.spent > 0) && meta.spent < PATIENCE * self.rows;
        (credit(meta, self.rows) >= self.rows || in_patience).then_some(reason)
    }
}

/// Rows that a training may read when there are `rows`: what those since the build have left of what the changes were worth.
pub(crate) fn credit(meta: &Meta, rows: u64) -> u64 {
    // Rows now = rows trained + inserted - deleted.
    let inserted = (rows + meta.deleted).saturating_sub(meta.trained_rows);
    let earned = meta.credit.saturating_add(CREDIT.saturating_mul(inserted + meta.deleted));
    earned.saturating_sub(meta.spent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    fn shape(rows: u64) -> Shape {
        Shape { rows, fresh: 0, imbalance: 1.2 }
    }

    /// A table that grows from nothing, vacuumed whenever a fifth has been added.
    #[test]
    fn all_trainings_of_a_growing_table_cost_a_constant_times_one() {
        let mut meta = Meta { lists: 1, trained_imbalance: 1.2, ..Meta::zeroed() };
        let (mut trained, mut rows) = (0, 100u64);
        while rows < 10_000_000 {
            if shape(rows).is_due(&meta, None).is_some() {
                trained += rows;
                meta.credit = credit(&meta, rows) - rows;
                (meta.trained_rows, meta.lists) = (rows, default_lists(rows as f64) as u32);
            }
            assert!(trained <= 3 * rows, "{trained} rows read for {rows}");
            // And yet it is never far behind.
            assert!(
                rows < 1000 || rows as f64 <= 1.8 * meta.trained_rows as f64,
                "{rows} {}",
                meta.trained_rows
            );
            rows += rows / 5 + 1;
        }
    }

    #[test]
    fn reasons() {
        let meta = Meta {
            lists: 100,
            trained_rows: 50_000,
            trained_imbalance: 1.2,
            credit: 100_000,
            ..Meta::zeroed()
        };
        assert_eq!(shape(50_000).is_due(&meta, None), None);
        assert_eq!(shape(61_000).is_due(&meta, None), Some(Reason::Rows));
        assert_eq!(shape(5_000).is_due(&meta, None), Some(Reason::Rows));
        assert_eq!(Shape { imbalance: 2.0, ..shape(50_000) }.is_due(&meta, None), Some(Reason::Uneven));
        assert_eq!(Shape { fresh: 2_000, ..shape(50_000) }.is_due(&meta, None), Some(Reason::Fresh));
        assert_eq!(shape(61_000).is_due(&Meta { credit: 20_000, ..meta }, None), None);
        // One has died, or more.
        let fresh = Shape { fresh: 2_000, ..shape(52_000) };
        let died = |times: u64| Meta { credit: 0, spent: times * 50_000, ..meta };
        assert_eq!(fresh.is_due(&died(2), None), Some(Reason::Fresh));
        assert_eq!(fresh.is_due(&died(4), None), None);
        assert_eq!(shape(61_000).is_due(&Meta { spent: 100_000, ..meta }, None), Some(Reason::Rows));
        assert_eq!(shape(61_000).is_due(&Meta { spent: 200_000, ..meta }, None), None);
        assert_eq!(shape(61_000).is_due(&Meta { lists: 1, ..meta }, Some(1)), None);
        let free = Meta { free_pages: 10_000, pages: 15_000, ..meta };
        assert_eq!(shape(50_000).is_due(&free, None), Some(Reason::Space));
    }

    #[test]
    fn equal_lists_are_balanced() {
        assert_eq!(imbalance(&[10, 10, 10]), 1.0);
        assert_eq!(imbalance(&[30, 0, 0]), 3.0);
        assert_eq!(imbalance(&[]), 1.0);
    }
}
