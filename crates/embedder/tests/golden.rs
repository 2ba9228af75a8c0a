//! Vectors and token ids against what Python's `tokenizers` and `onnxruntime` compute (tests/data/make_*.py).
//!
//! `make test` sets PG_EMBED_TEST_ONNXRUNTIME (the library) and PG_EMBED_TEST_MODELS (a model directory).

use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};

use embedder::{Embedding, Error, Interrupts, Kind, Model, ModelSpec, Options, Pooling};
use serde::Deserialize;
use serde_json::json;

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(file)
}

fn library() -> PathBuf {
    std::env::var_os("PG_EMBED_TEST_ONNXRUNTIME")
        .expect("PG_EMBED_TEST_ONNXRUNTIME names ONNX Runtime's library; `make test` sets it")
        .into()
}

/// A real model's folder; `None`, with a line that says so, where it is not installed.
fn real_model(name: &str) -> Option<PathBuf> {
    let models = PathBuf::from(std::env::var_os("PG_EMBED_TEST_MODELS").unwrap_or_default());
    let folder = models.join(name);
    if folder.join("model.onnx").is_file() {
        return Some(folder);
    }
    // Not eprintln, whose output the test runner keeps to itself when the test passes.
    let line = format!("SKIPPED: model {name} is not installed in {}\n", models.display());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

#[derive(Deserialize)]
struct Expected {
    texts: Vec<ExpectedText>,
}

#[derive(Deserialize)]
struct ExpectedText {
    text: String,
    token_count: usize,
    ids: Option<Vec<u32>>,
    mean: Option<Vec<f32>>,
    mean_unnormalised: Option<Vec<f32>>,
    cls: Option<Vec<f32>>,
    lasttoken: Option<Vec<f32>>,
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    serde_json::from_slice(&std::fs::read(data(file)).unwrap()).unwrap()
}

fn try_open(folder: &Path) -> Result<Model, Error> {
    let options = Options { library: &library(), threads: 1, weight_cache: None };
    Model::open(folder, &options)
}

fn open(folder: &Path) -> Model {
    try_open(folder).unwrap()
}

fn embed(model: &mut Model, texts: &[&str]) -> Vec<Embedding> {
    model.embed(texts, Kind::Document, Interrupts::NONE).unwrap().embeddings
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "element {i}: {a} where {b} was expected");
    }
}

/// A copy of a tiny model folder that a test may change.
fn copy_of(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&data(name), copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn write(folder: &Path, file: &str, content: serde_json::Value) {
    std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
    std::fs::write(folder.join(file), content.to_string()).unwrap();
}

/// Each text alone, then all in one call, twice over: order, duplicates and batching change nothing.
fn check_vectors(
    folder: &Path,
    expected: &Expected,
    pick: fn(&ExpectedText) -> &Option<Vec<f32>>,
    tolerance: f32,
) {
    let mut model = open(folder);
    let mut all: Vec<&str> = expected.texts.iter().map(|t| t.text.as_str()).collect();
    all.extend(all.clone());
    let together = embed(&mut model, &all);
    for (i, text) in expected.texts.iter().enumerate() {
        let alone = embed(&mut model, &[&text.text]).remove(0);
        for found in [&alone, &together[i], &together[i + expected.texts.len()]] {
            match (pick(text), &found.vector) {
                (Some(expected), Some(found)) => assert_close(found, expected, tolerance),
                (expected, found) => assert_eq!(expected.is_none(), found.is_none(), "{:?}", text.text),
            }
            let truncated = text.token_count > model.spec().max_tokens;
            assert_eq!(found.truncated, truncated, "{:?}", text.text);
        }
    }
}

#[test]
fn tiny_bert_mean_cls_and_last_token() {
    let expected: Expected = read("tiny-bert.expected.json");
    // The folder's tokenizer.json asks for padding to 128: obeying it would give other vectors.
    check_vectors(&data("tiny-bert"), &expected, |t| &t.mean, 1e-5);

    let copy = copy_of("tiny-bert");
    write(copy.path(), "1_Pooling/config.json", json!({"pooling_mode_cls_token": true}));
    check_vectors(copy.path(), &expected, |t| &t.cls, 1e-5);
    write(copy.path(), "1_Pooling/config.json", json!({"pooling_mode_lasttoken": true}));
    check_vectors(copy.path(), &expected, |t| &t.lasttoken, 1e-5);

    let transformer = json!({"path": "", "type": "sentence_transformers.models.Transformer"});
    let pooling = json!({"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"});
    write(copy.path(), "modules.json", json!([transformer, pooling]));
    write(copy.path(), "1_Pooling/config.json", json!({"pooling_mode_mean_tokens": true}));
    check_vectors(copy.path(), &expected, |t| &t.mean_unnormalised, 2e-5);
}

#[test]
fn a_model_that_pools_by_itself() {
    check_vectors(&data("tiny-pooled"), &read("tiny-pooled.expected.json"), |t| &t.mean, 1e-5);
}

#[test]
fn a_dynamically_quantized_model_runs_one_text_at_a_time() {
    let expected: Expected = read("tiny-int8.expected.json");
    let spec = ModelSpec::read(&data("tiny-int8")).unwrap();
    assert!(spec.precision.dynamically_quantized);
    assert_eq!(spec.precision.to_string(), "uint8, int8, float32 (dynamically quantized)");
    let mut model = open(&data("tiny-int8"));
    let texts: Vec<&str> = expected.texts.iter().map(|t| t.text.as_str()).collect();
    for (text, together) in texts.iter().zip(embed(&mut model, &texts)) {
        // Bit for bit: a text's vector does not depend on its company.
        assert_eq!(embed(&mut model, &[text]), [together]);
    }
    assert_same_direction(&expected, &embed(&mut model, &texts));
}

/// Between the expected mean pooled vectors and those that were found, of texts that have one.
fn cosines(expected: &Expected, found: &[Embedding]) -> Vec<f32> {
    let both = expected.texts.iter().zip(found);
    both.filter_map(|(text, found)| Some((text.mean.as_ref()?, found.vector.as_ref()?)))
        .map(|(expected, found)| expected.iter().zip(found.iter()).map(|(a, b)| a * b).sum())
        .collect()
}

/// What quantisation leaves open: a rounding may fall the other way on another processor.
#[track_caller]
fn assert_same_direction(expected: &Expected, found: &[Embedding]) {
    let cosines = cosines(expected, found);
    assert!(cosines.iter().all(|cosine| *cosine > 0.999), "{cosines:?}");
}

#[test]
fn a_quantized_twin_gives_a_text_the_same_bits_in_any_company() {
    let expected: Expected = read("tiny-q8.expected.json");
    let mut model = open(&data("tiny-q8"));
    assert_eq!(model.spec().twin_of.as_deref(), Some("tiny-bert"));
    assert!(!model.spec().precision.dynamically_quantized);
    assert_eq!(model.spec().precision.to_string(), "float32, int8");
    let texts: Vec<&str> = expected.texts.iter().map(|t| t.text.as_str()).collect();
    let together = embed(&mut model, &texts);
    for (text, together) in texts.iter().zip(&together) {
        assert_eq!(embed(&mut model, &[text])[0], *together);
    }
    assert_same_direction(&expected, &together);
    // The twin of the same weights: texts are where they were.
    assert_same_direction(&read("tiny-bert.expected.json"), &together);
}

#[test]
fn the_twin_of_a_real_model_is_near_it() {
    let (Some(folder), Some(_)) = (real_model("all-minilm-l6-v2-q8"), real_model("all-minilm-l6-v2")) else {
        return;
    };
    let expected: Expected = read("all-minilm-l6-v2.expected.json");
    let mut model = open(&folder);
    assert_eq!(model.spec().twin_of.as_deref(), Some("all-minilm-l6-v2"));
    let texts: Vec<&str> = expected.texts.iter().map(|t| t.text.as_str()).collect();
    let together = embed(&mut model, &texts);
    for (text, together) in texts.iter().zip(&together) {
        assert_eq!(embed(&mut model, &[text])[0], *together);
    }
    let cosines = cosines(&expected, &together);
    // Measured: .9959 and .982 of 10,000 glosses.
    let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
    assert!(mean > 0.99 && cosines.iter().all(|cosine| *cosine > 0.96), "{cosines:?}");
}

#[test]
fn encoders_of_other_architectures() {
    // float16 has 11 bits.
    for (name, tolerance) in
        [("roberta", 1e-6), ("xlm-roberta", 1e-6), ("distilbert", 1e-6), ("float16", 2e-3)]
    {
        let folder = data("encoders").join(name);
        let expected: Expected = read(&format!("encoders/{name}/expected.json"));
        check_vectors(&folder, &expected, |t| &t.mean, tolerance);
        let model = open(&folder);
        for text in expected.texts.iter().filter(|text| text.mean.is_some()) {
            assert_eq!(model.token_ids(&text.text, Interrupts::NONE).unwrap(), text.ids, "{:?}", text.text);
        }
    }
    let precision = |name: &str| ModelSpec::read(&data("encoders").join(name)).unwrap().precision;
    assert_eq!(precision("float16").to_string(), "float16");
    assert!(!precision("distilbert").weights_inside);
    assert_eq!(precision("distilbert").to_string(), "float32");
}

#[test]
fn a_graph_that_is_no_encoder_is_told_without_loading_it() {
    let reason = |folder: &Path| ModelSpec::read(folder).unwrap_err().with_reason();
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&data("encoders/distilbert"), copy.path());
    let weights = copy.path().join("model.onnx_data");
    let content = || ModelSpec::read(copy.path()).unwrap().content_hash().unwrap();
    let before = content();
    let mut bytes = std::fs::read(&weights).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    assert_ne!(content(), before, "other weights are another model");
    std::fs::remove_file(weights).unwrap();
    assert!(reason(copy.path()).contains("model.onnx_data"), "{}", reason(copy.path()));
    // Names of the same length, so that the file stays whole.
    let cases = [
        ("encoders/float16", "position_ids", "some_numbers", "input \"some_numbers\" is not supported"),
        ("encoders/float16", "attention_mask", "token_type_ids", "the model has no input \"attention_mask\""),
    ];
    for (model, from, to, expected) in cases {
        let copy = copy_of(model);
        let file = copy.path().join("model.onnx");
        let mut bytes = std::fs::read(&file).unwrap();
        for at in 0..bytes.len() - from.len() {
            if bytes[at..].starts_with(from.as_bytes()) {
                bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            }
        }
        std::fs::write(&file, bytes).unwrap();
        assert!(reason(copy.path()).contains(expected), "{}", reason(copy.path()));
        assert!(try_open(copy.path()).is_err());
    }
}

#[test]
fn token_counts_and_ids() {
    for file in ["tiny-bert", "tiny-int8"] {
        let model = open(&data(file));
        let expected: Expected = read(&format!("{file}.expected.json"));
        for text in &expected.texts {
            assert_eq!(
                model.token_count(&text.text, Interrupts::NONE).unwrap(),
                text.token_count,
                "{:?}",
                text.text
            );
            let ids = model.token_ids(&text.text, Interrupts::NONE).unwrap();
            assert_eq!(ids.is_none(), text.mean.is_none(), "{:?}", text.text);
            if let Some(ids) = ids {
                assert_eq!(Some(ids), text.ids, "{:?}", text.text);
            }
        }
    }
}

#[test]
fn gte_small_tokenizer() {
    #[derive(Deserialize)]
    struct File {
        texts: Vec<Text>,
    }
    #[derive(Deserialize)]
    struct Text {
        text: String,
        ids: Vec<u32>,
    }
    // gte-small's tokenizer with the tiny model's weights, and room enough to see every token.
    let copy = copy_of("tiny-bert");
    std::fs::copy(data("gte-small/tokenizer.json"), copy.path().join("tokenizer.json")).unwrap();
    write(copy.path(), "config.json", json!({"hidden_size": 32, "max_position_embeddings": 100_000}));
    std::fs::remove_file(copy.path().join("sentence_bert_config.json")).unwrap();
    let model = open(copy.path());
    for text in read::<File>("gte-small-tokens.json").texts {
        let found = model.token_ids(&text.text, Interrupts::NONE).unwrap();
        // Python gives the bare special tokens where we say that there is nothing to embed.
        assert_eq!(found.unwrap_or(vec![101, 102]), text.ids, "{:.80}", text.text);
        assert_eq!(
            model.token_count(&text.text, Interrupts::NONE).unwrap(),
            text.ids.len(),
            "{:.80}",
            text.text
        );
    }
}

#[test]
fn long_texts_are_tokenized_in_pieces_with_the_same_result() {
    let copy = copy_of("tiny-bert");
    write(copy.path(), "config.json", json!({"hidden_size": 32, "max_position_embeddings": 1_000_000}));
    std::fs::remove_file(copy.path().join("sentence_bert_config.json")).unwrap();
    let model = open(copy.path());
    let whole = tokenizers::Tokenizer::from_file(data("tiny-bert/tokenizer.json")).map(|mut tokenizer| {
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).unwrap();
        tokenizer
    });
    let whole = whole.unwrap();
    for text in [
        "The quick brown fox, they said; jumps over 12 lazy dogs! ".repeat(3000),
        "Ünïcödé wörds wïth äccents ".repeat(3000),
        "日本語の世界と中文".repeat(10_000),
        "あい、うえ。".repeat(10_000),
        "hello\u{b}world\u{85}".repeat(10_000),
        format!("hello{}world", "\n".repeat(100_000)),
        format!("{} tail", "x".repeat(100_000)),
        "a-b".repeat(30_000),
    ] {
        let expected = whole.encode(text.as_str(), true).unwrap();
        assert_eq!(
            model.token_ids(&text, Interrupts::NONE).unwrap().unwrap(),
            expected.get_ids(),
            "{:.40}",
            text
        );
    }
}

#[test]
fn ten_million_characters() {
    let mut model = open(&data("tiny-bert"));
    let start = std::time::Instant::now();
    for text in ["word ", " ", "x", "漢", ".", "\u{1}"] {
        let text = text.repeat(10_000_000 / text.chars().count());
        embed(&mut model, &[&text]);
    }
    // Loose: six texts, and the machine may be busy.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn prefixes_come_from_the_folder() {
    let copy = copy_of("tiny-bert");
    write(
        copy.path(),
        "config_sentence_transformers.json",
        json!({"prompts": {"query": "search: ", "passage": "the day "}, "default_prompt_name": null}),
    );
    let mut plain = open(&data("tiny-bert"));
    let mut prefixed = open(copy.path());
    let expected = embed(&mut plain, &["the day hello", "search: hello"]);
    assert_eq!(embed(&mut prefixed, &["hello"])[0], expected[0]);
    assert_eq!(prefixed.embed(&["hello"], Kind::Query, Interrupts::NONE).unwrap().embeddings[0], expected[1]);
    // A blank text is nothing, with or without a prefix.
    assert_eq!(embed(&mut prefixed, &[" "])[0].vector, None);
}

#[test]
fn the_smallest_maximum_counts() {
    let copy = copy_of("tiny-bert");
    let max_tokens = || ModelSpec::read(copy.path()).unwrap().max_tokens;
    assert_eq!(max_tokens(), 64);
    write(copy.path(), "sentence_bert_config.json", json!({"max_seq_length": 16}));
    assert_eq!(max_tokens(), 16);
    write(copy.path(), "tokenizer_config.json", json!({"model_max_length": 8}));
    assert_eq!(max_tokens(), 8);
    write(copy.path(), "tokenizer_config.json", json!({"model_max_length": 1e30}));
    assert_eq!(max_tokens(), 16);
    write(copy.path(), "sentence_bert_config.json", json!({"max_seq_length": null}));
    write(
        copy.path(),
        "config.json",
        json!({"hidden_size": 32, "max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1}),
    );
    assert_eq!(max_tokens(), 512);
}

#[test]
fn cancelling_unwinds_and_leaves_the_model_usable() {
    let mut model = open(&data("tiny-bert"));
    let before = embed(&mut model, &["hello world"]);
    let texts: Vec<String> = (0..100).map(|i| format!("text number {i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let calls = Cell::new(0);
    let check = || {
        calls.set(calls.get() + 1);
        // Once a text, then once a batch.
        if calls.get() == texts.len() + 1 {
            std::panic::resume_unwind(Box::new("cancelled"));
        }
    };
    let interrupts = Interrupts { check: &check, pending: None };
    let cancelled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        model.embed(&texts, Kind::Document, interrupts)
    }));
    assert!(cancelled.is_err());
    assert_eq!(embed(&mut model, &["hello world"]), before);
}

#[test]
fn broken_folders_are_errors_that_name_the_file() {
    #[track_caller]
    fn refused(copy: &tempfile::TempDir, file: &str, reason: &str) {
        let error = try_open(copy.path()).err().expect("a broken folder must not load");
        let (path, found) = match &error {
            Error::InvalidFile { path, reason } => (path, reason.clone()),
            Error::Unreadable { path, source } => (path, source.to_string()),
            other => panic!("{other:?}"),
        };
        assert!(path.ends_with(file), "{error}: {found}");
        assert!(found.contains(reason), "{error}: {found}");
    }

    for missing in ["config.json", "tokenizer.json", "model.onnx", "1_Pooling/config.json"] {
        let copy = copy_of("tiny-bert");
        std::fs::remove_file(copy.path().join(missing)).unwrap();
        refused(&copy, missing, "");
    }
    for broken in [
        "config.json",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
    ] {
        let copy = copy_of("tiny-bert");
        std::fs::write(copy.path().join(broken), "{\"hidden_size\": ").unwrap();
        refused(&copy, broken, "line 1 column");
    }

    let copy = copy_of("tiny-bert");
    let onnx = std::fs::read(copy.path().join("model.onnx")).unwrap();
    for length in [0, 10, 1000, onnx.len() / 2, onnx.len() - 1] {
        std::fs::write(copy.path().join("model.onnx"), &onnx[..length]).unwrap();
        refused(&copy, "model.onnx", "");
    }
    std::fs::write(copy.path().join("model.onnx"), "not an ONNX file at all, but long enough").unwrap();
    refused(&copy, "model.onnx", "not a whole ONNX file");

    let copy = copy_of("tiny-bert");
    write(copy.path(), "config.json", json!({"hidden_size": 48, "max_position_embeddings": 64}));
    refused(&copy, "model.onnx", "promises 48 dimensions");

    let copy = copy_of("tiny-bert");
    write(copy.path(), "1_Pooling/config.json", json!({"pooling_mode_max_tokens": true}));
    refused(&copy, "1_Pooling/config.json", "exactly one of mean, cls and lasttoken");
    write(
        copy.path(),
        "modules.json",
        json!([{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]),
    );
    refused(&copy, "modules.json", "module type \"Dense\"");
}

#[test]
fn all_minilm_l6_v2() {
    let Some(folder) = real_model("all-minilm-l6-v2") else { return };
    check_vectors(&folder, &read("all-minilm-l6-v2.expected.json"), |t| &t.mean, 1e-5);
    let mut model = open(&folder);
    let published = [-0.034477, 0.031023, 0.006735, 0.026109, -0.039362];
    let vector = embed(&mut model, &["hello world"]).remove(0).vector.unwrap();
    assert_close(&vector[..5], &published, 1e-5);
    assert_eq!(model.spec().pooling, Pooling::Mean);
    assert_eq!(model.spec().precision.to_string(), "float32");
}

#[test]
fn gte_small() {
    #[derive(Deserialize)]
    struct Golden {
        vectors: Vec<GoldenVector>,
    }
    #[derive(Deserialize)]
    struct GoldenVector {
        text: String,
        embedding: Vec<f32>,
    }
    let Some(folder) = real_model("gte-small") else { return };
    let mut model = open(&folder);
    for golden in read::<Golden>("gte-small/golden.json").vectors {
        let vector = embed(&mut model, &[&golden.text]).remove(0).vector.unwrap();
        assert_close(&vector, &golden.embedding, 1e-5);
    }
}
