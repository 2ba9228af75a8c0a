//! `chunk`: a text as parts that a model can see whole. The SQL is in sql/embed.sql.

use embedder::chunk::{ChunkOptions, Format};
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::models;
use super::text::{Text, TextBuf, characters};
use crate::error::{ChunkError, OrRaise};

/// No rows for a NULL. Offsets are in characters, as `substr` takes them: from 1, and the end is the first character behind.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the columns of the SQL declaration
fn chunk(
    input: Option<Text<'_>>,
    max_tokens: Option<i32>,
    overlap: Option<i32>,
    format: Option<Text<'_>>,
    model: Option<Text<'_>>,
) -> TableIterator<
    'static,
    (
        name!(ordinal, i32),
        name!(content, TextBuf),
        name!(start_offset, i32),
        name!(end_offset, i32),
        name!(tokens, i32),
    ),
> {
    let Some(input) = input else { return TableIterator::empty() };
    let options = options(max_tokens, overlap, format.as_deref()).or_raise();
    let chunks = models::chunk(model.as_deref(), &input, &options).or_raise();
    embedder::ensure_memory(input.len()).or_raise();
    // The argument may be gone when the second row is asked for.
    let text = input.to_string();
    let (mut at, mut start) = (0, 1);
    // A text has less than 2^30 characters.
    let rows = chunks.into_iter().zip(1_i32..).map(move |(chunk, ordinal)| {
        start += characters(&text[at..chunk.bytes.start]);
        at = chunk.bytes.start;
        let content = &text[chunk.bytes];
        let end = start + characters(content);
        (ordinal, TextBuf::new(content), start as i32, end as i32, chunk.tokens as i32)
    });
    TableIterator::new(rows)
}

/// NULL stands for the default, also where an argument is given.
fn options(
    max_tokens: Option<i32>,
    overlap: Option<i32>,
    format: Option<&str>,
) -> Result<ChunkOptions, ChunkError> {
    let format = format.unwrap_or("plain");
    let number = |name, value: i32| {
        usize::try_from(value).map_err(|_| ChunkError::Negative { name, value })
    };
    Ok(ChunkOptions {
        max_tokens: max_tokens.map(|value| number("max_tokens", value)).transpose()?,
        overlap: number("overlap", overlap.unwrap_or(0))?,
        format: Format::named(format).ok_or_else(|| ChunkError::UnknownFormat(format.to_string()))?,
    })
}
