//! How many rows make a batch.

use std::time::Duration;

/// What a batch should take: short enough that others get their rows and hear of the progress, long enough that texts of like
/// length find each other, and that transactions cost nothing (5 ms).
const BATCH_TIME: Duration = Duration::from_secs(1);

/// Before it is known how long a row takes.
const FIRST_ROWS: f64 = 32.0;

/// Rows a batch, by what the last ones have taken.
pub struct Pace {
    rows: f64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { rows: FIRST_ROWS }
    }
}

impl Pace {
    /// Rows of the next batch: at least one, at most `most`.
    pub fn rows(&self, most: usize) -> usize {
        (self.rows as usize).clamp(1, most)
    }

    /// A batch of so many rows took so long. A quick one, of blank rows maybe, doubles the next one at most.
    pub fn took(&mut self, rows: usize, time: Duration) {
        let seconds = time.as_secs_f64().max(1e-6);
        let wanted = rows as f64 * BATCH_TIME.as_secs_f64() / seconds;
        self.rows = wanted.clamp(1.0, 2.0 * self.rows.max(1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_take_a_second_after_a_few_of_them() {
        for rate in [0.5, 20.0, 250.0] {
            let mut pace = Pace::default();
            for _ in 0..8 {
                let rows = pace.rows(10_000);
                pace.took(rows, Duration::from_secs_f64(rows as f64 / rate));
            }
            assert_eq!(pace.rows(10_000), (rate as usize).max(1));
            assert_eq!(pace.rows(10), (rate as usize).clamp(1, 10));
        }
    }
}
