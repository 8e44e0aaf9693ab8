//! An ONNX file of a model's folder: imported here as a worker will, so that what it cannot compute is said now.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use engine::graph::{Activation, Op};
use onnx::Options;

use super::weights::Sent;

/// An ONNX file that can be computed.
#[derive(Debug)]
pub(super) struct OnnxFile {
    path: PathBuf,
    /// The file with the tensors of others in it, where it has some.
    whole: Option<Bytes>,
    /// Of an example.
    pub(super) input: Vec<usize>,
    pub(super) output: Vec<usize>,
    pub(super) parameters: u64,
    /// Whether its last operation makes scores of its outputs.
    pub(super) gives_scores: bool,
}

impl OnnxFile {
    /// Reads and imports a file; `size` is the input's, where the file leaves it open.
    pub(super) fn read(path: &Path, size: Option<[usize; 2]>) -> anyhow::Result<Self> {
        // What is sent has nothing beside it: it is read without a folder here too.
        let whole = onnx::gathered(path)?.map(Bytes::from);
        let network = match &whole {
            Some(whole) => onnx::parse(whole.clone(), None, &Options { size })?,
            None => onnx::load(path, &Options { size })?,
        };
        let mut net = engine::Net::new(&network.graph, 1, engine::Purpose::Infer, engine::Path::best())?;
        network.fill(&mut net)?;
        let last = &network.graph.node(network.graph.output()).op;
        let gives_scores = matches!(last, Op::Softmax | Op::Activation(Activation::Sigmoid));
        Ok(Self {
            gives_scores,
            path: path.to_owned(),
            whole,
            input: network.graph.shape(network.graph.input()).to_vec(),
            output: network.output_shape,
            parameters: network.parameters.iter().map(|values| values.len() as u64).sum(),
        })
    }

    /// The file to send: this one, or one with the tensors of other files in it.
    pub(super) fn to_send(&self) -> anyhow::Result<Sent> {
        let Some(whole) = &self.whole else { return Ok(Sent { path: self.path.clone(), temporary: None }) };
        let mut temporary = tempfile::NamedTempFile::new().context("make a temporary file")?;
        temporary.write_all(whole).with_context(|| format!("write `{}`", temporary.path().display()))?;
        Ok(Sent { path: temporary.path().to_owned(), temporary: Some(temporary) })
    }
}
