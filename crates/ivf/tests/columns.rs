//! Indexes with columns beside the vector, over pages in memory: what a filter lets through, and how much of it is found.

use ivf::build::{Encoder, Options as BuildOptions, Trained, Writer};
use ivf::check::check;
use ivf::columns::{Columns, Value, Width};
use ivf::filter::{Condition, Filter, Test};
use ivf::index::Index;
use ivf::insert::insert;
use ivf::layout::Tid;
use ivf::measure::{Example, try_out};
use ivf::memstore::{MemError, MemStore};
use ivf::metric::Metric;
use ivf::random::SplitMix64;
use ivf::scan::{Options, Order, Scan, Statistics};
use ivf::vacuum::bulk_delete;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const DIMS: usize = 24;

struct Table {
    store: MemStore,
    index: Rc<Index>,
    rows: BTreeMap<Tid, (Vec<f32>, Vec<Value>)>,
    next: u32,
}

impl Table {
    fn build(rows: &[(Vec<f32>, Vec<Value>)], columns: Columns, lists: usize) -> Table {
        let rows: BTreeMap<Tid, _> = (0..).map(tid).zip(rows.iter().cloned()).collect();
        let options = BuildOptions { dims: DIMS, bits: 4, metric: Metric::L2, columns, lists };
        let sample = rows.values().flat_map(|(vector, _)| vector).copied().collect();
        let trained = Trained::train(&options, sample, &mut || Ok::<(), MemError>(())).unwrap();
        // As another process of the build has it.
        let trained = Trained::from_bytes(&trained.to_bytes()).unwrap();
        let mut encoder = Encoder::new(&trained, 1 << 20);
        let mut encoded: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut take = |list, row: &[u8]| {
            encoded.push((list, row.to_vec()));
            Ok::<(), MemError>(())
        };
        for (&tid, (vector, values)) in &rows {
            encoder.push(tid, vector, values).unwrap();
            if encoder.is_full() {
                encoder.drain(&mut take).unwrap();
            }
        }
        encoder.drain(&mut take).unwrap();
        encoded.sort_by_key(|(list, _)| *list);
        let mut store = MemStore::default();
        let mut writer = Writer::new(&mut store, &trained).unwrap();
        encoded.iter().for_each(|(list, row)| writer.push(*list, row).unwrap());
        writer.finish(1).unwrap();
        let index = Rc::new(Index::open(&store).unwrap());
        Table { store, index, next: rows.len() as u32, rows }
    }

    fn insert(&mut self, (vector, values): (Vec<f32>, Vec<Value>)) {
        let tid = tid(self.next);
        self.next += 1;
        insert(&self.store, &mut self.index, tid, &vector, &values).unwrap();
        self.rows.insert(tid, (vector, values));
    }

    fn delete(&mut self, is_dead: impl Fn(Tid) -> bool) {
        self.rows.retain(|&tid, _| !is_dead(tid));
        bulk_delete(&self.store, &self.index, &mut |tid| is_dead(tid)).unwrap();
    }

    fn assert_clean(&self) {
        assert_eq!(check(&self.store, 10, 1 << 20).unwrap(), Vec::<String>::new());
    }

    /// The first `k` rows that a scan returns, in the order of their exact distances, and what the scan has done.
    fn search(&self, query: &[f32], filter: &Filter, k: usize, options: Options) -> (Vec<Tid>, Statistics) {
        let mut scan = Scan::new(self.index.clone(), Some(query), options).matching(filter.clone());
        let mut found: Vec<(f64, Tid)> = Vec::new();
        while let Some(hit) = scan.next(&self.store).unwrap() {
            if found.len() >= k && found[k - 1].0 <= hit.distance.unwrap() {
                break;
            }
            let distance = Metric::L2.operator(&self.rows[&hit.tid].0, query).unwrap();
            let at = found.partition_point(|&(other, _)| other <= distance);
            found.insert(at, (distance, hit.tid));
        }
        found.truncate(k);
        (found.into_iter().map(|(_, tid)| tid).collect(), scan.statistics())
    }

    /// The rows that satisfy all conditions, the nearest first.
    fn matching(&self, query: &[f32], conditions: &[Condition]) -> Vec<Tid> {
        let rows = self.rows.iter().filter(|(_, (_, values))| satisfies(values, conditions));
        let distance = |vector: &[f32]| Metric::L2.operator(vector, query).unwrap();
        let mut rows: Vec<(f64, Tid)> = rows.map(|(&tid, (vector, _))| (distance(vector), tid)).collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        rows.into_iter().map(|(_, tid)| tid).collect()
    }
}

/// One by one, as SQL has it.
fn satisfies(values: &[Value], conditions: &[Condition]) -> bool {
    conditions.iter().all(|Condition { column, test }| match (test, values[*column]) {
        (Test::IsNull, value) => value.is_none(),
        (Test::IsNotNull, value) => value.is_some(),
        (_, None) => false,
        (Test::Between(from, to), Some(value)) => *from <= value && value <= *to,
        (Test::OneOf(values), Some(value)) => values.contains(&value),
    })
}

fn tid(number: u32) -> Tid {
    Tid::new(number / 100, (number % 100) as u16 + 1)
}

fn options() -> Options {
    let (order, memory) = (Order::Bound, 1 << 22);
    Options { probes: 0, recall: 0.95, iterative: true, max_probes: 32_768, order, within: None, memory }
}

/// Vectors around `centres`.
fn vector(random: &mut SplitMix64, centres: &[Vec<f32>]) -> Vec<f32> {
    let centre = centres[random.below(centres.len())].clone();
    centre.into_iter().map(|x| x + random.below(1000) as f32 / 700.0).collect()
}

fn centres(random: &mut SplitMix64, count: usize) -> Vec<Vec<f32>> {
    (0..count).map(|_| (0..DIMS).map(|_| random.below(1000) as f32 / 500.0).collect()).collect()
}

const LIMITS: [i64; 4] = [i64::MIN, i64::MAX, i32::MIN as i64, i32::MAX as i64];

/// Numbers of a column, few different ones: extremes, too.
fn number(width: Width) -> BoxedStrategy<i64> {
    let limits: &[i64] = if width == Width::Eight { &LIMITS } else { &LIMITS[2..] };
    prop_oneof![4 => -3i64..4, 1 => prop::sample::select(limits.to_vec())].boxed()
}

fn test(width: Width) -> BoxedStrategy<Test> {
    // What is asked for can be beyond what the column can hold.
    let any = || number(Width::Eight);
    prop_oneof![
        Just(Test::IsNull),
        Just(Test::IsNotNull),
        Just(Test::NEVER),
        any().prop_map(|value| Test::Between(value, value)),
        (any(), any()).prop_map(|(from, to)| Test::Between(from, to)),
        prop::collection::vec(number(width), 0..4).prop_map(Test::one_of),
        prop::collection::vec(any(), 9..12).prop_map(Test::one_of),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the columns and conditions: all rows that satisfy them come, and no others, also after lanes were used
    /// again, and in little memory.
    #[test]
    fn what_satisfies_the_conditions_is_found(
        (widths, values, conditions) in prop::collection::vec(
            prop_oneof![Just(Width::Four), Just(Width::Eight)], 1..5
        ).prop_flat_map(|widths| {
            let row: Vec<_> = widths.iter().map(|&width| prop::option::weighted(0.8, number(width))).collect();
            let conditions: Vec<_> = widths.iter().enumerate().map(|(column, &width)| {
                prop::option::of(test(width).prop_map(move |test| Condition { column, test }))
            }).collect();
            (Just(widths), prop::collection::vec(row, 300), conditions)
        }),
        lists in 1usize..12,
        seed in any::<u64>(),
    ) {
        let mut random = SplitMix64(seed);
        let centres = centres(&mut random, 5);
        let rows: Vec<_> = values.into_iter().map(|values| (vector(&mut random, &centres), values)).collect();
        let columns = Columns::new(&widths).unwrap();
        let mut table = Table::build(&rows[..150], columns, lists);
        table.delete(|tid| tid.offset % 3 == 0);
        rows[150..].iter().for_each(|row| table.insert(row.clone()));
        table.delete(|tid| tid.offset % 7 == 0);
        table.assert_clean();

        let conditions: Vec<Condition> = conditions.into_iter().flatten().collect();
        let filter = Filter::new(conditions.clone());
        let query = vector(&mut random, &centres);
        let expected = table.matching(&query, &conditions);
        let set = |tids: &[Tid]| tids.iter().copied().collect::<BTreeSet<Tid>>();
        for memory in [0, 1 << 22] {
            let (found, _) = table.search(&query, &filter, usize::MAX, Options { memory, ..options() });
            prop_assert_eq!(set(&found), set(&expected));
        }
        // Without a vector to order by.
        let mut scan = Scan::new(table.index.clone(), None, options()).matching(filter);
        let all: Vec<Tid> = std::iter::from_fn(|| scan.next(&table.store).unwrap()).map(|hit| hit.tid).collect();
        prop_assert_eq!(set(&all), set(&expected));
        prop_assert_eq!(all.len(), expected.len());
    }
}

/// The rarer what is asked for, the more lists are read: as many of the nearest are found as without a condition, whether it was
/// measured how far to read or not.
#[test]
fn recall_does_not_depend_on_the_condition() {
    let mut random = SplitMix64(3);
    let centres = centres(&mut random, 300);
    let mut row = || {
        let values = vec![Some(random.below(1000) as i64)];
        (vector(&mut random, &centres), values)
    };
    let rows: Vec<_> = (0..20_000).map(|_| row()).collect();
    let queries: Vec<_> = (0..40).map(|_| row().0).collect();
    let mut table = Table::build(&rows, Columns::new(&[Width::Four]).unwrap(), 60);
    let all_lists = 60 * queries.len() as u64;
    for is_measured in [false, true] {
        if is_measured {
            let example = |_| Example { tid: None, query: table.index.space.query(&row().0) };
            let examples = (0..400).map(example).collect();
            try_out(&table.store, &table.index, examples, 1 << 24).unwrap();
            table.index = Rc::new(Index::open(&table.store).unwrap());
        }
        let mut lists_before = 0;
        for share in [1000, 500, 100, 10, 1] {
            let conditions = [Condition { column: 0, test: Test::Between(0, share - 1) }];
            let filter = Filter::new(conditions.to_vec());
            let (mut found, mut wanted, mut lists) = (0, 0, 0);
            for query in &queries {
                let expected: BTreeSet<Tid> =
                    table.matching(query, &conditions).into_iter().take(10).collect();
                let (answer, statistics) = table.search(query, &filter, 10, options());
                assert_eq!(answer.len(), expected.len());
                found += answer.iter().filter(|tid| expected.contains(tid)).count();
                wanted += expected.len();
                lists += statistics.lists;
            }
            let recall = found as f64 / wanted as f64;
            assert!(recall > 0.93, "{share} of 1000: {recall}");
            assert!(!is_measured || share == 1 || recall < 0.99, "{share} of 1000: {recall}");
            assert!(lists >= lists_before, "{share} of 1000: {lists} lists, not {lists_before}");
            // Of 20 rows nothing is known, but of 200.
            assert!(
                !is_measured || share == 1 || lists < all_lists * 9 / 10,
                "{share} of 1000: {lists} lists"
            );
            lists_before = lists;
        }
    }
}

/// A scan that may not read further lists does not.
#[test]
fn without_iteration_the_probes_are_all() {
    let mut random = SplitMix64(4);
    let centres = centres(&mut random, 20);
    let rows: Vec<_> = (0..2000).map(|i| (vector(&mut random, &centres), vec![Some(i % 50)])).collect();
    let table = Table::build(&rows, Columns::new(&[Width::Eight]).unwrap(), 20);
    let filter = Filter::new(vec![Condition { column: 0, test: Test::Between(7, 7) }]);
    let (_, statistics) =
        table.search(&rows[0].0, &filter, usize::MAX, Options { probes: 3, iterative: false, ..options() });
    assert_eq!(statistics.lists, 3);
    let limited = Options { probes: 3, max_probes: 5, ..options() };
    let (_, statistics) = table.search(&rows[0].0, &filter, usize::MAX, limited);
    assert_eq!(statistics.lists, 5);
}

/// A row that brings another number of values is refused, and nothing is changed.
#[test]
fn each_column_has_a_value() {
    let mut random = SplitMix64(5);
    let centres = centres(&mut random, 2);
    let rows = vec![(vector(&mut random, &centres), vec![Some(1), None]); 30];
    let mut table = Table::build(&rows, Columns::new(&[Width::Four, Width::Four]).unwrap(), 2);
    for values in [&[][..], &[Some(1)], &[None; 3]] {
        assert!(insert(&table.store, &mut table.index, tid(99), &rows[0].0, values).is_err());
    }
    assert!(Columns::new(&[Width::Four; 17]).is_none());
    table.assert_clean();
}
