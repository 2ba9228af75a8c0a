//! The write-ahead log: a standby that replays it has the same index.

use std::time::Duration;

use postgres::Client;

use crate::cluster::{Cluster, rows, value, wait_until};
use crate::ivf::{
    BY_INDEX, BY_WHOLE_INDEX, COSINE, Clusters, L2, Metric, assert_sound, copy, make_index, make_table,
    plan_under, rows_under, search,
};
use crate::ivf_load::{self, Load, assert_committed};

/// Every page of an index that the log changes is compared with the primary's after its replay; a difference ends the
/// standby.
const CHECKED: &str = "wal_consistency_checking = 'generic'";

pub fn catch_up(primary: &mut Client, standby: &mut Client) {
    // A commit flushes what vacuum wrote without one, and wakes the sender.
    primary.batch_execute("SELECT pg_logical_emit_message(true, '', '')").unwrap();
    let end = value(primary, "SELECT pg_current_wal_flush_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    wait_until("the standby catches up", || value(standby, &replayed) == "t");
}

/// Both answer the same, row for row, whatever the number of lists.
fn assert_same(primary: &mut Client, standby: &mut Client, metric: Metric, queries: &[Vec<f32>], when: &str) {
    catch_up(primary, standby);
    for query in queries {
        for (settings, limit) in [(BY_INDEX, "LIMIT 20"), (BY_WHOLE_INDEX, "")] {
            let sql = search("t", metric, query, limit);
            let here = rows_under(primary, settings, &sql);
            let there = rows_under(standby, settings, &sql);
            assert!(plan_under(standby, settings, &sql).contains("Index Scan"));
            assert!(!here.is_empty() && here == there, "{when}: the standby answers otherwise");
        }
    }
    let info = |client: &mut Client, index: &str| {
        rows(client, &format!("SELECT lists, rows, bits, longest_list, bytes FROM ivf_info('{index}')"))
    };
    for index in ["i", "c"] {
        assert_eq!(info(primary, index), info(standby, index), "{when}");
    }
}

#[test]
fn a_standby_answers_the_same() {
    let primary = Cluster::with_settings(&[CHECKED, "wal_keep_size = 4GB", "autovacuum = off"]);
    let standby = primary.standby(&[]);
    let (mut here, mut there) = (primary.client(), standby.connect());
    let mut source = Clusters::new(21, 40, 32);
    make_table(&mut here, "t", &source.vectors(3_000));
    make_index(&mut here, "i", "t", L2, "lists = 30");
    make_index(&mut here, "c", "t", COSINE, "lists = 10, bits = 3");
    let queries = source.vectors(3);
    let mut check = |here: &mut Client, when: &str| {
        assert_same(here, &mut there, L2, &queries, when);
        assert_same(here, &mut there, COSINE, &queries, when);
    };
    check(&mut here, "after the build");
    for round in 0..4 {
        here.batch_execute(&format!("DELETE FROM t WHERE id % 4 = {round}")).unwrap();
        check(&mut here, "after deletes");
        here.batch_execute("VACUUM t").unwrap();
        check(&mut here, "after vacuum");
        copy(&mut here, "t", 10_000 * (round + 1), &source.vectors(1_000));
        check(&mut here, "after inserts");
    }
    here.batch_execute("REINDEX INDEX i; REINDEX INDEX c").unwrap();
    check(&mut here, "after REINDEX");
    // No row left: whole segments become free; then they are used again.
    here.batch_execute("DELETE FROM t").unwrap();
    here.batch_execute("VACUUM t").unwrap();
    copy(&mut here, "t", 1, &source.vectors(2_000));
    check(&mut here, "after a new filling");
    // The standby becomes a server of its own, and its index is sound and goes on.
    there.batch_execute("SELECT pg_promote()").unwrap();
    copy(&mut there, "t", 5_000, &source.vectors(500));
    there.batch_execute("DELETE FROM t WHERE id % 3 = 0").unwrap();
    there.batch_execute("VACUUM t").unwrap();
    assert_sound(&mut there, "i", "t", L2, "true");
    assert_sound(&mut there, "c", "t", COSINE, "true");
    for cluster in [&primary, &standby] {
        assert!(!cluster.log().contains("inconsistent page"), "{}", cluster.log());
    }
}

#[test]
fn a_standby_under_load() {
    let primary = Cluster::with_settings(&[CHECKED, "wal_keep_size = 4GB", "autovacuum = off"]);
    let mut here = primary.client();
    ivf_load::make_table(&mut here, 1_000, L2, 10);
    here.batch_execute("CREATE INDEX c ON t USING ivf (v vector_cosine_ops) WITH (lists = 10)").unwrap();
    // The base backup is taken while the table changes.
    let mut load = Load::start(&primary, 2, 1);
    load.repeat(&primary, |client| client.batch_execute("VACUUM t"));
    load.repeat(&primary, ivf_load::train);
    let standby = primary.standby(&["hot_standby_feedback = on", "max_standby_streaming_delay = -1"]);
    let mut there = standby.connect();
    // Readers of the standby see each row of a snapshot once, the lasting ones among them.
    load.repeat(&standby, ivf_load::search_near(1_000, 0));
    std::thread::sleep(Duration::from_secs(4));
    let (journal, times) = load.stop();
    assert!(journal.len() > 100 && times.iter().all(|times| *times > 5), "{} {times:?}", journal.len());
    assert_same(&mut here, &mut there, L2, &ivf_load::source(1).vectors(3), "after the load");
    assert_committed(&mut there, &journal);
    there.batch_execute("SELECT pg_promote()").unwrap();
    for (index, metric) in [("i", L2), ("c", COSINE)] {
        assert_sound(&mut there, index, "t", metric, "true");
        assert_sound(&mut here, index, "t", metric, "true");
    }
    assert!(!standby.log().contains("inconsistent page"), "{}", standby.log());
}
