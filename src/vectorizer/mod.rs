//! Rows of text become rows with vectors: those that are there already, and those that change.

mod backfill;
mod catalog;
mod cell;
mod create;
mod embed;
mod enqueue;
mod home;
mod index;
mod locks;
mod manage;
mod pace;
mod progress;
mod queue;
mod run;
mod source;
mod status;
mod table;
mod wake;
mod worker;

pub use worker::register_launcher;
