//! A backend that embeds talks to its client and to nobody else, and starts no thread that a signal could reach.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::backend::{Backend, cancel, endless_embedding, status_field};
use crate::cluster::{Cluster, skipped, wait_until};

fn embed_sql(model: Option<&str>) -> String {
    format!("SELECT embed('{}', 'hello world')", model.unwrap_or("tiny-bert"))
}

#[test]
fn the_first_embed_opens_no_socket_and_starts_no_thread() {
    let cluster = Cluster::start();
    cluster.client();
    let sql = embed_sql(cluster.real_model());
    let mut client = cluster.connect();
    let backend = Backend::of(&mut client);
    let before = backend.sockets();
    assert!(!before.is_empty());
    client.simple_query(&sql).unwrap();
    assert_eq!(backend.sockets(), before);
    assert_eq!(backend.threads().len(), 1, "pg_embed.threads is 1");
}

#[test]
fn no_system_call_asks_for_a_connection() {
    let cluster = Cluster::start();
    cluster.client();
    let sql = embed_sql(cluster.real_model());
    let mut client = cluster.connect();
    let backend = Backend::of(&mut client);
    let descriptors: Vec<String> = backend.sockets().into_iter().map(|(descriptor, _)| descriptor).collect();
    let trace = cluster.host().join("trace");
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=network", "-p", &backend.pid.to_string(), "-o"])
        .arg(&trace)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut strace = match strace {
        Ok(strace) => strace,
        Err(error) => return skipped(&format!("tracing a backend's network calls: strace: {error}")),
    };
    let mut gave_up = false;
    wait_until("strace attaches", || {
        gave_up = strace.try_wait().unwrap().is_some();
        gave_up || status_field(backend.proc("status"), "TracerPid") != "0"
    });
    if gave_up {
        return skipped("tracing a backend's network calls: strace may not attach");
    }
    client.simple_query(&sql).unwrap();
    // To the very end: libraries have their say at exit.
    drop(client);
    strace.wait().unwrap();
    let trace = fs::read_to_string(trace).unwrap();
    let calls: Vec<&str> = trace.lines().filter(|line| line.contains('(')).collect();
    assert!(calls.iter().any(|call| call.contains("sendto(")), "strace saw nothing: {trace}");
    for call in calls {
        // "1234 sendto(9, ...": only the client's socket, and only to read and write.
        let (name, arguments) = call.split_once('(').unwrap();
        let name = name.rsplit(' ').next().unwrap();
        let descriptor = arguments.split([',', ')']).next().unwrap();
        assert!(["sendto", "recvfrom", "shutdown"].contains(&name), "{call}");
        assert!(descriptors.iter().any(|known| known == descriptor), "{call}");
    }
}

#[test]
fn extra_threads_block_all_signals_and_a_cancel_works() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let model = cluster.real_model();
    client.batch_execute("SET pg_embed.threads = 3").unwrap();
    client.simple_query(&embed_sql(model)).unwrap();
    let backend = Backend::of(&mut client);
    let blocked = |thread| u64::from_str_radix(&status_field(thread, "SigBlk"), 16).unwrap();
    let (main, extra): (Vec<_>, Vec<_>) = backend
        .threads()
        .into_iter()
        .partition(|thread| thread.file_name().unwrap().to_str() == Some(&backend.pid.to_string()));
    assert_eq!(extra.len(), 2, "three threads compute, one of them the backend's own");
    let signals = [libc::SIGINT, libc::SIGTERM, libc::SIGALRM, libc::SIGUSR1, libc::SIGHUP, libc::SIGQUIT];
    for thread in extra {
        let blocked = blocked(thread.join("status"));
        for signal in signals {
            assert!(blocked & (1 << (signal - 1)) != 0, "signal {signal} is not in {blocked:x}");
        }
    }
    let blocked = blocked(main[0].join("status"));
    assert!(blocked & (1 << (libc::SIGINT - 1)) == 0, "the backend itself must hear signals: {blocked:x}");

    // CPU time of three threads.
    let late = cancel(&mut client, &endless_embedding(model));
    assert!(late < Duration::from_millis(1_500), "{late:?} after the cancel");
    client.simple_query(&embed_sql(model)).unwrap();
}
