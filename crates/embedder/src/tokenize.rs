//! tokenizer.json to token ids; truncation and padding are ours, never the file's.

use std::path::Path;

use tokenizers::{
    DecoderWrapper, Encoding, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
    TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};
use unicode_categories::UnicodeCategories;

use crate::wordpiece::Words;
use crate::{Error, Interrupts, ModelSpec, Task, memory};

/// A text, or a pair of them, as the model sees it; special tokens included.
#[derive(Debug, PartialEq, Eq)]
pub struct Tokens {
    pub ids: Vec<u32>,
    pub type_ids: Vec<u32>,
    /// Whether the text was longer than the model's maximum.
    pub truncated: bool,
}

/// A query that documents are paired with, tokenised once for all of them.
pub struct Query(Encoding);

impl Query {
    pub fn tokens(&self) -> usize {
        self.0.len()
    }
}

/// What a tokenizer.json describes.
type Parts =
    TokenizerImpl<Words, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

pub struct Tokenizer {
    inner: Parts,
    max_tokens: usize,
    /// What the post-processor adds: 2 for BERT's [CLS] and [SEP].
    special_tokens: usize,
    /// What it adds to a pair of texts: 3 for BERT's.
    special_tokens_of_pair: usize,
    /// Whether a word of more than a hundred characters is one [UNK], however long.
    long_words_are_unknown: bool,
}

/// What a tokenizer takes while it is read, in bytes of its file. Measured: 2.7 with gte-small's; those of the tokenizers
/// crate keep several copies of the vocabulary.
const MAX_GROWTH: usize = 16;

/// Memory that it takes to read a tokenizer.json.
pub fn bytes_to_read(file: &Path) -> usize {
    let length = std::fs::metadata(file).map_or(0, |file| file.len() as usize);
    length.saturating_mul(MAX_GROWTH)
}

impl Tokenizer {
    /// Errors: [`Error::Unreadable`], [`Error::InvalidFile`].
    pub fn open(spec: &ModelSpec) -> Result<Tokenizer, Error> {
        let file = &spec.tokenizer_file;
        memory::ensure(bytes_to_read(file))?;
        let bytes = std::fs::read(file).map_err(Error::unreadable(file))?;
        let mut inner: Parts = serde_json::from_slice(&bytes).map_err(|e| Error::invalid(file, e))?;
        // Both gte-small's and MiniLM's files ask for padding to 128 and truncation at 128, which gives wrong vectors.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::invalid(file, e))?;
        let added_to = |pair: bool| {
            inner.get_post_processor().map_or(0, |p| tokenizers::PostProcessor::added_tokens(p, pair))
        };
        let (special_tokens, special_tokens_of_pair) = (added_to(false), added_to(true));
        let added = if spec.task == Task::Embed { special_tokens } else { special_tokens_of_pair };
        if added >= spec.max_tokens {
            return Err(Error::invalid(file, format!("{added} special tokens leave no room for text")));
        }
        let long_words_are_unknown = matches!(
            inner.get_model(),
            Words::WordPiece(_) | Words::Other(tokenizers::ModelWrapper::WordPiece(_))
        );
        Ok(Tokenizer {
            inner,
            max_tokens: spec.max_tokens,
            special_tokens,
            special_tokens_of_pair,
            long_words_are_unknown,
        })
    }

    /// Tokens of `text`, special tokens included, before truncation.
    pub fn count(&self, text: &str, interrupts: Interrupts) -> Result<usize, Error> {
        Ok(self.special_tokens + self.count_own(text, interrupts)?)
    }

    /// Tokens of `text` without special tokens.
    pub fn count_own(&self, text: &str, interrupts: Interrupts) -> Result<usize, Error> {
        let mut tokens = 0;
        for piece in pieces(text, self.long_words_are_unknown) {
            (interrupts.check)();
            tokens += self.encode_piece(piece)?.len();
        }
        Ok(tokens)
    }

    /// Where each token of `text` starts, in bytes, ascending; special tokens left out. For texts of less than 4 GB.
    pub fn starts(&self, text: &str, interrupts: Interrupts) -> Result<Vec<u32>, Error> {
        let mut starts = vec![];
        for piece in pieces(text, self.long_words_are_unknown) {
            (interrupts.check)();
            let before = piece.as_ptr() as usize - text.as_ptr() as usize;
            let encoding = self.inner.encode(piece, false).map_err(|e| Error::Tokenize(e.to_string()))?;
            starts.extend(encoding.get_offsets().iter().map(|&(start, _)| (before + start) as u32));
        }
        Ok(starts)
    }

    /// `text` as the model sees it, cut at its maximum; `None` when there is nothing but special tokens to see.
    pub fn encode(&self, text: &str, interrupts: Interrupts) -> Result<Option<Tokens>, Error> {
        let room = self.max_tokens - self.special_tokens;
        let mut encoding = self.beginning(text, room, interrupts)?;
        if encoding.is_empty() {
            return Ok(None);
        }
        let truncated = encoding.len() > room;
        encoding.truncate(room, 0, TruncationDirection::Right);
        self.finish(encoding, None, truncated).map(Some)
    }

    /// The beginning of a query, for [`encode_pair`](Self::encode_pair): all that the model can see of it.
    pub fn begin_pair(&self, query: &str, interrupts: Interrupts) -> Result<Query, Error> {
        Ok(Query(self.beginning(query, self.room_for_pair(), interrupts)?))
    }

    /// A query and a document as the model sees them together. Where they are too long, the longer one is cut, as Python's
    /// cross-encoders do: the document, unless the query takes more than half. (Which of two that are both far too long gets an odd
    /// token may differ: their ends are not looked at.)
    pub fn encode_pair(
        &self,
        query: &Query,
        document: &str,
        interrupts: Interrupts,
    ) -> Result<Tokens, Error> {
        let room = self.room_for_pair();
        let (query, document) = (query.0.clone(), self.beginning(document, room, interrupts)?);
        let truncated = query.len() + document.len() > room;
        let params = TruncationParams {
            max_length: room,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: TruncationDirection::Right,
        };
        let failed = |e: tokenizers::Error| Error::Tokenize(e.to_string());
        let (query, document) = truncate_encodings(query, Some(document), &params).map_err(failed)?;
        self.finish(query, document, truncated)
    }

    fn room_for_pair(&self) -> usize {
        self.max_tokens - self.special_tokens_of_pair
    }

    /// Tokens from the start of `text`, without special tokens: all of them, or more than `room`.
    fn beginning(&self, text: &str, room: usize, interrupts: Interrupts) -> Result<Encoding, Error> {
        let mut encoding = Encoding::default();
        for piece in pieces(text, self.long_words_are_unknown) {
            if encoding.len() > room {
                break;
            }
            (interrupts.check)();
            let next = self.encode_piece(piece)?;
            if encoding.is_empty() { encoding = next } else { encoding.merge_with(next, false) }
        }
        Ok(encoding)
    }

    /// Adds the special tokens.
    fn finish(&self, first: Encoding, second: Option<Encoding>, truncated: bool) -> Result<Tokens, Error> {
        let encoding =
            self.inner.post_process(first, second, true).map_err(|e| Error::Tokenize(e.to_string()))?;
        Ok(Tokens { ids: encoding.get_ids().to_vec(), type_ids: encoding.get_type_ids().to_vec(), truncated })
    }

    /// `encode_fast`, one text at a time: `encode_batch` would start rayon's threads inside a database backend.
    fn encode_piece(&self, piece: &str) -> Result<Encoding, Error> {
        self.inner.encode_fast(piece, false).map_err(|e| Error::Tokenize(e.to_string()))
    }
}

/// Bytes of text tokenised at once. A tokenizer keeps tens of bytes per byte of text, so a 100 MB text must not be
/// given to it whole; 16 kB of English are about 3,600 tokens, more than most models look at.
const PIECE_BYTES: usize = 16 * 1024;

/// All the pieces of a text; see [`split_piece`].
fn pieces(text: &str, skip_long_words: bool) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let piece;
        (piece, rest) = (!rest.is_empty()).then(|| split_piece(rest, skip_long_words))?;
        Some(piece)
    })
}

/// Splits off a piece that can be tokenised by itself: the tokens of `text` are those of the piece and of the rest.
///
/// Cuts before white space; in a text without any, before a character that every BERT tokenizer makes a token of its
/// own. A run longer than a piece without either is one "word". With `skip_long_words` the part of it beyond the piece is
/// passed over, which changes nothing for WordPiece (a word of more than 100 characters is one [UNK]); else the word is
/// cut, and may have another token at the cut.
fn split_piece(text: &str, skip_long_words: bool) -> (&str, &str) {
    if text.len() <= PIECE_BYTES {
        return (text, "");
    }
    let window = &text[..text.floor_char_boundary(PIECE_BYTES)];
    if let Some(cut) = window.rfind(is_space).filter(|cut| *cut > 0) {
        let rest = &text[cut..];
        // Of a long stretch of white space only its last character is kept.
        let word = rest.find(|c| !is_space(c)).unwrap_or(rest.len());
        let keep = rest[..word].char_indices().next_back().map_or(0, |(at, _)| at);
        return (&text[..cut], &rest[keep..]);
    }
    match window.rfind(stands_alone).filter(|cut| *cut > 0) {
        Some(cut) => text.split_at(cut),
        None if skip_long_words => {
            let rest = &text[window.len()..];
            let next = rest.find(|c| is_space(c) || stands_alone(c)).unwrap_or(rest.len());
            (window, &rest[next..])
        }
        None => text.split_at(window.len()),
    }
}

/// White space that separates words. BertNormalizer drops the three others, as control characters.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() && !matches!(c, '\u{b}' | '\u{c}' | '\u{85}')
}

/// Characters that BertPreTokenizer and BertNormalizer separate from their neighbours: punctuation and CJK ideographs
/// (the ranges of BERT's `_is_chinese_char`, as far as the tokenizers crate has them, too).
pub fn stands_alone(c: char) -> bool {
    c.is_ascii_punctuation()
        || c.is_punctuation()
        || matches!(c as u32,
            0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        pieces_with(text, true)
    }

    fn pieces_with(text: &str, skip_long_words: bool) -> Vec<&str> {
        let mut start = std::ptr::null();
        super::pieces(text, skip_long_words)
            .inspect(|piece| {
                assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES && piece.as_ptr() > start);
                start = piece.as_ptr();
            })
            .collect()
    }

    #[test]
    fn pieces_end_between_words_and_lose_none() {
        let words: Vec<String> = (0..20_000).map(|i| format!("wörd{i}")).collect();
        let text = words.join(" ");
        let found: Vec<&str> = pieces(&text).into_iter().flat_map(str::split_whitespace).collect();
        assert_eq!(found, words.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn text_without_spaces_is_cut_between_ideographs() {
        let text = "漢字".repeat(50_000);
        assert_eq!(pieces(&text).concat(), text);
    }

    #[test]
    fn a_very_long_word_stays_one_word() {
        let text = format!("{} end", "a".repeat(10_000_000));
        let found = pieces(&text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], " end");
        assert_eq!(pieces_with(&text, false).concat(), text);
    }

    #[test]
    fn text_with_only_foreign_punctuation_is_cut_at_it() {
        for text in ["あい、".repeat(50_000), "བོད་".repeat(50_000), "a—b…".repeat(50_000)] {
            assert_eq!(pieces(&text).concat(), text);
        }
    }

    #[test]
    fn a_desert_of_white_space_is_crossed_at_once() {
        let text = format!("start{}end", " ".repeat(10_000_000));
        assert!(pieces(&text).len() <= 3);
        assert_eq!(pieces(&text).last().unwrap().trim(), "end");
    }
}
