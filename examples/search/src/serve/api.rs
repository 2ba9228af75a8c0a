//! The same search for programs.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

use super::App;
use super::ask::{Ask, Mode, Parameters};
use super::error::{ApiError, Error, ErrorBody};
use super::search::{self, Hit, Took};

#[derive(Serialize, ToSchema)]
pub struct Found {
    /// What was searched for, without the blanks around it.
    query: String,
    mode: Mode,
    part: Option<i16>,
    limit: i32,
    took_ms: Took,
    /// The best first.
    hits: Vec<Hit>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Search in the PostgreSQL manual",
        description = "Sections of the manual by words and by meaning."
    ),
    paths(search)
)]
struct Description;

/// Sections that answer a question
#[utoipa::path(
    get,
    path = "/api/search",
    params(Parameters),
    responses(
        (status = 200, description = "The sections, the best first", body = Found),
        (status = 400, description = "A parameter cannot be so; the reason is told", body = ErrorBody),
        (status = 503, description = "The database is away, busy or slow: ask again after the seconds in Retry-After", body = ErrorBody),
    )
)]
pub async fn search(
    State(app): State<Arc<App>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Found>, ApiError> {
    let Query(parameters) = parameters.map_err(Error::from)?;
    let ask = Ask::new(&parameters, app.parts().await?.len())?;
    if ask.text.is_empty() {
        return Err(Error::BadRequest("q is missing".to_string()).into());
    }
    let answer = search::search(&app.pool, &ask).await?;
    Ok(Json(Found {
        query: ask.text,
        mode: ask.mode,
        part: ask.part,
        limit: ask.limit,
        took_ms: answer.took,
        hits: answer.hits,
    }))
}

pub async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}

pub async fn not_found() -> ApiError {
    Error::NotFound.into()
}
