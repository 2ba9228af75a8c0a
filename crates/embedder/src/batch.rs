//! Which texts run together.

/// Padded tokens a batch may hold. A batch is the time between two checks for a cancelled query (about 0.2 s for
/// MiniLM, 0.4 s for gte-small's 12 layers), and 512 tokens saturate one core (measured:
/// 38 GFLOP/s with 8 tokens, 59 with 32, 71 with 128, of 82 at most).
pub const MAX_PADDED_TOKENS: usize = 512;

/// Padding is computed like any token: at most one in this many tokens of a batch.
const MIN_TOKENS_PER_PADDING: usize = 8;

/// Groups texts by length.
///
/// `lengths`: tokens of each text. Returns groups of indices into it, each at most [`MAX_PADDED_TOKENS`] when padded to
/// its longest text (a longer text is a group by itself) and with little padding.
pub fn plan(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut by_length: Vec<usize> = (0..lengths.len()).collect();
    by_length.sort_by_key(|&i| lengths[i]);
    let mut groups: Vec<Vec<usize>> = vec![];
    let mut tokens = 0;
    for i in by_length {
        let padded = groups.last().map_or(0, |group| (group.len() + 1) * lengths[i]);
        tokens += lengths[i];
        match groups.last_mut() {
            Some(group)
                if padded <= MAX_PADDED_TOKENS && (padded - tokens) * MIN_TOKENS_PER_PADDING <= padded =>
            {
                group.push(i)
            }
            _ => {
                groups.push(vec![i]);
                tokens = lengths[i];
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_text_is_in_one_group_of_bounded_size(lengths in prop::collection::vec(1usize..700, 0..200)) {
            let groups = plan(&lengths);
            let mut seen: Vec<usize> = groups.concat();
            seen.sort();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for group in groups {
                let longest = group.iter().map(|&i| lengths[i]).max().unwrap();
                let padded = longest * group.len();
                let real: usize = group.iter().map(|&i| lengths[i]).sum();
                prop_assert!(group.len() == 1 || padded <= MAX_PADDED_TOKENS);
                prop_assert!((padded - real) * MIN_TOKENS_PER_PADDING <= padded);
            }
        }
    }
}
