//! Values laid out as an operation needs them: as they are where that will do, else by a copy.

use std::sync::Arc;

use engine::graph::{Op, Value};

use super::{Importer, View, What};
use crate::error::{Problem, refuse};
use crate::tensor::count;
use crate::view::{self, Axis, Dim};

/// Which places of an axis are taken, in order; none is what fills.
pub(super) type Picks = Vec<Option<usize>>;

/// What stands for no place in a table.
const FILLED: u32 = u32::MAX;

impl Importer {
    /// A value whose channels are some axes and whose pixels are others, each in this order; with a size its pixels are maps of it.
    pub(super) fn arrange(
        &mut self,
        view: &View,
        channels: &[usize],
        pixels: &[usize],
        size: Option<[usize; 2]>,
    ) -> Result<(Value, Vec<Axis>), Problem> {
        let mut view = view.clone();
        let value = self.settle(&mut view)?;
        let is_named = |at: &usize| channels.contains(at) || pixels.contains(at);
        if let Some(at) = (0..view.axes.len()).find(|at| !is_named(at) && view::inner(&view.axes[*at]) > 1) {
            refuse!("its input is {:?}, and dimension {at} is not the batch", view::shape(&view.axes));
        }
        let [all_channels, all_pixels] = self.dims(value);
        let part = |axes: &[usize]| view::within(axes.iter().map(|at| &view.axes[*at]));
        let fits = match (size, self.graph.shape(value)) {
            (None, _) => true,
            (Some(size), shape) => shape.len() == 3 && shape[1..] == size,
        };
        let whole = view::is_whole(&part(channels), Dim::Channel, all_channels)
            && view::is_whole(&part(pixels), Dim::Pixel, all_pixels);
        if fits && whole {
            return Ok((value, view.axes));
        }
        self.take(value, &view.axes, &vec![None; view.axes.len()], (channels, pixels, size), 0.0)
    }

    /// A copy of some places of each axis (of all without a list), with channels and pixels as for [`Importer::arrange`].
    pub(super) fn take(
        &mut self,
        value: Value,
        axes: &[Axis],
        picks: &[Option<Picks>],
        (channels, pixels, size): (&[usize], &[usize], Option<[usize; 2]>),
        fill: f32,
    ) -> Result<(Value, Vec<Axis>), Problem> {
        let [_, all_pixels] = self.dims(value);
        self.budget.take(axes.iter().map(|axis| view::extent(axis)).sum(), size_of::<Option<u32>>())?;
        // Places add up over the axes.
        let mut along = Vec::with_capacity(axes.len());
        for (axis, picks) in axes.iter().zip(picks) {
            let places = view::places(&[axis], all_pixels);
            along.push(match picks {
                None => places.into_iter().map(Some).collect(),
                Some(_) if axis.iter().any(|atom| atom.dim == Dim::Example) => {
                    refuse!("it takes apart the batch")
                }
                Some(picks) => picks.iter().map(|at| at.map(|at| places[at])).collect::<Vec<_>>(),
            });
        }
        let extents: Vec<usize> = along.iter().map(Vec::len).collect();
        let product = |axes: &[usize]| count(&axes.iter().map(|at| extents[*at]).collect::<Vec<_>>());
        let (new_channels, new_pixels) = (product(channels)?, product(pixels)?);
        if count(&[new_channels, new_pixels])? == 0 {
            refuse!("nothing is left of it");
        }
        self.budget.take(new_channels * new_pixels, 2 * size_of::<u32>())?;
        let mut from = vec![0_u32];
        for at in channels.iter().chain(pixels) {
            let places = &along[*at];
            let sum = |place: u32, other: Option<u32>| match other {
                Some(other) if place != FILLED => place + other,
                _ => FILLED,
            };
            from = from.iter().flat_map(|place| places.iter().map(move |other| sum(*place, *other))).collect();
        }
        let from: Arc<[u32]> = from.into();
        let shape = match (size, pixels) {
            (Some([height, width]), _) => vec![new_channels, height, width],
            (None, _) if new_pixels == 1 => vec![new_channels],
            (None, [rows, columns]) => vec![new_channels, extents[*rows], extents[*columns]],
            _ => vec![new_channels, 1, new_pixels],
        };
        let new = self.add(Op::Rearrange { from, shape, fill }, &[value])?;
        let mut result = axes.to_vec();
        for (dim, axes) in [(Dim::Channel, channels), (Dim::Pixel, pixels)] {
            let mut stride = 1;
            for at in axes.iter().rev() {
                let part = view::axis(dim, extents[*at], stride).first().copied();
                result[*at] = view::replaced(&result[*at], part)?;
                stride *= extents[*at];
            }
        }
        Ok((new, result))
    }

    /// A copy of some places of each axis.
    pub(super) fn selected(&mut self, view: View, picks: &[Option<Vec<usize>>]) -> Result<View, Problem> {
        let mut view = view;
        let value = self.settle(&mut view)?;
        let [channels, _] = self.dims(value);
        if let [at] = *(0..picks.len()).filter(|at| picks[*at].is_some()).collect::<Vec<_>>()
            && let Some(picks) = &picks[at]
            && let [atom] = view.axes[at].as_slice()
            && atom.dim == Dim::Channel
            && atom.extent * atom.stride == channels
            && !picks.is_empty()
            && picks.windows(2).all(|pair| pair[1] == pair[0] + 1)
        {
            // Channels that lie side by side.
            let (first, count) = (picks[0] * atom.stride, picks.len() * atom.stride);
            view.axes[at] = view::axis(Dim::Channel, picks.len(), atom.stride);
            let value = self.add(Op::Channels { first, count }, &[value])?;
            return Ok(View { what: What::Value(value), axes: view.axes });
        }
        if picks.iter().all(Option::is_none) {
            return Ok(view);
        }
        let picks: Vec<_> =
            picks.iter().map(|picks| picks.as_ref().map(|picks| picks.iter().map(|at| Some(*at)).collect())).collect();
        let [channels, pixels] = roles(&view.axes);
        let (value, axes) = self.take(value, &view.axes, &picks, (&channels, &pixels, None), 0.0)?;
        Ok(View { what: What::Value(value), axes })
    }

    /// `[C, H, W]` of a value `[N, C, H, W]`.
    pub(super) fn maps(&mut self, view: &View) -> Result<Value, Problem> {
        let [_, _, rows, columns] = view.axes.as_slice() else {
            refuse!("its input has {} dimensions: [N, C, H, W] is accepted", view.axes.len())
        };
        let size = [view::inner(rows), view::inner(columns)];
        Ok(self.arrange(view, &[1], &[2, 3], Some(size))?.0)
    }

    /// The axes of maps `[N, C, H, W]`.
    pub(super) fn map_axes(&self, value: Value) -> Vec<Axis> {
        let [channels, _] = self.dims(value);
        let [height, width] = match self.graph.shape(value) {
            [_, height, width] => [*height, *width],
            _ => [1, 1],
        };
        vec![
            self.example_axis(),
            view::axis(Dim::Channel, channels, 1),
            view::axis(Dim::Pixel, height, width),
            view::axis(Dim::Pixel, width, 1),
        ]
    }
}

/// The axes that a copy keeps as channels, and as pixels.
pub(super) fn roles(axes: &[Axis]) -> [Vec<usize>; 2] {
    let is_channel = |at: &usize| axes[*at].iter().any(|atom| atom.dim == Dim::Channel);
    (0..axes.len()).partition::<Vec<usize>, _>(is_channel).into()
}
