//! pg_embed: text embeddings and vector search inside PostgreSQL.
//!
//! This crate is the glue between Postgres and two crates that know nothing of it: `embedder` (text to vector)
//! and `ivf` (vectors to neighbours).

use pgrx::prelude::*;

mod analysis;
mod embed;
mod error;
mod guc;
mod index;
mod panics;
mod spi;
mod vector;
mod vectorizer;

pg_module_magic!();

extension_sql_file!("../sql/alone.sql", name = "alone");
extension_sql_file!("../sql/vector.sql", name = "vector", requires = ["alone"]);
extension_sql_file!("../sql/embed.sql", name = "embed", requires = ["vector"]);
extension_sql_file!("../sql/ivf.sql", name = "ivf", requires = ["embed"]);
extension_sql_file!("../sql/ivf_columns.sql", name = "ivf_columns", requires = ["ivf"]);
extension_sql_file!("../sql/vectorizer.sql", name = "vectorizer", requires = ["ivf_columns"]);
extension_sql_file!("../sql/analysis.sql", name = "analysis", requires = ["vectorizer"]);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    panics::keep_backtraces_out_of_errors();
    guc::register();
    index::register();
    if guc::preloading() {
        embed::stats::share();
        embed::models::preload();
        vectorizer::register_launcher();
    }
}

/// What `cargo pgrx test` needs to know of the cluster it starts.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}
