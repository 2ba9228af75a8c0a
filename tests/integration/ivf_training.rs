//! An index that keeps itself in shape: from the empty table on, without REINDEX.

use postgres::Client;

use crate::cluster::{Cluster, rows, value};
use crate::ivf::{BY_INDEX, Clusters, L2, assert_sound, copy, make_index, make_table, rows_under, search};

fn info(client: &mut Client, what: &str) -> String {
    value(client, &format!("SELECT {what} FROM ivf_info('i')"))
}

#[test]
fn vacuum_makes_lists_for_the_rows_that_there_are() {
    let cluster = Cluster::with_settings(&["autovacuum = off"]);
    let mut client = cluster.client();
    client.batch_execute("CREATE TABLE t (id int, v vector(48))").unwrap();
    make_index(&mut client, "i", "t", L2, "");
    copy(&mut client, "t", 1, &Clusters::new(5, 60, 48).vectors(6_000));
    assert_eq!(info(&mut client, "lists || ' ' || training_due"), "1 true");
    client.batch_execute("SET ivf.auto_train = off").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    assert_eq!(info(&mut client, "lists"), "1");
    client.batch_execute("RESET ivf.auto_train").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    assert_eq!(info(&mut client, "lists || ' ' || rows || ' ' || training_due"), "12 6000 false");
    assert_sound(&mut client, "i", "t", L2, "true");

    // A tenth is left: fewer lists, and the space can be used again.
    let bytes: f64 = info(&mut client, "bytes").parse().unwrap();
    client.batch_execute("DELETE FROM t WHERE id % 10 > 0").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    assert_eq!(info(&mut client, "lists || ' ' || rows"), "1 600");
    client.batch_execute("DELETE FROM t WHERE id = 10").unwrap();
    client.batch_execute("VACUUM t").unwrap();
    let left: f64 = info(&mut client, "bytes - free_bytes").parse().unwrap();
    assert!(left < bytes / 4.0, "{left} of {bytes}");
    assert_sound(&mut client, "i", "t", L2, "true");
}

/// A cursor reads the lists of its time whatever becomes of the index.
#[test]
fn a_cursor_outlives_trainings() {
    let cluster = Cluster::with_settings(&["autovacuum = off"]);
    let (mut client, mut other) = (cluster.client(), cluster.connect());
    let vectors = Clusters::new(7, 30, 32).vectors(3_000);
    make_table(&mut client, "t", &vectors);
    make_index(&mut client, "i", "t", L2, "lists = 6");
    let sql = search("t", L2, &vectors[0], "");
    client.batch_execute(&format!("BEGIN; {BY_INDEX}; DECLARE c CURSOR FOR {sql}")).unwrap();
    let mut seen = rows(&mut client, "FETCH 100 FROM c").len();
    for round in 0..3 {
        copy(&mut other, "t", 10_000 + 500 * round, &vectors[..500]);
        assert_eq!(value(&mut other, "SELECT ivf_maintain('i', true)"), "t");
        other.batch_execute("VACUUM t").unwrap();
        seen += rows(&mut client, "FETCH 100 FROM c").len();
    }
    seen += rows(&mut client, "FETCH ALL FROM c").len();
    assert_eq!(seen, 3_000);
    client.batch_execute("COMMIT").unwrap();
    other.batch_execute("VACUUM t").unwrap();
    assert_sound(&mut other, "i", "t", L2, "true");
    assert_eq!(rows_under(&mut other, BY_INDEX, &search("t", L2, &vectors[0], "LIMIT 5")).len(), 5);
}

#[test]
fn training_is_for_the_owner() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    make_table(&mut client, "t", &Clusters::new(7, 3, 8).vectors(100));
    make_index(&mut client, "i", "t", L2, "lists = 2");
    client.batch_execute("CREATE ROLE reader; GRANT SELECT ON t TO reader; SET ROLE reader").unwrap();
    let error = client.batch_execute("SELECT ivf_maintain('i')").unwrap_err();
    assert!(format!("{error:?}").contains("must be owner of table t"), "{error:?}");
}
