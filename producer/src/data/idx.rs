//! IDX files, the form of MNIST (Y. LeCun, "The MNIST database of handwritten digits"): a magic number
//! with element type and number of dimensions, the dimensions, then the elements, all big-endian.
//!
//! Files are not trusted: sizes are checked before anything is read, and a compressed file gives at most
//! as many bytes as its header promises.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use shared::contract::ElementType;

use super::{DataError, Rows, Table};

/// The files of a dataset, in the order images, labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// What is trained on.
    pub train: [PathBuf; 2],
    /// What is tested on.
    pub test: Option<[PathBuf; 2]>,
}

/// The standard names, in the order of [`Files`]; each may end in `.gz`, and `idx3` be `idx2` or `idx4`.
pub const NAMES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// The most bytes that one file may hold, uncompressed.
const MOST_BYTES: usize = 1 << 30;

impl Files {
    /// The four files with their standard names in `dir`, compressed or not.
    ///
    /// # Errors
    /// The first one that is not there.
    pub fn in_dir(dir: &Path) -> Result<Self, DataError> {
        let [images, labels, test_images, test_labels] = NAMES.map(|name| find(dir, name));
        Ok(Self { train: [images?, labels?], test: Some([test_images?, test_labels?]) })
    }
}

/// Reads the four files in `dir`.
///
/// # Errors
/// As [`Files::in_dir`] and [`read_files`].
pub fn read(dir: &Path) -> Result<Table, DataError> {
    read_files(&Files::in_dir(dir)?)
}

/// Reads a dataset's files: images of bytes or floats with 2 to 4 dimensions (`[rows, N]`, `[rows, H, W]`,
/// `[rows, C, H, W]`), labels of bytes or 32-bit integers. There are as many classes as the largest label
/// says.
///
/// # Errors
/// A file that cannot be read, is not IDX, is cut off, or does not fit the others.
pub fn read_files(files: &Files) -> Result<Table, DataError> {
    let (mut table, rows) = read_pair(&files.train)?;
    table.splits = BTreeMap::from([("train".to_owned(), rows)]);
    if let Some(paths) = &files.test {
        let (test, rows) = read_pair(paths)?;
        if (&test.shape, test.elements) != (&table.shape, table.elements) {
            let problem = format!("has examples of {:?}, the training images of {:?}", test.shape, table.shape);
            return Err(wrong(&paths[0], problem));
        }
        table.classes = table.classes.max(test.classes);
        table.splits.insert("test".to_owned(), rows);
    }
    Ok(table)
}

fn read_pair([images, labels]: &[PathBuf; 2]) -> Result<(Table, Rows), DataError> {
    let inputs = parse_file(images)?;
    let names = parse_file(labels)?;
    pair(inputs, &names).map_err(|problem| wrong(images, problem))
}

/// A table without splits, and one split's rows.
pub(super) fn pair(images: Idx, labels: &Idx) -> Result<(Table, Rows), String> {
    let (rows, shape) = match images.sizes.as_slice() {
        &[rows, columns] => (rows, vec![columns]),
        &[rows, height, width] => (rows, vec![1, height, width]),
        &[rows, channels, height, width] => (rows, vec![channels, height, width]),
        sizes => return Err(format!("has {} dimensions: 2 to 4 are accepted for images", sizes.len())),
    };
    if labels.sizes != [rows] {
        return Err(format!("has {rows} images, but the labels have the dimensions {:?}", labels.sizes));
    }
    let (elements, inputs) = match images.kind {
        Kind::Byte => (ElementType::U8, images.data),
        Kind::Float => (ElementType::F32, images.data.as_chunks::<4>().0.iter().flat_map(|c| reversed(*c)).collect()),
        Kind::Int => return Err("holds integers of 32 bits: bytes and floats are accepted for images".into()),
    };
    let labels: Vec<u32> = match labels.kind {
        Kind::Byte => labels.data.iter().map(|byte| u32::from(*byte)).collect(),
        Kind::Int => labels.data.as_chunks::<4>().0.iter().map(|chunk| u32::from_be_bytes(*chunk)).collect(),
        Kind::Float => return Err("has labels that are floats: bytes and integers are accepted".into()),
    };
    // A negative label reads as a huge one.
    let largest = labels.iter().copied().max().unwrap_or(0);
    if largest >= 100_000 {
        return Err(format!("has the label {}: 0 to 99999 is accepted", largest.cast_signed()));
    }
    let table = Table { shape, elements, classes: (largest + 1).max(2), labels: Vec::new(), splits: BTreeMap::new() };
    Ok((table, Rows { inputs, labels }))
}

fn reversed(mut chunk: [u8; 4]) -> [u8; 4] {
    chunk.reverse();
    chunk
}

/// An IDX file's content.
pub(super) struct Idx {
    kind: Kind,
    sizes: Vec<usize>,
    data: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Kind {
    Byte,
    Int,
    Float,
}

/// Parses an IDX file to its last byte.
pub(super) fn parse(reader: &mut dyn Read) -> Result<Idx, String> {
    let mut magic = [0; 4];
    fill(reader, &mut magic)?;
    let (kind, width) = match magic {
        [0, 0, 0x08, _] => (Kind::Byte, 1),
        [0, 0, 0x0C, _] => (Kind::Int, 4),
        [0, 0, 0x0D, _] => (Kind::Float, 4),
        [0, 0, other @ (0x09 | 0x0B | 0x0E), _] => {
            return Err(format!(
                "holds elements of type 0x{other:02x}: bytes (08), integers (0c), floats (0d) are accepted"
            ));
        }
        _ => return Err(format!("is not IDX: it begins with {}", hex(&magic))),
    };
    let dimensions = usize::from(magic[3]);
    if !(1..=4).contains(&dimensions) {
        return Err(format!("has {dimensions} dimensions: 1 to 4 are accepted"));
    }
    let mut sizes = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        let mut size = [0; 4];
        fill(reader, &mut size)?;
        sizes.push(u32::from_be_bytes(size) as usize);
    }
    let bytes = sizes.iter().try_fold(width, |product: usize, size| product.checked_mul(*size));
    let bytes = bytes.filter(|bytes| (1..=MOST_BYTES).contains(bytes)).ok_or_else(|| {
        format!("has the dimensions {sizes:?}: at least one element and at most {MOST_BYTES} bytes are accepted")
    })?;
    // Memory grows with what is really there, not with what the header promises.
    let mut data = Vec::new();
    reader.take(bytes as u64 + 1).read_to_end(&mut data).map_err(|error| format!("cannot be read: {error}"))?;
    match data.len() {
        found if found < bytes => {
            Err(format!("is cut off: its dimensions {sizes:?} need {bytes} bytes, {found} are there"))
        }
        found if found > bytes => Err(format!("goes on after the {bytes} bytes of its dimensions {sizes:?}")),
        _ => Ok(Idx { kind, sizes, data }),
    }
}

fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> Result<(), String> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "is not IDX: it ends within its header".to_owned(),
        _ => format!("cannot be read: {error}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn parse_file(path: &Path) -> Result<Idx, DataError> {
    let mut reader = open(path).map_err(|source| DataError::Unreadable { path: path.into(), source })?;
    parse(&mut reader).map_err(|problem| wrong(path, problem))
}

/// Opens a file and, where its content is gzip, unpacks it on the way.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    use io::BufRead as _;

    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    let is_gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// `name` in `dir`: also with `.gz`, with the dot that some copies have in place of the second dash, and, for images,
/// with the number of dimensions that they really have.
pub(super) fn find(dir: &Path, name: &str) -> Result<PathBuf, DataError> {
    let numbered = ["-idx3", "-idx4", "-idx2"].map(|number| name.replace("-idx3", number));
    let dotted = numbered.clone().map(|name| name.replace("-idx", ".idx"));
    let paths = numbered.iter().chain(&dotted).flat_map(|name| [dir.join(name), dir.join(format!("{name}.gz"))]);
    paths.into_iter().find(|path| path.is_file()).ok_or_else(|| DataError::Wrong {
        what: format!("the folder `{}`", dir.display()),
        problem: format!("has no `{name}` (or `{name}.gz`): {} are needed", NAMES.join(", ")),
    })
}

fn wrong(path: &Path, problem: String) -> DataError {
    DataError::Wrong { what: format!("the file `{}`", path.display()), problem }
}
