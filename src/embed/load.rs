//! The loaded models of a process: those that the postmaster loaded before it was forked, and those of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use embedder::{Model, Options, Weights, catalog};
use pgrx::{PgLogLevel, PgSqlErrorCode, ereport};

use crate::error::{Error, presentable, quotable};
use crate::guc;

/// Threads of a preloaded model: a fork would leave the others behind. A session with more in `pg_embed.threads` loads
/// the model for itself.
const PRELOAD_THREADS: usize = 1;

pub struct Loaded {
    /// The process that loaded it.
    process: u32,
    /// Tells cached results apart: another one each time that a model is loaded.
    pub id: u32,
    name: String,
    model_path: PathBuf,
    threads: usize,
    pub model: Model,
}

#[derive(Default)]
pub struct Models {
    loaded: Vec<Loaded>,
    /// Models loaded so far.
    loads: u32,
}

impl Models {
    /// The named model (`None`: `pg_embed.default_model`), loaded if it is not yet. Calls `check` while it waits for
    /// another process.
    pub fn open(&mut self, name: Option<&str>, check: &mut dyn FnMut()) -> Result<&mut Loaded, Error> {
        let default;
        let name = match name {
            Some(name) => name,
            None => {
                default = guc::default_model();
                &default
            }
        };
        let (model_path, threads) = (guc::model_path(), guc::threads());
        let is_it = |loaded: &Loaded| loaded.name == name && loaded.model_path == model_path;
        let at = match self.loaded.iter().position(|loaded| is_it(loaded) && loaded.threads == threads) {
            Some(at) => at,
            None => {
                let start = Start::now();
                let model = load(&model_path, name, threads, check)?;
                log_load(&model, name, &start);
                // A model of another number of threads is no longer needed, except one that the postmaster loaded: to
                // destroy it here would copy its pages to this process.
                self.loaded.retain(|loaded| !is_it(loaded) || loaded.process != std::process::id());
                self.add(name, model_path, threads, model);
                self.loaded.len() - 1
            }
        };
        Ok(&mut self.loaded[at])
    }

    /// Whether the model is loaded from the current `pg_embed.model_path`.
    pub fn is_loaded(&self, name: &str) -> bool {
        let model_path = guc::model_path();
        self.loaded.iter().any(|loaded| loaded.name == name && loaded.model_path == model_path)
    }

    /// Loads the models of `pg_embed.preload_models`. One that cannot be loaded is a WARNING: the server starts without
    /// it.
    pub fn preload(&mut self) {
        let model_path = guc::model_path();
        for name in guc::preload_models() {
            match name {
                Ok(name) if self.is_loaded(&name) => {}
                Ok(name) => self.preload_one(&model_path, &name),
                Err(name) => {
                    let error = embedder::Error::InvalidName(quotable(&name));
                    Error::Embedder(error).say(PgLogLevel::WARNING);
                }
            }
        }
    }

    fn preload_one(&mut self, model_path: &Path, name: &str) {
        let start = Start::now();
        // A bug must not keep the server from starting, either. No error of Postgres's can be raised in there.
        let loading = AssertUnwindSafe(|| load(model_path, name, PRELOAD_THREADS, &mut || ()));
        let loaded = catch_unwind(loading).unwrap_or_else(|_| {
            let reason = "panic while the model was loaded".to_string();
            Err(embedder::Error::Run { model: name.to_string(), reason }.into())
        });
        match loaded {
            Ok(model) => {
                log_load(&model, name, &start);
                self.add(name, model_path.to_path_buf(), PRELOAD_THREADS, model);
            }
            Err(error) => error.say(PgLogLevel::WARNING),
        }
    }

    fn add(&mut self, name: &str, model_path: PathBuf, threads: usize, model: Model) {
        self.loads += 1;
        let (process, id, name) = (std::process::id(), self.loads, name.to_string());
        self.loaded.push(Loaded { process, id, name, model_path, threads, model });
    }
}

fn load(model_path: &Path, name: &str, threads: usize, check: &mut dyn FnMut()) -> Result<Model, Error> {
    let folder = catalog::locate(model_path, name)?;
    let (library, weight_cache) = (guc::onnxruntime_path(), guc::weight_cache());
    let options = Options { library: &library, threads, weight_cache: weight_cache.as_deref() };
    Ok(Model::open(&folder, &options, check)?)
}

/// When a model began to be loaded.
struct Start {
    time: Instant,
    private_bytes: Option<u64>,
}

impl Start {
    fn now() -> Start {
        Start { time: Instant::now(), private_bytes: private_bytes() }
    }
}

/// Memory of this process that is no file's, in bytes, as Linux knows it without looking at every page.
fn private_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?.trim().strip_suffix(" kB")?;
    Some(kilobytes.parse::<u64>().ok()? * 1024)
}

/// Logs how long a model took to load and how much memory, and where its weights are.
///
/// A LOG, though each session writes one: it has cost more than the line, and preloading the model spares both.
fn log_load(model: &Model, name: &str, start: &Start) {
    if let Weights::CacheFailed(reason) = model.weights() {
        Error::Embedder(embedder::Error::WeightCache {
            model: name.to_string(),
            directory: guc::weight_cache().unwrap_or_default(),
            reason: reason.clone(),
        })
        .say(PgLogLevel::LOG);
    }
    let verb = if guc::preloading() { "preloaded" } else { "loaded" };
    let milliseconds = start.time.elapsed().as_millis();
    let memory = match (start.private_bytes, private_bytes()) {
        (Some(before), Some(after)) => {
            format!(", {:.1} MB of private memory", after.saturating_sub(before) as f64 / 1048576.0)
        }
        _ => String::new(),
    };
    let weights = match model.weights() {
        Weights::Built => ", wrote its weights to the weight cache",
        Weights::Cached => ", its weights are those of the weight cache",
        Weights::Private | Weights::CacheFailed(_) => "",
    };
    let message = format!("{verb} model \"{name}\" in {milliseconds} ms{memory}{weights}");
    ereport!(PgLogLevel::LOG, PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, presentable(message));
}
