//! `vectorizer_embed`: the vector of a search text by the model whose vectors a vectorizer has, or by its twin.

use std::cell::RefCell;
use std::ffi::CString;

use embedder::Kind;
use pgrx::{pg_extern, pg_sys};

use super::catalog::Vectorizer;
use super::home::Home;
use crate::embed::text::{self, Text};
use crate::embed::{models, query_model};
use crate::error::{Error, OrRaise};
use crate::spi::Connection;
use crate::vector::VectorBuf;

/// As the statement sees the vectorizer, so that it compares with the vectors that it sees.
#[pg_extern(sql = false)]
fn vectorizer_embed(name: Text<'_>, input: Text<'_>, fcinfo: pg_sys::FunctionCallInfo) -> Option<VectorBuf> {
    // SAFETY: Postgres passes a valid call.
    let home = unsafe { Home::of_call(fcinfo) };
    let [model, content] = model(&home, &text::server(&name)).or_raise();
    embed(model, &content, &input).or_raise()
}

/// The vector of a search text by the model of that name and content, or by its twin.
pub fn embed(model: String, content: &str, text: &str) -> Result<Option<VectorBuf>, Error> {
    let model = query_model::of(model, content)?;
    let take = |vector: Option<&[f32]>| vector.map(VectorBuf::from_slice);
    models::embed(Some(&model), Kind::Query, text, take)?.transpose()
}

/// What tells snapshots apart: of the transactions that are running, the oldest, the one after the newest, and how many (with those
/// within them; on a standby all count so); the command.
type Moment = [u32; 5];

thread_local! {
    /// Of the last look: the name, when, and the model's name and content. A statement without an index calls for each row.
    static LAST: RefCell<Option<(CString, Moment, [String; 2])>> = const { RefCell::new(None) };
}

/// The name and the content of a vectorizer's model.
fn model(home: &Home, name: &CString) -> Result<[String; 2], Error> {
    // SAFETY: a function runs under a snapshot.
    let moment = unsafe {
        let snapshot = &*pg_sys::GetActiveSnapshot();
        let (xmin, xmax) = (snapshot.xmin.into_inner(), snapshot.xmax.into_inner());
        [xmin, xmax, snapshot.xcnt, snapshot.subxcnt as u32, snapshot.curcid]
    };
    let known = LAST.with_borrow(|last| match last {
        Some((of, then, model)) if of == name && *then == moment => Some(model.clone()),
        _ => None,
    });
    if let Some(model) = known {
        return Ok(model);
    }
    let found = Vectorizer::seen_by_name(home, &Connection::open(), name)?;
    found.open_model()?;
    let model = [found.model, found.model_hash];
    LAST.set(Some((name.clone(), moment, model.clone())));
    Ok(model)
}
