//! A loaded model: texts in, vectors out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::chunk::{Chunk, ChunkOptions, Splitter};
use crate::session::{self, Batch, Output, Session};
use crate::tokenize::{Tokenizer, Tokens};
use crate::{Activation, Error, Interrupts, ModelSpec, Task, batch, memory, pool, spec};

/// Whether a text is stored or searched for: some models want a different prefix for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Document,
    Query,
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// ONNX Runtime's shared library.
    pub library: &'a Path,
    /// How many threads compute one batch, the caller's included.
    pub threads: usize,
    /// A directory of this user's own, which is made if it is not there, for files that processes share. `None`: no
    /// cache.
    pub weight_cache: Option<&'a Path>,
}

/// How a model came by its weights. They are the same ones in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weights {
    /// From the model's file, into memory of this process.
    Private,
    /// From the cache: shared with all who map it.
    Cached,
    /// Likewise; this process has built what is in the cache.
    Built,
    /// As `Private`, since the cache in this directory is of no use.
    CacheFailed { directory: PathBuf, reason: String },
}

/// What became of a text, or of a document that was compared with a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// `dimensions` finite values, so one score of a document; `None` for a text without a token (empty, blank, control
    /// characters only).
    pub vector: Option<Arc<[f32]>>,
    /// Whether the text was longer than the model's maximum and its end was not seen.
    pub truncated: bool,
}

/// What became of several texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// One a text, in order.
    pub embeddings: Vec<Embedding>,
    /// What the model has seen of all of them: special tokens counted, padding and texts that equal another not.
    pub tokens: usize,
}

/// Texts tokenised before the model runs on them: enough to find texts of equal length, and at most
/// 1024 x 512 tokens x 8 bytes = 4 MB in memory.
const WINDOW: usize = 1024;

/// What a text takes while it is embedded, beside its tokens and its vector: a slot in a hash table, and places in the
/// lists of texts and of results here and at the caller's.
const BYTES_PER_TEXT: usize = 256;

/// Tokenises one text.
type Encode<'a> = &'a dyn Fn(&Model, &str) -> Result<Option<Tokens>, Error>;

pub struct Model {
    spec: ModelSpec,
    content_hash: String,
    tokenizer: Tokenizer,
    session: Session,
    weights: Weights,
    load_time: Duration,
    /// Tokens of the document and of the query prefix: a text without more has none of its own.
    prefix_tokens: [usize; 2],
}

impl Model {
    /// Loads the model in `folder`.
    pub fn open(folder: &Path, options: &Options) -> Result<Model, Error> {
        let start = Instant::now();
        let spec = ModelSpec::read(folder)?;
        let tokenizer = Tokenizer::open(&spec)?;
        let own_tokens = |prefix: &str| tokenizer.count(prefix, Interrupts::NONE);
        let prefix_tokens = [own_tokens(&spec.document_prefix)?, own_tokens(&spec.query_prefix)?];
        let graph = spec::fingerprint(&spec.onnx_file)?;
        let content_hash = spec.content_hash_with(&graph)?;
        let (session, weights) = Session::open(&spec, options, graph)?;
        session::trim_memory();
        Ok(Model {
            spec,
            content_hash,
            tokenizer,
            session,
            weights,
            load_time: start.elapsed(),
            prefix_tokens,
        })
    }

    /// [`ModelSpec::content_hash`] of the files that it was loaded from.
    pub fn content_hash(&self) -> &str {
        &self.content_hash
    }

    /// How long it took to load.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Elements of the vectors that it makes. Errors: [`Error::WrongTask`].
    pub fn dimensions(&self) -> Result<usize, Error> {
        self.check_task(self.spec.task == Task::Embed)?;
        Ok(self.spec.dimensions)
    }

    /// Tokens the model would see of `text`, special tokens included, before truncation.
    pub fn token_count(&self, text: &str, interrupts: Interrupts) -> Result<usize, Error> {
        self.tokenizer.count(&self.prefixed(text, Kind::Document)?, interrupts)
    }

    /// The chunks of `text`, each no longer than the model's maximum; see [`crate::chunk`].
    pub fn chunk(
        &self,
        text: &str,
        options: &ChunkOptions,
        interrupts: Interrupts,
    ) -> Result<Vec<Chunk>, Error> {
        let splitter = Splitter {
            tokenizer: &self.tokenizer,
            own_tokens: self.prefix_tokens[Kind::Document as usize],
            max_tokens: self.spec.max_tokens,
            count: &|part| self.token_count(part, interrupts),
            interrupts,
        };
        splitter.split(text, options)
    }

    /// The ids the model sees of `text`, cut at its maximum; `None` when there is nothing but special tokens.
    pub fn token_ids(&self, text: &str, interrupts: Interrupts) -> Result<Option<Vec<u32>>, Error> {
        let tokens = self.tokenizer.encode(&self.prefixed(text, Kind::Document)?, interrupts)?;
        Ok(tokens.map(|tokens| tokens.ids))
    }

    /// Embeds texts. Equal ones are computed once.
    ///
    /// Errors: [`Error::WrongTask`], [`Error::OutOfMemory`], [`Error::Tokenize`], [`Error::Run`].
    pub fn embed(&mut self, texts: &[&str], kind: Kind, interrupts: Interrupts) -> Result<Embedded, Error> {
        self.check_task(self.spec.task == Task::Embed)?;
        let own_tokens = self.prefix_tokens[kind as usize];
        self.compute(texts, 0, interrupts, &|model, text| {
            let encoded = model.tokenizer.encode(&model.prefixed(text, kind)?, interrupts)?;
            Ok(encoded.filter(|t| t.truncated || t.ids.len() > own_tokens))
        })
    }

    /// Scores of documents for a query: higher ones answer it better. Equal documents are computed once.
    ///
    /// Errors: those of [`embed`](Self::embed).
    pub fn rerank(
        &mut self,
        query: &str,
        documents: &[&str],
        interrupts: Interrupts,
    ) -> Result<Embedded, Error> {
        self.check_task(self.spec.task != Task::Embed)?;
        let query = self.tokenizer.begin_pair(query, interrupts)?;
        self.compute(documents, query.tokens(), interrupts, &|model, document| {
            model.tokenizer.encode_pair(&query, document, interrupts).map(Some)
        })
    }

    fn check_task(&self, is_right: bool) -> Result<(), Error> {
        let wrong = || Error::WrongTask { model: self.spec.name.clone(), task: self.spec.task };
        is_right.then_some(()).ok_or_else(wrong)
    }

    /// What the model makes of texts, each of them as `encode` gives it, `None` for one without a token. `shared_tokens`: of what all
    /// texts are paired with.
    fn compute(
        &mut self,
        texts: &[&str],
        shared_tokens: usize,
        interrupts: Interrupts,
        encode: Encode,
    ) -> Result<Embedded, Error> {
        let bytes_per_text = BYTES_PER_TEXT + self.spec.dimensions * size_of::<f32>();
        memory::ensure(texts.len().saturating_mul(bytes_per_text))?;
        let mut position_of: HashMap<&str, usize> = HashMap::with_capacity(texts.len());
        let mut unique: Vec<&str> = vec![];
        let positions: Vec<usize> = texts
            .iter()
            .map(|text| {
                *position_of.entry(text).or_insert_with(|| {
                    unique.push(text);
                    unique.len() - 1
                })
            })
            .collect();
        let mut embeddings = Vec::with_capacity(unique.len());
        let mut tokens = 0;
        for window in unique.chunks(WINDOW) {
            tokens += self.compute_window(window, shared_tokens, interrupts, encode, &mut embeddings)?;
        }
        Ok(Embedded { embeddings: positions.into_iter().map(|at| embeddings[at].clone()).collect(), tokens })
    }

    /// Appends what becomes of `texts`, in order. Returns how many tokens they have.
    fn compute_window(
        &mut self,
        texts: &[&str],
        shared_tokens: usize,
        interrupts: Interrupts,
        encode: Encode,
        embeddings: &mut Vec<Embedding>,
    ) -> Result<usize, Error> {
        // The ids and types of their tokens, and their vectors.
        let longest = self.spec.max_tokens;
        let tokens: usize = texts.iter().map(|text| (text.len() + shared_tokens).min(longest)).sum();
        memory::ensure((2 * tokens + texts.len() * self.spec.dimensions) * size_of::<f32>())?;
        let first = embeddings.len();
        let mut tokens: Vec<Tokens> = Vec::with_capacity(texts.len());
        let mut owners = Vec::with_capacity(texts.len());
        for (i, text) in texts.iter().enumerate() {
            let encoded = encode(self, text)?;
            embeddings
                .push(Embedding { vector: None, truncated: encoded.as_ref().is_some_and(|t| t.truncated) });
            if let Some(encoded) = encoded {
                tokens.push(encoded);
                owners.push(first + i);
            }
        }
        let lengths: Vec<usize> = tokens.iter().map(|t| t.ids.len()).collect();
        let groups = if self.spec.precision.dynamically_quantized {
            (0..tokens.len()).map(|i| vec![i]).collect()
        } else {
            batch::plan(&lengths)
        };
        for group in groups {
            (interrupts.check)();
            let members: Vec<&Tokens> = group.iter().map(|&i| &tokens[i]).collect();
            for (&i, vector) in group.iter().zip(self.run(&members, interrupts)?) {
                embeddings[owners[i]].vector = Some(vector);
            }
        }
        Ok(lengths.iter().sum())
    }

    /// Runs one batch: a vector for each member.
    fn run(&mut self, members: &[&Tokens], interrupts: Interrupts) -> Result<Vec<Arc<[f32]>>, Error> {
        let longest = members.iter().map(|t| t.ids.len()).max().unwrap_or(0);
        let dimensions = self.spec.dimensions;
        let output = self.session.run(&pad(members, longest, self.spec.first_position), interrupts)?;
        members
            .iter()
            .enumerate()
            .map(|(i, member)| {
                let mut vector = match &output {
                    Output::Texts(texts) => texts[i * dimensions..(i + 1) * dimensions].to_vec(),
                    Output::Tokens(hidden) => {
                        let text = longest * dimensions;
                        pool::pool(
                            &hidden[i * text..(i + 1) * text],
                            dimensions,
                            member.ids.len(),
                            self.spec.pooling,
                        )
                    }
                };
                if self.spec.normalize {
                    pool::normalize(&mut vector);
                }
                if self.spec.task == Task::Rerank(Activation::Sigmoid) {
                    vector.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()));
                }
                if vector.iter().all(|x| x.is_finite()) {
                    Ok(vector.into())
                } else {
                    let reason = "the model returned a value that is not finite".to_string();
                    Err(Error::Run { model: self.spec.name.clone(), reason })
                }
            })
            .collect()
    }

    fn prefixed<'t>(&self, text: &'t str, kind: Kind) -> Result<Cow<'t, str>, Error> {
        let prefix = match kind {
            Kind::Document => &self.spec.document_prefix,
            Kind::Query => &self.spec.query_prefix,
        };
        if prefix.is_empty() {
            return Ok(Cow::Borrowed(text));
        }
        memory::ensure(prefix.len().saturating_add(text.len()))?;
        Ok(Cow::Owned(format!("{prefix}{text}")))
    }
}

/// Pads with zeros on the right; the mask hides the padding, so its token id and position do not matter.
fn pad(members: &[&Tokens], longest: usize, first_position: usize) -> Batch {
    let padded = |values: &dyn Fn(&Tokens) -> Vec<i64>| {
        let mut all = Vec::with_capacity(members.len() * longest);
        for member in members {
            all.extend(values(member));
            all.resize(all.len().next_multiple_of(longest), 0);
        }
        all
    };
    Batch {
        texts: members.len(),
        tokens: longest,
        ids: padded(&|t| t.ids.iter().map(|id| i64::from(*id)).collect()),
        mask: padded(&|t| vec![1; t.ids.len()]),
        type_ids: padded(&|t| t.type_ids.iter().map(|id| i64::from(*id)).collect()),
        position_ids: padded(&|t| (first_position as i64..).take(t.ids.len()).collect()),
    }
}
