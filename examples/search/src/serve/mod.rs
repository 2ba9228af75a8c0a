//! The server: pages, an API, the manual's own files.
//!
//! ```text
//! ask        a request's parameters, checked         database   the pool, statements
//! search     a question answered and timed           snippet    what is shown of a passage
//! pages      search, more like this, EXPLAIN         topics     clusters and the map
//! api        JSON and its description                assets     style sheet and script
//! error      what goes wrong, told as a page, a fragment or JSON
//! ```

mod api;
mod ask;
mod assets;
mod database;
mod error;
mod pages;
mod search;
mod snippet;
mod topics;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::routing::get;
use deadpool_postgres::Pool;
use tokio::sync::OnceCell;
use tower_http::services::ServeDir;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;

use error::Error;

/// Behind the limits of the pool and of the role, so that nothing hangs whatever happens.
const LIMIT: Duration = Duration::from_secs(10);
/// Nothing but this server's own files, and no script or style in the page itself.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The manual has styles in its pages, and no scripts.
const MANUAL_POLICY: &str = "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'";

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the server ended: {0}")]
    Serve(std::io::Error),
    #[error("the pool of connections cannot be made: {0}")]
    Pool(#[from] deadpool_postgres::BuildError),
}

pub struct App {
    pool: Pool,
    parts: OnceCell<Vec<String>>,
}

impl App {
    /// Titles of the manual's parts, in order. They stay as they are while the server runs.
    async fn parts(&self) -> Result<&[String], Error> {
        let read = async || -> Result<Vec<String>, Error> {
            let connection = self.pool.get().await?;
            let rows = connection.query("SELECT title FROM part ORDER BY part", &[]).await?;
            Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
        };
        Ok(self.parts.get_or_try_init(read).await?)
    }
}

/// Answers on a loopback address until Ctrl-C, or until it is told to end. Port 0 is any that is free.
///
/// # Errors
/// The port is taken.
pub async fn serve(database: &tokio_postgres::Config, manual: &Path, port: u16) -> Result<(), ServeError> {
    let app = Arc::new(App { pool: database::pool(database)?, parts: OnceCell::new() });
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })?;
    let address = listener.local_addr().map_err(ServeError::Serve)?;
    println!("The page is at http://{address}/ (Ctrl-C ends it)");
    axum::serve(listener, router(app, manual)).with_graceful_shutdown(end()).await.map_err(ServeError::Serve)
}

fn router(app: Arc<App>, manual: &Path) -> Router {
    let manual = Router::new()
        .fallback_service(ServeDir::new(manual))
        .layer(header_layer(header::CONTENT_SECURITY_POLICY, MANUAL_POLICY));
    let own = Router::new()
        .route("/", get(pages::index))
        .route("/results", get(pages::results))
        .route("/progress", get(pages::progress))
        .route("/like", get(pages::like))
        .route("/explain", get(pages::explain))
        .route("/explain/plan", get(pages::plan))
        .route("/topics", get(topics::topics))
        .route("/map", get(topics::map))
        .route("/api/search", get(api::search))
        .route("/api/openapi.json", get(api::openapi))
        .route("/api/{*rest}", get(api::not_found))
        .route("/style.css", get(assets::style))
        .route("/search.js", get(assets::script))
        .fallback(pages::not_found)
        .layer(header_layer(header::CONTENT_SECURITY_POLICY, POLICY))
        .layer(header_layer(header::CACHE_CONTROL, "no-cache"))
        .with_state(app);
    Router::new()
        .nest_service("/manual", manual)
        .merge(own)
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, LIMIT))
        .layer(header_layer(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header_layer(header::REFERRER_POLICY, "no-referrer"))
}

fn header_layer(name: header::HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

async fn end() {
    let interrupted = tokio::signal::ctrl_c();
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! { _ = interrupted => {}, _ = terminated.recv() => {} }
        }
        Err(_) => {
            let _ = interrupted.await;
        }
    }
}
