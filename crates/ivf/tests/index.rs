//! The whole index over pages in memory: build, scan, insert, vacuum, check.

mod table;

use ivf::build::{Encoder, Options as BuildOptions, Trained, write_without_dimensions};
use ivf::check::check;
use ivf::columns::Columns;
use ivf::index::Index;
use ivf::info::info;
use ivf::insert::{insert, settle};
use ivf::layout::Tid;
use ivf::memstore::{MemError, MemStore};
use ivf::metric::Metric;
use ivf::reorder::Reorder;
use ivf::scan::{Options, Order, Scan};
use ivf::store::{IndexError, PageStore};
use ivf::vacuum::{bulk_delete, count};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use table::{METRICS, Numbers, Table, build_into, probes, tid};

#[test]
fn another_process_encodes_alike() {
    for metric in METRICS {
        for (dims, bits, lists) in [(1, 1, 1), (20, 8, 7), (48, 3, 30)] {
            let vectors = Numbers::new(9).clustered(400, dims, 9);
            let options = BuildOptions { dims, bits, metric, columns: Columns::default(), lists };
            let trained = Trained::train(&options, vectors.concat(), &mut || Ok::<(), MemError>(())).unwrap();
            let bytes = trained.to_bytes();
            let copy = Trained::from_bytes(&bytes).unwrap();
            assert_eq!((copy.lists(), copy.to_bytes()), (trained.lists(), bytes.clone()));
            let encoded = |trained: &Trained| {
                let mut encoder = Encoder::new(trained, 1 << 24);
                for (number, vector) in (0..).zip(&vectors) {
                    encoder.push(tid(number), vector, &[]).unwrap();
                }
                let mut rows = Vec::new();
                let take = |list: u32, row: &[u8]| {
                    rows.push((list, row.to_vec()));
                    Ok::<(), MemError>(())
                };
                encoder.drain(take).unwrap();
                rows
            };
            assert!(encoded(&trained) == encoded(&copy), "{metric:?} {dims} {bits}");
            assert!(Trained::from_bytes(&bytes[..10]).is_none());
        }
    }
}

#[test]
fn every_row_finds_itself_and_recall_is_high_after_build_inserts_and_vacuum() {
    for metric in METRICS {
        let mut numbers = Numbers::new(1);
        let all = numbers.clustered(6000, 48, 200);
        let queries: Vec<Vec<f32>> = all[5900..].to_vec();
        let mut table = Table::build(&all[..3000], 48, metric, 8, 30);
        let recall = |table: &Table, floor: f64| {
            table.assert_clean();
            let recall = table.recall(&queries, probes(8));
            assert!(recall >= floor, "{metric:?}: recall {recall}");
        };
        recall(&table, 0.9);
        for vector in &all[3000..5900] {
            table.insert(vector.clone()).unwrap();
        }
        recall(&table, 0.9);
        let dead = table.rows.keys().copied().filter(|tid| tid.offset % 3 == 0).collect();
        table.delete(&dead);
        recall(&table, 0.9);
        if metric != Metric::InnerProduct {
            // The vector nearest to a vector by inner product is often a longer one.
            for (&tid, vector) in &table.rows {
                let found = table.search(vector, 1, probes(1));
                assert_eq!(found[0].1, tid, "{metric:?} {:?}", found[0]);
            }
        }
    }
}

#[test]
fn with_all_lists_probed_the_answer_is_exact() {
    for metric in METRICS {
        for bits in [1, 2, 5, 8] {
            let mut numbers = Numbers::new(2);
            let all = numbers.clustered(700, 20, 9);
            let mut table = Table::build(&all[..500], 20, metric, bits, 7);
            for vector in &all[500..650] {
                table.insert(vector.clone()).unwrap();
            }
            let lists = table.info().lists as usize;
            for query in &all[650..] {
                let found: Vec<f64> = table
                    .search(query, 600, probes(lists))
                    .into_iter()
                    .map(|(distance, _)| distance)
                    .collect();
                assert_eq!(found, table.exact_search(query, 600), "{metric:?} with {bits} bits");
            }
        }
    }
}

#[test]
fn reordered_rows_come_in_exact_order() {
    for metric in METRICS {
        let mut numbers = Numbers::new(8);
        let mut table = Table::build(&numbers.clustered(600, 24, 6), 24, metric, 2, 6);
        // Rows that who searches does not see, though the index has them.
        let mut number = 0;
        table.rows.retain(|_, _| {
            number += 1;
            number % 3 > 0
        });
        for _ in 0..10 {
            let query = numbers.vector(24);
            let mut distance =
                |tid: Tid| table.rows.get(&tid).map(|vector| metric.operator(vector, &query).unwrap());
            let (mut scan, mut reorder) = (table.scan(Some(&query), probes(6)), Reorder::default());
            let mut found = Vec::new();
            while let Some(hit) = reorder.next(&mut scan, &table.store, &mut distance).unwrap() {
                assert_eq!(distance(hit.tid), hit.distance);
                found.extend(hit.distance);
            }
            assert_eq!(found, table.exact_search(&query, usize::MAX));
        }
    }
}

#[test]
fn a_row_nearer_than_its_bound_is_damage() {
    let mut numbers = Numbers::new(9);
    let table = Table::build(&numbers.clustered(100, 24, 3), 24, Metric::L2, 2, 3);
    let query = numbers.vector(24);
    let (mut scan, mut reorder) = (table.scan(Some(&query), probes(3)), Reorder::default());
    // No vector of the table is the query.
    let error = reorder.next(&mut scan, &table.store, |_| Some(0.0)).unwrap_err();
    assert!(error.to_string().starts_with("a row's distance is 0, and its code says at least "), "{error}");
}

#[test]
fn any_number_of_rows_from_zero_up() {
    for rows in [0, 1, 2, 15, 16, 17, 96, 97, 500] {
        for lists in [1, 3, 40] {
            let mut numbers = Numbers::new(3);
            let all = numbers.clustered(rows, 100, 3);
            let mut table = Table::build(&all, 100, Metric::L2, 8, lists);
            table.assert_clean();
            let query = numbers.vector(100);
            assert_eq!(table.search(&query, 1000, probes(lists)).len(), rows);
            table.insert(query.clone()).unwrap();
            assert_eq!(table.search(&query, 1, probes(1))[0].0, 0.0);
            assert_eq!(count(&table.store, &table.index).unwrap().shape.rows, rows as u64 + 1);
        }
    }
}

#[test]
fn the_first_row_can_tell_the_dimensions() {
    for (dims, bits) in [(1, 8), (384, 8), (2000, 8), (700, 1)] {
        for fail_after in 0..100 {
            let mut store = MemStore::default();
            write_without_dimensions(&mut store, Metric::Cosine, bits, Columns::default()).unwrap();
            assert_eq!(check(&store, 10, 1 << 20).unwrap(), Vec::<String>::new());
            let index = Rc::new(Index::open(&store).unwrap());
            assert!(!index.knows_dimensions());
            assert_eq!(info(&store, None).unwrap().rows, 0);
            assert_eq!(bulk_delete(&store, &index, &mut |_| true).unwrap().removed, 0);
            let vector = Numbers::new(30).vector(dims);
            let mut early = Scan::new(index, Some(&vector), probes(1));

            store.fail_after(Some(fail_after));
            let settled = settle(&store, dims);
            store.fail_after(None);
            assert_eq!(check(&store, 10, 1 << 20).unwrap(), Vec::<String>::new());
            settle(&store, dims).unwrap();
            settle(&store, 3).unwrap();
            assert_eq!(check(&store, 10, 1 << 20).unwrap(), Vec::<String>::new());
            let index = Rc::new(Index::open(&store).unwrap());
            assert_eq!((index.geometry.dims, index.geometry.bits), (dims, bits));
            insert(&store, &mut index.clone(), tid(5), &vector, &[]).unwrap();
            let hit = Scan::new(index, Some(&vector), probes(1)).next(&store).unwrap().unwrap();
            assert_eq!(hit.tid, tid(5));
            // Opened before there was a row.
            assert_eq!(early.next(&store).unwrap(), None);
            if settled.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn any_dimensions_and_bits() {
    for dims in [1, 2, 3, 63, 64, 65, 384, 1000, 1536, 1999, 2000] {
        for bits in [1, 2, 4, 7, 8] {
            let mut numbers = Numbers::new(4);
            let all = numbers.clustered(60, dims, 5);
            let mut table = Table::build(&all[..30], dims, Metric::L2, bits, 3);
            for vector in &all[30..] {
                table.insert(vector.clone()).unwrap();
            }
            table.assert_clean();
            for (&tid, vector) in &table.rows {
                assert_eq!(table.search(vector, 1, probes(1))[0].1, tid, "{dims} dimensions, {bits} bits");
            }
        }
    }
}

#[test]
fn equal_rows_fill_one_list_and_are_all_found() {
    let row = vec![1.0f32, -2.0, 3.0];
    let rows = vec![row.clone(); 5000];
    let mut table = Table::build(&rows, 3, Metric::Cosine, 8, 50);
    assert_eq!(table.info().lists, 1);
    for _ in 0..1000 {
        table.insert(row.clone()).unwrap();
    }
    table.assert_clean();
    assert_eq!(table.tids(&row, probes(1)).len(), 6000);
}

#[test]
fn zero_vectors_are_not_indexed_by_cosine_and_allowed_as_a_query() {
    let rows = [vec![0.0, 0.0], vec![1.0, 0.0], vec![0.0, 2.0]];
    let table = Table::build(&rows, 2, Metric::Cosine, 8, 1);
    assert_eq!(table.info().rows, 2);
    assert!(!insert(&table.store, &mut table.index.clone(), tid(77), &[0.0, 0.0], &[]).unwrap());
    let mut scan = table.scan(Some(&[0.0, 0.0]), probes(1));
    let mut hits = 0;
    while let Some(hit) = scan.next(&table.store).unwrap() {
        assert!(!hit.distance.unwrap().is_nan());
        hits += 1;
    }
    assert_eq!(hits, 2);
    for metric in [Metric::L2, Metric::InnerProduct] {
        assert_eq!(Table::build(&rows, 2, metric, 8, 1).info().rows, 3);
    }
}

#[test]
fn a_null_query_returns_every_row() {
    let all = Numbers::new(5).clustered(900, 16, 9);
    let table = Table::build(&all, 16, Metric::L2, 8, 20);
    let mut scan = table.scan(None, probes(1));
    let mut seen = HashSet::new();
    while let Some(hit) = scan.next(&table.store).unwrap() {
        assert_eq!(hit.distance, None);
        assert!(seen.insert(hit.tid));
    }
    assert_eq!(seen.len(), 900);
}

#[test]
fn an_iterative_scan_returns_every_row_once_within_max_probes() {
    let all = Numbers::new(6).clustered(2000, 32, 40);
    let table = Table::build(&all, 32, Metric::L2, 8, 40);
    let lists = table.info().lists as usize;
    let seen = |options: Options| {
        let mut scan = table.scan(Some(&all[0]), options);
        let mut seen = HashSet::new();
        while let Some(hit) = scan.next(&table.store).unwrap() {
            assert!(seen.insert(hit.tid));
        }
        (seen.len(), scan.statistics().lists as usize)
    };
    let iterative = Options { iterative: true, ..probes(3) };
    assert_eq!(seen(iterative), (2000, lists));
    assert_eq!(seen(probes(3)).1, 3);
    assert_eq!(seen(Options { max_probes: 10, ..iterative }).1, 10);
    // As in pgvector: more probes than max_probes are honoured if asked for.
    assert_eq!(seen(Options { max_probes: 2, ..iterative }).1, 3);
    assert_eq!(seen(Options { probes: 0, max_probes: 2, ..iterative }).1, 2);
    assert!(seen(probes(3)).0 < 2000);
}

#[test]
fn within_a_distance_nothing_of_the_probed_lists_is_missing_and_the_scan_ends() {
    for metric in METRICS {
        let all = Numbers::new(21).clustered(3000, 24, 40);
        let table = Table::build(&all, 24, metric, 4, 30);
        let lists = table.info().lists as usize;
        for (order, memory) in [(Order::Bound, 1 << 20), (Order::Bound, 2048), (Order::Estimate, 1 << 20)] {
            for query in &all[..20] {
                let exact = table.exact_search(query, usize::MAX);
                let seen = |probes: usize, within: Option<f64>| {
                    let options = Options {
                        probes,
                        recall: 0.95,
                        iterative: true,
                        max_probes: 32_768,
                        order,
                        within,
                        memory,
                    };
                    let mut scan = table.scan(Some(query), options);
                    let mut distances = Vec::new();
                    while let Some(hit) = scan.next(&table.store).unwrap() {
                        distances.push(metric.operator(&table.rows[&hit.tid], query).unwrap());
                    }
                    distances.sort_by(f64::total_cmp);
                    (distances, scan.statistics().lists as usize)
                };
                for at in [0, 5, 50, 500] {
                    let within = exact[at];
                    let whole = seen(lists, Some(within)).0;
                    let known = exact.iter().take_while(|&&distance| distance <= within).count();
                    assert_eq!(whole[..known], exact[..known], "{metric:?} {order:?} {at}");
                    assert!(whole.len() < exact.len() / 2, "{} of {}", whole.len(), exact.len());
                    // Two lists at a time, until two have nothing.
                    let (some, read) = seen(2, Some(within));
                    assert!(some.len() <= whole.len() && read >= 2, "{read}");
                    assert!(read < lists || at > 50, "{read} {at}");
                }
                // No distance is below the least, and every one is below infinity and, as Postgres orders, NaN.
                assert_eq!(seen(2, Some(exact[0] - 10.0)), (vec![], 2));
                for all in [None, Some(f64::INFINITY), Some(f64::NAN)] {
                    assert_eq!(seen(2, all), (exact.clone(), lists));
                }
            }
        }
    }
}

#[test]
fn with_little_memory_the_same_rows_come_in_the_same_order() {
    for metric in METRICS {
        let all = Numbers::new(20).clustered(3000, 32, 40);
        let table = Table::build(&all, 32, metric, 8, 10);
        for order in [Order::Bound, Order::Estimate] {
            for options in [probes(10), Options { iterative: true, ..probes(3) }] {
                let options = Options { order, ..options };
                let rows = |query: Option<&[f32]>, memory: usize| {
                    let mut scan = table.scan(query, Options { memory, ..options });
                    let mut rows = Vec::new();
                    while let Some(hit) = scan.next(&table.store).unwrap() {
                        rows.push(hit);
                    }
                    (rows, scan.statistics().refinements)
                };
                let (plenty, _) = rows(Some(&all[5]), 1 << 20);
                let (little, refinements) = rows(Some(&all[5]), 1000);
                assert!(refinements > 10 * 3000, "{refinements}: memory did suffice");
                let keys = |rows: &[ivf::scan::Hit]| {
                    let mut keys: Vec<f64> = rows.iter().filter_map(|hit| hit.distance).collect();
                    if options.iterative {
                        // The sign bits' bounds can return a row late.
                        keys.sort_by(f64::total_cmp);
                    }
                    keys
                };
                assert!(keys(&plenty) == keys(&little), "{metric:?} {options:?}");
                let tids = |rows: &[ivf::scan::Hit]| rows.iter().map(|hit| hit.tid).collect::<HashSet<_>>();
                assert_eq!(tids(&little).len(), 3000);
                assert_eq!(tids(&rows(None, 1000).0).len(), 3000);
            }
        }
    }
}

#[test]
fn refinements_are_few() {
    let all = Numbers::new(7).clustered(4000, 128, 100);
    let table = Table::build(&all[..3900], 128, Metric::Cosine, 8, 20);
    let (mut refinements, mut rows) = (0, 0);
    for query in &all[3900..] {
        let mut scan = table.scan(Some(query), probes(10));
        for _ in 0..10 {
            scan.next(&table.store).unwrap();
        }
        refinements += scan.statistics().refinements;
        rows += scan.statistics().rows;
    }
    // Loose: what matters is measured in the benchmarks.
    assert!(refinements * 4 < rows, "{refinements} of {rows}");
}

#[test]
fn vacuum_frees_segments_and_inserts_use_them_again() {
    let mut numbers = Numbers::new(8);
    let all = numbers.clustered(4000, 24, 10);
    let mut table = Table::build(&all, 24, Metric::L2, 8, 5);
    let pages = table.store.blocks().unwrap();
    for round in 0..10 {
        let dead: HashSet<Tid> = table.rows.keys().copied().collect();
        assert_eq!(table.delete(&dead), 4000);
        table.assert_clean();
        assert!(table.info().free_pages > 0, "round {round}");
        assert_eq!(table.info().rows, 0);
        for vector in numbers.clustered(4000, 24, 10) {
            table.insert(vector).unwrap();
        }
        table.assert_clean();
    }
    let grown = table.store.blocks().unwrap();
    assert!(f64::from(grown) <= 1.3 * f64::from(pages), "{pages} pages have become {grown}");
    let meta = Index::open(&table.store).unwrap().meta;
    assert_eq!((table.info().rows, meta.deleted), (4000, 40_000));
}

#[test]
fn vacuum_changes_nothing_when_nothing_is_dead() {
    let all = Numbers::new(9).clustered(500, 8, 4);
    let table = Table::build(&all, 8, Metric::L2, 8, 4);
    let blocks = table.store.blocks().unwrap();
    let content =
        || -> Vec<Vec<u8>> { (0..blocks).map(|b| table.store.read(b).unwrap().bytes().to_vec()).collect() };
    let before = content();
    let counts = bulk_delete(&table.store, &table.index, &mut |_| false).unwrap();
    assert_eq!((counts.removed, counts.shape.rows, counts.freed_pages), (0, 500, 0));
    count(&table.store, &table.index).unwrap();
    assert!(before == content());
}

#[test]
fn a_scan_survives_a_vacuum_between_its_rows() {
    let all = Numbers::new(10).clustered(3000, 16, 5);
    let table = Table::build(&all, 16, Metric::L2, 8, 6);
    let kept: HashSet<Tid> = table.rows.keys().copied().filter(|tid| tid.offset % 5 == 0).collect();
    let mut scan = table.scan(Some(&all[0]), Options { iterative: true, ..probes(2) });
    let mut seen = HashSet::new();
    for _ in 0..20 {
        seen.insert(scan.next(&table.store).unwrap().unwrap().tid);
    }
    bulk_delete(&table.store, &table.index, &mut |tid| !kept.contains(&tid)).unwrap();
    for (number, vector) in (100_000..).zip(Numbers::new(11).clustered(3000, 16, 5)) {
        insert(&table.store, &mut table.index.clone(), tid(number), &vector, &[]).unwrap();
    }
    while let Some(hit) = scan.next(&table.store).unwrap() {
        // Rows inserted since have other TIDs here; Postgres could not see them.
        assert!(seen.insert(hit.tid), "{:?} came twice", hit.tid);
    }
    assert!(kept.is_subset(&seen));
}

/// Wherever it fails, nothing is half done, and every row that was reported done is there.
#[test]
fn a_failure_at_any_operation_of_an_insert_leaves_a_clean_index() {
    let all = Numbers::new(12).clustered(700, 500, 3);
    for n in 0.. {
        let mut table = Table::build(&all[..60], 500, Metric::L2, 8, 2);
        table.store.fail_after(Some(n * 3));
        let failed = all[60..160].iter().any(|vector| table.insert(vector.clone()).is_err());
        table.store.fail_after(None);
        table.assert_clean();
        for vector in &all[660..] {
            table.insert(vector.clone()).unwrap();
        }
        table.assert_clean();
        let found = table.tids(&all[0], probes(2));
        assert!(table.rows.keys().all(|tid| found.contains(tid)));
        if !failed {
            break;
        }
    }
}

#[test]
fn a_failure_at_any_operation_of_a_vacuum_leaves_a_clean_index() {
    let all = Numbers::new(13).clustered(400, 500, 3);
    for n in 0.. {
        let mut table = Table::build(&all, 500, Metric::L2, 8, 2);
        let dead: HashSet<Tid> = table.rows.keys().copied().filter(|tid| tid.block() > 0).collect();
        table.store.fail_after(Some(n));
        let done = bulk_delete(&table.store, &table.index, &mut |tid| dead.contains(&tid)).is_ok();
        table.store.fail_after(None);
        table.assert_clean();
        table.insert(all[0].clone()).unwrap();
        table.delete(&dead);
        table.assert_clean();
        assert_eq!(table.tids(&all[0], probes(2)), table.rows.keys().copied().collect());
        if done {
            break;
        }
    }
}

#[test]
fn a_failed_build_is_no_index() {
    let rows: BTreeMap<Tid, Vec<f32>> = (0..).map(tid).zip(Numbers::new(14).clustered(300, 30, 3)).collect();
    for n in 0.. {
        let mut store = MemStore::default();
        store.fail_after(Some(n));
        let built = build_into(&mut store, &rows, 30, Metric::L2, 8, 3);
        store.fail_after(None);
        if built.is_ok() {
            assert!(Index::open(&store).is_ok());
            break;
        }
        assert!(Index::open(&store).is_err());
    }
}

#[test]
fn pages_added_just_before_a_crash_are_used() {
    let all = Numbers::new(15).clustered(2000, 100, 3);
    let mut table = Table::build(&all[..100], 100, Metric::L2, 8, 1);
    let pages = table.store.blocks().unwrap();
    table.store.add_unused_page();
    table.store.add_unused_page();
    table.assert_clean();
    for vector in &all[100..600] {
        table.insert(vector.clone()).unwrap();
    }
    table.assert_clean();
    let meta = Index::open(&table.store).unwrap().meta;
    assert!(meta.pages > pages + 2);
    assert_eq!(meta.pages, table.store.blocks().unwrap());
}

#[test]
fn damage_is_an_error_and_is_found() {
    let all = Numbers::new(16).clustered(500, 40, 3);
    let table = || Table::build(&all, 40, Metric::L2, 8, 3);
    let blocks = table().store.blocks().unwrap();

    let version = table();
    version.store.damage(0, 8, &99u32.to_ne_bytes());
    assert_eq!(Index::open(&version.store).err().unwrap(), MemError::Index(IndexError::Version(99)));

    // Every page, its start overwritten: nothing panics, and nothing goes unnoticed.
    for block in 0..blocks {
        let table = table();
        table.store.damage(block, 0, &[0xff; 4]);
        let problems = check(&table.store, 10, 1 << 20);
        assert!(!matches!(problems, Ok(ref problems) if problems.is_empty()), "block {block}");
        let mut scan = table.scan(Some(&all[0]), probes(3));
        while let Ok(Some(_)) = scan.next(&table.store) {}
        let _ = insert(&table.store, &mut table.index.clone(), tid(9999), &all[0], &[]);
        let _ = bulk_delete(&table.store, &table.index, &mut |_| true);
        let _ = info(&table.store, None);
    }

    let twice = table();
    insert(&twice.store, &mut twice.index.clone(), tid(7), &all[7], &[]).unwrap();
    assert_eq!(check(&twice.store, 10, 64).unwrap(), ["row (0,8) is in two lanes"]);
}

#[test]
fn random_damage_never_panics_nor_loops() {
    let mut numbers = Numbers::new(18);
    let all = numbers.clustered(400, 40, 3);
    for _ in 0..400 {
        let bits = 1 + numbers.0.below(8);
        let mut table = Table::build(&all, 40, Metric::L2, bits, 4);
        let dead: HashSet<Tid> = table.rows.keys().copied().filter(|tid| tid.offset % 2 == 0).collect();
        table.delete(&dead);
        for _ in 0..4 {
            let block = numbers.0.below(table.store.blocks().unwrap() as usize) as u32;
            // Half of it where headers, links and masks are.
            let end = if numbers.0.below(2) == 0 { 200 } else { 8160 };
            let offset = numbers.0.below(end);
            let bytes = numbers.0.next().to_ne_bytes();
            table.store.damage(block, offset, &bytes[..1 + numbers.0.below(8)]);
        }
        let _ = check(&table.store, 10, 1 << 20);
        let _ = info(&table.store, None);
        for options in [probes(1), probes(4)] {
            let mut scan = table.scan(Some(&all[0]), options);
            while let Ok(Some(_)) = scan.next(&table.store) {}
        }
        for (number, vector) in (70_000..).zip(&all[..200]) {
            let _ = insert(&table.store, &mut table.index.clone(), tid(number), vector, &[]);
        }
        let _ = bulk_delete(&table.store, &table.index, &mut |_| true);
    }
}

#[test]
fn ordered_by_estimate_the_answer_is_nearly_right() {
    let all = Numbers::new(17).clustered(2000, 64, 40);
    let table = Table::build(&all[..1900], 64, Metric::Cosine, 8, 10);
    let mut right = 0;
    for query in &all[1900..] {
        let truth = table.exact_search(query, 10);
        let mut scan = table.scan(Some(query), Options { order: Order::Estimate, ..probes(10) });
        for _ in 0..10 {
            let hit = scan.next(&table.store).unwrap().unwrap();
            let distance = Metric::Cosine.operator(&table.rows[&hit.tid], query).unwrap();
            assert!((distance - hit.distance.unwrap()).abs() < 0.02);
            right += usize::from(distance <= truth[9]);
        }
    }
    assert!(right >= 950, "{right} of 1000");
}

/// What is the same in all rows says nothing of them, and is not to cost the rest its precision.
#[test]
fn a_large_element_in_all_rows_does_not_blur_the_lists() {
    let dims = 64;
    let mut rows = Numbers::new(8).clustered(3000, dims, 8);
    rows.iter_mut().for_each(|row| row[0] = 3e7);
    let table = Table::build(&rows, dims, Metric::L2, 8, 8);
    let recall = table.recall(&rows[..100], probes(1));
    assert!(recall > 0.9, "{recall}");
}
