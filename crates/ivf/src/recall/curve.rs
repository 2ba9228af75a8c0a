//! What a measurement has found, as the metapage keeps it.

use bytemuck::{Pod, Zeroable};

use super::Scale;
use crate::quantize::{FEW_DEVIATIONS, MANY_DEVIATIONS};

/// Shares of the neighbours that a threshold is kept for; between them it is interpolated.
pub(crate) const RECALLS: [f64; 10] = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9998];

/// One row in so many is a row that satisfies a condition. The neighbours of such are farther away.
pub(crate) const RARITIES: [u64; 4] = [1, 10, 100, 1000];

/// A threshold for each of [`RECALLS`], of each of [`RARITIES`].
pub(crate) type Table = [[f32; RECALLS.len()]; RARITIES.len()];

/// From this target on, rows are looked at that the sign bits make improbable; below, it would cost more than to read some
/// more lists.
const HIGH: f64 = 0.97;

/// For how many neighbours to aim beyond the target, in case that the sample was easier, and for those that sign bits miss in
/// lists that are read, see [`FEW_DEVIATIONS`]: what is missed is to be less than what is read too much.
const MARGIN: f64 = 0.0025;

/// Conditions can be such that their rows are elsewhere than the query, in lists far out, and not as many of the rows near it
/// as of all: then their share says too little. Where the nearest ones found so far are says more, but by ten of them it is
/// uncertain, and who reads by the greater of the two reads too much for most conditions. So the aim is lower by this part of
/// what may be missed.
///
/// Measured on 116,033 glosses in 232 lists, for .95: rows chosen at random, from a half to a thousandth, .955 to .981; the
/// query's own topic, of 20 by k-means, .981; another topic .899; all but its own .928; a tenth of another one .960. By the
/// share alone, and no lower aim, these were .941 to .954, .978, .635, .858 and .741. With a lower aim by three times as much,
/// rows chosen at random in clusters that reach over one another had .928 to .950.
const LESS: f64 = 0.3;
const MOST_LESS: f64 = 0.005;
/// The neighbour, from 0, by whose list it is told how rare rows are, and its place in [`RECALLS`]. A nearer one is too
/// often in the first list, and one farther away depends on what is not read yet.
pub(super) const TELLING: usize = 6;
const TOLD: usize = 1;
/// Thresholds of two rarities that are less than so many times as great tell nothing of rarer ones.
const FLAT: f64 = 1.5;
/// Power of ten.
const MOST_RARE: f64 = 9.0;

#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Curve {
    /// Queries that it was measured with; 0: not at all.
    pub queries: u32,
    /// 1 if these were given, by [`calibrate`](crate::measure::calibrate).
    pub calibrated: u32,
    /// How many times as great thresholds are as by rows of the index: what a calibration leaves to the trainings after it.
    pub(crate) stretch: f32,
    /// What [`Scale`](super::Scale) takes for the usual distance of a query to its nearest list.
    pub(crate) usual: f32,
    /// Of scores, see [`Scale`](super::Scale). Infinite where there were too few rows to tell.
    pub(crate) thresholds: Table,
    /// Lists that have to be read for them, on average.
    pub(crate) lists: Table,
}

impl Curve {
    /// Nothing was measured.
    pub const UNKNOWN: Curve = Curve {
        queries: 0,
        calibrated: 0,
        stretch: 1.0,
        usual: 0.0,
        thresholds: [[0.0; RECALLS.len()]; RARITIES.len()],
        lists: [[0.0; RECALLS.len()]; RARITIES.len()],
    };

    pub fn is_known(&self) -> bool {
        self.queries > 0
    }

    /// For a query whose nearest list has this key.
    pub(crate) fn scale(&self, nearest: f32) -> Scale {
        Scale::new(nearest, self.usual)
    }

    /// How far to read for a recall.
    pub fn threshold(&self, recall: f64) -> f64 {
        at(&self.thresholds, Curve::aim(recall), 0.0)
    }

    /// Likewise, for those rows that satisfy the conditions. `share`: of the rows read so far; `telling`: score of the
    /// list with the [`TELLING`] of the nearest of them so far.
    pub(crate) fn threshold_of_matching(&self, recall: f64, share: f64, telling: f64) -> f64 {
        let by_share = rarity(share);
        let by_found = self.rarity_of(telling);
        let less = (LESS * (1.0 - recall)).min(MOST_LESS);
        at(&self.thresholds, Curve::aim(recall) - less, by_share.max(by_found))
    }

    /// Lists that are read on average, if this share of the rows satisfies the conditions; may be infinite.
    pub fn lists(&self, recall: f64, share: f64) -> f64 {
        at(&self.lists, Curve::aim(recall), rarity(share))
    }

    /// Deviations of the sign bits' estimates that a scan allows for.
    pub fn deviations(recall: f64) -> f64 {
        if recall > HIGH { MANY_DEVIATIONS } else { FEW_DEVIATIONS }
    }

    /// The share of the neighbours whose lists are to be read.
    fn aim(recall: f64) -> f64 {
        recall + MARGIN.min((1.0 - recall) / 4.0)
    }

    /// How rare rows are, as a power of ten, whose neighbours have their [`TELLING`] one this far out.
    fn rarity_of(&self, score: f64) -> f64 {
        let of = |rarity: usize| f64::from(self.thresholds[rarity][TOLD]);
        let known = known(&self.thresholds);
        let last = known.saturating_sub(2);
        let before = (0..last).find(|&rarity| of(rarity + 1) > score).unwrap_or(last);
        let (from, to) = (of(before), of((before + 1).min(RARITIES.len() - 1)));
        let place = place_between(from, to, score);
        // Beyond what was measured thresholds go on as before, if they grow at all.
        let most = if to > FLAT * from { MOST_RARE } else { known as f64 };
        // It is not a number if all thresholds are zero.
        if place.is_nan() { 0.0 } else { (before as f64 + place).clamp(0.0, most) }
    }
}

/// As a power of ten.
fn rarity(share: f64) -> f64 {
    -share.clamp(f64::MIN_POSITIVE, 1.0).log10()
}

/// Rarities that there were rows enough for.
fn known(table: &Table) -> usize {
    table.iter().take_while(|row| row[0].is_finite()).count()
}

fn at(table: &Table, recall: f64, rarity: f64) -> f64 {
    if recall >= RECALLS[RECALLS.len() - 1] {
        return f64::INFINITY;
    }
    let of = |rarity: usize| along(&table[rarity], recall);
    match known(table) {
        0 => f64::INFINITY,
        1 if rarity > 0.0 => f64::INFINITY,
        1 => of(0),
        known => {
            // A power law, about, and it goes on as before.
            let before = (rarity as usize).min(known - 2);
            between(of(before), of(before + 1), rarity - before as f64)
        }
    }
}

/// The value for a recall: the logarithm of thresholds is about linear in that of what is missed.
fn along(values: &[f32; RECALLS.len()], recall: f64) -> f64 {
    let next = RECALLS.partition_point(|&known| known <= recall).clamp(1, RECALLS.len() - 1);
    let [from, to] = [RECALLS[next - 1], RECALLS[next]].map(|recall| -(1.0 - recall).ln());
    let place = (-(1.0 - recall).ln() - from) / (to - from);
    between(values[next - 1].into(), values[next].into(), place.max(0.0))
}

/// From `a` at 0 to `b` at 1 and on: geometrically, or as far as `b` in a line if that is steep, as where all neighbours are in one
/// cluster or, some rows fewer, in many.
fn between(a: f64, b: f64, place: f64) -> f64 {
    if a == 0.0 || a * STEEP <= b && place <= 1.0 { a + (b - a) * place } else { a * (b / a).powf(place) }
}

/// The place at which [`between`] has a value.
fn place_between(a: f64, b: f64, value: f64) -> f64 {
    if a == 0.0 || a * STEEP <= b && value <= b {
        (value - a) / (b - a)
    } else {
        (value.max(f64::MIN_POSITIVE) / a).ln() / (b / a).ln()
    }
}

/// Times as much. Of text embeddings thresholds for the usual recalls are 3 times as great for each power of ten, and twice
/// from one recall to the next; those for .5 and .7, near which most neighbours are in the first list, are farther apart.
const STEEP: f64 = 4.0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curve(first: f32, rarities: usize) -> Curve {
        let mut curve = Curve { queries: 400, ..Curve::zeroed() };
        for (rarity, row) in curve.thresholds.iter_mut().enumerate() {
            for (level, value) in row.iter_mut().enumerate() {
                *value = match rarity < rarities {
                    true => first * (1.0 + level as f32) * 3f32.powi(rarity as i32),
                    false => f32::INFINITY,
                };
            }
        }
        curve
    }

    #[test]
    fn what_was_measured_is_what_comes_out() {
        let curve = curve(0.1, 4);
        // The target and the margin.
        assert!((curve.threshold(0.9475) - 0.5).abs() < 1e-6);
        assert_eq!(curve.threshold(1.0), f64::INFINITY);
    }

    #[test]
    fn conditions_read_by_their_share_or_by_where_their_rows_are() {
        let curve = curve(0.1, 4);
        let all = curve.threshold_of_matching(0.9, 1.0, 0.0);
        let ratio = |share, score| curve.threshold_of_matching(0.9, share, score) / all;
        assert!((ratio(0.01, 0.0) - 9.0).abs() < 1e-3);
        // Beyond what was measured it goes on as before.
        assert!((ratio(1e-5, 0.0) - 243.0).abs() < 1e-2);
        // The seventh of ten neighbours is where it is with a 100th of the rows.
        assert!((ratio(0.5, 1.8) - 9.0).abs() < 1e-3, "{}", ratio(0.5, 1.8));
        assert!((ratio(1e-3, 1.8) - 27.0).abs() < 1e-3);
    }

    #[test]
    fn few_rows_tell_nothing_of_conditions() {
        let curve = curve(0.1, 1);
        assert!(curve.threshold(0.95).is_finite());
        assert_eq!(curve.threshold_of_matching(0.95, 0.5, 0.0), f64::INFINITY);
    }

    proptest! {
        #[test]
        fn more_recall_or_a_rarer_condition_reads_no_less(
            first in prop_oneof![Just(0f32), 1e-6..1e6f32],
            rarities in 1usize..=4,
            (a, b) in (0.5..=1.0f64, 0.5..=1.0f64),
            (s, t) in (1e-6..=1.0f64, 1e-6..=1.0f64),
            found in 0.0..1e7f64,
        ) {
            let curve = curve(first, rarities);
            let threshold = |recall, share| curve.threshold_of_matching(recall, share, found);
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(threshold(low, s) <= threshold(high, s) * (1.0 + 1e-9));
            prop_assert!(threshold(a, s.max(t)) <= threshold(a, s.min(t)) * (1.0 + 1e-9));
            prop_assert!(threshold(a, s) >= 0.0);
        }
    }
}
