//! Rows of text become rows with vectors: those that are there already, and those that change.

mod backfill;
mod embed;
mod home;
mod progress;
mod table;
