//! Splits a text into chunks that a model can see whole.
//!
//! Where to split is `text-splitter`'s: at the highest level (paragraph, sentence, word, character; headings and other
//! elements in Markdown) whose parts fit. It asks for the size of many candidates a chunk. To tokenise each of them takes as
//! long as eleven passes over the text (measured, 4 MB of English in chunks of 200 tokens). So the text is tokenised once, a
//! candidate's tokens are counted by where they start, and only what becomes a chunk is tokenised again: two passes.

use std::ops::Range;

use text_splitter::{ChunkConfig, MarkdownSplitter, TextSplitter, TryChunkSizer};

use crate::tokenize::{Tokenizer, is_space, stands_alone};
use crate::{Error, Interrupts, memory};

/// How a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Plain,
    Markdown,
}

impl Format {
    pub const NAMES: [(&str, Format); 2] = [("plain", Format::Plain), ("markdown", Format::Markdown)];

    pub fn named(name: &str) -> Option<Format> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }
}

/// How large chunks are, in tokens.
#[derive(Debug, Clone, Copy)]
pub struct ChunkOptions {
    /// Of a chunk as the model sees it, its prefix and special tokens included. `None`: the model's maximum.
    pub max_tokens: Option<usize>,
    /// What a chunk repeats at most of the one before.
    pub overlap: usize,
    pub format: Format,
}

/// A part of a text without white space around it (but for the indentation of Markdown), and with something to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it is in the text, in bytes.
    pub bytes: Range<usize>,
    /// As the model sees it, its prefix and special tokens included.
    pub tokens: usize,
}

/// What one character can be for any tokenizer, in tokens: four bytes of byte-level BPE, four characters of its NFD.
const TOKENS_OF_A_CHARACTER: usize = 4;

/// Bytes of text split at once: `text-splitter` looks at each line that is still to come with each chunk. Measured with
/// 4 MB of English in chunks of 200 tokens: 1 MB at once takes 1.27 times as long as 64 kB, as Markdown 1.6 times.
const WINDOW_BYTES: usize = 64 * 1024;
/// And at least this much for each token of a chunk, so that a window has many chunks; English has four or five.
const WINDOW_BYTES_PER_TOKEN: usize = 32;

/// Splits texts for one model.
pub(crate) struct Splitter<'a> {
    pub tokenizer: &'a Tokenizer,
    /// Of a text with nothing in it: prefix and special tokens.
    pub own_tokens: usize,
    /// The model's maximum.
    pub max_tokens: usize,
    /// Tokens of a text with the prefix and the special tokens.
    pub count: &'a dyn Fn(&str) -> Result<usize, Error>,
    pub interrupts: Interrupts<'a>,
}

impl Splitter<'_> {
    /// The chunks of `text` in order. All that it has beside them is white space and what has no token.
    ///
    /// Errors: [`Error::ChunkSize`], [`Error::ChunkOverlap`]; [`Error::ChunkCharacter`] where one character is more than a
    /// chunk may be.
    pub fn split(&self, text: &str, options: &ChunkOptions) -> Result<Vec<Chunk>, Error> {
        let least = self.own_tokens + TOKENS_OF_A_CHARACTER;
        let max_tokens = options.max_tokens.unwrap_or(self.max_tokens);
        if max_tokens < least || max_tokens > self.max_tokens {
            return Err(Error::ChunkSize { given: max_tokens, least, most: self.max_tokens });
        }
        let capacity = max_tokens - self.own_tokens;
        if options.overlap >= capacity {
            return Err(Error::ChunkOverlap { given: options.overlap, most: capacity - 1 });
        }
        let size = Size { capacity, overlap: options.overlap, format: options.format };
        let window_bytes = WINDOW_BYTES.max(capacity.saturating_mul(WINDOW_BYTES_PER_TOKEN));

        let mut chunks = vec![];
        let mut from = 0;
        while from < text.len() {
            let to = text.floor_char_boundary(from.saturating_add(window_bytes));
            let window = &text[from..to];
            let mut found = self.split_window(window, size)?;
            let mut next = to;
            if to < text.len() && found.len() > 1 {
                // The last one ends where the window does: it is found again, whole.
                next = found.pop().map_or(to, |last| from + last.start);
            }
            memory::ensure(found.len() * size_of::<Chunk>())?;
            for bytes in found {
                self.push(text, from + bytes.start..from + bytes.end, max_tokens, size, &mut chunks)?;
            }
            from = next;
        }
        Ok(chunks)
    }

    fn split_window(&self, window: &str, size: Size) -> Result<Vec<Range<usize>>, Error> {
        let starts = self.tokenizer.starts(window, self.interrupts)?;
        let whole = |part: &str| self.tokenizer.count_own(part, self.interrupts);
        ranges(window, size, Counted { text: window, starts, whole: &whole, check: self.interrupts.check })
    }

    /// Adds a chunk, or smaller ones if it has more tokens by itself than as part of the text, as a tokenizer may have it that
    /// sees words otherwise than BERT's.
    fn push(
        &self,
        text: &str,
        bytes: Range<usize>,
        max_tokens: usize,
        size: Size,
        chunks: &mut Vec<Chunk>,
    ) -> Result<(), Error> {
        let content = &text[bytes.clone()];
        let tokens = (self.count)(content)?;
        if tokens <= max_tokens {
            self.push_one(Chunk { bytes, tokens }, chunks);
            return Ok(());
        }
        let exact = |part: &str| Ok((self.count)(part)?.saturating_sub(self.own_tokens));
        for part in ranges(content, size, Exact(&exact))? {
            let part = bytes.start + part.start..bytes.start + part.end;
            let tokens = (self.count)(&text[part.clone()])?;
            if tokens > max_tokens {
                let character = text[part].chars().next().unwrap_or_default();
                return Err(Error::ChunkCharacter { character, tokens, max_tokens });
            }
            self.push_one(Chunk { bytes: part, tokens }, chunks);
        }
        Ok(())
    }

    /// Adds a chunk that has something to embed. Of two that overlap, one may have nothing that the other has not: white space
    /// in front of it was cut off.
    fn push_one(&self, chunk: Chunk, chunks: &mut Vec<Chunk>) {
        let is_part =
            |part: &Chunk, of: &Chunk| of.bytes.start <= part.bytes.start && part.bytes.end <= of.bytes.end;
        if chunk.tokens == self.own_tokens || chunks.last().is_some_and(|last| is_part(&chunk, last)) {
            return;
        }
        chunks.pop_if(|last| is_part(last, &chunk));
        chunks.push(chunk);
    }
}

/// What `text-splitter` is to do; in tokens without the model's own.
#[derive(Clone, Copy)]
struct Size {
    capacity: usize,
    overlap: usize,
    format: Format,
}

/// Where it would have chunks.
fn ranges(
    text: &str,
    size: Size,
    sizer: impl TryChunkSizer<Error = Error>,
) -> Result<Vec<Range<usize>>, Error> {
    // An overlap that is not less than the capacity is refused before.
    let config = ChunkConfig::new(size.capacity)
        .with_sizer(sizer)
        .with_overlap(size.overlap)
        .map_err(|_| Error::ChunkOverlap { given: size.overlap, most: size.capacity.saturating_sub(1) })?;
    let range = |(start, chunk): (usize, &str)| start..start + chunk.len();
    match size.format {
        Format::Plain => {
            TextSplitter::new(config).try_chunk_indices(text).map(|chunk| chunk.map(range)).collect()
        }
        Format::Markdown => {
            MarkdownSplitter::new(config).try_chunk_indices(text).map(|chunk| chunk.map(range)).collect()
        }
    }
}

/// Tokenises every candidate.
struct Exact<'a>(&'a dyn Fn(&str) -> Result<usize, Error>);

impl TryChunkSizer for Exact<'_> {
    type Error = Error;

    fn try_size(&self, chunk: &str) -> Result<usize, Error> {
        (self.0)(chunk)
    }
}

/// Counts the tokens of parts of a text.
struct Counted<'a> {
    text: &'a str,
    /// Where its tokens start, in bytes, ascending.
    starts: Vec<u32>,
    /// Tokens of a part by itself.
    whole: &'a dyn Fn(&str) -> Result<usize, Error>,
    check: &'a dyn Fn(),
}

impl Counted<'_> {
    fn between(&self, bytes: Range<usize>) -> usize {
        let before = |at: usize| self.starts.partition_point(|&start| (start as usize) < at);
        before(bytes.end).saturating_sub(before(bytes.start))
    }
}

impl TryChunkSizer for Counted<'_> {
    type Error = Error;

    /// `chunk` is a part of the text. Words at its ends that are not there whole are tokenised by themselves.
    fn try_size(&self, chunk: &str) -> Result<usize, Error> {
        (self.check)();
        let start = chunk.as_ptr() as usize - self.text.as_ptr() as usize;
        let end = start + chunk.len();
        let head = (start..=end).find(|&at| is_between_words(self.text, at));
        let Some(head) = head else { return (self.whole)(chunk) };
        let tail = (head..=end).rev().find(|&at| is_between_words(self.text, at)).unwrap_or(head);
        let of_part =
            |part: Range<usize>| if part.is_empty() { Ok(0) } else { (self.whole)(&self.text[part]) };
        Ok(of_part(start..head)? + self.between(head..tail) + of_part(tail..end)?)
    }
}

/// Whether the tokens before and behind this place are those of the two parts by themselves.
fn is_between_words(text: &str, at: usize) -> bool {
    let is_edge = |c: char| is_space(c) || stands_alone(c);
    text.is_char_boundary(at)
        && (text[..at].chars().next_back().is_none_or(is_edge)
            || text[at..].chars().next().is_none_or(is_edge))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::ModelSpec;

    /// That of gte-small, with its 30,522 words.
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
        let mut spec = ModelSpec::read(&data.join("tiny-bert")).unwrap();
        spec.tokenizer_file = data.join("gte-small/tokenizer.json");
        Tokenizer::open(&spec).unwrap()
    });

    const MODEL_MAXIMUM: usize = 512;
    const SPECIAL_TOKENS: usize = 2;

    fn split(
        text: &str,
        max_tokens: usize,
        overlap: usize,
        format: Format,
        interrupts: Interrupts,
    ) -> Result<Vec<Chunk>, Error> {
        let splitter = Splitter {
            tokenizer: &TOKENIZER,
            own_tokens: SPECIAL_TOKENS,
            max_tokens: MODEL_MAXIMUM,
            count: &|part| TOKENIZER.count(part, interrupts),
            interrupts,
        };
        splitter.split(text, &ChunkOptions { max_tokens: Some(max_tokens), overlap, format })
    }

    /// The chunks' contents, after they have been looked at.
    fn checked(text: &str, max_tokens: usize, overlap: usize, format: Format) -> Vec<&str> {
        let chunks = split(text, max_tokens, overlap, format, Interrupts::NONE).unwrap();
        let (mut end, mut start) = (0, None);
        for chunk in &chunks {
            assert!(start < Some(chunk.bytes.start), "{chunk:?} begins behind the one before");
            assert!(end < chunk.bytes.end, "{chunk:?} brings something new");
            let content = &text[chunk.bytes.clone()];
            assert_eq!(TOKENIZER.count(content, Interrupts::NONE).unwrap(), chunk.tokens);
            assert!(SPECIAL_TOKENS < chunk.tokens && chunk.tokens <= max_tokens, "{chunk:?}");
            if format == Format::Plain {
                assert_eq!(content.trim(), content);
            }
            if let Some(skipped) = text.get(end..chunk.bytes.start) {
                assert_eq!(TOKENIZER.count_own(skipped, Interrupts::NONE).unwrap(), 0, "{skipped:?} is lost");
            } else {
                let repeated = &text[chunk.bytes.start..end];
                let tokens = TOKENIZER.count_own(repeated, Interrupts::NONE).unwrap();
                assert!(tokens <= overlap, "{repeated:?} is repeated");
            }
            (start, end) = (Some(chunk.bytes.start), chunk.bytes.end);
        }
        assert_eq!(TOKENIZER.count_own(&text[end..], Interrupts::NONE).unwrap(), 0, "the end is lost");
        chunks.into_iter().map(|chunk| &text[chunk.bytes]).collect()
    }

    /// Pieces of what texts are made of: words, punctuation, other scripts, marks without a letter, Markdown, white space.
    fn any_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "[a-z]{1,12} ",
            2 => "[.!?,;] |\\n{1,3}|\\r\\n|[ \\t]{1,4}",
            1 => "\\PC{1,20}",
            1 => "[\\u{0}-\\u{1f}\\u{80}-\\u{9f}\\u{ad}\\u{300}-\\u{36f}\\u{200b}-\\u{200f}]{1,8}",
            1 => "[\\u{3040}-\\u{30ff}\\u{4e00}-\\u{4eff}\\u{e00}-\\u{e7f}\\u{ac00}-\\u{acff}]{1,30}",
            1 => "[A-Za-z0-9+/]{30,300}",
            1 => "\n# [a-z]{3,9}\n|\n[*] [a-z]{3,9}|\n```\n[a-z]{1,9}\n|[|] a [|] b [|]\n",
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn every_token_is_in_a_chunk_and_none_is_too_long(
            text in any_text(),
            max_tokens in SPECIAL_TOKENS + TOKENS_OF_A_CHARACTER..80,
            overlap in 0_usize..20,
            format in prop_oneof![Just(Format::Plain), Just(Format::Markdown)],
        ) {
            checked(&text, max_tokens, overlap.min(max_tokens - SPECIAL_TOKENS - 1), format);
        }

        #[test]
        fn parts_are_counted_as_by_themselves(text in any_text(), a in 0.0..1.0, b in 0.0..1.0) {
            let at = |share: f64| text.floor_char_boundary((share * text.len() as f64) as usize);
            let part = &text[at(a).min(at(b))..at(a).max(at(b))];
            let starts = TOKENIZER.starts(&text, Interrupts::NONE).unwrap();
            let whole = |part: &str| TOKENIZER.count_own(part, Interrupts::NONE);
            let counted = Counted { text: &text, starts, whole: &whole, check: &|| () };
            prop_assert_eq!(counted.try_size(part).unwrap(), whole(part).unwrap(), "{:?}", part);
        }
    }

    #[test]
    fn a_text_is_split_between_paragraphs_then_sentences_then_words() {
        let text = "One two. Three four five.\n\nSix seven eight nine ten eleven twelve.";
        assert_eq!(checked(text, 40, 0, Format::Plain), [text]);
        assert_eq!(checked(text, 12, 0, Format::Plain), text.split("\n\n").collect::<Vec<_>>());
        assert_eq!(checked(text, 7, 0, Format::Plain)[..2], ["One two.", "Three four five."]);
        assert_eq!(
            checked("one two three four five six", 6, 0, Format::Plain),
            ["one two three four", "five six"]
        );
        assert_eq!(checked("ααααααααα", 6, 0, Format::Plain).concat(), "ααααααααα");
    }

    #[test]
    fn markdown_is_split_before_headings() {
        let text = "# First\n\nSome words of it.\n\nOther words.\n\n# Second\n\nIts words.";
        assert_eq!(
            checked(text, 14, 0, Format::Markdown),
            ["# First\n\nSome words of it.\n\nOther words.", "# Second\n\nIts words."]
        );
    }

    #[test]
    fn a_chunk_repeats_the_end_of_the_one_before() {
        let text = "one two three four five six seven eight nine ten";
        assert_eq!(
            checked(text, 7, 2, Format::Plain),
            ["one two three four five", "four five six seven eight", "seven eight nine ten"]
        );
    }

    #[test]
    fn what_has_no_token_has_no_chunk() {
        for blank in ["", " \n\t ", "\u{301}\u{200b}\u{7}"] {
            assert_eq!(checked(blank, 20, 0, Format::Plain), [""; 0]);
        }
    }

    #[test]
    fn a_long_text_is_split_as_if_there_were_no_windows() {
        let sentence = |i: usize| {
            format!("Sentence number {i} says it.{}", if i.is_multiple_of(7) { "\n\n" } else { " " })
        };
        let text: String = (0..20_000).map(sentence).collect();
        assert!(text.len() > 8 * WINDOW_BYTES);
        let splitter = |sizer| TextSplitter::new(ChunkConfig::new(100 - SPECIAL_TOKENS).with_sizer(sizer));
        let whole = |part: &str| TOKENIZER.count_own(part, Interrupts::NONE);
        let starts = TOKENIZER.starts(&text, Interrupts::NONE).unwrap();
        let at_once = splitter(Counted { text: &text, starts, whole: &whole, check: &|| () });
        let at_once: Vec<&str> = at_once.try_chunks(&text).map(Result::unwrap).collect();
        assert!(checked(&text, 100, 0, Format::Plain) == at_once);
    }

    #[test]
    fn a_word_longer_than_a_window_is_one_unknown_token() {
        let text = "a".repeat(3 * WINDOW_BYTES);
        let found = checked(&text, 100, 0, Format::Plain);
        assert_eq!(found.concat(), text);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let error = |max_tokens, overlap| {
            split("text", max_tokens, overlap, Format::Plain, Interrupts::NONE).unwrap_err().to_string()
        };
        assert_eq!(error(5, 0), "max_tokens must be between 6 and 512, not 5");
        assert_eq!(error(513, 0), "max_tokens must be between 6 and 512, not 513");
        assert_eq!(error(10, 8), "overlap must be between 0 and 7, not 8");
    }

    #[test]
    fn it_can_be_interrupted() {
        let text = "some words ".repeat(100_000);
        let check = || std::panic::resume_unwind(Box::new("cancelled"));
        let interrupts = Interrupts { check: &check, pending: None };
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            split(&text, 100, 0, Format::Plain, interrupts)
        }));
        assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&"cancelled"));
    }
}
