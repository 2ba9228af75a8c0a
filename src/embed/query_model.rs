//! `pg_embed.query_model`: a model that embeds search texts in the place of the one that has embedded the documents. Its
//! quantised twin gives nearly the same vectors in a third of the time.

use std::cell::RefCell;
use std::path::PathBuf;

use embedder::{ModelSpec, catalog};

use crate::error::Error;
use crate::guc;

/// What the folders of two models say.
#[derive(Clone, Copy)]
struct Pair {
    /// Of the vectors of the documents' model, and of the query model.
    dimensions: [usize; 2],
    is_twin: bool,
}

/// The query model, if there is one. Errors: [`Error::QueryModel`] if its vectors have other dimensions than those of the default
/// model.
pub fn of_default_model() -> Result<Option<String>, Error> {
    let query_model = guc::query_model();
    if query_model.is_empty() {
        return Ok(None);
    }
    let model = guc::default_model();
    let Pair { dimensions: [expected, found], .. } = pair(&model, &query_model)?;
    if found != expected {
        return Err(Error::QueryModel { query_model, found, model, expected });
    }
    Ok(Some(query_model))
}

/// What embeds the search texts for documents of this model: the query model if it is the model's twin, else the model.
pub fn of(model: String) -> Result<String, Error> {
    let query_model = guc::query_model();
    let is_twin = !query_model.is_empty() && pair(&model, &query_model)?.is_twin;
    Ok(if is_twin { query_model } else { model })
}

/// Looked up once for many rows: files of a model are part of its name.
fn pair(model: &str, query_model: &str) -> Result<Pair, Error> {
    type Key = (PathBuf, String, String);
    thread_local!(static LAST: RefCell<Option<(Key, Pair)>> = const { RefCell::new(None) });
    let model_path = guc::model_path();
    let known = LAST.with_borrow(|last| match last {
        Some(((path, of, query), pair)) if *path == model_path && of == model && query == query_model => {
            Some(*pair)
        }
        _ => None,
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let spec =
        |name| -> Result<ModelSpec, Error> { Ok(ModelSpec::read(&catalog::locate(&model_path, name)?)?) };
    let (documents, queries) = (spec(model)?, spec(query_model)?);
    let pair = Pair {
        dimensions: [documents.dimensions, queries.dimensions],
        is_twin: queries.twin_of.as_deref() == Some(model),
    };
    LAST.set(Some(((model_path, model.to_string(), query_model.to_string()), pair)));
    Ok(pair)
}
