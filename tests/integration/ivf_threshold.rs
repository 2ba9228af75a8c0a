//! `WHERE distance < number ORDER BY distance`: the scan ends at the number, and the answers are those of sorting.

use postgres::Client;

use crate::cluster::{Cluster, refused, rows, value, wait_until};
use crate::ivf::{
    BY_SORTING, BY_WHOLE_INDEX, COSINE, Clusters, INNER_PRODUCT, L2, METRICS, make_index, make_table,
    plan_under, rows_under, text,
};

/// A cluster with a table `t` of clustered vectors and an index `i`, and a vector that is not among them.
fn clustered(rows: usize, metric: crate::ivf::Metric, options: &str) -> (Cluster, Client, String) {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(81, 40, 32);
    make_table(&mut client, "t", &source.vectors(rows));
    make_index(&mut client, "i", "t", metric, options);
    let query = text(&source.vector());
    (cluster, client, query)
}

/// The n-th distance of all, in the order of distance.
fn nth(client: &mut Client, distance: &str, n: usize) -> String {
    let sql = format!("SELECT {distance} FROM t ORDER BY {distance} OFFSET {n} LIMIT 1");
    rows_under(client, BY_SORTING, &sql).remove(0).remove(0)
}

/// The same rows by the index as by sorting, and the condition is in the index's scan.
#[track_caller]
fn assert_bounded(client: &mut Client, sql: &str) -> usize {
    let plan = plan_under(client, BY_WHOLE_INDEX, sql);
    assert!(plan.contains("Index Scan using") && plan.contains("(v <<"), "{sql}: {plan}");
    assert_alike(client, sql)
}

#[track_caller]
fn assert_alike(client: &mut Client, sql: &str) -> usize {
    let by_sorting = rows_under(client, BY_SORTING, sql);
    assert_eq!(rows_under(client, BY_WHOLE_INDEX, sql), by_sorting, "{sql}");
    by_sorting.len()
}

#[test]
fn however_it_is_written() {
    for metric in METRICS {
        let (_cluster, mut client, query) = clustered(2_000, metric, "");
        let d = format!("v {} '{query}'", metric.operator);
        let commuted = format!("'{query}'::vector {} v", metric.operator);
        for at in [0, 1, 23, 500, 1_999] {
            let r = nth(&mut client, &d, at);
            for (condition, found) in [
                (format!("{d} < '{r}'"), at),
                (format!("{d} <= '{r}'"), at + 1),
                (format!("'{r}'::float8 > {d}"), at),
                (format!("'{r}' >= {d}"), at + 1),
                (format!("{commuted} <= '{r}'"), at + 1),
                (format!("NOT {d} > '{r}'"), at + 1),
                (format!("{d} BETWEEN '-Infinity' AND '{r}'"), at + 1),
                (format!("-({d}) >= -('{r}'::float8)"), at + 1),
                (format!("({d}) * -1 >= -('{r}'::float8)"), at + 1),
                (format!("-1 * ({d}) > -('{r}'::float8)"), at),
                (format!("{d} < '{r}' AND {d} < 1e300 AND id > 0"), at),
            ] {
                let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY {d}");
                assert_eq!(assert_bounded(&mut client, &sql), found, "{sql}");
                assert_eq!(assert_bounded(&mut client, &format!("{sql} LIMIT 50")), found.min(50), "{sql}");
            }
            // Rounded, so that it is not known on which side the last row is.
            for condition in [
                format!("1 - ({d}) > 1 - '{r}'::float8"),
                format!("0.5 - ({d}) >= 0.5 - '{r}'::float8"),
                format!("{d} < '{r}'::float4"),
            ] {
                assert_bounded(&mut client, &format!("SELECT id FROM t WHERE {condition} ORDER BY {d}"));
            }
        }
        // Numbers that no distance is below, or every one; and none at all.
        for (r, found) in [("-1e6", 0), ("-Infinity", 0), ("1e6", 2_000), ("Infinity", 2_000), ("NaN", 2_000)]
        {
            let sql = format!("SELECT id FROM t WHERE {d} < '{r}' ORDER BY {d}");
            assert_eq!(assert_bounded(&mut client, &sql), found, "{sql}");
        }
        for r in
            ["(SELECT NULL::float8)", "(SELECT 'NaN'::float8)", "(SELECT 0.5)", "random()", "id", "0.1 * id"]
        {
            assert_alike(&mut client, &format!("SELECT count(*) FROM t WHERE {d} < {r} AND id < 0"));
        }
        for r in ["(SELECT NULL::float8)", "(SELECT 'NaN'::float8)", "(SELECT 0.5::float8)"] {
            assert_bounded(&mut client, &format!("SELECT id FROM t WHERE {d} < {r} ORDER BY {d}"));
        }
        // Of another distance, or the wrong side: only the filter.
        for condition in [format!("{d} > 0.5"), "v <+> v < 1".to_string(), format!("v <-> v {} 1", "<")] {
            let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY {d}");
            assert!(!plan_under(&mut client, BY_WHOLE_INDEX, &sql).contains("Index Cond"), "{sql}");
            assert_alike(&mut client, &sql);
        }
    }
}

#[test]
fn wherever_it_is_written() {
    let (_cluster, mut client, query) = clustered(2_000, COSINE, "");
    let d = format!("v <=> '{query}'");
    let r = nth(&mut client, &d, 23);
    let expected =
        rows_under(&mut client, BY_SORTING, &format!("SELECT id FROM t WHERE {d} < '{r}' ORDER BY {d}"));
    assert_eq!(expected.len(), 23);
    client
        .batch_execute(&format!(
            "CREATE TABLE queries (q vector, r float8);
             INSERT INTO queries VALUES ('{query}', '{r}'), ('{query}', NULL), (NULL, '{r}');
             CREATE FUNCTION match_documents(query vector, threshold float8, n int) RETURNS TABLE (id int)
               LANGUAGE sql STABLE AS 'SELECT id FROM t WHERE v <=> query < threshold ORDER BY v <=> query LIMIT n';
             CREATE FUNCTION matching(query vector, threshold float8) RETURNS SETOF int LANGUAGE plpgsql STABLE AS
               'BEGIN RETURN QUERY SELECT id FROM t WHERE 1 - (v <=> query) > 1 - threshold ORDER BY v <=> query; END';
             CREATE VIEW seen AS SELECT id, v FROM t;
             CREATE TABLE parts (id int, v vector(32)) PARTITION BY HASH (id);
             CREATE TABLE p1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE p2 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             INSERT INTO parts SELECT id, v FROM t;
             CREATE INDEX ON parts USING ivf (v vector_cosine_ops);
             ANALYZE parts;
             CREATE ROLE tenant; GRANT SELECT ON t, queries TO tenant;
             CREATE POLICY even ON t TO tenant USING (id % 2 = 0)"
        ))
        .unwrap();
    for sql in [
        format!("SELECT id FROM match_documents('{query}', '{r}', 50)"),
        format!("SELECT * FROM matching('{query}', '{r}')"),
        format!("SELECT id FROM seen WHERE {d} < '{r}' ORDER BY {d}"),
        format!("WITH near AS (SELECT id, {d} AS d FROM t) SELECT id FROM near WHERE d < '{r}' ORDER BY d"),
        format!(
            "SELECT id FROM (SELECT id, 1 - ({d}) AS similarity, {d} AS d FROM t) AS s WHERE similarity > 1 - '{r}'::float8 ORDER BY d"
        ),
        format!("SELECT id FROM parts WHERE {d} < '{r}' ORDER BY {d}"),
        "SELECT n.id FROM queries, LATERAL (SELECT id FROM t WHERE v <=> q < r ORDER BY v <=> q LIMIT 50) AS n"
            .to_string(),
        format!(
            "SELECT id FROM t WHERE v <=> (SELECT q FROM queries LIMIT 1) < '{r}' ORDER BY v <=> (SELECT q FROM queries LIMIT 1)"
        ),
    ] {
        assert_eq!(rows_under(&mut client, BY_WHOLE_INDEX, &sql), expected, "{sql}");
        if !sql.contains("match") {
            let plan = plan_under(&mut client, BY_WHOLE_INDEX, &sql);
            assert!(plan.contains("Index Cond: (v <<=>> ROW("), "{sql}: {plan}");
        }
    }
    // Other vectors than the one that is sorted by are no bound.
    let other = "SELECT id FROM t WHERE v <=> (SELECT v FROM t WHERE id = 9) < (SELECT 0.4::float8)
                 ORDER BY v <=> (SELECT v FROM t WHERE id = 8) LIMIT 20";
    assert_alike(&mut client, other);

    for mode in ["force_custom_plan", "force_generic_plan"] {
        client
            .batch_execute(&format!("DEALLOCATE ALL; SET plan_cache_mode = {mode}; SET enable_seqscan = off"))
            .unwrap();
        client
            .batch_execute(
                "PREPARE near(vector, float8) AS SELECT id FROM t WHERE v <=> $1 < $2 ORDER BY v <=> $1;
                 SET enable_sort = off; SET ivf.probes = 32768",
            )
            .unwrap();
        let run = format!("EXECUTE near('{query}', '{r}')");
        let plan = rows(&mut client, &format!("EXPLAIN {run}")).concat().join("\n");
        assert!(plan.contains("Index Cond: (v <<=>> ROW("), "{mode}: {plan}");
        for _ in 0..2 {
            assert_eq!(rows(&mut client, &run), expected, "{mode}");
            assert_eq!(rows(&mut client, &format!("EXECUTE near('{query}', NULL)")).len(), 0);
        }
    }
    client.batch_execute("RESET ALL; SET enable_seqscan = off").unwrap();

    // Row locks, and a row that another session changes meanwhile, go through the index's condition, too.
    let locked = format!("SELECT id FROM t WHERE {d} < '{r}' ORDER BY {d} LIMIT 50 FOR UPDATE");
    assert_eq!(rows_under(&mut client, BY_WHOLE_INDEX, &locked), expected);

    // The policy's condition comes first, and the number still ends the scan.
    client.batch_execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY; SET ROLE tenant").unwrap();
    let sql = format!("SELECT id FROM t WHERE {d} < '{r}' ORDER BY {d}");
    let allowed: Vec<_> =
        expected.iter().filter(|row| row[0].parse::<i32>().unwrap() % 2 == 0).cloned().collect();
    assert_eq!(rows_under(&mut client, BY_WHOLE_INDEX, &sql), allowed);
    assert!(plan_under(&mut client, BY_WHOLE_INDEX, &sql).contains("Index Cond: (v <<=>> ROW("));
}

/// Of a table's rows only those of the probed lists are looked at, and of these the ones below the number returned.
#[test]
fn the_scan_ends_there() {
    let (_cluster, mut client, query) = clustered(20_000, L2, "lists = 100");
    let d = format!("v <-> '{query}'");
    let r = nth(&mut client, &d, 23);
    let sql = format!("SELECT id FROM t WHERE {d} < '{r}' ORDER BY {d} LIMIT 50");
    let plan =
        rows(&mut client, &format!("EXPLAIN (ANALYZE, TIMING off, SUMMARY off) {sql}")).concat().join("\n");
    assert!(plan.contains("Index Scan using i on t"), "{plan}");
    // Codes are exact to some rows.
    let removed = plan
        .split("Rows Removed by Filter: ")
        .nth(1)
        .map_or(0, |rest| rest.lines().next().unwrap().trim().parse::<usize>().unwrap());
    assert!(removed < 60, "{plan}");
    let found = rows(&mut client, &sql).len();
    assert!((20..=23).contains(&found), "{found}");
    // Who groups or counts them gets all.
    for sql in [
        format!("SELECT {d} FROM t WHERE {d} < '{r}' GROUP BY 1 ORDER BY 1 LIMIT 50"),
        format!("SELECT DISTINCT {d} FROM t WHERE {d} < '{r}' ORDER BY 1 LIMIT 50"),
        format!("SELECT rank() OVER (ORDER BY {d}), count(*) OVER () FROM t WHERE {d} < '{r}' LIMIT 50"),
        format!("SELECT unnest(array_agg(id ORDER BY {d})) FROM t WHERE {d} < '{r}'"),
    ] {
        let plan = rows(&mut client, &format!("EXPLAIN {sql}")).concat().join("\n");
        assert!(!plan.contains("<<->>"), "{plan}");
        assert_eq!(rows(&mut client, &sql).len(), 23, "{sql}");
    }
    // A condition that few rows meet beside a number that many do: the scan goes on to where they are.
    let far = nth(&mut client, &d, 19_000);
    let rare = format!("SELECT id FROM t WHERE id % 1000 = 0 AND {d} < '{far}' ORDER BY {d} LIMIT 10");
    assert!(plan_under(&mut client, "SET LOCAL enable_seqscan = off", &rare).contains("<<->>"));
    assert_eq!(rows_under(&mut client, "SET LOCAL enable_seqscan = off", &rare).len(), 10);
    // A sum of what is there is exact, and reads the table.
    let count = format!("SELECT count(*) FROM t WHERE {d} < '{r}'");
    assert_eq!(value(&mut client, &count), "23");
}

/// All rows below a number: those of all lists that have some, sorted, if the index is to be had for less than the table.
#[test]
fn without_a_limit() {
    let (_cluster, mut client, query) = clustered(20_000, L2, "lists = 100");
    let d = format!("v <-> '{query}'");
    let all = |r: &str| format!("SELECT id FROM t WHERE {d} < {r} ORDER BY {d}");
    let explain = |client: &mut Client, sql: &str| {
        rows(client, &format!("EXPLAIN (COSTS OFF) {sql}")).concat().join("\n")
    };
    for at in [0, 23, 150] {
        let sql = all(&format!("'{}'", nth(&mut client, &d, at)));
        let plan = explain(&mut client, &sql);
        assert!(plan.contains("Sort\n") && plan.contains("Index Cond: (v <<->> ROW("), "{at}: {plan}");
        let (found, exact) = (rows(&mut client, &sql), rows_under(&mut client, BY_SORTING, &sql));
        assert!(found.len() * 10 >= exact.len() * 9, "{at}: {} of {}", found.len(), exact.len());
        // In the exact order, whichever lists they are from.
        let mut rest = exact.iter();
        assert!(found.iter().all(|row| rest.any(|other| other == row)), "{at}");
    }
    for at in [5_000, 19_999] {
        let sql = all(&format!("'{}'", nth(&mut client, &d, at)));
        let plan = explain(&mut client, &sql);
        assert!(!plan.contains("<<->>"), "{at}: {plan}");
        assert_eq!(rows(&mut client, &sql).len(), at);
    }
    // Numbers that are no bound, and vectors that the planner does not know.
    for r in ["'NaN'", "'Infinity'", "(SELECT 0.1::float8)"] {
        assert!(!explain(&mut client, &all(r)).contains("<<->>"), "{r}");
    }
    assert_eq!(rows(&mut client, &all("NULL")).len(), 0);
    let r = nth(&mut client, &d, 23);
    client
        .batch_execute(
            "PREPARE near(vector, float8) AS SELECT id FROM t WHERE v <-> $1 < $2 ORDER BY v <-> $1",
        )
        .unwrap();
    for (mode, by_index) in [("force_custom_plan", true), ("force_generic_plan", false)] {
        client.batch_execute(&format!("SET plan_cache_mode = {mode}")).unwrap();
        let plan = explain(&mut client, &format!("EXECUTE near('{query}', '{r}')"));
        assert_eq!(plan.contains("<<->>"), by_index, "{mode}: {plan}");
    }
    // Of another length, the vector is refused when the query runs.
    let wrong = "SELECT id FROM t WHERE v <-> '[1,2]' < 1 ORDER BY v <-> '[1,2]'";
    assert_eq!(refused(&mut client, wrong).sqlstate, "22000");
}

/// Written by hand, which nobody need do, the sphere is a condition like others, whatever the order.
#[test]
fn a_sphere_written_by_hand() {
    let (_cluster, mut client, query) = clustered(2_000, COSINE, "");
    let r = nth(&mut client, &format!("v <=> '{query}'"), 23);
    for center in [format!("'{query}'::vector"), format!("(SELECT '{query}'::vector)")] {
        for order in [format!("v <=> '{query}'"), "v <=> (SELECT v FROM t WHERE id = 5)".to_string()] {
            for checked in ["NULL", "false"] {
                let sphere = format!("ROW({center}, '{r}'::float8, {checked})::vector_sphere");
                let sql = format!("SELECT id FROM t WHERE v <<=>> {sphere} ORDER BY {order}");
                assert_eq!(assert_alike(&mut client, &sql), 24, "{sql}");
            }
        }
    }
    let none = "SELECT id FROM t WHERE v <<=>> (SELECT NULL::vector_sphere) ORDER BY v <=> (SELECT v FROM t WHERE id = 5)";
    assert_eq!(assert_alike(&mut client, none), 0);
    // Who may not call the function need not.
    client
        .batch_execute(
            "REVOKE EXECUTE ON FUNCTION within_cosine_distance(vector, vector_sphere) FROM PUBLIC;
             CREATE ROLE other; GRANT SELECT ON t TO other; SET ROLE other",
        )
        .unwrap();
    let sql = format!("SELECT id FROM t WHERE v <=> '{query}' < '{r}' ORDER BY v <=> '{query}' LIMIT 50");
    assert_eq!(assert_alike(&mut client, &sql), 23);
}

#[test]
fn an_index_that_orders_by_estimates() {
    let (_cluster, mut client, query) = clustered(2_000, INNER_PRODUCT, "rerank = off");
    let d = format!("v <#> '{query}'");
    let r = nth(&mut client, &d, 100);
    let sql = format!("SELECT id FROM t WHERE {d} < '{r}' ORDER BY {d}");
    assert!(plan_under(&mut client, BY_WHOLE_INDEX, &sql).contains("Index Cond: (v <<#>> ROW("));
    let mut found = rows_under(&mut client, BY_WHOLE_INDEX, &sql);
    let mut expected = rows_under(&mut client, BY_SORTING, &sql);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 100);
}

/// A row that was changed while its lock was waited for is held against both conditions again.
#[test]
fn rows_that_change_meanwhile() {
    let (cluster, mut client, query) = clustered(500, L2, "");
    let d = format!("v <-> '{query}'");
    let r = nth(&mut client, &d, 1);
    let sql = format!("SELECT id FROM t WHERE {d} < '{r}' ORDER BY {d} LIMIT 50 FOR UPDATE");
    let nearest = rows_under(&mut client, BY_WHOLE_INDEX, &sql);
    assert_eq!(nearest.len(), 1);
    let id = nearest[0][0].clone();
    for (change, expected) in
        [("id = -1", vec![["-1"]]), ("v = l2_normalize(v) * array_fill(1000, ARRAY[32])::vector", vec![])]
    {
        let mut other = cluster.connect();
        other.batch_execute(&format!("BEGIN; UPDATE t SET {change} WHERE id IN ({id}, -1)")).unwrap();
        let (mut waiting, sql) = (cluster.connect(), sql.clone());
        let waiter = std::thread::spawn(move || rows_under(&mut waiting, BY_WHOLE_INDEX, &sql));
        wait_until("it waits", || {
            value(&mut client, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == "1"
        });
        other.batch_execute("COMMIT").unwrap();
        assert_eq!(waiter.join().unwrap(), expected, "{change}");
    }
}
