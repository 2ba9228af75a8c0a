//! pgvector's own Rust client takes our type for its own: by name, in the binary format.

use pgvector::Vector;

use crate::cluster::{Cluster, value};

#[test]
fn values_go_both_ways() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.batch_execute("CREATE TABLE v (id int, embedding vector(3))").unwrap();
    let sent = [vec![1.0, -2.5, 3.25], vec![f32::MIN_POSITIVE, f32::MAX, -0.0], vec![1e-45, 0.1, 0.0]];
    for (id, vector) in (0..).zip(&sent) {
        let vector = Vector::from(vector.clone());
        client.execute("INSERT INTO v VALUES ($1, $2)", &[&id, &vector]).unwrap();
    }
    let received = client.query("SELECT embedding FROM v ORDER BY id", &[]).unwrap();
    for (row, sent) in received.iter().zip(&sent) {
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(row.get::<_, Vector>(0).as_slice()), bits(sent));
    }
    assert_eq!(value(&mut client, "SELECT embedding FROM v WHERE id = 0"), "[1,-2.5,3.25]");
    client.execute("INSERT INTO v VALUES (9, $1)", &[&None::<Vector>]).unwrap();
    let null = client.query_one("SELECT embedding FROM v WHERE id = 9", &[]).unwrap();
    assert_eq!(null.get::<_, Option<Vector>>(0), None);
    // The column's dimensions hold for binary input too.
    let error = client.execute("INSERT INTO v VALUES (4, $1)", &[&Vector::from(vec![1.0])]).unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("22000"), "{error:?}");
}

#[test]
fn arrays_of_vectors() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let texts = ["hello world", "the quick brown fox", "hello world"];
    let row = client.query_one("SELECT embed($1::text[])", &[&&texts[..]]).unwrap();
    let vectors: Vec<Vector> = row.get(0);
    assert_eq!(vectors.len(), 3);
    assert_eq!(vectors[0], vectors[2]);
    for (text, vector) in texts.iter().zip(&vectors) {
        let single: Vector = client.query_one("SELECT embed($1)", &[text]).unwrap().get(0);
        assert_eq!(single.as_slice().len(), 32);
        let distance =
            single.as_slice().iter().zip(vector.as_slice()).map(|(x, y)| (x - y).abs()).sum::<f32>();
        assert!(distance < 1e-5, "{text}: {distance}");
    }
    let with_null = [Some("a"), None, Some(" ")];
    let row = client.query_one("SELECT embed('tiny-bert', $1::text[])", &[&&with_null[..]]).unwrap();
    let vectors: Vec<Option<Vector>> = row.get(0);
    assert_eq!(vectors.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
    // And back.
    let row = client
        .query_one("SELECT $1::vector[] = embed('tiny-bert', $2::text[])", &[&vectors, &&with_null[..]]);
    assert!(row.unwrap().get::<_, bool>(0));
}

#[test]
fn a_vector_parameter_in_a_prepared_search() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client
        .batch_execute(
            "CREATE TABLE docs AS SELECT body, embed(body) AS embedding
               FROM unnest(ARRAY['hello world', 'the quick brown fox', 'a doctor and a patient']) body",
        )
        .unwrap();
    let search =
        client.prepare("SELECT body, embedding <=> $1 FROM docs ORDER BY embedding <=> $1 LIMIT 1").unwrap();
    assert_eq!(search.params()[0].name(), "vector");
    // More than five times: custom plans first, then perhaps a generic one.
    for text in ["hello world", "the quick brown fox", "a doctor and a patient"].repeat(3) {
        let vector: Vector = client.query_one("SELECT embed($1)", &[&text]).unwrap().get(0);
        let row = client.query_one(&search, &[&vector]).unwrap();
        assert_eq!(row.get::<_, &str>(0), text);
        assert!(row.get::<_, f64>(1).abs() < 1e-6);
    }
}
