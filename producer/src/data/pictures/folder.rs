//! Which files a folder of classes holds. Says what there is; never reads a picture.

use std::path::{Path, PathBuf};

use crate::data::DataError;

use super::refuse;

/// A class's folder.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Class {
    pub(super) name: String,
    /// Sorted.
    pub(super) files: Vec<PathBuf>,
}

/// What a folder holds.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) train: Vec<Class>,
    pub(super) test: Option<Vec<Class>>,
    /// Files outside any class.
    pub(super) left_out: Vec<PathBuf>,
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Train,
    Validation,
    Test,
}

/// Finds the classes in `dir`, or in its folders for training, validation and test.
///
/// A study draws validation rows of its own: pictures kept for validation join those to train on, and are the test
/// split where there is no other.
pub(super) fn find(dir: &Path) -> Result<Found, DataError> {
    let mut notes = Vec::new();
    let top = Listing::of(dir)?;
    let mut left_out = top.files;
    let parts: Vec<(Option<Part>, &PathBuf)> = top.folders.iter().map(|path| (part(path), path)).collect();
    let mut of = |wanted: Part| -> Result<Option<Vec<Class>>, DataError> {
        let Some((_, path)) = parts.iter().find(|(part, _)| *part == Some(wanted)) else { return Ok(None) };
        let inner = Listing::of(path)?;
        left_out.extend(inner.files);
        notes.extend(inner.notes);
        classes(&inner.folders, &mut notes).map(Some)
    };
    let (train, test) = match of(Part::Train)? {
        Some(train) => match (of(Part::Validation)?, of(Part::Test)?) {
            (Some(validation), Some(test)) => (join(train, validation), Some(test)),
            (Some(validation), None) => (train, Some(validation)),
            (None, test) => (train, test),
        },
        None => (classes(&top.folders, &mut notes)?, None),
    };
    notes.extend(top.notes);
    let has = |wanted| parts.iter().any(|(part, _)| *part == Some(wanted));
    if !has(Part::Train) && !parts.is_empty() && parts.iter().all(|(part, _)| part.is_some()) {
        return Err(refuse(dir, "has no folder `train` beside the others: one with the classes to train on is needed"));
    }
    if has(Part::Train) {
        if let Some((_, other)) = parts.iter().find(|(part, _)| part.is_none()) {
            let problem = format!(
                "has `{}` beside its folder to train on: only `test` and `val` are accepted there",
                name(other)
            );
            return Err(refuse(dir, &problem));
        }
        match (has(Part::Validation), has(Part::Test)) {
            (true, true) => {
                notes.push("the pictures for validation join those to train on: a study holds out its own".into());
            }
            (true, false) => {
                notes.push("there is no `test` folder: the pictures for validation are the test split".into());
            }
            _ => {}
        }
    }
    Ok(Found { train, test, left_out, notes })
}

/// Adds the files of `more` to the classes of the same names.
fn join(mut classes: Vec<Class>, more: Vec<Class>) -> Vec<Class> {
    for class in more {
        match classes.iter_mut().find(|known| known.name == class.name) {
            Some(known) => known.files.extend(class.files),
            None => classes.push(class),
        }
    }
    classes
}

fn classes(folders: &[PathBuf], notes: &mut Vec<String>) -> Result<Vec<Class>, DataError> {
    folders
        .iter()
        .map(|folder| {
            let mut files = Vec::new();
            walk(folder, &mut files, notes)?;
            Ok(Class { name: name(folder), files })
        })
        .collect()
}

/// All files below a folder.
fn walk(folder: &Path, files: &mut Vec<PathBuf>, notes: &mut Vec<String>) -> Result<(), DataError> {
    let listing = Listing::of(folder)?;
    files.extend(listing.files);
    notes.extend(listing.notes);
    listing.folders.iter().try_for_each(|folder| walk(folder, files, notes))
}

/// What lies directly in a folder, sorted; hidden files left out. A link is followed to a file, not to a folder, so
/// that a circle ends.
struct Listing {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    notes: Vec<String>,
}

impl Listing {
    fn of(folder: &Path) -> Result<Self, DataError> {
        let unreadable = |source| DataError::Unreadable { path: folder.into(), source };
        let mut entries =
            std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(unreadable)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        let mut listing = Self { folders: Vec::new(), files: Vec::new(), notes: Vec::new() };
        for entry in entries {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if entry.file_type().map_err(unreadable)?.is_dir() {
                listing.folders.push(path);
            } else if path.is_dir() {
                listing.notes.push(format!("the link `{}` to a folder is not followed", path.display()));
            } else {
                listing.files.push(path);
            }
        }
        Ok(listing)
    }
}

/// A folder of classes for one purpose, by its name. One without folders in it is a class that is called so.
fn part(folder: &Path) -> Option<Part> {
    let part = match name(folder).to_ascii_lowercase().as_str() {
        "train" | "training" => Part::Train,
        "val" | "valid" | "validation" => Part::Validation,
        "test" | "testing" => Part::Test,
        _ => return None,
    };
    Listing::of(folder).is_ok_and(|listing| !listing.folders.is_empty()).then_some(part)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a file's name says that it is a picture: then one that is none is broken, not a stray.
pub(super) fn is_named_as_picture(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    ["jpg", "jpeg", "jpe", "jfif", "png", "bmp", "webp", "gif", "tif", "tiff"].contains(&extension.as_str())
}
