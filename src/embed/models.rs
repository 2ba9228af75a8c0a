//! Embeds with the models of this session, with a cache of recent results.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use embedder::cache::{Cache, Key};
use embedder::chunk::{Chunk, ChunkOptions};
use embedder::{Embedded, Embedding, Interrupts, Kind, Model, ModelSpec, catalog};
use pgrx::{PgLogLevel, pg_sys};

use super::load::{Loaded, Models};
use super::stats::{self, Counts};
use crate::error::Error;
use crate::guc::{self, OnTruncate};

#[derive(Default)]
struct Session {
    models: Models,
    cache: Cache,
}

thread_local! {
    /// Never dropped: a backend that exits must not run ONNX Runtime's destructors.
    static SESSION: ManuallyDrop<RefCell<Session>> = ManuallyDrop::new(RefCell::default());
}

/// Embeds one text. `model`: a name, or `None` for `pg_embed.default_model`.
///
/// `take` receives the vector; `None` stands for a text without anything to embed. A result from the cache is not copied.
pub fn embed<T>(
    model: Option<&str>,
    kind: Kind,
    text: &str,
    take: impl FnOnce(Option<&[f32]>) -> T,
) -> Result<T, Error> {
    SESSION.with(|session| {
        let session = &mut *session.borrow_mut();
        let loaded = session.models.open(model, INTERRUPTS)?;
        let key = Key { model: loaded.id, kind, in_array: false, text };
        let capacity = guc::cache_size();
        if let Some(known) = (capacity > 0).then(|| session.cache.get(key)).flatten() {
            let truncated = known.truncated;
            stats::record(
                &loaded.model.spec().name,
                Counts {
                    calls: 1,
                    texts: 1,
                    truncations: truncated.into(),
                    cache_hits: 1,
                    ..Counts::default()
                },
            );
            report_truncation(truncated, loaded)?;
            return Ok(take(known.vector.as_deref()));
        }
        let (mut found, time) = timed(|| loaded.model.embed(&[text], kind, INTERRUPTS))?;
        let embedding = found.embeddings.pop().unwrap_or(Embedding { vector: None, truncated: false });
        stats::record(
            &loaded.model.spec().name,
            Counts {
                calls: 1,
                texts: 1,
                tokens: found.tokens as u64,
                truncations: embedding.truncated.into(),
                cache_hits: 0,
                time,
            },
        );
        report_truncation(embedding.truncated, loaded)?;
        let taken = take(embedding.vector.as_deref());
        session.cache.put(key, embedding, capacity);
        Ok(taken)
    })
}

/// Embeds texts in one batch, in order; `None` stands for NULL, and in the result for nothing to embed.
pub fn embed_all(model: Option<&str>, texts: &[Option<&str>]) -> Result<Vec<Option<Embedding>>, Error> {
    compute_all(model, texts, guc::cache_size(), |model, texts| {
        model.embed(texts, Kind::Document, INTERRUPTS)
    })
}

/// Of a longer query no score is kept, in bytes: what is kept has it once for each document. Questions are shorter.
const MAX_KEPT_QUERY: usize = 1024;

/// Scores documents for a query in one batch, in order, each as a vector of one element. `None` stands for NULL. `model`: that of
/// `pg_embed.rerank_model` if it is not named.
pub fn rerank(
    model: Option<&str>,
    query: &str,
    documents: &[Option<&str>],
) -> Result<Vec<Option<Embedding>>, Error> {
    let model = model.map_or_else(guc::rerank_model, str::to_string);
    if query.len() > MAX_KEPT_QUERY {
        return compute_all(Some(&model), documents, 0, |model, documents| {
            model.rerank(query, documents, INTERRUPTS)
        });
    }
    let lengths = documents.iter().flatten().map(|document| query.len() + document.len());
    embedder::ensure_memory(lengths.sum())?;
    // The cache knows a result by its text: both, with what no text of Postgres's has between them.
    let pair = |document: &Option<&str>| {
        check_for_interrupts();
        document.map(|document| [query, document].join("\0"))
    };
    let pairs: Vec<Option<String>> = documents.iter().map(pair).collect();
    let pairs: Vec<Option<&str>> = pairs.iter().map(Option::as_deref).collect();
    compute_all(Some(&model), &pairs, guc::cache_size(), |model, pairs| {
        let documents: Vec<&str> = pairs.iter().map(|pair| &pair[query.len() + 1..]).collect();
        model.rerank(query, &documents, INTERRUPTS)
    })
}

/// What `compute` gives for the texts that are not in the cache, which has room for so many.
fn compute_all(
    model: Option<&str>,
    texts: &[Option<&str>],
    capacity: usize,
    compute: impl FnOnce(&mut Model, &[&str]) -> Result<Embedded, embedder::Error>,
) -> Result<Vec<Option<Embedding>>, Error> {
    SESSION.with(|session| {
        let session = &mut *session.borrow_mut();
        let loaded = session.models.open(model, INTERRUPTS)?;
        let key = |text| Key { model: loaded.id, kind: Kind::Document, in_array: true, text };
        let mut results: Vec<Option<Embedding>> = texts
            .iter()
            .map(|text| text.filter(|_| capacity > 0).and_then(|text| session.cache.get(key(text)).cloned()))
            .collect();
        let cache_hits = results.iter().flatten().count();
        let missing: Vec<(usize, &str)> = (0..texts.len())
            .filter(|&i| results[i].is_none())
            .filter_map(|i| texts[i].map(|text| (i, text)))
            .collect();
        let missing_texts: Vec<&str> = missing.iter().map(|(_, text)| *text).collect();
        let (found, time) = timed(|| compute(&mut loaded.model, &missing_texts))?;
        // A large batch would only push out what the cache is for: the texts of a query, asked for again and again.
        let keep = missing.len() <= capacity / 2;
        for ((i, text), embedding) in missing.into_iter().zip(found.embeddings) {
            if keep {
                session.cache.put(key(text), embedding.clone(), capacity);
            }
            results[i] = Some(embedding);
        }
        let truncations = results.iter().flatten().filter(|embedding| embedding.truncated).count();
        stats::record(
            &loaded.model.spec().name,
            Counts {
                calls: 1,
                texts: results.iter().flatten().count() as u64,
                tokens: found.tokens as u64,
                truncations: truncations as u64,
                cache_hits: cache_hits as u64,
                time,
            },
        );
        report_truncation(truncations > 0, loaded)?;
        Ok(results)
    })
}

/// What `work` gave, and the time that it took.
fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, Duration), E> {
    let start = Instant::now();
    Ok((work()?, start.elapsed()))
}

/// Tokens of `text`, before truncation.
pub fn token_count(model: Option<&str>, text: &str) -> Result<usize, Error> {
    SESSION.with(|session| {
        let session = &mut *session.borrow_mut();
        let loaded = session.models.open(model, INTERRUPTS)?;
        Ok(loaded.model.token_count(text, INTERRUPTS)?)
    })
}

/// The model of that name; without one the default model's name.
pub fn named(model: Option<&str>) -> String {
    model.map_or_else(guc::default_model, str::to_string)
}

/// Of the vectors that the named model makes. It is loaded.
pub fn dimensions(model: &str) -> Result<usize, Error> {
    SESSION.with(|session| {
        let session = &mut *session.borrow_mut();
        Ok(session.models.open(Some(model), INTERRUPTS)?.model.dimensions()?)
    })
}

/// What tells a model from another one of the same name: the content of its files as they are now. Reads them: 20 ms for 91 MB.
pub fn content_hash(model: &str) -> Result<String, Error> {
    Ok(spec_now(model)?.content_hash()?)
}

/// What the files of a model say now.
pub fn spec_now(model: &str) -> Result<ModelSpec, Error> {
    Ok(ModelSpec::read(&catalog::locate(&guc::model_path(), model)?)?)
}

/// The [content](content_hash) of the files that a model has now, and the dimensions of its vectors by them. A model that this session
/// has loaded from other files stays; one that it has not is loaded, as it may be of no use.
pub fn newest(model: &str) -> Result<(String, usize), Error> {
    dimensions(model)?;
    let spec = spec_now(model)?;
    Ok((spec.content_hash()?, spec.dimensions))
}

/// Opens the model with this content, and says whether it is there: other files may have been put in the place of those that this
/// process has loaded, or of those that the caller knows.
pub fn open_version(model: &str, content_hash: &str) -> Result<bool, Error> {
    SESSION.with(|session| {
        let models = &mut session.borrow_mut().models;
        if models.open(Some(model), INTERRUPTS)?.model.content_hash() == content_hash {
            return Ok(true);
        }
        if self::content_hash(model)? != content_hash {
            return Ok(false);
        }
        models.retire(model);
        Ok(models.open(Some(model), INTERRUPTS)?.model.content_hash() == content_hash)
    })
}

/// The chunks of `text`.
pub fn chunk(model: Option<&str>, text: &str, options: &ChunkOptions) -> Result<Vec<Chunk>, Error> {
    SESSION.with(|session| {
        let session = &mut *session.borrow_mut();
        let loaded = session.models.open(model, INTERRUPTS)?;
        Ok(loaded.model.chunk(text, options, INTERRUPTS)?)
    })
}

/// Whether this session has loaded model `name` from the current `pg_embed.model_path`.
pub fn is_loaded(name: &str) -> bool {
    SESSION.with(|session| session.borrow().models.is_loaded(name))
}

/// Loads the models of `pg_embed.preload_models`, for the sessions of all processes that this one starts.
pub fn preload() {
    SESSION.with(|session| session.borrow_mut().models.preload());
}

fn report_truncation(truncated: bool, loaded: &Loaded) -> Result<(), Error> {
    if !truncated || guc::on_truncate() == OnTruncate::Ignore {
        return Ok(());
    }
    let spec = loaded.model.spec();
    let error = Error::Truncated { model: spec.name.clone(), max_tokens: spec.max_tokens };
    if guc::on_truncate() == OnTruncate::Error {
        return Err(error);
    }
    // Once a statement: it may have a long text in every row.
    thread_local!(static LAST: Cell<pg_sys::TimestampTz> = const { Cell::new(0) });
    // SAFETY: asks for the time when the client's statement arrived.
    let statement = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    if LAST.replace(statement) != statement {
        error.say(PgLogLevel::NOTICE);
    }
    Ok(())
}

/// Let a cancelled query or a statement_timeout end the work.
const INTERRUPTS: Interrupts = Interrupts { check: &check_for_interrupts, pending: Some(interrupt_pending) };

fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Whether a signal handler of Postgres's has asked for the end of the statement or of the process. May be asked by any
/// thread. Not `InterruptPending`: what else can be pending does not end the work, and can wait for the end of a batch.
fn interrupt_pending() -> bool {
    let flags = [
        &raw mut pg_sys::QueryCancelPending,
        &raw mut pg_sys::ProcDiePending,
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        &raw mut pg_sys::TransactionTimeoutPending,
    ];
    // SAFETY: numbers of the server's that live as long as the process, aligned for their type.
    flags.into_iter().any(|flag| unsafe { AtomicI32::from_ptr(flag) }.load(Ordering::Relaxed) != 0)
}
