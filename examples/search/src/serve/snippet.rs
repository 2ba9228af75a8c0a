//! The passage that was found, within what stands around it.

use serde::Serialize;
use utoipa::ToSchema;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Snippet {
    pub before: String,
    /// The passage that answers best.
    pub passage: String,
    pub after: String,
}

impl Snippet {
    /// `before` and `after` are cut somewhere: whole words are shown of them. The title, with which the first passage of a section
    /// begins, is shown above it.
    pub fn new(title: &str, before: &str, passage: &str, after: &str) -> Snippet {
        let own = passage.strip_prefix(title).and_then(|rest| rest.strip_prefix('\n')).unwrap_or(passage);
        Snippet {
            before: without_empty_lines(&from_first_word(before)),
            passage: without_empty_lines(own),
            after: without_empty_lines(&to_last_word(after)),
        }
    }
}

/// Line breaks stay, for code.
fn without_empty_lines(text: &str) -> String {
    let mut text = text.to_string();
    while text.contains("\n\n") {
        text = text.replace("\n\n", "\n");
    }
    text
}

fn from_first_word(text: &str) -> String {
    match text.split_once(char::is_whitespace) {
        Some((_, words)) if !words.trim().is_empty() => format!("… {words}"),
        _ => text.to_string(),
    }
}

fn to_last_word(text: &str) -> String {
    match text.rsplit_once(char::is_whitespace) {
        Some((words, _)) if !words.trim().is_empty() => format!("{words} …"),
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snippet(before: &str, passage: &str, after: &str) -> (String, String, String) {
        let snippet = Snippet::new("Title", before, passage, after);
        (snippet.before, snippet.passage, snippet.after)
    }

    #[test]
    fn words_are_whole() {
        let (before, passage, after) = snippet("ough one. Two three. ", "Found.", " Next sentence is cu");
        assert_eq!(
            (before.as_str(), passage.as_str(), after.as_str()),
            ("… one. Two three. ", "Found.", " Next sentence is …")
        );
    }

    #[test]
    fn the_title_is_not_repeated() {
        assert_eq!(snippet("", "Title\nFound.", ""), (String::new(), "Found.".into(), String::new()));
        assert_eq!(snippet("", "Titles are not repeated.", "").1, "Titles are not repeated.");
    }

    #[test]
    fn empty_lines_are_left_out() {
        assert_eq!(
            snippet("x one\n\n", "a\n\n b\nc", "\n\ntwo three"),
            ("… one\n".into(), "a\n b\nc".into(), "\ntwo …".into())
        );
    }

    #[test]
    fn nothing_around_it_is_nothing() {
        assert_eq!(snippet("", "Found.", ""), (String::new(), "Found.".into(), String::new()));
        assert_eq!(snippet("\n", "äöü", "\n").1, "äöü");
    }
}
