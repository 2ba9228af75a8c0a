//! When the planner takes the index, and that it never fails over it.

use postgres::{Client, SimpleQueryMessage};

use crate::cluster::{Cluster, refused, rows, value};
use crate::ivf::{
    BY_INDEX, BY_SORTING, COSINE, Clusters, INNER_PRODUCT, L2, METRICS, assert_sound, copy, found,
    make_index, make_table, plan_under, rows_under, search, text,
};

const NOTHING: &str = "SET LOCAL enable_seqscan = on";

/// Where pages have checksums, which since PostgreSQL 18 they have by default, a damaged one is read all the same.
const BELIEVE_PAGES: &str = "ignore_checksum_failure = on";

fn uses(client: &mut Client, settings: &str, sql: &str, index: &str) -> bool {
    plan_under(client, settings, sql).contains(&format!("Index Scan using {index} "))
}

#[test]
fn the_index_where_it_is_worth_it() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(41, 60, 64);
    make_table(&mut client, "large", &source.vectors(20_000));
    make_table(&mut client, "tiny", &source.vectors(20));
    client.batch_execute("ALTER TABLE large ADD kind int; UPDATE large SET kind = id % 100").unwrap();
    client.batch_execute("VACUUM FULL ANALYZE large").unwrap();
    client.batch_execute("ANALYZE large").unwrap();
    make_index(&mut client, "li", "large", L2, "");
    make_index(&mut client, "ti", "tiny", L2, "");
    let query = source.vector();
    let near = |table: &str, rest: &str| search(table, L2, &query, rest);
    for limit in [1, 10, 100] {
        let sql = near("large", &format!("LIMIT {limit}"));
        assert!(uses(&mut client, NOTHING, &sql, "li"), "{}", plan_under(&mut client, NOTHING, &sql));
        // A subquery is a query vector too, and so is a parameter.
        let sql = format!("SELECT id FROM large ORDER BY v <-> (SELECT v FROM tiny LIMIT 1) LIMIT {limit}");
        assert!(uses(&mut client, NOTHING, &sql, "li"));
    }
    for mode in ["force_generic_plan", "force_custom_plan"] {
        client
            .batch_execute(&format!(
                "SET plan_cache_mode = {mode};
                 PREPARE p(vector) AS SELECT id FROM large ORDER BY v <-> $1 LIMIT 10;"
            ))
            .unwrap();
        let plan = rows(&mut client, &format!("EXPLAIN EXECUTE p('{}')", text(&query))).concat().join("\n");
        assert!(plan.contains("Index Scan using li"), "{plan}");
        client.batch_execute("DEALLOCATE p").unwrap();
    }
    // A filter that keeps much, and one that keeps little.
    for condition in ["kind <> 3", "kind = 3", "v <-> '[QUERY]' < 100"] {
        let condition = condition.replace("[QUERY]", &text(&query));
        let sql = near(&format!("large WHERE {condition}"), "LIMIT 10");
        assert!(uses(&mut client, NOTHING, &sql, "li"), "{}", plan_under(&mut client, NOTHING, &sql));
    }
    // Everything in order, or few rows to begin with: reading the table is cheaper.
    for sql in [near("large", ""), near("tiny", "LIMIT 3"), near("tiny", ""), near("large", "LIMIT 19000")] {
        let plan = plan_under(&mut client, NOTHING, &sql);
        assert!(plan.contains("Seq Scan"), "{plan}");
    }
    // A better way to few rows is taken.
    client.batch_execute("CREATE INDEX large_id ON large (id)").unwrap();
    let sql = near("large WHERE id = 17", "LIMIT 10");
    assert!(!uses(&mut client, NOTHING, &sql, "li"), "{}", plan_under(&mut client, NOTHING, &sql));
    // More of the index costs more.
    let cost = |client: &mut Client, probes: i32| -> f64 {
        let settings = format!("SET LOCAL enable_seqscan = off; SET LOCAL ivf.probes = {probes}");
        let sql = format!("EXPLAIN {}", near("large", "LIMIT 10"));
        let plan = rows_under(client, &settings, &sql).concat().join("\n");
        let (_, rest) = plan.split_once("Limit  (cost=").unwrap();
        rest.split("..").next().unwrap().parse().unwrap()
    };
    let (one, ten, all) = (cost(&mut client, 1), cost(&mut client, 10), cost(&mut client, 32_768));
    assert!(one < ten && ten < all, "{one}, {ten}, {all}");
}

#[test]
fn a_partial_index_serves_its_condition() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(42, 30, 32);
    make_table(&mut client, "t", &source.vectors(10_000));
    client
        .batch_execute(
            "CREATE INDEX part ON t USING ivf (v vector_l2_ops) WITH (lists = 5) WHERE id % 10 = 3",
        )
        .unwrap();
    client.batch_execute("ANALYZE t").unwrap();
    let query = source.vector();
    let sql = search("t WHERE id % 10 = 3", L2, &query, "LIMIT 10");
    assert!(uses(&mut client, NOTHING, &sql, "part"));
    assert_eq!(value(&mut client, "SELECT rows FROM ivf_info('part')"), "1000");
    let off = "SET LOCAL enable_seqscan = off";
    for other in ["t", "t WHERE id % 10 = 4"] {
        let sql = search(other, L2, &query, "LIMIT 10");
        assert!(!uses(&mut client, off, &sql, "part"), "{}", plan_under(&mut client, off, &sql));
    }
    make_index(&mut client, "whole", "t", L2, "");
    assert!(uses(&mut client, NOTHING, &sql, "part"), "the smaller one serves better");
    // Rows that come into its condition and leave it.
    copy(&mut client, "t", 20_000, &source.vectors(1_000));
    client.batch_execute("UPDATE t SET id = id + 1 WHERE id > 20000 AND id % 10 IN (2, 3)").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    client.batch_execute("DROP INDEX whole").unwrap();
    assert_sound(&mut client, "part", "t", L2, "id % 10 = 3");
}

#[test]
fn no_plan_without_its_order() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    make_table(&mut client, "t", &Clusters::new(43, 10, 8).vectors(3_000));
    for metric in METRICS {
        make_index(&mut client, "i", "t", metric, "");
        let query = text(&[1.0; 8]);
        let mut others: Vec<String> = METRICS
            .iter()
            .filter(|other| **other != metric)
            .map(|other| search("t", *other, &[1.0; 8], "LIMIT 5"))
            .collect();
        others.extend(
            [
                "SELECT count(*) FROM t",
                "SELECT v FROM t",
                "SELECT * FROM t WHERE id = 3",
                "SELECT * FROM t WHERE v = 'QUERY'",
                "SELECT * FROM t WHERE v IS NULL",
                "SELECT * FROM t WHERE v OPERATOR 'QUERY' < 1",
                "SELECT * FROM t ORDER BY v LIMIT 5",
                "SELECT * FROM t ORDER BY v OPERATOR 'QUERY' DESC LIMIT 5",
                "SELECT * FROM t ORDER BY v <+> 'QUERY' LIMIT 5",
                "SELECT * FROM t ORDER BY id, v OPERATOR 'QUERY' LIMIT 5",
                "SELECT * FROM t ORDER BY v OPERATOR v LIMIT 5",
            ]
            .map(|sql| sql.replace("OPERATOR", metric.operator).replace("QUERY", &query)),
        );
        for sql in others {
            let plan = plan_under(&mut client, "SET LOCAL enable_seqscan = off", &sql);
            assert!(!plan.contains("using i") && !plan.contains("on i"), "{sql}\n{plan}");
            rows(&mut client, &format!("BEGIN; SET LOCAL enable_seqscan = off; {sql}; ROLLBACK"));
        }
        // Written the other way round it is the same distance.
        let q = format!("SELECT id FROM t ORDER BY '{query}' {} v LIMIT 5", metric.operator);
        assert!(uses(&mut client, "SET LOCAL enable_seqscan = off", &q, "i"));
        client.batch_execute("DROP INDEX i").unwrap();
    }
}

#[test]
fn planning_never_fails() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(44, 10, 8);
    make_table(&mut client, "filled", &source.vectors(3_000));
    client
        .batch_execute(
            "CREATE TABLE empty (id int, v vector(8)); CREATE TABLE analyzed (id int, v vector(8));
             CREATE UNLOGGED TABLE unlogged (id int, v vector(8)); ANALYZE analyzed;
             CREATE TABLE parts (id int, v vector(8)) PARTITION BY RANGE (id);
             CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (1000);
             CREATE TABLE part2 PARTITION OF parts FOR VALUES FROM (1000) TO (9000)",
        )
        .unwrap();
    let tables = ["filled", "empty", "analyzed", "unlogged", "parts"];
    for table in tables {
        for (metric, name) in [(L2, "l"), (INNER_PRODUCT, "p"), (COSINE, "c")] {
            make_index(&mut client, &format!("{table}_{name}"), table, metric, "lists = 3");
        }
    }
    copy(&mut client, "parts", 1, &source.vectors(3_000));
    let settings = [
        "ivf.probes = 0",
        "ivf.probes = 1",
        "ivf.probes = 32768",
        "ivf.max_probes = 1",
        "ivf.iterative_scan = off",
        "random_page_cost = 0",
        "seq_page_cost = 0",
        "cpu_operator_cost = 0",
        "random_page_cost = 1e300",
        "cpu_operator_cost = 1e300",
        "effective_cache_size = 1",
        "enable_indexscan = off",
        "enable_seqscan = off",
        "enable_sort = off",
        "enable_partitionwise_aggregate = on",
        "max_parallel_workers_per_gather = 8",
        "parallel_setup_cost = 0",
        "min_parallel_index_scan_size = 0",
        "plan_cache_mode = force_generic_plan",
        "cursor_tuple_fraction = 0",
        "jit_above_cost = 0",
        "constraint_exclusion = on",
    ];
    let query = source.vector();
    let mut statements = vec![];
    for table in tables {
        for metric in METRICS {
            for rest in [
                "",
                "LIMIT 1",
                "LIMIT 10",
                "LIMIT 0",
                "LIMIT NULL",
                "OFFSET 100000 LIMIT 5",
                "LIMIT 99999999999",
            ] {
                statements.push(search(table, metric, &query, rest));
                statements.push(search(&format!("{table} WHERE id = 5"), metric, &query, rest));
                statements.push(search(&format!("{table} WHERE false"), metric, &query, rest));
            }
        }
    }
    for setting in settings {
        // Planned under each, and each with the table scan forbidden.
        for also in ["", "SET LOCAL enable_seqscan = off"] {
            let explained: String = statements.iter().map(|sql| format!("EXPLAIN {sql};")).collect();
            let sql = format!("BEGIN; SET LOCAL {setting}; {also}; {explained} ROLLBACK");
            client.batch_execute(&sql).unwrap_or_else(|error| panic!("{setting}: {error:?}"));
        }
        for sql in statements.iter().step_by(7) {
            rows(&mut client, &format!("BEGIN; SET LOCAL {setting}; {sql}; ROLLBACK"));
        }
    }
    // Joins, unions and writes with such a search in them.
    for sql in [
        "SELECT * FROM filled a JOIN LATERAL (SELECT * FROM filled b ORDER BY a.v <-> b.v LIMIT 2) b ON true LIMIT 9",
        "(SELECT id FROM filled ORDER BY v <-> 'Q' LIMIT 3) UNION ALL (SELECT id FROM empty ORDER BY v <#> 'Q' LIMIT 3)",
        "DELETE FROM filled WHERE id IN (SELECT id FROM filled ORDER BY v <=> 'Q' LIMIT 3)",
        "UPDATE filled SET id = -1 WHERE id = (SELECT id FROM filled ORDER BY v <-> 'Q' LIMIT 1)",
        "WITH n AS MATERIALIZED (SELECT * FROM filled ORDER BY v <-> 'Q' LIMIT 30) SELECT count(*) FROM n",
        "SELECT id, rank() OVER (ORDER BY v <-> 'Q') FROM filled LIMIT 5",
        "SELECT id % 2, min(v <-> 'Q') FROM filled GROUP BY 1 ORDER BY 2",
    ] {
        let sql = sql.replace('Q', &text(&query));
        let sql = format!("BEGIN; SET LOCAL enable_seqscan = off; EXPLAIN ANALYZE {sql}; ROLLBACK");
        client.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// Stops the server, gives index `i` this content with some bytes overwritten, and starts it again.
fn damage(cluster: &mut Cluster, mut client: Client, content: &[u8], offset: usize, bytes: &[u8]) -> Client {
    let file = cluster.data().join(value(&mut client, "SELECT pg_relation_filepath('i')"));
    drop(client);
    cluster.stop("fast");
    let mut content = content.to_vec();
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
    std::fs::write(file, content).unwrap();
    cluster.boot();
    cluster.connect()
}

/// A damaged index says so, with the remedy, and keeps nobody from the table.
#[test]
fn damage_is_reported_and_planning_survives_it() {
    let mut cluster = Cluster::with_settings(&[BELIEVE_PAGES]);
    let mut client = cluster.client();
    let vectors = Clusters::new(45, 20, 32).vectors(3_000);
    make_table(&mut client, "t", &vectors);
    make_index(&mut client, "i", "t", L2, "lists = 20");
    client.batch_execute("CHECKPOINT").unwrap();
    let near = search("t", L2, &vectors[5], "LIMIT 10");
    let exact = found(&mut client, BY_SORTING, &near);
    let file = cluster.data().join(value(&mut client, "SELECT pg_relation_filepath('i')"));
    let sound = std::fs::read(file).unwrap();

    // The metapage: overwritten, of another version, all zeros. What Postgres keeps of a page are its first 24 bytes.
    for (offset, bytes) in [(24, vec![0xa5; 200]), (24 + 8, vec![99, 0, 0, 0]), (0, vec![0; 8192])] {
        client = damage(&mut cluster, client, &sound, offset, &bytes);
        client.batch_execute(&format!("EXPLAIN {near}")).unwrap();
        client.batch_execute("SET enable_seqscan = off").unwrap();
        client.batch_execute(&format!("EXPLAIN {near}")).unwrap();
        let is_damaged = bytes != [99, 0, 0, 0];
        if !is_damaged {
            // Queries do without an index of another format.
            assert!(!plan_under(&mut client, BY_INDEX, &near).contains("Index Scan"));
            assert_eq!(found(&mut client, BY_INDEX, &near), exact);
        }
        let mut refused_statements =
            vec!["INSERT INTO t SELECT 1, v FROM t LIMIT 1", "SELECT * FROM ivf_info('i')"];
        refused_statements.extend(is_damaged.then_some(&*near));
        for sql in refused_statements {
            let refusal = refused(&mut client, sql);
            assert!(refusal.sqlstate == "XX002" && refusal.hint.contains("REINDEX"), "{offset}: {refusal:?}");
        }
        // The table is there without the index.
        assert_eq!(found(&mut client, BY_SORTING, &near), exact);
        client.batch_execute("REINDEX INDEX i").unwrap();
        assert_sound(&mut client, "i", "t", L2, "true");
    }

    // Any other page: an error or an answer, never a crash; and ivf_check says it.
    let (mut noticed, tried) = (0, 24);
    for number in 0..tried {
        let page = 1 + number * (sound.len() / 8192 - 1) / tried;
        let (offset, bytes) = match number % 4 {
            0 => (page * 8192, vec![0; 8192]),
            1 => (page * 8192 + 24, vec![0xff; 64]),
            2 => (page * 8192 + 24 + 8, vec![0x5a; 64]),
            _ => (page * 8192 + 24, sound[24..24 + 512].to_vec()),
        };
        client = damage(&mut cluster, client, &sound, offset, &bytes);
        client.batch_execute("SET enable_seqscan = off; SET ivf.probes = 32768").unwrap();
        let mut outcome = |sql: &str| match client.simple_query(sql) {
            Ok(messages) => messages.iter().filter(|m| matches!(m, SimpleQueryMessage::Row(_))).count(),
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("the server crashed: {error}"));
                // A row's address is the table's business: one beyond its end is an error of reading the table, whose code
                // is that of whatever failed before.
                let address = error.message().starts_with("could not open file");
                assert!(address || error.code().code() == "XX002", "page {page}, {number}, {sql}: {error:?}");
                1
            }
        };
        noticed += outcome("SELECT * FROM ivf_check('i')").min(1);
        let everything = "SELECT id FROM t ORDER BY v <-> (SELECT NULL::vector)";
        for sql in
            [&near, everything, "INSERT INTO t SELECT 1, v FROM t LIMIT 50", "VACUUM (INDEX_CLEANUP on) t"]
        {
            outcome(sql);
        }
    }
    // A refinement record holds nothing that could contradict the rest.
    assert!(noticed >= tried * 2 / 3, "ivf_check noticed {noticed} of {tried}");
    let log = cluster.log();
    assert!(!log.contains("PANIC") && !log.contains("terminated by signal"), "{log}");
}

/// Where the scan itself compares a row with its code, it says which index is wrong.
#[test]
fn an_index_of_other_rows_is_reported() {
    let mut cluster = Cluster::with_settings(&[BELIEVE_PAGES]);
    let mut client = cluster.client();
    let mut source = Clusters::new(47, 5, 32);
    make_table(&mut client, "t", &source.vectors(500));
    make_index(&mut client, "i", "t", L2, "lists = 1");
    client.batch_execute("CHECKPOINT").unwrap();
    let file = cluster.data().join(value(&mut client, "SELECT pg_relation_filepath('i')"));
    let of_other_rows = std::fs::read(file).unwrap();
    client.batch_execute("TRUNCATE t").unwrap();
    copy(&mut client, "t", 1, &source.vectors(500));
    client = damage(&mut cluster, client, &of_other_rows, 0, &[]);
    client.batch_execute("SET enable_seqscan = off").unwrap();
    let near = search("t", L2, &source.vector(), "LIMIT 100").replacen("SELECT ", "SELECT ctid, ", 1);
    let refusal = refused(&mut client, &near);
    assert_eq!((refusal.sqlstate.as_str(), refusal.hint.as_str()), ("XX002", "Please REINDEX it."));
    assert!(refusal.message.starts_with("index \"i\" is corrupt: a row's distance is "), "{refusal:?}");
    client.batch_execute("REINDEX INDEX i").unwrap();
    client.batch_execute(&near).unwrap();
}

/// A change that fails when it has already written to one page leaves that page as it was.
#[test]
fn half_a_change_is_none() {
    let mut cluster = Cluster::with_settings(&[BELIEVE_PAGES]);
    let mut client = cluster.client();
    let mut source = Clusters::new(46, 5, 32);
    make_table(&mut client, "t", &source.vectors(30));
    make_index(&mut client, "i", "t", L2, "lists = 1");
    // Where the metapage names the first free page, after Postgres's header: not yet, then the page of the mean.
    let (offset, none, mean) = (24 + 60, [0, 0, 0, 0], 1u32.to_ne_bytes());
    let mut set_first_free = |client: Client, bytes: &[u8]| {
        let mut client = client;
        client.batch_execute("CHECKPOINT").unwrap();
        let file = cluster.data().join(value(&mut client, "SELECT pg_relation_filepath('i')"));
        let content = std::fs::read(file).unwrap();
        damage(&mut cluster, client, &content, offset, bytes)
    };
    client = set_first_free(client, &mean);
    // A row takes a lane, and then a page for its record, sooner or later.
    let mut inserted = 0;
    let refusal = loop {
        assert!(inserted < 1_000, "no page was needed");
        let (id, vector) = (100 + inserted, text(&source.vector()));
        let insert = format!("INSERT INTO t (id, v) VALUES ({id}, '{vector}')");
        match client.batch_execute(&insert) {
            Ok(()) => inserted += 1,
            Err(_) => break refused(&mut client, &insert),
        }
    };
    assert!(refusal.message.contains("block 1 is not a Free page"), "{refusal:?}");
    client = set_first_free(client, &none);
    assert_eq!(value(&mut client, "SELECT rows FROM ivf_info('i')"), (30 + inserted).to_string());
    assert_sound(&mut client, "i", "t", L2, "true");
}
