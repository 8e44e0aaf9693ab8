//! Layer norms that are written in parts (Ba et al. 2016), as exporters did before version 17, and in [`own`] ONNX's own.

mod own;

use std::rc::Rc;

use engine::graph::{Affine, Op, Pairwise, Value};

use super::expr::Pair;
use super::{Importer, View, What};
use crate::error::Problem;
use crate::fold;
use crate::tensor::Tensor;
use crate::view::{self, Axis, Dim};

/// A part of `(x - mean) / sqrt(variance + epsilon) * weight + bias`, along the channels of each pixel of a value. A view's axes
/// tell how it stands beside others: where they do not fit, it is no part of a norm.
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
}

/// How a part is computed after all, where no norm comes of it.
#[derive(Debug)]
pub(super) enum Recipe {
    Mean { of: View, along: Vec<usize>, keep: bool },
    Unary(String, View),
    Constant { pair: Pair, of: View, tensor: Tensor, flipped: bool },
    Two(Pair, View, View),
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

/// The axes of a value beside which a number a pixel stands with its own, if the two fit.
fn beside(axes: &[Axis], own: &[Axis]) -> Option<Vec<Axis>> {
    let rank = axes.len().max(own.len());
    let padded = |axes: &[Axis]| [vec![Axis::new(); rank - axes.len()], axes.to_vec()].concat();
    let (axes, own) = (padded(axes), padded(own));
    let fits = |(axis, own): (&Axis, &Axis)| match axis.iter().any(|atom| atom.dim == Dim::Channel) {
        true => own.is_empty() && axis.iter().all(|atom| atom.dim == Dim::Channel),
        false => own == axis,
    };
    axes.iter().zip(&own).all(fits).then_some(axes)
}

impl Importer {
    /// Computes a whole norm.
    pub(super) fn normal(&mut self, normal: &Normal) -> Result<Value, Problem> {
        let channels = [normal.weight.len()];
        let weight = self.parameter("a norm's weight", &channels, normal.weight.as_slice())?;
        let bias = self.parameter("a norm's bias", &channels, normal.bias.as_slice())?;
        self.add(Op::ChannelNorm { epsilon: normal.epsilon, affine: Affine { weight, bias } }, &[normal.value])
    }

    /// Computes a part of one.
    pub(super) fn part(&mut self, recipe: &Recipe) -> Result<View, Problem> {
        let mut view = match recipe {
            Recipe::Mean { of, along, keep } => self.reduced("ReduceMean", of.clone(), along, *keep)?,
            Recipe::Unary(op, of) => {
                let mut of = of.clone();
                self.settle(&mut of)?;
                self.unary_of(op, of)?
            }
            Recipe::Constant { pair, of, tensor, flipped } => {
                let mut of = of.clone();
                self.settle(&mut of)?;
                self.with_constant(*pair, of, tensor, *flipped)?
            }
            Recipe::Two(pair, a, b) => {
                let (mut a, mut b) = (a.clone(), b.clone());
                self.settle(&mut a)?;
                self.settle(&mut b)?;
                self.two(*pair, a, b)?
            }
        };
        self.settle(&mut view)?;
        Ok(view)
    }

    fn norm_of(&self, value: Value, epsilon: f64) -> What {
        let [channels, _] = self.dims(value);
        What::Normal(Rc::new(Normal { value, epsilon, weight: vec![1.0; channels], bias: vec![0.0; channels] }))
    }

    pub(super) fn norm_unary(&mut self, op: &str, view: &View) -> Option<View> {
        let What::Norm(part, _) = &view.what else { return None };
        let part = match (op, part) {
            ("Sqrt", Part::Variance(value, epsilon)) => Part::Deviation(*value, *epsilon),
            ("Reciprocal", Part::Deviation(value, epsilon)) => Part::Inverse(*value, *epsilon),
            ("Neg", Part::Mean(value)) => Part::Minus(*value),
            _ => return None,
        };
        let recipe = Rc::new(Recipe::Unary(op.into(), view.clone()));
        Some(View { what: What::Norm(part, recipe), axes: view.axes.clone() })
    }

    pub(super) fn norm_constant(
        &mut self,
        pair: Pair,
        view: &View,
        tensor: &Tensor,
        flipped: bool,
    ) -> Result<Option<View>, Problem> {
        if let What::Normal(normal) = &view.what {
            return self.with_affine(pair, normal, view, tensor);
        }
        let What::Norm(part, _) = &view.what else { return Ok(None) };
        let positive = tensor.scalar().filter(|number| *number > 0.0 && number.is_finite());
        let part = match (part, pair, positive) {
            (Part::Centred(value), Pair::Pow, Some(2.0)) if !flipped => Part::Squared(*value),
            (Part::Variance(value, 0.0), Pair::Engine(Pairwise::Add), Some(epsilon)) => Part::Variance(*value, epsilon),
            (Part::Variance(value, epsilon), Pair::Pow, Some(0.5)) if !flipped => Part::Deviation(*value, *epsilon),
            (Part::Variance(value, epsilon), Pair::Pow, _) if !flipped && tensor.scalar() == Some(-0.5) => {
                Part::Inverse(*value, *epsilon)
            }
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
            _ => return Ok(None),
        };
        let recipe = Recipe::Constant { pair, of: view.clone(), tensor: tensor.clone(), flipped };
        Ok(Some(View { what: What::Norm(part, Rc::new(recipe)), axes: view.axes.clone() }))
    }

    /// A norm times a constant, or with one added.
    fn with_affine(
        &mut self,
        pair: Pair,
        normal: &Normal,
        view: &View,
        tensor: &Tensor,
    ) -> Result<Option<View>, Problem> {
        let shape = view::shape(&view.axes);
        let of = View { what: What::Value(normal.value), axes: view.axes.clone() };
        if !matches!(pair, Pair::Engine(Pairwise::Mul | Pairwise::Add))
            || fold::together(&shape, &tensor.shape)? != shape
        {
            return Ok(None);
        }
        let Some(values) = self.by_channel(&of, tensor)? else { return Ok(None) };
        let mut normal = normal.clone();
        if pair == Pair::Engine(Pairwise::Mul) {
            normal.weight.iter_mut().zip(&values).for_each(|(weight, by)| *weight *= by);
            normal.bias.iter_mut().zip(&values).for_each(|(bias, by)| *bias *= by);
        } else {
            normal.bias.iter_mut().zip(&values).for_each(|(bias, more)| *bias += more);
        }
        Ok(Some(View { what: What::Normal(Rc::new(normal)), axes: of.axes }))
    }

    /// A norm, or a part of one, that two parts make.
    pub(super) fn norm_two(&mut self, pair: Pair, a: &View, b: &View) -> Result<Option<View>, Problem> {
        let Pair::Engine(engine) = pair else { return Ok(None) };
        let x = match &a.what {
            What::Value(x) | What::Norm(Part::Centred(x) | Part::Minus(x), _) => *x,
            What::Norm(Part::Half { of, .. }, _) => of.value,
            _ => return Ok(None),
        };
        let What::Norm(other, _) = &b.what else { return Ok(None) };
        let spread = beside(&a.axes, &b.axes);
        let (what, axes) = match (&a.what, engine, other, spread) {
            (What::Value(_), Pairwise::Sub, Part::Mean(of), Some(axes)) if x == *of => (Part::Centred(x), axes),
            (What::Norm(Part::Centred(_), _), Pairwise::Mul, Part::Centred(of), _) if x == *of && a.axes == b.axes => {
                (Part::Squared(x), a.axes.clone())
            }
            (What::Norm(Part::Centred(_), _), Pairwise::Div, Part::Deviation(of, epsilon), Some(axes))
            | (What::Norm(Part::Centred(_), _), Pairwise::Mul, Part::Inverse(of, epsilon), Some(axes))
                if x == *of =>
            {
                return Ok(Some(View { what: self.norm_of(x, *epsilon), axes }));
            }
            (What::Value(_), Pairwise::Mul, Part::Weighted(of), Some(axes)) if x == of.value => {
                (Part::Half { of: of.clone(), mean: false, bias: None }, axes)
            }
            (What::Norm(Part::Minus(_), _), Pairwise::Mul, Part::Weighted(of), _)
                if x == of.value && a.axes == b.axes =>
            {
                (Part::Half { of: of.clone(), mean: true, bias: None }, a.axes.clone())
            }
            (
                What::Norm(Part::Half { of, mean: false, .. }, _),
                Pairwise::Add,
                Part::Half { of: other, mean: true, bias },
                Some(axes),
            ) if of == other => {
                let view = View { what: What::Value(x), axes };
                let shape = view::shape(&view.axes);
                let none = Tensor::floats(&[], vec![0.0]);
                let bias = bias.as_ref().unwrap_or(&none);
                for tensor in [&of.weight, bias] {
                    if fold::together(&shape, &tensor.shape)? != shape {
                        return Ok(None);
                    }
                }
                let (weight, bias) = (self.by_channel(&view, &of.weight)?, self.by_channel(&view, bias)?);
                let (Some(weight), Some(bias)) = (weight, bias) else { return Ok(None) };
                let normal = Normal { value: x, epsilon: of.epsilon, weight, bias };
                return Ok(Some(View { what: What::Normal(Rc::new(normal)), axes: view.axes }));
            }
            _ => return Ok(None),
        };
        let recipe = Rc::new(Recipe::Two(pair, a.clone(), b.clone()));
        Ok(Some(View { what: What::Norm(what, recipe), axes }))
    }
}
