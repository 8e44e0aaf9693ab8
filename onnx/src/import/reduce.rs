//! Means, sums and maxima along axes.

use engine::Window;
use engine::graph::Op;

use super::norm::Part;
use super::{Args, Importer, View, What};
use crate::call;
use crate::error::{Problem, refuse};
use crate::view::{self, Dim};

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
            if given.as_ref().is_none_or(Vec::is_empty) && args.call.int("noop_with_empty_axes", 0)? != 0 {
                return Ok(view);
            }
            call::axes(given, rank)?
        };
        let keep = global || args.call.int("keepdims", 1)? != 0;
        if along.iter().any(|at| view.axes[*at].iter().any(|atom| atom.dim == Dim::Example)) {
            refuse!("it goes along the batch");
        }
        let reduced = |axes: &[view::Axis]| -> Vec<view::Axis> {
            let one = |at: usize| match along.contains(&at) {
                true if keep => Some(Vec::new()),
                true => None,
                false => Some(axes[at].clone()),
            };
            (0..axes.len()).filter_map(one).collect()
        };
        if let What::Norm(Part::Squared(of)) = view.what
            && op == "ReduceMean"
        {
            return Ok(View { what: What::Norm(Part::Variance(of, 0.0)), axes: reduced(&view.axes) });
        }
        let count: usize = along.iter().map(|at| view::extent(&view.axes[*at])).product();
        let value = self.settle(&mut view)?;
        if count == 1 {
            return Ok(View { axes: reduced(&view.axes), ..view });
        }
        let atoms: Vec<_> = along.iter().flat_map(|at| view.axes[*at].clone()).collect();
        let [channels, pixels] = self.dims(value);
        if op == "ReduceMean" && count == channels && atoms.iter().all(|atom| atom.dim == Dim::Channel) {
            return Ok(View { what: What::Norm(Part::Mean(value)), axes: reduced(&view.axes) });
        }
        let (value, axes) = if count == pixels && atoms.iter().all(|atom| atom.dim == Dim::Pixel) {
            (value, view.axes)
        } else {
            let others: Vec<usize> = (0..rank).filter(|at| !along.contains(at)).collect();
            self.arrange(&view, &others, &along, None)?
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
        Ok(View { what: What::Value(value), axes: reduced(&axes) })
    }
}
