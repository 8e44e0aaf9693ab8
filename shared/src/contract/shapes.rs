//! What a network does to shapes, and the tensors it owns: computed from its description alone, so
//! that a wrong one is refused before anything is enqueued.

use std::fmt;

use super::network::{Layer, Network, Op, Size};

/// The shape of one example, without the batch dimension: `[C, H, W]` for pictures, `[N]` for rows.
pub type Shape = Vec<usize>;

/// Elements of one example's activations; more is refused (1 GiB in fp32).
const MOST_ELEMENTS: usize = 1 << 28;
/// Elements of all parameters; more is refused (4 GiB in fp32).
const MOST_PARAMETERS: usize = 1 << 30;
/// Layers, nested ones included.
const MOST_LAYERS: usize = 2_000;

/// A network that cannot be built on its input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct NetworkError {
    /// Which layer: `layers[3].shortcut[0]`.
    pub at: String,
    /// What is wrong and what is accepted.
    pub problem: String,
}

/// A tensor that a network owns.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name in the weights file: `3.layers.0.weight`.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// How a new one begins.
    pub init: Init,
}

/// How a new parameter begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Uniform in `±sqrt(6 / fan_in)`, for a gain of relu (He et al. 2015).
    HeUniform {
        /// Inputs of one output.
        fan_in: usize,
    },
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Zeros, and not trained: a running mean.
    RunningMean,
    /// Ones, and not trained: a running variance.
    RunningVariance,
}

impl Init {
    /// Whether the optimiser changes it.
    pub fn is_trained(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVariance)
    }
}

impl Network {
    /// Checks every layer on an input of shape `input` and returns the shape of the logits.
    ///
    /// # Errors
    /// The first layer that does not fit, by its position.
    pub fn output_shape(&self, input: &[usize]) -> Result<Shape, NetworkError> {
        self.walk(input).map(|walk| walk.shape)
    }

    /// Checks that the network gives `classes` logits for one example of shape `input`.
    ///
    /// # Errors
    /// As [`Network::output_shape`], or outputs that are not `[classes]`.
    pub fn check(&self, input: &[usize], classes: usize) -> Result<(), NetworkError> {
        let output = self.output_shape(input)?;
        if output == [classes] {
            return Ok(());
        }
        let last = self.layers.len().saturating_sub(1);
        let problem = format!(
            "the network's output is {output:?} but the data have {classes} classes: end with a `linear` layer of {classes} units (or \"$classes\")"
        );
        Err(NetworkError { at: format!("layers[{last}]"), problem })
    }

    /// Every tensor the network owns on an input of shape `input`, in the order of its layers.
    ///
    /// # Errors
    /// As [`Network::output_shape`].
    pub fn parameters(&self, input: &[usize]) -> Result<Vec<Parameter>, NetworkError> {
        self.walk(input).map(|walk| walk.parameters)
    }

    fn walk(&self, input: &[usize]) -> Result<Walk, NetworkError> {
        let mut walk = Walk { shape: input.to_vec(), parameters: Vec::new(), layers: 0, elements: 0 };
        walk.list(&self.layers, "layers", "")?;
        let mut names: Vec<&str> = walk.parameters.iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let problem = format!("two layers own a tensor `{}`: give one another `name`", twice[0]);
            return Err(NetworkError { at: "layers".into(), problem });
        }
        Ok(walk)
    }
}

impl Layer {
    /// The prefix of this layer's tensors, as layer `index` of a list with prefix `prefix`: its name as it
    /// stands, wherever the layer is, so that any other library's names can be written down.
    pub fn prefix(&self, prefix: &str, index: usize) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None if prefix.is_empty() => index.to_string(),
            None => format!("{prefix}.{index}"),
        }
    }
}

/// The output length along one dimension of a window that slides over `input` elements.
///
/// `None` where the window does not fit.
pub(crate) fn slide(input: usize, kernel: usize, stride: usize, padding: [usize; 2], dilation: usize) -> Option<usize> {
    let reach = dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
    let padded = input.checked_add(padding[0])?.checked_add(padding[1])?;
    Some(padded.checked_sub(reach)? / stride + 1)
}

struct Walk {
    shape: Shape,
    parameters: Vec<Parameter>,
    layers: usize,
    elements: usize,
}

impl Walk {
    fn list(&mut self, layers: &[Layer], at: &str, prefix: &str) -> Result<(), NetworkError> {
        if layers.is_empty() && at == "layers" {
            return Err(NetworkError { at: at.into(), problem: "the network has no layers".into() });
        }
        for (index, layer) in layers.iter().enumerate() {
            let at = format!("{at}[{index}]");
            self.layers += 1;
            if self.layers > MOST_LAYERS {
                return Err(NetworkError { at, problem: format!("more than {MOST_LAYERS} layers") });
            }
            self.layer(&layer.op, &at, &layer.prefix(prefix, index))?;
            let elements = self.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
            if elements.is_none_or(|n| n == 0 || n > MOST_ELEMENTS) {
                let problem = format!("its output {:?} is empty or has over {MOST_ELEMENTS} elements", self.shape);
                return Err(NetworkError { at, problem });
            }
        }
        Ok(())
    }

    fn own(&mut self, at: &str, prefix: &str, tensors: &[(&str, Shape, Init)]) -> Result<(), NetworkError> {
        for (suffix, shape, init) in tensors {
            let elements = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
            self.elements = elements.and_then(|n| self.elements.checked_add(n)).unwrap_or(usize::MAX);
            if self.elements > MOST_PARAMETERS {
                let problem = format!("the network has over {MOST_PARAMETERS} parameters");
                return Err(NetworkError { at: at.into(), problem });
            }
            self.parameters.push(Parameter { name: format!("{prefix}.{suffix}"), shape: shape.clone(), init: *init });
        }
        Ok(())
    }

    fn picture(&self, at: &str, what: &str) -> Result<[usize; 3], NetworkError> {
        <[usize; 3]>::try_from(self.shape.as_slice()).map_err(|_| NetworkError {
            at: at.into(),
            problem: format!("{what} needs an input [channels, height, width], here it is {:?}", self.shape),
        })
    }

    fn layer(&mut self, op: &Op, at: &str, prefix: &str) -> Result<(), NetworkError> {
        let refuse = |problem: String| Err(NetworkError { at: at.into(), problem });
        match op {
            Op::Conv { filters, kernel, stride, padding, dilation, groups, bias } => {
                let [c, h, w] = self.picture(at, "conv")?;
                let (kernel, stride, dilation) = (kernel.pair(), stride.pair(), dilation.pair());
                at_least_one(at, &[("filters", *filters), ("groups", *groups)])?;
                sides(at, &[("kernel", kernel), ("stride", stride), ("dilation", dilation)])?;
                if c % groups != 0 || filters % groups != 0 {
                    return refuse(format!(
                        "`groups` is {groups}: it must divide the {c} input channels and the {filters} filters"
                    ));
                }
                let along = |axis: usize, input: usize| {
                    let pads = padding.along(axis, input, kernel[axis], stride[axis], dilation[axis]);
                    slide(input, kernel[axis], stride[axis], pads, dilation[axis])
                };
                let (Some(oh), Some(ow)) = (along(0, h), along(1, w)) else {
                    return refuse(format!(
                        "a kernel of {kernel:?} does not fit into {h} x {w}: use a smaller kernel or `padding = \"same\"`"
                    ));
                };
                let fan_in = c / groups * kernel[0] * kernel[1];
                let weight = vec![*filters, c / groups, kernel[0], kernel[1]];
                self.own(at, prefix, &[("weight", weight, Init::HeUniform { fan_in })])?;
                if *bias {
                    self.own(at, prefix, &[("bias", vec![*filters], Init::Zeros)])?;
                }
                self.shape = vec![*filters, oh, ow];
            }
            Op::Linear { units, bias } => {
                let &[inputs] = self.shape.as_slice() else {
                    return refuse(format!(
                        "linear needs a flat input, here it is {:?}: put `flatten` or `global_avg_pool` before it",
                        self.shape
                    ));
                };
                at_least_one(at, &[("units", *units)])?;
                self.own(at, prefix, &[("weight", vec![*units, inputs], Init::HeUniform { fan_in: inputs })])?;
                if *bias {
                    self.own(at, prefix, &[("bias", vec![*units], Init::Zeros)])?;
                }
                self.shape = vec![*units];
            }
            Op::BatchNorm { momentum, epsilon } => {
                fraction(at, "momentum", *momentum, 0.0..=1.0)?;
                fraction(at, "epsilon", *epsilon, 0.0..=1.0)?;
                let c = vec![self.shape[0]];
                self.own(at, prefix, &[("weight", c.clone(), Init::Ones), ("bias", c.clone(), Init::Zeros)])?;
                self.own(
                    at,
                    prefix,
                    &[("running_mean", c.clone(), Init::RunningMean), ("running_var", c, Init::RunningVariance)],
                )?;
            }
            Op::LayerNorm { epsilon } => {
                fraction(at, "epsilon", *epsilon, 0.0..=1.0)?;
                let shape = self.shape.clone();
                self.own(at, prefix, &[("weight", shape.clone(), Init::Ones), ("bias", shape, Init::Zeros)])?;
            }
            Op::GroupNorm { groups, epsilon } => {
                fraction(at, "epsilon", *epsilon, 0.0..=1.0)?;
                at_least_one(at, &[("groups", *groups)])?;
                let c = self.shape[0];
                if !c.is_multiple_of(*groups) {
                    return refuse(format!("`groups` is {groups}: it must divide the {c} channels"));
                }
                self.own(at, prefix, &[("weight", vec![c], Init::Ones), ("bias", vec![c], Init::Zeros)])?;
            }
            Op::Activation { .. } | Op::Relu {} => {}
            Op::MaxPool { kernel, stride, padding, ceil } => self.pool(at, *kernel, *stride, padding.0, *ceil)?,
            Op::AvgPool { kernel, stride, padding, .. } => self.pool(at, *kernel, *stride, padding.0, false)?,
            Op::GlobalAvgPool {} => {
                let [c, ..] = self.picture(at, "global_avg_pool")?;
                self.shape = vec![c];
            }
            Op::Dropout { rate } => {
                if !(0.0..1.0).contains(rate) {
                    return refuse(format!("`rate` is {rate}: 0 to below 1 is accepted"));
                }
            }
            Op::Flatten {} => self.shape = vec![self.shape.iter().product()],
            Op::Residual { layers, shortcut } => {
                let input = self.shape.clone();
                self.list(layers, &format!("{at}.layers"), &format!("{prefix}.layers"))?;
                let main = std::mem::replace(&mut self.shape, input);
                self.list(shortcut, &format!("{at}.shortcut"), &format!("{prefix}.shortcut"))?;
                if main != self.shape {
                    return refuse(format!(
                        "the main branch gives {main:?} and the shortcut {:?}: they must be alike to be added",
                        self.shape
                    ));
                }
            }
            Op::Parallel { branches } => self.parallel(branches, at, prefix)?,
        }
        Ok(())
    }

    fn parallel(&mut self, branches: &[Vec<Layer>], at: &str, prefix: &str) -> Result<(), NetworkError> {
        let refuse = |problem: String| Err(NetworkError { at: at.into(), problem });
        let input = self.shape.clone();
        let mut joined: Option<Shape> = None;
        for (index, branch) in branches.iter().enumerate() {
            self.shape.clone_from(&input);
            self.list(branch, &format!("{at}.branches[{index}]"), &format!("{prefix}.branches.{index}"))?;
            joined = Some(match joined {
                None => self.shape.clone(),
                Some(mut sum) if sum[1..] == self.shape[1..] => {
                    sum[0] += self.shape[0];
                    sum
                }
                Some(sum) => {
                    return refuse(format!(
                        "branch {index} gives {:?} beside {sum:?}: all but the channels must be alike",
                        self.shape
                    ));
                }
            });
        }
        match joined {
            Some(shape) => self.shape = shape,
            None => return refuse("`branches` is empty: at least one is needed".into()),
        }
        Ok(())
    }

    fn pool(
        &mut self,
        at: &str,
        kernel: Size,
        stride: Option<Size>,
        padding: Size,
        ceil: bool,
    ) -> Result<(), NetworkError> {
        let refuse = |problem: String| Err(NetworkError { at: at.into(), problem });
        let [c, h, w] = self.picture(at, "a pool")?;
        let (kernel, stride, padding) = (kernel.pair(), stride.unwrap_or(kernel).pair(), padding.pair());
        sides(at, &[("kernel", kernel), ("stride", stride)])?;
        if padding[0] > kernel[0] / 2 || padding[1] > kernel[1] / 2 {
            return refuse(format!("`padding` is {padding:?}: at most half of the kernel {kernel:?} is accepted"));
        }
        let along = |axis: usize, input: usize| {
            let outputs = slide(input, kernel[axis], stride[axis], [padding[axis]; 2], 1)?;
            let rest = (input + 2 * padding[axis] - kernel[axis]) % stride[axis];
            // As PyTorch: a hanging window must begin inside the input or its left padding.
            let hangs = ceil && rest != 0 && outputs * stride[axis] < input + padding[axis];
            Some(outputs + usize::from(hangs))
        };
        let (Some(oh), Some(ow)) = (along(0, h), along(1, w)) else {
            return refuse(format!("a window of {kernel:?} does not fit into {h} x {w}"));
        };
        self.shape = vec![c, oh, ow];
        Ok(())
    }
}

fn at_least_one(at: &str, fields: &[(&str, usize)]) -> Result<(), NetworkError> {
    match fields.iter().find(|(_, value)| !(1..=1 << 20).contains(value)) {
        None => Ok(()),
        Some((field, value)) => {
            Err(NetworkError { at: at.into(), problem: format!("`{field}` is {value}: 1 to {} is accepted", 1 << 20) })
        }
    }
}

fn sides(at: &str, fields: &[(&str, [usize; 2])]) -> Result<(), NetworkError> {
    match fields.iter().find(|(_, pair)| pair.iter().any(|side| !(1..=1024).contains(side))) {
        None => Ok(()),
        Some((field, pair)) => {
            Err(NetworkError { at: at.into(), problem: format!("`{field}` is {pair:?}: 1 to 1024 is accepted") })
        }
    }
}

fn fraction(at: &str, field: &str, value: f64, accepted: std::ops::RangeInclusive<f64>) -> Result<(), NetworkError> {
    if accepted.contains(&value) {
        return Ok(());
    }
    let problem = format!("`{field}` is {value}: {} to {} is accepted", accepted.start(), accepted.end());
    Err(NetworkError { at: at.into(), problem })
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(layers: &serde_json::Value) -> Result<Vec<String>, NetworkError> {
        let network: Network = serde_json::from_value(serde_json::json!({"layers": layers})).expect("a network");
        Ok(network.parameters(&[3, 8, 8])?.into_iter().map(|parameter| parameter.name).collect())
    }

    #[test]
    fn a_name_is_the_whole_prefix_wherever_the_layer_is() {
        let conv =
            |name: &str| serde_json::json!({"type": "conv", "name": name, "filters": 3, "kernel": 1, "bias": false});
        let plain = serde_json::json!({"type": "conv", "filters": 3, "kernel": 1, "bias": false});
        let branches = serde_json::json!([[conv("features.3.expand1x1")], [plain, conv("b")]]);
        let block = serde_json::json!({"type": "parallel", "branches": branches});
        let named = serde_json::json!({"type": "residual", "name": "block", "layers": [plain]});
        assert_eq!(
            names(&serde_json::json!([conv("features.3.squeeze"), named, block])),
            Ok(["features.3.squeeze", "block.layers.0", "features.3.expand1x1", "2.branches.1.0", "b"]
                .map(|prefix| format!("{prefix}.weight"))
                .to_vec())
        );
        let twice = names(&serde_json::json!([conv("a"), {"type": "residual", "layers": [conv("a")]}]));
        assert!(twice.expect_err("refused").problem.contains("a.weight"));
    }
}
