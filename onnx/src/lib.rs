//! ONNX files as graphs of Gannet's engine.
//!
//! A network is imported for one example: its batch is set to one where it is not fixed, so that what is computed from shapes alone
//! is known, and the engine loops over examples. Whatever depends on constants alone is computed here; everything else becomes
//! the engine's operations, or is refused by node and operator.
//!
//! Nothing in a file is trusted: sizes are checked against what is there before memory is taken, and how much there may be
//! of anything is bounded ([`limits`]).

mod budget;
mod call;
mod error;
mod external;
mod fold;
mod gathered;
mod import;
pub mod limits;
mod numbers;
mod proto;
mod tensor;
mod view;
mod wire;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use engine::graph::{Graph, Op, Value};
use engine::{Net, burst};

pub use error::Error;
pub use numbers::Numbers;

/// An imported network.
#[derive(Debug, Clone)]
pub struct Network {
    /// What it computes from one example, `[C, H, W]` or `[N]`.
    pub graph: Graph,
    /// The numbers of [`Graph::parameters`], in that order. Some keep the file's bytes.
    pub parameters: Vec<Numbers>,
    /// The input's name.
    pub input: String,
    /// Whether the file's input is `[N, H, W, C]`; the graph's is `[C, H, W]` all the same.
    pub channels_last: bool,
    /// The output's name.
    pub output: String,
    /// The shape of an example's output, without dimensions of one at its end.
    pub output_shape: Vec<usize>,
    /// Where the rows of a product's matrix stand in the value that it reads, if in another order.
    orders: HashMap<Value, Arc<[u32]>>,
}

const NOT_FINITE: &str = "it holds numbers that are not finite (NaN or infinite): no picture gets a score with them; export the network before its training diverged";

impl Network {
    /// The graph up to the features that the outputs are made of ([`Graph::features`]), in the order in which the file's last
    /// layer reads them, or for means of maps in that of the channels. Its parameters are the network's.
    #[must_use]
    pub fn features(&self) -> Option<Graph> {
        let mut features = self.graph.features()?;
        let value = features.output();
        if let Some(from) = self.orders.get(&value) {
            let (from, shape) = (from.clone(), features.shape(value).to_vec());
            features.add(Op::Rearrange { from, shape, fill: 0.0 }, &[value]).ok()?;
        }
        Some(features)
    }

    /// Sets the parameters of a net that is planned for [`Network::graph`] or a part of it, and prepares it.
    ///
    /// # Errors
    /// Some are not finite.
    pub fn fill(&self, net: &mut Net) -> Result<(), Error> {
        // The first of them, whoever meets it.
        let unfit = AtomicUsize::new(usize::MAX);
        let all = self.parameters.iter().map(Numbers::len).sum();
        let each = net.setters().zip(&self.parameters).enumerate();
        burst(all, each, |(index, (setter, numbers))| {
            ROOM.with_borrow_mut(|room| {
                let values = numbers.read(room);
                if values.iter().all(|value| value.is_finite()) {
                    setter.set(values);
                } else {
                    unfit.fetch_min(index, Ordering::Relaxed);
                }
            });
        });
        if let Some(parameter) = self.graph.parameters().get(unfit.into_inner()) {
            let at = format!("tensor `{}`", error::shown(&parameter.name));
            return Err(Error::Refused { at, what: NOT_FINITE.into() });
        }
        net.prepare();
        Ok(())
    }
}

thread_local! {
    /// For a parameter's numbers on their way out of a file.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
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
    parse(bytes, Some(folder), options)
}

/// A file's bytes, and its folder.
fn read(path: &Path) -> Result<(Bytes, &Path), Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > limits::FILE {
        return Err(Error::Damaged(format!("it has {length} bytes: at most {} are accepted", limits::FILE)));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((std::fs::read(path).map_err(io)?.into(), folder))
}

/// The bytes of a file with the tensors in it that it keeps in others; none where it keeps all itself.
///
/// # Errors
/// A file cannot be read, or they do not fit each other.
pub fn gathered(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let (bytes, folder) = read(path)?;
    gathered::gathered(&bytes, &external::Files::new(bytes.clone(), Some(folder)))
}

/// Reads the bytes of a file; `folder` is where tensors in other files lie, if any are accepted.
///
/// # Errors
/// As for [`load`].
pub fn parse(bytes: Bytes, folder: Option<&Path>, options: &Options) -> Result<Network, Error> {
    let files = external::Files::new(bytes, folder);
    let model = files.whole();
    import::import(&proto::Model::read(&model)?, &files, options)
}
