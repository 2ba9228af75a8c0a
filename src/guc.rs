//! Every setting of pg_embed, with its unit, bounds and reason.

pub fn register() {}
