//! The README's tour, run as it stands.

use crate::cluster::{Cluster, skipped};

/// The indented lines of a section.
fn code_of(section: &str) -> String {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("\n## {section}\n")).expect("the README has the section");
    let text = rest.split("\n## ").next().unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("    ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_tour_runs_and_says_what_it_says() {
    let cluster = Cluster::start();
    let Some(model) = cluster.real_model() else {
        return skipped("the README's tour: no model of 384 dimensions is installed");
    };
    let mut client = cluster.client();
    client.batch_execute(&format!("SET pg_embed.default_model = '{model}'")).unwrap();
    let tour = code_of("Five minutes of SQL").replace("'all-minilm-l6-v2'", &format!("'{model}'"));
    assert!(tour.contains("CREATE TRIGGER") && tour.contains("GENERATED ALWAYS"), "{tour}");
    let messages = client.simple_query(&tour).unwrap();
    let rows: Vec<&str> = messages
        .iter()
        .filter_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    // Search, recommendation and classification, in the tour's order.
    let found: Vec<&str> =
        rows.into_iter().filter(|row| row.len() < 30 && row.parse::<f64>().is_err()).collect();
    assert_eq!(found, ["Rain jacket", "Trail shoe", "Trail shoe", "kitchen"]);
}
