//! What `gannet data push` was given: told by what is there, not by a flag.

use std::path::Path;

use super::DataError;

/// A form that data come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A folder of IDX files.
    Idx,
    /// A folder with one sub-folder per class.
    Pictures,
    /// A table with a header.
    Csv,
}

/// What is accepted, for people.
const ACCEPTED: &str = "a folder with one sub-folder of pictures per class, a CSV file (.csv, .tsv, also gzipped) with a \
    header, or a folder of IDX files (train-images-idx3-ubyte and so on) is accepted";

impl Source {
    /// Looks at `path`.
    ///
    /// # Errors
    /// It is not there, or nothing that is known.
    pub fn of(path: &Path) -> Result<Self, DataError> {
        let unreadable = |source| DataError::Unreadable { path: path.into(), source };
        if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            return match super::csv::separator(path) {
                Some(_) => Ok(Self::Csv),
                None => Err(refuse("file", path, ACCEPTED)),
            };
        }
        let (mut folders, mut tables, mut files) = (0, Vec::new(), 0);
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            if entry.path().is_dir() {
                folders += 1;
            } else if ["train-images", "train-labels", "t10k-images", "t10k-labels"].iter().any(|n| name.starts_with(n))
            {
                return Ok(Self::Idx);
            } else if super::csv::separator(Path::new(&name)).is_some() {
                tables.push(name);
            } else {
                files += 1;
            }
        }
        match (folders, tables.first()) {
            (1.., _) => Ok(Self::Pictures),
            (0, Some(table)) => {
                Err(refuse("folder", path, &format!("name the table itself, as in `{}`", path.join(table).display())))
            }
            (0, None) if files > 0 => {
                Err(refuse("folder", path, &format!("it has files, but no folder for each class: {ACCEPTED}")))
            }
            _ => Err(refuse("folder", path, &format!("it is empty: {ACCEPTED}"))),
        }
    }
}

fn refuse(what: &str, path: &Path, problem: &str) -> DataError {
    DataError::Wrong { what: format!("the {what} `{}` cannot be pushed:", path.display()), problem: problem.into() }
}
