//! The machine ends again and again while everything is at work, with a standby beside: nothing is lost, nothing comes twice.

use std::time::{Duration, Instant};

use postgres::error::SqlState;

use crate::cluster::{Cluster, duration, rows, value};
use crate::ivf::{BY_WHOLE_INDEX, L2, Random, assert_sound, rows_under, search};
use crate::ivf_load::{self, FIRST_OF_CLIENTS, Journal, Load, Row, assert_committed};
use crate::ivf_replication::catch_up;

const ANCHORS: usize = 1_000;

/// `PG_EMBED_TEST_SECONDS=600` kills it more than fifty times.
#[test]
fn killed_again_and_again() {
    let settings = [
        "shared_buffers = 4MB",
        "max_wal_size = 64MB",
        "wal_keep_size = 8GB",
        "wal_consistency_checking = 'generic'",
    ];
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
        // A training takes milliseconds here, and its log many times as long to replay with every page compared.
        load.repeat(&primary, |client| {
            std::thread::sleep(Duration::from_millis(100));
            ivf_load::train(client)
        });
        load.repeat(&primary, |client| client.batch_execute("VACUUM t"));
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
