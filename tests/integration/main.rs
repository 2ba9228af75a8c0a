//! Tests that need a real server: its processes, files, settings and clients.
//!
//! `make test` installs the extension into a private copy of Postgres and says where in the environment:
//! PG_EMBED_TEST_BINDIR, PG_EMBED_TEST_ONNXRUNTIME, PG_EMBED_TEST_MODELS.

mod analysis;
mod backend;
mod backfill;
mod bad_models;
mod beside_pgvector;
mod clients;
mod cluster;
mod docs;
mod dump;
mod encodings;
mod image;
mod ivf;
mod ivf_columns;
mod ivf_concurrency;
mod ivf_crash;
mod ivf_ddl;
mod ivf_endurance;
mod ivf_limits;
mod ivf_load;
mod ivf_parallel;
mod ivf_planner;
mod ivf_queries;
mod ivf_recall;
mod ivf_replication;
mod ivf_threshold;
mod ivf_training;
mod limits;
mod network;
mod plans;
mod pressure;
mod privileges;
mod query_model;
mod rerank;
mod runtime;
mod schemas;
mod sharding;
mod smoke;
mod stats;
mod trigger;
mod upgrade;
mod vectorizer;
mod vectorizer_alter;
mod vectorizer_crash;
mod weights;
