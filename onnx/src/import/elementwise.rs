//! Two values, or a value and a constant, element by element.

use std::rc::Rc;
use std::sync::Arc;

use engine::graph::{Affine, Op, Pairwise, Value};

use super::expr::{self, Expr, Pair};
use super::{Args, Importer, Item, View, What};
use crate::error::{Problem, refuse};
use crate::fold;
use crate::tensor::Tensor;
use crate::view::{self, Axis, Dim};

impl Importer {
    pub(super) fn elementwise(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let Some(pair) = Pair::of(args.call.node.op) else { refuse!("this operator is not accepted") };
        let mut items = args.inputs.iter().flatten();
        let Some(mut result) = items.next().cloned() else { refuse!("it has no inputs") };
        for item in items {
            let view = match (result, item) {
                (Item::View(a), Item::View(b)) => self.two(pair, a, b.clone())?,
                (Item::View(a), Item::Known(b)) => self.with_constant(pair, a, b, false)?,
                (Item::Known(a), Item::View(b)) => self.with_constant(pair, b.clone(), &a, true)?,
                // All that stand before a computed value are one.
                (Item::Known(a), Item::Known(b)) => {
                    let op = if args.call.node.op == "Sum" { "Add" } else { args.call.node.op };
                    result = Item::Known(fold::binary(op, &a, b)?);
                    continue;
                }
            };
            result = Item::View(view);
        }
        match result {
            Item::View(view) => Ok(view),
            Item::Known(_) => refuse!("it has one input"),
        }
    }

    /// `view op tensor`, or with `flipped` `tensor op view`.
    pub(super) fn with_constant(
        &mut self,
        pair: Pair,
        mut view: View,
        tensor: &Tensor,
        flipped: bool,
    ) -> Result<View, Problem> {
        if tensor.shape.len() > view.axes.len() {
            if !matches!(view.what, What::Function(..) | What::Pending(_) | What::Norm(..) | What::Normal(_)) {
                self.settle(&mut view)?;
            }
            let missing = tensor.shape.len() - view.axes.len();
            view.axes.splice(0..0, vec![Vec::new(); missing]);
        }
        if let Some(view) = self.norm_constant(pair, &view, tensor, flipped)? {
            return Ok(view);
        }
        let shape = view::shape(&view.axes);
        if fold::together(&shape, &tensor.shape)? != shape {
            view = self.expanded(view, &fold::together(&shape, &tensor.shape)?)?;
        }
        if let What::Scores(scores) = &view.what {
            return scores.with_constant(&view, pair, tensor, flipped);
        }
        let of_pending = matches!(view.what, What::Pending(_)) && !(flipped && pair == Pair::Engine(Pairwise::Div));
        if let Some(number) = tensor.scalar()
            && !(of_pending
                && matches!(pair, Pair::Engine(Pairwise::Add | Pairwise::Sub | Pairwise::Mul | Pairwise::Div)))
        {
            if number.is_nan() {
                refuse!("its constant is not a number");
            }
            let (view, base, expr) = self.function(view)?;
            let (a, b) = (expr, Rc::new(Expr::Number(number)));
            let (a, b) = if flipped { (b, a) } else { (a, b) };
            let expr = expr::pair(pair, &a, &b, self.tolerance());
            return Ok(View { what: What::Function(base, expr), axes: view.axes });
        }
        let Pair::Engine(pair) = pair else { refuse!("one exponent for all elements is accepted") };
        if let Some(values) = self.by_channel(&view, tensor)? {
            let inverse = |values: &[f32]| values.iter().map(|x| 1.0 / x).collect::<Vec<_>>();
            let minus = |values: &[f32]| values.iter().map(|x| -x).collect::<Vec<_>>();
            match (pair, flipped) {
                (Pairwise::Add, _) => return self.scale_shift(view, None, Some(&values)),
                (Pairwise::Sub, false) => return self.scale_shift(view, None, Some(&minus(&values))),
                (Pairwise::Sub, true) => {
                    return self.scale_shift(view, Some(&vec![-1.0; values.len()]), Some(&values));
                }
                (Pairwise::Mul, _) => return self.scale_shift(view, Some(&values), None),
                (Pairwise::Div, false) => return self.scale_shift(view, Some(&inverse(&values)), None),
                _ => {}
            }
        }
        let value = self.settle(&mut view)?;
        let all: Vec<usize> = (0..view.axes.len()).collect();
        let values = self.along(tensor, &view.axes, &all)?;
        let [_, pixels] = self.dims(value);
        let mut constant = vec![0.0; values.len()];
        for (place, number) in view::places(&view.axes.iter().collect::<Vec<_>>(), pixels).into_iter().zip(values) {
            constant[place as usize] = number;
        }
        let shape = self.graph.shape(value).to_vec();
        let constant = self.parameter("a constant", &shape, constant)?;
        let constant = self.add(Op::Constant(constant), &[])?;
        let inputs = if flipped { [constant, value] } else { [value, constant] };
        let value = self.add(if pair == Pairwise::Add { Op::Add } else { Op::Pairwise(pair) }, &inputs)?;
        Ok(View { what: What::Value(value), axes: view.axes })
    }

    /// `scale x + shift`, numbers of the channels.
    fn scale_shift(&mut self, mut view: View, scale: Option<&[f32]>, shift: Option<&[f32]>) -> Result<View, Problem> {
        if let What::Pending(pending) = &view.what {
            self.budget.take(if scale.is_some() { pending.weight.len() } else { 0 }, size_of::<f32>())?;
            let what = What::Pending(Rc::new(pending.changed(scale, shift)));
            return Ok(View { what, axes: view.axes });
        }
        let value = self.settle(&mut view)?;
        let value = self.scaled(value, scale, shift)?;
        Ok(View { what: What::Value(value), axes: view.axes })
    }

    /// The same of a value: a batch norm that has seen a standard distribution.
    pub(super) fn scaled(
        &mut self,
        value: Value,
        scale: Option<&[f32]>,
        shift: Option<&[f32]>,
    ) -> Result<Value, Problem> {
        let [channels, _] = self.dims(value);
        let all = |number: f32| vec![number; channels];
        let weight = self.parameter("a scale", &[channels], scale.map_or_else(|| all(1.0), <[f32]>::to_vec))?;
        let bias = self.parameter("a shift", &[channels], shift.map_or_else(|| all(0.0), <[f32]>::to_vec))?;
        let mean = self.parameter("no mean", &[channels], all(0.0))?;
        let variance = self.parameter("no variance", &[channels], all(1.0))?;
        let affine = Affine { weight, bias };
        self.add(Op::BatchNorm { momentum: 0.1, epsilon: 0.0, affine, mean, variance }, &[value])
    }

    pub(super) fn two(&mut self, pair: Pair, mut a: View, mut b: View) -> Result<View, Problem> {
        if let Some(view) = self.norm_two(pair, &a, &b)? {
            return Ok(view);
        }
        if matches!(pair, Pair::Engine(Pairwise::Add | Pairwise::Mul))
            && let Some(view) = self.norm_two(pair, &b, &a)?
        {
            return Ok(view);
        }
        let base = |view: &View| match &view.what {
            What::Value(value) => Some((*value, Rc::new(Expr::X))),
            What::Function(value, expr) => Some((*value, expr.clone())),
            _ => None,
        };
        if let (Some((x, _)), Some((y, _))) = (base(&a), base(&b))
            && x == y
            && a.axes == b.axes
        {
            let (one, x, of_one) = self.function(a)?;
            let (other, y, of_other) = self.function(b)?;
            if x == y {
                let expr = expr::pair(pair, &of_one, &of_other, self.tolerance());
                return Ok(View { what: What::Function(x, expr), axes: one.axes });
            }
            // One of the expressions became too large and was computed.
            (a, b) = (one, other);
        }
        let Pair::Engine(pair) = pair else { refuse!("a power with a computed exponent is not accepted") };
        self.settle(&mut a)?;
        self.settle(&mut b)?;
        self.pairwise(pair, a, b)
    }

    fn pairwise(&mut self, pair: Pairwise, mut a: View, mut b: View) -> Result<View, Problem> {
        let rank = a.axes.len().max(b.axes.len());
        for view in [&mut a, &mut b] {
            let missing = rank - view.axes.len();
            view.axes.splice(0..0, vec![Vec::new(); missing]);
        }
        let (x, y) = (self.settle(&mut a)?, self.settle(&mut b)?);
        let op = if pair == Pairwise::Add { Op::Add } else { Op::Pairwise(pair) };
        if a.axes == b.axes && self.graph.shape(x) == self.graph.shape(y) {
            let value = self.add(op, &[x, y])?;
            return Ok(View { what: What::Value(value), axes: a.axes });
        }
        for (one, all, axes) in [(y, x, [&b.axes, &a.axes]), (x, y, [&a.axes, &b.axes])] {
            let ([channels, pixels], [all_channels, _]) = (self.dims(one), self.dims(all));
            let fits = axes[0].iter().zip(axes[1]).all(|(one, all)| {
                let atoms = one.iter().filter(|atom| atom.dim != Dim::Example);
                atoms.clone().count() == 0 || atoms.eq(all.iter().filter(|atom| atom.dim == Dim::Channel))
            });
            if pixels == 1 && channels == all_channels && fits {
                let value = self.add(Op::Pairwise(pair), &[x, y])?;
                return Ok(View { what: What::Value(value), axes: axes[1].clone() });
            }
        }
        let (a_shape, b_shape) = (view::shape(&a.axes), view::shape(&b.axes));
        let shape = fold::together(&a_shape, &b_shape)?;
        let (x, y, axes) = if shape == a_shape {
            (x, self.like(x, &a.axes, y, &b.axes)?, a.axes)
        } else if shape == b_shape {
            (self.like(y, &b.axes, x, &a.axes)?, y, b.axes)
        } else {
            refuse!(
                "{a_shape:?} and {b_shape:?} are both repeated: one of them has the result's shape in what is accepted"
            )
        };
        let value = self.add(op, &[x, y])?;
        Ok(View { what: What::Value(value), axes })
    }

    /// A copy of `value`, repeated where it has to be, that lies like `other`.
    fn like(&mut self, other: Value, other_axes: &[Axis], value: Value, axes: &[Axis]) -> Result<Value, Problem> {
        let ([channels, other_pixels], [_, pixels]) = (self.dims(other), self.dims(value));
        crate::tensor::count(&[channels, other_pixels])?;
        let (mut to, mut from) = (vec![0_u32], vec![0_u32]);
        for (other, own) in other_axes.iter().zip(axes) {
            let (targets, mut sources) = (view::places(&[other], other_pixels), view::places(&[own], pixels));
            if sources.len() == 1 {
                sources = vec![sources[0]; targets.len()];
            }
            if sources.len() != targets.len() {
                refuse!("the batch stands in another dimension of its other input");
            }
            to = to.iter().flat_map(|place| targets.iter().map(move |at| place + at)).collect();
            from = from.iter().flat_map(|place| sources.iter().map(move |at| place + at)).collect();
        }
        let mut table = vec![0; to.len()];
        to.into_iter().zip(from).for_each(|(to, from)| table[to as usize] = from);
        let shape = self.graph.shape(other).to_vec();
        self.add(Op::Rearrange { from: Arc::from(table), shape, fill: 0.0 }, &[value])
    }

    /// A value repeated along dimensions of one.
    pub(super) fn expanded(&mut self, view: View, shape: &[usize]) -> Result<View, Problem> {
        let mut view = view;
        self.settle(&mut view)?;
        let missing = shape.len() - view.axes.len().min(shape.len());
        view.axes.splice(0..0, vec![Vec::new(); missing]);
        let own = view::shape(&view.axes);
        crate::tensor::count(shape)?;
        let picks: Vec<Option<Vec<usize>>> =
            own.iter().zip(shape).map(|(own, size)| (own != size).then(|| vec![0; *size])).collect();
        if own.iter().zip(shape).any(|(own, size)| own != size && *own != 1) {
            refuse!("{own:?} cannot be repeated to {shape:?}");
        }
        self.selected(view, &picks)
    }
}
