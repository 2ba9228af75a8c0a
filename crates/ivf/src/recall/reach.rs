//! Whether a scan with conditions has read enough.

use std::array::from_fn;

use super::curve::TELLING;
use super::{Curve, NEIGHBOURS};

/// The nearest rows so far that satisfy the conditions, by their sign bits, and how far out their lists are.
#[derive(Default)]
pub(crate) struct Reach {
    /// Bound and score, the nearest first.
    nearest: Vec<(f32, f64)>,
    /// Bounds seen so far.
    seen: usize,
    /// Of the list that is being read.
    score: f64,
}

impl Reach {
    /// Takes note of what was read of a list, as it goes on to one with this score. `bounds`: those of all lanes so far, NaN
    /// for a row that does not satisfy the conditions.
    pub fn go_on(&mut self, bounds: &[f32], score: f64) {
        // Who begins a list anew has fewer.
        let mut farthest = self.farthest();
        for &bound in bounds.get(self.seen..).unwrap_or(&[]) {
            if bound < farthest {
                let place = self.nearest.partition_point(|&(other, _)| other <= bound);
                self.nearest.truncate(NEIGHBOURS - 1);
                self.nearest.insert(place, (bound, self.score));
                farthest = self.farthest();
            }
        }
        (self.seen, self.score) = (bounds.len(), score);
    }

    fn farthest(&self) -> f32 {
        self.nearest.get(NEIGHBOURS - 1).map_or(f32::INFINITY, |&(bound, _)| bound)
    }

    /// Whether the list that it has gone on to is too far out to be read for a recall. `share`: of the rows read so far that
    /// satisfy the conditions.
    pub fn is_enough(&self, curve: &Curve, recall: f64, share: f64) -> bool {
        if self.nearest.len() < NEIGHBOURS {
            return false;
        }
        let mut scores: [f64; NEIGHBOURS] = from_fn(|i| self.nearest[i].1);
        scores.sort_unstable_by(f64::total_cmp);
        self.score > curve.threshold_of_matching(recall, share, scores[TELLING])
    }
}
