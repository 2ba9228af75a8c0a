//! A search page over the PostgreSQL manual.
//!
//! `manual` reads the HTML, `load` fills the database, `serve` answers. Only SQL knows of pg_embed: see sql/.

pub mod load;
pub mod manual;
pub mod serve;
