//! Where the demo's digits come from: a folder, a cache, a public mirror, or our own pen.
//!
//! What is downloaded, now or earlier, is used only with the digests of the canonical files.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shared::digest::Digest;

use super::idx::{self, NAMES};
use super::{DataError, Table, digits};

/// Where digits came from; displayed as a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The folder that was asked for.
    Given(PathBuf),
    /// The folder beside the project.
    Shared(PathBuf),
    /// An earlier download.
    Cached(PathBuf),
    /// A mirror, just now.
    Downloaded {
        /// Which.
        mirror: String,
        /// Where the files lie now.
        cache: PathBuf,
    },
    /// Drawn by [`digits::draw`].
    Drawn {
        /// Why nothing else could be had.
        because: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(dir) => write!(f, "The data are those in `{}`.", dir.display()),
            Self::Shared(dir) => write!(f, "The data are MNIST, from `{}`.", dir.display()),
            Self::Cached(dir) => write!(f, "The data are MNIST, downloaded earlier to `{}`.", dir.display()),
            Self::Downloaded { mirror, cache } => {
                write!(f, "The data are MNIST, downloaded from {mirror} to `{}`.", cache.display())
            }
            Self::Drawn { because } => write!(
                f,
                "MNIST could not be had ({because}), so the data are digits drawn by Gannet itself; errors on them say nothing about MNIST."
            ),
        }
    }
}

/// Rows of the digits that stand in for MNIST: enough for the reference study's validation.
const DRAWN_ROWS: [u32; 2] = [20_000, 4_000];

/// Without an answer for so long, nobody is tried any more.
const PATIENCE: Duration = Duration::from_secs(3);

/// The largest file that is downloaded or unpacked, in bytes; the largest of MNIST has 47 million.
const MOST_BYTES: u64 = 64 << 20;

/// Where MNIST is kept, and how its files are known.
struct Origin {
    mirrors: Vec<String>,
    /// Digests of the uncompressed files, in the order of [`NAMES`].
    digests: [Digest; 4],
}

impl Origin {
    fn public() -> Self {
        let digests = [
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ];
        Self {
            mirrors: [
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ]
            .map(str::to_owned)
            .into(),
            digests: digests.map(|text| text.parse().expect("a digest")),
        }
    }
}

/// Finds handwritten digits: in the `explicit` folder, in `../shared/data/mnist`, in the folder `cache`,
/// on a public mirror (then kept in `cache`), and otherwise draws some. Blocks: up to about three
/// seconds on a machine without a network, as long as a download takes on one with.
///
/// # Errors
/// Only for an `explicit` folder: that it cannot be read.
pub fn find(explicit: Option<&Path>, cache: &Path) -> Result<(Table, Source), DataError> {
    if let Some(dir) = explicit {
        return Ok((idx::read(dir)?, Source::Given(dir.into())));
    }
    Ok(look_around(Path::new("../shared/data/mnist"), cache, &Origin::public()))
}

fn look_around(beside: &Path, cache: &Path, origin: &Origin) -> (Table, Source) {
    match (beside.is_dir(), idx::read(beside)) {
        (true, Ok(table)) => return (table, Source::Shared(beside.into())),
        (true, Err(error)) => tracing::warn!("the digits in `{}` are left aside: {error}", beside.display()),
        (false, _) => {}
    }
    if cache.is_dir() {
        match read_checked(cache, origin) {
            Ok(table) => return (table, Source::Cached(cache.into())),
            Err(error) => tracing::debug!("the digits in `{}` are left aside: {error}", cache.display()),
        }
    }
    match download(cache, origin) {
        Ok((table, mirror)) => (table, Source::Downloaded { mirror, cache: cache.into() }),
        Err(because) => (digits::draw(DRAWN_ROWS[0], DRAWN_ROWS[1], 0), Source::Drawn { because }),
    }
}

/// Reads the four files of `dir` if each is the canonical one.
fn read_checked(dir: &Path, origin: &Origin) -> Result<Table, DataError> {
    for (name, digest) in NAMES.iter().zip(origin.digests) {
        let path = idx::find(dir, name)?;
        let found = digest_unpacked(&path).map_err(|source| DataError::Unreadable { path: path.clone(), source })?;
        if found != digest {
            return Err(DataError::Wrong {
                what: format!("the file `{}`", path.display()),
                problem: format!("has the sha256 {found} (unpacked), that of MNIST is {digest}"),
            });
        }
    }
    idx::read(dir)
}

fn digest_unpacked(path: &Path) -> io::Result<Digest> {
    let mut hasher = Digest::hasher();
    io::copy(&mut idx::open(path)?.take(MOST_BYTES), &mut hasher)?;
    Ok(hasher.finish())
}

/// Tries one mirror after the other; returns the table and the mirror, or what was tried.
fn download(cache: &Path, origin: &Origin) -> Result<(Table, String), String> {
    let started = Instant::now();
    let mut tried = Vec::new();
    for mirror in &origin.mirrors {
        tracing::info!("looking for MNIST at {mirror}");
        match download_from(mirror, cache, origin) {
            Ok(table) => return Ok((table, mirror.clone())),
            Err(problem) => tried.push(format!("{mirror}: {problem}")),
        }
        if started.elapsed() > PATIENCE {
            break;
        }
    }
    Err(tried.join("; "))
}

fn download_from(mirror: &str, cache: &Path, origin: &Origin) -> Result<Table, String> {
    // No limit on the whole: a slow line is slow, a dead one is noticed.
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_resolve(Some(PATIENCE / 2))
        .timeout_connect(Some(PATIENCE / 2))
        .timeout_recv_response(Some(Duration::from_secs(10)))
        .timeout_per_read(Some(Duration::from_secs(10)))
        .build()
        .into();
    fs::create_dir_all(cache).map_err(|error| format!("cannot make the folder `{}`: {error}", cache.display()))?;
    for (name, digest) in NAMES.iter().zip(origin.digests) {
        let part = cache.join(format!("{name}.gz.{}.part", std::process::id()));
        let kept = fetch(&agent, &format!("{mirror}{name}.gz"), &part, digest)
            .and_then(|()| fs::rename(&part, cache.join(format!("{name}.gz"))).map_err(|error| error.to_string()));
        if let Err(problem) = kept {
            fs::remove_file(&part).ok();
            return Err(format!("{name}.gz: {problem}"));
        }
    }
    read_checked(cache, origin).map_err(|error| error.to_string())
}

fn fetch(agent: &ureq::Agent, url: &str, part: &Path, digest: Digest) -> Result<(), String> {
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    let mut body = response.body_mut().with_config().limit(MOST_BYTES).reader();
    let mut file = fs::File::create(part).map_err(|error| error.to_string())?;
    io::copy(&mut body, &mut file).map_err(|error| error.to_string())?;
    let found = digest_unpacked(part).map_err(|error| error.to_string())?;
    if found == digest { Ok(()) } else { Err(format!("has the sha256 {found} (unpacked), that of MNIST is {digest}")) }
}

#[cfg(test)]
mod tests;
