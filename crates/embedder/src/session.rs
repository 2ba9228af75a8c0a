//! ONNX Runtime: the only file that names `ort`.

use std::error::Error as _;
use std::ffi::CStr;
use std::io;
use std::path::Path;
use std::sync::Once;

use half::f16;
use libloading::Library;
use once_cell::sync::OnceCell;
use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{RunOptions, Session as OrtSession, SessionInputValue};
use ort::sys::{ORT_API_VERSION, OrtApiBase};
use ort::value::TensorRef;

use crate::interface::{Float, Input, Interface};
use crate::interrupts::without_signals;
use crate::weights::{self, Fingerprint, WeightCache};
use crate::{Error, Interrupts, ModelSpec, Options, Weights, memory};

/// The process has one environment; it is never destroyed, as a process that inherits or exits must not run
/// ONNX Runtime's destructors.
static ENVIRONMENT: OnceCell<Environment> = OnceCell::new();

/// What ONNX Runtime takes to start, beside its library. Measured: 6 MB.
const ENVIRONMENT_BYTES: usize = 12 << 20;

/// Opens ONNX Runtime on first use. A failure is not remembered: the next call tries again.
fn environment(library: &Path) -> Result<&'static Environment, Error> {
    ENVIRONMENT.get_or_try_init(|| {
        let failed = |reason: String| Error::Runtime {
            path: library.to_path_buf(),
            missing: !library.exists(),
            reason,
        };
        // Short of memory, ONNX Runtime would be left half-started for the rest of the process.
        memory::ensure(runtime_bytes(library))?;
        forbid_telemetry();
        check_library(library).map_err(failed)?;
        let environment = ort::init_from(library)
            .map_err(|e| failed(e.to_string()))?
            .with_name("pg_embed")
            .with_telemetry(false)
            .build()
            .map_err(|e| failed(e.to_string()))?;
        environment.set_log_level(LogLevel::Error);
        Ok(environment)
    })
}

/// Memory that opening ONNX Runtime takes; none if it is open.
pub fn runtime_bytes(library: &Path) -> usize {
    if ENVIRONMENT.get().is_some() {
        return 0;
    }
    let bytes = std::fs::metadata(library).map_or(0, |file| file.len() as usize);
    bytes.saturating_add(ENVIRONMENT_BYTES)
}

/// To be called while the process has one thread. 1.28, the version pg_embed installs, has no telemetry. A newer one that
/// the user put there would start a thread that sends some, and that makes a Postgres child hang at exit; a variable
/// forbids it.
pub fn forbid_telemetry() {
    static ONCE: Once = Once::new();
    // SAFETY: the caller promises that no other thread reads the environment; tests start none that does.
    ONCE.call_once(|| unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") });
}

/// Opens ONNX Runtime if it is not open yet. Errors: [`Error::Runtime`], [`Error::OutOfMemory`].
pub fn start_runtime(library: &Path) -> Result<(), Error> {
    without_signals(|| environment(library).map(|_| ()))
}

/// Refuses a library that `ort` would panic about, or keep although it is of no use.
fn check_library(library: &Path) -> Result<(), String> {
    type GetApiBase = unsafe extern "C" fn() -> *const OrtApiBase;
    // SAFETY: whoever names the library vouches for its initialisers. The entry point and the two functions behind it
    // have been the same in every version of ONNX Runtime.
    unsafe {
        let opened = Library::new(library).map_err(|e| e.source().unwrap_or(&e).to_string())?;
        let get_base =
            opened.get::<GetApiBase>(b"OrtGetApiBase").map_err(|_| "it does not export OrtGetApiBase")?;
        let base = get_base().as_ref().ok_or("OrtGetApiBase() is null")?;
        let version = CStr::from_ptr((base.GetVersionString)()).to_string_lossy();
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        // A version knows its own API and all before it; an older one would complain on the server's standard error.
        if numbers.next().flatten() != Some(1) || numbers.next().flatten() < Some(ORT_API_VERSION) {
            return Err(format!("it is version {version}"));
        }
        if (base.GetApi)(ORT_API_VERSION).is_null() {
            return Err(format!("version {version} has no API {ORT_API_VERSION}"));
        }
        // Stays loaded until `ort` opens it again.
        std::mem::forget(opened);
    }
    Ok(())
}

/// One batch: row-major `[texts, tokens]`, padded on the right.
pub struct Batch {
    pub texts: usize,
    /// Tokens of the longest text.
    pub tokens: usize,
    pub ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    pub mask: Vec<i64>,
    pub type_ids: Vec<i64>,
    pub position_ids: Vec<i64>,
}

/// What the model gave for a batch, row-major.
pub enum Output {
    /// `[texts, tokens, dimensions]`
    Tokens(Vec<f32>),
    /// `[texts, dimensions]`: the model pools by itself.
    Texts(Vec<f32>),
}

pub struct Session {
    inner: OrtSession,
    interface: Interface,
    dimensions: usize,
    model: String,
}

impl Session {
    /// Loads the model's graph and weights, and says how it came by the weights. `fingerprint`: of the graph's file.
    ///
    /// Errors: [`Error::Runtime`], [`Error::OutOfMemory`], [`Error::InvalidFile`] for an ONNX file that does not load or
    /// has other inputs or outputs than a sentence encoder.
    pub fn open(
        spec: &ModelSpec,
        options: &Options,
        fingerprint: Fingerprint,
    ) -> Result<(Session, Weights), Error> {
        start_runtime(options.library)?;
        let mut weights = Weights::Private;
        // The key of an entry covers one file.
        if let Some(directory) = options.weight_cache.filter(|_| spec.precision.weights_inside) {
            let cache = WeightCache::new(directory, &spec.onnx_file, fingerprint, &runtime());
            let opened = Session::from_cache(spec, options, &cache);
            match opened {
                Ok(opened) => return Ok(opened),
                Err(reason) => weights = Weights::CacheFailed { directory: directory.to_path_buf(), reason },
            }
        }
        Ok((Session::load(spec, options, &spec.onnx_file, Graph::Original)?, weights))
    }

    /// Loads what the cache has of the model, and builds it first if need be. Errors: why the cache is of no use.
    fn from_cache(
        spec: &ModelSpec,
        options: &Options,
        cache: &WeightCache,
    ) -> Result<(Session, Weights), String> {
        let failed = |error: io::Error| error.to_string();
        let lock = loop {
            let seen = cache.stamp();
            match cache.graph().map(|graph| Session::map(spec, options, &graph)) {
                Some(Ok(session)) => return Ok((session, Weights::Cached)),
                // To build an entry would take more memory still.
                Some(Err(error @ Error::OutOfMemory { .. })) => return Err(error.with_reason()),
                Some(Err(_)) | None => {}
            }
            let lock = cache.lock().map_err(failed)?;
            // Otherwise another process has put an entry in its place. All who have waited load it, not one by one.
            if cache.stamp() == seen {
                break lock;
            }
        };
        // With one thread, whatever is wanted: these sessions are gone at once.
        let single = Options { threads: 1, ..*options };
        let built = cache.begin(&lock).map_err(failed)?;
        let expected = Session::load(spec, &single, &spec.onnx_file, Graph::SavedTo(&built))
            .and_then(|mut session| session.sample())
            .map_err(|error| error.with_reason())?;
        let mapped = Session::map(spec, &single, &built).and_then(|mut session| session.sample());
        if mapped.map_err(|error| error.with_reason())? != expected {
            return Err("it gives other vectors than the model's file".to_string());
        }
        let graph = cache.finish(&lock).map_err(failed)?;
        drop(lock);
        let session = Session::map(spec, options, &graph).map_err(|error| error.with_reason())?;
        Ok((session, Weights::Built))
    }

    /// Loads an entry of the cache.
    fn map(spec: &ModelSpec, options: &Options, graph: &Path) -> Result<Session, Error> {
        let session = Session::load(spec, options, graph, Graph::Cached)?;
        match weights::remap_read_only(graph) {
            Ok(()) => Ok(session),
            Err(error) => {
                std::mem::forget(session);
                Err(Error::invalid(graph, format!("could not map the weights: {error}")))
            }
        }
    }

    /// What the model makes of a few tokens, bit by bit.
    fn sample(&mut self) -> Result<Vec<u32>, Error> {
        const TOKENS: usize = 8;
        let batch = Batch {
            texts: 1,
            tokens: TOKENS,
            ids: (0..TOKENS as i64).collect(),
            mask: vec![1; TOKENS],
            type_ids: vec![0; TOKENS],
            position_ids: (0..TOKENS as i64).collect(),
        };
        let (Output::Tokens(values) | Output::Texts(values)) = self.run(&batch, Interrupts::NONE)?;
        Ok(values.into_iter().map(f32::to_bits).collect())
    }

    fn load(spec: &ModelSpec, options: &Options, file: &Path, graph: Graph) -> Result<Session, Error> {
        let invalid = |reason: String| Error::invalid(&spec.onnx_file, reason);
        let environment = environment(options.library)?;
        let inner = without_signals(|| builder(environment, options.threads, &graph)?.commit_from_file(file))
            .map_err(|e| out_of_memory(&e).unwrap_or_else(|| invalid(e.to_string())))?;
        Ok(Session {
            inner,
            interface: spec.interface.clone(),
            dimensions: spec.dimensions,
            model: spec.name.clone(),
        })
    }

    /// Runs the model. Errors: [`Error::OutOfMemory`]; [`Error::Run`], also for an output of another shape than promised.
    pub fn run(&mut self, batch: &Batch, interrupts: Interrupts) -> Result<Output, Error> {
        let pending = interrupts.pending.filter(|_| batch.texts * batch.tokens >= MIN_WATCHED_TOKENS);
        let mut interrupts = Interrupts { pending, ..interrupts };
        let output = loop {
            let options = RunOptions::new().map_err(|e| self.failed(e))?;
            // Only fails in a version that has no such function.
            let terminate = || drop(options.terminate());
            match interrupts.watch(terminate, || self.run_once(batch, &options)) {
                Some(output) => break output,
                // Now to the end: what was pending did not end the work, and may still be there.
                None => interrupts.pending = None,
            }
        };
        output.map_err(|e| self.failed(e))
    }

    fn failed(&self, error: ort::Error) -> Error {
        out_of_memory(&error)
            .unwrap_or_else(|| Error::Run { model: self.model.clone(), reason: error.to_string() })
    }

    fn run_once(&mut self, batch: &Batch, options: &RunOptions) -> ort::Result<Output> {
        let shape = [batch.texts, batch.tokens];
        let mut inputs: Vec<(&str, SessionInputValue)> = Vec::with_capacity(self.interface.inputs.len());
        for (name, input) in &self.interface.inputs {
            let data = match input {
                Input::Ids => &batch.ids,
                Input::Mask => &batch.mask,
                Input::TypeIds => &batch.type_ids,
                Input::PositionIds => &batch.position_ids,
            };
            let tensor = TensorRef::from_array_view((shape, data.as_slice()))?;
            inputs.push((name.as_str(), tensor.into()));
        }
        let outputs = self.inner.run_with_options(inputs, options)?;
        let output = &outputs[self.interface.output.as_str()];
        let (shape, data) = match self.interface.output_type {
            Float::Float32 => {
                let (shape, data) = output.try_extract_tensor::<f32>()?;
                (shape, data.to_vec())
            }
            Float::Float16 => {
                let (shape, data) = output.try_extract_tensor::<f16>()?;
                (shape, data.iter().map(|x| x.to_f32()).collect())
            }
        };
        let [texts, tokens, dimensions] = [batch.texts, batch.tokens, self.dimensions].map(|n| n as i64);
        if shape[..] == [texts, tokens, dimensions] {
            Ok(Output::Tokens(data))
        } else if shape[..] == [texts, dimensions] {
            Ok(Output::Texts(data))
        } else {
            Err(ort::Error::new(format!(
                "output \"{}\" has shape {:?} where [{texts}, {tokens}, {dimensions}] was expected",
                self.interface.output,
                &shape[..]
            )))
        }
    }
}

/// Fewer padded tokens are not watched: they take no longer than half a second with a model that is 50 times the size
/// of MiniLM.
const MIN_WATCHED_TOKENS: usize = 32;

/// ONNX Runtime has no code for it, but passes on what C++ says.
fn out_of_memory(error: &ort::Error) -> Option<Error> {
    let reason = error.message();
    reason.contains("std::bad_alloc").then(|| Error::OutOfMemory { reason: reason.to_string() })
}

/// Which graph is loaded, and what becomes of it.
enum Graph<'a> {
    /// As the model's file has it: to be optimised.
    Original,
    /// Likewise; saved where the path says, with its weights beside it.
    SavedTo(&'a Path),
    /// As it was saved, with its weights prepacked in a file, which is mapped.
    Cached,
}

/// Weights smaller than this, in bytes, stay in the saved graph: shapes and scalars, which ONNX Runtime looks at while
/// it loads. Its own default.
const MIN_EXTERNAL_BYTES: &str = "1024";

fn builder(environment: &Environment, threads: usize, graph: &Graph) -> ort::Result<SessionBuilder> {
    let builder = OrtSession::builder(environment)?
        // The arena and the memory pattern keep the largest batch's memory for ever: gigabytes in a backend.
        .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])?
        .with_memory_pattern(false)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_log_level(LogLevel::Error)?;
    Ok(match graph {
        Graph::Original => builder,
        Graph::SavedTo(path) => builder
            .with_optimized_model_path(path)?
            .with_config_entry("session.optimized_model_external_initializers_file_name", weights::WEIGHTS)?
            .with_config_entry(
                "session.optimized_model_external_initializers_min_size_in_bytes",
                MIN_EXTERNAL_BYTES,
            )?
            .with_config_entry("session.save_external_prepacked_constant_initializers", "1")?,
        Graph::Cached => builder.with_optimization_level(GraphOptimizationLevel::Disable)?,
    })
}

/// The version and the build of ONNX Runtime: another one may optimise and pack in other ways.
fn runtime() -> String {
    ort::info().to_string()
}

/// Gives back to the system what loading a model has left unused. Measured: 3 MB of 13 MB.
pub fn trim_memory() {
    // SAFETY: concerns free memory only.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
