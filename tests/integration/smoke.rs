//! The first path a user walks.

use crate::cluster::Cluster;

#[test]
fn trigger_fills_the_column_and_search_finds_the_text() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs (id bigserial PRIMARY KEY, body text, embedding vector(32));
             CREATE TRIGGER docs_embed BEFORE INSERT OR UPDATE ON docs
               FOR EACH ROW EXECUTE FUNCTION embed_trigger('embedding', 'default', 'body');
             INSERT INTO docs (body) VALUES ('the quick brown fox'), ('hello world'), ('a doctor and a patient');",
        )
        .unwrap();
    let row = client
        .query_one(
            "SELECT body, embedding <=> embed('hello world') AS distance FROM docs ORDER BY distance LIMIT 1",
            &[],
        )
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "hello world");
    assert!(row.get::<_, f64>(1).abs() < 1e-6);
}
