//! Means, sums and maxima along axes.

use std::rc::Rc;

use engine::Window;
use engine::graph::{Op, Pairwise};

use super::expr::Pair;
use super::norm::{Part, Recipe};
use super::{Args, Importer, View, What};
use crate::call;
use crate::error::{Problem, refuse};
use crate::view::{self, Axis, Dim};

/// Axes without those that are summed over, or with dimensions of one in their place.
fn without(axes: &[Axis], along: &[usize], keep: bool) -> Vec<Axis> {
    let one = |at: usize| match along.contains(&at) {
        true if keep => Some(Axis::new()),
        true => None,
        false => Some(axes[at].clone()),
    };
    (0..axes.len()).filter_map(one).collect()
}

impl Importer {
    pub(super) fn reduce(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let op = args.call.node.op;
        let mut view = args.view(0)?;
        let rank = view.axes.len();
        let global = op.starts_with("Global");
        let along: Vec<usize> = if global {
            (2..rank).collect()
        } else {
            let given = args.numbers("axes", 1)?;
            if given.as_ref().is_none_or(Vec::is_empty) && args.call.flag("noop_with_empty_axes", false)? {
                return Ok(view);
            }
            call::axes(given, rank)?
        };
        let keep = global || args.call.flag("keepdims", true)?;
        if along.iter().any(|at| view.axes[*at].iter().any(|atom| atom.dim == Dim::Example)) {
            refuse!("it goes along the batch");
        }
        if op == "ReduceL2" {
            let square = self.two(Pair::Engine(Pairwise::Mul), view.clone(), view)?;
            let sum = self.reduced("ReduceSum", square, &along, keep)?;
            return self.unary_of("Sqrt", sum);
        }
        if op != "ReduceMean" {
            return self.reduced(op, view, &along, keep);
        }
        // A mean over all channels may be a norm's.
        let part = match &view.what {
            What::Norm(Part::Squared(of), _) => Part::Variance(*of, 0.0),
            _ => Part::Mean(self.settle(&mut view)?),
        };
        let (Part::Variance(of, _) | Part::Mean(of)) = part else { unreachable!("it is one of these") };
        let [channels, _] = self.dims(of);
        let atoms = along.iter().flat_map(|at| &view.axes[*at]);
        let count: usize = atoms.clone().map(|atom| atom.extent).product();
        if count == 1 || count != channels || atoms.clone().any(|atom| atom.dim != Dim::Channel) {
            return self.reduced(op, view, &along, keep);
        }
        let axes = without(&view.axes, &along, keep);
        Ok(View { what: What::Norm(part, Rc::new(Recipe::Mean { of: view, along, keep })), axes })
    }

    /// Computes a mean, a sum or a maximum.
    pub(super) fn reduced(&mut self, op: &str, mut view: View, along: &[usize], keep: bool) -> Result<View, Problem> {
        let value = self.settle(&mut view)?;
        let count: usize = along.iter().map(|at| view::extent(&view.axes[*at])).product();
        if count == 1 {
            return Ok(View { axes: without(&view.axes, along, keep), ..view });
        }
        let mut atoms = along.iter().flat_map(|at| &view.axes[*at]);
        let [_, pixels] = self.dims(value);
        let (value, axes) = if count == pixels && atoms.all(|atom| atom.dim == Dim::Pixel) {
            (value, view.axes)
        } else {
            let others: Vec<usize> = (0..view.axes.len()).filter(|at| !along.contains(at)).collect();
            self.arrange(&view, &others, along, None)?
        };
        let &[channels, height, width] = self.graph.shape(value) else { refuse!("its input has no pixels") };
        let value = match op {
            "GlobalMaxPool" | "ReduceMax" => {
                let kernel = [height, width];
                let window = Window { kernel, stride: [1, 1], before: [0, 0], dilation: [1, 1], output: [1, 1] };
                let value = self.max_pool(value, window)?;
                self.row(value)?
            }
            _ => self.add(Op::GlobalAvgPool, &[value])?,
        };
        let value =
            if op == "ReduceSum" { self.scaled(value, Some(&vec![count as f32; channels]), None)? } else { value };
        Ok(View { what: What::Value(value), axes: without(&axes, along, keep) })
    }
}
