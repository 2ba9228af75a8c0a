//! `embed`, `embed_query`, `rerank`, `token_count` and `embed_models`. The SQL is in sql/embed.sql; one symbol an overload.

use embedder::{Embedding, Kind, ModelSpec, Task, catalog};
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::array::{ArrayLike, TextArray};
use super::models;
use super::query_model;
use super::text::Text;
use crate::error::{OrRaise, presentable};
use crate::guc;
use crate::vector::VectorBuf;

#[pg_extern(sql = false)]
fn embed(input: Text<'_>) -> Option<VectorBuf> {
    one(None, Kind::Document, &input)
}

#[pg_extern(sql = false)]
fn embed_model(model: Text<'_>, input: Text<'_>) -> Option<VectorBuf> {
    one(Some(&model), Kind::Document, &input)
}

#[pg_extern(sql = false)]
fn embed_query(input: Text<'_>) -> Option<VectorBuf> {
    one(query_model::of_default_model().or_raise().as_deref(), Kind::Query, &input)
}

#[pg_extern(sql = false)]
fn embed_query_model(model: Text<'_>, input: Text<'_>) -> Option<VectorBuf> {
    one(Some(&model), Kind::Query, &input)
}

fn one(model: Option<&str>, kind: Kind, text: &str) -> Option<VectorBuf> {
    let vector = models::embed(model, kind, text, |vector| vector.map(VectorBuf::from_slice)).or_raise();
    vector.transpose().or_raise()
}

#[pg_extern(sql = false)]
fn embed_array(input: TextArray, fcinfo: pg_sys::FunctionCallInfo) -> ArrayLike {
    many(None, &input, fcinfo)
}

#[pg_extern(sql = false)]
fn embed_model_array(model: Text<'_>, input: TextArray, fcinfo: pg_sys::FunctionCallInfo) -> ArrayLike {
    many(Some(&model), &input, fcinfo)
}

fn many(model: Option<&str>, input: &TextArray, fcinfo: pg_sys::FunctionCallInfo) -> ArrayLike {
    let embeddings = models::embed_all(model, &input.texts()).or_raise();
    let vectors = values(&embeddings)
        .map(|vector| Ok(vector.map(VectorBuf::from_slice).transpose()?.map(VectorBuf::into_datum)));
    ArrayLike::new(input, vectors, fcinfo).or_raise()
}

/// The vectors of those texts that have one.
fn values(embeddings: &[Option<Embedding>]) -> impl Iterator<Item = Option<&[f32]>> {
    embeddings.iter().map(|found| found.as_ref()?.vector.as_deref())
}

#[pg_extern(sql = false)]
fn rerank(query: Text<'_>, documents: TextArray, fcinfo: pg_sys::FunctionCallInfo) -> ArrayLike {
    scores(None, &query, &documents, fcinfo)
}

#[pg_extern(sql = false)]
fn rerank_model(
    model: Text<'_>,
    query: Text<'_>,
    documents: TextArray,
    fcinfo: pg_sys::FunctionCallInfo,
) -> ArrayLike {
    scores(Some(&model), &query, &documents, fcinfo)
}

fn scores(
    model: Option<&str>,
    query: &str,
    documents: &TextArray,
    fcinfo: pg_sys::FunctionCallInfo,
) -> ArrayLike {
    let scored = models::rerank(model, query, &documents.texts()).or_raise();
    let scores = values(&scored).map(|score| Ok(score.and_then(|score| score[0].into_datum())));
    ArrayLike::new(documents, scores, fcinfo).or_raise()
}

#[pg_extern(sql = false)]
fn token_count(input: Text<'_>) -> i32 {
    int4(models::token_count(None, &input).or_raise())
}

#[pg_extern(sql = false)]
fn token_count_model(model: Text<'_>, input: Text<'_>) -> i32 {
    int4(models::token_count(Some(&model), &input).or_raise())
}

/// One row a folder of `pg_embed.model_path`; a folder that cannot be used has its reason in `error`.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the columns of the SQL declaration
fn embed_models() -> TableIterator<
    'static,
    (
        name!(name, String),
        name!(task, Option<String>),
        name!(dimensions, Option<i32>),
        name!(max_tokens, Option<i32>),
        name!(pooling, Option<String>),
        name!(document_prefix, Option<String>),
        name!(query_prefix, Option<String>),
        name!(precision, Option<String>),
        name!(twin_of, Option<String>),
        name!(loaded, bool),
        name!(path, Option<String>),
        name!(error, Option<String>),
    ),
> {
    let directory = guc::model_path();
    // SAFETY: asks about the current user.
    let superuser = unsafe { pg_sys::superuser() };
    let rows: Vec<_> = catalog::installed(&directory)
        .into_iter()
        .map(|name| {
            let folder = directory.join(&name);
            let (spec, error) = match ModelSpec::read(&folder) {
                Ok(spec) => (Some(spec), None),
                Err(error) => (None, Some(error.with_reason())),
            };
            let spec = spec.as_ref();
            let encoder = spec.filter(|spec| spec.task == Task::Embed);
            let text = |text: &dyn ToString| presentable(text.to_string());
            let loaded = models::is_loaded(&name);
            (
                presentable(name),
                spec.map(|spec| spec.task.to_string()),
                encoder.map(|spec| int4(spec.dimensions)),
                spec.map(|spec| int4(spec.max_tokens)),
                encoder.map(|spec| spec.pooling.to_string()),
                encoder.map(|spec| text(&spec.document_prefix)),
                encoder.map(|spec| text(&spec.query_prefix)),
                spec.map(|spec| spec.precision.to_string()),
                spec.and_then(|spec| spec.twin_of.as_ref()).map(|name| text(name)),
                loaded,
                superuser.then(|| text(&folder.display())),
                error.map(presentable),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// A count as SQL's integer. No text has so many tokens; a config.json can claim any number.
fn int4(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
