//! How the axes of an ONNX value stand in one of the engine's, which has channels and pixels.
//!
//! A transposition, and most reshapes, change only this: channels first, channels last and tokens are views of the same maps.

use crate::error::{Problem, refuse};

/// What an axis, or a part of it, runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dim {
    /// The examples of a batch of fixed size.
    Example,
    Channel,
    Pixel,
}

/// A part of an axis: `extent` steps of `stride` along a dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Atom {
    pub(crate) dim: Dim,
    pub(crate) extent: usize,
    pub(crate) stride: usize,
}

/// An axis, outermost part first. One of extent 1 has no parts.
pub(crate) type Axis = Vec<Atom>;

/// An axis of one part.
pub(crate) fn axis(dim: Dim, extent: usize, stride: usize) -> Axis {
    if extent == 1 { Vec::new() } else { vec![Atom { dim, extent, stride }] }
}

pub(crate) fn extent(axis: &[Atom]) -> usize {
    axis.iter().map(|atom| atom.extent).product()
}

/// The extent within one example.
pub(crate) fn inner(axis: &[Atom]) -> usize {
    axis.iter().filter(|atom| atom.dim != Dim::Example).map(|atom| atom.extent).product()
}

pub(crate) fn shape(axes: &[Axis]) -> Vec<usize> {
    axes.iter().map(|axis| extent(axis)).collect()
}

/// Parts that follow each other as one, wherever they are side by side in their dimension.
pub(crate) fn merged(atoms: impl IntoIterator<Item = Atom>) -> Axis {
    let mut axis: Axis = Vec::new();
    for atom in atoms {
        match axis.last_mut() {
            Some(last) if last.dim == atom.dim && last.stride == atom.stride * atom.extent => {
                *last = Atom { dim: atom.dim, extent: last.extent * atom.extent, stride: atom.stride };
            }
            _ => axis.push(atom),
        }
    }
    axis
}

/// Parts of some axes within one example.
pub(crate) fn within<'a>(axes: impl IntoIterator<Item = &'a Axis>) -> Axis {
    merged(axes.into_iter().flatten().copied().filter(|atom| atom.dim != Dim::Example))
}

/// Whether these parts are a whole dimension of so many places, in its order.
pub(crate) fn is_whole(atoms: &[Atom], dim: Dim, count: usize) -> bool {
    match atoms {
        [] => count == 1,
        [atom] => *atom == Atom { dim, extent: count, stride: 1 },
        _ => false,
    }
}

/// The axes of another shape with the same elements in the same order, if parts need not be cut across.
pub(crate) fn reshape(axes: &[Axis], to: &[usize]) -> Option<Vec<Axis>> {
    let mut atoms = merged(axes.iter().flatten().copied()).into_iter();
    let mut next = atoms.next();
    let mut result = Vec::with_capacity(to.len());
    for size in to {
        let (mut left, mut axis) = (*size, Vec::new());
        while left > 1 {
            let atom = next?;
            if left.is_multiple_of(atom.extent) {
                axis.push(atom);
                left /= atom.extent;
                next = atoms.next();
            } else if atom.extent.is_multiple_of(left) {
                let rest = atom.extent / left;
                axis.push(Atom { extent: left, stride: atom.stride * rest, ..atom });
                next = Some(Atom { extent: rest, ..atom });
                left = 1;
            } else {
                return None;
            }
        }
        result.push(merged(axis));
    }
    next.is_none().then_some(result)
}

/// For each element of one example, in the order of `axes`, its place in `[channels, pixels]`.
pub(crate) fn places(axes: &[&Axis], pixels: usize) -> Vec<u32> {
    let mut places = vec![0_u32];
    for atom in axes.iter().flat_map(|axis| axis.iter()).filter(|atom| atom.dim != Dim::Example) {
        let step = atom.stride * if atom.dim == Dim::Channel { pixels } else { 1 };
        places = places.iter().flat_map(|place| (0..atom.extent).map(move |at| place + (at * step) as u32)).collect();
    }
    places
}

/// An axis with its parts within an example replaced by one part, or none; those of the batch stay where they are.
pub(crate) fn replaced(axis: &[Atom], part: Option<Atom>) -> Result<Axis, Problem> {
    let is_batch = |atom: &Atom| atom.dim == Dim::Example;
    let runs = axis.chunk_by(|a, b| is_batch(a) == is_batch(b));
    if runs.clone().filter(|run| !is_batch(&run[0])).count() > 1 {
        refuse!("the examples of a batch stand in the middle of an axis: export with a batch of one");
    }
    if axis.iter().all(is_batch) {
        return Ok(axis.iter().copied().chain(part).collect());
    }
    Ok(runs.flat_map(|run| if is_batch(&run[0]) { run.to_vec() } else { part.into_iter().collect() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps() -> Vec<Axis> {
        vec![vec![], axis(Dim::Channel, 6, 1), axis(Dim::Pixel, 4, 5), axis(Dim::Pixel, 5, 1)]
    }

    #[test]
    fn reshapes_are_views() {
        let [_, channels, height, width] = maps().try_into().expect("it is good");
        let tokens = reshape(&maps(), &[1, 6, 20]).expect("it is good");
        assert_eq!(tokens, [vec![], channels.clone(), axis(Dim::Pixel, 20, 1)]);
        assert_eq!(reshape(&tokens, &[6, 4, 5]).expect("it is good"), [channels.clone(), height, width]);
        let heads = reshape(&tokens, &[2, 3, 20]).expect("it is good");
        assert_eq!(heads[..2], [axis(Dim::Channel, 2, 3), axis(Dim::Channel, 3, 1)]);
        assert_eq!(shape(&reshape(&maps(), &[120]).expect("it is good")), [120]);
        assert!(reshape(&maps(), &[4, 30]).is_none(), "no part of 4 channels");
        assert!(reshape(&maps(), &[6, 21]).is_none());
    }

    #[test]
    fn places_follow_the_axes() {
        let axes = [axis(Dim::Pixel, 2, 1), axis(Dim::Channel, 3, 1)];
        assert_eq!(places(&[&axes[0], &axes[1]], 2), [0, 2, 4, 1, 3, 5]);
    }
}
