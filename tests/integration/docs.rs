//! The pages for users, README.md and docs/: their SQL is run, prints what they show, and their links lead somewhere.
//!
//! A page has a new cluster and one session. Statements are sent one by one, in order: those of the ```sql blocks, and those of
//! comments that begin with `<!-- sql, run by the test:`, for what a page needs and does not show. A ```text block behind one
//! of ```sql is what the block's last statement prints: what psql would print without the number of rows, a plan without its
//! heading, or an error with its detail and hint. Nothing is done with blocks of ```sh, ```console (what a command shows), ```ini
//! and ```python. docs/sharding.md, which needs several clusters, has a test of its own.
//!
//! With PG_EMBED_TEST_WRITE_DOCS in the environment the pages are written anew with what is printed.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use postgres::types::Type;
use postgres::{Client, SimpleQueryMessage};

use crate::cluster::{Cluster, in_newer_words, installed_models, rows, skipped, value};

const MODEL: &str = "all-minilm-l6-v2";
const TWIN: &str = "all-minilm-l6-v2-q8";

#[test]
fn the_first_page() {
    page_runs("README.md");
}

#[test]
fn installing() {
    page_runs("docs/install.md");
}

#[test]
fn embedding() {
    page_runs("docs/embedding.md");
}

#[test]
fn vectorizers() {
    page_runs("docs/vectorizers.md");
}

#[test]
fn searching() {
    page_runs("docs/search.md");
}

#[test]
fn uses() {
    page_runs("docs/uses.md");
}

#[test]
fn vectors() {
    page_runs("docs/vector.md");
}

#[test]
fn the_index() {
    page_runs("docs/index.md");
}

#[test]
fn operations() {
    page_runs("docs/operations.md");
}

#[test]
fn how_it_works() {
    page_runs("docs/how-it-works.md");
}

/// Each plan's query also finds the rows that sorting finds.
#[test]
fn filtering() {
    let page = "docs/filtering.md";
    let Some(cluster) = cluster_with(page, &[MODEL]) else { return };
    let mut compared = 0;
    run(page, &mut cluster.connect(), |client, statement| {
        let Some(sql) = statement.strip_prefix("EXPLAIN (COSTS OFF) ") else { return };
        let mut answer = |settings: &str| rows(client, &format!("BEGIN; {settings}; {sql}; ROLLBACK"));
        let exact = answer("SET LOCAL enable_indexscan = off");
        assert_eq!(answer("SET LOCAL ivf.probes = 32768"), exact, "{sql}");
        assert!(exact.len() >= 9 || sql.contains("< 0.6"), "{sql}: {exact:?}");
        compared += 1;
    });
    assert!(compared >= 6, "{compared} queries");
}

#[test]
fn models() {
    let page = "docs/models.md";
    let Some(cluster) = cluster_with(page, &[MODEL, TWIN]) else { return };
    let mut client = cluster.connect();
    run(page, &mut client, |_, _| {});
    // The page has turned the twin on.
    let by_twin = format!("SELECT embed_query('x') = embed('{TWIN}', 'x')");
    assert_eq!(value(&mut client, &by_twin), "t");
}

#[test]
fn no_page_is_left_out() {
    let here = include_str!("docs.rs");
    for page in markdown_in("docs") {
        let tested = here.contains(&format!("\"{page}\"")) || page == "docs/sharding.md";
        assert!(tested || blocks(&page).is_empty(), "{page} has SQL that no test runs");
    }
}

/// Those to other places of the repository: that the file is there, and has the heading.
#[test]
fn links_lead_somewhere() {
    let mut pages = markdown_in("docs");
    pages.extend(
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "crates/ivf/README.md", "examples/search/README.md"]
            .map(String::from),
    );
    let mut seen = 0;
    for page in &pages {
        for link in links(&read(page)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target =
                if file.is_empty() { PathBuf::from(page) } else { Path::new(page).with_file_name(file) };
            assert!(root().join(&target).exists(), "{page} links to {link}, which is not there");
            let target = target.to_str().unwrap();
            assert!(
                anchor.is_empty() || anchors(&read(target)).contains(&anchor.to_string()),
                "{page}: {link}"
            );
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} links");
}

#[test]
fn statements_end_at_their_semicolons() {
    let sql = "-- one; more\nSELECT ';' AS \"a;b\"; -- behind\n\nDO $$ BEGIN NULL; END $$;\n-- last;\nSELECT 'é' -- ;\n, 2";
    let expected = ["SELECT ';' AS \"a;b\"", "DO $$ BEGIN NULL; END $$", "SELECT 'é' -- ;\n, 2"];
    assert_eq!(statements(sql), expected);
}

fn page_runs(page: &str) {
    if let Some(cluster) = cluster_with(page, &[MODEL]) {
        run(page, &mut cluster.connect(), |_, _| {});
    }
}

/// A cluster whose default model is MODEL; none, and a word why, where one of the models is not installed.
fn cluster_with(page: &str, models: &[&str]) -> Option<Cluster> {
    for model in models {
        if !installed_models().join(model).is_dir() {
            skipped(&format!("{page}: {model} is not installed"));
            return None;
        }
    }
    let default = format!("pg_embed.default_model = '{MODEL}'");
    // Pages call vectorizer_run instead of waiting for workers.
    let cluster = Cluster::with_settings(&[&default, "pg_embed.max_workers = 0", "timezone = 'UTC'"]);
    for model in models {
        std::os::unix::fs::symlink(installed_models().join(model), cluster.models().join(model)).unwrap();
    }
    Some(cluster)
}

/// Runs a page, and something after each block's last statement.
fn run(page: &str, client: &mut Client, mut after: impl FnMut(&mut Client, &str)) {
    let text = read(page);
    let lines: Vec<&str> = text.lines().collect();
    let mut written: Vec<String> = vec![];
    let mut copied = 0;
    for block in blocks(page) {
        let shown = block.answer.clone().map(|answer| lines[answer].iter().map(|line| line.trim_end()));
        let shown: Option<Vec<&str>> = shown.map(Iterator::collect);
        let may_fail =
            shown.as_ref().is_some_and(|shown| shown.first().is_some_and(|l| l.starts_with("ERROR")));
        let statements = statements(&block.sql);
        let (last, others) = statements.split_last().unwrap_or_else(|| panic!("{page}: {}", block.sql));
        for statement in others {
            printed(client, statement).unwrap_or_else(|error| panic!("{page}: {statement}: {error:?}"));
        }
        let printed = match printed(client, last) {
            Ok(lines) => lines,
            Err(error) if may_fail => error_lines(&error),
            Err(error) => panic!("{page}: {last}: {error:?}"),
        };
        after(client, last);
        let (Some(answer), Some(shown)) = (block.answer, shown) else { continue };
        if std::env::var_os("PG_EMBED_TEST_WRITE_DOCS").is_none() {
            assert_eq!(shown, printed, "{page}: {last}\nprints\n{}", printed.join("\n"));
        }
        written.extend(lines[copied..answer.start].iter().map(|line| line.to_string()));
        written.extend(printed);
        copied = answer.end;
    }
    if std::env::var_os("PG_EMBED_TEST_WRITE_DOCS").is_some() {
        written.extend(lines[copied..].iter().map(|line| line.to_string()));
        std::fs::write(root().join(page), written.join("\n") + "\n").unwrap();
    }
}

/// SQL of a page, and the lines of the page that show what it prints.
struct Block {
    sql: String,
    answer: Option<Range<usize>>,
}

fn blocks(page: &str) -> Vec<Block> {
    let text = read(page);
    let mut lines = text.lines().enumerate();
    let mut blocks: Vec<Block> = vec![];
    // The kind of the block that ended last, unless a paragraph came since.
    let mut before = "";
    while let Some((number, line)) = lines.next() {
        let (kind, end) = match line.strip_prefix("```") {
            Some(kind) => (kind, "```"),
            None if line == "<!-- sql, run by the test:" => ("comment", "-->"),
            None if line.is_empty() => continue,
            None => ("", ""),
        };
        if kind.is_empty() {
            before = "";
            continue;
        }
        let inside: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != end).collect();
        match kind {
            "sql" | "comment" => blocks.push(Block { sql: inside.join("\n"), answer: None }),
            "text" if before == "sql" => {
                blocks.last_mut().unwrap().answer = Some(number + 1..number + 1 + inside.len());
            }
            "ini" | "sh" | "python" | "console" => {}
            other => {
                panic!("{page}, line {}: a block {other:?} that is neither run nor compared", number + 1)
            }
        }
        before = kind;
    }
    blocks
}

/// Cuts SQL at the semicolons that end a statement. Comments before one are left out.
fn statements(sql: &str) -> Vec<&str> {
    let (mut found, mut start, mut position, mut has_words) = (vec![], 0, 0, false);
    // Behind the end of what begins here and hides semicolons.
    let skip = |from: usize, end: &str| sql[from..].find(end).map_or(sql.len(), |at| from + at + end.len());
    while let Some(next) = sql[position..].chars().next() {
        let rest = &sql[position..];
        if rest.starts_with("--") {
            position = skip(position, "\n");
            continue;
        }
        if next == ';' && has_words {
            found.push(sql[start..position].trim());
            (start, has_words) = (position + 1, false);
        } else if !has_words && !next.is_whitespace() {
            // Comments before a statement are not part of it.
            (start, has_words) = (position, true);
        }
        position = match next {
            '\'' => skip(position + 1, "'"),
            '"' => skip(position + 1, "\""),
            '$' if rest.starts_with("$$") => skip(position + 2, "$$"),
            _ => position + next.len_utf8(),
        };
    }
    if has_words {
        found.push(sql[start..].trim());
    }
    found
}

fn printed(client: &mut Client, statement: &str) -> Result<Vec<String>, postgres::Error> {
    let mut header: Option<Vec<String>> = None;
    let mut rows: Vec<Vec<String>> = vec![];
    for message in client.simple_query(statement)? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                header = Some(columns.iter().map(|column| column.name().to_string()).collect());
            }
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_string()).collect());
            }
            _ => {}
        }
    }
    let Some(header) = header else { return Ok(vec![]) };
    if statement.starts_with("EXPLAIN") {
        return Ok(rows.concat().iter().map(|line| in_newer_words(line)).collect());
    }
    let numbers = [Type::INT2, Type::INT4, Type::INT8, Type::FLOAT4, Type::FLOAT8, Type::NUMERIC, Type::OID];
    let columns = client.prepare(statement)?;
    let to_the_right: Vec<bool> = columns.columns().iter().map(|c| numbers.contains(c.type_())).collect();
    Ok(aligned(&header, &rows, &to_the_right))
}

/// A table as psql shows it.
fn aligned(header: &[String], rows: &[Vec<String>], to_the_right: &[bool]) -> Vec<String> {
    let lengths = |column: usize| rows.iter().map(move |row| row[column].chars().count());
    let widths: Vec<usize> =
        (0..header.len()).map(|i| lengths(i).max().unwrap_or(0).max(header[i].chars().count())).collect();
    let cell = |(i, cell): (usize, &String)| match (to_the_right[i], widths[i]) {
        (true, width) => format!("{cell:>width$}"),
        (false, width) => format!("{cell:<width$}"),
    };
    let line = |cells: Vec<String>| format!(" {}", cells.join(" | ")).trim_end().to_string();
    let head = header.iter().zip(&widths).map(|(name, &width)| format!("{name:^width$}"));
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let mut lines = vec![line(head.collect()), rule.join("+")];
    lines.extend(rows.iter().map(|row| line(row.iter().enumerate().map(cell).collect())));
    lines
}

/// An error as psql shows it, without its place in the statement.
fn error_lines(error: &postgres::Error) -> Vec<String> {
    let error = error.as_db_error().unwrap_or_else(|| panic!("the connection broke: {error}"));
    let mut lines = vec![format!("ERROR:  {}", error.message())];
    lines.extend(error.detail().map(|detail| format!("DETAIL:  {detail}")));
    lines.extend(error.hint().map(|hint| format!("HINT:  {hint}")));
    lines.join("\n").lines().map(|line| line.trim_end().to_string()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

fn markdown_in(folder: &str) -> Vec<String> {
    let files = std::fs::read_dir(root().join(folder)).unwrap();
    let names = files.map(|file| format!("{folder}/{}", file.unwrap().file_name().to_str().unwrap()));
    names.filter(|name| name.ends_with(".md")).collect()
}

/// The lines of a page that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

/// Where a page's links lead: what is in the brackets of `[...](...)`, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut links = vec![];
    for line in prose(text) {
        let without_code: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let targets = without_code.split("](").skip(1);
        links.extend(targets.map(|rest| rest.split(')').next().unwrap().to_string()));
    }
    links
}

/// What a page's headings are called in links, as GitHub makes it.
fn anchors(text: &str) -> Vec<String> {
    let mut times: HashMap<String, usize> = HashMap::new();
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let names = headings.map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        let name: String = words.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
        let before = times.entry(name.clone()).or_default();
        *before += 1;
        if *before == 1 { name } else { format!("{name}-{}", *before - 1) }
    });
    names.collect()
}
