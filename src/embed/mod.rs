//! SQL functions that turn text into vectors.

mod array;
pub mod chunk;
mod functions;
mod load;
pub mod models;
mod once;
pub mod query_model;
pub mod stats;
mod support;
pub mod text;
mod trigger;

pub use trigger::vector_type;

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    /// A value of `query`, which has one row with one column.
    fn value<T: FromDatum + IntoDatum>(query: &str) -> T {
        Spi::get_one(query).expect(query).expect(query)
    }

    #[pg_test]
    fn text_is_read_however_it_is_stored() {
        Spi::run(
            "CREATE TEMP TABLE texts (kind text, body text);
             INSERT INTO texts VALUES
               ('short', 'hello world'), ('plain', repeat('hello ', 100)), ('compressed', repeat('hello ', 100000)),
               ('external', repeat('hello ', 100000));
             ALTER TABLE texts ALTER body SET STORAGE external;
             UPDATE texts SET body = body || 'world' WHERE kind = 'external';",
        )
        .expect("the texts are stored");
        for (kind, tokens) in [("short", 4), ("plain", 102), ("compressed", 100_002), ("external", 100_003)] {
            let query = format!("SELECT token_count('tiny-bert', body) FROM texts WHERE kind = '{kind}'");
            assert_eq!(value::<i32>(&query), tokens, "{kind}");
        }
    }

    #[pg_test]
    fn an_error_leaves_the_session_and_its_models_usable() {
        let vector = "SELECT embed('tiny-bert', 'hello world')::text";
        let before = value::<String>(vector);
        for wrong in ["SELECT embed('no-such-model', 'text')", "SELECT embed('a/b', 'text')"] {
            let refused = PgTryBuilder::new(|| {
                Spi::run(wrong).expect(wrong);
                false
            })
            .catch_others(|_| true)
            .execute();
            assert!(refused, "{wrong}");
            assert_eq!(value::<String>(vector), before);
        }
    }

    #[pg_test]
    fn the_cache_changes_no_result() {
        let vector = "SELECT embed('tiny-int8', 'some text')::text";
        let (computed, cached) = (value::<String>(vector), value::<String>(vector));
        Spi::run("SET LOCAL pg_embed.cache_size = 0").expect("a setting anyone may change");
        assert_eq!((computed, cached), (value::<String>(vector), value::<String>(vector)));
    }

    #[pg_test]
    fn what_is_done_is_counted() {
        let counts = || {
            value::<String>(
                "SELECT coalesce(string_agg(concat_ws(',', calls, texts, tokens, truncations, cache_hits), ';'), '')
                 FROM embed_stats() WHERE model = 'tiny-pooled'",
            )
        };
        assert_eq!(counts(), "");
        value::<bool>("SELECT embed('tiny-pooled', 'hello world') IS NOT NULL");
        assert_eq!(counts(), "1,1,4,0,0");
        value::<bool>("SELECT embed('tiny-pooled', ARRAY['hello world', NULL, 'hello world']) IS NOT NULL");
        assert_eq!(counts(), "2,3,8,0,0");
        value::<bool>("SELECT embed('tiny-pooled', 'hello world') IS NOT NULL");
        assert_eq!(counts(), "3,4,8,0,1");
    }

    #[pg_test]
    fn arrays_keep_shape_and_nulls() {
        let query = "SELECT array_to_string(array(SELECT coalesce((v <-> embed('tiny-bert', t) < 1e-5)::text, 'null')
                     FROM unnest(ts, embed('tiny-bert', ts)) AS u(t, v)), ',') || array_dims(embed('tiny-bert', ts))
                     FROM (VALUES ('[0:1][3:4]={{a,NULL},{longer than the others,a}}'::text[])) AS x(ts)";
        assert_eq!(value::<String>(query), "true,null,true,true[0:1][3:4]");
    }
}
