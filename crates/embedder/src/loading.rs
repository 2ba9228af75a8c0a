//! Loads a model in a thread of its own. ONNX Runtime takes seconds for a large one and cannot be interrupted: its flag
//! to cancel a load is looked at between steps, one of which takes most of that time. A caller that is interrupted
//! leaves the thread to its work, and may come back for the model.

use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::interrupts::without_signals;
use crate::{Error, Interrupts, Model, Options, memory, session, tokenize};

/// Between two looks whether the caller is interrupted.
const POLL: Duration = Duration::from_millis(10);

/// A process that exits waits no longer for the thread: that of a model of gte-small's shape ends within 0.8 s, that of
/// one with ten times its weights within 9.
const MAX_EXIT_WAIT: Duration = Duration::from_secs(1);

/// The thread of this process that loads. There is one at a time.
static THREAD: Mutex<Option<JoinHandle<()>>> = Mutex::new(None);

/// Whether that thread is to end as soon as it can.
static ABANDONED: AtomicBool = AtomicBool::new(false);

/// A model that is being loaded.
pub struct Loading {
    result: Receiver<Result<Model, Error>>,
}

impl Loading {
    /// Begins to load the model in `folder`. An earlier load must have been waited for.
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
            let check = || {
                if ABANDONED.load(Ordering::Relaxed) {
                    resume_unwind(Box::new("the process ends"));
                }
            };
            let loaded = Model::open(&folder, &options, Interrupts { check: &check, pending: None });
            // Nobody is left to receive it if the process ends.
            let _ = sender.send(loaded);
        };
        share_memory_of_threads();
        let thread = without_signals(|| Builder::new().spawn(load)).map_err(Error::Thread)?;
        *THREAD.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        // While the thread reads the model's files. It finds the library open, or meets the same error.
        let _ = session::start_runtime(options.library);
        Ok(Loading { result })
    }

    /// Waits for the model. If `check` unwinds, the load goes on, and this can be called again; after it has returned,
    /// it cannot.
    ///
    /// Errors: those of [`Model::open`].
    pub fn wait(&self, interrupts: Interrupts) -> Result<Model, Error> {
        let loaded = loop {
            match self.result.recv_timeout(POLL) {
                Ok(loaded) => break loaded,
                Err(RecvTimeoutError::Timeout) => (interrupts.check)(),
                Err(RecvTimeoutError::Disconnected) => break Err(Error::Thread(io::ErrorKind::Other.into())),
            }
        };
        join();
        loaded
    }
}

/// To be called when the process is about to call `exit(code)`: the thread that loads a model must not run into the
/// destructors of ONNX Runtime. Waits until it has ended; if that takes too long, `exit` will run no destructors.
pub fn before_exit(code: i32) {
    static CODE: AtomicI32 = AtomicI32::new(0);
    extern "C" fn exit_at_once() {
        // SAFETY: whatever has to be done before the process ends was done before it called exit().
        unsafe { libc::_exit(CODE.load(Ordering::Relaxed)) };
    }
    ABANDONED.store(true, Ordering::Relaxed);
    let start = Instant::now();
    while is_running() {
        if start.elapsed() > MAX_EXIT_WAIT {
            CODE.store(code, Ordering::Relaxed);
            // SAFETY: the function stays where it is, and does not unwind. What was registered last is called first.
            unsafe { libc::atexit(exit_at_once) };
            return;
        }
        std::thread::sleep(POLL);
    }
    join();
}

fn is_running() -> bool {
    let thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    thread.as_ref().is_some_and(|thread| !thread.is_finished())
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

fn join() {
    let thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner).take();
    // That it ends is all that matters here.
    let _ = thread.map(JoinHandle::join);
}
