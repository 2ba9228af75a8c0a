//! Scores of pairs against what Python's `tokenizers` and `onnxruntime` compute (tests/data/make_cross_encoder.py).
//!
//! `make test` sets PG_EMBED_TEST_ONNXRUNTIME (the library).

use std::path::{Path, PathBuf};

use embedder::{Error, Interrupts, Kind, Model, ModelSpec, Options, Task};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Expected {
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    query: String,
    document: String,
    tokens: usize,
    truncated: bool,
    logit: f32,
}

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(file)
}

fn expected() -> Vec<Pair> {
    let file = std::fs::read(data("tiny-cross.expected.json")).unwrap();
    serde_json::from_slice::<Expected>(&file).unwrap().pairs
}

fn open(folder: &Path) -> Model {
    let library = std::env::var_os("PG_EMBED_TEST_ONNXRUNTIME")
        .expect("PG_EMBED_TEST_ONNXRUNTIME names ONNX Runtime's library; `make test` sets it");
    Model::open(folder, &Options { library: Path::new(&library), threads: 1, weight_cache: None }).unwrap()
}

fn score(model: &mut Model, query: &str, document: &str) -> f32 {
    let scored = model.rerank(query, &[document], Interrupts::NONE).unwrap();
    scored.embeddings[0].vector.as_ref().unwrap()[0]
}

/// A copy of the tiny cross-encoder, with changed entries in config.json; null takes one away.
fn copy_with(changes: Value) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(data("tiny-cross").join(file), copy.path().join(file)).unwrap();
    }
    let file = copy.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(&file, config.to_string()).unwrap();
    copy
}

/// Each pair alone, then all documents of a query in one call, twice over.
#[test]
fn scores_are_those_of_python_in_any_company() {
    let mut model = open(&data("tiny-cross"));
    let expected = expected();
    assert_eq!(expected.iter().filter(|pair| pair.truncated).count(), 31);
    for pairs in expected.chunk_by(|a, b| a.query == b.query) {
        let documents: Vec<&str> = pairs.iter().chain(pairs).map(|pair| pair.document.as_str()).collect();
        let together = model.rerank(&pairs[0].query, &documents, Interrupts::NONE).unwrap();
        // Each is computed once.
        assert_eq!(together.tokens, pairs.iter().map(|pair| pair.tokens).sum::<usize>());
        for (pair, found) in pairs.iter().chain(pairs).zip(together.embeddings) {
            assert_eq!(found.truncated, pair.truncated, "{:?} {:?}", pair.query, pair.document);
            let vector = found.vector.unwrap();
            assert_eq!(vector.len(), 1);
            let alone = score(&mut model, &pair.query, &pair.document);
            for found in [vector[0], alone] {
                assert!((found - pair.logit).abs() < 1e-5, "{found} for {}", pair.logit);
            }
        }
    }
}

#[test]
fn the_activation_is_that_of_the_folder() {
    let pair = &expected()[0];
    let sigmoid = 1.0 / (1.0 + (-pair.logit).exp());
    let old = "sbert_ce_default_activation_function";
    let cases = [
        (json!({}), pair.logit),
        // Nothing is said.
        (json!({old: null}), sigmoid),
        (json!({old: "torch.nn.modules.activation.Sigmoid"}), sigmoid),
        // What newer versions write comes first.
        (json!({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}), sigmoid),
        (
            json!({old: null, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
            pair.logit,
        ),
    ];
    for (changes, expected) in cases {
        let found = score(&mut open(copy_with(changes.clone()).path()), &pair.query, &pair.document);
        assert!((found - expected).abs() < 1e-5, "{found} for {expected} with {changes}");
    }
    let copy = copy_with(json!({old: "torch.nn.modules.activation.ReLU"}));
    let error = ModelSpec::read(copy.path()).unwrap_err().with_reason();
    assert!(error.contains("activation function \"torch.nn.modules.activation.ReLU\""), "{error}");
}

#[test]
fn a_model_is_for_one_task() {
    let spec = ModelSpec::read(&data("tiny-cross")).unwrap();
    assert_eq!((spec.task.to_string().as_str(), spec.dimensions, spec.max_tokens), ("rerank", 1, 64));
    assert_eq!(ModelSpec::read(&data("tiny-bert")).unwrap().task, Task::Embed);
    let mut cross_encoder = open(&data("tiny-cross"));
    let refused = cross_encoder.embed(&["text"], Kind::Document, Interrupts::NONE).unwrap_err();
    assert!(matches!(refused, Error::WrongTask { .. }));
    assert_eq!(refused.to_string(), "model \"tiny-cross\" is a cross-encoder, which gives scores");
    assert!(cross_encoder.dimensions().is_err());
    let mut encoder = open(&data("tiny-bert"));
    assert_eq!(encoder.dimensions().unwrap(), 32);
    let refused = encoder.rerank("query", &["text"], Interrupts::NONE).unwrap_err();
    assert_eq!(refused.to_string(), "model \"tiny-bert\" is an encoder, which gives vectors");
}

/// A classifier of three classes, such as those that tell whether one text follows from another.
#[test]
fn several_logits_are_no_score() {
    let copy = copy_with(json!({}));
    let file = copy.path().join("model.onnx");
    let mut bytes = std::fs::read(&file).unwrap();
    // The output's shape at the end of the graph: a dimension's value is field 1 of its message.
    let at = bytes.windows(6).rposition(|window| window == b"logits").unwrap();
    let one = at + bytes[at..].windows(2).position(|window| window == [8, 1]).unwrap();
    let one = one + bytes[one + 2..].windows(2).position(|window| window == [8, 1]).unwrap() + 2;
    bytes[one + 1] = 3;
    std::fs::write(&file, bytes).unwrap();
    let error = ModelSpec::read(copy.path()).unwrap_err().with_reason();
    assert!(error.contains("has shape [?, 3], but a cross-encoder has one score for a pair"), "{error}");
}
