//! Too little memory, many connections at once, and a cancel while a model loads: the server goes on.

use std::time::Duration;

use postgres::{Client, NoTls};

use crate::backend::Backend;
use crate::cluster::{Cluster, refused, restarts, skipped, value, wait_until};

/// Lets a backend have so much more memory; `None`: as much as there is.
fn limit_memory(by: &mut Client, backend: Backend, more_kilobytes: Option<u64>) {
    let limit = match more_kilobytes {
        Some(more) => ((backend.kilobytes("VmSize") + more) * 1024).to_string(),
        None => "unlimited".to_string(),
    };
    // As the server's user. The soft limit only, which can be raised again.
    let prlimit =
        format!("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; prlimit --pid {} --as={limit}:'", backend.pid);
    by.batch_execute(&prlimit).unwrap();
}

#[test]
fn running_out_of_memory_is_an_error() {
    let cluster = Cluster::start();
    let mut other = cluster.client();
    let model = cluster.real_model();
    if model.is_none() {
        skipped("memory of a model of real size: none is installed; tiny-bert stands in for it");
    }
    let model = model.unwrap_or("tiny-bert");
    let embed = format!("SELECT embed('{model}', 'hello world')::text");
    let expected = value(&mut other, &embed);
    let mut refusals = 0;
    // While the library and the model are loaded, from the cache or without it. How far that comes depends on the model.
    for cache in ["on", "off"] {
        for megabytes in [0, 10, 20, 30, 38, 39, 40, 41, 42, 43, 44, 46, 50, 60, 80, 100, 150, 200] {
            let mut client = cluster.connect();
            client.batch_execute(&format!("LOAD 'pg_embed'; SET pg_embed.weight_cache = {cache}")).unwrap();
            let backend = Backend::of(&mut client);
            limit_memory(&mut other, backend, Some(megabytes * 1024));
            if let Err(error) = client.simple_query(&embed) {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{megabytes} MB: {error}"));
                // Out of memory; no thread.
                assert!(["53200", "53000"].contains(&error.code().code()), "{error:?}");
                refusals += 1;
            }
            limit_memory(&mut other, backend, None);
            assert_eq!(value(&mut client, &embed), expected, "{megabytes} MB");
        }
    }
    assert!(refusals > 2, "ONNX Runtime's library alone takes more than 20 MB");
    // While the model runs.
    let mut client = cluster.connect();
    assert_eq!(value(&mut client, &embed), expected);
    let backend = Backend::of(&mut client);
    let many = format!(
        "SELECT count(*) FROM unnest(embed('{model}', ARRAY(SELECT i || repeat(' x', 60) FROM generate_series(1, 20) i)))"
    );
    let mut refusals = 0;
    for kilobytes in (0..64).map(|step| step * 256) {
        limit_memory(&mut other, backend, Some(kilobytes));
        if let Err(error) = client.simple_query(&many) {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{kilobytes} kB: {error}"));
            assert_eq!(error.code().code(), "53200", "{error:?}");
            refusals += 1;
        }
        limit_memory(&mut other, backend, None);
        assert_eq!(value(&mut client, &embed), expected);
    }
    assert!(refusals > 0);
    assert_eq!(value(&mut client, &many), "20");
    // Of many texts, the lists alone are too much.
    let large = "SELECT array_length(embed('tiny-bert', array_fill('x'::text, ARRAY[1000000])), 1)";
    limit_memory(&mut other, backend, Some(150 * 1024));
    assert_eq!(refused(&mut client, large).sqlstate, "53200");
    limit_memory(&mut other, backend, None);
    assert_eq!(value(&mut client, large), "1000000");
    assert_eq!(restarts(&cluster), 0, "{}", cluster.log());
}

#[test]
fn two_hundred_connections_at_once() {
    const CONNECTIONS: usize = 200;
    let cluster = Cluster::with_settings(&["max_connections = 210"]);
    let expected = value(&mut cluster.client(), "SELECT embed('text 7')::text");
    let clients: Vec<Client> = (0..CONNECTIONS).map(|_| cluster.connect()).collect();
    std::thread::scope(|scope| {
        for mut client in clients {
            let expected = &expected;
            scope.spawn(move || {
                let count = "SELECT count(embed(repeat('word ', i % 20) || i)) FROM generate_series(1, 50) i";
                assert_eq!(value(&mut client, count), "50");
                assert_eq!(&value(&mut client, "SELECT embed('text 7')::text"), expected);
            });
        }
    });
    assert!(!cluster.log().contains("ERROR"), "{}", cluster.log());
}

#[test]
fn a_cancel_while_a_model_loads() {
    let cluster = Cluster::start();
    cluster.client();
    let Some(model) = cluster.real_model() else {
        return skipped("a cancel while a model loads: no model of real size is installed");
    };
    let embed = format!("SELECT embed('{model}', 'hello world')::text");
    let cache = cluster.data().join("pg_embed");
    let mut expected = None;
    for (loads_before, cancel_after) in [20, 60, 100, 150, 200, 300, 400].into_iter().enumerate() {
        let _ = std::fs::remove_dir_all(&cache);
        let mut client = cluster.connect();
        client.batch_execute(&format!("LOAD 'pg_embed'; SET statement_timeout = {cancel_after}")).unwrap();
        let backend = Backend::of(&mut client);
        match client.simple_query(&embed) {
            Err(error) => {
                assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
                // Not because it was done: it goes on. Later ones may have been.
                assert!(cancel_after > 100 || backend.threads().len() > 1, "after {cancel_after} ms");
            }
            Ok(_) => assert!(cancel_after > 100, "all of it in {cancel_after} ms"),
        }
        // The session has not lost what was done so far, also where it wants another model first.
        client.batch_execute("RESET statement_timeout").unwrap();
        assert_eq!(refused(&mut client, "SELECT embed('no-such-model', 'text')").sqlstate, "42704");
        if cancel_after % 100 == 0 {
            client.simple_query("SELECT embed('tiny-bert', 'another model')").unwrap();
        }
        let vector = value(&mut client, &embed);
        assert_eq!(&vector, expected.get_or_insert_with(|| vector.clone()));
        let loads = cluster.log().matches(&format!("loaded model \"{model}\"")).count();
        assert_eq!(loads, loads_before + 1, "{}", cluster.log());
    }
}

/// Also one that arrives while the load is written to the log, or while its error is raised.
#[test]
fn a_cancel_at_any_moment() {
    let cluster = Cluster::start();
    let expected = value(&mut cluster.client(), "SELECT embed('hello world')::text");
    std::fs::create_dir(cluster.models().join("broken")).unwrap();
    let mut cancelled = 0;
    for microseconds in (0..80).map(|step| step * 500) {
        let mut client = cluster.connect();
        let token = client.cancel_token();
        client.batch_execute("LOAD 'pg_embed'").unwrap();
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(microseconds));
            token.cancel_query(NoTls).unwrap();
        });
        for statement in ["SELECT embed('hello world')::text", "SELECT embed('broken', 'text')"] {
            if let Err(error) = client.simple_query(statement) {
                let code = error.code().map(|code| code.code().to_string());
                assert!(["57014", "58P01"].contains(&code.as_deref().unwrap()), "{error:?}");
                cancelled += usize::from(code.as_deref() == Some("57014"));
            }
        }
        canceller.join().unwrap();
        // A cancel that came after both may meet this one.
        let _ = client.simple_query("SELECT pg_sleep(0.02)");
        assert_eq!(value(&mut client, "SELECT embed('hello world')::text"), expected);
    }
    assert!(cancelled > 0);
}

#[test]
fn a_connection_that_ends_while_a_model_loads() {
    let cluster = Cluster::start();
    let mut other = cluster.client();
    let Some(model) = cluster.real_model() else {
        return skipped("the end of a connection while a model loads: no model of real size is installed");
    };
    let embed = format!("SELECT embed('{model}', 'hello world')");
    for ends in ["SELECT pg_terminate_backend($1)", "statement_timeout", "SELECT pg_cancel_backend($1)"] {
        let _ = std::fs::remove_dir_all(cluster.data().join("pg_embed"));
        let mut client = cluster.connect();
        let backend = Backend::of(&mut client);
        if ends == "statement_timeout" {
            client.batch_execute("LOAD 'pg_embed'; SET statement_timeout = 100").unwrap();
        }
        let statement = std::thread::spawn({
            let embed = embed.clone();
            move || client.simple_query(&embed).map(|_| ())
        });
        if ends != "statement_timeout" {
            wait_until("the model is loaded", || backend.threads().len() > 1);
            other.execute(ends, &[&backend.pid]).unwrap();
        }
        // The client goes as soon as it has its answer, and with it the process.
        statement.join().unwrap().expect_err("the statement is ended");
        wait_until("the process ends", || !backend.proc("status").exists());
    }
    assert_eq!(restarts(&cluster), 0, "{}", cluster.log());
    assert!(!cluster.log().contains("onnxruntime"), "{}", cluster.log());
    other.simple_query(&embed).unwrap();
}
