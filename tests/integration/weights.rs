//! The weight cache and preloaded models, in whole clusters.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use postgres::Client;

use crate::backend::Backend;
use crate::cluster::{
    Cluster, refused, restarts, rows, signal, skipped, test_data, value, wait_for_recovery, wait_until,
};

const PRELOAD: &str = "shared_preload_libraries = 'pg_embed'";
const WROTE: &str = "to the weight cache";
const FAILED: &str = "could not use the weight cache";
const EMBED: &str = "SELECT embed('tiny-bert', 'hello world')";
const BITS: &str = "SELECT vector_send(embed('tiny-bert', 'hello world'))";

/// What a process that was killed has left.
const BUILDING: &str = "building.1";

fn cache(cluster: &Cluster) -> PathBuf {
    cluster.data().join("pg_embed/pgsql_tmp_weights")
}

/// The folders of the cache that hold a whole entry, in its place.
fn entries(cluster: &Cluster) -> Vec<PathBuf> {
    let Ok(found) = fs::read_dir(cache(cluster)) else { return vec![] };
    let paths = found.map(|entry| entry.unwrap().path());
    paths.filter(|path| !path.ends_with(BUILDING) && path.join("manifest.json").exists()).collect()
}

/// The vector without any cache: what every other way must give, bit by bit.
fn plain_vector(cluster: &Cluster) -> String {
    let mut client = cluster.connect();
    client.batch_execute("LOAD 'pg_embed'; SET pg_embed.weight_cache = off").unwrap();
    bits(&mut client)
}

/// Every bit of a vector.
fn bits(client: &mut Client) -> String {
    value(client, BITS)
}

/// Whether the process has mapped the cache. It may not write there: the kernel would count that as its own memory.
fn maps_the_cache(backend: Backend) -> bool {
    let maps = fs::read_to_string(backend.proc("maps")).unwrap();
    let mut found = maps.lines().filter(|line| line.contains("pgsql_tmp_weights")).peekable();
    found.peek().is_some() && found.all(|line| line.contains(" r--p "))
}

fn count(log: &str, what: &str) -> usize {
    log.matches(what).count()
}

/// Memory that the process shares with nobody, in kilobytes; of files, only what it has changed.
fn private_kilobytes(backend: Backend) -> u64 {
    let rollup = fs::read_to_string(backend.proc("smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn the_first_session_writes_it_and_the_others_map_it() {
    let cluster = Cluster::start();
    let expected = {
        cluster.client();
        plain_vector(&cluster)
    };
    assert!(!cluster.data().join("pg_embed").exists(), "it is off");
    for session in 0..3 {
        let mut client = cluster.connect();
        assert_eq!(bits(&mut client), expected);
        assert!(maps_the_cache(Backend::of(&mut client)));
        assert_eq!(count(&cluster.log(), WROTE), 1, "session {session}: {}", cluster.log());
    }
    // As Postgres's own files.
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let entry = entries(&cluster).remove(0);
    for directory in [cluster.data().join("pg_embed"), cache(&cluster), entry.clone()] {
        assert_eq!(mode(&directory), 0o700, "{}", directory.display());
    }
    for file in fs::read_dir(&entry).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    // Only a superuser decides it.
    cluster.connect().batch_execute("CREATE ROLE somebody LOGIN").unwrap();
    let mut somebody = cluster.connect_as("somebody", "postgres");
    assert_eq!(bits(&mut somebody), expected);
    assert_eq!(refused(&mut somebody, "SET pg_embed.weight_cache = off").sqlstate, "42501");
}

#[test]
fn many_sessions_at_once_on_an_empty_cache_write_it_once() {
    let cluster = Cluster::start();
    cluster.client();
    let expected = plain_vector(&cluster);
    let clients: Vec<Client> = (0..24).map(|_| cluster.connect()).collect();
    std::thread::scope(|scope| {
        for mut client in clients {
            let expected = &expected;
            scope.spawn(move || assert_eq!(&bits(&mut client), expected));
        }
    });
    let log = cluster.log();
    assert_eq!((count(&log, WROTE), count(&log, FAILED)), (1, 0), "{log}");
    assert_eq!(entries(&cluster).len(), 1);
}

#[test]
fn a_session_that_waits_can_be_cancelled() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.simple_query(EMBED).unwrap();
    for entry in entries(&cluster) {
        fs::remove_dir_all(entry).unwrap();
    }
    // As a process that builds for ever.
    let lock = fs::File::open(cache(&cluster).join("lock")).unwrap();
    lock.lock().unwrap();
    let mut client = cluster.connect();
    client.batch_execute("SET statement_timeout = '300ms'").unwrap();
    assert_eq!(refused(&mut client, EMBED).sqlstate, "57014");
    assert_eq!(refused(&mut client, EMBED).sqlstate, "57014");
    lock.unlock().unwrap();
    client.batch_execute("RESET statement_timeout").unwrap();
    client.simple_query(EMBED).unwrap();
    assert_eq!(entries(&cluster).len(), 1);
}

#[test]
fn a_damaged_one_is_written_again() {
    let cluster = Cluster::start();
    cluster.client();
    let expected = plain_vector(&cluster);
    cluster.connect().simple_query(EMBED).unwrap();
    type Damage = fn(&mut Vec<u8>);
    let flip: Damage = |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    let cut: Damage = |bytes| bytes.truncate(bytes.len() - 1);
    let empty: Damage = |bytes| bytes.clear();
    let mut written = 1;
    for (file, damage) in [("weights", flip), ("graph.onnx", cut), ("manifest.json", empty)] {
        let path = entries(&cluster).remove(0).join(file);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        // Damaged on disk, not under the feet of those who have mapped it.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut client = cluster.connect();
        assert_eq!(bits(&mut client), expected, "{file}");
        written += 1;
        assert_eq!(count(&cluster.log(), WROTE), written, "{file}: {}", cluster.log());
        assert!(maps_the_cache(Backend::of(&mut client)));
    }
    fs::remove_file(entries(&cluster).remove(0).join("weights")).unwrap();
    assert_eq!(bits(&mut cluster.connect()), expected);
    assert_eq!(count(&cluster.log(), FAILED), 0);
}

#[test]
fn another_model_of_the_same_name_is_not_served_from_it() {
    let cluster = Cluster::start();
    cluster.client();
    let before = bits(&mut cluster.connect());
    let file = cluster.models().join("tiny-bert/model.onnx");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    // A TensorProto has its name, then a tag, a length of two bytes, and its numbers.
    let name = b"encoder.layer.1.output.LayerNorm.bias";
    let tensor = bytes.windows(name.len()).rposition(|window| window == name).expect("a tensor of the model");
    let number = tensor + name.len() + 3;
    bytes[number + 2] ^= 0x40;
    fs::write(&file, bytes).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    let after = bits(&mut cluster.connect());
    assert_ne!(after, before);
    assert_eq!(after, plain_vector(&cluster));
    assert_eq!(entries(&cluster).len(), 1, "the old one is gone");
    fs::copy(test_data("tiny-bert/model.onnx"), &file).unwrap();
    assert_eq!(bits(&mut cluster.connect()), before);
}

#[test]
fn a_directory_that_cannot_be_written_is_done_without() {
    let cluster = Cluster::start();
    cluster.client();
    let expected = plain_vector(&cluster);
    // A file in its place stops every user, root too.
    fs::write(cluster.data().join("pg_embed"), "").unwrap();
    for session in 1..3 {
        let mut client = cluster.connect();
        assert_eq!(bits(&mut client), expected);
        assert!(!maps_the_cache(Backend::of(&mut client)));
        assert_eq!(count(&cluster.log(), FAILED), session, "{}", cluster.log());
    }
    let mut client = cluster.connect();
    client.batch_execute("LOAD 'pg_embed'; SET pg_embed.weight_cache = off").unwrap();
    assert_eq!(bits(&mut client), expected);
    assert_eq!(count(&cluster.log(), FAILED), 2, "off says nothing");
    // Once it is mended, it is used.
    fs::remove_file(cluster.data().join("pg_embed")).unwrap();
    assert_eq!(bits(&mut cluster.connect()), expected);
    assert_eq!(count(&cluster.log(), WROTE), 1);
    // One that exists, and that only reading is allowed in, serves all the same.
    for path in [cache(&cluster), entries(&cluster).remove(0)] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap();
    }
    let mut client = cluster.connect();
    assert_eq!(bits(&mut client), expected);
    assert!(maps_the_cache(Backend::of(&mut client)));
    // For the one who removes the cluster.
    fs::set_permissions(cache(&cluster), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(entries(&cluster).remove(0), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_disk_that_fills_up_while_it_is_written() {
    let cluster = Cluster::start();
    cluster.client();
    let expected = plain_vector(&cluster);
    let mut client = cluster.connect();
    let backend = Backend::of(&mut client);
    // A file that may not grow is the nearest to a full disk that any user can make.
    let prlimit = "/usr/bin/prlimit";
    if !Path::new(prlimit).exists() {
        return skipped(&format!("a full disk: there is no {prlimit}"));
    }
    cluster.run(prlimit, &["--pid", &backend.pid.to_string(), "--fsize=20000"]);
    assert_eq!(bits(&mut client), expected);
    let log = cluster.log();
    assert_eq!((count(&log, FAILED), count(&log, WROTE)), (1, 0), "{log}");
    let left: Vec<_> =
        fs::read_dir(cache(&cluster)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"], "nothing half-written is left");
    assert_eq!(bits(&mut cluster.connect()), expected);
    assert_eq!(count(&cluster.log(), WROTE), 1);
}

#[test]
fn what_a_crash_left_is_removed() {
    let mut cluster = Cluster::start();
    cluster.client();
    let expected = plain_vector(&cluster);
    // A session of its own, killed somewhere in the middle, again and again.
    for delay in [5, 15, 30] {
        let before = restarts(&cluster);
        let mut client = cluster.connect();
        let backend = Backend::of(&mut client);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(delay));
            signal(backend.pid, libc::SIGKILL);
        });
        let _ = client.simple_query(EMBED);
        killer.join().unwrap();
        wait_for_recovery(&cluster, before);
    }
    // And what a crash at the worst moment leaves.
    let building = cache(&cluster).join(BUILDING);
    fs::create_dir_all(&building).unwrap();
    fs::write(building.join("weights"), "half of the").unwrap();
    for entry in entries(&cluster) {
        fs::remove_dir_all(entry).unwrap();
    }
    open_to_the_server(&cluster);
    assert_eq!(bits(&mut cluster.connect()), expected);
    assert!(!building.exists());
    assert_eq!(entries(&cluster).len(), 1);
    cluster.stop("fast");
    cluster.boot();
    let mut client = cluster.connect();
    assert_eq!(bits(&mut client), expected);
    assert!(maps_the_cache(Backend::of(&mut client)), "the server's start leaves it alone");
}

/// Gives what a test has made in the cache to the server's user.
fn open_to_the_server(cluster: &Cluster) {
    use std::os::unix::fs::{MetadataExt, chown};
    let owner = fs::metadata(cluster.data()).unwrap();
    let building = cache(cluster).join(BUILDING);
    for path in [cluster.data().join("pg_embed"), cache(cluster), building.clone(), building.join("weights")]
    {
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

#[test]
fn a_backup_passes_over_it_and_a_standby_writes_its_own() {
    let cluster = Cluster::start();
    cluster.client();
    let expected = bits(&mut cluster.connect());
    assert_eq!(entries(&cluster).len(), 1);
    let standby = cluster.standby(&[]);
    assert!(!cache(&standby).exists());
    let mut client = standby.connect();
    assert_eq!(value(&mut client, "SELECT pg_is_in_recovery()"), "t");
    assert_eq!(bits(&mut client), expected);
    assert!(maps_the_cache(Backend::of(&mut client)));
    assert_eq!(count(&standby.log(), WROTE), 1, "{}", standby.log());
}

#[test]
fn the_entry_of_a_model_that_is_gone_is_removed() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.simple_query("SELECT embed('tiny-int8', 'hello'), embed('tiny-pooled', 'hello')").unwrap();
    assert_eq!(entries(&cluster).len(), 2);
    fs::remove_dir_all(cluster.models().join("tiny-int8")).unwrap();
    // When another one is written.
    cluster.connect().simple_query(EMBED).unwrap();
    assert_eq!(entries(&cluster).len(), 2);
}

fn preloaded(models: &str, settings: &[&str]) -> Cluster {
    let models = format!("pg_embed.preload_models = '{models}'");
    Cluster::with_settings(&[&[PRELOAD, &models], settings].concat())
}

/// The postmaster of a cluster.
fn postmaster(cluster: &Cluster) -> Backend {
    let file = fs::read_to_string(cluster.data().join("postmaster.pid")).unwrap();
    Backend { pid: file.lines().next().unwrap().parse().unwrap() }
}

#[test]
fn preloaded_models_are_there_from_the_start() {
    let cluster = preloaded("tiny-bert, tiny-pooled,tiny-bert", &[]);
    let log = cluster.log();
    assert_eq!(count(&log, "preloaded model"), 2, "{log}");
    assert_eq!(postmaster(&cluster).threads().len(), 1, "a fork would lose the others");
    let mut client = cluster.client();
    let loaded = "SELECT name FROM embed_models() WHERE loaded ORDER BY 1";
    assert_eq!(rows(&mut client, loaded), [["tiny-bert"], ["tiny-pooled"]]);
    assert_eq!(bits(&mut client), plain_vector(&cluster));
    // Its model folder is not even looked at.
    fs::remove_dir_all(cluster.models().join("tiny-pooled")).unwrap();
    value(&mut cluster.connect(), "SELECT embed('tiny-pooled', 'hello') IS NULL");
    let refusal = refused(&mut client, "SET pg_embed.preload_models = ''");
    assert_eq!(refusal.sqlstate, "55P02", "{refusal:?}");
    assert_eq!(Backend::of(&mut client).threads().len(), 1);
}

#[test]
fn more_threads_than_the_preloaded_model_has() {
    let cluster = preloaded("tiny-bert", &[]);
    let mut client = cluster.client();
    let expected = bits(&mut client);
    for threads in [2, 1, 3, 1] {
        client
            .batch_execute(&format!("SET pg_embed.threads = {threads}; SET pg_embed.cache_size = 0"))
            .unwrap();
        bits(&mut client);
        // A session of threads goes when another one is wanted; the preloaded one stays.
        let running = Backend::of(&mut client).threads().len();
        assert!(running == threads || (threads == 1 && running <= 3), "{running} threads for {threads}");
    }
    assert_eq!(bits(&mut client), expected);
    assert_eq!(postmaster(&cluster).threads().len(), 1);
}

#[test]
fn a_model_that_cannot_be_preloaded_is_a_warning() {
    let cluster = preloaded("no-such-model, ../tiny-bert, broken, tiny-bert, \u{e4}", &[]);
    let log = cluster.log();
    for message in ["model \"no-such-model\" does not exist", "invalid model name \"../tiny-bert\""] {
        assert!(
            log.lines().any(|line| line.contains("WARNING") && line.contains(message)),
            "{message}: {log}"
        );
    }
    assert_eq!(count(&log, "WARNING"), 4, "{log}");
    assert_eq!(count(&log, "preloaded model"), 1, "{log}");
    let mut client = cluster.client();
    assert_eq!(refused(&mut client, "SELECT embed('no-such-model', 'text')").sqlstate, "42704");
    bits(&mut client);
}

#[test]
fn a_library_that_is_gone_after_an_upgrade() {
    let cluster = preloaded("tiny-bert", &["pg_embed.onnxruntime_path = '/nowhere/libonnxruntime.so'"]);
    let warning = "could not load ONNX Runtime from \"/nowhere/libonnxruntime.so\"";
    assert!(cluster.log().lines().any(|line| line.contains("WARNING") && line.contains(warning)));
    let mut client = cluster.client();
    let refusal = refused(&mut client, EMBED);
    assert_eq!((refusal.sqlstate.as_str(), refusal.message.as_str()), ("58P01", warning));
    assert!(refusal.hint.contains("make install"), "{refusal:?}");
    assert_eq!(value(&mut client, "SELECT '[1,2]'::vector <-> '[1,2]'"), "0");
    // Put right, it works in the same session.
    let right = crate::cluster::from_environment("PG_EMBED_TEST_ONNXRUNTIME");
    client.batch_execute(&format!("SET pg_embed.onnxruntime_path = '{}'", right.display())).unwrap();
    bits(&mut client);
}

#[test]
fn preloaded_models_outlive_crashes_and_serve_every_process() {
    let cluster = preloaded("tiny-bert", &["max_parallel_workers = 4", "autovacuum_naptime = '1s'"]);
    let mut client = cluster.client();
    let expected = bits(&mut client);
    for _ in 0..2 {
        let before = restarts(&cluster);
        let mut victim = cluster.connect();
        bits(&mut victim);
        assert!(signal(Backend::of(&mut victim).pid, libc::SIGKILL));
        wait_for_recovery(&cluster, before);
        assert_eq!(bits(&mut cluster.connect()), expected);
    }
    assert_eq!(count(&cluster.log(), "preloaded model"), 1, "the postmaster has not restarted");

    let mut client = cluster.connect();
    client
        .batch_execute(
            "CREATE TABLE docs (id int, body text);
             INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 3000) i;
             CREATE INDEX docs_expression ON docs USING ivf ((embed('tiny-bert', body)::vector(32)));
             ANALYZE docs;
             SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
             SET min_parallel_table_scan_size = 0",
        )
        .unwrap();
    let parallel = "SELECT count(embed('tiny-bert', body || '!')) FROM docs";
    let plan = rows(&mut client, &format!("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {parallel}"));
    assert!(plan.iter().any(|line| line[0].contains("Workers Launched: 2")), "{plan:?}");
    assert_eq!(value(&mut client, parallel), "3000");
    // Autovacuum computes the index's expression when it analyses the table.
    client.batch_execute("INSERT INTO docs SELECT i, 'more ' || i FROM generate_series(1, 3000) i").unwrap();
    wait_until("autovacuum analyses the table", || {
        let query = "SELECT autoanalyze_count > 0 FROM pg_stat_user_tables WHERE relname = 'docs'";
        value(&mut client, query) == "t"
    });
    assert_eq!(bits(&mut client), expected);
}

#[test]
fn the_extension_is_dropped_and_created_in_one_session() {
    for cluster in [Cluster::start(), preloaded("tiny-bert", &[])] {
        let mut client = cluster.client();
        let before = bits(&mut client);
        for _ in 0..3 {
            client.batch_execute("DROP EXTENSION pg_embed; CREATE EXTENSION pg_embed").unwrap();
            assert_eq!(bits(&mut client), before);
        }
        client.batch_execute("BEGIN; DROP EXTENSION pg_embed; ROLLBACK").unwrap();
        assert_eq!(bits(&mut client), before);
    }
}

/// The bars are measured by `make bench`; here, that the order of magnitude is right on a busy machine.
#[test]
fn sessions_share_the_weights() {
    let cluster = Cluster::start();
    let Some(model) = cluster.real_model() else {
        return skipped("memory of a session: no model of real size is installed");
    };
    cluster.client();
    let sql = format!("SELECT embed('{model}', 'hello world')");
    let grown = |cluster: &Cluster, settings: &str| {
        let mut client = cluster.connect();
        client.batch_execute(&format!("LOAD 'pg_embed'; {settings}")).unwrap();
        let backend = Backend::of(&mut client);
        let before = private_kilobytes(backend);
        client.simple_query(&sql).unwrap();
        private_kilobytes(backend).saturating_sub(before)
    };
    let private = grown(&cluster, "SET pg_embed.weight_cache = off");
    grown(&cluster, "");
    let cached = grown(&cluster, "");
    assert!(private > 80 * 1024 && cached < 24 * 1024, "{private} kB without, {cached} kB with the cache");

    let preloaded = Cluster::with_settings(&[PRELOAD, &format!("pg_embed.preload_models = '{model}'"), &{
        let models = crate::cluster::installed_models();
        format!("pg_embed.model_path = '{}'", models.display())
    }]);
    preloaded.client();
    let inherited = grown(&preloaded, "");
    assert!(inherited < 8 * 1024, "{inherited} kB when preloaded");
}
