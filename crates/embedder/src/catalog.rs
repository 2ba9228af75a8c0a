//! The model directory: one folder a model, named as SQL names it.

use std::path::{Path, PathBuf};

use crate::Error;

/// Names of the folders in `directory`, sorted; empty when the directory is missing or unreadable.
pub fn installed(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| valid_name(name))
        .collect();
    names.sort();
    names
}

/// The folder of model `name`.
///
/// Errors: [`Error::InvalidName`], [`Error::UnknownModel`].
pub fn locate(directory: &Path, name: &str) -> Result<PathBuf, Error> {
    if !valid_name(name) {
        return Err(Error::InvalidName(name.to_string()));
    }
    let folder = directory.join(name);
    if !folder.is_dir() {
        return Err(Error::UnknownModel {
            name: name.to_string(),
            directory: directory.to_path_buf(),
            installed: installed(directory),
        });
    }
    Ok(folder)
}

/// A single path component that is neither hidden nor `..`: a name can never lead out of the model directory.
fn valid_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_leave_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("m")).unwrap();
        for name in ["", ".", "..", "../m", "m/../m", "/etc", "a\\b", ".hidden", "a\0b", "m/"] {
            assert!(matches!(locate(directory.path(), name), Err(Error::InvalidName(_))), "{name:?}");
        }
        assert_eq!(locate(directory.path(), "m").unwrap(), directory.path().join("m"));
        match locate(directory.path(), "n") {
            Err(Error::UnknownModel { installed, .. }) => assert_eq!(installed, ["m"]),
            other => panic!("{other:?}"),
        }
    }
}
