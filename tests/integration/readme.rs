//! The README's tour and its sections on filtering, chunks and vectorizers, run as they stand.

use crate::cluster::{Cluster, blocks, in_newer_words, installed_models, rows, skipped, value};

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

/// Each query's plan is the one that is shown, and its answer that of sorting.
#[test]
fn filtering_does_what_it_says() {
    let cluster = Cluster::start();
    let Some(model) = cluster.real_model() else {
        return skipped("the README on filtering: no model of 384 dimensions is installed");
    };
    let mut client = cluster.client();
    client
        .batch_execute(&format!(
            "SET pg_embed.default_model = '{model}'; SET timezone = 'UTC';
             CREATE TABLE tenants (id int PRIMARY KEY, name text, plan text);
             INSERT INTO tenants SELECT i, 'tenant ' || i, CASE i % 10 WHEN 0 THEN 'gold' ELSE 'free' END
                FROM generate_series(1, 30) i;
             CREATE TABLE docs (id int, title text, tenant_id int, created_at timestamptz, tags text[],
                embedding vector(384));
             SELECT setseed(0.5);
             INSERT INTO docs SELECT i, 'text ' || i, i % 30 + 1,
                timestamptz '2026-01-01 00:00+00' + i * interval '20 minutes',
                CASE i % 9 WHEN 0 THEN '{{howto,old}}'::text[] ELSE '{{news}}' END,
                (SELECT array_agg(random() - 0.5 + 0 * i * j) FROM generate_series(1, 384) j)
                FROM generate_series(1, 12000) i;
             ANALYZE tenants"
        ))
        .unwrap();
    let (statements, plans) = (blocks("README.md", "sql filtering"), blocks("README.md", "text plan"));
    client.batch_execute(&statements[0]).unwrap();
    client.batch_execute("ANALYZE docs").unwrap();
    assert_eq!(statements.len(), plans.len() + 1);
    for (statement, plan) in statements[1..].iter().zip(&plans) {
        let (before, explain) = statement.split_once("EXPLAIN (COSTS OFF) ").expect("it is explained");
        client.batch_execute(before).unwrap();
        let shown = rows(&mut client, &format!("EXPLAIN (COSTS OFF) {explain}")).concat().join("\n");
        assert_eq!(in_newer_words(&shown), plan.trim_end(), "{statement}");
        let sql = explain.trim_end().trim_end_matches(';');
        let mut answer = |settings: &str| rows(&mut client, &format!("BEGIN; {settings}; {sql}; ROLLBACK"));
        let exact = answer("SET LOCAL enable_indexscan = off");
        assert_eq!(answer("SET LOCAL ivf.probes = 32768"), exact, "{statement}");
        assert!(exact.len() >= 9 || statement.contains("< 0.6"), "{statement}: {exact:?}");
    }
}

/// Every statement runs, and prints what is shown.
#[test]
fn pipelines_do_what_they_say() {
    let cluster = Cluster::with_settings(&["pg_embed.max_workers = 0"]);
    let Some(model) = cluster.real_model() else {
        return skipped("the README on chunks and vectorizers: no model of 384 dimensions is installed");
    };
    let mut client = cluster.client();
    client.batch_execute(&format!("ALTER DATABASE postgres SET pg_embed.default_model = '{model}'")).unwrap();
    client.batch_execute(&format!("SET pg_embed.default_model = '{model}'")).unwrap();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let mut shown = blocks("README.md", "text answer").into_iter();
    for part in page.split("```sql pipelines\n").skip(1) {
        let (statements, behind) = part.split_once("```").expect("a block ends");
        let last = last_answer(&mut client, statements);
        if behind.trim_start().starts_with("```text answer") {
            let answer = shown.next().expect("as many answers as blocks have one");
            let answer: Vec<&str> = answer.lines().map(str::trim_end).collect();
            assert_eq!(last, answer, "{statements}");
        }
    }
    assert_eq!(shown.next(), None);
}

#[test]
fn a_twin_does_what_it_says() {
    let cluster = Cluster::start();
    let (model, twin) = ("all-minilm-l6-v2", "all-minilm-l6-v2-q8");
    if cluster.real_model() != Some(model) || !installed_models().join(twin).is_dir() {
        return skipped("the README on twins: all-minilm-l6-v2 or its twin is not installed");
    }
    std::os::unix::fs::symlink(installed_models().join(twin), cluster.models().join(twin)).unwrap();
    let mut client = cluster.client();
    client.batch_execute(&format!("SET pg_embed.default_model = '{model}'")).unwrap();
    let answers = blocks("README.md", "text twin answer");
    let statements = blocks("README.md", "sql twin");
    assert_eq!((statements.len(), answers.len()), (2, 2));
    for (statements, answer) in statements.iter().zip(&answers) {
        let last = last_answer(&mut client, statements);
        let answer: Vec<&str> = answer.lines().map(str::trim_end).collect();
        assert_eq!(last, answer, "{statements}");
    }
    let by_twin = format!("SELECT embed_query('x') = embed('{twin}', 'x')");
    assert_eq!(value(&mut client, &by_twin), "t");
}

/// Runs statements one by one, as a procedure that commits cannot be one of several of a query. Returns the last one's lines.
fn last_answer(client: &mut postgres::Client, statements: &str) -> Vec<String> {
    statements.split_inclusive(";\n").map(|statement| lines(client, statement)).last().unwrap_or_default()
}

/// What psql would print of a statement's rows, without their number.
fn lines(client: &mut postgres::Client, statement: &str) -> Vec<String> {
    use postgres::SimpleQueryMessage as Message;
    let messages = client.simple_query(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    let mut table: Vec<Vec<String>> = vec![];
    for message in &messages {
        match message {
            Message::RowDescription(columns) => {
                table.push(columns.iter().map(|column| column.name().to_string()).collect());
            }
            Message::Row(row) => {
                table.push((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_string()).collect());
            }
            _ => {}
        }
    }
    let Some(header) = table.first() else { return vec![] };
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let is_number =
        |column: usize| table.len() > 1 && table[1..].iter().all(|row| row[column].parse::<f64>().is_ok());
    let numbers: Vec<bool> = (0..header.len()).map(is_number).collect();
    let line = |cells: &[String], is_header: bool| {
        let cells = cells.iter().zip(&widths).zip(&numbers).map(|((cell, &width), &number)| {
            match (is_header, number) {
                (true, _) => format!("{cell:^width$}"),
                (false, true) => format!("{cell:>width$}"),
                (false, false) => format!("{cell:<width$}"),
            }
        });
        format!(" {}", cells.collect::<Vec<_>>().join(" | ")).trim_end().to_string()
    };
    let mut lines = vec![line(header, true)];
    lines.push(widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+"));
    lines.extend(table[1..].iter().map(|row| line(row, false)));
    lines
}
