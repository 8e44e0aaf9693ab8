//! A folder with one sub-folder per class, as it is pushed: picture files as they are, each of them decoded once here,
//! so that a broken one is found now and not by a worker.
//!
//! Holds no pictures: files are named, and read again on their way up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use shared::contract::{ImageError, MeanStd};

use super::DataError;
use super::split;
use crate::words::count;

mod folder;
mod look;

use folder::Class;
use look::Look;

/// A folder of pictures that was looked through.
#[derive(Debug, Clone, PartialEq)]
pub struct Pictures {
    /// The classes' names, in the order of their indices.
    pub labels: Vec<String>,
    /// Red, green and blue over the training split, 0 to 1, each picture counting alike.
    pub channels: [MeanStd; 3],
    /// Likewise luma.
    pub luma: MeanStd,
    /// `train`, and usually `test`.
    pub splits: BTreeMap<String, Vec<Picture>>,
    /// What the user should know though nothing is wrong.
    pub notes: Vec<String>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its class.
    pub label: u32,
}

/// The most bytes of one split: S3 takes objects of 5 GiB in one piece.
const MOST_BYTES: u64 = 4 << 30;
/// Files that are named one by one in a message.
const NAMED: usize = 5;

/// Looks through the folder at `dir`: classes, or `train` and `test` with classes in them. Without a `test` folder
/// (or `val`, without which there is none), `share` of each class is drawn for it.
///
/// Every picture is decoded once, by as many threads as there are processors, each with one at a time in memory;
/// `progress` is told how many of how many are done. With `skip_broken`, those that cannot be decoded are left out.
///
/// # Errors
/// There are no classes, an empty one, broken pictures, or more bytes than a split may have.
pub fn read(
    dir: &Path,
    share: Option<f64>,
    skip_broken: bool,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Pictures, DataError> {
    let found = folder::find(dir)?;
    if found.test.is_some() && share.is_some() {
        return Err(refuse(dir, "has a test split of its own: --test is not accepted for it"));
    }
    let mut notes = found.notes;
    let total = [Some(&found.train), found.test.as_ref()].into_iter().flatten().flatten().map(|c| c.files.len()).sum();
    let done = AtomicUsize::new(0);
    let mut sift = Sift { dir, total, broken: Vec::new(), foreign: found.left_out };
    let mut look = |classes: Vec<Class>| -> Vec<(String, Vec<Seen>)> {
        classes
            .into_iter()
            .map(|class| {
                let one = |path: PathBuf| {
                    let look = look::at(&path);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                    (path, look)
                };
                (class.name, sift.good(class.files.into_par_iter().map(one).collect()))
            })
            .collect()
    };
    let train = look(found.train);
    let test = found.test.map(&mut look);
    notes.extend(sift.finish(skip_broken)?);

    let mut labels: Vec<String> = train.iter().map(|(name, _)| name.clone()).collect();
    split::sort_names(&mut labels);
    if labels.len() < 2 {
        return Err(refuse(dir, &format!("has one class, `{}`: at least two folders are accepted", labels.concat())));
    }
    let mut splits = BTreeMap::from([("train".to_owned(), label(dir, &labels, train)?)]);
    if let Some(test) = test {
        splits.insert("test".to_owned(), label(dir, &labels, test)?);
    } else {
        let share = share.unwrap_or(0.1);
        let all = splits.remove("train").unwrap_or_default();
        let drawn = split::draw(share, &all.iter().map(|row| (row.picture.label, row.look.digest)).collect::<Vec<_>>());
        let (test, train): (Vec<_>, Vec<_>) = all.into_iter().zip(drawn).partition(|(_, drawn)| *drawn);
        let (drawn, all) = (test.len(), test.len() + train.len());
        notes.push(split::told([drawn, all], "pictures", share, labels.len(), "--test says another share"));
        for (name, rows) in [("train", train), ("test", test)] {
            splits.insert(name.to_owned(), rows.into_iter().map(|(row, _)| row).collect());
        }
        splits.retain(|_, rows| !rows.is_empty());
    }
    for (name, rows) in &splits {
        let bytes: u64 = rows.iter().map(|row| row.picture.bytes).sum();
        if bytes > MOST_BYTES {
            let problem = format!(
                "has {bytes} bytes of pictures in the split `{name}`: at most {MOST_BYTES} are accepted; make the pictures smaller first"
            );
            return Err(refuse(dir, &problem));
        }
    }
    let train = splits.get("train").map_or(&[][..], Vec::as_slice);
    let [red, green, blue, luma] = look::statistics(&train.iter().map(|row| &row.look));
    let splits = splits.into_iter().map(|(name, rows)| (name, rows.into_iter().map(|row| row.picture).collect()));
    Ok(Pictures { labels, channels: [red, green, blue], luma, splits: splits.collect(), notes })
}

/// A file that is a good picture.
type Seen = (PathBuf, Look);

struct Row {
    picture: Picture,
    look: Look,
}

/// The rows of one split, in the order of classes and paths.
fn label(dir: &Path, labels: &[String], classes: Vec<(String, Vec<Seen>)>) -> Result<Vec<Row>, DataError> {
    let mut rows = Vec::new();
    for (name, pictures) in classes {
        let Some(label) = labels.iter().position(|label| *label == name) else {
            let problem = format!(
                "has the class `{name}` to test on, but not to train on: the classes are {}",
                labels.join(", ")
            );
            return Err(refuse(dir, &problem));
        };
        if pictures.is_empty() {
            return Err(refuse(dir, &format!("has no picture in the class folder `{name}`: fill it or remove it")));
        }
        let label = u32::try_from(label).unwrap_or(u32::MAX);
        let row = |(path, look): Seen| Row { picture: Picture { path, bytes: look.bytes, label }, look };
        rows.extend(pictures.into_iter().map(row));
    }
    rows.sort_by(|one, other| (one.picture.label, &one.picture.path).cmp(&(other.picture.label, &other.picture.path)));
    Ok(rows)
}

/// Tells good pictures from broken ones, and from files that were never meant to be any.
struct Sift<'a> {
    dir: &'a Path,
    total: usize,
    broken: Vec<String>,
    foreign: Vec<PathBuf>,
}

impl Sift<'_> {
    fn good(&mut self, looked: Vec<(PathBuf, Result<Look, ImageError>)>) -> Vec<Seen> {
        let mut good = Vec::with_capacity(looked.len());
        for (path, look) in looked {
            match look {
                Ok(look) => good.push((path, look)),
                Err(error) if error.code == "unsupported_format" && !folder::is_named_as_picture(&path) => {
                    self.foreign.push(path);
                }
                Err(error) => self.broken.push(format!("{}: {}", self.name(&path), error.message)),
            }
        }
        good
    }

    fn name(&self, path: &Path) -> String {
        path.strip_prefix(self.dir).unwrap_or(path).display().to_string()
    }

    fn finish(&mut self, skip_broken: bool) -> Result<Vec<String>, DataError> {
        let mut notes = Vec::new();
        let foreign: Vec<String> = self.foreign.iter().map(|path| self.name(path)).collect();
        if !foreign.is_empty() {
            notes.push(format!(
                "left out {} that are no pictures Gannet reads: {}",
                count(foreign.len(), "file"),
                some(&foreign, ", ")
            ));
        }
        if self.broken.is_empty() {
            return Ok(notes);
        }
        let broken = count(self.broken.len(), "broken picture");
        let named = some(&self.broken, "\n  ");
        if skip_broken {
            notes.push(format!("left out {broken} among {} files:\n  {named}", self.total));
            return Ok(notes);
        }
        let problem = format!(
            "has {broken} among {} files:\n  {named}\nmend or remove them, or leave them out with --skip-broken",
            self.total
        );
        Err(refuse(self.dir, &problem))
    }
}

/// The first few of `names`, and how many more there are.
fn some(names: &[String], between: &str) -> String {
    let mut text = names[..names.len().min(NAMED)].join(between);
    if names.len() > NAMED {
        text.push_str(&format!("{between}and {} more", names.len() - NAMED));
    }
    text
}

fn refuse(dir: &Path, problem: &str) -> DataError {
    DataError::Wrong { what: format!("the folder `{}`", dir.display()), problem: problem.into() }
}

#[cfg(test)]
mod tests;
