//! The PostgreSQL manual as HTML, read into sections.
//!
//! Each page names the next one and the one above it, so that the pages' order and the way down to each are in the pages
//! themselves. `page` reads one, `text` turns markup into plain text.

mod page;
mod text;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

pub use page::{Page, Piece};

/// What the manual calls its pages above each other, in a line.
const BETWEEN: &str = " › ";
const FIRST_PAGE: &str = "index.html";
/// Lists of words with page numbers: nothing to read.
const NOT_READ: &[&str] = &["bookindex.html"];

#[derive(Debug, thiserror::Error)]
pub enum ManualError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("there are no sections behind {}", path.display())]
    Empty { path: PathBuf },
}

/// A piece of the manual that has a title and can be linked to.
#[derive(Debug, PartialEq, Eq)]
pub struct Section {
    /// Counts from 1, as in [`Manual::parts`].
    pub part: i16,
    /// Counts from 1 in each part, as a reader comes by.
    pub id: i32,
    pub title: String,
    /// `file.html#anchor`
    pub path: String,
    /// The chapter and whatever else is above it, without the part.
    pub breadcrumb: String,
    pub body: String,
}

#[derive(Debug)]
pub struct Manual {
    /// Titles of the parts: Preface, Tutorial and so on.
    pub parts: Vec<String>,
    pub sections: Vec<Section>,
}

/// Reads a directory of pages, from its `index.html` on.
///
/// # Errors
/// A page that another one names cannot be read, or there is no text at all.
pub fn read(directory: &Path) -> Result<Manual, ManualError> {
    let mut manual = Manual { parts: Vec::new(), sections: Vec::new() };
    let mut above: HashMap<String, Page> = HashMap::new();
    let mut seen = HashSet::new();
    let mut next = Some(FIRST_PAGE.to_string());
    while let Some(file) = next.take().filter(|file| seen.insert(file.clone())) {
        let path = directory.join(&file);
        let html = std::fs::read_to_string(&path).map_err(|source| ManualError::Read { path, source })?;
        let mut page = Page::parse(&html);
        next = page.next.clone();
        let pieces = std::mem::take(&mut page.pieces);
        let ancestors = ancestors(&page, &above);
        // The book itself is above the parts, and in none.
        if page.up.is_some() && !NOT_READ.contains(&file.as_str()) {
            if ancestors.is_empty() {
                manual.parts.push(page.title.clone());
            }
            manual.add(&file, &ancestors, pieces);
        }
        above.insert(file, page);
    }
    if manual.sections.is_empty() {
        return Err(ManualError::Empty { path: directory.join(FIRST_PAGE) });
    }
    Ok(manual)
}

impl Manual {
    fn add(&mut self, file: &str, ancestors: &[&str], pieces: Vec<Piece>) {
        let part = i16::try_from(self.parts.len()).unwrap_or(i16::MAX);
        // Without the part, which stands by itself.
        let breadcrumb = ancestors.iter().skip(1).copied().collect::<Vec<_>>().join(BETWEEN);
        for piece in pieces.into_iter().filter(|piece| !piece.body.is_empty()) {
            let id = match self.sections.last() {
                Some(last) if last.part == part => last.id + 1,
                _ => 1,
            };
            self.sections.push(Section {
                part,
                id,
                title: piece.title,
                path: format!("{file}#{}", piece.anchor),
                breadcrumb: breadcrumb.clone(),
                body: piece.body,
            });
        }
    }
}

/// Titles of the pages above this one, the part first. Pages come after those above them.
fn ancestors<'a>(page: &Page, above: &'a HashMap<String, Page>) -> Vec<&'a str> {
    let mut titles = Vec::new();
    let mut up = page.up.as_ref();
    while let Some(parent) = up.and_then(|file| above.get(file)) {
        up = parent.up.as_ref();
        if up.is_some() {
            titles.push(parent.title.as_str());
        }
        if titles.len() > above.len() {
            break; // pages above each other in a circle
        }
    }
    titles.reverse();
    titles
}
