//! The shape of every operation's output, and whether it fits its inputs and parameters.

use super::{Graph, Op, ParameterId, Unfit, Value};
use crate::window::Window;

impl Graph {
    pub(super) fn infer(&self, op: &Op, inputs: &[Value]) -> Result<Vec<usize>, Unfit> {
        let unfit = |problem: String| Err(Unfit(problem));
        let one = || match inputs {
            [input] => Ok(self.shape(*input)),
            _ => Err(Unfit(format!("it has {} inputs instead of one", inputs.len()))),
        };
        let maps = || {
            let shape = one()?;
            <[usize; 3]>::try_from(shape)
                .map_err(|_| Unfit(format!("its input is {shape:?}: [channels, height, width] is needed")))
        };
        let owns = |parameter: ParameterId, shape: &[usize]| {
            let found = self.parameter_shape(parameter);
            let name = &self.parameters[parameter.0].name;
            if found == shape { Ok(()) } else { Err(Unfit(format!("`{name}` is {found:?}: {shape:?} is needed"))) }
        };
        let pooled = |window: &Window| {
            let [channels, height, width] = maps()?;
            reaches([height, width], window)?;
            Ok(vec![channels, window.output[0], window.output[1]])
        };
        match op {
            Op::Input => unfit("a graph has one input".into()),
            Op::Conv { window, groups, weight, bias } => {
                let [channels, height, width] = maps()?;
                let filters = self.parameter_shape(*weight).first().copied().unwrap_or(0);
                if *groups == 0 || !channels.is_multiple_of(*groups) || filters == 0 || !filters.is_multiple_of(*groups)
                {
                    return unfit(format!("{groups} groups do not divide {channels} channels and {filters} filters"));
                }
                owns(*weight, &[filters, channels / groups, window.kernel[0], window.kernel[1]])?;
                bias.map_or(Ok(()), |bias| owns(bias, &[filters]))?;
                // A window that lies in the padding alone gives the bias.
                slides([height, width], window)?;
                Ok(vec![filters, window.output[0], window.output[1]])
            }
            Op::Linear { weight, bias } => {
                let shape = one()?;
                let [inputs] = shape else { return unfit(format!("its input is {shape:?}: a flat one is needed")) };
                let units = self.parameter_shape(*weight).first().copied().unwrap_or(0);
                owns(*weight, &[units, *inputs])?;
                bias.map_or(Ok(()), |bias| owns(bias, &[units]))?;
                Ok(vec![units])
            }
            Op::BatchNorm { affine, mean, variance, .. } => {
                let shape = one()?;
                for parameter in [affine.weight, affine.bias, *mean, *variance] {
                    owns(parameter, &shape[..1])?;
                }
                Ok(shape.to_vec())
            }
            Op::RowNorm { groups, affine, .. } => {
                let shape = one()?;
                if *groups == 0 || !shape[0].is_multiple_of(*groups) {
                    return unfit(format!("{groups} groups do not divide {} channels", shape[0]));
                }
                let weight = self.parameter_shape(affine.weight);
                owns(affine.bias, weight)?;
                if weight != &shape[..1] && (weight != shape || *groups > 1) {
                    return unfit(format!(
                        "its weight is {weight:?}: {:?} is needed, or with one group {shape:?}",
                        &shape[..1]
                    ));
                }
                Ok(shape.to_vec())
            }
            Op::Activation(_) | Op::Dropout { .. } => Ok(one()?.to_vec()),
            Op::MaxPool(window) | Op::AvgPool { window, .. } => pooled(window),
            Op::GlobalAvgPool => Ok(vec![maps()?[0]]),
            Op::Flatten => Ok(vec![one()?.iter().product()]),
            Op::Add => match inputs {
                [a, b] if self.shape(*a) == self.shape(*b) => Ok(self.shape(*a).to_vec()),
                [a, b] => unfit(format!("{:?} and {:?} cannot be added", self.shape(*a), self.shape(*b))),
                _ => unfit(format!("it has {} inputs instead of two", inputs.len())),
            },
            Op::Concat => {
                let Some(first) = inputs.first() else { return unfit("it has no inputs".into()) };
                let mut shape = self.shape(*first).to_vec();
                for input in &inputs[1..] {
                    let other = self.shape(*input);
                    if other.len() != shape.len() || other[1..] != shape[1..] {
                        return unfit(format!("{other:?} does not fit beside {shape:?}"));
                    }
                    shape[0] += other[0];
                }
                Ok(shape)
            }
            Op::Constant(parameter) => match self.parameter_shape(*parameter) {
                shape @ ([_] | [_, _, _]) => Ok(shape.to_vec()),
                shape => unfit(format!("a constant is {shape:?}: [N] or [channels, height, width] is needed")),
            },
            Op::Pairwise(_) => {
                let [a, b] = inputs else { return unfit(format!("it has {} inputs instead of two", inputs.len())) };
                let (a, b) = (self.shape(*a), self.shape(*b));
                let fits = |one: &[usize], all: &[usize]| one[0] == all[0] && one[1..].iter().all(|size| *size == 1);
                match (a, b) {
                    _ if a == b || fits(b, a) => Ok(a.to_vec()),
                    _ if fits(a, b) => Ok(b.to_vec()),
                    _ => unfit(format!("{b:?} does not fit {a:?}")),
                }
            }
            Op::Function(_) | Op::Softmax => Ok(one()?.to_vec()),
            Op::ChannelNorm { affine, .. } => {
                let shape = one()?;
                owns(affine.weight, &shape[..1])?;
                owns(affine.bias, &shape[..1])?;
                Ok(shape.to_vec())
            }
            Op::Attention { heads, .. } => self.attention(*heads, inputs),
            Op::Channels { first, count } => {
                let mut shape = one()?.to_vec();
                if *count == 0 || first.checked_add(*count).is_none_or(|end| end > shape[0]) {
                    return unfit(format!("{count} channels from {first} are not in {shape:?}"));
                }
                shape[0] = *count;
                Ok(shape)
            }
            Op::Append => {
                let channels = inputs.first().map_or(0, |first| self.shape(*first)[0]);
                let mut pixels = 0;
                for shape in inputs.iter().map(|input| self.shape(*input)) {
                    if shape[0] != channels {
                        return unfit(format!("{shape:?} does not fit behind {channels} channels"));
                    }
                    pixels += shape[1..].iter().product::<usize>();
                }
                if pixels == 0 { unfit("it has no inputs".into()) } else { Ok(vec![channels, 1, pixels]) }
            }
            Op::Rearrange { from, shape, .. } => {
                one()?;
                let fits = matches!(shape.len(), 1 | 3) && shape.iter().product::<usize>() == from.len();
                if fits && !from.is_empty() {
                    Ok(shape.clone())
                } else {
                    unfit(format!("{} places are not {shape:?}", from.len()))
                }
            }
        }
    }

    fn attention(&self, heads: usize, inputs: &[Value]) -> Result<Vec<usize>, Unfit> {
        let [q, k, v] = inputs else {
            return Err(Unfit(format!("it has {} inputs instead of queries, keys and values", inputs.len())));
        };
        let (q, k, v) = (self.shape(*q), self.shape(*k), self.shape(*v));
        let divides = |shape: &[usize]| heads > 0 && shape[0].is_multiple_of(heads);
        if q[0] == k[0] && k[1..] == v[1..] && divides(q) && divides(v) {
            return Ok([&v[..1], &q[1..]].concat());
        }
        Err(Unfit(format!("queries {q:?}, keys {k:?} and values {v:?} do not fit together in {heads} heads")))
    }
}

/// Checks that a window has outputs, taps and steps.
fn slides(size: [usize; 2], window: &Window) -> Result<(), Unfit> {
    let all = [size, window.kernel, window.stride, window.dilation, window.output];
    if all.iter().flatten().all(|number| *number > 0) {
        return Ok(());
    }
    Err(Unfit(format!("{window:?} does not fit {size:?}")))
}

/// Checks that every output of a window meets its input.
fn reaches(size: [usize; 2], window: &Window) -> Result<(), Unfit> {
    slides(size, window)?;
    let meets = |axis: usize| (window.output[axis] - 1) * window.stride[axis] < size[axis] + window.before[axis];
    if meets(0) && meets(1) {
        return Ok(());
    }
    Err(Unfit(format!("{window:?} does not fit {size:?}")))
}
