//! Products with constant matrices.

use std::rc::Rc;

use engine::Window;
use engine::graph::{Op, Pairwise};

use super::conv::Pending;
use super::expr::Pair;
use super::{Args, Importer, Item, View, What};
use crate::Numbers;
use crate::error::{Problem, refuse};
use crate::tensor::{Data, Tensor};
use crate::view::{self, Dim};

impl Importer {
    pub(super) fn gemm(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let call = &args.call;
        let mut view = args.view(0)?;
        let (alpha, beta) = (call.float("alpha", 1.0)? as f32, call.float("beta", 1.0)? as f32);
        if view.axes.len() != 2 {
            refuse!("its input has {} dimensions instead of two", view.axes.len());
        }
        if call.flag("transA", false)? {
            self.settle(&mut view)?;
            view.axes.swap(0, 1);
        }
        let budget = self.budget.clone();
        let scaled = |values: Numbers, by: f32| {
            if by == 1.0 {
                return Ok::<_, Problem>(values);
            }
            budget.take(values.len(), size_of::<f32>())?;
            Ok(values.read(&mut Vec::new()).iter().map(|x| x * by).collect())
        };
        let weight = matrix(args.constant(1)?, call.flag("transB", false)?)?;
        let weight = Matrix { values: scaled(weight.values, alpha)?, ..weight };
        let view = self.product(view, &weight, call.node.inputs[1])?;
        match args.known(2)? {
            None => Ok(view),
            Some(bias) => {
                let bias = Tensor { shape: bias.shape.clone(), data: Data::Floats(scaled(bias.numbers(), beta)?) };
                self.with_constant(Pair::Engine(Pairwise::Add), view, &bias, false)
            }
        }
    }

    pub(super) fn matmul(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let name = |index: usize| args.call.node.inputs[index];
        match (args.item(0), args.item(1)) {
            (Some(Item::View(a)), Some(Item::View(b))) => self.attention(a.clone(), b.clone()),
            (Some(Item::View(a)), Some(Item::Known(b))) => {
                if b.shape.len() == 1 {
                    refuse!("its second input is a vector: a matrix is accepted");
                }
                self.product(a.clone(), &matrix(b, false)?, name(1))
            }
            (Some(Item::Known(a)), Some(Item::View(b))) => {
                // The transposed product.
                let mut view = b.clone();
                let rank = view.axes.len();
                if rank < 2 {
                    refuse!("its second input is a vector: a matrix is accepted");
                }
                self.settle(&mut view)?;
                view.axes.swap(rank - 2, rank - 1);
                let mut view = self.product(view, &matrix(a, true)?, name(0))?;
                view.axes.swap(rank - 2, rank - 1);
                Ok(view)
            }
            _ => refuse!("it has no two inputs"),
        }
    }

    /// The last axis times a matrix.
    fn product(&mut self, mut view: View, weight: &Matrix, name: &str) -> Result<View, Problem> {
        let Some(last) = view.axes.len().checked_sub(1) else { refuse!("its input is a single number") };
        if view::extent(&view.axes[last]) != weight.rows || view.axes[last].iter().any(|atom| atom.dim == Dim::Example)
        {
            refuse!("its matrix has {} rows, and its input {:?}", weight.rows, view::shape(&view.axes));
        }
        let mut value = self.settle(&mut view)?;
        let [channels, pixels] = self.dims(value);
        let others: Vec<usize> = (0..last).collect();
        let alone = others.iter().all(|at| view::inner(&view.axes[*at]) == 1);
        let whole = view.axes[last].iter().all(|atom| atom.dim == Dim::Channel) && weight.rows == channels;
        let flat = alone && weight.rows == channels * pixels;
        if !whole && !flat {
            (value, view.axes) = self.arrange(&view, &[last], &others, None)?;
        }
        let [_, pixels] = self.dims(value);
        // The order of its rows in the engine's value.
        let order = view::places(&[&view.axes[last]], pixels);
        let flat = alone || pixels == 1;
        let order: Vec<usize> =
            order.iter().map(|place| if flat { *place as usize } else { *place as usize / pixels }).collect();
        let columns = weight.columns;
        self.budget.take(weight.values.len(), size_of::<f32>())?;
        let values = weight.by_column(&order);
        let sorted = order.iter().copied().eq(0..order.len());
        let (window, shape) = if flat {
            value = self.row(value)?;
            if !sorted {
                self.orders.insert(value, order.iter().map(|place| *place as u32).collect());
            }
            (None, vec![columns, order.len()])
        } else {
            let &[_, height, width] = self.graph.shape(value) else { refuse!("its input has no pixels") };
            (Some((Window::same([1, 1], [height, width]), 1)), vec![columns, order.len(), 1, 1])
        };
        crate::tensor::count(&[columns, pixels])?;
        let pending = Pending { name: name.into(), input: value, window, shape, weight: values, bias: None };
        let mut axes = view.axes;
        axes[last] = view::axis(Dim::Channel, columns, 1);
        Ok(View { what: What::Pending(Rc::new(pending)), axes })
    }

    pub(super) fn softmax(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let mut view = args.view(0)?;
        let rank = view.axes.len();
        let old = args.call.opset < 13;
        let axis = crate::call::axis(args.call.int("axis", if old { 1 } else { -1 })?, rank)?;
        if let What::Scores(scores) = &mut view.what {
            if axis + 1 == rank && !scores.softmax {
                scores.softmax = true;
                return Ok(view);
            }
            refuse!("attention is accepted with a softmax over the keys");
        }
        // Up to version 12 all axes from this one on count as one.
        let along: Vec<usize> = if old { (axis..rank).collect() } else { vec![axis] };
        let others: Vec<usize> = (0..rank).filter(|at| !along.contains(at)).collect();
        let (value, axes) = self.arrange(&view, &along, &others, None)?;
        let value = self.add(Op::Softmax, &[value])?;
        Ok(View { what: What::Value(value), axes })
    }
}

/// A constant matrix.
struct Matrix {
    rows: usize,
    columns: usize,
    /// Row by row, or with `turned` column by column.
    values: Numbers,
    turned: bool,
}

impl Matrix {
    /// Its numbers column by column, with row `i` in place `order[i]`.
    fn by_column(&self, order: &[usize]) -> Numbers {
        let (rows, columns) = (self.rows, self.columns);
        let in_order = order.iter().copied().eq(0..rows);
        if self.turned && in_order {
            return self.values.clone();
        }
        let mut room = Vec::new();
        let values = self.values.read(&mut room);
        let mut result = vec![0.0; rows * columns];
        if self.turned {
            for (to, from) in result.chunks_exact_mut(rows).zip(values.chunks_exact(rows)) {
                from.iter().zip(order).for_each(|(value, place)| to[*place] = *value);
            }
            return result.into();
        }
        // A few columns at a time: what is written stays in the cache.
        const SOME: usize = 32;
        for first in (0..columns).step_by(SOME) {
            let count = SOME.min(columns - first);
            for (row, place) in order.iter().enumerate() {
                for (index, value) in values[row * columns + first..][..count].iter().enumerate() {
                    result[(first + index) * rows + place] = *value;
                }
            }
        }
        result.into()
    }
}

/// A matrix, or its transposed one; dimensions of one may stand before it.
fn matrix(tensor: &Tensor, transposed: bool) -> Result<Matrix, Problem> {
    let (outer, inner) = tensor.shape.split_at(tensor.shape.len().saturating_sub(2));
    let &[rows, columns] = inner else { refuse!("its matrix is {:?}", tensor.shape) };
    if outer.iter().any(|size| *size != 1) || rows == 0 || columns == 0 {
        refuse!("its matrix is {:?}: one matrix is accepted", tensor.shape);
    }
    let values = tensor.numbers();
    let [rows, columns] = if transposed { [columns, rows] } else { [rows, columns] };
    Ok(Matrix { rows, columns, values, turned: transposed })
}
