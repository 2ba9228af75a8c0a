//! The weight cache with ONNX Runtime: the same vectors with and without it, whatever becomes of its files.
//!
//! `make test` sets PG_EMBED_TEST_ONNXRUNTIME (the library) and PG_EMBED_TEST_MODELS (a model directory).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embedder::{Interrupts, Kind, Model, Options, Weights};
use twox_hash::XxHash3_128;

fn library() -> PathBuf {
    std::env::var_os("PG_EMBED_TEST_ONNXRUNTIME")
        .expect("PG_EMBED_TEST_ONNXRUNTIME names ONNX Runtime's library; `make test` sets it")
        .into()
}

fn data(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(model)
}

fn open(folder: &Path, weight_cache: Option<&Path>, threads: usize) -> Model {
    Model::open(folder, &Options { library: &library(), threads, weight_cache }).unwrap()
}

/// Vectors of texts of several lengths, alone and in batches.
fn vectors(model: &mut Model) -> Vec<Arc<[f32]>> {
    let texts: Vec<String> =
        (0..40).map(|i| format!("text {i}{}", " and more of it".repeat(i % 13))).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let mut found = model.embed(&texts, Kind::Document, Interrupts::NONE).unwrap().embeddings;
    found.extend(model.embed(&texts[..1], Kind::Query, Interrupts::NONE).unwrap().embeddings);
    found.into_iter().map(|embedding| embedding.vector.unwrap()).collect()
}

/// Bit by bit: -0.0 is not 0.0 here.
#[track_caller]
fn assert_same(found: &[Arc<[f32]>], expected: &[Arc<[f32]>]) {
    let bits = |vectors: &[Arc<[f32]>]| -> Vec<Vec<u32>> {
        vectors.iter().map(|vector| vector.iter().map(|x| x.to_bits()).collect()).collect()
    };
    assert!(bits(found) == bits(expected), "other vectors");
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.join("manifest.json").exists()).collect()
}

#[test]
fn vectors_are_the_same_with_and_without() {
    let models = PathBuf::from(std::env::var_os("PG_EMBED_TEST_MODELS").unwrap_or_default());
    let real = ["all-minilm-l6-v2", "gte-small"].map(|name| models.join(name));
    let tiny = ["tiny-bert", "tiny-pooled", "tiny-int8"].map(data);
    let scratch = tempfile::tempdir().unwrap();
    let cache = scratch.path().join("not/there/yet");
    for folder in tiny.iter().chain(&real).filter(|folder| folder.join("model.onnx").is_file()) {
        let mut private = open(folder, None, 1);
        assert_eq!(private.weights(), &Weights::Private);
        let expected = vectors(&mut private);
        for weights in [Weights::Built, Weights::Cached, Weights::Cached] {
            let mut model = open(folder, Some(&cache), 1);
            assert_eq!(model.weights(), &weights, "{}", folder.display());
            assert_same(&vectors(&mut model), &expected);
        }
        // Threads share out the work, so that sums may be taken in another order: the same one with the cache, though.
        let expected = vectors(&mut open(folder, None, 2));
        assert_same(&vectors(&mut open(folder, Some(&cache), 2)), &expected);
    }
    assert!(entries(&cache).len() >= 3);
}

#[test]
fn a_damaged_cache_is_built_again() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = scratch.path();
    let folder = data("tiny-bert");
    let expected = vectors(&mut open(&folder, None, 1));
    assert_eq!(open(&folder, Some(cache), 1).weights(), &Weights::Built);
    type Damage = fn(&mut Vec<u8>);
    let flip: Damage = |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
    };
    let cut: Damage = |bytes| bytes.truncate(bytes.len() / 2);
    let empty: Damage = |bytes| bytes.clear();
    for file in ["weights", "graph.onnx", "manifest.json"] {
        for damage in [flip, cut, empty] {
            let path = entries(cache).remove(0).join(file);
            let mut bytes = fs::read(&path).unwrap();
            damage(&mut bytes);
            // Another inode: who has mapped the old one must not notice.
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            let mut model = open(&folder, Some(cache), 1);
            assert_eq!(model.weights(), &Weights::Built, "{file}");
            assert_same(&vectors(&mut model), &expected);
            assert_eq!(open(&folder, Some(cache), 1).weights(), &Weights::Cached);
        }
    }
}

/// As it was written, but ONNX Runtime does not take it.
#[test]
fn an_entry_that_does_not_load_is_built_again() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = scratch.path();
    let folder = data("tiny-bert");
    let expected = vectors(&mut open(&folder, Some(cache), 1));
    let entry = entries(cache).remove(0);
    let graph = b"no graph";
    fs::write(entry.join("graph.onnx"), graph).unwrap();
    let manifest = entry.join("manifest.json");
    let mut fields: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let hash = format!("{:032x}", XxHash3_128::oneshot(graph));
    fields["graph"] = serde_json::json!({"bytes": graph.len(), "hash": hash});
    fs::write(&manifest, fields.to_string()).unwrap();
    for weights in [Weights::Built, Weights::Cached] {
        let mut model = open(&folder, Some(cache), 1);
        assert_eq!(model.weights(), &weights);
        assert_same(&vectors(&mut model), &expected);
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = data("tiny-bert");
    let expected = vectors(&mut open(&folder, None, 1));
    let file = scratch.path().join("file");
    fs::write(&file, "no directory").unwrap();
    let mut model = open(&folder, Some(&file), 1);
    assert!(matches!(model.weights(), Weights::CacheFailed { reason, .. } if !reason.is_empty()));
    assert_same(&vectors(&mut model), &expected);
}

#[test]
fn another_model_in_the_same_place_is_another_entry() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = scratch.path().join("cache");
    let folder = scratch.path().join("model");
    fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    for file in ["config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json", "model.onnx"] {
        fs::copy(data("tiny-bert").join(file), folder.join(file)).unwrap();
    }
    assert_eq!(open(&folder, Some(&cache), 1).weights(), &Weights::Built);
    // The same length and the same times: a weight more or less.
    let file = folder.join("model.onnx");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let weight = bytes.len() / 2;
    bytes[weight] ^= 1;
    fs::write(&file, bytes).unwrap();
    fs::File::open(&file).unwrap().set_modified(modified).unwrap();
    let expected = vectors(&mut open(&folder, None, 1));
    let mut model = open(&folder, Some(&cache), 1);
    assert_eq!(model.weights(), &Weights::Built);
    assert_same(&vectors(&mut model), &expected);
    assert_eq!(entries(&cache).len(), 1);
}
