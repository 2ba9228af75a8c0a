//! SQL functions that turn text into vectors.
