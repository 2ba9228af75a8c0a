//! `chunk`: a text as parts that a model can see whole. The SQL is in sql/embed.sql.

use std::ops::Range;

use embedder::chunk::{Chunk, ChunkOptions, Format};
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
    let mut offsets = Offsets::default();
    let rows = chunks.into_iter().zip(1_i32..).map(move |(chunk, ordinal)| {
        let (start, end) = offsets.of(&text, chunk.bytes.clone());
        (ordinal, TextBuf::new(&text[chunk.bytes]), start, end, chunk.tokens as i32)
    });
    TableIterator::new(rows)
}

/// A part of a text, as it is stored.
pub struct Part {
    pub ordinal: i32,
    pub content: String,
    /// As `substr` takes them.
    pub start: i32,
    pub end: i32,
}

impl Part {
    pub fn whole(text: &str) -> Part {
        Part { ordinal: 1, content: text.to_string(), start: 1, end: 1 + characters(text) as i32 }
    }
}

/// The chunks of a text.
pub fn parts(text: &str, chunks: &[Chunk]) -> Vec<Part> {
    let mut offsets = Offsets::default();
    let part = |(chunk, ordinal): (&Chunk, i32)| {
        let (start, end) = offsets.of(text, chunk.bytes.clone());
        Part { ordinal, content: text[chunk.bytes.clone()].to_string(), start, end }
    };
    chunks.iter().zip(1..).map(part).collect()
}

/// Counts the characters of a text up to chunks of it, of which each begins behind the one before.
#[derive(Default)]
struct Offsets {
    /// The last chunk's start, in bytes and in characters from 0. A text has less than 2^30 characters.
    bytes: usize,
    characters: usize,
}

impl Offsets {
    /// The first character of a chunk and the first one behind it, counted from 1.
    fn of(&mut self, text: &str, chunk: Range<usize>) -> (i32, i32) {
        self.characters += characters(&text[self.bytes..chunk.start]);
        self.bytes = chunk.start;
        let start = self.characters + 1;
        (start as i32, (start + characters(&text[chunk])) as i32)
    }
}

/// NULL stands for the default, also where an argument is given.
fn options(
    max_tokens: Option<i32>,
    overlap: Option<i32>,
    format: Option<&str>,
) -> Result<ChunkOptions, ChunkError> {
    let format = format.unwrap_or("plain");
    let number = |name, value: i32| usize::try_from(value).map_err(|_| ChunkError::Negative { name, value });
    Ok(ChunkOptions {
        max_tokens: max_tokens.map(|value| number("max_tokens", value)).transpose()?,
        overlap: number("overlap", overlap.unwrap_or(0))?,
        format: Format::named(format).ok_or_else(|| ChunkError::UnknownFormat(format.to_string()))?,
    })
}
