//! How much the index finds, and that it finds everything when it is to.

use postgres::Client;

use crate::cluster::{Cluster, refused, value};
use crate::ivf::{
    BY_INDEX, BY_SORTING, BY_WHOLE_INDEX, COSINE, Clusters, Found, INNER_PRODUCT, L2, METRICS, Metric,
    Random, assert_same_answer, assert_sound, copy, found, make_index, make_table, plan_under, recall,
    rows_under, search,
};

#[test]
fn every_row_finds_itself() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(1, 60, 24).spread(1.0);
    // Of length one, or the inner product prefers others.
    let unit = |vector: Vec<f32>| {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter().map(|x| x / length).collect::<Vec<f32>>()
    };
    let mut vectors = || source.vectors(2_000).into_iter().map(unit).collect::<Vec<_>>();
    make_table(&mut client, "t", &vectors());
    for metric in METRICS {
        make_index(&mut client, "i", "t", metric, "lists = 40");
        // Half of the rows were not there when the centers were made.
        let first: i32 = value(&mut client, "SELECT max(id) + 1 FROM t").parse().unwrap();
        copy(&mut client, "t", first, &vectors());
        let operator = metric.operator;
        let sql = format!(
            "SELECT a.id, b.id FROM t a CROSS JOIN LATERAL
               (SELECT id FROM t ORDER BY v {operator} a.v LIMIT 1) b"
        );
        let plan = plan_under(&mut client, "SET LOCAL enable_sort = off", &sql);
        assert!(plan.contains("Index Scan using i on t"), "{plan}");
        let pairs = rows_under(&mut client, "SET LOCAL enable_sort = off", &sql);
        assert!(pairs.len() >= 4_000);
        let strangers: Vec<_> = pairs.iter().filter(|pair| pair[0] != pair[1]).collect();
        assert!(strangers.is_empty(), "{metric:?}: {} of {}: {strangers:?}", strangers.len(), pairs.len());
        client.batch_execute("DROP INDEX i").unwrap();
    }
}

/// Recall@10 with 10 of 100 lists, after building on half of the rows, inserting as many, deleting a third of all and
/// vacuuming. Measured: 0.9275 to 0.9475.
#[test]
fn recall_holds_after_build_inserts_and_vacuum() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let floor = 0.89;
    for metric in METRICS {
        let mut source = Clusters::new(2, 200, 48).spread(1.0);
        make_table(&mut client, "t", &source.vectors(10_000));
        make_index(&mut client, "i", "t", metric, "lists = 100");
        let queries = source.vectors(40);
        let measure = |client: &mut Client, when: &str| {
            let found = recall(client, "t", metric, &queries, 10, "SET LOCAL ivf.probes = 10");
            assert!(found >= floor, "{metric:?} {when}: recall@10 is {found}");
        };
        measure(&mut client, "after the build");
        copy(&mut client, "t", 10_001, &source.vectors(10_000));
        measure(&mut client, "after inserts");
        client.batch_execute("DELETE FROM t WHERE id % 3 = 0").unwrap();
        client.batch_execute("VACUUM t").unwrap();
        measure(&mut client, "after vacuum");
        assert_sound(&mut client, "i", "t", metric, "true");
        client.batch_execute("DROP TABLE t").unwrap();
    }
}

/// The automatic number of lists and of probes, on what a user would first try. Measured: 0.925 to 0.9375.
#[test]
fn defaults_find_most() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(3, 300, 64).spread(1.0);
    make_table(&mut client, "t", &source.vectors(30_000));
    let queries = source.vectors(40);
    for metric in METRICS {
        make_index(&mut client, "i", "t", metric, "");
        let found = recall(&mut client, "t", metric, &queries, 10, "SET LOCAL ivf.probes = 0");
        assert!(found >= 0.88, "{metric:?}: recall@10 is {found}");
        // What the extension says of itself is what is measured here.
        let said: f64 = value(&mut client, "SELECT ivf_recall('i', 10, 100)").parse().unwrap();
        assert!((said - found).abs() < 0.06, "{metric:?}: ivf_recall says {said}, here it is {found}");
        client.batch_execute("SET ivf.probes = 1").unwrap();
        let one: f64 = value(&mut client, "SELECT ivf_recall('i', 10, 100)").parse().unwrap();
        client.batch_execute("SET ivf.probes = 32768").unwrap();
        let all: f64 = value(&mut client, "SELECT ivf_recall('i', 10, 100)").parse().unwrap();
        client.batch_execute("RESET ivf.probes").unwrap();
        assert!(one < said && all == 1.0, "{metric:?}: {one} with one list, {said}, {all} with all");
        client.batch_execute("DROP INDEX i").unwrap();
    }
}

#[test]
fn all_lists_give_the_exact_order() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut random = Random(4);
    for (dims, count, options) in [
        (1, 500, "lists = 7"),
        (2, 1_000, "lists = 10"),
        (3, 3_000, "lists = 30"),
        (37, 3_000, "lists = 30, bits = 1"),
        (64, 3_000, "lists = 30, bits = 4"),
        (100, 2_000, "lists = 20, bits = 2"),
        (384, 1_500, "lists = 15"),
        (1_025, 300, "lists = 3, bits = 7"),
        (2_000, 300, "lists = 3"),
    ] {
        let mut vectors = Clusters::new(dims as u64, 10, dims).vectors(count / 2);
        vectors.extend(random.vectors(count - count / 2 - 40, dims));
        // Duplicates, of one row and of each other; and rows far from all.
        vectors.extend(std::iter::repeat_n(vectors[0].clone(), 20));
        vectors.extend((0..20).map(|i| random.vector(dims).iter().map(|x| x * 10f32.powi(i - 10)).collect()));
        make_table(&mut client, "t", &vectors);
        for metric in METRICS {
            make_index(&mut client, "i", "t", metric, options);
            for query in [random.vector(dims), vectors[0].clone(), vectors[count - 1].clone()] {
                for limit in [1, 10, 100, count] {
                    let sql = search("t", metric, &query, &format!("LIMIT {limit}"));
                    let exact = found(&mut client, BY_SORTING, &sql);
                    let answer = found(&mut client, BY_WHOLE_INDEX, &sql);
                    let what = format!("{metric:?}, {dims} dimensions, {options}, LIMIT {limit}");
                    assert_same_answer(&exact, &answer, limit < count, &what);
                }
            }
            assert_sound(&mut client, "i", "t", metric, "true");
            client.batch_execute("DROP INDEX i").unwrap();
        }
        client.batch_execute("DROP TABLE t").unwrap();
    }
}

/// Numbers at the ends of what a float holds: the order is that of the operator, and no scan fails.
#[test]
fn extreme_numbers_keep_the_exact_order() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut random = Random(5);
    for (what, scale, metrics) in [
        ("huge", 1e17f32, &METRICS[..]),
        ("tiny", 1e-17, &METRICS),
        ("denormal", 1e-42, &METRICS),
        // Squares overflow: every distance is infinite, and any order is right.
        ("overflowing", 1e30, &[L2]),
    ] {
        let vectors: Vec<Vec<f32>> = (0..400)
            .map(|_| random.vector(19).iter().map(|x| x * scale).collect::<Vec<f32>>())
            .filter(|vector| vector.iter().any(|x| *x != 0.0))
            .collect();
        make_table(&mut client, "t", &vectors);
        for &metric in metrics {
            make_index(&mut client, "i", "t", metric, "lists = 5");
            let query: Vec<f32> = random.vector(19).iter().map(|x| x * scale).collect();
            for limit in [10, 400] {
                let sql = search("t", metric, &query, &format!("LIMIT {limit}"));
                let exact = found(&mut client, BY_SORTING, &sql);
                let answer = found(&mut client, BY_WHOLE_INDEX, &sql);
                let ends = |rows: &[Found]| rows.iter().all(|row| row.distance.is_finite());
                if ends(&exact) {
                    assert_same_answer(&exact, &answer, limit < 400, &format!("{what} {metric:?}"));
                } else {
                    assert_eq!(answer.len(), exact.len(), "{what} {metric:?}");
                }
            }
            client.batch_execute("DROP INDEX i").unwrap();
        }
        client.batch_execute("DROP TABLE t").unwrap();
    }
    // One-hot vectors, and all of these in one table.
    let one_hot = (0..64).map(|i| (0..64).map(|j| if i == j { 1.0 } else { 0.0 }).collect::<Vec<f32>>());
    let vectors: Vec<Vec<f32>> = one_hot
        .chain((0..64).map(|i| random.vector(64).iter().map(|x| x * 10f32.powi(i / 2 - 16)).collect()))
        .collect();
    make_table(&mut client, "t", &vectors);
    for metric in METRICS {
        make_index(&mut client, "i", "t", metric, "lists = 4");
        for query in &vectors {
            let sql = search("t", metric, query, "");
            let exact = found(&mut client, BY_SORTING, &sql);
            let answer = found(&mut client, BY_WHOLE_INDEX, &sql);
            assert_same_answer(&exact, &answer, false, &format!("one-hot {metric:?}"));
        }
        client.batch_execute("DROP INDEX i").unwrap();
    }
}

#[test]
fn nulls_zeros_and_empty_tables() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    for (metric, zeros) in [(L2, true), (INNER_PRODUCT, true), (COSINE, false)] {
        // No rows, then one, then more.
        client.batch_execute("CREATE TABLE t (id int, v vector(3))").unwrap();
        make_index(&mut client, "i", "t", metric, "");
        let all = format!("SELECT id FROM t ORDER BY v {} '[3,3,3]'", metric.operator);
        assert_eq!(rows_under(&mut client, BY_INDEX, &all), [[""; 0]; 0]);
        client.batch_execute("VACUUM t").unwrap();
        client.batch_execute("INSERT INTO t VALUES (1, '[1,2,3]')").unwrap();
        assert_eq!(rows_under(&mut client, BY_INDEX, &all), [["1"]]);
        client
            .batch_execute(
                "INSERT INTO t VALUES (2, NULL), (3, '[0,0,0]'), (4, '[1,1,1]'), (5, NULL), (6, '[0,0,0]')",
            )
            .unwrap();
        let indexed = if zeros { vec!["1", "3", "4", "6"] } else { vec!["1", "4"] };
        let sorted = |client: &mut Client, sql: &str| {
            let mut ids = rows_under(client, BY_INDEX, sql).concat();
            ids.sort();
            ids
        };
        for rebuilt in [false, true] {
            if rebuilt {
                client.batch_execute("REINDEX INDEX i").unwrap();
            }
            assert_eq!(sorted(&mut client, &all), indexed, "{metric:?}, {rebuilt}");
            // A query of NULL, of zeros, and one computed by the executor.
            let null = all.replace("'[3,3,3]'", "(SELECT NULL::vector)");
            assert_eq!(sorted(&mut client, &null), indexed, "{metric:?}, {rebuilt}");
            assert_eq!(sorted(&mut client, &all.replace("[3,3,3]", "[0,0,0]")), indexed, "{metric:?}");
            let distances =
                null.replace("SELECT id", &format!("SELECT v {} (SELECT NULL::vector)", metric.operator));
            assert!(rows_under(&mut client, BY_INDEX, &distances).concat().iter().all(|d| d == "NULL"));
        }
        let condition = if zeros { "v IS NOT NULL" } else { "vector_norm(v) > 0" };
        assert_sound(&mut client, "i", "t", metric, condition);
        let wrong = format!("SELECT id FROM t ORDER BY v {} '[1,2]'", metric.operator);
        let settings = "SET enable_seqscan = off";
        client.batch_execute(settings).unwrap();
        let refusal = refused(&mut client, &wrong);
        assert_eq!(
            (refusal.sqlstate.as_str(), refusal.message.as_str()),
            ("22000", "different vector dimensions 3 and 2")
        );
        client.batch_execute("RESET enable_seqscan; DROP TABLE t").unwrap();
    }
}

#[test]
fn duplicates_by_the_hundred_thousand() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let same = Random(6).vector(16);
    let mut vectors = vec![same.clone(); 100_000];
    vectors.extend(Random(7).vectors(100, 16));
    make_table(&mut client, "t", &vectors);
    for metric in [L2, COSINE] {
        make_index(&mut client, "i", "t", metric, "lists = 100");
        copy(&mut client, "t", 1_000_000, &vec![same.clone(); 20_000]);
        assert_sound(&mut client, "i", "t", metric, "true");
        let ids = rows_under(&mut client, BY_INDEX, &search("t", metric, &same, "LIMIT 3000"));
        assert_eq!(ids.len(), 3000);
        // The others are not lost behind them.
        let other = found(&mut client, BY_INDEX, &search("t", metric, &vectors[100_050], "LIMIT 1"));
        assert_eq!(other[0].id, 100_051);
        client.batch_execute("DELETE FROM t WHERE id >= 1000000").unwrap();
        client.batch_execute("VACUUM t").unwrap();
        assert_sound(&mut client, "i", "t", metric, "true");
        client.batch_execute("DROP INDEX i").unwrap();
    }
    // Nothing but one vector, and more lists than there are different ones.
    client.batch_execute("DELETE FROM t WHERE id > 100000").unwrap();
    make_index(&mut client, "i", "t", L2, "lists = 50");
    assert_sound(&mut client, "i", "t", L2, "true");
}

/// Each number of bits is a layout of its own: all answer, and fewer bits make a smaller index.
#[test]
fn every_number_of_bits() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(8, 50, 96);
    make_table(&mut client, "t", &source.vectors(4_000));
    make_table(&mut client, "wide", &Random(8).vectors(1_000, 384));
    let queries = source.vectors(10);
    let mut sizes = vec![];
    for bits in 1..=8 {
        // One list: in many short ones what counts is the last page of each.
        make_index(&mut client, "w", "wide", L2, &format!("lists = 1, bits = {bits}"));
        sizes.push(value(&mut client, "SELECT pg_relation_size('w')").parse::<u64>().unwrap());
        client.batch_execute("DROP INDEX w").unwrap();
        make_index(&mut client, "i", "t", L2, &format!("lists = 20, bits = {bits}"));
        assert_eq!(value(&mut client, "SELECT bits FROM ivf_info('i')"), bits.to_string());
        let found = recall(&mut client, "t", L2, &queries, 10, "SET LOCAL ivf.probes = 5");
        assert!(found > 0.9, "{bits} bits: recall@10 is {found}");
        copy(&mut client, "t", 10_000 * bits, &source.vectors(500));
        client.batch_execute(&format!("DELETE FROM t WHERE id % 8 = {}", bits - 1)).unwrap();
        client.batch_execute("VACUUM t").unwrap();
        assert_sound(&mut client, "i", "t", L2, "true");
        client.batch_execute("DROP INDEX i").unwrap();
    }
    assert!(sizes.is_sorted() && sizes[0] * 3 < sizes[7], "{sizes:?}");
}

/// `rerank = off` gives the order of the codes, without the table's vectors; `on` gives the operator's.
#[test]
fn the_order_without_rerank_is_nearly_the_exact_one() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(9, 50, 64);
    make_table(&mut client, "t", &source.vectors(4_000));
    let queries = source.vectors(20);
    let common = |client: &mut Client, metric: Metric| {
        let mut sum = 0;
        for query in &queries {
            let sql = search("t", metric, query, "LIMIT 20");
            let exact = found(client, BY_SORTING, &sql);
            let answer = found(client, BY_WHOLE_INDEX, &sql);
            sum += exact.iter().filter(|row| answer.contains(row)).count();
        }
        sum
    };
    for metric in METRICS {
        make_index(&mut client, "i", "t", metric, "lists = 20, rerank = off, bits = 8");
        let precise = common(&mut client, metric);
        // Of 400.
        assert!(precise >= 392, "{metric:?}: {precise}");
        client.batch_execute("DROP INDEX i").unwrap();
        make_index(&mut client, "i", "t", metric, "lists = 20, rerank = off, bits = 2");
        let coarse = common(&mut client, metric);
        assert!(coarse < precise, "{metric:?}: {coarse} with 2 bits, {precise} with 8");
        client.batch_execute("ALTER INDEX i SET (rerank = on)").unwrap();
        assert_eq!(common(&mut client, metric), 400, "{metric:?}");
        client.batch_execute("DROP INDEX i").unwrap();
    }
}
