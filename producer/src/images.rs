//! Which pictures are meant: files, folders, patterns, lists and prefixes of the store, in the order in
//! which they were named.
//!
//! Says what there is; never reads a picture.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use shared::names::Key;
use shared::settings::StorePlace;
use shared::store::Store;

/// A picture to label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is called in the output: as it was named, or found.
    pub name: String,
    /// Where it is.
    pub place: Place,
}

/// Where a picture is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    File(PathBuf),
    /// In the store.
    Object(Key),
}

/// Finds the pictures that `inputs` mean. A file that is named and not there is a picture like any
/// other: it gets its error line later.
///
/// # Errors
/// A list or a folder cannot be read, a pattern matches nothing, or an address is not the store's.
pub async fn find(inputs: &[String], store: &dyn Store, place: &StorePlace) -> anyhow::Result<Vec<Image>> {
    let mut images = Vec::new();
    let mut waiting: VecDeque<(String, bool)> = inputs.iter().map(|input| (input.clone(), true)).collect();
    while let Some((input, from_user)) = waiting.pop_front() {
        if input == "-" && from_user {
            prepend(&mut waiting, lines(&mut std::io::stdin().lock()).context("read names from standard input")?);
        } else if let Some(list) = input.strip_prefix('@').filter(|_| from_user) {
            let file = std::fs::File::open(list).with_context(|| format!("read the list `{list}`"))?;
            prepend(&mut waiting, lines(&mut BufReader::new(file)).with_context(|| format!("read the list `{list}`"))?);
        } else if input.starts_with("s3://") {
            images.append(&mut in_store(&input, store, place).await?);
        } else {
            images.append(&mut on_disk(&input)?);
        }
    }
    Ok(images)
}

/// A list's lines stand where the list stood, and name no further lists.
fn prepend(waiting: &mut VecDeque<(String, bool)>, lines: Vec<String>) {
    for line in lines.into_iter().rev() {
        waiting.push_front((line, false));
    }
}

fn lines(reader: &mut dyn BufRead) -> std::io::Result<Vec<String>> {
    let lines: Vec<String> = reader.lines().collect::<Result<_, _>>()?;
    Ok(lines.into_iter().map(|line| line.trim_end_matches('\r').to_owned()).filter(|line| !line.is_empty()).collect())
}

fn on_disk(input: &str) -> anyhow::Result<Vec<Image>> {
    let path = Path::new(input);
    if path.is_dir() {
        let mut files = Vec::new();
        walk(path, &mut files)?;
        return Ok(files.into_iter().map(file).collect());
    }
    // A file may well have a bracket in its name: what is there is no pattern.
    if path.exists() || !input.contains(['*', '?', '[']) {
        return Ok(vec![file(path.to_owned())]);
    }
    let matches = glob::glob(input).with_context(|| format!("read the pattern `{input}`"))?;
    let mut found = Vec::new();
    for path in matches {
        let path = path.with_context(|| format!("follow the pattern `{input}`"))?;
        if path.is_dir() { walk(&path, &mut found)? } else { found.push(path) }
    }
    if found.is_empty() {
        bail!("the pattern `{input}` matches nothing");
    }
    Ok(found.into_iter().map(file).collect())
}

fn file(path: PathBuf) -> Image {
    Image { name: path.display().to_string(), place: Place::File(path) }
}

/// All files below a folder, sorted, hidden ones left out. A link is followed to a file, not to a
/// folder, so that a circle ends.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let read = || format!("read the folder `{}`", folder.display());
    let mut entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>).with_context(read)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type().with_context(read)?.is_dir() {
            walk(&entry.path(), files)?;
        } else if entry.path().is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The objects under `s3://bucket/prefix`, which must lie in the store that the workers read.
async fn in_store(input: &str, store: &dyn Store, place: &StorePlace) -> anyhow::Result<Vec<Image>> {
    let StorePlace::S3 { bucket, prefix, .. } = place else {
        bail!("`{input}`: without a store on S3 (GANNET_STORE=s3://…) only files of this machine are accepted");
    };
    let home = if prefix.is_empty() { format!("s3://{bucket}/") } else { format!("s3://{bucket}/{prefix}/") };
    let Some(inside) = input.strip_prefix(&home) else {
        bail!("`{input}` is not in the store that the workers read: addresses that begin with {home} are accepted");
    };
    let inside = Key::new(inside.trim_end_matches('/')).with_context(|| format!("read the address `{input}`"))?;
    let found = store.list(&inside).await?;
    if !found.is_empty() {
        let image = |key: Key| Image { name: format!("{home}{key}"), place: Place::Object(key) };
        return Ok(found.into_iter().map(|entry| image(entry.key)).collect());
    }
    Ok(vec![Image { name: input.to_owned(), place: Place::Object(inside) }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(input: &str) -> Vec<String> {
        on_disk(input).expect("found").into_iter().map(|image| image.name).collect()
    }

    #[test]
    fn folders_patterns_and_odd_names_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(path("b")).expect("a folder");
        for name in ["a.png", "b/c.jpg", ".hidden", "odd[1].png", "x.txt"] {
            std::fs::write(path(name), b"").expect("written");
        }
        assert_eq!(names(&path("")), [path("a.png"), path("b/c.jpg"), path("odd[1].png"), path("x.txt")]);
        assert_eq!(names(&path("*.png")), [path("a.png"), path("odd[1].png")]);
        assert_eq!(names(&path("odd[1].png")), [path("odd[1].png")]);
        assert_eq!(names(&path("missing.png")), [path("missing.png")]);
        assert!(on_disk(&path("*.gif")).is_err());
    }
}
