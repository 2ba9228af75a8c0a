//! Puts the manual into the database, waits for the vectorizer, and makes the index and the map.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls};

use crate::manual::{self, Manual, ManualError};

const SCHEMA: &str = include_str!("../sql/schema.sql");
const VECTORIZER: &str = include_str!("../sql/vectorizer.sql");
const INDEX: &str = include_str!("../sql/index.sql");
const MAP: &str = include_str!("../sql/map.sql");

const A_MOMENT: Duration = Duration::from_millis(250);
const BETWEEN_REPORTS: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Manual(#[from] ManualError),
    #[error("the database refuses: {}", with_cause(.0))]
    Database(#[from] tokio_postgres::Error),
}

/// The server's own words: the error itself says only that there is one.
fn with_cause(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Loads what is not there yet. Whatever is embedded after `wait` will do for a beginning: called again, without a limit, this makes
/// the index and the map anew once the workers have done the rest.
///
/// # Errors
/// The manual cannot be read, or the database refuses.
pub async fn load(database: &Config, directory: &Path, wait: Option<Duration>) -> Result<(), LoadError> {
    let (mut client, connection) = database.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    if !is_loaded(&client).await? {
        let manual = manual::read(directory)?;
        println!("{} sections in {} parts", manual.sections.len(), manual.parts.len());
        fill(&mut client, &manual).await?;
    }
    wait_for_vectors(&client, wait).await?;
    if is_map_stale(&client).await? {
        println!("Making the index, the topics and the map");
        make_index(&client).await?;
        let transaction = client.transaction().await?;
        transaction.batch_execute(MAP).await?;
        transaction.commit().await?;
        client.batch_execute("ANALYZE section, passage, section_map, topic").await?;
    }
    drop(client);
    let _ = connection.await;
    Ok(())
}

async fn is_loaded(client: &Client) -> Result<bool, tokio_postgres::Error> {
    Ok(client.query_one("SELECT to_regclass('passage') IS NOT NULL", &[]).await?.get(0))
}

/// All or nothing, in one transaction.
async fn fill(client: &mut Client, manual: &Manual) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(SCHEMA).await?;
    transaction
        .execute(
            "INSERT INTO part SELECT n, title FROM unnest($1::text[]) WITH ORDINALITY AS t (title, n)",
            &[&manual.parts],
        )
        .await?;
    let sections = &manual.sections;
    let texts = |field: fn(&manual::Section) -> &String| sections.iter().map(field).collect::<Vec<_>>();
    transaction
        .execute(
            "INSERT INTO section (part, id, title, path, breadcrumb, body)
             SELECT * FROM unnest($1::smallint[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[])",
            &[
                &sections.iter().map(|section| section.part).collect::<Vec<_>>(),
                &sections.iter().map(|section| section.id).collect::<Vec<_>>(),
                &texts(|section| &section.title),
                &texts(|section| &section.path),
                &texts(|section| &section.breadcrumb),
                &texts(|section| &section.body),
            ],
        )
        .await?;
    transaction.batch_execute(VECTORIZER).await?;
    transaction.commit().await
}

async fn wait_for_vectors(client: &Client, limit: Option<Duration>) -> Result<(), tokio_postgres::Error> {
    let status = "SELECT rows, embedded, pending, last_error FROM vectorizer_status WHERE name = 'passage'";
    let begin = Instant::now();
    let mut next_report = BETWEEN_REPORTS;
    loop {
        let row = client.query_one(status, &[]).await?;
        let (rows, embedded, pending): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let elapsed = begin.elapsed();
        if pending == 0 {
            return Ok(());
        }
        if limit.is_some_and(|limit| elapsed >= limit) {
            println!("{embedded} of {rows} sections are embedded; the workers go on");
            return Ok(());
        }
        if elapsed >= next_report {
            let error = row.get::<_, Option<String>>(3).map(|error| format!(" ({error})"));
            println!("{embedded} of {rows} sections are embedded{}", error.unwrap_or_default());
            next_report = elapsed + BETWEEN_REPORTS;
        }
        tokio::time::sleep(A_MOMENT).await;
    }
}

/// Whether there are sections with vectors that are not on the map.
async fn is_map_stale(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let stale = "SELECT EXISTS (SELECT part, id FROM passage WHERE ordinal = 1 EXCEPT SELECT part, id FROM section_map)";
    Ok(client.query_one(stale, &[]).await?.get(0))
}

/// An index that is there was trained on a part of the passages. Searches go on while it is trained anew.
async fn make_index(client: &Client) -> Result<(), tokio_postgres::Error> {
    let is_there = "SELECT to_regclass('passage_embedding_idx') IS NOT NULL";
    if client.query_one(is_there, &[]).await?.get(0) {
        client.batch_execute("REINDEX INDEX CONCURRENTLY passage_embedding_idx").await
    } else {
        client.batch_execute(INDEX).await
    }
}
