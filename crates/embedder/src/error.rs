//! The one error type of this crate.

use std::path::{Path, PathBuf};

use crate::Task;

/// What can go wrong between a text and its vector. No variant leaves anything half-done: the next call works
/// once the cause is mended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model name that could name something outside the model directory.
    #[error("invalid model name \"{0}\"")]
    InvalidName(String),
    #[error("model \"{name}\" does not exist")]
    UnknownModel { name: String, directory: PathBuf, installed: Vec<String> },
    /// The model is asked for what it does not make: vectors of a cross-encoder, or scores of an encoder.
    #[error("model \"{model}\" is {}", match .task { Task::Embed => "an encoder, which gives vectors", Task::Rerank(_) => "a cross-encoder, which gives scores" })]
    WrongTask { model: String, task: Task },
    /// A file of a model folder that is missing or cannot be read.
    #[error("could not read \"{}\": {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// A file of a model folder that does not hold what it should.
    #[error("invalid model file \"{}\"", path.display())]
    InvalidFile { path: PathBuf, reason: String },
    /// ONNX Runtime's library is missing, not a library, or too old.
    #[error("could not load ONNX Runtime from \"{}\"", path.display())]
    Runtime { path: PathBuf, missing: bool, reason: String },
    /// The weight cache is of no use. Never returned: the model is loaded without it, and says so in
    /// [`Weights::CacheFailed`](crate::Weights).
    #[error("could not use the weight cache in \"{}\" for model \"{model}\": {reason}", directory.display())]
    WeightCache { model: String, directory: PathBuf, reason: String },
    /// The thread that loads a model could not be started, or has ended without a word.
    #[error("could not load the model in a thread of its own: {0}")]
    Thread(std::io::Error),
    /// In ONNX Runtime, or before work that would need more than there is.
    #[error("out of memory")]
    OutOfMemory { reason: String },
    /// The tokenizer refused a text.
    #[error("could not tokenize the text: {0}")]
    Tokenize(String),
    /// Chunks of that many tokens cannot be made.
    #[error("max_tokens must be between {least} and {most}, not {given}")]
    ChunkSize { given: usize, least: usize, most: usize },
    /// Chunks would repeat more than they have.
    #[error("overlap must be between 0 and {most}, not {given}")]
    ChunkOverlap { given: usize, most: usize },
    /// One character is more than a chunk may be.
    #[error("character U+{:04X} has {tokens} tokens, which is more than max_tokens = {max_tokens}", *.character as u32)]
    ChunkCharacter { character: char, tokens: usize, max_tokens: usize },
    /// ONNX Runtime failed while running the model.
    #[error("could not run model \"{model}\": {reason}")]
    Run { model: String, reason: String },
}

impl Error {
    /// The message, and the reason where that is kept apart from it.
    pub fn with_reason(&self) -> String {
        match self {
            Error::InvalidFile { reason, .. }
            | Error::Runtime { reason, .. }
            | Error::OutOfMemory { reason } => format!("{self}: {reason}"),
            _ => self.to_string(),
        }
    }

    pub(crate) fn invalid(path: impl Into<PathBuf>, reason: impl ToString) -> Error {
        Error::InvalidFile { path: path.into(), reason: reason.to_string() }
    }

    pub(crate) fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        |source| Error::Unreadable { path: path.to_path_buf(), source }
    }
}
