//! A trial that was interrupted: everything that is needed to go on bit for bit, in one safetensors file.
//!
//! Tensors: `parameter/<name>`, `best/<name>` once an epoch has ended, `optimizer/<name>.first|second`.
//! The rest is JSON in the metadata entry `gannet.checkpoint`. Random numbers are keyed by position, so
//! none are stored.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use shared::contract::{EpochMetrics, Metrics, Trial};
use shared::digest::Digest;
use shared::strict;

use super::ComputeError;
use super::weights::{bad_file, mapped, take, write};

const ENTRY: &str = "gannet.checkpoint";
const FORMAT: u32 = 1;
const WHAT: &str = "the checkpoint";

/// Where a trial stands, tensors apart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// The epoch that is being trained, from 0.
    pub(super) epoch: u32,
    /// Its next batch, from 0.
    pub(super) batch: u32,
    /// The sum of the rows' cross-entropies in this epoch.
    pub(super) loss_sum: f64,
    /// Time spent on this epoch before the last interruption, in milliseconds.
    pub(super) spent_ms: u64,
    /// The epochs that have ended.
    pub(super) epochs: Vec<EpochMetrics>,
    /// The best of them.
    pub(super) best: Option<Best>,
    /// The objective that an epoch has to beat, and how many have not; with early stop only.
    pub(super) to_beat: Option<f64>,
    /// See above.
    pub(super) waited: u32,
}

/// The epoch whose parameters are kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Best {
    /// From 1.
    pub(super) epoch: u32,
    /// Its numbers.
    pub(super) validation: Metrics,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    /// The digest of the trial.
    trial: Digest,
    /// What the process that wrote this computed with: a SIMD path, or a device's name.
    simd: String,
    /// The digest of the tensors' bytes, in the order of their names.
    tensors: Digest,
    position: Position,
}

/// The tensors of a checkpoint, by what they are.
pub(super) struct Contents {
    pub(super) parameters: HashMap<String, Tensor>,
    pub(super) best: HashMap<String, Tensor>,
    pub(super) optimizer: HashMap<String, Tensor>,
    pub(super) position: Position,
}

/// The three parts of a checkpoint's names.
const PARTS: [&str; 3] = ["parameter/", "best/", "optimizer/"];

/// Writes a checkpoint; the parts are parameters, the best epoch's, and the optimiser's state.
pub(super) fn save(
    path: &Path,
    trial: &Trial,
    simd: &str,
    position: &Position,
    parts: [Vec<(String, Tensor)>; 3],
) -> Result<(), ComputeError> {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for (part, named) in PARTS.iter().zip(parts) {
        tensors.extend(named.into_iter().map(|(name, tensor)| (format!("{part}{name}"), tensor)));
    }
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut hasher = Digest::hasher();
    for (_, tensor) in &tensors {
        hasher.update(&safetensors::View::data(tensor));
    }
    let header = Header {
        format: FORMAT,
        trial: identity(trial),
        simd: simd.into(),
        tensors: hasher.finish(),
        position: position.clone(),
    };
    let text = serde_json::to_string(&header).expect("a header is plain data");
    write(path, &tensors, Some(HashMap::from([(ENTRY.to_owned(), text)])))
}

/// Reads a checkpoint of `trial`. `expected` are the names and shapes of the parameters and of the
/// optimiser's state.
pub(super) fn load(
    path: &Path,
    trial: &Trial,
    expected: &[Vec<(String, Vec<usize>)>; 2],
) -> Result<Contents, ComputeError> {
    let bytes = mapped(path)?;
    let bad = |problem: String| bad_file(WHAT, path, problem);
    let damaged = |error| bad(format!("it is no safetensors file: {error}"));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let text = metadata.metadata().as_ref().and_then(|metadata| metadata.get(ENTRY));
    let text = text.ok_or_else(|| bad(format!("it has no entry `{ENTRY}`: it is no checkpoint")))?;
    let header: Header = strict::json(text.as_bytes()).map_err(|problem| bad(format!("its entry {problem}")))?;
    if header.format != FORMAT {
        return Err(bad(format!("its format is {}: this worker reads {FORMAT}", header.format)));
    }
    if header.trial != identity(trial) {
        return Err(bad("it belongs to another trial".into()));
    }
    let [parameters, optimizer] = expected;
    let best = if header.position.best.is_some() { parameters.as_slice() } else { &[] };
    let names: Vec<(String, &[usize])> = PARTS
        .iter()
        .zip([parameters, best, optimizer])
        .flat_map(|(part, named)| named.iter().map(move |(name, shape)| (format!("{part}{name}"), shape.as_slice())))
        .collect();
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    let mut tensors = take(&file, &names).map_err(|unfit| bad(unfit.to_string()))?;
    let mut sorted: Vec<_> = file.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let mut hasher = Digest::hasher();
    sorted.iter().for_each(|(_, view)| hasher.update(view.data()));
    if hasher.finish() != header.tensors {
        return Err(bad("its tensors are damaged: their digest is another".into()));
    }
    let mut part = |part: &str| {
        let named = tensors.extract_if(|name, _| name.starts_with(part));
        named.map(|(name, tensor)| (name[part.len()..].to_owned(), tensor)).collect()
    };
    let [parameters, best, optimizer] = PARTS.map(&mut part);
    Ok(Contents { parameters, best, optimizer, position: header.position })
}

/// What makes two trials the same training: all but the labels that reports repeat.
fn identity(trial: &Trial) -> Digest {
    let trial = Trial { parameters: serde_json::Map::new(), ..trial.clone() };
    Digest::of(&serde_json::to_vec(&trial).expect("a trial is plain data"))
}
