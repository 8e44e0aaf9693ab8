//! Scaled dot-product attention, written as two products with a softmax between them.

use engine::graph::{Op, Pairwise, Value};

use super::expr::{Expr, Pair};
use super::{Importer, View, What};
use crate::error::{Problem, refuse};
use crate::tensor::Tensor;
use crate::view::{self, Axis, Dim};

/// `scale q k`, and its softmax.
#[derive(Debug, Clone)]
pub(super) struct Scores {
    q: Value,
    k: Value,
    heads: usize,
    scale: f64,
    pub(super) softmax: bool,
}

impl Scores {
    /// Scores times a number, or with nothing added.
    pub(super) fn with_constant(
        &self,
        view: &View,
        pair: Pair,
        tensor: &Tensor,
        flipped: bool,
    ) -> Result<View, Problem> {
        let scale = match (pair, tensor.scalar()) {
            (Pair::Engine(Pairwise::Mul), Some(number)) => number,
            (Pair::Engine(Pairwise::Div), Some(number)) if !flipped => 1.0 / number,
            (Pair::Engine(Pairwise::Add), _) if tensor.to_floats().iter().all(|x| *x == 0.0) => 1.0,
            _ => refuse!("attention is accepted with a scale between its products, and without a mask"),
        };
        if self.softmax && scale != 1.0 {
            refuse!("attention is accepted with a scale before its softmax");
        }
        let scores = Self { scale: self.scale * scale, ..self.clone() };
        Ok(View { what: What::Scores(scores), axes: view.axes.clone() })
    }
}

impl Importer {
    /// The product of two computed values.
    pub(super) fn attention(&mut self, a: View, b: View) -> Result<View, Problem> {
        let rank = a.axes.len();
        if rank < 2 || b.axes.len() != rank {
            refuse!("its inputs have {rank} and {} dimensions", b.axes.len());
        }
        let (row, last) = (rank - 2, rank - 1);
        let outer: Vec<usize> = (0..row).collect();
        let with = |at: usize| [outer.as_slice(), &[at]].concat();
        let heads = |axes: &[Axis]| axes[..row].iter().map(|axis| view::inner(axis)).product::<usize>();
        let (a_shape, b_shape) = (view::shape(&a.axes), view::shape(&b.axes));
        if a_shape[..row] != b_shape[..row] || a_shape[last] != b_shape[row] {
            refuse!("{a_shape:?} and {b_shape:?} do not fit");
        }
        if let What::Scores(scores) = &a.what {
            if !scores.softmax {
                refuse!("attention is accepted with a softmax between its products");
            }
            let (v, axes) = self.arrange(&b, &with(last), &[row], None)?;
            let Scores { q, k, heads, scale, .. } = *scores;
            let value = self.add(Op::Attention { heads, scale: scale as f32 }, &[q, k, v])?;
            let (mut result, width) = (a.axes.clone(), view::inner(&axes[last]));
            result[last] = view::axis(Dim::Channel, width, 1);
            let mut stride = width;
            for at in outer.into_iter().rev() {
                let extent = view::inner(&result[at]);
                result[at] = view::replaced(&result[at], view::axis(Dim::Channel, extent, stride).first().copied())?;
                stride *= extent;
            }
            return Ok(View { what: What::Value(value), axes: result });
        }
        let ((a, a_scale), (b, b_scale)) = (self.unscaled(a), self.unscaled(b));
        let heads = heads(&a.axes);
        let (q, axes) = self.arrange(&a, &with(last), &[row], None)?;
        let (k, _) = self.arrange(&b, &with(row), &[last], None)?;
        let mut result = axes;
        result[last] = b.axes[last].clone();
        let scores = Scores { q, k, heads, scale: a_scale * b_scale, softmax: false };
        Ok(View { what: What::Scores(scores), axes: result })
    }

    /// A value without the number that it is multiplied by.
    fn unscaled(&self, view: View) -> (View, f64) {
        if let What::Function(base, expr) = &view.what
            && let Expr::Line { of, slope, shift: 0.0 } = &**expr
            && matches!(**of, Expr::X)
        {
            return (View { what: What::Value(*base), axes: view.axes.clone() }, *slope);
        }
        (view, 1.0)
    }
}
