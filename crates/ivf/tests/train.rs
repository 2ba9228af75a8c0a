//! Training again: nothing is lost or doubled, whatever others do meanwhile and wherever it fails.

mod table;

use ivf::check::check;
use ivf::columns::Columns;
use ivf::index::Index;
use ivf::insert::{insert, settle};
use ivf::layout::Tid;
use ivf::memstore::{MemError, MemStore};
use ivf::metric::Metric;
use ivf::scan::{Options, Scan};
use ivf::store::{IndexError, PageStore};
use ivf::train::{Kept, Plan, Report, RowSort, When, maintain};
use ivf::vacuum::count;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use table::{METRICS, Numbers, Table, probes, tid};

/// Sorts in memory.
#[derive(Default)]
struct Rows(Vec<(u32, Vec<u8>)>, usize);

impl RowSort for Rows {
    fn push(&mut self, list: u32, row: &[u8]) {
        self.0.push((list, row.to_vec()));
    }
    fn sort(&mut self) {
        self.0.sort_by_key(|(list, _)| *list);
    }
    fn next(&mut self) -> Option<(u32, &[u8])> {
        self.1 += 1;
        self.0.get(self.1 - 1).map(|(list, row)| (*list, &row[..]))
    }
}

const MEMORY: usize = 1 << 24;

fn plan(when: When, lists: usize) -> Plan {
    Plan { lists: Some(lists), memory: MEMORY, now: 5, when }
}

/// As vacuum does it.
fn maintained(store: &MemStore, when: When, lists: usize) -> Result<Option<Report>, MemError> {
    let shape = count(store, &Index::open(store)?)?.shape;
    maintain(store, &shape, &plan(when, lists), |_| Rows::default()).map(report)
}

fn report(kept: Kept) -> Option<Report> {
    if let Kept::Trained(report) = kept { Some(report) } else { None }
}

fn train(store: &MemStore, lists: usize) -> Result<(), MemError> {
    maintained(store, When::Always, lists).map(|_| ())
}

fn all() -> Options {
    Options { memory: 1 << 24, iterative: true, ..probes(0) }
}

/// The rows that a scan returns, each once.
fn returned(store: &MemStore, mut scan: Scan) -> HashSet<Tid> {
    let mut rows = HashSet::new();
    while let Some(hit) = scan.next(store).unwrap() {
        assert!(rows.insert(hit.tid), "{:?} comes twice", hit.tid);
    }
    rows
}

#[test]
fn a_training_makes_of_one_list_what_a_build_makes() {
    for metric in METRICS {
        for (dims, bits) in [(20, 8), (48, 4), (65, 1)] {
            let mut numbers = Numbers::new(1);
            let rows = numbers.clustered(3000, dims, 40);
            let queries = &rows[..50];
            let mut grown = Table::build(&rows[..1], dims, metric, bits, 1);
            for row in &rows[1..] {
                grown.insert(row.clone()).unwrap();
            }
            train(&grown.store, 40).unwrap();
            grown.reopen();
            grown.assert_clean();
            let built = Table::build(&rows, dims, metric, bits, 40);
            assert_eq!(grown.info().rows, 3000);
            assert!(grown.info().lists >= 30, "{}", grown.info().lists);
            let (a, b) = (grown.recall(queries, probes(6)), built.recall(queries, probes(6)));
            assert!(a > b - 0.05, "{metric:?} {dims} {bits}: {a} for {b}");
            let found = grown.tids(&rows[0], all());
            assert!(grown.rows.keys().all(|tid| found.contains(tid)));
        }
    }
}

/// Rows that a query gets to see until it knows its ten nearest, and rows whose whole codes are read for that.
fn effort(table: &Table, query: &[f32], options: Options) -> [u64; 2] {
    let (mut scan, mut nearest, mut count) = (table.scan(Some(query), options), Vec::new(), 0);
    while let Some(hit) = scan.next(&table.store).unwrap() {
        if nearest.len() >= 10 && nearest[9] <= hit.distance.unwrap() {
            break;
        }
        nearest.push(table.metric.operator(&table.rows[&hit.tid], query).unwrap());
        nearest.sort_by(f64::total_cmp);
        count += 1;
    }
    [count, scan.statistics().refinements]
}

/// Of rows that are all in one corner, an index created on the empty table has codes around the origin.
#[test]
fn codes_move_to_where_the_rows_are() {
    for metric in METRICS {
        for (dims, bits) in [(48, 8), (100, 7), (48, 4)] {
            let mut numbers = Numbers::new(8);
            let mut rows = numbers.clustered(3000, dims, 30);
            rows.iter_mut().flatten().for_each(|x| *x += 4.0);
            let mut grown = Table::build(&[], dims, metric, bits, 1);
            for row in &rows[..2500] {
                grown.insert(row.clone()).unwrap();
            }
            train(&grown.store, 12).unwrap();
            grown.reopen();
            grown.assert_clean();
            let moved = grown.index.space.mean().to_vec();
            assert_eq!(moved.iter().any(|&x| x != 0.0), bits >= 7, "{metric:?} {bits}");
            // Later ones are coded around the new mean at once, and it stays there.
            for row in &rows[2500..] {
                grown.insert(row.clone()).unwrap();
            }
            train(&grown.store, 12).unwrap();
            grown.reopen();
            grown.assert_clean();
            assert_eq!(grown.index.space.mean(), moved);

            let mut built = Table::build(&rows, dims, metric, bits, 12);
            let mut efforts = [[0; 2]; 2];
            for query in rows.iter().step_by(60) {
                // The search asserts that no bound is above the distance.
                let found: Vec<f64> =
                    grown.search(query, 20, probes(12)).into_iter().map(|(d, _)| d).collect();
                assert_eq!(found, grown.exact_search(query, 20), "{metric:?} {bits}");
                for (sum, table) in efforts.iter_mut().zip([&grown, &built]) {
                    // Not all lists, whose whole codes would all be read.
                    let effort = effort(table, query, probes(11));
                    sum.iter_mut().zip(effort).for_each(|(sum, one)| *sum += one);
                }
            }
            // As few whole codes; of rows more, as the first codes' losses are not undone.
            let [grown_effort, built_effort] = efforts;
            if bits >= 7 {
                assert!(grown_effort[1] < built_effort[1] * 5 / 4, "{metric:?} {bits}: {efforts:?}");
            }
            // From elsewhere to elsewhere, many times: what the codes lose adds up, and is allowed for.
            for step in 1..4 {
                for _ in 0..800 {
                    let mut row = numbers.vector(dims);
                    row[step] += 30.0 * step as f32;
                    built.insert(row).unwrap();
                }
                train(&built.store, 12).unwrap();
                built.reopen();
            }
            built.assert_clean();
            let queries: Vec<Vec<f32>> = built.rows.values().step_by(97).cloned().collect();
            for query in &queries {
                let found: Vec<f64> =
                    built.search(query, 5, probes(12)).into_iter().map(|(d, _)| d).collect();
                assert_eq!(found, built.exact_search(query, 5), "{metric:?} {bits}");
            }
        }
    }
}

#[test]
fn an_index_without_rows_or_dimensions_is_left_alone() {
    let mut store = MemStore::default();
    ivf::build::write_without_dimensions(&mut store, Metric::L2, 8, Columns::default()).unwrap();
    assert_eq!(maintained(&store, When::Always, 5).unwrap(), None);
    settle(&store, 9).unwrap();
    assert_eq!(maintained(&store, When::Due, 5).unwrap(), None);
    assert_eq!(maintained(&store, When::Always, 5).unwrap().unwrap().rows, 0);
    assert_eq!(check(&store, 10, MEMORY).unwrap(), Vec::<String>::new());
    let mut index = Rc::new(Index::open(&store).unwrap());
    insert(&store, &mut index, tid(1), &[1.0; 9], &[]).unwrap();
    assert_eq!(returned(&store, Scan::new(index, Some(&[0.0; 9]), all())).len(), 1);
}

/// What others have done to the index so far.
struct Others {
    rows: BTreeMap<Tid, Vec<f32>>,
    next: u32,
    numbers: Numbers,
    /// Statements' own copies of the index, some old.
    copies: Vec<Rc<Index>>,
    /// Scans under way: which rows their snapshot sees, what they have returned, and when they began.
    scans: Vec<(Scan, HashSet<Tid>, HashSet<Tid>)>,
    finished: usize,
    per_check: usize,
    /// Checks for interrupts in this training.
    checks: usize,
}

impl Others {
    fn act(&mut self, store: &MemStore) {
        self.checks += 1;
        // What comes when the lists are in force has many checks: rows are to come, but not without end.
        if self.checks > 400 && !self.checks.is_multiple_of(50) {
            return;
        }
        for _ in 0..self.per_check {
            let dims = self.copies[0].geometry.dims;
            match self.numbers.0.below(12) {
                0..6 => {
                    let at = self.numbers.0.below(self.copies.len());
                    let (vector, tid) = (self.numbers.vector(dims), tid(self.next));
                    insert(store, &mut self.copies[at], tid, &vector, &[]).unwrap();
                    self.next += 1;
                    self.rows.insert(tid, vector);
                }
                6 => {
                    // Every scan under way keeps the pages that it reads.
                    if self.scans.is_empty() {
                        store.hold(true);
                    }
                    let index = Rc::new(Index::open(store).unwrap());
                    let seen = self.rows.keys().copied().collect();
                    let query = self.numbers.vector(dims);
                    let options = Options { memory: 1 << (13 + self.numbers.0.below(10)), ..all() };
                    self.scans.push((Scan::new(index, Some(&query), options), seen, HashSet::new()));
                }
                7 => self.copies.push(Rc::new(Index::open(store).unwrap())),
                _ if self.scans.is_empty() => {}
                _ => self.go_on(store),
            }
        }
    }

    /// Some more rows of a scan.
    fn go_on(&mut self, store: &MemStore) {
        let at = self.numbers.0.below(self.scans.len());
        let (scan, seen, got) = &mut self.scans[at];
        for _ in 0..200 {
            match scan.next(store).unwrap() {
                Some(hit) => assert!(got.insert(hit.tid), "{:?} comes twice", hit.tid),
                None => {
                    let missed: Vec<_> = seen.difference(got).collect();
                    assert!(missed.is_empty(), "{missed:?} are missed");
                    self.scans.remove(at);
                    if self.scans.is_empty() {
                        store.hold(false);
                    }
                    self.finished += 1;
                    break;
                }
            }
        }
    }
}

fn others(table: &Table, seed: u64, per_check: usize) -> Rc<RefCell<Others>> {
    Rc::new(RefCell::new(Others {
        rows: table.rows.clone(),
        next: table.next,
        numbers: Numbers::new(seed),
        copies: vec![table.index.clone()],
        scans: Vec::new(),
        finished: 0,
        per_check,
        checks: 0,
    }))
}

#[test]
fn inserts_and_scans_beside_trainings_see_every_row_once() {
    let mut finished = 0;
    for (seed, dims, bits) in [(1, 24, 8), (2, 500, 8), (3, 64, 1), (4, 24, 3), (5, 130, 8), (6, 500, 2)] {
        let rows = Numbers::new(seed).clustered(600, dims, 12);
        let table = Table::build(&rows, dims, Metric::L2, bits, 3);
        let acting = others(&table, seed, 2);
        for round in 0..5 {
            let act = acting.clone();
            act.borrow_mut().checks = 0;
            table.store.meanwhile(Some(Box::new(move |store| act.borrow_mut().act(store))));
            train(&table.store, 5 + round).unwrap();
            table.store.meanwhile(None);
            assert_eq!(check(&table.store, 10, MEMORY).unwrap(), Vec::<String>::new());
            let index = Rc::new(Index::open(&table.store).unwrap());
            let got = returned(&table.store, Scan::new(index, Some(&rows[0]), all()));
            assert_eq!(got, acting.borrow().rows.keys().copied().collect::<HashSet<_>>());
        }
        // The scans that have outlived trainings end as they would have.
        while !acting.borrow().scans.is_empty() {
            acting.borrow_mut().go_on(&table.store);
        }
        finished += acting.borrow().finished;
        maintained(&table.store, When::Never, 5).unwrap();
        assert_eq!(Index::open(&table.store).unwrap().meta.garbage, 0);
        assert_eq!(check(&table.store, 10, MEMORY).unwrap(), Vec::<String>::new());
    }
    assert!(finished > 30, "{finished} scans are no test");
}

#[test]
fn a_failure_at_any_operation_of_a_training_loses_nothing() {
    let rows = Numbers::new(13).clustered(260, 120, 5);
    let mut n = 0;
    loop {
        let mut table = Table::build(&rows, 120, Metric::Cosine, 8, 2);
        table.store.fail_after(Some(n));
        let done = train(&table.store, 4).is_ok();
        table.store.fail_after(None);
        table.assert_clean();
        table.reopen();
        for row in &rows[..40] {
            table.insert(row.clone()).unwrap();
        }
        table.assert_clean();
        let stored: HashSet<Tid> = table.rows.keys().copied().collect();
        assert_eq!(returned(&table.store, table.scan(Some(&rows[3]), all())), stored, "failed at {n}");
        // Vacuum finds it like that, and puts it right.
        let dead = stored.iter().copied().filter(|tid| tid.block() == 1).collect();
        table.delete(&dead);
        train(&table.store, 4).unwrap();
        table.reopen();
        table.assert_clean();
        let meta = table.index.meta;
        assert_eq!((meta.garbage, meta.is_training, meta.generation), (0, 0, meta.training));
        // Whichever training was the last, its lists were measured.
        assert!(meta.lists < 2 || meta.curve.is_known(), "failed at {n}");
        let stored: HashSet<Tid> = table.rows.keys().copied().collect();
        assert_eq!(returned(&table.store, table.scan(Some(&rows[3]), all())), stored, "failed at {n}");
        if done {
            break;
        }
        n += 1 + n / 40;
    }
    assert!(n > 200, "{n} operations");
}

/// The index is no larger than twice what it needs, and gives back what it does not need.
#[test]
fn space_is_used_again_and_given_back() {
    let rows = Numbers::new(3).clustered(20_000, 64, 30);
    let mut table = Table::build(&rows, 64, Metric::L2, 8, 30);
    let built = table.store.blocks().unwrap();
    for _ in 0..9 {
        train(&table.store, 30).unwrap();
        table.assert_clean();
        let blocks = table.store.blocks().unwrap();
        assert!(f64::from(blocks) < 2.5 * f64::from(built), "{built} pages have become {blocks}");
    }
    table.reopen();
    let dead: HashSet<Tid> = table.rows.keys().copied().filter(|tid| tid.block() > 19).collect();
    table.delete(&dead);
    for _ in 0..2 {
        train(&table.store, 3).unwrap();
        table.assert_clean();
    }
    let blocks = table.store.blocks().unwrap();
    assert!(f64::from(blocks) < 0.5 * f64::from(built), "{built} pages have become {blocks}");
}

/// Pages stay as they are while somebody reads them.
#[test]
fn nothing_is_freed_under_a_scan() {
    let rows = Numbers::new(3).clustered(2000, 32, 10);
    let mut table = Table::build(&rows, 32, Metric::L2, 8, 8);
    table.store.hold(true);
    let mut scan = table.scan(Some(&rows[0]), Options { iterative: true, ..probes(1) });
    let first = scan.next(&table.store).unwrap().unwrap();
    for _ in 0..3 {
        train(&table.store, 8).unwrap();
        table.assert_clean();
    }
    let mut rest = returned(&table.store, scan);
    assert!(rest.insert(first.tid));
    assert_eq!(rest.len(), 2000);
    table.store.hold(false);
    table.reopen();
    let before = table.store.blocks().unwrap();
    assert_eq!(maintained(&table.store, When::Never, 8).unwrap(), None);
    assert!(table.info().free_pages > 0 || table.store.blocks().unwrap() < before);
    table.assert_clean();
}

/// On a standby nobody waits for who reads: that must be told.
#[test]
fn a_scan_whose_pages_were_replaced_under_it_says_so() {
    let rows = Numbers::new(3).clustered(3000, 32, 10);
    let mut told = 0;
    for steps in 0..40 {
        let table = Table::build(&rows, 32, Metric::L2, 8, 8);
        table.store.set_replayed(true);
        let mut scan = table.scan(Some(&rows[0]), Options { iterative: true, ..probes(1) });
        let mut got = HashSet::new();
        let mut ended = None;
        for step in 0.. {
            if step == steps * 60 {
                (0..3).for_each(|_| train(&table.store, 8).unwrap());
            }
            match scan.next(&table.store) {
                Ok(Some(hit)) => assert!(got.insert(hit.tid)),
                Ok(None) => break,
                Err(error) => {
                    ended = Some(error);
                    break;
                }
            }
        }
        match ended {
            None => assert_eq!(got.len(), 3000),
            Some(MemError::Index(IndexError::Replaced(_))) => told += 1,
            Some(error) => panic!("{error}"),
        }
    }
    assert!(told > 10, "{told}");
}

#[test]
fn it_is_due_when_rows_have_come_or_gone() {
    let rows = Numbers::new(3).clustered(6000, 16, 30);
    let mut table = Table::build(&rows[..1000], 16, Metric::L2, 8, 1);
    let due = |table: &Table| {
        let shape = count(&table.store, &table.index).unwrap().shape;
        let plan = Plan { lists: None, ..plan(When::Due, 0) };
        report(maintain(&table.store, &shape, &plan, |_| Rows::default()).unwrap())
    };
    assert_eq!(due(&table), None);
    for row in &rows[1000..] {
        table.insert(row.clone()).unwrap();
    }
    assert_eq!(due(&table).map(|report| (report.rows, report.lists)), Some((6000, 12)));
    table.reopen();
    assert_eq!(due(&table), None);
    let dead = table.rows.keys().copied().filter(|tid| tid.block() % 4 > 0).collect();
    table.delete(&dead);
    // With too little memory for as many lists as there are to be it is left alone, and begins nothing.
    let shape = count(&table.store, &table.index).unwrap().shape;
    let poor = Plan { lists: None, memory: 1 << 10, ..plan(When::Due, 0) };
    let kept = maintain(&table.store, &shape, &poor, |_| Rows::default()).unwrap();
    assert!(matches!(kept, Kept::LittleMemory { needed: 10_000.. }), "{kept:?}");
    assert_eq!(Index::open(&table.store).unwrap().meta.spent, 0);
    assert_eq!(due(&table).map(|report| report.rows), Some(1500));
    table.assert_clean();
}

/// As those are whose training has died just after they came in force.
#[test]
fn lists_without_a_curve_are_measured() {
    let rows = Numbers::new(5).clustered(6000, 16, 30);
    let table = Table::build(&rows, 16, Metric::L2, 8, 12);
    let queries = |table: &Table| Index::open(&table.store).unwrap().meta.curve.queries;
    for (when, measured) in [(When::Never, 0), (When::Due, 400), (When::Due, 400)] {
        assert_eq!(maintained(&table.store, when, 12).unwrap(), None);
        assert_eq!(queries(&table), measured);
    }
    table.assert_clean();
}

/// What lasts, as a full disk, would have every vacuum of the table fail.
#[test]
fn trainings_that_die_are_not_tried_without_end() {
    let rows = Numbers::new(3).clustered(6000, 16, 30);
    let mut table = Table::build(&rows[..1000], 16, Metric::L2, 8, 1);
    for row in &rows[1000..] {
        table.insert(row.clone()).unwrap();
    }
    let due = |table: &Table, fail_after| {
        let shape = count(&table.store, &table.index).unwrap().shape;
        let plan = Plan { lists: None, ..plan(When::Due, 0) };
        table.store.fail_after(fail_after);
        let kept = maintain(&table.store, &shape, &plan, |_| Rows::default());
        table.store.fail_after(None);
        kept
    };
    let mut died = 0;
    while due(&table, Some(200)).is_err() {
        died += 1;
    }
    assert!((1..=4).contains(&died), "{died}");
    table.assert_clean();
    // New rows earn another one.
    for row in &rows {
        table.insert(row.clone()).unwrap();
    }
    assert!(matches!(due(&table, None), Ok(Kept::Trained(_))));
    table.assert_clean();
    assert_eq!(Index::open(&table.store).unwrap().meta.spent, 0);
}
