//! The whole page: a private cluster with a small, made-up manual, the program as it is built, a browser.

mod api;
mod browser;
mod cluster;
mod site;
