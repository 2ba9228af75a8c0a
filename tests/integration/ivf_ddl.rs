//! What happens to an index when its table is changed, moved, copied, emptied.

use postgres::Client;

use crate::cluster::{Cluster, refused, rows, value};
use crate::ivf::{
    BY_INDEX, BY_SORTING, BY_WHOLE_INDEX, COSINE, Clusters, INNER_PRODUCT, L2, assert_same_answer,
    assert_sound, copy, found, make_index, make_table, plan_under, problems, rows_under, search, text,
};

#[test]
fn tables_that_are_changed_and_moved() {
    let mut cluster = Cluster::with_settings(&["autovacuum = off"]);
    let mut client = cluster.client();
    let mut source = Clusters::new(61, 30, 16);
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v vector(16), body text)").unwrap();
    copy(&mut client, "t", 1, &source.vectors(2_000));
    make_index(&mut client, "i", "t", L2, "lists = 15");
    make_index(&mut client, "c", "t", COSINE, "lists = 15, bits = 5");
    let tablespace = cluster.new_directory("tablespace");
    client
        .batch_execute(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", tablespace.display()))
        .unwrap();
    let mut next = 10_000;
    for sql in [
        "VACUUM FULL t",
        "CLUSTER t USING t_pkey",
        "ALTER TABLE t SET UNLOGGED",
        "ALTER TABLE t SET LOGGED",
        "ALTER INDEX i SET TABLESPACE elsewhere",
        "ALTER TABLE t SET TABLESPACE elsewhere",
        "ALTER INDEX c SET TABLESPACE elsewhere",
        "REINDEX (TABLESPACE pg_default) TABLE t",
        "REINDEX TABLE CONCURRENTLY t",
        "ALTER TABLE t ALTER v TYPE vector(16) USING (v + v)::vector(16)",
        "ALTER TABLE t ALTER v TYPE vector(16)",
        "ALTER TABLE t ALTER id TYPE int USING id + 1",
        "ALTER TABLE t ADD more int DEFAULT 5",
        "ALTER TABLE t DROP more",
        "ALTER TABLE t RENAME v TO w; ALTER TABLE t RENAME w TO v",
        "ALTER INDEX i SET (lists = 3)",
        "REINDEX INDEX i",
        "ALTER INDEX i RESET (lists)",
        "ALTER TABLE t SET (fillfactor = 50)",
        "VACUUM (FREEZE) t",
        "VACUUM (PARALLEL 2) t",
        "ANALYZE t",
        "TRUNCATE t",
        "VACUUM t",
    ] {
        client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_sound(&mut client, "i", "t", L2, "true");
        assert_sound(&mut client, "c", "t", COSINE, "true");
        // And it goes on.
        copy(&mut client, "t", next, &source.vectors(50));
        client.batch_execute(&format!("DELETE FROM t WHERE id BETWEEN {next} AND {next} + 9")).unwrap();
        next += 100;
        assert_sound(&mut client, "i", "t", L2, "true");
        assert_sound(&mut client, "c", "t", COSINE, "true");
    }
    cluster.kill();
    cluster.boot();
    let mut client = cluster.connect();
    assert_sound(&mut client, "i", "t", L2, "true");
    assert_sound(&mut client, "c", "t", COSINE, "true");
    // Lists are those of the last build: of 3, then, when the option was gone, of a table emptied.
    assert_eq!(value(&mut client, "SELECT lists FROM ivf_info('i')"), "1");
    // Another number of dimensions: the index is of those.
    let quarter = "ALTER TABLE t ALTER v TYPE vector(4) USING subvector(v, 1, 4)::vector(4)";
    client.batch_execute(quarter).unwrap();
    assert_eq!(value(&mut client, "SELECT dimensions FROM ivf_info('i')"), "4");
    assert_sound(&mut client, "i", "t", L2, "true");
    // The column takes others now, without a rebuild; the index does not.
    client.batch_execute("ALTER TABLE t ALTER v TYPE vector").unwrap();
    let refusal = refused(&mut client, "INSERT INTO t VALUES (1, '[1,2]')");
    assert_eq!(refusal.message, "expected 4 dimensions, not 2");
    assert_sound(&mut client, "i", "t", L2, "true");
    client.batch_execute("ALTER TABLE t DROP v").unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM pg_class WHERE relname IN ('i', 'c')"), "0");
    client.batch_execute("DROP TABLE t").unwrap();
    client.batch_execute("DROP TABLESPACE elsewhere").unwrap();
    assert!(!cluster.log().contains("WARNING"), "{}", cluster.log());
}

/// Everything within the transaction that made it, kept and undone; and tables that only one session has.
#[test]
fn within_a_transaction() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(62, 20, 16);
    client
        .batch_execute("BEGIN; CREATE TABLE t (id int, v vector(16)); CREATE INDEX i ON t USING ivf (v)")
        .unwrap();
    copy(&mut client, "t", 1, &source.vectors(500));
    let near = search("t", L2, &[0.0; 16], "");
    let forced = |client: &mut Client| rows(client, &format!("SET LOCAL enable_seqscan = off; {near}")).len();
    assert_eq!(forced(&mut client), 500);
    client.batch_execute("TRUNCATE t").unwrap();
    assert_eq!(forced(&mut client), 0);
    copy(&mut client, "t", 1_000, &source.vectors(300));
    client.batch_execute("COMMIT").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
    client.batch_execute("BEGIN; TRUNCATE t").unwrap();
    copy(&mut client, "t", 2_000, &source.vectors(100));
    assert_eq!(forced(&mut client), 100);
    client.batch_execute("ROLLBACK").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
    assert_eq!(value(&mut client, "SELECT count(*) FROM t"), "300");

    for kind in ["TEMP", "UNLOGGED"] {
        client
            .batch_execute(&format!(
                "DROP TABLE t; CREATE {kind} TABLE t (id int, v vector(16)); CREATE INDEX i ON t USING ivf (v)"
            ))
            .unwrap();
        copy(&mut client, "t", 1, &source.vectors(2_000));
        assert_sound(&mut client, "i", "t", L2, "true");
        client.batch_execute("DELETE FROM t WHERE id % 3 = 0").unwrap();
        client.batch_execute("VACUUM t").unwrap();
        copy(&mut client, "t", 3_000, &source.vectors(500));
        assert_sound(&mut client, "i", "t", L2, "true");
        client.batch_execute("REINDEX TABLE t").unwrap();
        assert_sound(&mut client, "i", "t", L2, "true");
    }
    client
        .batch_execute(
            "CREATE TEMP TABLE s (id int, v vector(16)) ON COMMIT DELETE ROWS;
             CREATE INDEX si ON s USING ivf (v); BEGIN; INSERT INTO s SELECT * FROM t; COMMIT",
        )
        .unwrap();
    assert_eq!(
        rows_under(&mut client, BY_INDEX, "SELECT id FROM s ORDER BY v <-> (SELECT NULL::vector)").len(),
        0
    );
    assert_eq!(problems(&mut client, "si"), [""; 0]);
}

/// Vectors outside their rows, rows that are dead, and dead ones whose vectors are gone already.
#[test]
fn toasted_vectors_and_dead_rows() {
    let cluster = Cluster::with_settings(&["autovacuum = off"]);
    let mut client = cluster.client();
    let mut source = Clusters::new(63, 20, 700);
    client
        .batch_execute("CREATE TABLE t (id int, v vector(700)); ALTER TABLE t ALTER v SET STORAGE external")
        .unwrap();
    copy(&mut client, "t", 1, &source.vectors(1_500));
    make_index(&mut client, "i", "t", L2, "lists = 10");
    let toast = value(&mut client, "SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 't'");
    let size = format!("SELECT pg_relation_size('{toast}') > 1500 * 2800");
    assert_eq!(value(&mut client, &size), "t");
    let mut old = cluster.connect();
    for round in 0..3 {
        if round == 1 {
            // A snapshot that keeps the dead rows of the next round from going.
            old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_am").unwrap();
        }
        client
            .batch_execute(&format!(
                "DELETE FROM t WHERE id % 5 = {round};
                 UPDATE t SET v = (v * v)::vector(700) WHERE id % 5 = {round} + 1;
                 BEGIN; INSERT INTO t SELECT -id, v FROM t WHERE id < 200; ROLLBACK"
            ))
            .unwrap();
        client.batch_execute(&format!("VACUUM {toast}")).unwrap();
        client.batch_execute("REINDEX INDEX i").unwrap();
        assert_sound(&mut client, "i", "t", L2, "true");
        if round == 1 {
            // It would wait for this one.
            old.batch_execute("COMMIT").unwrap();
        }
        client.batch_execute("REINDEX TABLE CONCURRENTLY t").unwrap();
        assert_sound(&mut client, "i", "t", L2, "true");
    }
    client.batch_execute("VACUUM FULL t").unwrap();
    assert_sound(&mut client, "i", "t", L2, "true");
}

#[test]
fn partitions_and_children() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(64, 30, 16);
    client
        .batch_execute(
            "CREATE TABLE t (id int, v vector(16)) PARTITION BY RANGE (id);
             CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (1000);
             CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (1000) TO (2000);
             CREATE INDEX i ON t USING ivf (v vector_l2_ops) WITH (lists = 5);
             CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (2000) TO (9000)",
        )
        .unwrap();
    copy(&mut client, "t", 1, &source.vectors(3_000));
    client.batch_execute("ANALYZE t").unwrap();
    for limit in [10, 3_000] {
        let sql = search("t", L2, &source.vector(), &format!("LIMIT {limit}"));
        let plan = plan_under(&mut client, BY_WHOLE_INDEX, &sql);
        assert!(plan.contains("Merge Append") && plan.matches("Index Scan").count() == 3, "{plan}");
        let exact = found(&mut client, BY_SORTING, &sql);
        assert_same_answer(&exact, &found(&mut client, BY_WHOLE_INDEX, &sql), limit < 3_000, "partitions");
    }
    client.batch_execute("ALTER TABLE t DETACH PARTITION t2; DROP TABLE t3").unwrap();
    assert_sound(&mut client, "t2_v_idx", "t2", L2, "true");
    assert_sound(&mut client, "t1_v_idx", "t1", L2, "true");
}

#[test]
fn dump_and_restore_with_an_index() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut source = Clusters::new(65, 30, 16);
    make_table(&mut client, "t", &source.vectors(2_000));
    make_index(&mut client, "i", "t", L2, "lists = 12, bits = 6");
    make_index(&mut client, "p", "t", INNER_PRODUCT, "rerank = off");
    client
        .batch_execute(
            "CREATE INDEX part ON t USING ivf (v vector_cosine_ops) WITH (lists = 3, rerank = on) WHERE id > 1000;
             CREATE INDEX expr ON t USING ivf ((l2_normalize(v)::vector(16)) vector_ip_ops);
             CREATE MATERIALIZED VIEW m AS SELECT id + 1 AS id, v FROM t;
             CREATE INDEX mi ON m USING ivf (v)",
        )
        .unwrap();
    let definitions = "SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
                         JOIN pg_am a ON a.oid = relam WHERE amname = 'ivf' ORDER BY 1";
    let before = rows(&mut client, definitions);
    assert_eq!(before.len(), 5);
    assert!(before.concat().iter().any(|sql| sql.contains("WITH (lists='12', bits='6')")), "{before:?}");
    let host = cluster.host().to_str().unwrap();
    let connection = |database| ["-h", host, "-U", "postgres", "-d", database];
    let dump = cluster.host().join("dump.custom");
    let dump = dump.to_str().unwrap();
    cluster.run("pg_dump", &[&connection("postgres")[..], &["-Fc", "-f", dump]].concat());
    client.batch_execute("CREATE DATABASE restored").unwrap();
    cluster.run("pg_restore", &[&connection("restored")[..], &["-e", "-j", "2", dump]].concat());
    let mut restored = cluster.connect_as("postgres", "restored");
    assert_eq!(rows(&mut restored, definitions), before);
    assert_sound(&mut restored, "i", "t", L2, "true");
    assert_sound(&mut restored, "mi", "m", L2, "true");
    assert_eq!(value(&mut restored, "SELECT bits || '/' || lists FROM ivf_info('i')"), "6/12");
    let sql = search("t", L2, &source.vector(), "");
    let exact = found(&mut client, BY_SORTING, &sql);
    assert_same_answer(&exact, &found(&mut restored, BY_WHOLE_INDEX, &sql), false, "restored");
    restored.batch_execute("REFRESH MATERIALIZED VIEW m").unwrap();
    assert_sound(&mut restored, "mi", "m", L2, "true");
    // The extension goes, and its indexes with it; the table's other columns stay.
    assert_eq!(refused(&mut restored, "DROP EXTENSION pg_embed").sqlstate, "2BP01");
    restored.batch_execute("DROP EXTENSION pg_embed CASCADE").unwrap();
    assert_eq!(value(&mut restored, "SELECT count(id) FROM t"), "2000");
}

/// Vectors that do not belong into the index, and columns that cannot have one.
#[test]
fn what_cannot_be_indexed() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE t (id int, j json, v vector, w vector(2001), x vector(2000), y vector(3));
             INSERT INTO t (v) VALUES ('[1,2]'), ('[1,2,3]')",
        )
        .unwrap();
    for (what, sqlstate, message) in [
        ("(v)", "22023", "column does not have dimensions"),
        ("(w)", "54000", "column cannot have more than 2000 dimensions for ivf index"),
        ("(y, x)", "0A000", "an ivf index has one vector, which is its first column"),
        ("(y) INCLUDE (id)", "0A000", "access method \"ivf\" does not support included columns"),
        ("(y DESC)", "0A000", "access method \"ivf\" does not support ASC/DESC options"),
        ("(id)", "0A000", "an ivf index has one vector, which is its first column"),
        ("(j)", "42704", "data type json has no default operator class for access method \"ivf\""),
        ("(y) WITH (nonsense = 1)", "22023", "unrecognized parameter \"nonsense\""),
        ("(y) WITH (bits = 0)", "22023", "value 0 out of bounds for option \"bits\""),
        ("(y) WITH (bits = 9)", "22023", "value 9 out of bounds for option \"bits\""),
        ("(y) WITH (lists = 32769)", "22023", "value 32769 out of bounds for option \"lists\""),
        ("((v::vector(3)))", "22000", "expected 3 dimensions, not 2"),
    ] {
        let refusal = refused(&mut client, &format!("CREATE INDEX ON t USING ivf {what}"));
        assert_eq!((refusal.sqlstate.as_str(), refusal.message.as_str()), (sqlstate, message), "{what}");
    }
    let unique = refused(&mut client, "CREATE UNIQUE INDEX ON t USING ivf (y)");
    assert_eq!(unique.message, "access method \"ivf\" does not support unique indexes");
    client.batch_execute("CREATE INDEX i ON t USING ivf (x)").unwrap();
    client.batch_execute(&format!("INSERT INTO t (x) VALUES ('{}')", text(&[1.5; 2_000]))).unwrap();
    assert_eq!(value(&mut client, "SELECT count(*) FROM t WHERE x IS NOT NULL"), "1");
    client.batch_execute("VACUUM t").unwrap();
    assert_eq!(value(&mut client, "SELECT rows FROM ivf_info('i')"), "1");
}
