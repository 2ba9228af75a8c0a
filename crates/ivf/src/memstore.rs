//! An index in memory, for tests: it can fail on the nth write.
