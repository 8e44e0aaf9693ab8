//! A constant's numbers beside a value's.

use super::{Importer, View, What};
use crate::error::{Problem, refuse};
use crate::tensor::Tensor;
use crate::view::{self, Atom, Axis, Dim};

impl Importer {
    /// The number of each channel, of a constant that is the same at all pixels.
    pub(super) fn by_channel(&self, view: &View, tensor: &Tensor) -> Result<Option<Vec<f32>>, Problem> {
        let Some(missing) = view.axes.len().checked_sub(tensor.shape.len()) else { return Ok(None) };
        let size = |at: usize| at.checked_sub(missing).map_or(1, |at| tensor.shape[at]);
        let [channels, pixels] = match &view.what {
            What::Pending(pending) => [pending.shape[0], pending.window.map_or(1, |(window, _)| window.outputs())],
            What::Value(value) | What::Function(value, _) => self.dims(*value),
            _ => return Ok(None),
        };
        let has = |at: &usize, dim: Dim| view.axes[*at].iter().any(|atom| atom.dim == dim);
        let chosen: Vec<usize> = (0..view.axes.len()).filter(|at| has(at, Dim::Channel)).collect();
        let over_pixels = (0..view.axes.len()).any(|at| size(at) > 1 && has(&at, Dim::Pixel));
        if over_pixels || chosen.iter().any(|at| has(at, Dim::Pixel)) {
            return Ok(None);
        }
        let values = self.along(tensor, &view.axes, &chosen)?;
        let axes: Vec<&Axis> = chosen.iter().map(|at| &view.axes[*at]).collect();
        let mut result = vec![0.0; channels];
        for (place, value) in view::places(&axes, pixels).into_iter().zip(values) {
            result[place as usize / pixels] = value;
        }
        Ok(Some(result))
    }

    /// A constant's numbers along some axes, repeated where they have to be; along others it has one. All examples of a batch must
    /// have the same.
    pub(super) fn along(&self, tensor: &Tensor, axes: &[Axis], chosen: &[usize]) -> Result<Vec<f32>, Problem> {
        let Some(missing) = axes.len().checked_sub(tensor.shape.len()) else {
            refuse!("{:?} does not fit {:?}", tensor.shape, view::shape(axes))
        };
        // For each axis how many places there are within an example, and for each of the constant's which of them it is.
        let mut lists: Vec<(usize, Vec<usize>)> = Vec::with_capacity(axes.len());
        for (at, axis) in axes.iter().enumerate() {
            let own = at.checked_sub(missing).map_or(1, |at| tensor.shape[at]);
            let inner = if chosen.contains(&at) { view::inner(axis) } else { 1 };
            if own != 1 && (own != view::extent(axis) || inner != view::inner(axis)) {
                refuse!("{:?} does not fit {:?}", tensor.shape, view::shape(axes));
            }
            lists.push((inner, if own == 1 { Vec::new() } else { within(axis) }));
        }
        let count = crate::tensor::count(&lists.iter().map(|(inner, _)| *inner).collect::<Vec<_>>())?;
        self.budget.take(count.max(tensor.len()), 2 * size_of::<u32>())?;
        // Where each element of the constant goes first, then where it is repeated to.
        let (mut targets, mut repeats) = (vec![0_u32], vec![0_u32]);
        for (inner, places) in &lists {
            let all = *inner as u32;
            let steps = |from: Vec<u32>, places: &[usize]| -> Vec<u32> {
                from.iter().flat_map(|base| places.iter().map(move |at| base * all + *at as u32)).collect()
            };
            let every: Vec<usize> = (0..*inner).collect();
            (targets, repeats) = match places.is_empty() {
                true => (steps(targets, &[0]), steps(repeats, &every)),
                false => (steps(targets, places), steps(repeats, &[0])),
            };
        }
        let mut values = vec![0.0; count];
        let mut seen = vec![false; count];
        for (value, at) in tensor.to_floats().iter().zip(targets) {
            for repeat in &repeats {
                let at = (at + repeat) as usize;
                if std::mem::replace(&mut seen[at], true) && values[at] != *value {
                    refuse!("its constant is not the same for all examples of the batch");
                }
                values[at] = *value;
            }
        }
        Ok(values)
    }
}

/// For each place of an axis which it is within an example.
fn within(axis: &[Atom]) -> Vec<usize> {
    let mut places = vec![0];
    for atom in axis {
        let is_batch = atom.dim == Dim::Example;
        let step =
            move |place: usize| (0..atom.extent).map(move |at| if is_batch { place } else { place * atom.extent + at });
        places = places.into_iter().flat_map(step).collect();
    }
    places
}
