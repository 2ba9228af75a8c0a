//! What can go wrong with a request, and how a person or a program is told.

use askama::Template;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use deadpool_postgres::PoolError;
use serde::Serialize;
use tokio_postgres::error::SqlState;
use utoipa::ToSchema;

/// Seconds after which it is worth to ask again.
const RETRY_AFTER: &str = "2";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    BadRequest(String),
    #[error("there is no such page")]
    NotFound,
    #[error("the database does not answer; try again in a moment")]
    Away,
    #[error("too many people are searching just now")]
    Busy,
    #[error("the search took longer than the server allows")]
    Slow,
    #[error("something is wrong here; the server's log says what")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    fn status(&self) -> StatusCode {
        match self {
            Error::BadRequest(_) => StatusCode::BAD_REQUEST,
            Error::NotFound => StatusCode::NOT_FOUND,
            Error::Away | Error::Busy | Error::Slow => StatusCode::SERVICE_UNAVAILABLE,
            Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Error::BadRequest(_) => "That cannot be asked",
            Error::NotFound => "Not found",
            Error::Away => "The database is away",
            Error::Busy => "Busy",
            Error::Slow => "That took too long",
            Error::Internal(_) => "An error",
        }
    }

    /// The rest is for the server's own eyes.
    fn log(&self) {
        if let Error::Internal(cause) = self {
            let deeper = cause.source().map(|deeper| format!(": {deeper}"));
            eprintln!("error: {cause}{}", deeper.unwrap_or_default());
        }
    }

    fn respond(self, body: impl IntoResponse) -> Response {
        self.log();
        let status = self.status();
        let mut response = (status, body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Error {
        match error.code() {
            Some(code) if *code == SqlState::QUERY_CANCELED => Error::Slow,
            Some(code)
                if code.code().starts_with("08")
                    || [
                        SqlState::ADMIN_SHUTDOWN,
                        SqlState::CRASH_SHUTDOWN,
                        SqlState::CANNOT_CONNECT_NOW,
                        SqlState::TOO_MANY_CONNECTIONS,
                    ]
                    .contains(code) =>
            {
                Error::Away
            }
            Some(_) => Error::Internal(error.into()),
            // The server has said nothing: there was no connection, or it broke.
            None if error.is_closed() || has_io_cause(&error) => Error::Away,
            None => Error::Internal(error.into()),
        }
    }
}

fn has_io_cause(error: &dyn std::error::Error) -> bool {
    std::iter::successors(error.source(), |cause| cause.source()).any(|cause| cause.is::<std::io::Error>())
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Error {
        match error {
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => Error::Busy,
            PoolError::Timeout(_) | PoolError::Closed => Error::Away,
            error => Error::Internal(error.into()),
        }
    }
}

impl From<QueryRejection> for Error {
    fn from(rejection: QueryRejection) -> Error {
        Error::BadRequest(rejection.body_text())
    }
}

impl From<askama::Error> for Error {
    fn from(error: askama::Error) -> Error {
        Error::Internal(error.into())
    }
}

/// An error as a page.
pub struct PageError(Error);
/// An error in the place of what the script puts into a page.
pub struct FragmentError(Error);
/// An error as JSON.
pub struct ApiError(Error);

/// `?` turns whatever becomes an [`Error`] into these.
impl<E: Into<Error>> From<E> for PageError {
    fn from(error: E) -> PageError {
        PageError(error.into())
    }
}
impl<E: Into<Error>> From<E> for FragmentError {
    fn from(error: E) -> FragmentError {
        FragmentError(error.into())
    }
}
impl<E: Into<Error>> From<E> for ApiError {
    fn from(error: E) -> ApiError {
        ApiError(error.into())
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    title: &'a str,
    reason: &'a str,
}

#[derive(Template)]
#[template(path = "error_fragment.html")]
struct ErrorFragment<'a> {
    title: &'a str,
    reason: &'a str,
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let reason = self.0.to_string();
        let page = ErrorPage { title: self.0.title(), reason: &reason }.render().unwrap_or(reason.clone());
        self.0.respond(Html(page))
    }
}

impl IntoResponse for FragmentError {
    fn into_response(self) -> Response {
        let reason = self.0.to_string();
        let page =
            ErrorFragment { title: self.0.title(), reason: &reason }.render().unwrap_or(reason.clone());
        self.0.respond(Html(page))
    }
}

/// What the API says when it has no answer.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    /// A sentence for whoever reads the program's log.
    error: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: self.0.to_string() };
        self.0.respond(Json(body))
    }
}
