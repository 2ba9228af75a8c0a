//! WordPiece with a small vocabulary.
//!
//! Every process that embeds has a vocabulary of its own. The tokenizers crate keeps two hash tables of strings, and
//! reads the JSON by way of two intermediate forms. Measured with gte-small's tokenizer.json (30,522 tokens): 17 ms and
//! more than 5 MB there, 4 ms and less than 1 MB here.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::wordpiece::WordPieceTrainer;
use tokenizers::{Model, ModelWrapper, Result, Token};

/// What cuts words into tokens.
#[derive(Debug, Clone)]
pub enum Words {
    WordPiece(WordPiece),
    Other(ModelWrapper),
}

/// "model" of a tokenizer.json with `"type": "WordPiece"`.
#[derive(Debug, Clone, Deserialize)]
pub struct WordPiece {
    vocab: Vocabulary,
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
}

/// Tokens and their ids.
#[derive(Debug, Clone, Default)]
struct Vocabulary {
    /// All tokens, one behind the other.
    text: String,
    entries: Vec<Entry>,
    /// A hash table with linear probing: positions in `entries` plus 1, 0 for a free slot. A power of two, and at most
    /// half of them are taken.
    slots: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where the token begins and ends in `text`.
    start: u32,
    end: u32,
    id: u32,
}

impl Vocabulary {
    fn token(&self, entry: &Entry) -> &str {
        &self.text[entry.start as usize..entry.end as usize]
    }

    fn get(&self, token: &str) -> Option<u32> {
        let at = *self.slots.get(self.slot(token)?)?;
        Some(self.entries.get((at as usize).checked_sub(1)?)?.id)
    }

    /// The slot that holds the token, or the free one where it would be; `None` if there are no slots.
    fn slot(&self, token: &str) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut slot = hash(token) as usize & mask;
        while let Some(at) = (self.slots[slot] as usize).checked_sub(1) {
            if self.token(&self.entries[at]) == token {
                break;
            }
            slot = (slot + 1) & mask;
        }
        Some(slot)
    }

    /// Adds a token behind the others, or gives it another id. `None`: more text than fits.
    fn insert(&mut self, token: &str, id: u32) -> Option<()> {
        if (self.entries.len() + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let slot = self.slot(token)?;
        match (self.slots[slot] as usize).checked_sub(1) {
            Some(at) => self.entries[at].id = id,
            None => {
                let start = u32::try_from(self.text.len()).ok()?;
                self.text.push_str(token);
                let end = u32::try_from(self.text.len()).ok()?;
                self.entries.push(Entry { start, end, id });
                self.slots[slot] = u32::try_from(self.entries.len()).ok()?;
            }
        }
        Some(())
    }

    fn grow(&mut self) {
        self.slots = vec![0; (self.slots.len() * 2).max(16)];
        for at in 0..self.entries.len() {
            if let Some(slot) = self.slot(self.token(&self.entries[at])) {
                self.slots[slot] = at as u32 + 1;
            }
        }
    }
}

/// FNV-1a: tokens have few bytes.
fn hash(token: &str) -> u64 {
    let mixed = token.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits choose the slot; the high ones depend on all bytes, too.
    mixed ^ mixed >> 32
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map of tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vocabulary, A::Error> {
                let mut vocabulary = Vocabulary::default();
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    vocabulary
                        .insert(&token, id)
                        .ok_or_else(|| serde::de::Error::custom("the vocabulary is larger than 4 GB"))?;
                }
                vocabulary.text.shrink_to_fit();
                vocabulary.entries.shrink_to_fit();
                Ok(vocabulary)
            }
        }
        deserializer.deserialize_map(Tokens)
    }
}

impl WordPiece {
    /// Longest match first (Wu et al. 2016, "Google's Neural Machine Translation System", section 4.1, as BERT has it):
    /// a word with a part that no token matches is one unknown token as a whole.
    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        let unknown = || {
            let id = self.vocab.get(&self.unk_token).ok_or("the unknown token is not in the vocabulary")?;
            Ok(vec![Token::new(id, self.unk_token.clone(), (0, word.len()))])
        };
        if word.chars().count() > self.max_input_chars_per_word {
            return unknown();
        }
        let mut tokens = vec![];
        let mut continued = String::new();
        let mut start = 0;
        while start < word.len() {
            let rest = if start == 0 {
                word
            } else {
                continued.clear();
                continued.push_str(&self.continuing_subword_prefix);
                continued.push_str(&word[start..]);
                &continued
            };
            let prefix = rest.len() - (word.len() - start);
            // Every end that leaves at least one character, from the last.
            let ends = rest[prefix..].char_indices().map(|(at, c)| prefix + at + c.len_utf8()).rev();
            let longest = ends.map(|end| &rest[..end]).find_map(|part| Some((part, self.vocab.get(part)?)));
            let Some((part, id)) = longest else { return unknown() };
            let end = start + part.len() - prefix;
            tokens.push(Token::new(id, part.to_string(), (start, end)));
            start = end;
        }
        Ok(tokens)
    }
}

impl Model for Words {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        match self {
            Words::WordPiece(model) => model.tokenize(word),
            Words::Other(model) => model.tokenize(word),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Words::WordPiece(model) => model.vocab.get(token),
            Words::Other(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Words::WordPiece(WordPiece { vocab, .. }) => {
                let entry = vocab.entries.iter().find(|entry| entry.id == id)?;
                Some(vocab.token(entry).to_string())
            }
            Words::Other(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Words::WordPiece(WordPiece { vocab, .. }) => {
                vocab.entries.iter().map(|entry| (vocab.token(entry).to_string(), entry.id)).collect()
            }
            Words::Other(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Words::WordPiece(model) => model.vocab.entries.len(),
            Words::Other(model) => model.get_vocab_size(),
        }
    }

    fn save(&self, _folder: &Path, _prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("a tokenizer is not saved here".into())
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Words::WordPiece(_) => WordPieceTrainer::default().into(),
            Words::Other(model) => model.get_trainer(),
        }
    }
}

/// Reads "model" of a tokenizer.json. The type comes first in it, where it is said at all; if it does not, or is
/// another one, the tokenizers crate reads the rest.
impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the model of a tokenizer")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Words, A::Error> {
                let mut fields = serde_json::Map::new();
                if let Some((key, value)) = map.next_entry::<String, serde_json::Value>()? {
                    if key == "type" && value == "WordPiece" {
                        let rest = MapAccessDeserializer::new(map);
                        return WordPiece::deserialize(rest).map(Words::WordPiece);
                    }
                    fields.insert(key, value);
                }
                while let Some((key, value)) = map.next_entry()? {
                    fields.insert(key, value);
                }
                let model = ModelWrapper::deserialize(serde_json::Value::Object(fields));
                model.map(Words::Other).map_err(serde::de::Error::custom)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Two readings of the same JSON: ours, and that of the tokenizers crate.
    fn both(json: serde_json::Value) -> (Words, ModelWrapper) {
        let text = json.to_string();
        // serde_json sorts the keys of an object: "type" first, as in real files.
        let text = text.replacen('{', r#"{"type":"WordPiece","#, 1);
        (serde_json::from_str(&text).unwrap(), serde_json::from_str(&text).unwrap())
    }

    fn wordpiece(vocab: &[String]) -> (Words, ModelWrapper) {
        let vocab: serde_json::Map<_, _> =
            vocab.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
        both(json!({
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 12,
            "vocab": vocab,
        }))
    }

    proptest! {
        #[test]
        fn words_are_cut_as_the_tokenizers_crate_cuts_them(
            vocab in prop::collection::vec("(##)?[abä漢#]{1,3}", 1..60),
            words in prop::collection::vec("[abä漢#x]{1,14}", 1..30),
        ) {
            let vocab: Vec<String> = ["[UNK]".to_string()].into_iter().chain(vocab).collect();
            let (ours, theirs) = wordpiece(&vocab);
            prop_assert!(matches!(ours, Words::WordPiece(_)));
            prop_assert_eq!(ours.get_vocab(), theirs.get_vocab());
            prop_assert_eq!(ours.get_vocab_size(), theirs.get_vocab_size());
            for word in &words {
                let (ours, theirs) = (ours.tokenize(word).unwrap(), theirs.tokenize(word).unwrap());
                prop_assert_eq!(ours, theirs);
            }
            for token in vocab.iter().chain(&words) {
                prop_assert_eq!(ours.token_to_id(token), theirs.token_to_id(token));
            }
        }
    }

    #[test]
    fn a_vocabulary_without_the_unknown_token() {
        let (ours, theirs) = wordpiece(&["a".to_string()]);
        assert!(ours.tokenize("b").is_err() && theirs.tokenize("b").is_err());
        assert_eq!(ours.tokenize("a").unwrap(), theirs.tokenize("a").unwrap());
        let (ours, _) = wordpiece(&[]);
        assert!(ours.tokenize("a").is_err());
    }

    #[test]
    fn other_models_are_left_to_the_tokenizers_crate() {
        for json in [
            r#"{"type":"WordLevel","vocab":{"a":0,"[UNK]":1},"unk_token":"[UNK]"}"#,
            // As files were that do not say the type.
            r#"{"unk_token":"U","continuing_subword_prefix":"@","max_input_chars_per_word":9,"vocab":{"a":0}}"#,
        ] {
            let words: Words = serde_json::from_str(json).unwrap();
            assert!(matches!(words, Words::Other(_)), "{json}");
            assert_eq!(words.tokenize("a").unwrap()[0].id, 0);
        }
        for broken in [r#"{"type":"WordPiece"}"#, r#"{"type":"Nothing"}"#, "{}", "1"] {
            assert!(serde_json::from_str::<Words>(broken).is_err(), "{broken}");
        }
    }
}
