//! Vectors of many texts, where one that cannot be embedded does not stand in the way of the others.

use std::ffi::CStr;
use std::sync::Arc;

use pgrx::pg_sys;

use crate::embed::{models, text};
use crate::error::{Error, OrRaise};
use crate::spi::{Failure, in_subtransaction};

/// Why an attempt with several items came to nothing.
pub enum Trouble {
    /// At least one of them is at fault; the others may do without it.
    WithSome(Failure),
    /// None would do.
    WithAll(Error),
}

/// Results of `items`, in order: where an attempt with some of them fails, halves of them are tried, down to single ones.
pub fn isolate<T, R>(
    items: &[T],
    attempt: &mut impl FnMut(&[T]) -> Result<Vec<R>, Trouble>,
) -> Result<Vec<Result<R, Failure>>, Error> {
    if items.is_empty() {
        return Ok(vec![]);
    }
    match attempt(items) {
        Ok(results) => Ok(results.into_iter().map(Ok).collect()),
        Err(Trouble::WithAll(error)) => Err(error),
        Err(Trouble::WithSome(failure)) if items.len() == 1 => Ok(vec![Err(failure)]),
        Err(Trouble::WithSome(_)) => {
            let (first, second) = items.split_at(items.len() / 2);
            let mut results = isolate(first, attempt)?;
            results.extend(isolate(second, attempt)?);
            Ok(results)
        }
    }
}

/// A vector, or nothing for a text without anything to embed.
pub type Vector = Option<Arc<[f32]>>;

/// The vectors of `texts` by the named model.
///
/// # Errors
/// What is wrong with the model, or the server: no text can be embedded.
pub fn each(model: &str, texts: &[&str]) -> Result<Vec<Result<Vector, Failure>>, Error> {
    isolate(texts, &mut |texts| {
        let wanted: Vec<Option<&str>> = texts.iter().copied().map(Some).collect();
        let embeddings = models::embed_all(Some(model), &wanted).map_err(trouble)?;
        Ok(embeddings.into_iter().map(|embedding| embedding.and_then(|found| found.vector)).collect())
    })
}

fn trouble(error: Error) -> Trouble {
    match of_one_text(error) {
        Ok(failure) => Trouble::WithSome(failure),
        Err(error) => Trouble::WithAll(error),
    }
}

/// A text as UTF-8, or why it is none.
pub fn readable(text: &CStr) -> Result<String, Failure> {
    let convert = || text::try_utf8(text.to_bytes()).map(|text| text.into_owned());
    // SAFETY: reads a setting of the database.
    if unsafe { pg_sys::GetDatabaseEncoding() } == pg_sys::pg_enc::PG_UTF8 as i32 {
        return convert().map_err(Failure::from);
    }
    // Postgres raises an ERROR for what it cannot convert.
    in_subtransaction(|| convert().or_raise())
}

/// What is wrong with a text; the error itself where it is not about a text.
pub fn of_one_text(error: Error) -> Result<Failure, Error> {
    use embedder::Error as E;
    match error {
        Error::Truncated { .. }
        | Error::Embedder(E::Tokenize(_) | E::Run { .. } | E::ChunkCharacter { .. }) => Ok(error.into()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn isolated(items: &[i32]) -> (Vec<Option<i32>>, usize) {
        let mut attempts = 0;
        let results = isolate(items, &mut |items: &[i32]| {
            attempts += 1;
            match items.iter().any(|&item| item < 0) {
                true => Err(Trouble::WithSome(Failure { sqlstate: 1, message: String::new() })),
                false => Ok(items.iter().map(|item| item * 2).collect()),
            }
        });
        let results = results.unwrap_or_default().into_iter().map(Result::ok).collect();
        (results, attempts)
    }

    #[test]
    fn what_fails_is_found_among_the_others() {
        assert_eq!(isolated(&[1, 2, 3]), (vec![Some(2), Some(4), Some(6)], 1));
        assert_eq!(isolated(&[]), (vec![], 0));
        assert_eq!(isolated(&[-1]), (vec![None], 1));
        assert_eq!(isolated(&[1, -1, 3, 4]), (vec![Some(2), None, Some(6), Some(8)], 5));
    }
}
