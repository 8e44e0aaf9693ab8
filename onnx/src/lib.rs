//! ONNX files as graphs of Gannet's engine.
//!
//! A network is imported for one example: its batch is set to one where it is not fixed, so that what is computed from shapes alone
//! is known, and the engine loops over examples. Whatever depends on constants alone is computed here; everything else becomes
//! the engine's operations, or is refused by node and operator.
//!
//! Nothing in a file is trusted: sizes are checked against what is there before memory is taken, and how much there may be
//! of anything is bounded ([`limits`]).

mod call;
mod error;
mod external;
mod fold;
mod gathered;
mod import;
pub mod limits;
mod proto;
mod tensor;
mod view;
mod wire;

use std::path::Path;
use std::sync::Arc;

use engine::graph::Graph;

pub use error::Error;

/// An imported network.
#[derive(Debug, Clone)]
pub struct Network {
    /// What it computes from one example, `[C, H, W]` or `[N]`.
    pub graph: Graph,
    /// The numbers of [`Graph::parameters`], in that order.
    pub parameters: Vec<Arc<[f32]>>,
    /// The input's name.
    pub input: String,
    /// Whether the file's input is `[N, H, W, C]`; the graph's is `[C, H, W]` all the same.
    pub channels_last: bool,
    /// The output's name.
    pub output: String,
    /// The shape of an example's output.
    pub output_shape: Vec<usize>,
}

/// What a file leaves open.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Height and width of the input, where the file does not fix them.
    pub size: Option<[usize; 2]>,
}

/// Reads a file; tensors that it keeps in other files are read from its folder.
///
/// # Errors
/// The file cannot be read, is damaged, or holds what is not accepted.
pub fn load(path: &Path, options: &Options) -> Result<Network, Error> {
    let (bytes, folder) = read(path)?;
    parse(&bytes, Some(folder), options)
}

/// A file's bytes, and its folder.
fn read(path: &Path) -> Result<(Vec<u8>, &Path), Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > limits::FILE {
        return Err(Error::Damaged(format!("it has {length} bytes: at most {} are accepted", limits::FILE)));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((std::fs::read(path).map_err(io)?, folder))
}

/// The bytes of a file with the tensors in it that it keeps in others; none where it keeps all itself.
///
/// # Errors
/// A file cannot be read, or they do not fit each other.
pub fn gathered(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let (bytes, folder) = read(path)?;
    gathered::gathered(&bytes, &external::Files::new(Some(folder)))
}

/// Reads the bytes of a file; `folder` is where tensors in other files lie, if any are accepted.
///
/// # Errors
/// As for [`load`].
pub fn parse(bytes: &[u8], folder: Option<&Path>, options: &Options) -> Result<Network, Error> {
    let model = proto::Model::read(bytes)?;
    import::import(&model, &external::Files::new(folder), options)
}
