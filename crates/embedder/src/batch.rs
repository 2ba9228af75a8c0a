//! Which texts run together.

/// Padded tokens a batch may hold. Measured with MiniLM, per text: 8 tokens take 4.06 ms alone, 2.18 in a batch of 32
/// tokens, 1.94 of 64, 1.83 of 128, 1.77 of 256, 1.82 of 512; 100 tokens take 24.3 alone, 23.8 in 200, 24.6 in 500:
/// what a layer computes no longer fits the caches. A batch is also the time between two checks for a cancelled query:
/// 60 ms with MiniLM, twice that with gte-small's 12 layers.
pub const MAX_PADDED_TOKENS: usize = 256;

/// What a batch costs beside its tokens, in tokens: every weight is read once. Measured with MiniLM: 2.0 ms, where a
/// token takes 0.22.
const BATCH_TOKENS: usize = 9;

/// Groups texts by length, so that they take the least time.
///
/// `lengths`: tokens of each text. Returns groups of indices into it, shorter texts first, each at most
/// [`MAX_PADDED_TOKENS`] when padded to its longest text; a longer text is a group by itself. A padded token costs as
/// much as any other, and a batch [`BATCH_TOKENS`] more.
pub fn plan(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut by_length: Vec<usize> = (0..lengths.len()).collect();
    by_length.sort_by_key(|&i| lengths[i]);
    // For the first n texts by length: the least cost, and where the last group of that solution begins.
    let mut best = vec![(0, 0)];
    for (last, &i) in by_length.iter().enumerate() {
        let cost = |first: usize| best[first].0 + BATCH_TOKENS + (last + 1 - first) * lengths[i];
        let most = (MAX_PADDED_TOKENS / lengths[i].max(1)).max(1);
        let least = (last.saturating_sub(most - 1)..=last).map(|first| (cost(first), first)).min();
        best.push(least.unwrap_or_default());
    }
    let mut groups = vec![];
    let mut end = by_length.len();
    while end > 0 {
        let start = best[end].1;
        groups.push(by_length[start..end].to_vec());
        end = start;
    }
    groups.reverse();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cost(lengths: &[usize], groups: &[Vec<usize>]) -> usize {
        let padded = |group: &Vec<usize>| group.len() * group.iter().map(|&i| lengths[i]).max().unwrap();
        groups.iter().map(|group| BATCH_TOKENS + padded(group)).sum()
    }

    proptest! {
        #[test]
        fn every_text_is_in_one_group_of_bounded_size(lengths in prop::collection::vec(1usize..700, 0..200)) {
            let groups = plan(&lengths);
            let mut seen: Vec<usize> = groups.concat();
            seen.sort();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for group in groups {
                let longest = group.iter().map(|&i| lengths[i]).max().unwrap();
                prop_assert!(group.len() == 1 || longest * group.len() <= MAX_PADDED_TOKENS);
            }
        }

        #[test]
        fn no_other_grouping_costs_less(lengths in prop::collection::vec(1usize..60, 1..8)) {
            // Every way to give the texts to groups, whatever their lengths: text i joins one of those before it or
            // founds its own.
            let mut ways: Vec<Vec<Vec<usize>>> = vec![vec![]];
            for i in 0..lengths.len() {
                ways = ways
                    .into_iter()
                    .flat_map(|way| {
                        (0..=way.len()).map(move |g| {
                            let mut way = way.clone();
                            if g == way.len() { way.push(vec![i]) } else { way[g].push(i) }
                            way
                        })
                    })
                    .collect();
            }
            let allowed = |group: &Vec<usize>| {
                let longest = group.iter().map(|&i| lengths[i]).max().unwrap();
                longest * group.len() <= MAX_PADDED_TOKENS
            };
            let least =
                ways.iter().filter(|way| way.iter().all(allowed)).map(|way| cost(&lengths, way)).min();
            prop_assert_eq!(Some(cost(&lengths, &plan(&lengths))), least);
        }
    }
}
