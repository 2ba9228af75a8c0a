//! The recall that is asked for is the recall that there is.

mod table;

use std::collections::HashSet;

use ivf::index::Index;
use ivf::layout::Tid;
use ivf::measure::{Example, calibrate, try_out};
use ivf::memstore::{MemError, MemStore};
use ivf::metric::Metric;
use ivf::scan::Options;
use std::rc::Rc;
use table::{METRICS, Numbers, Table, probes};

const DIMS: usize = 24;
const MEMORY: usize = 1 << 24;

/// Vectors around 60 centres, and others farther away from the same ones.
fn around_centres(rows: usize, queries: usize, noise: [f32; 2]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut numbers = Numbers::new(4);
    let centres: Vec<Vec<f32>> = (0..60).map(|_| numbers.vector(DIMS)).collect();
    let mut some = |count: usize, noise: f32| -> Vec<Vec<f32>> {
        let mut one = || {
            let centre = &centres[numbers.0.below(centres.len())];
            centre.iter().map(|c| c + noise * numbers.normal()).collect()
        };
        (0..count).map(|_| one()).collect()
    };
    (some(rows, noise[0]), some(queries, noise[1]))
}

/// Clusters that reach over one another, and queries like the rows.
fn rows_and_queries(rows: usize, queries: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    around_centres(rows, queries, [1.6; 2])
}

fn asking(recall: f64) -> Options {
    Options { recall, ..probes(0) }
}

fn examples(index: &Index, queries: &[Vec<f32>]) -> Vec<Example> {
    let example = |query: &Vec<f32>| Example { tid: None, query: index.space.query(query) };
    queries.iter().map(example).collect()
}

#[test]
fn queries_find_what_is_asked_for() {
    let (rows, queries) = rows_and_queries(12_000, 1000);
    let (measured, held_out) = queries.split_at(400);
    for metric in METRICS {
        let mut table = Table::build(&rows, DIMS, metric, 8, 40);
        try_out(&table.store, &table.index, examples(&table.index, measured), MEMORY).unwrap();
        table.reopen();
        assert_eq!(table.index.meta.curve.queries, 400);
        let mut lists = 0.0;
        for recall in [0.6, 0.8, 0.9, 0.95, 0.99] {
            let found = table.recall(held_out, asking(recall));
            // Four standard errors.
            assert!(
                (found - recall).abs() < 0.04 + 0.04 * (1.0 - recall),
                "{metric:?}: {found} for {recall}"
            );
            let expected = table.index.meta.curve.lists(recall, 1.0);
            assert!(expected > lists && expected <= 40.0, "{metric:?}: {expected} lists for {recall}");
            lists = expected;
        }
        assert_eq!(table.recall(held_out, asking(1.0)), 1.0);
        table.assert_clean();
    }
}

/// A row that is a query itself is none of its neighbours: it would be in the nearest list always.
#[test]
fn rows_tell_as_much_as_queries() {
    let (rows, queries) = rows_and_queries(6000, 400);
    let table = Table::build(&rows, DIMS, Metric::L2, 8, 20);
    let lists_by = |examples| {
        try_out(&table.store, &table.index, examples, MEMORY).unwrap();
        Index::open(&table.store).unwrap().meta.curve.lists(0.95, 1.0)
    };
    let by_queries = lists_by(examples(&table.index, &queries));
    let with_tids = table
        .rows
        .iter()
        .step_by(15)
        .map(|(&tid, vector)| Example { tid: Some(tid), query: table.index.space.query(vector) });
    let by_rows = lists_by(with_tids.collect());
    let ratio = by_rows / by_queries;
    assert!((0.75..1.33).contains(&ratio), "{by_rows} lists by rows, {by_queries} by queries");
}

/// The neighbours of a row are its copies then, and those of a query are other rows.
#[test]
fn rows_that_are_nearly_alike_are_not_taken_for_neighbours() {
    let (texts, queries) = rows_and_queries(4000, 300);
    let mut numbers = Numbers::new(6);
    let mut copy = |row: &Vec<f32>| row.iter().map(|x| x + 0.01 * numbers.normal()).collect::<Vec<f32>>();
    let rows: Vec<Vec<f32>> = (0..12).flat_map(|_| texts.iter().map(&mut copy).collect::<Vec<_>>()).collect();
    let mut table = Table::build(&rows, DIMS, Metric::L2, 8, 80);
    let some: Vec<Vec<f32>> = rows.iter().step_by(120).cloned().collect();
    let examples = some.iter().zip(table.rows.keys().step_by(120));
    let examples =
        examples.map(|(row, &tid)| Example { tid: Some(tid), query: table.index.space.query(row) });
    let examples = examples.collect();
    try_out(&table.store, &table.index, examples, MEMORY).unwrap();
    table.reopen();
    let found = table.recall(&queries, asking(0.95));
    assert!(found > 0.85, "{found}");
}

#[test]
fn a_calibration_outlives_trainings() {
    let (rows, queries) = around_centres(12_000, 400, [1.0, 3.0]);
    let mut table = Table::build(&rows, DIMS, Metric::L2, 8, 40);
    let of_rows: Vec<Vec<f32>> = rows.iter().step_by(30).cloned().collect();
    try_out(&table.store, &table.index, examples(&table.index, &of_rows), MEMORY).unwrap();
    table.reopen();
    let by_rows = table.index.meta.curve;
    assert_eq!(by_rows.calibrated, 0);
    assert!(calibrate(&table.store, &table.index, &queries[..200]).unwrap());
    table.reopen();
    let by_queries = table.index.meta.curve;
    assert_eq!((by_queries.calibrated, by_queries.queries), (1, 200));
    let ratio = by_queries.threshold(0.9) / by_rows.threshold(0.9);
    assert!(ratio > 1.5, "{by_queries:?} {by_rows:?}");
    let found = table.recall(&queries[200..], asking(0.9));
    assert!((found - 0.9).abs() < 0.05, "{found}");

    // Rows again: they say what they said, and queries are as much harder as they were.
    try_out(&table.store, &table.index, examples(&table.index, &of_rows), MEMORY).unwrap();
    let after = Index::open(&table.store).unwrap().meta.curve;
    assert_eq!(after.calibrated, 1);
    let kept = after.threshold(0.9) / by_rows.threshold(0.9);
    // One ratio for all recalls: for some it is rather more than for others.
    assert!(kept > 1.25 && (0.6..1.5).contains(&(kept / ratio)), "{kept}, not {ratio}");
    table.reopen();
    let found = table.recall(&queries[200..], asking(0.9));
    assert!((found - 0.9).abs() < 0.06, "{found}");
}

#[test]
fn one_list_or_few_queries_tell_nothing() {
    let (rows, queries) = rows_and_queries(1000, 30);
    let one = Table::build(&rows, DIMS, Metric::Cosine, 8, 1);
    assert!(!calibrate(&one.store, &one.index, &queries).unwrap());
    let two = Table::build(&rows, DIMS, Metric::Cosine, 8, 2);
    assert!(!calibrate(&two.store, &two.index, &queries[..10]).unwrap());
    // As little memory.
    try_out(&two.store, &two.index, examples(&two.index, &queries), 1 << 10).unwrap();
    assert!(!Index::open(&two.store).unwrap().meta.curve.is_known());
    assert!(calibrate(&two.store, &two.index, &queries).unwrap());
    assert!(Index::open(&two.store).unwrap().meta.curve.is_known());
}

/// Rows come while it is measured, and that may fail anywhere.
#[test]
fn it_is_measured_beside_inserts_and_may_fail() {
    let (rows, queries) = rows_and_queries(1200, 40);
    let mut table = Table::build(&rows, DIMS, Metric::L2, 8, 4);
    let mut index = table.index.clone();
    let mut next = 900_000;
    let more = rows.clone();
    table.store.meanwhile(Some(Box::new(move |store: &MemStore| {
        next += 1;
        ivf::insert::insert(store, &mut index, table::tid(next), &more[next as usize % 100], &[]).unwrap();
    })));
    assert!(calibrate(&table.store, &table.index, &queries).unwrap());
    table.store.meanwhile(None);
    table.reopen();
    let known = table.index.meta.curve;
    let mut failures = 0;
    for n in (0..).map(|i: usize| i * i / 4) {
        table.store.fail_after(Some(n));
        let done: Result<bool, MemError> = calibrate(&table.store, &table.index, &queries[..25]);
        table.store.fail_after(None);
        let curve = Index::open(&table.store).unwrap().meta.curve;
        if done.is_ok() {
            assert_eq!(curve.queries, 25);
            break;
        }
        assert_eq!(curve, known);
        failures += 1;
    }
    assert!(failures > 20, "{failures}");
    let tids: HashSet<Tid> = table.rows.keys().copied().collect();
    let index = Rc::new(Index::open(&table.store).unwrap());
    let mut scan = ivf::scan::Scan::new(index, Some(&rows[0]), asking(1.0));
    let mut got = HashSet::new();
    while let Some(hit) = scan.next(&table.store).unwrap() {
        got.insert(hit.tid);
    }
    assert!(got.is_superset(&tids));
}
