//! What changes shapes and not numbers.

use std::rc::Rc;

use engine::graph::Value;

use super::arrange::{Picks, roles};
use super::conv::Pads;
use super::{Args, Importer, View, What};
use crate::call;
use crate::error::{Problem, refuse};
use crate::fold;
use crate::limits;
use crate::view::{self, Axis};

/// A value with something around it.
#[derive(Debug, Clone)]
pub(super) struct Padded {
    inside: View,
    /// Before and after along each axis.
    pads: Vec<[usize; 2]>,
    fill: f32,
}

impl Importer {
    pub(super) fn reshaped(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let call = &args.call;
        let mut view = args.view(0)?;
        // Where only the axes change, what is put off stays so.
        if !matches!(view.what, What::Value(_) | What::Function(..) | What::Pending(_)) {
            if let (What::Padded(padded), "Transpose") = (&view.what, call.node.op) {
                let order = self.order(args, view.axes.len())?;
                let pads = order.iter().map(|at| padded.pads[*at]).collect();
                let axes = order.iter().map(|at| padded.inside.axes[*at].clone()).collect();
                let inside = View { axes, ..padded.inside.clone() };
                return self.around(inside, pads, padded.fill);
            }
            self.settle(&mut view)?;
        }
        let shape = view::shape(&view.axes);
        if matches!(call.node.op, "Slice" | "Gather" | "Pad") {
            // Lists of places.
            self.budget.take(shape.iter().sum(), size_of::<Option<usize>>())?;
        }
        match call.node.op {
            "Transpose" => {
                let order = self.order(args, shape.len())?;
                Ok(View { axes: order.iter().map(|at| view.axes[*at].clone()).collect(), ..view })
            }
            "Reshape" => {
                let Some(to) = args.ints(1)? else { refuse!("it has no shape") };
                let to = call::wanted(&shape, &to, call.flag("allowzero", false)?)?;
                self.with_shape(view, &to)
            }
            "Flatten" => {
                let at = call.int("axis", 1)?;
                let at = if at == shape.len() as i64 { shape.len() } else { call::axis(at, shape.len())? };
                self.with_shape(view, &[shape[..at].iter().product(), shape[at..].iter().product()])
            }
            "Unsqueeze" => {
                let to = fold::unsqueezed(&shape, args.numbers("axes", 1)?)?;
                self.with_shape(view, &to)
            }
            "Squeeze" => {
                let gone = fold::squeezed(&shape, args.numbers("axes", 1)?)?;
                let to: Vec<usize> = (0..shape.len()).filter(|at| !gone.contains(at)).map(|at| shape[at]).collect();
                self.with_shape(view, &to)
            }
            "Expand" => {
                let to = args.constant(1)?.to_ints()?;
                let to: Vec<usize> = to.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
                let to = fold::together(&shape, &to)?;
                if to == shape { Ok(view) } else { self.expanded(view, &to) }
            }
            "Slice" => {
                let picks = call::slices(call, &shape, |index| args.ints(index))?;
                self.selected(view, &picks)
            }
            "Gather" => {
                let axis = call::axis(call.int("axis", 0)?, shape.len())?;
                let at = args.constant(1)?;
                let mut picks = vec![None; shape.len()];
                let places = fold::indices(at, shape[axis])?;
                // All of them in order: a reshape, whatever stands in the axis.
                if !places.iter().copied().eq(0..shape[axis]) {
                    picks[axis] = Some(places);
                }
                let view = self.selected(view, &picks)?;
                self.with_shape(view, &[&shape[..axis], &at.shape, &shape[axis + 1..]].concat())
            }
            _ => self.pad(args, view),
        }
    }

    fn order(&self, args: &Args<'_>, rank: usize) -> Result<Vec<usize>, Problem> {
        let order = args.call.ints("perm")?.unwrap_or_else(|| (0..rank as i64).rev().collect());
        fold::permutation(&order, rank)
    }

    fn with_shape(&mut self, mut view: View, to: &[usize]) -> Result<View, Problem> {
        if let Some(axes) = view::reshape(&view.axes, to) {
            return Ok(View { axes, ..view });
        }
        // Parts that are cut across: the elements in their order first.
        self.settle(&mut view)?;
        let all: Vec<usize> = (0..view.axes.len()).collect();
        let (value, axes) = self.take(value_of(&view), &view.axes, &vec![None; all.len()], (&all, &[], None), 0.0)?;
        match view::reshape(&axes, to) {
            Some(axes) => Ok(View { what: What::Value(value), axes }),
            None => refuse!("{:?} cannot become {to:?} with the batch where it is", view::shape(&axes)),
        }
    }

    fn pad(&mut self, args: &Args<'_>, view: View) -> Result<View, Problem> {
        let rank = view.axes.len();
        let Some(given) = args.numbers("pads", 1)? else { refuse!("it has no `pads`") };
        let along = match args.ints(3)? {
            Some(axes) => call::axes(Some(axes), rank)?,
            None => (0..rank).collect(),
        };
        if given.len() != 2 * along.len() {
            refuse!("it has {} pads for {} axes", given.len(), along.len());
        }
        let mut pads = vec![[0; 2]; rank];
        for (index, at) in along.iter().enumerate() {
            for side in 0..2 {
                match usize::try_from(given[index + side * along.len()]) {
                    Ok(pad) if pad <= limits::PADDING => pads[*at][side] = pad,
                    _ => refuse!("its pads are {given:?}: 0 to {} are accepted", limits::PADDING),
                }
            }
        }
        let fill = match args.known(2)? {
            Some(tensor) => tensor.scalar().unwrap_or(0.0),
            None => args.call.float("value", 0.0)?,
        };
        // Behind it a maximum is taken.
        let fill = fill.clamp(f64::from(f32::MIN), f64::from(f32::MAX));
        let mode = args.call.text("mode", "constant")?;
        if mode == "constant" {
            return self.around(view, pads, fill as f32);
        }
        let mut picks: Vec<Option<Vec<usize>>> = vec![None; rank];
        for (at, [before, after]) in pads.iter().copied().enumerate().filter(|(_, pads)| *pads != [0, 0]) {
            let size = view::extent(&view.axes[at]) as i64;
            let place = |index: i64| match mode {
                "edge" => Some(index.clamp(0, size - 1)),
                "reflect" => Some(if index < 0 {
                    -index
                } else if index >= size {
                    2 * size - 2 - index
                } else {
                    index
                }),
                _ => None,
            };
            let places =
                (-(before as i64)..size + after as i64).map(|index| place(index).filter(|at| (0..size).contains(at)));
            picks[at] = match places.map(|place| place.map(|place| place as usize)).collect() {
                Some(places) => Some(places),
                None => refuse!(
                    "its mode is `{mode}` with {pads:?}: constant, edge, and reflect of less than its input are accepted"
                ),
            };
        }
        self.selected(view, &picks)
    }

    fn around(&mut self, inside: View, pads: Vec<[usize; 2]>, fill: f32) -> Result<View, Problem> {
        if pads.iter().all(|pads| *pads == [0, 0]) {
            return Ok(inside);
        }
        // Only extents matter until it is computed.
        let grown = |(axis, [before, after]): (&Axis, &[usize; 2])| {
            if before + after == 0 {
                return axis.clone();
            }
            view::axis(view::Dim::Pixel, view::extent(axis) + before + after, 1)
        };
        let axes = inside.axes.iter().zip(&pads).map(grown).collect();
        Ok(View { what: What::Padded(Rc::new(Padded { inside, pads, fill })), axes })
    }

    /// Copies a value with what is around it.
    pub(super) fn padded(&mut self, padded: &Padded) -> Result<(Value, Vec<Axis>), Problem> {
        let mut inside = padded.inside.clone();
        let value = self.settle(&mut inside)?;
        let picks: Vec<Option<Picks>> = inside
            .axes
            .iter()
            .zip(&padded.pads)
            .map(|(axis, [before, after])| {
                let own = (0..view::extent(axis)).map(Some);
                (before + after > 0)
                    .then(|| vec![None; *before].into_iter().chain(own).chain(vec![None; *after]).collect())
            })
            .collect();
        let [channels, pixels] = roles(&inside.axes);
        self.take(value, &inside.axes, &picks, (&channels, &pixels, None), padded.fill)
    }

    /// What is inside of zeros around height and width, and these.
    pub(super) fn unpadded(&mut self, view: View) -> Result<(View, Pads), Problem> {
        match &view.what {
            What::Padded(padded) if padded.fill == 0.0 => match padded.pads.as_slice() {
                [[0, 0], [0, 0], rows, columns] => Ok((padded.inside.clone(), [*rows, *columns])),
                _ => Ok((view, [[0; 2]; 2])),
            },
            _ => Ok((view, [[0; 2]; 2])),
        }
    }
}

/// The value of a view that is computed.
fn value_of(view: &View) -> Value {
    match view.what {
        What::Value(value) => value,
        _ => unreachable!("it has been settled"),
    }
}
