//! Values side by side, and apart.

use engine::graph::{Op, Value};

use super::{Args, Importer, Item, View, What};
use crate::call;
use crate::error::{Problem, refuse};
use crate::tensor::Tensor;
use crate::view::{self, Axis, Dim};

impl Importer {
    pub(super) fn split(&mut self, args: &Args<'_>) -> Result<Vec<Item>, Problem> {
        let view = args.view(0)?;
        let axis = call::axis(args.call.int("axis", 0)?, view.axes.len())?;
        let size = view::extent(&view.axes[axis]);
        let mut start = 0;
        let mut results = Vec::new();
        for (part, output) in
            call::parts(&args.call, size, args.numbers("split", 1)?)?.into_iter().zip(&args.call.node.outputs)
        {
            let mut picks = vec![None; view.axes.len()];
            if part != size {
                picks[axis] = Some((start..start + part).collect());
            }
            // One that nobody names is not needed.
            let part_view = if output.is_empty() { view.clone() } else { self.selected(view.clone(), &picks)? };
            results.push(Item::View(part_view));
            start += part;
        }
        Ok(results)
    }

    pub(super) fn concat(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let mut views: Vec<Result<View, &Tensor>> = Vec::new();
        for item in args.inputs.iter().flatten() {
            views.push(match item {
                Item::View(view) => {
                    let mut view = view.clone();
                    self.settle(&mut view)?;
                    Ok(view)
                }
                Item::Known(tensor) => Err(tensor),
            });
        }
        if let [Ok(view)] = views.as_slice() {
            return Ok(view.clone());
        }
        let Some(first) = views.iter().flatten().next().cloned() else { refuse!("it has no inputs") };
        let rank = first.axes.len();
        let Some(axis) = args.call.node.attributes.get("axis").map(|_| args.call.int("axis", 0)).transpose()? else {
            refuse!("it has no axis")
        };
        let axis = call::axis(axis, rank)?;
        // What each axis runs over in any of them.
        let is = |at: usize, dim: Dim| {
            views
                .iter()
                .flatten()
                .any(|view| view.axes.get(at).is_some_and(|axis| axis.iter().any(|atom| atom.dim == dim)))
        };
        if is(axis, Dim::Example) {
            refuse!("it puts examples of the batch together");
        }
        let by_channel = is(axis, Dim::Channel) || (!is(axis, Dim::Pixel) && !(0..rank).any(|at| is(at, Dim::Channel)));
        let others = |dim: Dim| -> Vec<usize> {
            (0..rank)
                .filter(|at| *at != axis && if is(*at, Dim::Channel) { dim == Dim::Channel } else { dim == Dim::Pixel })
                .collect()
        };
        // The axis stands outermost in its dimension.
        let (mut channels, mut pixels) = (others(Dim::Channel), others(Dim::Pixel));
        if by_channel {
            channels.insert(0, axis);
        } else {
            pixels.insert(0, axis);
        }
        let size = |axes: &[Axis]| match pixels.iter().filter(|at| is(**at, Dim::Pixel)).collect::<Vec<_>>()[..] {
            [rows, columns] if by_channel => Some([view::inner(&axes[*rows]), view::inner(&axes[*columns])]),
            _ => None,
        };
        let size = size(&first.axes);
        let mut values = Vec::new();
        let mut result = None;
        let mut total = 0;
        for view in &views {
            let (value, extent) = match view {
                Ok(view) => {
                    let fits = |at: usize| at == axis || view::extent(&view.axes[at]) == view::extent(&first.axes[at]);
                    if view.axes.len() != rank || !(0..rank).all(fits) {
                        let shape = view::shape(&view.axes);
                        refuse!("{shape:?} does not fit beside {:?}", view::shape(&first.axes));
                    }
                    let (value, axes) = self.arrange(view, &channels, &pixels, size)?;
                    let extent = view::extent(&axes[axis]);
                    result.get_or_insert(axes);
                    (value, extent)
                }
                Err(tensor) => self.beside(tensor, &first.axes, axis, (&channels, &pixels, size))?,
            };
            values.push(value);
            total += extent;
        }
        let Some(mut axes) = result else { refuse!("it has no inputs") };
        let dim = if by_channel { Dim::Channel } else { Dim::Pixel };
        let inside: usize =
            if by_channel { &channels } else { &pixels }[1..].iter().map(|at| view::inner(&axes[*at])).product();
        axes[axis] = view::axis(dim, total, inside);
        if by_channel && size.is_none() && values.iter().any(|value| self.graph.shape(*value).len() == 1) {
            for value in &mut values {
                *value = self.row(*value)?;
            }
        }
        let alike = values.iter().all(|value| self.graph.shape(*value)[1..] == self.graph.shape(values[0])[1..]);
        if by_channel && !alike {
            refuse!("its inputs have pixels in different orders");
        }
        let value = self.add(if by_channel { Op::Concat } else { Op::Append }, &values)?;
        Ok(View { what: What::Value(value), axes })
    }

    /// A constant that stands beside a value along an axis, and its extent there.
    fn beside(
        &mut self,
        tensor: &Tensor,
        axes: &[Axis],
        axis: usize,
        (channels, pixels, size): (&[usize], &[usize], Option<[usize; 2]>),
    ) -> Result<(Value, usize), Problem> {
        let fits = |at: usize| at == axis || tensor.shape[at] == view::extent(&axes[at]);
        if tensor.shape.len() != axes.len() || !(0..axes.len()).all(fits) {
            refuse!("{:?} does not fit beside {:?}", tensor.shape, view::shape(axes));
        }
        let extent = tensor.shape[axis];
        let mut own = axes.to_vec();
        own[axis] = view::axis(Dim::Pixel, extent, 1);
        let all: Vec<usize> = (0..axes.len()).collect();
        let values = self.along(tensor, &own, &all)?;
        // Its elements in the order of channels and pixels.
        let shape: Vec<usize> = own.iter().map(|axis| view::inner(axis)).collect();
        let order: Vec<i64> = channels.iter().chain(pixels).map(|at| *at as i64).collect();
        let turned = crate::fold::transpose(&Tensor::floats(&shape, values), Some(order))?.to_floats();
        let product = |axes: &[usize]| axes.iter().map(|at| shape[*at]).product::<usize>();
        let (count, all) = (product(channels), product(pixels));
        let shape = match size {
            Some([height, width]) => vec![count, height, width],
            None if all == 1 => vec![count],
            None => vec![count, 1, all],
        };
        if turned.is_empty() {
            refuse!("a constant beside it holds nothing");
        }
        let parameter = self.parameter("a constant", &shape, turned)?;
        Ok((self.add(Op::Constant(parameter), &[])?, extent))
    }
}
