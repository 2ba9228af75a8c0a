//! Columns beside the vector: conditions on them are the index's, and the answers are those of sorting.

use postgres::Client;

use crate::cluster::{Cluster, refused, rows, value, wait_until};
use crate::ivf::{
    BY_INDEX, BY_SORTING, BY_WHOLE_INDEX, Clusters, Random, copy, make_table, plan_under, problems,
    rows_under, text,
};

/// A column: its name and type, values that are different, and values of other types that it is compared with.
struct Column {
    name: &'static str,
    type_: &'static str,
    values: &'static [&'static str],
    others: &'static [&'static str],
    has_order: bool,
}

const fn ordered(
    name: &'static str,
    type_: &'static str,
    values: &'static [&'static str],
    others: &'static [&'static str],
) -> Column {
    Column { name, type_, values, others, has_order: true }
}

const fn hashed(name: &'static str, type_: &'static str, values: &'static [&'static str]) -> Column {
    Column { name, type_, values, others: &[], has_order: false }
}

const COLUMNS: [Column; 15] = [
    ordered("b", "bool", &["true", "false"], &[]),
    ordered("i2", "int2", &["-32768", "-1", "0", "7", "32767"], &["7", "40000", "-9000000000"]),
    ordered("i4", "int4", &["-2147483648", "-1", "0", "7", "2147483647"], &["'7'::int2", "9000000000"]),
    ordered("i8", "int8", &["-9223372036854775808", "0", "7", "9223372036854775807"], &["7", "'7'::int2"]),
    ordered("o", "oid", &["0", "7", "2147483648", "4294967295"], &[]),
    ordered(
        "d",
        "date",
        &["-infinity", "4713-01-01 BC", "2026-03-28", "2026-03-29", "2026-03-30", "infinity"],
        &["'2026-03-29'::timestamp", "'2026-03-29 12:00+00'::timestamptz", "'infinity'::timestamptz"],
    ),
    ordered(
        "ts",
        "timestamp",
        &["-infinity", "2026-03-29 01:59:59.999999", "2026-03-29 02:30", "2026-03-29 03:00", "infinity"],
        &["'2026-03-29'::date", "'2026-03-29 01:30+00'::timestamptz", "'-infinity'::date"],
    ),
    ordered(
        "tz",
        "timestamptz",
        &["-infinity", "2026-03-28 23:00+00", "2026-03-29 01:00+00", "2026-10-25 00:30+00", "infinity"],
        &["'2026-03-29'::date", "'2026-03-29 02:30'::timestamp", "'5874897-12-31'::date"],
    ),
    ordered("f4", "float4", &["-Infinity", "-1.1", "0", "-0", "1e-45", "1.1", "NaN"], &["'1.1'::float8"]),
    ordered("f8", "float8", &["-Infinity", "-1.1", "0", "-0", "5e-324", "1.1", "NaN"], &["'1.1'::float4"]),
    hashed("u", "uuid", &["01990000-0000-7000-8000-000000000001", "01990000-0000-7000-8000-000000000002"]),
    hashed("s", "text", &["", "a", "A", "ä", "a "]),
    hashed("vc", "varchar(9)", &["", "a", "a "]),
    hashed("c", "char(5)", &["", "a", "b  "]),
    hashed("e", "mood", &["glad", "sad", "so-so"]),
];

/// A cluster with a table `t` that has all of the columns, a tenth of their values NULL, and an index on them.
fn filled(rows: usize) -> (Cluster, Client, String) {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(91, 30, 16);
    make_table(&mut client, "raw", &source.vectors(rows));
    let columns = COLUMNS.map(|column| format!("{} {}", column.name, column.type_)).join(", ");
    let mut random = Random(92);
    client
        .batch_execute(&format!(
            "SET timezone = 'Europe/Berlin'; CREATE TYPE mood AS ENUM ('so-so', 'sad', 'glad');
             ALTER TYPE mood ADD VALUE 'none' BEFORE 'sad';
             CREATE TABLE t (id int, v vector(16), {columns}) WITH (autovacuum_enabled = false)"
        ))
        .unwrap();
    for id in 1..=rows {
        let values = COLUMNS.map(|column| match random.below(10) {
            0 => "NULL".to_string(),
            _ => format!("'{}'", column.values[random.below(column.values.len())]),
        });
        let values = values.join(", ");
        client
            .batch_execute(&format!("INSERT INTO t SELECT id, v, {values} FROM raw WHERE id = {id}"))
            .unwrap();
        if id == rows / 2 {
            let names = COLUMNS.map(|column| column.name).join(", ");
            client
                .batch_execute(&format!("CREATE INDEX i ON t USING ivf (v vector_l2_ops, {names})"))
                .unwrap();
        }
    }
    client.batch_execute("VACUUM ANALYZE t").unwrap();
    let query = text(&source.vector());
    (cluster, client, query)
}

/// The same rows by the index as by sorting, and the scan has the condition. Rows at one distance are those of one id.
#[track_caller]
fn assert_by_index(client: &mut Client, query: &str, condition: &str) -> usize {
    let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY v <-> '{query}', id");
    let by_sorting = rows_under(client, BY_SORTING, &sql);
    let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY v <-> '{query}'");
    let plan = plan_under(client, BY_WHOLE_INDEX, &sql);
    assert!(plan.contains("Index Scan using i") && plan.contains("Index Cond"), "{condition}: {plan}");
    assert!(!plan.contains("Filter"), "{condition}: {plan}");
    assert_eq!(rows_under(client, BY_WHOLE_INDEX, &sql), by_sorting, "{condition}");
    // All of them come without that many lists at first, too.
    assert_eq!(rows_under(client, BY_INDEX, &sql).len(), by_sorting.len(), "{condition}");
    by_sorting.len()
}

/// The rows of a query in an order of their own: some have the same distance.
#[track_caller]
fn sorted(client: &mut Client, settings: &str, sql: &str) -> Vec<Vec<String>> {
    let mut rows = rows_under(client, settings, sql);
    rows.sort();
    rows
}

#[test]
fn every_type_and_operator() {
    let (_cluster, mut client, query) = filled(600);
    for Column { name, type_, values, others, has_order } in COLUMNS {
        let mut found = 0;
        let operators: &[&str] = if has_order { &["<", "<=", "=", ">=", ">"] } else { &["="] };
        let constants = values.iter().map(|value| format!("'{value}'::{type_}"));
        for constant in constants.chain(others.iter().map(|other| other.to_string())) {
            for operator in operators {
                // What is always true or never is told so by the planner; NULL stays.
                found += assert_by_index(&mut client, &query, &format!("{name} {operator} {constant}"));
            }
            assert_by_index(&mut client, &query, &format!("{constant} = {name}"));
        }
        assert!(found > 0, "{name}");
        let list = values.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>().join(", ");
        for condition in [
            format!("{name} IS NULL"),
            format!("{name} IS NOT NULL"),
            format!("{name} = (SELECT NULL::{type_})"),
            format!("{name} IN ('{}', '{}')", values[0], values[1]),
            format!("{name} = ANY (ARRAY[{list}]::{type_}[])"),
            format!("{name} = ANY (ARRAY[NULL, '{}']::{type_}[])", values[0]),
            format!("{name} = ANY ((SELECT NULL)::{type_}[])"),
            format!("{name} = ANY ((SELECT '{{}}')::{type_}[])"),
            format!("{name} = ANY ((SELECT ARRAY[{list}])::{type_}[])"),
        ] {
            assert_by_index(&mut client, &query, &condition);
        }
        if has_order {
            for condition in [
                format!("{name} BETWEEN '{}' AND '{}'", values[0], values[1]),
                format!("{name} < ANY (ARRAY[{list}]::{type_}[])"),
                format!("{name} >= ANY (ARRAY[{list}]::{type_}[])"),
            ] {
                assert_by_index(&mut client, &query, &condition);
            }
        }
    }
    for condition in [
        "b",
        "NOT b",
        "b IS TRUE",
        "b IS FALSE",
        "b AND i4 > 0 AND s IN ('a', 'A') AND e IS NOT NULL",
        "i8 = 7 AND i8 > 0 AND i8 IS NOT NULL AND f8 < 2",
        "i4 = 7 AND i4 > (SELECT 7)",
        "tz > '2026-03-29 00:30+00' AND d = '2026-03-29' AND u = '01990000-0000-7000-8000-000000000002'",
        "i4 = ANY (ARRAY(SELECT generate_series(-100, 100)))",
    ] {
        assert_by_index(&mut client, &query, condition);
    }
    assert_eq!(problems(&mut client, "i"), [""; 0]);
    let columns = value(&mut client, "SELECT columns FROM ivf_info('i')");
    assert_eq!(columns, format!("{{{}}}", COLUMNS.map(|column| column.name).join(",")));
}

/// Wherever a condition's value comes from, and whatever else a query is made of.
#[test]
fn wherever_it_is_written() {
    let (_cluster, mut client, query) = filled(600);
    client
        .batch_execute(&format!(
            "SET enable_seqscan = off; SET enable_sort = off;
             CREATE FUNCTION by_sql(x int) RETURNS SETOF int STABLE LANGUAGE sql
                AS $$ SELECT id FROM t WHERE i4 = x ORDER BY v <-> '{query}' LIMIT 5 $$;
             CREATE FUNCTION by_plpgsql(x int) RETURNS SETOF int STABLE LANGUAGE plpgsql
                AS $$ BEGIN RETURN QUERY SELECT id FROM t WHERE i4 = x ORDER BY v <-> '{query}' LIMIT 5; END $$;
             CREATE VIEW glad AS SELECT * FROM t WHERE e = 'glad';
             PREPARE p(int, int[], bool) AS SELECT id FROM t WHERE i4 = $1 AND i2 = ANY ($2) AND b = $3
                ORDER BY v <-> '{query}' LIMIT 5"
        ))
        .unwrap();
    let exact = |client: &mut Client, condition: &str| {
        let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY v <-> '{query}' LIMIT 5");
        rows_under(client, BY_SORTING, &sql)
    };
    let seven = exact(&mut client, "i4 = 7");
    assert_eq!(seven.len(), 5);
    for mode in ["force_custom_plan", "force_generic_plan"] {
        client.batch_execute(&format!("SET plan_cache_mode = {mode}; SET ivf.probes = 32768")).unwrap();
        let wanted = exact(&mut client, "i4 = 7 AND i2 IN (7, 0) AND b");
        assert!(!wanted.is_empty());
        let plan = rows(&mut client, "EXPLAIN (COSTS OFF) EXECUTE p(7, '{7,0}', true)").concat().join("\n");
        assert!(!plan.contains("Filter") && plan.contains("i2 = ANY"), "{mode}: {plan}");
        assert_eq!(rows(&mut client, "EXECUTE p(7, '{7,0}', true)"), wanted, "{mode}");
        assert_eq!(rows(&mut client, "EXECUTE p(7, NULL, true)").len(), 0, "{mode}");
        assert_eq!(rows(&mut client, "SELECT by_sql(7)"), seven, "{mode}");
        assert_eq!(rows(&mut client, "SELECT by_plpgsql(7)"), seven, "{mode}");
    }
    let sad = exact(&mut client, "e = 'glad' AND i4 = 7");
    let sql = format!("SELECT id FROM glad WHERE i4 = 7 ORDER BY v <-> '{query}' LIMIT 5");
    assert_eq!(rows(&mut client, &sql), sad);
    assert!(!plan_under(&mut client, BY_INDEX, &sql).contains("Filter"));
    // Once for each row of another table.
    let lateral = format!(
        "SELECT n, id FROM (VALUES (7), (0), (-1)) n(n),
            LATERAL (SELECT id FROM t WHERE i4 = n ORDER BY v <-> '{query}' LIMIT 5) l"
    );
    let plan = plan_under(&mut client, BY_INDEX, &lateral);
    assert!(plan.contains("Index Cond: (i4 = \"*VALUES*\".column1)"), "{plan}");
    let expected: Vec<Vec<String>> = ["7", "0", "-1"]
        .iter()
        .flat_map(|n| {
            exact(&mut client, &format!("i4 = {n}"))
                .into_iter()
                .map(|row| vec![n.to_string(), row[0].clone()])
        })
        .collect();
    assert_eq!(rows(&mut client, &lateral), expected);
    // A join without the order's LIMIT gets all rows, those without a vector, too.
    client.batch_execute("INSERT INTO t (id, i4) VALUES (9999, 7)").unwrap();
    let join = format!(
        "SELECT count(*) FROM (SELECT id FROM (VALUES (7), (8)) n(n) JOIN t ON i4 = n ORDER BY v <-> '{query}') j"
    );
    client.batch_execute("RESET enable_sort; RESET enable_seqscan; SET enable_hashjoin = off").unwrap();
    assert_eq!(value(&mut client, &join), value(&mut client, "SELECT count(*) FROM t WHERE i4 + 0 = 7"));
    let null = format!("SELECT id FROM t WHERE v IS NULL AND i4 = 7 ORDER BY v <-> '{query}' LIMIT 5");
    assert_eq!(rows(&mut client, &null), [["9999"]]);
    // Row-level security: a user sees the rows of the policy, as a condition of the index.
    client
        .batch_execute(
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE ROLE tenant LOGIN; GRANT SELECT ON t TO tenant;
             CREATE POLICY own ON t USING (i4 = current_setting('app.tenant')::int);
             SET app.tenant = '7'; SET ROLE tenant",
        )
        .unwrap();
    let sql = format!("SELECT id FROM t ORDER BY v <-> '{query}' LIMIT 5");
    assert!(plan_under(&mut client, BY_INDEX, &sql).contains("Index Cond: (i4 ="));
    assert_eq!(rows_under(&mut client, BY_WHOLE_INDEX, &sql), seven);
    // A condition of the user's is the index's if its operators tell nothing of rows that are not the user's.
    let own = format!("SELECT id FROM t WHERE i2 IN (7, 0) ORDER BY v <-> '{query}' LIMIT 5");
    let plan = plan_under(&mut client, BY_INDEX, &own);
    assert!(plan.contains("(i2 = ANY") && !plan.contains("Filter"), "{plan}");
    let own = format!("SELECT id FROM t WHERE e IN ('glad', 'sad') ORDER BY v <-> '{query}' LIMIT 5");
    let plan = plan_under(&mut client, BY_INDEX, &own);
    let is_leakproof =
        value(&mut client, "SELECT proleakproof FROM pg_proc WHERE proname = 'enum_eq'") == "t";
    assert_eq!(plan.contains("Filter"), !is_leakproof, "{plan}");
    let found = rows_under(&mut client, BY_WHOLE_INDEX, &own);
    client.batch_execute("RESET ROLE").unwrap();
    assert_eq!(found, exact(&mut client, "e IN ('glad', 'sad') AND i4 = 7"));
}

/// Rows that change: new versions, and rows that come back, are found by what they are now.
#[test]
fn rows_that_change() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(93, 30, 16);
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v vector(16), visible bool DEFAULT true, n int DEFAULT 0, note text)
                WITH (autovacuum_enabled = false, fillfactor = 50)",
        )
        .unwrap();
    copy(&mut client, "t", 1, &source.vectors(2_000));
    client
        .batch_execute("CREATE INDEX i ON t USING ivf (v vector_l2_ops, visible, (n % 10)) WITH (lists = 20)")
        .unwrap();
    let query = text(&source.vector());
    let check = |client: &mut Client, when: &str| {
        for condition in ["visible", "NOT visible", "n % 10 = 3", "visible AND n % 10 = 3", "visible IS NULL"]
        {
            let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY v <-> '{query}'");
            let plan = plan_under(client, BY_WHOLE_INDEX, &sql);
            assert!(plan.contains("Index Cond") && !plan.contains("Filter"), "{plan}");
            assert_eq!(
                sorted(client, BY_WHOLE_INDEX, &sql),
                sorted(client, BY_SORTING, &sql),
                "{when}: {condition}"
            );
        }
        assert_eq!(rows(client, "SELECT * FROM ivf_check('i', true)"), [[""; 0]; 0], "{when}");
    };
    check(&mut client, "after the build");
    // Rows of the table that are updated within their page, as no indexed column changes.
    client.batch_execute("UPDATE t SET note = 'x' WHERE id % 3 = 0").unwrap();
    let hot = "SELECT n_tup_hot_upd > 300 FROM pg_stat_user_tables WHERE relname = 't'";
    wait_until("the updates are counted", || value(&mut client, hot) == "t");
    check(&mut client, "after HOT updates");
    for (what, sql) in [
        ("hidden", "UPDATE t SET visible = false WHERE id % 2 = 0"),
        ("shown again", "UPDATE t SET visible = true WHERE id % 4 = 0"),
        ("moved", "UPDATE t SET n = id WHERE id % 5 = 0"),
        ("unknown", "UPDATE t SET visible = NULL, n = NULL WHERE id % 7 = 0"),
        ("deleted", "DELETE FROM t WHERE id % 11 = 0"),
        ("vacuumed", "VACUUM t"),
        ("inserted", "INSERT INTO t SELECT id + 10000, v, NOT visible, n + 3 FROM t WHERE id % 3 = 1"),
        ("vacuumed again", "VACUUM (INDEX_CLEANUP on) t"),
        ("rebuilt", "REINDEX INDEX i"),
        ("rebuilt beside", "REINDEX INDEX CONCURRENTLY i"),
        ("clustered", "CLUSTER t USING t_pkey"),
        ("another type", "ALTER TABLE t ALTER n TYPE bigint"),
    ] {
        client.batch_execute(sql).unwrap_or_else(|error| panic!("{what}: {error}"));
        check(&mut client, what);
    }
    let mut other = cluster.connect();
    client
        .batch_execute(
            "SET enable_sort = off; SET enable_seqscan = off; BEGIN ISOLATION LEVEL REPEATABLE READ",
        )
        .unwrap();
    let sql = format!("SELECT id FROM t WHERE visible ORDER BY v <-> '{query}'");
    let mut seen = || {
        let mut rows = rows(&mut client, &sql);
        rows.sort();
        rows
    };
    let before = seen();
    other.batch_execute("UPDATE t SET visible = NOT visible").unwrap();
    assert_eq!(seen(), before);
    client.batch_execute("COMMIT").unwrap();
    check(&mut client, "all changed");
}

/// Workers build what one process builds, and a standby and a server after a crash have it, too.
#[test]
fn builds_by_workers_crashes_and_standbys() {
    let mut primary = Cluster::with_settings(&[
        "wal_consistency_checking = 'generic'",
        "autovacuum = off",
        "max_parallel_maintenance_workers = 2",
    ]);
    let standby = primary.standby(&[]);
    let mut client = primary.client();
    let mut source = Clusters::new(94, 30, 16);
    make_table(&mut client, "raw", &source.vectors(6_000));
    client
        .batch_execute(
            "CREATE TABLE t WITH (parallel_workers = 2) AS
                SELECT id, v, id % 100 AS tenant, 'tag' || id % 7 AS tag, now() - id * interval '1 hour' AS made FROM raw;
             ALTER TABLE t ALTER v TYPE vector(16);
             CREATE INDEX i ON t USING ivf (v vector_l2_ops, tenant, tag, made)",
        )
        .unwrap();
    let query = text(&source.vector());
    let sql = format!(
        "SELECT id FROM t WHERE tenant IN (3, 4, 5) AND tag = 'tag4' AND made < now() - interval '9 days'
            ORDER BY v <-> '{query}'"
    );
    let expected = sorted(&mut client, BY_SORTING, &sql);
    assert!(expected.len() > 10);
    assert_eq!(sorted(&mut client, BY_WHOLE_INDEX, &sql), expected);
    assert_eq!(rows(&mut client, "SELECT * FROM ivf_check('i', true)"), [[""; 0]; 0]);
    client
        .batch_execute(
            "INSERT INTO t SELECT id + 10000, v, tenant, tag, made FROM t WHERE id % 2 = 0;
             DELETE FROM t WHERE id % 5 = 0",
        )
        .unwrap();
    client.batch_execute("VACUUM t").unwrap();
    client.batch_execute("UPDATE t SET tenant = 3 WHERE tenant = 90").unwrap();
    let expected = sorted(&mut client, BY_SORTING, &sql);
    assert_eq!(sorted(&mut client, BY_WHOLE_INDEX, &sql), expected);
    client.batch_execute("SELECT pg_logical_emit_message(true, '', '')").unwrap();
    let end = value(&mut client, "SELECT pg_current_wal_flush_lsn()");
    let mut there = standby.connect();
    wait_until("the standby catches up", || {
        value(&mut there, &format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t"
    });
    assert!(plan_under(&mut there, BY_WHOLE_INDEX, &sql).contains("Index Cond"));
    assert_eq!(sorted(&mut there, BY_WHOLE_INDEX, &sql), expected);
    primary.kill();
    primary.boot();
    let mut client = primary.connect();
    assert_eq!(sorted(&mut client, BY_WHOLE_INDEX, &sql), expected);
    assert_eq!(rows(&mut client, "SELECT * FROM ivf_check('i', true)"), [[""; 0]; 0]);
}

/// What the planner takes: the one index for what it is good at, another for a few rows.
#[test]
fn the_index_where_it_is_worth_it() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(95, 60, 64);
    make_table(&mut client, "raw", &source.vectors(60_000));
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT id, v, CASE WHEN id <= 20000 THEN 1 WHEN id <= 20020 THEN 2 ELSE id % 1000 + 10 END AS tenant
                FROM raw;
             ALTER TABLE t ALTER v TYPE vector(64);
             CREATE INDEX i ON t USING ivf (v vector_l2_ops, tenant); CREATE INDEX b ON t (tenant); ANALYZE t",
        )
        .unwrap();
    let query = text(&source.vector());
    let plan = |client: &mut Client, condition: &str, limit: usize| {
        let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY v <-> '{query}' LIMIT {limit}");
        rows(client, &format!("EXPLAIN (COSTS OFF) {sql}")).concat().join("\n")
    };
    for (condition, index) in [
        ("tenant = 1", "using i"),
        ("tenant = 2", " b"),
        ("true", "using i"),
        ("tenant > 0", "using i"),
        ("tenant IN (1, 2)", "using i"),
    ] {
        let plan = plan(&mut client, condition, 10);
        assert!(plan.contains(index), "{condition}: {plan}");
    }
    // Without a btree the index beats reading everything.
    client.batch_execute("DROP INDEX b").unwrap();
    assert!(plan(&mut client, "tenant = 2", 10).contains("using i"));
    // Without statistics yet, right after the table was filled.
    client
        .batch_execute("CREATE TABLE u (LIKE t); CREATE INDEX ON u USING ivf (v vector_l2_ops, tenant); INSERT INTO u SELECT * FROM t")
        .unwrap();
    let sql = format!("SELECT id FROM u WHERE tenant = 1 ORDER BY v <-> '{query}' LIMIT 10");
    assert_eq!(rows(&mut client, &sql).len(), 10);
    client.batch_execute("ANALYZE u").unwrap();
    assert!(
        rows(&mut client, &format!("EXPLAIN (COSTS OFF) {sql}")).concat().join("\n").contains("Index Cond")
    );
}

/// By default settings as many of the nearest rows that satisfy a condition are found as without one.
#[test]
fn recall_does_not_depend_on_the_condition() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(96, 100, 64).spread(0.6);
    make_table(&mut client, "raw", &source.vectors(20_000));
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT id, v, (id * 7919) % 1000 AS n FROM raw; ALTER TABLE t ALTER v TYPE vector(64);
             CREATE INDEX i ON t USING ivf (v vector_l2_ops, n) WITH (lists = 60)",
        )
        .unwrap();
    for share in [1000, 500, 100, 10, 1] {
        let (mut hits, mut wanted) = (0, 0);
        for query in source.vectors(100) {
            let query = text(&query);
            let sql = format!("SELECT id FROM t WHERE n < {share} ORDER BY v <-> '{query}' LIMIT 10");
            let exact = rows_under(&mut client, BY_SORTING, &sql);
            let found = rows_under(&mut client, BY_INDEX, &sql);
            assert_eq!(found.len(), exact.len());
            hits += found.iter().filter(|row| exact.contains(row)).count();
            wanted += exact.len();
        }
        let recall = hits as f64 / wanted as f64;
        assert!(recall > 0.9, "{share} of 1000: {recall}");
    }
}

/// Whoever wants all rows gets all of them: also those without a vector, and beyond the lists that a setting allows.
#[test]
fn without_a_limit_nothing_is_missing() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(97, 60, 128);
    make_table(&mut client, "raw", &source.vectors(20_000));
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT id, v, id % 200 AS tenant FROM raw; ALTER TABLE t ALTER v TYPE vector(128);
             INSERT INTO t VALUES (20001, NULL, 7);
             CREATE INDEX i ON t USING ivf (v vector_cosine_ops, tenant); ANALYZE t",
        )
        .unwrap();
    let query = text(&source.vector());
    for settings in
        ["SET LOCAL ivf.probes = 0", "SET LOCAL ivf.max_probes = 2", "SET LOCAL ivf.iterative_scan = off"]
    {
        for condition in ["tenant = 7", "tenant IN (7, 8)", "true"] {
            let sql = format!("SELECT id FROM t WHERE {condition} ORDER BY v <=> '{query}'");
            let plan = plan_under(&mut client, settings, &sql);
            assert!(!plan.contains("Index Scan"), "{settings}: {condition}: {plan}");
        }
        let sql = format!("SELECT id FROM t WHERE tenant = 7 ORDER BY v <=> '{query}'");
        assert_eq!(rows_under(&mut client, settings, &sql).len(), 101);
        let plan = plan_under(&mut client, settings, &format!("{sql} LIMIT 10"));
        assert!(plan.contains("Index Cond: (tenant = 7)"), "{settings}: {plan}");
    }
    // An index of few rows is for few rows, whatever the LIMIT.
    client
        .batch_execute(
            "DROP INDEX i; CREATE INDEX p ON t USING ivf (v vector_cosine_ops) WHERE tenant < 10; ANALYZE t",
        )
        .unwrap();
    let sql = format!("SELECT id FROM t WHERE tenant < 10 ORDER BY v <=> '{query}' LIMIT 200");
    assert!(plan_under(&mut client, "SET LOCAL ivf.probes = 0", &sql).contains("Index Scan using p"));
}

/// `ivf_recall` with a condition runs queries with the rights of whoever asks, and as nothing else.
#[test]
fn recall_under_a_condition_is_the_users() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(98, 30, 16);
    make_table(&mut client, "t", &source.vectors(3_000));
    client
        .batch_execute(
            "ALTER TABLE t ADD tenant int GENERATED ALWAYS AS (id % 10) STORED;
             CREATE INDEX i ON t USING ivf (v vector_l2_ops, tenant) WITH (lists = 20);
             CREATE INDEX p ON t USING ivf (v vector_cosine_ops) WHERE tenant = 3;
             CREATE INDEX e ON t USING ivf ((v + v) vector_ip_ops); ANALYZE t;
             CREATE ROLE joe LOGIN; GRANT SELECT ON t TO joe; CREATE TABLE secret AS SELECT 7 AS x;
             ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON t USING (tenant = 7)",
        )
        .unwrap();
    let recall = |client: &mut Client, index: &str, condition: &str| {
        value(client, &format!("SELECT round(ivf_recall('{index}', 10, 30, $${condition}$$)::numeric, 2)"))
    };
    for (index, condition) in [("i", "tenant = 7"), ("p", "id > 5"), ("e", "true")] {
        assert!(recall(&mut client, index, condition).parse::<f64>().unwrap() > 0.8, "{index}: {condition}");
    }
    client.batch_execute("SET ivf.probes = 32768").unwrap();
    assert_eq!(recall(&mut client, "i", "tenant = 7 AND id % 3 = 1"), "1.00");
    client.batch_execute("SET ROLE joe").unwrap();
    assert_eq!(recall(&mut client, "i", "tenant = 7"), "1.00");
    // Rows that joe does not see have no neighbours, and tell nothing.
    assert_eq!(recall(&mut client, "i", "tenant = 8"), "NULL");
    assert_eq!(recall(&mut client, "i", "1 / (tenant - 8) < 5"), "1.00");
    for (index, condition, sqlstate) in [
        ("i", "EXISTS (SELECT 1 FROM secret)", "42501"),
        ("p", "true", "42501"),
        ("e", "true", "42501"),
        ("i", "*", "42601"),
    ] {
        let sql = format!("SELECT ivf_recall('{index}', 10, 30, $${condition}$$)");
        assert_eq!(refused(&mut client, &sql).sqlstate, sqlstate, "{index}: {condition}");
    }
}

/// What cannot be a column.
#[test]
fn what_cannot_be_a_column() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.batch_execute("CREATE TABLE t (v vector(3), n int, x numeric, w vector(3))").unwrap();
    let first = "an ivf index has one vector, which is its first column";
    for (columns, sqlstate, message) in [
        ("(n, v)", "0A000", first),
        ("(n)", "0A000", first),
        ("(v, w)", "0A000", first),
        ("(v, x)", "42704", "data type numeric has no default operator class for access method \"ivf\""),
        (
            "(v, n, n, n, n, n, n, n, n, n, n, n, n, n, n, n, n, n)",
            "54000",
            "an ivf index cannot have more than 16 columns beside the vector",
        ),
    ] {
        let refusal = refused(&mut client, &format!("CREATE INDEX ON t USING ivf {columns}"));
        assert_eq!((refusal.sqlstate.as_str(), refusal.message.as_str()), (sqlstate, message), "{columns}");
    }
    // An operator class of one's own that has neither order nor hash.
    client
        .batch_execute("CREATE OPERATOR CLASS numeric_ops FOR TYPE numeric USING ivf AS OPERATOR 3 =")
        .unwrap();
    let refusal = refused(&mut client, "CREATE INDEX ON t USING ivf (v, x numeric_ops)");
    assert_eq!(
        refusal.message,
        "operator class of access method ivf is for a type without order and has no support function 2"
    );
    let valid = value(
        &mut client,
        "SELECT amvalidate(oid) FROM pg_opclass WHERE opcname = 'numeric_ops' AND opcmethod = (SELECT oid FROM pg_am WHERE amname = 'ivf')",
    );
    assert_eq!(valid, "f");
    // And one with a hash works.
    client
        .batch_execute(
            "CREATE OPERATOR CLASS hashed_ops FOR TYPE numeric USING ivf AS
                OPERATOR 3 =, FUNCTION 2 hash_numeric_extended(numeric, bigint);
             INSERT INTO t SELECT '[1,2,3]', i, i / 10.0 FROM generate_series(1, 500) i;
             CREATE INDEX i ON t USING ivf (v, x hashed_ops); ANALYZE t",
        )
        .unwrap();
    let sql = "SELECT n FROM t WHERE x = 12.30 ORDER BY v <-> '[1,2,3]' LIMIT 3";
    assert!(plan_under(&mut client, BY_INDEX, sql).contains("Index Cond: (x = 12.30)"));
    assert_eq!(rows_under(&mut client, BY_INDEX, sql), [["123"]]);
}
