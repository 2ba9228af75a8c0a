//! `pg_embed.query_model`: search texts by another model than the documents, as a rule its quantised twin.

use postgres::Client;

use crate::cluster::{Cluster, refused, rows, skipped, test_data, value, wait_until};

/// A cluster with the vectorizer "docs", by tiny-bert, and a session in it.
fn with_vectorizer() -> (Cluster, Client) {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs (id int PRIMARY KEY, body text);
             SELECT vectorizer_create('docs', sources => '{body}', target => 'embedding', name => 'docs')",
        )
        .unwrap();
    (cluster, client)
}

#[test]
fn the_twin_of_a_vectorizers_model_embeds_what_is_searched_for() {
    let (_cluster, mut client) = with_vectorizer();
    let embedded_by = |client: &mut _| {
        let models = "SELECT m FROM unnest('{tiny-bert,tiny-int8,tiny-q8}'::text[]) AS m
                      WHERE vectorizer_embed('docs', 'hello world') = embed(m, 'hello world')";
        value(client, models)
    };
    assert_eq!(embedded_by(&mut client), "tiny-bert");
    client.batch_execute("SET pg_embed.query_model = 'tiny-q8'").unwrap();
    assert_eq!(embedded_by(&mut client), "tiny-q8");
    // Vectors of this one need not compare with those of tiny-bert, whatever their dimensions.
    client.batch_execute("SET pg_embed.query_model = 'tiny-int8'").unwrap();
    assert_eq!(embedded_by(&mut client), "tiny-bert");
    client.batch_execute("SET pg_embed.query_model = 'no-such-model'").unwrap();
    assert_eq!(refused(&mut client, "SELECT vectorizer_embed('docs', 'text')").sqlstate, "42704");
    client.batch_execute("RESET pg_embed.query_model").unwrap();
    assert_eq!(embedded_by(&mut client), "tiny-bert");
}

#[test]
fn the_twin_of_other_files_is_refused() {
    let (cluster, mut client) = with_vectorizer();
    client.batch_execute("SET pg_embed.query_model = 'tiny-q8'").unwrap();
    let by_twin = "SELECT vectorizer_embed('docs', 'text') = embed('tiny-q8', 'text')";
    assert_eq!(value(&mut client, by_twin), "t");
    // The same dimensions, other vectors.
    let file = cluster.models().join("tiny-bert/model.onnx");
    std::fs::copy(test_data("tiny-pooled/model.onnx"), &file).unwrap();
    for mut client in [cluster.client(), cluster.client()] {
        client.batch_execute("SET pg_embed.query_model = 'tiny-q8'").unwrap();
        let refusal = refused(&mut client, "SELECT embed_query('text')");
        assert_eq!(refusal.sqlstate, "55000", "{refusal:?}");
        let message = "query model \"tiny-q8\" was made from other files than model \"tiny-bert\" has";
        assert_eq!(refusal.message, message);
    }
    let changed = "SELECT vectorizer_alter('docs', model => 'tiny-bert')";
    client.batch_execute(changed).unwrap();
    wait_until("the vectors are those of the new files", || {
        value(&mut client, "SELECT count(*) FROM vectorizer_status") == "1"
    });
    // In the session that has used the twin before.
    assert_eq!(value(&mut client, by_twin), "f");
    std::fs::copy(test_data("tiny-bert/model.onnx"), &file).unwrap();
    assert_eq!(value(&mut cluster.client(), "SELECT embed_query('text') IS NOT NULL"), "t");
}

#[test]
fn a_query_model_of_other_dimensions_is_refused() {
    let cluster = Cluster::start();
    let Some(model) = cluster.real_model() else {
        return skipped("a query model of other dimensions: none is installed");
    };
    let mut client = cluster.client();
    client.batch_execute(&format!("SET pg_embed.query_model = '{model}'")).unwrap();
    for _ in 0..2 {
        let refusal = refused(&mut client, "SELECT embed_query('text')");
        assert_eq!(refusal.sqlstate, "22023");
        let message =
            format!("query model \"{model}\" has 384 dimensions, default model \"tiny-bert\" has 32");
        assert_eq!(refusal.message, message);
    }
    // It is about the default model only.
    assert_eq!(value(&mut client, "SELECT vector_dims(embed_query('tiny-bert', 'text'))"), "32");
    client.batch_execute(&format!("SET pg_embed.default_model = '{model}'")).unwrap();
    assert_eq!(value(&mut client, "SELECT vector_dims(embed_query('text'))"), "384");
}

#[test]
fn a_twin_gives_the_same_bits_however_it_is_loaded_and_in_any_company() {
    let cold = Cluster::with_settings(&["pg_embed.weight_cache = off"]);
    let preloaded = Cluster::with_settings(&[
        "shared_preload_libraries = 'pg_embed'",
        "pg_embed.preload_models = 'tiny-q8'",
    ]);
    let alone = "SELECT string_agg(embed('tiny-q8', t)::text, ';' ORDER BY i)
                 FROM (SELECT i, repeat('word ', i) || i AS t FROM generate_series(1, 40) AS i) AS texts";
    let together = "SELECT string_agg(v::text, ';' ORDER BY i)
                    FROM unnest(embed('tiny-q8', ARRAY(SELECT repeat('word ', i) || i FROM generate_series(1, 40) AS i)))
                         WITH ORDINALITY AS u(v, i)";
    let expected = value(&mut cold.client(), alone);
    for cluster in [&cold, &preloaded] {
        for query in [alone, together] {
            assert_eq!(value(&mut cluster.client(), query), expected, "{query}");
        }
    }
    let row = "SELECT twin_of, precision, loaded FROM embed_models() WHERE name = 'tiny-q8'";
    assert_eq!(rows(&mut preloaded.client(), row), [["tiny-bert", "float32, int8", "t"]]);
}
