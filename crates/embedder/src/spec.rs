//! What a model folder says of itself: the layout sentence-transformers and the model hub use.
//!
//! `config.json`, `tokenizer.json` and `model.onnx` (or `onnx/model.onnx`) are required. `modules.json`,
//! `1_Pooling/config.json`, `sentence_bert_config.json`, `tokenizer_config.json` and
//! `config_sentence_transformers.json` are read when they are there. Nothing is guessed from a name.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use twox_hash::XxHash3_128;

use crate::Error;
use crate::interface::{self, Interface};
use crate::onnx::{OnnxFile, Precision};
use crate::weights::{self, Fingerprint};

/// How one vector a token becomes one vector a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    Cls,
    LastToken,
}

impl std::fmt::Display for Pooling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
            Pooling::LastToken => "lasttoken",
        })
    }
}

/// What a model makes of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Vectors: a sentence encoder.
    Embed,
    /// A score for a query and a document: a cross-encoder, which reads both together.
    Rerank(Activation),
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Task::Embed => "embed",
            Task::Rerank(_) => "rerank",
        })
    }
}

/// What makes a score of a cross-encoder's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Identity,
    Sigmoid,
}

/// A model folder, read and checked, not loaded.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The folder's name: what SQL calls the model.
    pub name: String,
    pub onnx_file: PathBuf,
    pub tokenizer_file: PathBuf,
    pub task: Task,
    /// Elements of a vector; 1 for a cross-encoder's score.
    pub dimensions: usize,
    /// Tokens the model sees of a text, or of both texts of a pair, special tokens included; the rest of a longer text is
    /// cut off.
    pub max_tokens: usize,
    pub pooling: Pooling,
    pub normalize: bool,
    /// Put before every stored text (`embed`); e5 and the like want "passage: ".
    pub document_prefix: String,
    /// Put before every search text (`embed_query`).
    pub query_prefix: String,
    pub precision: Precision,
    /// Files beside the graph that hold weights.
    pub weight_files: Vec<PathBuf>,
    pub interface: Interface,
    /// The number of a text's first token: what `position_ids` begin with.
    pub first_position: usize,
    /// The model that this one was quantised from.
    pub twin_of: Option<String>,
    /// The hash of that model's graph.
    twin_of_graph: Option<String>,
}

/// config.json of transformers.
#[derive(Deserialize)]
struct Config {
    /// `dim` is what DistilBERT's configuration calls it.
    #[serde(alias = "dim")]
    hidden_size: usize,
    max_position_embeddings: Option<usize>,
    #[serde(default)]
    model_type: String,
    pad_token_id: Option<usize>,
    /// What sentence-transformers' `CrossEncoder` has written since version 4, and before.
    sentence_transformers: Option<CrossEncoderConfig>,
    sbert_ce_default_activation_function: Option<String>,
}

#[derive(Deserialize)]
struct CrossEncoderConfig {
    activation_fn: Option<String>,
}

/// sentence_bert_config.json
#[derive(Deserialize)]
struct SentenceBertConfig {
    max_seq_length: Option<usize>,
}

/// tokenizer_config.json. `model_max_length` is about 1e30 where nobody set it.
#[derive(Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
}

/// An entry of modules.json.
#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// 1_Pooling/config.json
#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
}

/// config_sentence_transformers.json
#[derive(Deserialize, Default)]
struct SentenceTransformersConfig {
    #[serde(default)]
    prompts: std::collections::HashMap<String, Option<String>>,
    default_prompt_name: Option<String>,
}

/// pg_embed.json, which tools/quantize_model.py writes.
#[derive(Deserialize, Default)]
struct OwnConfig {
    twin_of: Option<String>,
    graph: Option<String>,
}

/// Tokens of a model that says nothing of its maximum: BERT's.
const DEFAULT_MAX_TOKENS: usize = 512;

impl ModelSpec {
    /// Tells a model from another one of the same name: a hash of its graph, its weights, its tokenizer, and of what is said here.
    ///
    /// Errors: [`Error::Unreadable`].
    pub fn content_hash(&self) -> Result<String, Error> {
        self.content_hash_with(&fingerprint(&self.onnx_file)?)
    }

    /// Whether this model was quantised from the graph that `model` has now. Reads it: 20 ms for 91 MB.
    ///
    /// Errors: [`Error::Unreadable`].
    pub fn is_twin_of(&self, model: &ModelSpec) -> Result<bool, Error> {
        let Some(graph) = self.twin_of_graph.as_ref().filter(|_| self.twin_of.as_ref() == Some(&model.name))
        else {
            return Ok(false);
        };
        Ok(fingerprint(&model.onnx_file)?.hash == *graph)
    }

    /// As [`content_hash`](Self::content_hash), where the graph has been read.
    pub(crate) fn content_hash_with(&self, graph: &Fingerprint) -> Result<String, Error> {
        let tokenizer = fingerprint(&self.tokenizer_file)?.hash;
        let (max_tokens, pooling, normalize, prefix) =
            (self.max_tokens, self.pooling, self.normalize, &self.document_prefix);
        let mut all = format!("{} {tokenizer} {max_tokens} {pooling} {normalize} {prefix}", graph.hash);
        for file in &self.weight_files {
            all.push_str(&fingerprint(file)?.hash);
        }
        Ok(format!("{:032x}", XxHash3_128::oneshot(all.as_bytes())))
    }

    /// Reads a model folder.
    ///
    /// Errors: [`Error::Unreadable`] for a missing required file, [`Error::InvalidFile`] for one that does not hold
    /// what it should or asks for what is not supported.
    pub fn read(folder: &Path) -> Result<ModelSpec, Error> {
        let config_file = folder.join("config.json");
        let config: Config = required_json(&config_file)?;
        if config.hidden_size == 0 {
            return Err(Error::invalid(config_file, "hidden_size is 0"));
        }
        let tokenizer_file = folder.join("tokenizer.json");
        if !tokenizer_file.is_file() {
            return Err(Error::unreadable(&tokenizer_file)(ErrorKind::NotFound.into()));
        }
        let onnx_file = ["model.onnx", "onnx/model.onnx"]
            .map(|file| folder.join(file))
            .into_iter()
            .find(|file| file.is_file())
            .ok_or_else(|| Error::unreadable(&folder.join("model.onnx"))(ErrorKind::NotFound.into()))?;
        let onnx = OnnxFile::read(&onnx_file)?;
        let task = match interface::is_cross_encoder(&onnx) {
            true => Task::Rerank(config.activation().map_err(|e| Error::invalid(&config_file, e))?),
            false => Task::Embed,
        };
        let (dimensions, (pooling, normalize), (document_prefix, query_prefix)) = match task {
            Task::Embed => (config.hidden_size, modules(folder)?, prefixes(folder)?),
            Task::Rerank(_) => (1, (Pooling::Cls, false), Default::default()),
        };
        let interface = Interface::of(&onnx, dimensions).map_err(|e| Error::invalid(&onnx_file, e))?;
        let own = optional_json::<OwnConfig>(&folder.join("pg_embed.json"))?.unwrap_or_default();
        Ok(ModelSpec {
            name: folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            precision: onnx.precision,
            weight_files: onnx.weight_files,
            interface,
            onnx_file,
            tokenizer_file,
            task,
            dimensions,
            max_tokens: max_tokens(folder, &config)?,
            first_position: config.first_position(),
            twin_of: own.twin_of,
            twin_of_graph: own.graph,
            pooling,
            normalize,
            document_prefix,
            query_prefix,
        })
    }
}

impl Config {
    /// A cross-encoder's. As sentence-transformers: a sigmoid where nothing is said.
    fn activation(&self) -> Result<Activation, String> {
        let own = self.sentence_transformers.as_ref().and_then(|own| own.activation_fn.as_ref());
        let Some(named) = own.or(self.sbert_ce_default_activation_function.as_ref()) else {
            return Ok(Activation::Sigmoid);
        };
        // The name of a class of PyTorch's, such as torch.nn.modules.linear.Identity.
        match named.rsplit('.').next() {
            Some("Identity") => Ok(Activation::Identity),
            Some("Sigmoid") => Ok(Activation::Sigmoid),
            _ => Err(format!("activation function \"{named}\" is not supported")),
        }
    }

    /// RoBERTa numbers positions from pad_token_id + 1, so that many of its position embeddings are never used.
    fn first_position(&self) -> usize {
        match self.model_type.as_str() {
            "roberta" | "xlm-roberta" | "camembert" | "mpnet" => {
                self.pad_token_id.unwrap_or(1).saturating_add(1)
            }
            _ => 0,
        }
    }
}

/// The smallest maximum that the folder's files name.
fn max_tokens(folder: &Path, config: &Config) -> Result<usize, Error> {
    let positions =
        config.max_position_embeddings.map(|positions| positions.saturating_sub(config.first_position()));
    let sentence = optional_json::<SentenceBertConfig>(&folder.join("sentence_bert_config.json"))?
        .and_then(|file| file.max_seq_length);
    let tokenizer = optional_json::<TokenizerConfig>(&folder.join("tokenizer_config.json"))?
        .and_then(|file| file.model_max_length)
        .filter(|length| (1.0..1e9).contains(length))
        .map(|length| length as usize);
    let found = [positions, sentence, tokenizer].into_iter().flatten().min().unwrap_or(DEFAULT_MAX_TOKENS);
    if found < 3 {
        return Err(Error::invalid(
            folder.join("config.json"),
            format!("a maximum of {found} tokens leaves no room for text"),
        ));
    }
    Ok(found)
}

/// Pooling and normalisation. A folder without modules.json is a plain transformer: mean pooled and normalised, as
/// sentence-transformers pools such a folder and as gte-small's card says.
fn modules(folder: &Path) -> Result<(Pooling, bool), Error> {
    let modules_file = folder.join("modules.json");
    let Some(modules) = optional_json::<Vec<Module>>(&modules_file)? else {
        let pooling_file = folder.join("1_Pooling/config.json");
        let pooling = match optional_json::<PoolingConfig>(&pooling_file)? {
            Some(config) => config.mode(&pooling_file)?,
            None => Pooling::Mean,
        };
        return Ok((pooling, true));
    };
    let mut pooling = Pooling::Mean;
    let mut normalize = false;
    for module in &modules {
        match module.kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" => {}
            "Pooling" => {
                let pooling_file = folder.join(&module.path).join("config.json");
                pooling = required_json::<PoolingConfig>(&pooling_file)?.mode(&pooling_file)?;
            }
            "Normalize" => normalize = true,
            other => {
                return Err(Error::invalid(
                    modules_file,
                    format!("module type \"{other}\" is not supported"),
                ));
            }
        }
    }
    Ok((pooling, normalize))
}

impl PoolingConfig {
    fn mode(&self, file: &Path) -> Result<Pooling, Error> {
        let other = self.pooling_mode_max_tokens
            || self.pooling_mode_mean_sqrt_len_tokens
            || self.pooling_mode_weightedmean_tokens;
        match (self.pooling_mode_mean_tokens, self.pooling_mode_cls_token, self.pooling_mode_lasttoken, other)
        {
            (true, false, false, false) => Ok(Pooling::Mean),
            (false, true, false, false) => Ok(Pooling::Cls),
            (false, false, true, false) => Ok(Pooling::LastToken),
            _ => Err(Error::invalid(file, "exactly one of mean, cls and lasttoken pooling is supported")),
        }
    }
}

/// (document prefix, query prefix) of config_sentence_transformers.json.
fn prefixes(folder: &Path) -> Result<(String, String), Error> {
    let file =
        optional_json::<SentenceTransformersConfig>(&folder.join("config_sentence_transformers.json"))?
            .unwrap_or_default();
    let prompt = |names: &[&str]| names.iter().find_map(|name| file.prompts.get(*name).cloned().flatten());
    let default = file.default_prompt_name.as_deref().and_then(|name| prompt(&[name]));
    let document = prompt(&["document", "passage", "corpus"]).or_else(|| default.clone()).unwrap_or_default();
    let query = prompt(&["query"]).or(default).unwrap_or_default();
    Ok((document, query))
}

/// Of a file of the model as it is now. Errors: [`Error::Unreadable`].
pub(crate) fn fingerprint(file: &Path) -> Result<Fingerprint, Error> {
    weights::read_fingerprint(file).map_err(Error::unreadable(file))
}

fn required_json<T: DeserializeOwned>(file: &Path) -> Result<T, Error> {
    let bytes = std::fs::read(file).map_err(Error::unreadable(file))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::invalid(file, e))
}

/// A file that cannot be seen for want of permission is an error, not a file that is not there.
fn optional_json<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, Error> {
    match required_json(file) {
        Err(Error::Unreadable { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}
