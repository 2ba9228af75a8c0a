//! A question, answered and timed.

use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Pool};
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use super::ask::{Ask, Like};
use super::database::Statement;
use super::error::Error;
use super::snippet::Snippet;

/// A section that was found.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Hit {
    pub part: i16,
    pub id: i32,
    pub title: String,
    /// The address of the section in the manual that this server has.
    pub url: String,
    /// What is above it in the manual, the part left out.
    pub breadcrumb: String,
    pub snippet: Snippet,
    /// More is better; of use only to compare hits of one answer.
    pub score: f64,
}

impl Hit {
    fn new(row: &Row) -> Result<Hit, tokio_postgres::Error> {
        let title: String = row.try_get("title")?;
        let (before, passage, after): (Option<&str>, &str, Option<&str>) =
            (row.try_get("before")?, row.try_get("passage")?, row.try_get("after")?);
        let snippet = Snippet::new(&title, before.unwrap_or_default(), passage, after.unwrap_or_default());
        Ok(Hit {
            part: row.try_get("part")?,
            id: row.try_get("id")?,
            title,
            url: url(row.try_get("path")?),
            breadcrumb: row.try_get("breadcrumb")?,
            snippet,
            score: row.try_get("score")?,
        })
    }
}

/// Where this server has a section of the manual.
pub fn url(path: &str) -> String {
    format!("/manual/{path}")
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Took {
    /// For a connection, the two statements, and reading what they return.
    pub total: f64,
    /// To turn the question into a vector.
    pub embed: f64,
    /// To find the sections.
    pub search: f64,
}

pub struct Answer {
    pub hits: Vec<Hit>,
    pub took: Took,
    pub statement: Statement,
}

/// # Errors
/// The database is away, busy or slow.
pub async fn search(pool: &Pool, ask: &Ask) -> Result<Answer, Error> {
    let begin = Instant::now();
    let connection = pool.get().await?;
    let mut embed = Duration::ZERO;
    if ask.mode.embeds() {
        let embedding = Instant::now();
        embed_question(&connection, &ask.text).await?;
        embed = embedding.elapsed();
    }
    answer(begin, embed, &connection, ask.statement()).await
}

/// # Errors
/// The database is away, busy or slow.
pub async fn like(pool: &Pool, like: Like) -> Result<Answer, Error> {
    let begin = Instant::now();
    let connection = pool.get().await?;
    answer(begin, Duration::ZERO, &connection, like.statement()).await
}

async fn answer(
    begin: Instant,
    embed: Duration,
    connection: &Object,
    statement: Statement,
) -> Result<Answer, Error> {
    let searching = Instant::now();
    let rows = statement.run(connection).await?;
    let search = searching.elapsed();
    let hits = rows.iter().map(Hit::new).collect::<Result<_, _>>()?;
    let took = Took {
        total: milliseconds(begin.elapsed()),
        embed: milliseconds(embed),
        search: milliseconds(search),
    };
    Ok(Answer { hits, took, statement })
}

/// The statement that searches embeds the question by itself. Done before, on the same connection, it can be timed: the session keeps
/// the vector, and does not compute it again.
async fn embed_question(connection: &Object, text: &str) -> Result<(), Error> {
    let embed = connection.prepare_cached("SELECT vectorizer_embed('passage', $1) IS NULL").await?;
    connection.query_one(&embed, &[&text]).await?;
    Ok(())
}

/// With a tenth, as the page shows them.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
