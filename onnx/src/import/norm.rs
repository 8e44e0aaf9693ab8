//! Norms: ONNX's own, and layer norms that are written in parts (Ba et al. 2016), as exporters did before version 17.

use std::rc::Rc;

use engine::graph::{Affine, Op, Pairwise, Value};

use super::expr::Pair;
use super::{Args, Importer, View, What};
use crate::call;
use crate::error::{Problem, refuse};
use crate::tensor::Tensor;
use crate::view;

/// A part of `(x - mean) / sqrt(variance + epsilon) * weight + bias`, along the channels of each pixel.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Mean(Value),
    /// `x - mean`.
    Centred(Value),
    /// Its square.
    Squared(Value),
    /// The mean of that, with what is added to it.
    Variance(Value, f64),
    /// Its root.
    Deviation(Value, f64),
    /// One divided by that.
    Inverse(Value, f64),
    /// `-mean`.
    Minus(Value),
    /// One divided by the deviation, times a weight: Keras writes `x inverse + (bias - mean inverse)`.
    Weighted(Rc<Weighted>),
    /// `x` times that, or with `mean` minus the mean times that and something more.
    Half {
        of: Rc<Weighted>,
        mean: bool,
        bias: Option<Tensor>,
    },
    Normal(Rc<Normal>),
}

/// The reciprocal of a deviation times a weight.
#[derive(Debug, PartialEq)]
pub(super) struct Weighted {
    value: Value,
    epsilon: f64,
    weight: Tensor,
}

/// A layer norm whose weight and bias may still change.
#[derive(Debug, Clone)]
pub(super) struct Normal {
    value: Value,
    epsilon: f64,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Importer {
    /// Computes what is known to be a whole norm.
    pub(super) fn normal(&mut self, part: &Part) -> Result<Value, Problem> {
        let Part::Normal(normal) = part else {
            refuse!("means and variances over the channels are accepted as parts of a layer norm alone")
        };
        let channels = [normal.weight.len()];
        let weight = self.parameter("a norm's weight", &channels, normal.weight.as_slice());
        let bias = self.parameter("a norm's bias", &channels, normal.bias.as_slice());
        self.add(Op::ChannelNorm { epsilon: normal.epsilon, affine: Affine { weight, bias } }, &[normal.value])
    }

    fn norm_of(&self, value: Value, epsilon: f64) -> Part {
        let [channels, _] = self.dims(value);
        Part::Normal(Rc::new(Normal { value, epsilon, weight: vec![1.0; channels], bias: vec![0.0; channels] }))
    }

    pub(super) fn norm_unary(&mut self, op: &str, view: &View) -> Option<View> {
        let What::Norm(part) = &view.what else { return None };
        let part = match (op, part) {
            ("Sqrt", Part::Variance(value, epsilon)) => Part::Deviation(*value, *epsilon),
            ("Reciprocal", Part::Deviation(value, epsilon)) => Part::Inverse(*value, *epsilon),
            ("Neg", Part::Mean(value)) => Part::Minus(*value),
            _ => return None,
        };
        Some(View { what: What::Norm(part), axes: view.axes.clone() })
    }

    pub(super) fn norm_constant(
        &mut self,
        pair: Pair,
        view: &View,
        tensor: &Tensor,
        flipped: bool,
    ) -> Result<Option<View>, Problem> {
        let What::Norm(part) = &view.what else { return Ok(None) };
        let part = match (part, pair, tensor.scalar()) {
            (Part::Centred(value), Pair::Pow, Some(2.0)) if !flipped => Part::Squared(*value),
            (Part::Variance(value, 0.0), Pair::Engine(Pairwise::Add), Some(epsilon)) => Part::Variance(*value, epsilon),
            (Part::Variance(value, epsilon), Pair::Pow, Some(0.5)) if !flipped => Part::Deviation(*value, *epsilon),
            (Part::Variance(value, epsilon), Pair::Pow, Some(-0.5)) if !flipped => Part::Inverse(*value, *epsilon),
            (Part::Deviation(value, epsilon), Pair::Engine(Pairwise::Div), Some(1.0)) if flipped => {
                Part::Inverse(*value, *epsilon)
            }
            (Part::Inverse(value, epsilon), Pair::Engine(Pairwise::Mul), _) => {
                let (value, epsilon) = (*value, *epsilon);
                Part::Weighted(Rc::new(Weighted { value, epsilon, weight: tensor.clone() }))
            }
            (Part::Half { of, mean: true, bias: None }, Pair::Engine(Pairwise::Add), _) => {
                Part::Half { of: of.clone(), mean: true, bias: Some(tensor.clone()) }
            }
            (Part::Normal(normal), Pair::Engine(pair @ (Pairwise::Mul | Pairwise::Add)), _) => {
                let of = View { what: What::Value(normal.value), axes: view.axes.clone() };
                let Some(values) = self.by_channel(&of, tensor)? else { return Ok(None) };
                let mut normal = (**normal).clone();
                if pair == Pairwise::Mul {
                    normal.weight.iter_mut().zip(&values).for_each(|(weight, by)| *weight *= by);
                    normal.bias.iter_mut().zip(&values).for_each(|(bias, by)| *bias *= by);
                } else {
                    normal.bias.iter_mut().zip(&values).for_each(|(bias, more)| *bias += more);
                }
                Part::Normal(Rc::new(normal))
            }
            _ => return Ok(None),
        };
        Ok(Some(View { what: What::Norm(part), axes: view.axes.clone() }))
    }

    /// A norm's part that two others make.
    pub(super) fn norm_two(&mut self, pair: Pair, a: &View, b: &View) -> Result<Option<View>, Problem> {
        let Pair::Engine(pair) = pair else { return Ok(None) };
        if let (
            What::Norm(Part::Half { of, mean: false, .. }),
            Pairwise::Add,
            What::Norm(Part::Half { of: other, mean: true, bias }),
        ) = (&a.what, pair, &b.what)
            && of == other
        {
            let view = View { what: What::Value(of.value), axes: a.axes.clone() };
            let channels = self.dims(of.value)[0];
            let bias = bias.as_ref().map_or(Ok(Some(vec![0.0; channels])), |bias| self.by_channel(&view, bias))?;
            let (Some(weight), Some(bias)) = (self.by_channel(&view, &of.weight)?, bias) else {
                refuse!("a norm's weight or bias does not fit its input")
            };
            let normal = Normal { value: of.value, epsilon: of.epsilon, weight, bias };
            return Ok(Some(View { what: What::Norm(Part::Normal(Rc::new(normal))), axes: view.axes }));
        }
        let part = match (&a.what, pair, &b.what) {
            (What::Value(x), Pairwise::Sub, What::Norm(Part::Mean(of))) if x == of => Part::Centred(*x),
            (What::Norm(Part::Centred(x)), Pairwise::Mul, What::Norm(Part::Centred(y))) if x == y => Part::Squared(*x),
            (What::Norm(Part::Centred(x)), Pairwise::Div, What::Norm(Part::Deviation(y, epsilon)))
            | (What::Norm(Part::Centred(x)), Pairwise::Mul, What::Norm(Part::Inverse(y, epsilon)))
                if x == y =>
            {
                self.norm_of(*x, *epsilon)
            }
            (What::Value(x), Pairwise::Mul, What::Norm(Part::Weighted(of))) if *x == of.value => {
                Part::Half { of: of.clone(), mean: false, bias: None }
            }
            (What::Norm(Part::Minus(x)), Pairwise::Mul, What::Norm(Part::Weighted(of))) if *x == of.value => {
                Part::Half { of: of.clone(), mean: true, bias: None }
            }
            _ => return Ok(None),
        };
        Ok(Some(View { what: What::Norm(part), axes: a.axes.clone() }))
    }

    pub(super) fn batch_norm(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let view = args.view(0)?;
        if args.call.int("training_mode", 0)? != 0 {
            refuse!("it is exported for training: export with `model.eval()`");
        }
        let others: Vec<usize> = (0..view.axes.len()).filter(|at| *at != 1).collect();
        if view.axes.len() < 2 {
            refuse!("its input has one dimension");
        }
        let size = match view.axes.as_slice() {
            [_, _, rows, columns] => Some([view::inner(rows), view::inner(columns)]),
            _ => None,
        };
        let size = size.filter(|size| *size != [1, 1]);
        let (value, axes) = self.arrange(&view, &[1], &others, size)?;
        let [channels, _] = self.dims(value);
        let mut own = Vec::new();
        for index in 1..5 {
            let tensor = args.constant(index)?;
            if tensor.len() != channels {
                refuse!("its input {index} has {} numbers for {channels} channels", tensor.len());
            }
            let name = args.call.node.inputs[index];
            own.push(self.parameter(name, &[channels], tensor.to_floats()));
        }
        let affine = Affine { weight: own[0], bias: own[1] };
        let (epsilon, momentum) = (args.call.float("epsilon", 1e-5)?, 1.0 - args.call.float("momentum", 0.9)?);
        let op = Op::BatchNorm { momentum, epsilon, affine, mean: own[2], variance: own[3] };
        Ok(View { what: What::Value(self.add(op, &[value])?), axes })
    }

    pub(super) fn layer_norm(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let view = args.view(0)?;
        if args.call.node.outputs.iter().skip(1).any(|output| !output.is_empty()) {
            refuse!("its mean and deviation are not accepted as outputs");
        }
        let rank = view.axes.len();
        let first = call::axis(args.call.int("axis", -1)?, rank)?;
        let (channels, pixels): (Vec<usize>, Vec<usize>) = ((first..rank).collect(), (0..first).collect());
        let (value, axes) = self.arrange(&view, &channels, &pixels, None)?;
        let of = View { what: What::Value(value), axes: axes.clone() };
        let numbers = |tensor: Option<&Tensor>, default: f32| match tensor {
            Some(tensor) if tensor.shape.len() <= rank => self.by_channel(&of, tensor),
            Some(_) => Ok(None),
            None => Ok(Some(vec![default; self.dims(value)[0]])),
        };
        let (Some(weight), Some(bias)) = (numbers(args.known(1)?, 1.0)?, numbers(args.known(2)?, 0.0)?) else {
            refuse!("its weight or bias does not fit its input")
        };
        let epsilon = args.call.float("epsilon", 1e-5)?;
        let normal = Part::Normal(Rc::new(Normal { value, epsilon, weight, bias }));
        Ok(View { what: What::Norm(normal), axes })
    }

    pub(super) fn group_norm(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let view = args.view(0)?;
        let rank = view.axes.len();
        if rank < 3 {
            refuse!("its input has {rank} dimensions: [N, C, H, W] is accepted");
        }
        let others: Vec<usize> = (2..rank).collect();
        let (value, axes) = self.arrange(&view, &[1], &others, None)?;
        let [channels, _] = self.dims(value);
        let groups = match args.call.node.op {
            "GroupNormalization" => usize::try_from(args.call.int("num_groups", 0)?).unwrap_or(0),
            _ => channels,
        };
        if groups == 0 || !channels.is_multiple_of(groups) {
            refuse!("{groups} groups do not divide {channels} channels");
        }
        let mut own = Vec::new();
        for index in [1, 2] {
            let tensor = args.constant(index)?;
            // Up to version 20 there is a number a group.
            let repeat = channels / tensor.len().max(1);
            if tensor.len() * repeat != channels {
                refuse!("its input {index} has {} numbers for {channels} channels", tensor.len());
            }
            let values: Vec<f32> = tensor.to_floats().iter().flat_map(|x| vec![*x; repeat]).collect();
            own.push(self.parameter(args.call.node.inputs[index], &[channels], values));
        }
        let affine = Affine { weight: own[0], bias: own[1] };
        let op = Op::RowNorm { groups, epsilon: args.call.float("epsilon", 1e-5)?, affine };
        Ok(View { what: What::Value(self.add(op, &[value])?), axes })
    }
}
