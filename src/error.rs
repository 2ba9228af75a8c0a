//! The one place where typed errors become SQLSTATE, message, detail and hint.

use std::ffi::CStr;
use std::io::ErrorKind;

use embedder::Task;
use embedder::chunk::Format;
use ivf::store::IndexError;
use ivf::vector::VectorError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode as Code, pg_sys};

pub use analysis::AnalysisError;
pub use pipeline::PipelineError;

use crate::spi::Failure;
use crate::vector::MAX_DIMENSIONS;

mod analysis;
mod pipeline;

/// Everything pg_embed can refuse; [`OrRaise`] turns it into the ERROR.
#[derive(Debug)]
pub enum Error {
    Vector(VectorError),
    /// Text that is not a vector, and what is wrong with it if that is worth saying.
    Syntax {
        input: String,
        detail: Option<&'static str>,
    },
    /// A number that is finite as it is written, but not as `float4`.
    OutOfRange {
        number: String,
    },
    NoDimensions,
    TooManyDimensions,
    /// Dimensions other than those of the column, or of the vectors before it in an average.
    UnexpectedDimensions {
        expected: usize,
        actual: usize,
    },
    /// The reserved field of the binary format is in use.
    UnusedNotZero(u32),
    ArrayNotFlat,
    ArrayHasNulls,
    UnsupportedArray,
    NotOneModifier,
    ModifierTooSmall,
    ModifierTooLarge,
    /// An aggregate's support function was called with a state that it did not make.
    NotAState {
        function: &'static str,
    },
    /// A stored `vector` whose header and size disagree.
    CorruptVector {
        dim: i16,
        bytes: usize,
    },
    Embedder(embedder::Error),
    /// Bytes that are no text in UTF-8, from an SQL_ASCII database.
    NotUtf8,
    /// A text longer than its model's maximum, under `pg_embed.on_truncate`.
    Truncated {
        model: String,
        max_tokens: usize,
    },
    /// `pg_embed.query_model` has vectors that compare with none of the default model's.
    QueryModel {
        query_model: String,
        found: usize,
        model: String,
        expected: usize,
    },
    /// `pg_embed.query_model` was quantised from other files than the default model has.
    StaleTwin {
        query_model: String,
        model: String,
    },
    Trigger(TriggerError),
    Chunk(ChunkError),
    Pipeline(PipelineError),
    Analysis(AnalysisError),
    /// An ERROR that was caught, once more.
    Failed(Failure),
    Ivf(IvfError),
}

/// How `chunk` can be misused, beyond what the embedder refuses.
#[derive(Debug)]
pub enum ChunkError {
    UnknownFormat(String),
    Negative { name: &'static str, value: i32 },
}

/// What an `ivf` index can refuse.
#[derive(Debug)]
pub enum IvfError {
    /// Its pages cannot be understood.
    Unreadable {
        name: String,
        error: IndexError,
    },
    /// The column's type is `vector`, not `vector(n)`.
    NoDimensions,
    TooManyDimensions,
    /// `maintenance_work_mem` is too small; in bytes.
    Memory {
        needed: usize,
        available: usize,
    },
    /// The memory that `maintenance_work_mem` allows is not there; in bytes.
    OutOfMemory {
        wanted: usize,
    },
    /// The operator class's support function does not tell a metric.
    NoMetric,
    /// A column that is no vector comes first, or one that is does not.
    VectorNotFirst,
    /// The operator class of a column beside the vector has no hash, and its type no order.
    NoNumber,
    TooManyColumns,
    /// What is said to be a condition is something else.
    NotAnExpression,
    /// Queries would run expressions of the owner's with the rights of another user.
    NotTheOwner {
        name: String,
    },
    /// A query is answered without the index that it is about.
    NotUsed {
        name: String,
    },
    NoOrder,
    NotMvcc,
    /// Another command has the table's lock that VACUUM takes.
    Busy {
        name: String,
    },
    NotAnIndex {
        name: String,
    },
    /// An index is not trained again.
    MemoryToTrain {
        name: String,
        /// Bytes.
        needed: usize,
    },
    /// To calibrate with.
    FewQueries {
        least: usize,
        given: usize,
    },
    /// An argument that is to be 1..=limit.
    OutOfBounds {
        name: &'static str,
        value: i32,
        limit: i32,
    },
}

/// How `embed_trigger` can be misused.
#[derive(Debug)]
pub enum TriggerError {
    NotATrigger,
    WrongEvent,
    TooFewArguments,
    NoColumn(String),
    NotAVector(String),
    NotText(String),
    /// Postgres computes generated columns after BEFORE triggers: their new values cannot be read, nor set.
    Generated(String),
    WrongDimensions {
        expected: usize,
        found: usize,
    },
}

impl From<VectorError> for Error {
    fn from(error: VectorError) -> Self {
        Error::Vector(error)
    }
}

impl From<embedder::Error> for Error {
    fn from(error: embedder::Error) -> Self {
        Error::Embedder(error)
    }
}

impl From<IvfError> for Error {
    fn from(error: IvfError) -> Self {
        Error::Ivf(error)
    }
}

impl From<PipelineError> for Error {
    fn from(error: PipelineError) -> Self {
        Error::Pipeline(error)
    }
}

impl From<ChunkError> for Error {
    fn from(error: ChunkError) -> Self {
        Error::Chunk(error)
    }
}

impl From<TriggerError> for Error {
    fn from(error: TriggerError) -> Self {
        Error::Trigger(error)
    }
}

impl Error {
    /// Raises the ERROR. Postgres's error handling unwinds from here.
    #[cold]
    pub fn raise(self) -> ! {
        ErrorReport::from(self).report(PgLogLevel::ERROR);
        unreachable!("report(ERROR) does not return")
    }

    /// Says it in a NOTICE, WARNING, LOG or DEBUG message, and goes on.
    pub fn say(self, level: PgLogLevel) {
        say(self.into(), level);
    }
}

/// Says what is no error in a LOG or DEBUG message, and goes on.
pub fn tell(message: String, level: PgLogLevel) {
    say(ErrorReport::new(Code::ERRCODE_SUCCESSFUL_COMPLETION, message, "tell"), level);
}

/// Says something in a NOTICE, WARNING, LOG or DEBUG message, and goes on.
///
/// Postgres looks for a cancel then, too, and would jump over the callers: pgrx turns only what the functions raise that
/// Postgres calls into an unwinding. The next check for interrupts will find it.
fn say(report: ErrorReport, level: PgLogLevel) {
    // SAFETY: as HOLD_INTERRUPTS() and RESUME_INTERRUPTS() do; if it raises an error after all, Postgres sets it to 0.
    unsafe {
        pg_sys::InterruptHoldoffCount += 1;
        report.report(level);
        pg_sys::InterruptHoldoffCount -= 1;
    }
}

/// How a SQL function ends that may fail.
pub trait OrRaise<T> {
    fn or_raise(self) -> T;
}

impl<T, E: Into<Error>> OrRaise<T> for Result<T, E> {
    #[inline]
    fn or_raise(self) -> T {
        self.unwrap_or_else(|error| error.into().raise())
    }
}

/// Text to quote in a message. Bytes that are not UTF-8, which other server encodings can hold, are escaped.
pub fn quotable(text: &CStr) -> String {
    match text.to_str() {
        Ok(text) => text.to_owned(),
        Err(_) => text.to_bytes().escape_ascii().to_string(),
    }
}

/// Our text, which is UTF-8, as the database may hold it: in another encoding, every character that is not ASCII is
/// written as in E'...'. It is not converted, since pgrx passes on UTF-8 only.
pub fn presentable(text: String) -> String {
    // SAFETY: reads a setting of the database.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() } as u32;
    if text.is_ascii() || [pg_sys::pg_enc::PG_UTF8, pg_sys::pg_enc::PG_SQL_ASCII].contains(&encoding) {
        return text;
    }
    let mut escaped = String::new();
    for c in text.chars() {
        match c as u32 {
            0..0x80 => escaped.push(c),
            code @ 0x80..0x10000 => escaped.push_str(&format!("\\u{code:04x}")),
            code => escaped.push_str(&format!("\\U{code:08x}")),
        }
    }
    escaped
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        match error {
            Error::Vector(e @ (VectorError::Overflow | VectorError::Underflow)) => {
                report(Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, e)
            }
            Error::Vector(e) => report(Code::ERRCODE_DATA_EXCEPTION, e),
            Error::Syntax { input, detail } => {
                let message = format!("invalid input syntax for type vector: \"{input}\"");
                let report = report(Code::ERRCODE_INVALID_TEXT_REPRESENTATION, message);
                match detail {
                    Some(detail) => report.set_detail(detail),
                    None => report,
                }
            }
            Error::OutOfRange { number } => report(
                Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
                format!("\"{number}\" is out of range for type vector"),
            ),
            Error::NoDimensions => {
                report(Code::ERRCODE_DATA_EXCEPTION, "vector must have at least 1 dimension")
            }
            Error::TooManyDimensions => report(
                Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("vector cannot have more than {MAX_DIMENSIONS} dimensions"),
            ),
            Error::UnexpectedDimensions { expected, actual } => {
                report(Code::ERRCODE_DATA_EXCEPTION, format!("expected {expected} dimensions, not {actual}"))
            }
            Error::UnusedNotZero(unused) => {
                report(Code::ERRCODE_DATA_EXCEPTION, format!("expected unused to be 0, not {unused}"))
            }
            Error::ArrayNotFlat => report(Code::ERRCODE_DATA_EXCEPTION, "array must be 1-D"),
            Error::ArrayHasNulls => {
                report(Code::ERRCODE_NULL_VALUE_NOT_ALLOWED, "array must not contain nulls")
            }
            Error::UnsupportedArray => report(Code::ERRCODE_DATA_EXCEPTION, "unsupported array type"),
            Error::NotOneModifier => report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "invalid type modifier"),
            Error::ModifierTooSmall => {
                report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "dimensions for type vector must be at least 1")
            }
            Error::ModifierTooLarge => report(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("dimensions for type vector cannot exceed {MAX_DIMENSIONS}"),
            ),
            Error::NotAState { function } => {
                report(Code::ERRCODE_INTERNAL_ERROR, format!("{function}: expected state array"))
            }
            Error::CorruptVector { dim, bytes } => report(
                Code::ERRCODE_DATA_CORRUPTED,
                format!("vector of {dim} dimensions is stored in {bytes} bytes"),
            ),
            Error::Embedder(e) => embedder_report(e),
            Error::NotUtf8 => report(Code::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE, "text is not valid UTF-8"),
            Error::Truncated { model, max_tokens } => report(
                Code::ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
                format!("text is longer than the {max_tokens} tokens that model \"{model}\" can see"),
            )
            .set_hint("Split the text, or set pg_embed.on_truncate to ignore what does not fit."),
            Error::QueryModel { query_model, found, model, expected } => report(
                Code::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("query model \"{query_model}\" has {found} dimensions, default model \"{model}\" has {expected}"),
            )
            .set_hint("Set pg_embed.query_model to the twin of the model that embeds the documents, or to ''."),
            Error::StaleTwin { query_model, model } => report(
                Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("query model \"{query_model}\" was made from other files than model \"{model}\" has"),
            )
            .set_hint(presentable(format!("Make it anew: make model MODEL={query_model}, where pg_embed was built."))),
            Error::Trigger(e) => trigger_report(e),
            Error::Chunk(e) => chunk_report(e),
            Error::Pipeline(e) => pipeline::report_of(e),
            Error::Analysis(e) => analysis::report_of(e),
            Error::Failed(failure) => ErrorReport::new(failure.sqlstate.into(), failure.message, "pg_embed"),
            Error::Ivf(e) => ivf_report(e),
        }
    }
}

fn report(code: Code, message: impl ToString) -> ErrorReport {
    ErrorReport::new(code, presentable(message.to_string()), "pg_embed")
}

fn embedder_report(error: embedder::Error) -> ErrorReport {
    use embedder::Error as E;
    let message = error.to_string();
    match error {
        E::InvalidName(_) => report(Code::ERRCODE_INVALID_NAME, message)
            .set_hint("A model is named by its folder in pg_embed.model_path, without a path."),
        E::UnknownModel { name, directory, installed } => {
            let directory = directory.display();
            let installed = match installed.as_slice() {
                [] => format!("No model is installed in \"{directory}\"."),
                names => format!("Installed in \"{directory}\": {}.", names.join(", ")),
            };
            report(Code::ERRCODE_UNDEFINED_OBJECT, message).set_detail(presentable(installed)).set_hint(
                presentable(format!("To install it: make model MODEL={name}, where pg_embed was built.")),
            )
        }
        E::WrongTask { task, .. } => {
            let hint = match task {
                Task::Embed => "Use it with embed and embed_query. rerank wants a cross-encoder.",
                Task::Rerank(_) => "Use it with rerank. embed and embed_query want an encoder.",
            };
            report(Code::ERRCODE_WRONG_OBJECT_TYPE, message).set_hint(hint)
        }
        E::Unreadable { source, .. } => {
            let code = match source.kind() {
                ErrorKind::NotFound => Code::ERRCODE_UNDEFINED_FILE,
                ErrorKind::PermissionDenied => Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
                _ => Code::ERRCODE_IO_ERROR,
            };
            report(code, message)
        }
        E::InvalidFile { reason, .. } => {
            report(Code::ERRCODE_CONFIG_FILE_ERROR, message).set_detail(presentable(reason))
        }
        E::Runtime { missing: true, .. } => report(Code::ERRCODE_UNDEFINED_FILE, message)
            .set_detail("The file does not exist.")
            .set_hint("\"make install\" puts it there; pg_embed.onnxruntime_path can name another place."),
        E::Runtime { reason, .. } => report(Code::ERRCODE_SYSTEM_ERROR, message)
            .set_detail(presentable(reason))
            .set_hint("pg_embed needs ONNX Runtime 1.28; \"make install\" brings it."),
        E::WeightCache { .. } => report(Code::ERRCODE_IO_ERROR, message)
            .set_detail("The model is loaded without it, into memory of this process.")
            .set_hint("\"pg_embed.weight_cache = off\" does so always, and does not say it."),
        E::OutOfMemory { reason } => {
            report(Code::ERRCODE_OUT_OF_MEMORY, message).set_detail(presentable(reason))
        }
        E::ChunkSize { .. } | E::ChunkOverlap { .. } => {
            report(Code::ERRCODE_INVALID_PARAMETER_VALUE, message)
        }
        E::ChunkCharacter { .. } => {
            report(Code::ERRCODE_INVALID_PARAMETER_VALUE, message).set_hint("Raise max_tokens.")
        }
        E::Thread(_) => report(Code::ERRCODE_INSUFFICIENT_RESOURCES, message),
        E::Tokenize(_) | E::Run { .. } => report(Code::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION, message),
    }
}

fn chunk_report(error: ChunkError) -> ErrorReport {
    let code = Code::ERRCODE_INVALID_PARAMETER_VALUE;
    match error {
        ChunkError::UnknownFormat(format) => {
            let known = Format::NAMES.map(|(name, _)| name).join(", ");
            report(code, format!("unknown format \"{format}\"")).set_hint(format!("Formats are: {known}."))
        }
        ChunkError::Negative { name, value } => {
            report(code, format!("{name} must not be negative, not {value}"))
        }
    }
}

fn ivf_report(error: IvfError) -> ErrorReport {
    use IvfError as E;
    match error {
        E::Unreadable { name, error } => {
            let message = match &error {
                IndexError::Version(version) => {
                    format!(
                        "index \"{name}\" has format version {version}, which is not the one of this pg_embed"
                    )
                }
                IndexError::Corrupt { block, problem } => {
                    format!("index \"{name}\" is corrupt: block {block} {problem}")
                }
                // Not damage: on a standby, nothing waits for who reads.
                IndexError::Replaced(_) => {
                    let message = format!("index \"{name}\" was trained again while it was read");
                    return report(Code::ERRCODE_T_R_SERIALIZATION_FAILURE, message)
                        .set_hint("Please run the query again.");
                }
                nearer @ IndexError::Nearer { .. } => format!("index \"{name}\" is corrupt: {nearer}"),
            };
            report(Code::ERRCODE_INDEX_CORRUPTED, message).set_hint("Please REINDEX it.")
        }
        E::NoDimensions => report(Code::ERRCODE_INVALID_PARAMETER_VALUE, "column does not have dimensions")
            .set_hint("Give the column a type with dimensions, such as vector(384)."),
        E::TooManyDimensions => report(
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!("column cannot have more than {} dimensions for ivf index", ivf::layout::MAX_DIMENSIONS),
        ),
        E::Memory { needed, available } => {
            const MB: usize = 1024 * 1024;
            let (needed, available) = (needed / MB + 1, available / MB);
            report(
                Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("memory required is {needed} MB, maintenance_work_mem is {available} MB"),
            )
        }
        E::OutOfMemory { wanted } => report(Code::ERRCODE_OUT_OF_MEMORY, "out of memory")
            .set_detail(format!("Failed on request of size {wanted} for the sample of an ivf index.")),
        E::NoMetric => report(
            Code::ERRCODE_INVALID_OBJECT_DEFINITION,
            "support function 1 of the operator class does not tell a metric of access method ivf",
        ),
        E::VectorNotFirst => report(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            "an ivf index has one vector, which is its first column",
        )
        .set_hint("Name the vector first: USING ivf (embedding vector_cosine_ops, tenant_id)."),
        E::NoNumber => report(
            Code::ERRCODE_INVALID_OBJECT_DEFINITION,
            "operator class of access method ivf is for a type without order and has no support function 2",
        ),
        E::TooManyColumns => report(
            Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            format!(
                "an ivf index cannot have more than {} columns beside the vector",
                ivf::columns::MAX_COLUMNS
            ),
        ),
        E::NotAnExpression => report(Code::ERRCODE_SYNTAX_ERROR, "the condition is not an expression")
            .set_hint("Give what follows WHERE, such as 'tenant_id = 7'."),
        E::NotUsed { name } => report(
            Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("queries with this condition do not use index \"{name}\""),
        )
        .set_hint("Another index may serve them, or the condition may make a join."),
        E::NotTheOwner { name } => report(
            Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("only the table's owner can measure index \"{name}\" under a condition"),
        )
        .set_detail("Queries hold the index's own expressions.")
        .set_hint("SET ROLE to the owner."),
        E::NoOrder => report(Code::ERRCODE_FEATURE_NOT_SUPPORTED, "cannot scan ivf index without order"),
        E::NotMvcc => {
            report(Code::ERRCODE_FEATURE_NOT_SUPPORTED, "non-MVCC snapshots are not supported with ivf")
        }
        E::Busy { name } => {
            report(Code::ERRCODE_LOCK_NOT_AVAILABLE, format!("could not obtain lock on relation \"{name}\""))
                .set_hint("A VACUUM or a CREATE INDEX is at work; try again later.")
        }
        E::MemoryToTrain { name, needed } => report(
            Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            format!(
                "ivf index \"{name}\" was not trained again, as there is too little memory for its lists"
            ),
        )
        .set_hint(format!(
            "Set maintenance_work_mem, or autovacuum_work_mem if autovacuum has its own, to at least {} kB.",
            needed.div_ceil(1024)
        )),
        E::FewQueries { least, given } => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("at least {least} queries are needed, not {given}"),
        )
        .set_detail("NULLs, and zero vectors where they have no distance, do not count."),
        E::NotAnIndex { name } => {
            report(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("\"{name}\" is not an ivf index"))
        }
        E::OutOfBounds { name, value, limit } => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("{name} must be between 1 and {limit}, not {value}"),
        ),
    }
}

fn trigger_report(error: TriggerError) -> ErrorReport {
    use TriggerError as E;
    const EXAMPLE: &str = "CREATE TRIGGER ... BEFORE INSERT OR UPDATE ON ... FOR EACH ROW \
                           EXECUTE FUNCTION embed_trigger('embedding', 'default', 'title', 'body')";
    match error {
        E::NotATrigger => report(
            Code::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "function \"embed_trigger\" was not called by trigger manager",
        )
        .set_hint(EXAMPLE),
        E::WrongEvent => report(
            Code::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "function \"embed_trigger\" must be fired BEFORE INSERT OR UPDATE FOR EACH ROW",
        )
        .set_hint(EXAMPLE),
        E::TooFewArguments => report(
            Code::ERRCODE_INVALID_PARAMETER_VALUE,
            "embed_trigger needs a target column, a model or 'default', and at least one source column",
        )
        .set_hint(EXAMPLE),
        E::NoColumn(name) => report(
            Code::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{name}\" of embed_trigger does not exist"),
        ),
        E::NotAVector(name) => {
            report(Code::ERRCODE_DATATYPE_MISMATCH, format!("column \"{name}\" is not of type vector"))
        }
        E::NotText(name) => {
            report(Code::ERRCODE_DATATYPE_MISMATCH, format!("column \"{name}\" is not of a character type"))
        }
        E::Generated(name) => report(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            format!("embed_trigger cannot use generated column \"{name}\""),
        )
        .set_detail("Generated columns are computed after BEFORE triggers have run.")
        .set_hint("Name the columns that it is generated from."),
        E::WrongDimensions { expected, found } => {
            report(Code::ERRCODE_DATA_EXCEPTION, format!("expected {expected} dimensions, not {found}"))
                .set_hint(
                    "The column's type must have the dimensions of the trigger's model; see embed_models().",
                )
        }
    }
}
