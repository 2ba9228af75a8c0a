//! The machine ends again and again while everything is at work, with a standby beside: nothing is lost, nothing comes twice.

use std::time::{Duration, Instant};

use postgres::Client;
use postgres::error::SqlState;

use crate::cluster::{Cluster, duration, rows, value};
use crate::ivf::{BY_WHOLE_INDEX, L2, Random, assert_sound, rows_under, search};
use crate::ivf_load::{self, FIRST_OF_CLIENTS, Journal, Load, Row, assert_committed};
use crate::ivf_replication::catch_up;

const ANCHORS: usize = 1_000;

/// `PG_EMBED_TEST_SECONDS=600` kills it more than fifty times.
#[test]
fn killed_again_and_again() {
    // The standby must find what it has not replayed yet. Its pages are compared in ivf_replication: that takes 100 MB of log
    // a second here.
    let settings = ["shared_buffers = 4MB", "max_wal_size = 64MB", "wal_keep_size = 16GB"];
    let mut primary = Cluster::with_settings(&settings);
    let mut client = primary.client();
    ivf_load::make_table(&mut client, ANCHORS, L2, 10);
    let standby = primary.standby(&["hot_standby_feedback = on", "max_standby_streaming_delay = -1"]);
    let mut there = standby.connect();
    let mut readers = Load::start(&standby, 0, 0);
    let mut near = ivf_load::search_near(ANCHORS, 5);
    readers.repeat(&standby, move |client| match near(client) {
        // Lists were replaced under it.
        Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {
            client.batch_execute("ROLLBACK")
        }
        other => other,
    });

    let (end, mut random, mut known) = (Instant::now() + duration(20), Random(31), Journal::new());
    let (mut kills, mut trainings, mut comparisons) = (0, 0, 0);
    while Instant::now() < end {
        // Enough for the seconds of a round.
        let first = FIRST_OF_CLIENTS + 3_000_000 * kills;
        let mut load = Load::start_at(&primary, 3, |number| first + 1_000_000 * number as i32);
        // They take milliseconds here; replay is to keep up.
        load.repeat(&primary, |client| {
            std::thread::sleep(Duration::from_millis(100));
            ivf_load::train(client)
        });
        load.repeat(&primary, |client| {
            std::thread::sleep(Duration::from_millis(50));
            client.batch_execute("VACUUM t")
        });
        load.repeat(&primary, ivf_load::search_near(ANCHORS, kills as usize));
        load.repeat(&primary, ivf_load::compare_whole);
        std::thread::sleep(Duration::from_millis(500 + random.below(5_000) as u64));
        primary.kill();
        kills += 1;
        let (mut journal, times) = load.stop();
        trainings += times[0];
        comparisons += times[3];
        known.append(&mut journal);

        primary.boot();
        client = primary.connect();
        assert_committed(&mut client, &known);
        assert_sound(&mut client, "i", "t", L2, "true");
        client.batch_execute("DELETE FROM t WHERE id >= 1000000 AND id % 3 > 0").unwrap();
        known.iter_mut().filter(|(id, _)| *id % 3 > 0).for_each(|(_, row)| *row = Row::Absent);
    }
    let (_, searches) = readers.stop();
    println!(
        "{kills} kills, {trainings} trainings, {comparisons} comparisons, {searches:?} searches of the standby"
    );
    assert!(kills >= 3 && trainings > kills as u64 && comparisons > 10 && searches[0] > 100);

    // After a long run it may be minutes behind.
    let lag = |there: &mut Client, here: &str| {
        let sql = format!("SELECT greatest(0, '{here}' - pg_last_wal_replay_lsn())::bigint");
        value(there, &sql).parse::<u64>().unwrap()
    };
    let here = value(&mut client, "SELECT pg_current_wal_flush_lsn()");
    let deadline = Instant::now() + duration(20);
    while lag(&mut there, &here) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    catch_up(&mut client, &mut there);
    assert_committed(&mut there, &known);
    let sql = search("t", L2, &ivf_load::source(0).vector(), "");
    assert_eq!(
        rows_under(&mut client, BY_WHOLE_INDEX, &sql),
        rows_under(&mut there, BY_WHOLE_INDEX, &sql),
        "the standby answers otherwise"
    );
    assert_eq!(
        rows(&mut there, "SELECT id FROM t ORDER BY id"),
        rows(&mut client, "SELECT id FROM t ORDER BY id")
    );
    there.batch_execute("SELECT pg_promote()").unwrap();
    assert_sound(&mut there, "i", "t", L2, "true");
    assert_eq!(value(&mut client, "SELECT count(*) FROM ivf_check('i', true)"), "0");
    for cluster in [&primary, &standby] {
        let log = cluster.log();
        assert!(!log.contains("PANIC") && !log.contains("inconsistent page"), "{log}");
    }
}
