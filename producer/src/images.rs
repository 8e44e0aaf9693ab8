//! Which pictures are meant: files, folders, patterns, lists and prefixes of the store, in the order in
//! which they were named.
//!
//! Says what there is; never reads a picture.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use shared::contract::ImageError;
use shared::names::Key;
use shared::settings::StorePlace;
use shared::store::Store;
use shared::strict;

/// A picture to label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What it is called in the output: as it was named, or found. Of a name that is not UTF-8 a near one.
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
    /// In a folder that cannot be read; the image is the folder.
    Shut(ImageError),
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The pictures, in order.
    pub images: Vec<Image>,
    /// Links to folders in folders: not followed, so that a circle ends.
    links: usize,
    /// Links in folders that lead nowhere.
    dangling: usize,
    /// Pipes, sockets and devices in folders.
    odd: usize,
}

/// Finds the pictures that `inputs` mean. A file that is named and not there is a picture like any other, and so is a
/// folder in a folder that cannot be read: it gets its error line later.
///
/// # Errors
/// A list cannot be read, a pattern matches nothing, or an address is not the store's.
pub async fn find(inputs: &[OsString], store: &dyn Store, place: &StorePlace) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let mut waiting: VecDeque<(OsString, bool)> = inputs.iter().map(|input| (input.clone(), true)).collect();
    while let Some((input, from_user)) = waiting.pop_front() {
        if input == "-" && from_user {
            prepend(&mut waiting, lines(&mut std::io::stdin().lock()).context("read names from standard input")?);
        } else if let Some(list) = input.as_bytes().strip_prefix(b"@").filter(|_| from_user) {
            let list = PathBuf::from(OsString::from_vec(list.to_vec()));
            let read = std::fs::File::open(&list).map_err(anyhow::Error::from).and_then(|mut file| lines(&mut file));
            prepend(&mut waiting, read.with_context(|| format!("read the list `{}`", list.display()))?);
        } else if let Some(address) = input.to_str().filter(|input| input.starts_with("s3://")) {
            found.images.append(&mut in_store(address, store, place).await?);
        } else {
            found.on_disk(Path::new(&input), from_user)?;
        }
    }
    Ok(found)
}

/// A list's lines stand where the list stood, and name no further lists.
fn prepend(waiting: &mut VecDeque<(OsString, bool)>, lines: Vec<OsString>) {
    for line in lines.into_iter().rev() {
        waiting.push_front((line, false));
    }
}

/// The lines of a list: names as they are, in any encoding that file names have.
fn lines(reader: &mut dyn Read) -> anyhow::Result<Vec<OsString>> {
    let mut text = Vec::new();
    reader.read_to_end(&mut text)?;
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        bail!("it is UTF-16: save it as UTF-8");
    }
    let lines = strict::without_mark(&text).split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).filter(|line| !line.is_empty());
    Ok(lines.map(|line| OsString::from_vec(line.to_vec())).collect())
}

impl Found {
    /// What was left out of folders, for people; `None` where that is nothing.
    pub fn left_out(&self) -> Option<String> {
        let parts = [
            (self.links, "link to a folder", "links to folders"),
            (self.dangling, "link to nothing", "links to nothing"),
            (self.odd, "pipe, socket or device", "pipes, sockets and devices"),
        ];
        let parts = parts.into_iter().filter(|(number, ..)| *number > 0);
        let parts = parts.map(|(number, one, more)| format!("{number} {}", if number == 1 { one } else { more }));
        let parts = parts.collect::<Vec<_>>().join(", ");
        (!parts.is_empty()).then(|| format!("left out of the folders: {parts}"))
    }

    /// With `pattern`, a name of nothing that is there may be a pattern.
    fn on_disk(&mut self, path: &Path, pattern: bool) -> anyhow::Result<()> {
        if path.is_dir() {
            self.walk(path);
            return Ok(());
        }
        let text = path.to_str().filter(|text| pattern && text.contains(['*', '?', '[']));
        // A file may well have a bracket in its name: what is there is no pattern.
        let Some(text) = text.filter(|_| !path.exists()) else {
            self.file(path.to_owned());
            return Ok(());
        };
        let before = self.images.len();
        for path in glob::glob(text).with_context(|| format!("read the pattern `{text}`"))? {
            match path {
                Ok(path) if path.is_dir() => self.walk(&path),
                Ok(path) => self.file(path),
                Err(error) => self.shut(error.path(), error.error()),
            }
        }
        if self.images.len() == before {
            bail!("the pattern `{text}` matches nothing");
        }
        Ok(())
    }

    fn file(&mut self, path: PathBuf) {
        self.images.push(Image { name: path.display().to_string(), place: Place::File(path) });
    }

    fn shut(&mut self, folder: &Path, error: &std::io::Error) {
        let message = format!("the folder cannot be read: {error}");
        let error = ImageError { code: "unreadable".into(), message };
        self.images.push(Image { name: folder.display().to_string(), place: Place::Shut(error) });
    }

    /// All files below a folder, sorted, hidden ones left out. A link is followed to a file, not to a folder.
    fn walk(&mut self, folder: &Path) {
        let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.shut(folder, &error),
        };
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_name().as_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.walk(&path);
                continue;
            }
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => self.file(path),
                Ok(metadata) if metadata.is_dir() => self.links += 1,
                Ok(_) => self.odd += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => self.dangling += 1,
                // Whatever it is: its line will say why it cannot be had.
                Err(_) => self.file(path),
            }
        }
    }
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
    if inside.trim_matches('/').is_empty() {
        bail!("`{input}` is the whole store: name a folder or an object in it, as in {home}photos/");
    }
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

    fn found(input: &str, pattern: bool) -> anyhow::Result<Found> {
        let mut found = Found::default();
        found.on_disk(Path::new(input), pattern).map(|()| found)
    }

    fn names(input: &str) -> Vec<String> {
        found(input, true).expect("found").images.into_iter().map(|image| image.name).collect()
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
        assert!(found(&path("*.gif"), true).is_err());
        let listed = found(&path("photo[1].jpg"), false).expect("a list's line is no pattern");
        assert_eq!(listed.images.len(), 1);
        assert_eq!(listed.left_out(), None);
    }

    #[test]
    fn what_is_no_file_in_a_folder_is_counted_and_a_shut_folder_is_one_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("b")).expect("a folder");
        for (to, name) in [("b", "circle"), ("b", "another"), ("nowhere", "lost")] {
            std::os::unix::fs::symlink(path(to), path(name)).expect("a link");
        }
        let _listener = std::os::unix::net::UnixListener::bind(path("socket")).expect("a socket");
        let here = found(&folder.path().display().to_string(), true).expect("found");
        let expected = "left out of the folders: 2 links to folders, 1 link to nothing, 1 pipe, socket or device";
        assert_eq!((here.images.len(), here.left_out().as_deref()), (0, Some(expected)));
        // As one that may not be read, which nobody can be sure of for root.
        let mut shut = Found::default();
        shut.walk(&path("nowhere"));
        assert!(matches!(&shut.images[0].place, Place::Shut(error) if error.code == "unreadable"), "{shut:?}");
    }

    #[test]
    fn a_list_holds_names_as_they_are() {
        let text = b"\xef\xbb\xbfone.png\r\n\n bad\xff.png\n@two\nlast";
        let names = lines(&mut &text[..]).expect("a list");
        let expected: [&[u8]; 4] = [b"one.png", b" bad\xff.png", b"@two", b"last"];
        assert_eq!(names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>(), expected);
        assert!(lines(&mut &b"\xff\xfea\0"[..]).expect_err("refused").to_string().contains("UTF-16"));
    }
}
