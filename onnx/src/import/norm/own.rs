//! ONNX's own norms.

use std::rc::Rc;

use engine::graph::{Affine, Op};

use super::Normal;
use crate::call;
use crate::error::{Problem, refuse};
use crate::import::{Args, Importer, View, What};
use crate::tensor::Tensor;
use crate::view;

impl Importer {
    pub(crate) fn batch_norm(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let view = args.view(0)?;
        if args.call.flag("training_mode", false)? {
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
            own.push(self.parameter(name, &[channels], tensor.to_floats())?);
        }
        let affine = Affine { weight: own[0], bias: own[1] };
        let (epsilon, momentum) = (args.call.float("epsilon", 1e-5)?, 1.0 - args.call.float("momentum", 0.9)?);
        let op = Op::BatchNorm { momentum, epsilon, affine, mean: own[2], variance: own[3] };
        Ok(View { what: What::Value(self.add(op, &[value])?), axes })
    }

    pub(crate) fn layer_norm(&mut self, args: &Args<'_>) -> Result<View, Problem> {
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
        let normal = Rc::new(Normal { value, epsilon, weight, bias });
        Ok(View { what: What::Normal(normal), axes })
    }

    pub(crate) fn group_norm(&mut self, args: &Args<'_>) -> Result<View, Problem> {
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
            own.push(self.parameter(args.call.node.inputs[index], &[channels], values)?);
        }
        let affine = Affine { weight: own[0], bias: own[1] };
        let op = Op::RowNorm { groups, epsilon: args.call.float("epsilon", 1e-5)?, affine };
        Ok(View { what: What::Value(self.add(op, &[value])?), axes })
    }
}
