//! A model as a folder of files that other tools write: checked whole, so that what is wrong is said here
//! and not on a worker.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use shared::contract::{Architecture, ModelConfig, ModelNetwork, Network, OnnxNetwork, Preprocessing, Scores};
use shared::strict;

use super::config::{self, Config, Described};
use super::onnx_file::OnnxFile;
use super::preprocessor::{self, Preprocessor};
use super::timm;
use super::weights::{Sent, Weights};

const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const LABELS: &str = "labels.txt";
const WEIGHTS: &str = "model.safetensors";
const ONNX: &str = "model.onnx";
/// The largest text file, in bytes: 100,000 long labels.
const MOST_TEXT: u64 = 8 << 20;

/// A model's folder that has been checked.
#[derive(Debug)]
pub struct Folder {
    /// What the model computes.
    pub config: ModelConfig,
    /// How pictures become its input.
    pub preprocessing: Preprocessing,
    /// Its labels, one an output.
    pub labels: Vec<String>,
    /// What its outputs become.
    pub scores: Scores,
    /// See [`shared::contract::Model::threshold`].
    pub threshold: Option<f64>,
    /// What the user should know though nothing is wrong.
    pub notes: Vec<String>,
    pub(super) weights: Parameters,
    /// What was given: it, or the ONNX file in it.
    pub(super) path: PathBuf,
}

/// The file with a model's numbers.
#[derive(Debug)]
pub(super) enum Parameters {
    Safetensors(Weights),
    Onnx(OnnxFile),
}

impl Parameters {
    /// Its name in the store.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Safetensors(_) => WEIGHTS,
            Self::Onnx(_) => ONNX,
        }
    }

    /// The file to send.
    pub(super) fn to_send(&self) -> anyhow::Result<Sent> {
        match self {
            Self::Safetensors(weights) => weights.to_send(),
            Self::Onnx(file) => file.to_send(),
        }
    }
}

impl Folder {
    /// Reads and checks `config.json`, `preprocessor_config.json`, `labels.txt` and `model.safetensors`, each of its
    /// numbers; or an ONNX file in the place of the first and the last: `model.onnx`, or the one that is given.
    ///
    /// # Errors
    /// What does not fit: the file, the key in it, what stood there and what is accepted.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        if folder.extension().is_some_and(|extension| extension == "onnx") && folder.is_file() {
            let inside = folder.parent().filter(|inside| !inside.as_os_str().is_empty()).unwrap_or(Path::new("."));
            return Self::read_onnx(inside, folder);
        }
        if folder.join(ONNX).is_file() && !folder.join(WEIGHTS).is_file() {
            return Self::read_onnx(folder, &folder.join(ONNX));
        }
        if !folder.is_dir() {
            bail!(
                "`{}` is no folder: give one with {ONNX}, or with {WEIGHTS} and {CONFIG}, and with {PREPROCESSOR} and {LABELS}",
                folder.display()
            );
        }
        let path = |name: &str| folder.join(name);
        let config = text(&path(CONFIG))?.with_context(|| absent(&path(CONFIG), config::ACCEPTED))?;
        let config = config::read(&config).map_err(|problem| wrong(&path(CONFIG), problem))?;
        let channels = channels(&config).map_err(|problem| wrong(&path(CONFIG), problem))?;
        let preprocessor = preprocessing(&config, channels, folder)?;
        let input = input(&config, &preprocessor, folder)?;
        let mut weights = open_weights(folder)?;
        let labels = labels(&config, folder)?;
        let classes = labels.as_ref().map(|(labels, _)| labels.len()).or(config.classes);
        let network = network(&config, &input, &weights, classes).map_err(|problem| wrong(&path(CONFIG), problem))?;
        let parameters = network.parameters(&input).map_err(|problem| wrong(&path(CONFIG), problem))?;
        let ignores = |name: &str| matches!(config.network, Described::ByName(known) if known.ignores(name));
        weights.check(&parameters, ignores).map_err(|problem| wrong(&path(WEIGHTS), problem))?;
        weights.check_finite().map_err(|problem| wrong(&path(WEIGHTS), problem))?;
        let outputs = network.output_shape(&input).map_err(|problem| wrong(&path(CONFIG), problem))?;
        let mut notes = notes(&config, &preprocessor.preprocessing, &weights);
        let labels = checked(labels, &outputs, &path(CONFIG), &mut notes)?;
        if let Some(classes) = config.classes.filter(|classes| *classes != labels.len()) {
            bail!("`{}` says {classes} classes: the network has {}", path(CONFIG).display(), labels.len());
        }
        let scores = scores(config.scores, labels.len());
        let config = ModelConfig { input, network: network.into() };
        let weights = Parameters::Safetensors(weights);
        let path = folder.to_owned();
        let (preprocessing, threshold) = (preprocessor.preprocessing, None);
        Ok(Self { config, preprocessing, labels, scores, threshold, notes, weights, path })
    }

    fn read_onnx(folder: &Path, file: &Path) -> anyhow::Result<Self> {
        let path = |name: &str| folder.join(name);
        let config = match text(&path(CONFIG))? {
            Some(config) => config::beside_onnx(&config).map_err(|problem| wrong(&path(CONFIG), problem))?,
            None => Config::default(),
        };
        let channels = channels(&config).map_err(|problem| wrong(&path(CONFIG), problem))?;
        let preprocessor = preprocessing(&config, channels, folder)?;
        let wanted = match (&config.input, preprocessor.output) {
            (Some(input), _) => Some([input[1], input[2]]),
            (None, size) => size.map(|(size, _)| size.map(|side| side as usize)),
        };
        let onnx = OnnxFile::read(file, wanted).map_err(|problem| wrong(file, format!("{problem:#}")))?;
        if onnx.input.len() != 3 || onnx.input[0] != channels {
            bail!(
                "`{}`: its input is {:?}: [{channels}, height, width] is accepted; another number of channels, 1 or 3, has to \
                 stand in {CONFIG}, as {{\"input\": [1, 28, 28]}}",
                file.display(),
                onnx.input
            );
        }
        let config_input = Config { input: Some(onnx.input.clone()), ..Config::default() };
        let input = input(&config_input, &preprocessor, folder)?;
        let mut notes = Vec::new();
        let labels = checked(labels(&config, folder)?, &onnx.output, file, &mut notes)?;
        let scores = if onnx.gives_scores {
            notes.push("its outputs are scores already: they are told as they are".into());
            Scores::Raw
        } else {
            scores(config.scores, labels.len())
        };
        let several = onnx.gives_scores && config.scores == Some(Scores::Sigmoid);
        let threshold = if several { Scores::Sigmoid.threshold() } else { None };
        let network = ModelNetwork::Onnx(OnnxNetwork { parameters: onnx.parameters });
        let (config, weights) = (ModelConfig { input, network }, Parameters::Onnx(onnx));
        let path = file.to_owned();
        let preprocessing = preprocessor.preprocessing;
        Ok(Self { config, preprocessing, labels, scores, threshold, notes, weights, path })
    }
}

/// What outputs become: what the file says; else of a single one a probability of its own, since a softmax of it would be 1 for every
/// picture.
fn scores(said: Option<Scores>, outputs: usize) -> Scores {
    said.unwrap_or(if outputs == 1 { Scores::Sigmoid } else { Scores::Softmax })
}

fn wrong(file: &Path, problem: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("`{}`: {problem:#}", file.display())
}

fn absent(file: &Path, accepted: &str) -> String {
    format!("there is no `{}`: write one, {accepted}", file.display())
}

/// A text file's content, without a byte order mark; `None` where there is no such file.
fn text(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        // To open a pipe would wait for who writes into it.
        Ok(metadata) if !metadata.is_file() => bail!("`{}` is no file", path.display()),
        _ => {}
    }
    let file = File::open(path).with_context(|| format!("open `{}`", path.display()))?;
    let mut bytes = Vec::new();
    file.take(MOST_TEXT + 1).read_to_end(&mut bytes).with_context(|| format!("read `{}`", path.display()))?;
    if bytes.len() as u64 > MOST_TEXT {
        bail!("`{}` has over {MOST_TEXT} bytes: at most that is accepted", path.display());
    }
    Ok(Some(strict::without_mark(&bytes).to_vec()))
}

fn open_weights(folder: &Path) -> anyhow::Result<Weights> {
    let path = folder.join(WEIGHTS);
    if !path.is_file() {
        bail!(
            "there is no `{}`: in PyTorch, `safetensors.torch.save_file(model.state_dict(), \"{WEIGHTS}\")` writes one",
            path.display()
        );
    }
    Weights::open(&path).map_err(|error| anyhow!("`{}`: {error:#}", path.display()))
}

/// What pictures become: `preprocessor_config.json`, or what timm says in `config.json`.
fn preprocessing(config: &Config, channels: usize, folder: &Path) -> anyhow::Result<Preprocessor> {
    let path = folder.join(PREPROCESSOR);
    match (text(&path)?, &config.pretrained) {
        (Some(text), _) => preprocessor::read(&text, channels).map_err(|problem| wrong(&path, problem)),
        (None, Some(pretrained)) => {
            timm::read(pretrained, channels).map_err(|problem| wrong(&folder.join(CONFIG), problem))
        }
        (None, None) => {
            let example = format!("for a network of torchvision's, for example, {}", preprocessor::EXAMPLE);
            bail!(absent(&path, &example))
        }
    }
}

/// Channels of the input, which `config.json` may leave to us.
fn channels(config: &Config) -> anyhow::Result<usize> {
    let Some(input) = &config.input else { return Ok(3) };
    let &[channels @ (1 | 3), _, _] = input.as_slice() else {
        bail!("`input` is {input:?}: [1 or 3, height, width] is accepted");
    };
    match config.network {
        Described::ByName(known) if channels != 3 => bail!("`input` has {channels} channels: {known} takes 3"),
        _ => Ok(channels),
    }
}

/// `[channels, height, width]`: from `config.json`, or from what the preprocessing gives.
fn input(config: &Config, preprocessor: &Preprocessor, folder: &Path) -> anyhow::Result<Vec<usize>> {
    let input = match (&config.input, preprocessor.output, &config.network) {
        (Some(input), _, _) => input.clone(),
        (None, Some((size, _)), _) => vec![3, size[0] as usize, size[1] as usize],
        (None, None, Described::ByName(known)) => vec![3, known.side(), known.side()],
        (None, None, Described::ByLayers(_) | Described::Elsewhere) => {
            let file = folder.join(CONFIG);
            bail!("`{}`: `input` is missing: [3, 224, 224], for example, is accepted", file.display());
        }
    };
    match preprocessor.output {
        Some((size, key)) if size.map(|side| side as usize) != input[1..] => bail!(
            "`{}`: `{key}` is {size:?}: the network's input, {:?}, is accepted",
            folder.join(PREPROCESSOR).display(),
            &input[1..]
        ),
        _ => Ok(input),
    }
}

/// The network; one that goes by name has the outputs that the weights have.
fn network(config: &Config, input: &[usize], weights: &Weights, classes: Option<usize>) -> anyhow::Result<Network> {
    let network = match &config.network {
        Described::ByLayers(network) => network.clone(),
        Described::Elsewhere => unreachable!("an ONNX file holds its network"),
        // A head of another network: the check that follows names all tensors.
        Described::ByName(known) => {
            known.network(weights.rows(known.head()).filter(|rows| *rows > 0).or(classes).unwrap_or(1000))
        }
    };
    network.output_shape(input)?;
    Ok(network)
}

/// The labels and the file that they come from, where there are some.
fn labels(config: &Config, folder: &Path) -> anyhow::Result<Option<(Vec<String>, PathBuf)>> {
    let path = folder.join(LABELS);
    let Some(bytes) = text(&path)? else {
        return Ok(config.labels.clone().map(|labels| (labels, folder.join(CONFIG))));
    };
    let text = String::from_utf8(bytes).map_err(|error| wrong(&path, format!("is not UTF-8: {error}")))?;
    let labels: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    if labels.is_empty() {
        bail!("`{}` is empty: one label a line is accepted", path.display());
    }
    if let Some(line) = labels.iter().position(String::is_empty) {
        bail!("`{}`: line {} is empty: one label a line is accepted", path.display(), line + 1);
    }
    Ok(Some((labels, path)))
}

/// One label an output of the network in `file`; numbers where there are none.
fn checked(
    labels: Option<(Vec<String>, PathBuf)>,
    outputs: &[usize],
    file: &Path,
    notes: &mut Vec<String>,
) -> anyhow::Result<Vec<String>> {
    match (labels, outputs) {
        (Some((labels, _)), [count]) if labels.len() == *count => Ok(labels),
        (Some((labels, from)), _) => bail!(
            "`{}` has {} labels: the network has {outputs:?} outputs, one label for each is accepted",
            from.display(),
            labels.len()
        ),
        (None, [count]) => {
            notes.push(format!(
                "there are no labels ({LABELS}, or `id2label` or `label_names` in {CONFIG}): they are the numbers 0 to {}",
                count.saturating_sub(1)
            ));
            Ok((0..*count).map(|number| number.to_string()).collect())
        }
        (None, _) => bail!("`{}`: the network's outputs are {outputs:?}: a row of them is accepted", file.display()),
    }
}

fn notes(config: &Config, preprocessing: &Preprocessing, weights: &Weights) -> Vec<String> {
    let mut notes = Vec::new();
    if !config.unused.is_empty() {
        notes.push(format!("{CONFIG}: nothing is done with `{}`", config.unused.join("`, `")));
    }
    let heads = weights.ignored.iter().filter(|name| name.starts_with("AuxLogits.")).count();
    if heads > 0 {
        notes.push(format!(
            "{WEIGHTS}: the {heads} tensors of the auxiliary head (`AuxLogits.`) are left out: only training needs them"
        ));
    }
    if matches!(config.network, Described::ByName(Architecture::InceptionV3)) && preprocessing.mean.contains(&0.485) {
        notes.push(format!(
            "{PREPROCESSOR}: torchvision's own weights of inception_v3 want `image_mean` and `image_std` of [0.5, 0.5, 0.5] (its `transform_input`)"
        ));
    }
    notes
}
