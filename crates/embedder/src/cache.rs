//! Recent results, so that one query costs one run of the model whatever the plan: Postgres evaluates
//! `ORDER BY embedding <=> embed('...')` once a row.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::{Embedding, Kind};

/// A text as asked for. `model` is the caller's number for a loaded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key<'t> {
    pub model: u32,
    pub kind: Kind,
    /// Whether it was one of many. A batch's rounding may differ in the last bit from that of the text alone, and what
    /// one call gives must not depend on what another one was asked for.
    pub in_array: bool,
    pub text: &'t str,
}

/// Bytes of text the cache keeps at most, beside the latest entry: 64 texts of 16 kB.
const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// Least-recently-used results, bounded by entries and by bytes of text. The latest entry is always kept.
pub struct Cache {
    entries: LruCache<OwnedKey, Embedding>,
    text_bytes: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Cache { entries: LruCache::unbounded(), text_bytes: 0 }
    }
}

impl Cache {
    pub fn get(&mut self, key: Key<'_>) -> Option<&Embedding> {
        self.entries.get(&key as &dyn AsKey)
    }

    /// Keeps a result, dropping the least recently used ones beyond `capacity` entries; 0 keeps none.
    pub fn put(&mut self, key: Key<'_>, embedding: Embedding, capacity: usize) {
        if let Some(capacity) = NonZeroUsize::new(capacity) {
            let Key { model, kind, in_array, text } = key;
            let owned = OwnedKey { model, kind, in_array, text: text.into() };
            if self.entries.put(owned, embedding).is_none() {
                self.text_bytes += key.text.len();
            }
            while self.entries.len() > capacity.get()
                || (self.entries.len() > 1 && self.text_bytes > MAX_TEXT_BYTES)
            {
                self.drop_oldest();
            }
        } else {
            *self = Cache::default();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((key, _)) = self.entries.pop_lru() {
            self.text_bytes -= key.text.len();
        }
    }
}

#[derive(PartialEq, Eq)]
struct OwnedKey {
    model: u32,
    kind: Kind,
    in_array: bool,
    text: Box<str>,
}

/// Lets an [`OwnedKey`] be looked up by a [`Key`] without copying the text.
trait AsKey {
    fn key(&self) -> Key<'_>;
}

impl AsKey for Key<'_> {
    fn key(&self) -> Key<'_> {
        *self
    }
}

impl AsKey for OwnedKey {
    fn key(&self) -> Key<'_> {
        Key { model: self.model, kind: self.kind, in_array: self.in_array, text: &self.text }
    }
}

impl Hash for OwnedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state)
    }
}

impl<'a> Borrow<dyn AsKey + 'a> for OwnedKey {
    fn borrow(&self) -> &(dyn AsKey + 'a) {
        self
    }
}

impl Hash for dyn AsKey + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state)
    }
}

impl PartialEq for dyn AsKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for dyn AsKey + '_ {}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key<'_> {
        Key { model: 1, kind: Kind::Document, in_array: false, text }
    }

    fn embedding(x: f32) -> Embedding {
        Embedding { vector: Some([x].into()), truncated: false }
    }

    #[test]
    fn model_kind_and_text_tell_results_apart() {
        let mut cache = Cache::default();
        cache.put(key("a"), embedding(1.0), 8);
        assert_eq!(cache.get(key("a")), Some(&embedding(1.0)));
        assert_eq!(cache.get(Key { model: 2, ..key("a") }), None);
        assert_eq!(cache.get(Key { kind: Kind::Query, ..key("a") }), None);
        assert_eq!(cache.get(Key { in_array: true, ..key("a") }), None);
        assert_eq!(cache.get(key("b")), None);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::default();
        cache.put(key("a"), embedding(1.0), 2);
        cache.put(key("b"), embedding(2.0), 2);
        cache.get(key("a"));
        cache.put(key("c"), embedding(3.0), 2);
        assert_eq!(cache.get(key("b")), None);
        assert_eq!(cache.get(key("a")), Some(&embedding(1.0)));
        cache.put(key("d"), embedding(4.0), 0);
        assert_eq!(cache.get(key("a")), None);
        assert_eq!(cache.get(key("d")), None);
    }

    #[test]
    fn text_is_bounded_but_the_latest_entry_stays() {
        let mut cache = Cache::default();
        let long = ["a", "b", "c"].map(|letter| letter.repeat(MAX_TEXT_BYTES));
        for text in &long {
            cache.put(key(text), embedding(1.0), 64);
            assert!(cache.get(key(text)).is_some());
            assert_eq!((cache.entries.len(), cache.text_bytes), (1, MAX_TEXT_BYTES));
        }
    }
}
