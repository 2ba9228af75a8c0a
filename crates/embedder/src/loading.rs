//! Loads a model in a thread of its own. ONNX Runtime takes seconds for a large one and cannot be interrupted: its flag
//! to cancel a load is looked at between steps, one of which takes most of that time. A caller that is interrupted
//! leaves the thread to its work, and may come back for the model.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use crate::interrupts::without_signals;
use crate::{Error, Interrupts, Model, Options, memory, session, tokenize};

/// Between two looks whether the caller is interrupted.
const POLL: Duration = Duration::from_millis(10);

/// Whether a thread loads a model now.
static LOADING: AtomicBool = AtomicBool::new(false);

/// A model that is being loaded.
pub struct Loading {
    thread: Option<JoinHandle<()>>,
    /// A panic of the thread's is the error of the outer result.
    result: Receiver<thread::Result<Result<Model, Error>>>,
}

impl Loading {
    /// Begins to load the model in `folder`. To be called by the process's only thread.
    ///
    /// Errors: [`Error::OutOfMemory`]; [`Error::Thread`] where the system has no thread to give.
    pub fn start(folder: &Path, options: &Options) -> Result<Loading, Error> {
        // Of what is done at the same time, each part asks for its own memory only.
        let tokenizer = tokenize::bytes_to_read(&folder.join("tokenizer.json"));
        memory::ensure(session::runtime_bytes(options.library).saturating_add(tokenizer))?;
        session::forbid_telemetry();
        let (folder, library) = (folder.to_path_buf(), options.library.to_path_buf());
        let (threads, weight_cache) = (options.threads, options.weight_cache.map(Path::to_path_buf));
        let (sender, result) = channel();
        let load = move || {
            let options = Options { library: &library, threads, weight_cache: weight_cache.as_deref() };
            let loaded = catch_unwind(AssertUnwindSafe(|| Model::open(&folder, &options)));
            // Nobody is left to receive it if the process ends.
            let _ = sender.send(loaded);
        };
        share_memory_of_threads();
        let thread = without_signals(|| Builder::new().spawn(load)).map_err(Error::Thread)?;
        LOADING.store(true, Ordering::Relaxed);
        // While the thread reads the model's files. It finds the library open, or meets the same error.
        let _ = session::start_runtime(options.library);
        Ok(Loading { thread: Some(thread), result })
    }

    /// Waits for the model. If `check` unwinds, the load goes on, and this can be called again; after it has returned,
    /// it cannot.
    ///
    /// Errors: those of [`Model::open`].
    pub fn wait(&mut self, interrupts: Interrupts) -> Result<Model, Error> {
        let loaded = loop {
            match self.result.recv_timeout(POLL) {
                Ok(loaded) => break loaded,
                Err(RecvTimeoutError::Timeout) => (interrupts.check)(),
                Err(RecvTimeoutError::Disconnected) => break Ok(Err(Error::Thread(ErrorKind::Other.into()))),
            }
        };
        // It has nothing left to do, and has sent what could go wrong.
        let _ = self.thread.take().map(JoinHandle::join);
        LOADING.store(false, Ordering::Relaxed);
        loaded.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// Whether a thread loads a model now. The process must then not call `exit`, which runs ONNX Runtime's destructors.
pub fn is_loading() -> bool {
    LOADING.load(Ordering::Relaxed)
}

/// Lets the thread take memory from where the rest of the process does: what it leaves unused, others use. Measured:
/// otherwise 2.3 MB more.
fn share_memory_of_threads() {
    // SAFETY: sets a number that the allocator looks at when a thread asks it for memory for the first time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
