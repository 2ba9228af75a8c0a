//! Tests that need a real server: its processes, files, settings and clients.
//!
//! `make test` installs the extension into a private copy of Postgres and says where in the environment:
//! PG_EMBED_TEST_BINDIR, PG_EMBED_TEST_ONNXRUNTIME, PG_EMBED_TEST_MODELS.

mod bad_models;
mod cluster;
mod smoke;
