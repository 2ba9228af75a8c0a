//! `pg_embed.query_model`: a model that embeds search texts in the place of the one that has embedded the documents. Its
//! quantised twin gives nearly the same vectors in less than half of the time.

use std::cell::RefCell;
use std::path::PathBuf;

use super::models;
use crate::error::Error;
use crate::guc;

/// What the files of two models say.
#[derive(Clone, Copy)]
struct Pair {
    /// Of the vectors of the documents' model, and of the query model.
    dimensions: [usize; 2],
    kinship: Kinship,
}

#[derive(Clone, Copy, PartialEq)]
enum Kinship {
    Twin,
    /// The query model was made from files that the model has no more.
    OfOtherFiles,
    None,
}

/// The query model, if there is one.
///
/// Errors: [`Error::QueryModel`] if its vectors have other dimensions than those of the default model; [`Error::StaleTwin`].
pub fn of_default_model() -> Result<Option<String>, Error> {
    let query_model = guc::query_model();
    if query_model.is_empty() {
        return Ok(None);
    }
    let model = guc::default_model();
    let Pair { dimensions: [expected, found], kinship } = pair(&model, "", &query_model)?;
    if found != expected {
        return Err(Error::QueryModel { query_model, found, model, expected });
    }
    if kinship == Kinship::OfOtherFiles {
        return Err(Error::StaleTwin { query_model, model });
    }
    Ok(Some(query_model))
}

/// What embeds the search texts for documents of this model, whose content is given: the query model if it is the model's twin, else
/// the model.
pub fn of(model: String, content_hash: &str) -> Result<String, Error> {
    let query_model = guc::query_model();
    let is_twin =
        !query_model.is_empty() && pair(&model, content_hash, &query_model)?.kinship == Kinship::Twin;
    Ok(if is_twin { query_model } else { model })
}

/// Looked up once for many rows: files of a model are part of its name, or of its content.
fn pair(model: &str, content_hash: &str, query_model: &str) -> Result<Pair, Error> {
    type Key = (PathBuf, [String; 3]);
    thread_local!(static LAST: RefCell<Option<(Key, Pair)>> = const { RefCell::new(None) });
    let (model_path, names) = (guc::model_path(), [model, content_hash, query_model]);
    let known = LAST.with_borrow(|last| match last {
        Some(((path, of), pair)) if *path == model_path && *of == names => Some(*pair),
        _ => None,
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let (documents, queries) = (models::spec_now(model)?, models::spec_now(query_model)?);
    let kinship = if queries.is_twin_of(&documents)? {
        // What this session has loaded may have been the twin of other files.
        models::open_version(query_model, &queries.content_hash()?)?;
        Kinship::Twin
    } else if queries.twin_of.as_deref() == Some(model) {
        Kinship::OfOtherFiles
    } else {
        Kinship::None
    };
    let pair = Pair { dimensions: [documents.dimensions, queries.dimensions], kinship };
    LAST.set(Some(((model_path, names.map(str::to_string)), pair)));
    Ok(pair)
}
