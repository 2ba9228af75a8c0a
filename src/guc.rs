//! Every setting of pg_embed, with its unit, bounds and reason.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum, pg_sys};

use crate::embed::text;
use crate::index::MAX_LISTS;

type TextSetting = GucSetting<Option<CString>>;

static DEFAULT_MODEL: TextSetting = GucSetting::<Option<CString>>::new(Some(c"gte-small"));
static QUERY_MODEL: TextSetting = GucSetting::<Option<CString>>::new(Some(c""));
static RERANK_MODEL: TextSetting = GucSetting::<Option<CString>>::new(Some(c"ms-marco-minilm-l6-v2"));
static MODEL_PATH: TextSetting = GucSetting::<Option<CString>>::new(None);
static ONNXRUNTIME_PATH: TextSetting = GucSetting::<Option<CString>>::new(None);
static PRELOAD_MODELS: TextSetting = GucSetting::<Option<CString>>::new(Some(c""));
static WEIGHT_CACHE: GucSetting<bool> = GucSetting::<bool>::new(true);
static THREADS: GucSetting<i32> = GucSetting::<i32>::new(1);
static ON_TRUNCATE: GucSetting<OnTruncate> = GucSetting::<OnTruncate>::new(OnTruncate::Ignore);
static CACHE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(64);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);
static PROBES: GucSetting<i32> = GucSetting::<i32>::new(0);
static TARGET_RECALL: GucSetting<f64> = GucSetting::<f64>::new(0.95);
static ITERATIVE_SCAN: GucSetting<IterativeScan> = GucSetting::<IterativeScan>::new(IterativeScan::Relaxed);
static AUTO_TRAIN: GucSetting<bool> = GucSetting::<bool>::new(true);
static MAX_PROBES: GucSetting<i32> = GucSetting::<i32>::new(MAX_LISTS);

/// What happens when a text is longer than its model's maximum.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum OnTruncate {
    #[name = c"ignore"]
    Ignore,
    #[name = c"notice"]
    Notice,
    #[name = c"error"]
    Error,
}

/// What a scan of an ivf index does when the executor wants more rows than the probed lists hold.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum IterativeScan {
    #[name = c"off"]
    Off,
    /// Goes on to further lists; their rows may be nearer than some that were returned.
    #[name = c"relaxed"]
    Relaxed,
    /// pgvector's word for it.
    #[name = c"relaxed_order"]
    #[hidden = true]
    RelaxedOrder,
}

/// Below the data directory. pg_basebackup, pg_rewind and other tools pass over whatever has a name that begins with
/// `pgsql_tmp`, and the server removes such files only in tablespaces when it starts. Files get the mode of Postgres's
/// own from the umask that the server has set.
const WEIGHT_CACHE_DIRECTORY: &str = "pg_embed/pgsql_tmp_weights";

/// Whether Postgres knows the settings.
static DEFINED: AtomicBool = AtomicBool::new(false);

/// Defines the settings when the library is loaded.
///
/// Not in a parallel query, where the output function of `vector` can be the first that a session calls: Postgres would
/// refuse to apply what the configuration says of them. They are defined when one is first read, then.
pub fn register() {
    // SAFETY: reads the state of the transaction.
    if !unsafe { pg_sys::IsInParallelMode() } {
        ensure_defined();
    }
}

fn ensure_defined() {
    // Only read as a rule: every row of a query comes by here.
    if !DEFINED.load(Ordering::Relaxed) {
        DEFINED.store(true, Ordering::Relaxed);
        define();
    }
}

fn define() {
    GucRegistry::define_string_guc(
        c"pg_embed.default_model",
        c"Model that embed(text) uses.",
        c"The name of a folder in pg_embed.model_path.",
        &DEFAULT_MODEL,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_embed.query_model",
        c"Model that embed_query(text) uses, if it is to be another one than the default model.",
        c"As a rule the quantised twin of the model that has embedded the documents.",
        &QUERY_MODEL,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_embed.rerank_model",
        c"Cross-encoder that rerank(query, documents) uses.",
        c"The name of a folder in pg_embed.model_path.",
        &RERANK_MODEL,
        GucContext::Userset,
        GucFlags::default(),
    );
    let library = library_directory();
    set_boot_value(&MODEL_PATH, &share_directory(&library), "pg_embed/models");
    set_boot_value(&ONNXRUNTIME_PATH, &library, "pg_embed/libonnxruntime.so.1.28.0");
    // Superusers only: a path decides which files the server reads.
    GucRegistry::define_string_guc(
        c"pg_embed.model_path",
        c"Directory that holds one folder a model.",
        c"",
        &MODEL_PATH,
        GucContext::Suset,
        GucFlags::default(),
    );
    // Superusers only: the server runs the code in this file.
    GucRegistry::define_string_guc(
        c"pg_embed.onnxruntime_path",
        c"ONNX Runtime's shared library.",
        c"Opened once in a session, by the first function that needs a model.",
        &ONNXRUNTIME_PATH,
        GucContext::Suset,
        GucFlags::default(),
    );
    // Postgres refuses to define a start-only setting later on; there it has no effect, but is known.
    let preloading = preloading();
    GucRegistry::define_string_guc(
        c"pg_embed.preload_models",
        c"Models that the server loads when it starts, separated by commas.",
        c"Needs pg_embed in shared_preload_libraries. Every connection has them at once, in shared memory pages.",
        &PRELOAD_MODELS,
        if preloading { GucContext::Postmaster } else { GucContext::Sighup },
        GucFlags::default(),
    );
    // Superusers only: it decides whether the server writes files.
    GucRegistry::define_bool_guc(
        c"pg_embed.weight_cache",
        c"Whether the weights of a model are kept prepared in files that all connections share.",
        c"Below pg_embed in the data directory.",
        &WEIGHT_CACHE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_embed.threads",
        c"Threads that compute one batch of texts.",
        c"One leaves the other cores to other sessions.",
        &THREADS,
        1,
        64,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"pg_embed.on_truncate",
        c"What happens when a text is longer than its model's maximum: ignore, notice or error.",
        c"The vector is that of the text's beginning in the first two cases.",
        &ON_TRUNCATE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_embed.cache_size",
        c"Recent results a session keeps, so that a query's text is embedded once, not once a row.",
        c"In entries; 0 turns the cache off.",
        &CACHE_SIZE,
        0,
        65_536,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_embed.max_workers",
        c"Background workers that keep vectorizers in step at the same time, in all databases together.",
        c"Each is one of max_worker_processes and computes with pg_embed.threads; 0 starts none.",
        &MAX_WORKERS,
        0,
        64,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"ivf.probes",
        c"Lists that a scan of an ivf index reads before it returns the first row.",
        c"More find more of the nearest rows, and take longer; 0: as many as each query needs for ivf.target_recall.",
        &PROBES,
        0,
        MAX_LISTS,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_float_guc(
        c"ivf.target_recall",
        c"Share of a query's ten nearest rows that a scan of an ivf index is to find, on average.",
        c"1 reads the whole index, up to ivf.max_probes, and finds all. With ivf.probes = 0.",
        &TARGET_RECALL,
        0.5,
        1.0,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_enum_guc(
        c"ivf.iterative_scan",
        c"Whether a scan of an ivf index goes on to further lists when a query wants more rows: relaxed or off.",
        c"The rows of further lists may be nearer than some that were returned before.",
        &ITERATIVE_SCAN,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_int_guc(
        c"ivf.max_probes",
        c"Lists that a scan of an ivf index reads at most.",
        c"Bounds what a query with a condition that few rows satisfy can cost.",
        &MAX_PROBES,
        1,
        MAX_LISTS,
        GucContext::Userset,
        GucFlags::EXPLAIN,
    );
    GucRegistry::define_bool_guc(
        c"ivf.auto_train",
        c"Whether VACUUM trains an ivf index again when its rows have become more, fewer or others.",
        c"Autovacuum does it with the server's setting.",
        &AUTO_TRAIN,
        GucContext::Userset,
        GucFlags::default(),
    );
    for prefix in [c"pg_embed", c"ivf"] {
        // SAFETY: a NUL-terminated prefix, which Postgres copies.
        unsafe {
            pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
        }
    }
}

pub fn default_model() -> String {
    name(&DEFAULT_MODEL)
}

/// Empty: the model of the documents embeds search texts, too.
pub fn query_model() -> String {
    name(&QUERY_MODEL)
}

pub fn rerank_model() -> String {
    name(&RERANK_MODEL)
}

fn name(setting: &TextSetting) -> String {
    ensure_defined();
    setting.get().map(|name| text::utf8(name.to_bytes()).into_owned()).unwrap_or_default()
}

pub fn model_path() -> PathBuf {
    path(&MODEL_PATH)
}

pub fn onnxruntime_path() -> PathBuf {
    path(&ONNXRUNTIME_PATH)
}

/// The names in `pg_embed.preload_models`, as the configuration file has them: nobody knows its encoding.
pub fn preload_models() -> Vec<Result<String, CString>> {
    ensure_defined();
    let list = PRELOAD_MODELS.get().unwrap_or_default();
    list.to_bytes()
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
        .map(|name| match std::str::from_utf8(name) {
            Ok(name) => Ok(name.to_string()),
            // Without a NUL, as it is part of a C string.
            Err(_) => Err(CString::new(name).unwrap_or_default()),
        })
        .collect()
}

/// Where the weight cache is; `None` when it is turned off.
pub fn weight_cache() -> Option<PathBuf> {
    ensure_defined();
    WEIGHT_CACHE.get().then(|| data_directory().join(WEIGHT_CACHE_DIRECTORY))
}

/// Whether the postmaster is loading the library, or a server for a single user.
pub fn preloading() -> bool {
    // SAFETY: reads a flag of the server.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

pub fn threads() -> usize {
    ensure_defined();
    THREADS.get() as usize
}

pub fn on_truncate() -> OnTruncate {
    ensure_defined();
    ON_TRUNCATE.get()
}

pub fn cache_size() -> usize {
    ensure_defined();
    CACHE_SIZE.get() as usize
}

/// 0: none is to be started.
pub fn max_workers() -> usize {
    ensure_defined();
    MAX_WORKERS.get() as usize
}

/// 0 stands for the engine's choice.
pub fn probes() -> usize {
    ensure_defined();
    PROBES.get() as usize
}

pub fn target_recall() -> f64 {
    ensure_defined();
    TARGET_RECALL.get()
}

pub fn iterative_scan() -> IterativeScan {
    ensure_defined();
    ITERATIVE_SCAN.get()
}

pub fn auto_train() -> bool {
    ensure_defined();
    AUTO_TRAIN.get()
}

pub fn max_probes() -> usize {
    ensure_defined();
    MAX_PROBES.get() as usize
}

/// `pg_config --sharedir` of the running server, wherever it was moved; `share` beside the library's directory where that is
/// not the server's, as in an image with nothing but this extension.
fn share_directory(library: &Path) -> PathBuf {
    // Either may be a link to the other.
    let place = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    if place(library) != place(&server_library_directory()) {
        return library.parent().unwrap_or(library).join("share");
    }
    let mut path: [c_char; pg_sys::MAXPGPATH as usize] = [0; pg_sys::MAXPGPATH as usize];
    // SAFETY: get_share_path writes a NUL-terminated path of at most MAXPGPATH bytes; my_exec_path is one.
    unsafe {
        pg_sys::get_share_path((&raw const pg_sys::my_exec_path).cast(), path.as_mut_ptr());
        to_path(CStr::from_ptr(path.as_ptr()))
    }
}

/// The cluster's data directory.
fn data_directory() -> PathBuf {
    // SAFETY: a server process has set it, to a C string, before it loads any library.
    to_path(unsafe { CStr::from_ptr(pg_sys::DataDir) })
}

/// Where this library was loaded from: `dynamic_library_path` may name other directories than the server's.
fn library_directory() -> PathBuf {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: dladdr takes any address; if it knows the file, it points `dli_fname` to its NUL-terminated path.
    let file = unsafe {
        let known = libc::dladdr(library_directory as *const () as *const _, &mut info) != 0;
        (known && !info.dli_fname.is_null()).then(|| to_path(CStr::from_ptr(info.dli_fname)))
    };
    // Postgres opens libraries by absolute paths.
    let directory =
        file.filter(|file| file.is_absolute()).and_then(|file| Some(file.parent()?.to_path_buf()));
    directory.unwrap_or_else(server_library_directory)
}

/// `pg_config --pkglibdir` of the running server.
fn server_library_directory() -> PathBuf {
    // SAFETY: Postgres fills pkglib_path with a NUL-terminated path before it loads any library.
    to_path(unsafe { CStr::from_ptr((&raw const pg_sys::pkglib_path).cast()) })
}

/// Gives a setting that is about to be defined the default `directory/file`, which is known only at run time.
///
/// This is its boot value, as that of the other settings: `SetConfigOption` would be refused when the first call that
/// needs the library is in a parallel query, and undone by ALTER SYSTEM RESET.
fn set_boot_value(setting: &'static TextSetting, directory: &Path, file: &str) {
    // Without a NUL, as it is made of C strings.
    if let Ok(path) = CString::new(directory.join(file).into_os_string().into_encoded_bytes()) {
        // SAFETY: the setting is not defined yet, so that nobody else refers to its value; the path lives for ever.
        unsafe { *setting.as_ptr() = path.into_raw() };
    }
}

fn path(setting: &TextSetting) -> PathBuf {
    ensure_defined();
    to_path(&setting.get().unwrap_or_default())
}

fn to_path(path: &CStr) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path.to_bytes()))
}
