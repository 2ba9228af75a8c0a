//! The loaded models of a process: those that the postmaster loaded before it was forked, and those of its own.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use embedder::{Interrupts, Loading, Model, Options, Weights, catalog};
use pgrx::{PgLogLevel, pg_guard, pg_sys};

use crate::error::{Error, presentable, quotable, tell};
use crate::guc;

/// Threads of a preloaded model: a fork would leave the others behind. A session with more in `pg_embed.threads` loads
/// the model for itself.
const PRELOAD_THREADS: usize = 1;

/// Which model, and how it is loaded.
#[derive(PartialEq)]
struct Wanted {
    name: String,
    model_path: PathBuf,
    threads: usize,
}

impl Wanted {
    fn is_model(&self, name: &str, model_path: &Path) -> bool {
        self.name == name && self.model_path == model_path
    }
}

pub struct Loaded {
    /// The process that loaded it.
    process: u32,
    /// Tells cached results apart: another one each time that a model is loaded.
    pub id: u32,
    wanted: Wanted,
    pub model: Model,
}

/// A model that was being loaded when the statement which wanted it was cancelled.
struct Unfinished {
    wanted: Wanted,
    loading: Loading,
    /// What the process had before, where all that it has got since is the model's.
    private_bytes: Option<u64>,
}

#[derive(Default)]
pub struct Models {
    loaded: Vec<Loaded>,
    unfinished: Option<Unfinished>,
    /// Models that the postmaster has loaded from files that are others now. To destroy them would copy their pages to this process.
    retired: Vec<Loaded>,
    /// Models loaded so far.
    loads: u32,
}

impl Models {
    /// The named model (`None`: `pg_embed.default_model`), loaded if it is not yet.
    pub fn open(&mut self, name: Option<&str>, interrupts: Interrupts) -> Result<&mut Loaded, Error> {
        let name = name.map_or_else(|| guc::default_model().into(), Cow::Borrowed);
        let (model_path, threads) = (guc::model_path(), guc::threads());
        let is_it = |wanted: &Wanted| wanted.is_model(&name, &model_path) && wanted.threads == threads;
        let at = match self.loaded.iter().position(|loaded| is_it(&loaded.wanted)) {
            Some(at) => at,
            None => {
                self.load(Wanted { name: name.into_owned(), model_path, threads }, interrupts)?;
                self.loaded.len() - 1
            }
        };
        Ok(&mut self.loaded[at])
    }

    /// Lets a model be loaded anew, from the files that it has now.
    pub fn retire(&mut self, name: &str) {
        let model_path = guc::model_path();
        let (old, others) =
            self.loaded.drain(..).partition(|loaded: &Loaded| loaded.wanted.is_model(name, &model_path));
        self.loaded = others;
        self.retired.extend(Vec::into_iter(old).filter(|old| old.process != std::process::id()));
    }

    /// Loads a model, as the last one.
    fn load(&mut self, wanted: Wanted, interrupts: Interrupts) -> Result<(), Error> {
        if let Some(unfinished) = &mut self.unfinished {
            // What the session has done meanwhile is not the model's.
            unfinished.private_bytes = None;
            if unfinished.wanted == wanted {
                return self.finish(interrupts);
            }
            // One at a time. That other model's error concerns nobody now.
            catalog::locate(&wanted.model_path, &wanted.name)?;
            let _ = self.finish(interrupts);
        }
        exit_without_destructors();
        let private_bytes = private_bytes();
        let loading = with_options(&wanted, Loading::start)?;
        self.unfinished = Some(Unfinished { wanted, loading, private_bytes });
        self.finish(interrupts)
    }

    /// Waits for the model that is being loaded.
    fn finish(&mut self, interrupts: Interrupts) -> Result<(), Error> {
        let Some(unfinished) = &mut self.unfinished else { return Ok(()) };
        let model = unfinished.loading.wait(interrupts);
        if let Some(Unfinished { wanted, private_bytes, .. }) = self.unfinished.take() {
            self.add(wanted, model?, private_bytes);
        }
        Ok(())
    }

    /// Whether the model is loaded from the current `pg_embed.model_path`.
    pub fn is_loaded(&self, name: &str) -> bool {
        let model_path = guc::model_path();
        self.loaded.iter().any(|loaded| loaded.wanted.is_model(name, &model_path))
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
        let private_bytes = private_bytes();
        let wanted =
            Wanted { name: name.to_string(), model_path: model_path.to_path_buf(), threads: PRELOAD_THREADS };
        // A bug must not keep the server from starting, either. No error of Postgres's can be raised in there, and no
        // thread be started.
        let loading = AssertUnwindSafe(|| with_options(&wanted, Model::open));
        let loaded = catch_unwind(loading).unwrap_or_else(|_| {
            let reason = "panic while the model was loaded".to_string();
            Err(embedder::Error::Run { model: name.to_string(), reason }.into())
        });
        match loaded {
            Ok(model) => self.add(wanted, model, private_bytes),
            Err(error) => error.say(PgLogLevel::WARNING),
        }
    }

    /// `private_bytes`: what the process had before it loaded the model.
    fn add(&mut self, wanted: Wanted, model: Model, private_bytes: Option<u64>) {
        log_load(&model, &wanted.name, private_bytes);
        // A model of another number of threads is no longer needed, except one that the postmaster loaded: to destroy
        // it here would copy its pages to this process.
        let is_other = |loaded: &Loaded| !loaded.wanted.is_model(&wanted.name, &wanted.model_path);
        self.loaded.retain(|loaded| is_other(loaded) || loaded.process != std::process::id());
        self.loads += 1;
        self.loaded.push(Loaded { process: std::process::id(), id: self.loads, wanted, model });
    }
}

/// Calls `open` with the model's folder.
fn with_options<T>(
    wanted: &Wanted,
    open: impl FnOnce(&Path, &Options) -> Result<T, embedder::Error>,
) -> Result<T, Error> {
    let folder = catalog::locate(&wanted.model_path, &wanted.name)?;
    let (library, weight_cache) = (guc::onnxruntime_path(), guc::weight_cache());
    let options =
        Options { library: &library, threads: wanted.threads, weight_cache: weight_cache.as_deref() };
    Ok(open(&folder, &options)?)
}

/// Sees to it that a process which exits while a thread of it loads a model does not run ONNX Runtime's destructors
/// under that thread.
fn exit_without_destructors() {
    static ONCE: Once = Once::new();
    #[pg_guard]
    extern "C-unwind" fn exit_at_once(code: i32, _argument: pg_sys::Datum) {
        if embedder::is_loading() {
            // SAFETY: what others have to know of the end of this process, they know since its shared memory was left.
            // Callbacks registered before this one are passed over: Postgres's own close files and the connection, as
            // the system does, and log the disconnection.
            unsafe { libc::_exit(code) };
        }
    }
    // SAFETY: the function stays where it is, as Postgres never unloads a library.
    ONCE.call_once(|| unsafe { pg_sys::on_proc_exit(Some(exit_at_once), pg_sys::Datum::null()) });
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
fn log_load(model: &Model, name: &str, private_before: Option<u64>) {
    if let Weights::CacheFailed { directory, reason } = model.weights() {
        let error = Error::Embedder(embedder::Error::WeightCache {
            model: name.to_string(),
            directory: directory.clone(),
            reason: reason.clone(),
        });
        without_statement(|| error.say(PgLogLevel::LOG));
    }
    let verb = if guc::preloading() { "preloaded" } else { "loaded" };
    let milliseconds = model.load_time().as_millis();
    let memory = match (private_before, private_bytes()) {
        (Some(before), Some(after)) => {
            format!(", {:.1} MB of private memory", after.saturating_sub(before) as f64 / 1048576.0)
        }
        _ => String::new(),
    };
    let weights = match model.weights() {
        Weights::Built => ", wrote its weights to the weight cache",
        Weights::Cached => ", its weights are those of the weight cache",
        Weights::Private | Weights::CacheFailed { .. } => "",
    };
    let message = format!("{verb} model \"{name}\" in {milliseconds} ms{memory}{weights}");
    without_statement(|| tell(presentable(message), PgLogLevel::LOG));
}

/// Writes to the log without the statement that is being executed, and without those around it: they may hold what a user
/// looks for.
fn without_statement(write: impl FnOnce()) {
    // SAFETY: Postgres reads these pointers when it writes to the log, and asks whether they are null.
    unsafe {
        let (statement, context) = (pg_sys::debug_query_string, pg_sys::error_context_stack);
        pg_sys::debug_query_string = std::ptr::null();
        pg_sys::error_context_stack = std::ptr::null_mut();
        write();
        (pg_sys::debug_query_string, pg_sys::error_context_stack) = (statement, context);
    }
}
