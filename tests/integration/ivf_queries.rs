//! The ways in which a query may want its neighbours: filtered, bit by bit, again and again, by expression.

use postgres::Client;
use postgres::types::ToSql;

use crate::cluster::{Cluster, refused, rows, value};
use crate::ivf::{
    BY_INDEX, BY_SORTING, BY_WHOLE_INDEX, COSINE, Clusters, L2, METRICS, assert_same_answer, copy, found,
    make_index, make_table, plan_under, problems, recall, rows_under, search, text,
};

/// Ten rows of twenty thousand fulfil the condition, wherever they are: the scan goes on until it has them.
#[test]
fn a_filter_gets_its_ten_rows() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(71, 100, 24);
    make_table(&mut client, "t", &source.vectors(20_000));
    for metric in METRICS {
        make_index(&mut client, "i", "t", metric, "lists = 100");
        for number in 0..20 {
            let table = format!("t WHERE id % 2000 = {number}");
            let sql = search(&table, metric, &source.vector(), "LIMIT 10");
            let exact = found(&mut client, BY_SORTING, &sql);
            for settings in ["", "SET LOCAL ivf.probes = 1", "SET LOCAL ivf.probes = 7"] {
                let settings = format!("{BY_INDEX}; {settings}");
                assert!(plan_under(&mut client, &settings, &sql).contains("Index Scan using i"));
                let answer = found(&mut client, &settings, &sql);
                // All ten there are: the same rows, if not in the same order.
                let mut answer: Vec<i32> = answer.iter().map(|row| row.id).collect();
                let mut exact: Vec<i32> = exact.iter().map(|row| row.id).collect();
                answer.sort();
                exact.sort();
                assert_eq!((answer.len(), &answer), (10, &exact), "{metric:?} {settings}");
            }
        }
        // As far as the settings let it.
        let count = |client: &mut Client, settings: &str| {
            let sql = format!("SELECT id FROM t ORDER BY v {} '{}'", metric.operator, text(&[0.1; 24]));
            let answer = rows_under(client, &format!("{BY_INDEX}; {settings}"), &sql).concat();
            let mut once = answer.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), answer.len(), "{settings}: a row comes twice");
            answer.len()
        };
        assert_eq!(count(&mut client, "SET LOCAL ivf.probes = 1"), 20_000);
        let off = "SET LOCAL ivf.iterative_scan = off; SET LOCAL ivf.probes";
        let (one, ten, all) = (
            count(&mut client, &format!("{off} = 1")),
            count(&mut client, &format!("{off} = 10")),
            count(&mut client, &format!("{off} = 100")),
        );
        assert!(one > 0 && one < ten && ten < 10_000 && all == 20_000, "{one} {ten} {all}");
        let bounded =
            |probes, most| format!("SET LOCAL ivf.probes = {probes}; SET LOCAL ivf.max_probes = {most}");
        assert_eq!(count(&mut client, &bounded(1, 1)), one);
        assert_eq!(count(&mut client, &bounded(1, 10)), ten);
        assert_eq!(count(&mut client, &bounded(1, 100)), 20_000);
        client.batch_execute("DROP INDEX i").unwrap();
    }
}

/// Within what was asked for at once the order is exact; the further lists come after it, each in its own order.
#[test]
fn filtered_answers_are_good() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(72, 100, 24).spread(1.0);
    make_table(&mut client, "t", &source.vectors(20_000));
    make_index(&mut client, "i", "t", L2, "lists = 100");
    let queries = source.vectors(20);
    // Measured: 0.84, 0.56, and 0.49 for the last.
    for (condition, floor) in [("id % 10 = 1", 0.78), ("id % 100 = 1", 0.5)] {
        let table = format!("t WHERE {condition}");
        let found = recall(&mut client, &table, L2, &queries, 10, "SET LOCAL ivf.probes = 10");
        assert!(found >= floor, "{condition}: recall@10 is {found}");
    }
    // A LIMIT beyond what the probed lists hold.
    let found = recall(&mut client, "t", L2, &queries[..3], 3_000, "SET LOCAL ivf.probes = 5");
    assert!(found > 0.42, "LIMIT 3000: {found}");
}

#[test]
fn cursors() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(73, 30, 16);
    make_table(&mut client, "t", &source.vectors(3_000));
    make_index(&mut client, "i", "t", L2, "lists = 20");
    let sql = search("t", L2, &source.vector(), "");
    client.batch_execute("SET enable_seqscan = off; SET enable_sort = off; SET ivf.probes = 3").unwrap();
    let whole = rows(&mut client, &sql);
    assert_eq!(whole.len(), 3_000);
    for (kind, also) in
        [("NO SCROLL CURSOR", ""), ("SCROLL CURSOR", ""), ("CURSOR WITH HOLD", "COMMIT; BEGIN")]
    {
        client.batch_execute(&format!("BEGIN; DECLARE c {kind} FOR {sql}; {also}")).unwrap();
        let mut parts = vec![];
        for size in [0, 1, 10, 1, 500, 3_000, 10] {
            parts.extend(rows(&mut client, &format!("FETCH {size} FROM c")).into_iter().filter(|_| size > 0));
        }
        // FETCH 0 gives the row again at which the cursor is, and there is none at the start.
        assert!(parts == whole, "{kind}");
        if kind == "SCROLL CURSOR" {
            let mut back = rows(&mut client, "FETCH BACKWARD ALL FROM c");
            back.reverse();
            assert!(back == whole, "backwards");
            assert_eq!(rows(&mut client, "FETCH ABSOLUTE 7 FROM c"), [whole[6].clone()]);
        }
        client.batch_execute("CLOSE c; COMMIT").unwrap();
    }
    // Two at once in one session, and one that ends early.
    client.batch_execute(&format!("BEGIN; DECLARE a CURSOR FOR {sql}; DECLARE b CURSOR FOR {sql}")).unwrap();
    for at in 0..50 {
        assert_eq!(rows(&mut client, "FETCH 1 FROM a"), [whole[at].clone()]);
        assert_eq!(rows(&mut client, "FETCH 2 FROM b"), whole[2 * at..2 * at + 2]);
    }
    refused(&mut cluster.connect(), "SELECT 1/0");
    client.batch_execute("SAVEPOINT s").unwrap();
    client.batch_execute("SELECT 1/0").unwrap_err();
    client.batch_execute("ROLLBACK TO s").unwrap();
    assert_eq!(rows(&mut client, "FETCH 1 FROM a"), [whole[50].clone()]);
    client.batch_execute("COMMIT").unwrap();
}

/// Between two rows of a scan, the pages that it has read and will read again give way to others.
#[test]
fn pages_are_evicted_under_a_scan() {
    let cluster = Cluster::with_settings(&["shared_buffers = '1MB'"]);
    let mut client = cluster.client();
    let mut source = Clusters::new(78, 30, 64);
    make_table(&mut client, "t", &source.vectors(5_000));
    make_index(&mut client, "i", "t", L2, "lists = 20");
    client
        .batch_execute(
            "CREATE TABLE others AS SELECT n AS id, repeat('x', 1000) AS pad FROM generate_series(1, 3000) n;
             CREATE INDEX ON others (id); ANALYZE others;
             SET enable_seqscan = off; SET enable_sort = off; SET ivf.probes = 3",
        )
        .unwrap();
    for _ in 0..3 {
        let sql = search("t", L2, &source.vector(), "LIMIT 300");
        let whole = rows(&mut client, &sql);
        client.batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR {sql}")).unwrap();
        let mut parts = vec![];
        for _ in 0..30 {
            parts.extend(rows(&mut client, "FETCH 10 FROM c"));
            // Not by a sequential scan, which would keep to a few buffers.
            assert_eq!(value(&mut client, "SELECT count(pad) FROM others WHERE id > 0"), "3000");
        }
        assert!(parts == whole);
        client.batch_execute("COMMIT").unwrap();
    }
}

/// Inner sides of nested loops, functions, prepared statements, workers: always the same ten.
#[test]
fn again_and_again() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(74, 30, 16);
    make_table(&mut client, "t", &source.vectors(4_000));
    make_table(&mut client, "q", &source.vectors(40));
    client.batch_execute("INSERT INTO q VALUES (41, NULL), (42, (SELECT v FROM t WHERE id = 9))").unwrap();
    make_index(&mut client, "i", "t", L2, "lists = 30");
    let lateral = "SELECT q.id, n.id FROM q LEFT JOIN LATERAL
                     (SELECT id, v <-> q.v AS d FROM t ORDER BY v <-> q.v LIMIT 10) n ON q.v IS NOT NULL
                   ORDER BY q.id, n.d, n.id";
    let by_index =
        "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = off; SET LOCAL ivf.probes = 30";
    let plan = plan_under(&mut client, by_index, lateral);
    assert!(plan.contains("Nested Loop") && plan.contains("Index Scan using i"), "{plan}");
    let exact = rows_under(&mut client, BY_SORTING, lateral);
    assert_eq!(exact.len(), 41 * 10 + 1);
    assert_eq!(rows_under(&mut client, by_index, lateral), exact);
    // A scan for NULL between two others.
    let null = lateral.replace("ON q.v IS NOT NULL", "ON true");
    assert_eq!(rows_under(&mut client, by_index, &null).len(), 42 * 10);
    let correlated = "SELECT q.id, (SELECT t.id FROM t WHERE t.id <> q.id ORDER BY t.v <-> q.v LIMIT 1)
                        FROM q WHERE v IS NOT NULL ORDER BY 1";
    assert_eq!(
        rows_under(&mut client, by_index, correlated),
        rows_under(&mut client, BY_SORTING, correlated)
    );
    // Memoize and materialised inner sides rescan in their own ways.
    for setting in ["enable_memoize = off", "enable_material = off", "work_mem = '64kB'"] {
        let settings = format!("{by_index}; SET LOCAL {setting}");
        assert_eq!(rows_under(&mut client, &settings, lateral), exact, "{setting}");
    }

    let workers = "SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0;
                   SET LOCAL min_parallel_table_scan_size = 0; SET LOCAL min_parallel_index_scan_size = 0;
                   SET LOCAL max_parallel_workers_per_gather = 2";
    let version: i32 = value(&mut client, "SHOW server_version_num").parse().unwrap();
    let forced = if version < 160_000 { "force_parallel_mode" } else { "debug_parallel_query" };
    for settings in [workers.to_string(), format!("{workers}; SET LOCAL {forced} = on")] {
        let settings = format!("{by_index}; {settings}");
        assert_eq!(rows_under(&mut client, &settings, lateral), exact, "{settings}");
        let near = search("t", L2, &[0.3; 16], "LIMIT 10");
        let one = found(&mut client, BY_SORTING, &near);
        assert_same_answer(
            &one,
            &found(&mut client, &format!("{BY_WHOLE_INDEX}; {settings}"), &near),
            true,
            "workers",
        );
    }

    let near = |query: &str| {
        format!("SELECT array_agg(id) FROM (SELECT id FROM t ORDER BY v <-> {query} LIMIT 10) s")
    };
    client
        .batch_execute(&format!(
            "SET enable_seqscan = off; SET ivf.probes = 30;
             CREATE FUNCTION near(query vector) RETURNS int[] LANGUAGE sql STABLE AS $$ {} $$;
             CREATE FUNCTION near_plpgsql(query vector) RETURNS int[] LANGUAGE plpgsql STABLE AS $$
               DECLARE ids int[] := '{{}}'; r record;
               BEGIN
                 FOR r IN SELECT id FROM t ORDER BY v <-> query LOOP
                   ids := ids || r.id;
                   EXIT WHEN array_length(ids, 1) = 10;
                 END LOOP;
                 RETURN ids;
               END $$",
            near("query")
        ))
        .unwrap();
    let disagree = "SELECT count(*) FROM q WHERE v IS NOT NULL AND near(v) <> near_plpgsql(v)";
    for _ in 0..3 {
        assert_eq!(value(&mut client, disagree), "0");
    }
    for mode in ["force_generic_plan", "force_custom_plan", "auto"] {
        client.batch_execute(&format!("SET plan_cache_mode = {mode}")).unwrap();
        let statement = client.prepare(&near("$1::text::vector")).unwrap();
        for id in [3, 5, 3, 42, 8, 9, 10, 11] {
            let vector = value(&mut client, &format!("SELECT v FROM q WHERE id = {id}"));
            let expected = value(&mut client, &format!("SELECT near(v)::text FROM q WHERE id = {id}"));
            let parameters: [&(dyn ToSql + Sync); 1] = [&vector];
            let ids: Vec<i32> = client.query_one(&statement, &parameters).unwrap().get(0);
            let ids: Vec<String> = ids.iter().map(i32::to_string).collect();
            assert_eq!(format!("{{{}}}", ids.join(",")), expected, "{mode}");
        }
    }
}

/// Distances that the planner shows are the operator's, and what EXPLAIN says of a scan.
#[test]
fn explain_shows_the_order() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    make_table(&mut client, "t", &Clusters::new(75, 30, 16).vectors(3_000));
    make_index(&mut client, "i", "t", COSINE, "");
    let sql = format!(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {}",
        search("t", COSINE, &[0.5; 16], "LIMIT 3")
    );
    let plan = rows_under(&mut client, BY_INDEX, &sql).concat().join("\n");
    assert!(plan.contains("Index Scan using i on t (actual rows=3"), "{plan}");
    assert!(plan.contains("Order By: (v <=> "), "{plan}");
    // One scan is counted, and the rows that it fetches from the table: little more than those that it returns.
    let near = search("t", COSINE, &[0.5; 16], "LIMIT 3");
    let counted = "SELECT idx_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 't'";
    let mut client = cluster.connect();
    let counts = rows_under(&mut client, BY_INDEX, &format!("{near}; {counted}")).pop().unwrap();
    let fetched: u32 = counts[1].parse().unwrap();
    assert!(counts[0] == "1" && (3..30).contains(&fetched), "{counts:?}");
}

/// Rows that the executor has sorted have lost their addresses on many servers; whoever asks for them gets them in order
/// and right.
#[test]
fn rows_have_their_addresses() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    for (metric, dims) in METRICS.into_iter().zip([16, 24, 40]) {
        let mut source = Clusters::new(76, 30, dims);
        make_table(&mut client, "t", &source.vectors(3_000));
        make_index(&mut client, "i", "t", metric, "lists = 8, bits = 2");
        // Rows whose address the index does not know: it has the head of their chain.
        client
            .batch_execute("ALTER TABLE t SET (fillfactor = 50); UPDATE t SET id = -id WHERE id % 7 = 0")
            .unwrap();
        client
            .batch_execute(
                "DELETE FROM t WHERE id % 5 = 0; CREATE TABLE addresses AS SELECT id, ctid::text AS address FROM t",
            )
            .unwrap();
        let query = source.vector();
        let near = search("t", metric, &query, "LIMIT 100");
        let plain = rows_under(&mut client, BY_WHOLE_INDEX, &near);
        let with_ctid = near.replacen("SELECT ", "SELECT ctid, ", 1);
        assert!(plan_under(&mut client, BY_WHOLE_INDEX, &with_ctid).contains("Index Scan using i "));
        let found = rows_under(&mut client, BY_WHOLE_INDEX, &with_ctid);
        let addresses: std::collections::HashMap<String, String> =
            rows(&mut client, "SELECT * FROM addresses")
                .into_iter()
                .map(|row| (row[0].clone(), row[1].clone()))
                .collect();
        for (row, plain) in found.iter().zip(&plain) {
            assert_eq!(addresses[&row[1]], row[0], "{metric:?}");
            assert_eq!(row[1..], plain[..], "{metric:?}");
        }
        assert_eq!(found.len(), 100);
        // By their addresses rows are locked, changed and removed.
        let ids: Vec<&str> = plain.iter().map(|row| &*row[0]).collect();
        let locked = rows_under(&mut client, BY_WHOLE_INDEX, &format!("{near} FOR UPDATE"));
        assert_eq!(locked, plain);
        let nearest = near.replacen("SELECT ", "SELECT ctid AS address, ", 1);
        let update =
            format!("UPDATE t SET id = t.id FROM ({nearest}) n WHERE t.ctid = n.address RETURNING t.id");
        let mut updated = rows_under(&mut client, BY_WHOLE_INDEX, &update).concat();
        let delete = format!("DELETE FROM t USING ({nearest}) n WHERE t.ctid = n.address RETURNING t.id");
        let mut deleted = rows_under(&mut client, BY_WHOLE_INDEX, &delete).concat();
        let mut expected: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
        for list in [&mut expected, &mut updated, &mut deleted] {
            list.sort();
        }
        assert_eq!(updated, expected);
        assert_eq!(deleted, expected);
        // A function, a cursor that goes over rows as it locks them, and rescans with other queries.
        client
            .batch_execute(&format!(
                "SET enable_seqscan = off; SET enable_sort = off; SET ivf.probes = 8;
                 DO $$ DECLARE r record; n int := 0; BEGIN
                   FOR r IN {near} FOR UPDATE LOOP n := n + 1; END LOOP;
                   IF n <> 100 THEN RAISE 'only % rows', n; END IF; END $$;
                 BEGIN; DECLARE c CURSOR FOR SELECT id FROM t ORDER BY v {} '{}' FOR UPDATE; MOVE 20 IN c;
                 UPDATE t SET id = 777777 WHERE CURRENT OF c; COMMIT",
                metric.operator,
                text(&query),
            ))
            .unwrap();
        assert_eq!(value(&mut client, "SELECT count(*) FROM t WHERE id = 777777"), "1");
        let each = format!(
            "SELECT count(*), count(*) FILTER (WHERE t.id = n.id) FROM (SELECT v AS q FROM t LIMIT 20) q,
               LATERAL (SELECT ctid AS address, id FROM t ORDER BY v {} q.q LIMIT 5) n LEFT JOIN t ON t.ctid = n.address",
            metric.operator
        );
        assert_eq!(rows(&mut client, &each), [["100", "100"]]);
        client.batch_execute("RESET ALL; DROP TABLE t, addresses").unwrap();
    }
}

/// An index on what a function makes of the row: the function is called for each row that is written and, as the sorted
/// distance is a column of the scan's output, which Postgres computes, for each that is returned; for no other.
#[test]
fn expressions_are_not_computed_by_scans() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE SEQUENCE calls;
             CREATE FUNCTION counted(id int) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS $$
               BEGIN
                 PERFORM nextval('public.calls');
                 RETURN ARRAY[sin(id), cos(id), sin(id * 1.7), cos(id * 1.7), id % 10]::public.vector(5);
               END $$;
             CREATE TABLE t (id int);
             INSERT INTO t SELECT generate_series(1, 2000);
             CREATE INDEX i ON t USING ivf ((counted(id)::vector(5)) vector_l2_ops) WITH (lists = 10);
             ANALYZE t",
        )
        .unwrap();
    let calls = |client: &mut Client| value(client, "SELECT last_value FROM calls").parse::<u64>().unwrap();
    let query = "'[0.1,0.2,0.3,0.4,5]'";
    let near = |rest: &str| format!("SELECT id FROM t ORDER BY counted(id)::vector(5) <-> {query} {rest}");
    let before = calls(&mut client);
    assert!(plan_under(&mut client, BY_INDEX, &near("LIMIT 10")).contains("Index Scan using i"));
    let answer = rows_under(&mut client, BY_WHOLE_INDEX, &near("LIMIT 10"));
    assert_eq!(answer.len(), 10);
    assert_eq!(calls(&mut client), before + 10, "a scan computed the expression");
    // The order of the codes is nearly that of the distances: the ten are among the nearest dozen.
    let exact = rows_under(&mut client, BY_SORTING, &near("LIMIT 13"));
    assert!(answer.iter().all(|row| exact.contains(row)), "{answer:?} {exact:?}");
    // Written rows cost one call each, removed rows none.
    let before = calls(&mut client);
    client.batch_execute("INSERT INTO t SELECT generate_series(3001, 3100)").unwrap();
    assert_eq!(calls(&mut client), before + 100);
    client.batch_execute("DELETE FROM t WHERE id <= 1000").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    assert_eq!(calls(&mut client), before + 100);
    assert_eq!(rows_under(&mut client, BY_WHOLE_INDEX, &near("")).len(), 1_100);
    // Whoever wants the exact order pays for it.
    client.batch_execute("ALTER INDEX i SET (rerank = on)").unwrap();
    let before = calls(&mut client);
    let answer = rows_under(&mut client, BY_WHOLE_INDEX, &near("LIMIT 10"));
    assert!(calls(&mut client) >= before + 20, "without a call for the order, how can it be exact?");
    assert_eq!(answer, rows_under(&mut client, BY_SORTING, &near("LIMIT 10")));
}

/// Search by text without a column of vectors: `embed` in the index, its model needed for the query alone.
#[test]
fn an_index_on_embed() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, body text);
             INSERT INTO docs SELECT i, 'text number ' || i || repeat(' word', i % 7) FROM generate_series(1, 1000) i;
             INSERT INTO docs VALUES (1001, NULL), (1002, ''), (1003, 'a quick brown fox');
             CREATE INDEX i ON docs USING ivf ((embed('tiny-bert', body)) vector_cosine_ops) WITH (lists = 10);
             CREATE INDEX j ON docs USING ivf ((embed('tiny-bert', body)::vector(32)) vector_ip_ops) WITH (lists = 10);
             ANALYZE docs",
        )
        .unwrap();
    assert_eq!(value(&mut client, "SELECT dimensions FROM ivf_info('i')"), "32");
    let texts = "SELECT count(embed('tiny-bert', body)) FROM docs";
    let indexed = value(&mut client, texts);
    assert_eq!(value(&mut client, "SELECT rows FROM ivf_info('i')"), indexed);
    let by_text = "SELECT id FROM docs
                     ORDER BY embed('tiny-bert', body) <=> embed('tiny-bert', 'a quick brown fox') LIMIT 1";
    assert!(plan_under(&mut client, "SET LOCAL enable_seqscan = on", by_text).contains("Index Scan using i"));
    assert_eq!(value(&mut client, by_text), "1003");
    // Without the model a new session can embed nothing; what vacuum and the checks do needs none of it.
    std::fs::rename(cluster.models().join("tiny-bert"), cluster.models().join("gone")).unwrap();
    let mut session = cluster.connect();
    session.batch_execute("DELETE FROM docs WHERE id < 100").unwrap();
    session.batch_execute("VACUUM docs").unwrap();
    assert_eq!(problems(&mut session, "i"), [""; 0]);
    assert_eq!(refused(&mut session, "INSERT INTO docs VALUES (1, 'needs the model')").sqlstate, "42704");
    std::fs::rename(cluster.models().join("gone"), cluster.models().join("tiny-bert")).unwrap();
    let mut session = cluster.connect();
    session.batch_execute("SET enable_seqscan = off; INSERT INTO docs VALUES (1, 'there it is')").unwrap();
    for (expression, operator) in
        [("embed('tiny-bert', body)", "<=>"), ("embed('tiny-bert', body)::vector(32)", "<#>")]
    {
        let near = format!(
            "SELECT id FROM docs ORDER BY {expression} {operator} embed('tiny-bert', 'there it is') LIMIT 20"
        );
        let answer = rows(&mut session, &near);
        assert!(answer.len() == 20 && answer[0] == ["1"], "{answer:?}");
    }
}

/// An index from before there was anything to learn from: rows come later, by the thousand, and are found.
#[test]
fn an_index_on_an_empty_table_fills() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.batch_execute("CREATE TABLE t (id int, v vector(32))").unwrap();
    for metric in METRICS {
        make_index(&mut client, &format!("i_{}", metric.opclass), "t", metric, "");
    }
    let mut source = Clusters::new(76, 50, 32);
    copy(&mut client, "t", 1, &source.vectors(5_000));
    client.batch_execute("ANALYZE t").unwrap();
    let queries = source.vectors(10);
    for metric in METRICS {
        let found = recall(&mut client, "t", metric, &queries, 10, "SET LOCAL ivf.probes = 0");
        assert!(found > 0.95, "{metric:?}: recall@10 is {found}");
        crate::ivf::assert_sound(&mut client, &format!("i_{}", metric.opclass), "t", metric, "true");
    }
}
