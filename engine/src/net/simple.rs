//! Layers without parameters that treat elements alike: activations, dropout, sums, copies.

use crate::graph::Activation;
use crate::kernels::activation;
use crate::kernels::copy::{Channels, Flatten};
use crate::kernels::dropout::Dropout;
use crate::kernels::elementwise::Sum;
use crate::kernels::slopes;
use crate::kernels::view::View;
use crate::parallel;
use crate::simd::{LANES, Path};

use super::memory::{Arena, Form, Place};
use super::wiring::{Into, Wiring};
use super::{Mode, Run, Stage};

impl Form {
    /// One example, as kernels see it.
    pub(super) fn view(&self) -> View {
        match self {
            Self::Maps(maps) => View::maps(maps),
            Self::Row(len) => View::rows(1, *len),
        }
    }
}

/// Sets the first `n` gradients to zero where relu's output is.
pub(super) fn mask(path: Path, n: usize, arena: &mut Arena, y: &Place, dy: &Place) {
    let (y_form, dy_form) = (y.form, dy.form);
    let [y, dy] = arena.write_all([y, dy]);
    let len = y_form.len();
    parallel::examples(n, dy, dy_form.len(), |example, dy| {
        let y = &y[example * len..][..len];
        match (y_form, dy_form) {
            (Form::Maps(y_maps), Form::Maps(dy_maps)) => slopes::mask_maps(path, &y_maps, y, &dy_maps, dy),
            _ => slopes::mask(y, dy),
        }
    });
}

/// Copies a gradient that nothing changes to where an input's is wanted.
#[derive(Debug)]
pub(super) struct Pass {
    from: Place,
    to: Place,
    add: bool,
    /// For maps, whose halos may be others.
    channels: Option<Channels>,
}

impl Pass {
    /// `None` where there is nothing to do.
    pub(super) fn new(path: Path, from: Place, into: Into) -> Option<Self> {
        let (to, add) = match into {
            Into::Write(place) => (place, false),
            Into::Add(place) => (place, true),
            Into::Nowhere | Into::Place => return None,
        };
        let channels = match (from.form, to.form) {
            (Form::Maps(a), Form::Maps(b)) => Some(Channels::new(path, &a, 0, &b, 0, a.channels)),
            _ => None,
        };
        Some(Self { from, to, add, channels })
    }

    pub(super) fn run(&self, n: usize, arena: &mut Arena) {
        let [from, to] = arena.write_all([&self.from, &self.to]);
        let len = self.from.form.len();
        parallel::examples(n, to, self.to.form.len(), |example, to| {
            let from = &from[example * len..][..len];
            match &self.channels {
                Some(channels) => channels.run(from, to, self.add),
                None if self.add => slopes::add(from, to),
                None => to.copy_from_slice(from),
            }
        });
    }
}

pub(super) struct ActivationStage {
    x: Place,
    y: Place,
    forward: activation::Forward,
    backward: Option<ActivationGradient>,
}

struct ActivationGradient {
    kernel: activation::Backward,
    kept: Place,
    dy: Place,
    into: Into,
}

impl ActivationStage {
    pub(super) fn new(function: Activation, wiring: &Wiring, path: Path) -> Self {
        let (x, y) = (wiring.inputs[0], wiring.output);
        let kept = if function.keeps_result() { y } else { x };
        let backward = wiring.gradient.map(|dy| {
            let dx = match wiring.into[0] {
                Into::Write(place) | Into::Add(place) => place,
                Into::Nowhere | Into::Place => dy,
            };
            let kernel = activation::Backward::new(path, function, kept.form.view(), dy.form.view(), dx.form.view());
            ActivationGradient { kernel, kept, dy, into: wiring.into[0] }
        });
        Self { x, y, forward: activation::Forward::new(path, function, x.form.view(), y.form.view()), backward }
    }
}

impl Stage for ActivationStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        let len = self.x.form.len();
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        parallel::examples(run.n, y, self.y.form.len(), |example, y| {
            self.forward.run(Some(&x[example * len..][..len]), y);
        });
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(ActivationGradient { kernel, kept: kept_place, dy: dy_place, into }) = &self.backward else { return };
        let (kept_len, dy_len) = (kept_place.form.len(), dy_place.form.len());
        match into {
            Into::Nowhere => {}
            Into::Place => {
                let [kept, dy] = run.arena.write_all([kept_place, dy_place]);
                parallel::examples(run.n, dy, dy_len, |example, dy| {
                    kernel.run(&kept[example * kept_len..][..kept_len], None, dy, false);
                });
            }
            Into::Write(place) | Into::Add(place) => {
                let add = matches!(into, Into::Add(_));
                let [kept, dy, dx] = run.arena.write_all([kept_place, dy_place, place]);
                parallel::examples(run.n, dx, place.form.len(), |example, dx| {
                    let (kept, dy) = (&kept[example * kept_len..][..kept_len], &dy[example * dy_len..][..dy_len]);
                    kernel.run(kept, Some(dy), dx, add);
                });
            }
        }
    }
}

pub(super) struct DropoutStage {
    number: u64,
    scale: f32,
    x: Place,
    y: Place,
    forward: Dropout,
    backward: Option<(Dropout, Place)>,
    pass: Option<Pass>,
    dropped: Vec<bool>,
    /// A bit an element: see [`Dropout::words`].
    keep: Vec<u16>,
}

impl DropoutStage {
    pub(super) fn new(rate: f64, number: u64, wiring: &Wiring, path: Path) -> Self {
        let (x, y) = (wiring.inputs[0], wiring.output);
        let kernel = |a: &Place, b: &Place| Dropout::new(path, a.form.view(), b.form.view());
        // The gradient is dropped where it lies, and copied where it is wanted elsewhere.
        let backward = wiring.gradient.map(|dy| (kernel(&dy, &dy), dy));
        let pass = wiring.gradient.and_then(|dy| Pass::new(path, dy, wiring.into[0]));
        let scale = (1.0 / (1.0 - rate)) as f32;
        Self { number, scale, x, y, forward: kernel(&x, &y), backward, pass, dropped: Vec::new(), keep: Vec::new() }
    }

    /// Draws the mask of `n` examples.
    fn draw(&mut self, n: usize, drop: &(dyn Fn(u64, &mut [bool]) + Sync)) {
        let form = self.x.form;
        let plain = match form {
            Form::Maps(maps) => maps.channels * maps.size[0] * maps.size[1],
            Form::Row(len) => len,
        };
        self.dropped.clear();
        self.dropped.resize(n * plain, false);
        drop(self.number, &mut self.dropped);
        let words = self.forward.words();
        self.keep.clear();
        self.keep.resize(n * words, 0);
        for (dropped, keep) in self.dropped.chunks_exact(plain).zip(self.keep.chunks_exact_mut(words)) {
            for (index, _) in dropped.iter().enumerate().filter(|(_, dropped)| !**dropped) {
                let (word, bit) = match form {
                    Form::Maps(maps) => {
                        let pixels = maps.size[0] * maps.size[1];
                        let channel = index / pixels;
                        (channel / LANES * pixels + index % pixels, channel % LANES)
                    }
                    Form::Row(_) => (index / LANES, index % LANES),
                };
                keep[word] |= 1 << bit;
            }
        }
    }
}

impl Stage for DropoutStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        let drop = match run.mode {
            Mode::Train { drop } if self.scale > 1.0 => Some(drop),
            _ => None,
        };
        let words = self.forward.words();
        match drop {
            Some(drop) => self.draw(run.n, drop),
            None => {
                self.keep.clear();
                self.keep.resize(run.n * words, u16::MAX);
            }
        }
        let (len, scale) = (self.x.form.len(), if drop.is_some() { self.scale } else { 1.0 });
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        parallel::examples(run.n, y, self.y.form.len(), |example, y| {
            self.forward.run(&self.keep[example * words..], scale, Some(&x[example * len..][..len]), y);
        });
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some((kernel, dy_place)) = &self.backward else { return };
        let words = kernel.words();
        let dy = run.arena.write(dy_place);
        parallel::examples(run.n, dy, dy_place.form.len(), |example, dy| {
            kernel.run(&self.keep[example * words..], self.scale, None, dy);
        });
        if let Some(pass) = &self.pass {
            pass.run(run.n, run.arena);
        }
    }
}

pub(super) struct AddStage {
    path: Path,
    relu: bool,
    inputs: [Place; 2],
    y: Place,
    dy: Option<Place>,
    kernel: Sum,
    passes: Vec<Pass>,
}

impl AddStage {
    pub(super) fn new(relu: bool, wiring: &Wiring, path: Path) -> Self {
        let (a, b, y) = (wiring.inputs[0], wiring.inputs[1], wiring.output);
        let kernel = Sum::new(path, a.form.view(), b.form.view(), y.form.view());
        let kernel = if relu { kernel.with_relu() } else { kernel };
        let dy = wiring.gradient;
        let passes = dy.iter().flat_map(|dy| wiring.into.iter().filter_map(|into| Pass::new(path, *dy, *into)));
        Self { path, relu, inputs: [a, b], y, dy, kernel, passes: passes.collect() }
    }
}

impl Stage for AddStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        let [a_place, b_place] = &self.inputs;
        let (a_len, b_len) = (a_place.form.len(), b_place.form.len());
        run.arena.write_beside(&self.y, |arena, y| {
            let (a, b) = (arena.read(a_place), arena.read(b_place));
            parallel::examples(run.n, y, self.y.form.len(), |example, y| {
                self.kernel.run(&a[example * a_len..][..a_len], &b[example * b_len..][..b_len], y);
            });
        });
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(dy) = &self.dy else { return };
        if self.relu {
            mask(self.path, run.n, run.arena, &self.y, dy);
        }
        self.passes.iter().for_each(|pass| pass.run(run.n, run.arena));
    }
}

pub(super) struct ConcatStage {
    inputs: Vec<Piece>,
    y: Place,
    dy: Option<Place>,
}

/// An input's share of the output.
struct Piece {
    x: Place,
    into: Into,
    /// Where it begins, for rows.
    first: usize,
    forward: Option<Channels>,
    backward: Option<Channels>,
}

impl ConcatStage {
    pub(super) fn new(wiring: &Wiring, path: Path) -> Self {
        let (y, dy) = (wiring.output, wiring.gradient);
        let mut first = 0;
        let inputs = wiring.inputs.iter().zip(&wiring.into).map(|(x, into)| {
            let begin = first;
            let (mut forward, mut backward) = (None, None);
            match (x.form, y.form) {
                (Form::Maps(x), Form::Maps(y)) => {
                    first += x.channels;
                    forward = Some(Channels::new(path, &x, 0, &y, begin, x.channels));
                    if let (Into::Write(dx) | Into::Add(dx), Some(dy)) = (into, dy) {
                        backward = Some(Channels::new(path, &dy.form.maps(), begin, &dx.form.maps(), 0, x.channels));
                    }
                }
                (form, _) => first += form.len(),
            }
            Piece { x: *x, into: *into, first: begin, forward, backward }
        });
        Self { inputs: inputs.collect(), y, dy }
    }
}

impl Stage for ConcatStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        // What lies in the output's buffer lies where it belongs.
        for piece in self.inputs.iter().filter(|piece| piece.x.buffer != self.y.buffer) {
            let len = piece.x.form.len();
            let [x, y] = run.arena.write_all([&piece.x, &self.y]);
            parallel::examples(run.n, y, self.y.form.len(), |example, y| {
                let x = &x[example * len..][..len];
                match &piece.forward {
                    Some(channels) => channels.run(x, y, false),
                    None => y[piece.first..][..len].copy_from_slice(x),
                }
            });
        }
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(dy_place) = self.dy else { return };
        for piece in &self.inputs {
            let (Into::Write(place) | Into::Add(place)) = piece.into else { continue };
            let (add, dy_len) = (matches!(piece.into, Into::Add(_)), dy_place.form.len());
            let [dy, dx] = run.arena.write_all([&dy_place, &place]);
            parallel::examples(run.n, dx, place.form.len(), |example, dx| {
                let dy = &dy[example * dy_len..][..dy_len];
                match &piece.backward {
                    Some(channels) => channels.run(dy, dx, add),
                    None if add => slopes::add(&dy[piece.first..], dx),
                    None => dx.copy_from_slice(&dy[piece.first..][..dx.len()]),
                }
            });
        }
    }
}

pub(super) struct FlattenStage {
    x: Place,
    y: Place,
    dy: Option<Place>,
    into: Into,
    forward: Option<Flatten>,
    backward: Option<Flatten>,
    pass: Option<Pass>,
}

impl FlattenStage {
    pub(super) fn new(wiring: &Wiring, path: Path) -> Self {
        let (x, y, dy, into) = (wiring.inputs[0], wiring.output, wiring.gradient, wiring.into[0]);
        let flatten = |form: Form| match form {
            Form::Maps(maps) if maps.lanes == LANES => Some(Flatten::new(path, &maps)),
            _ => None,
        };
        let backward = match into {
            Into::Write(dx) | Into::Add(dx) => flatten(dx.form),
            Into::Nowhere | Into::Place => None,
        };
        // A row stays a row.
        let pass = if backward.is_none() { dy.and_then(|dy| Pass::new(path, dy, into)) } else { None };
        Self { x, y, dy, into, forward: flatten(x.form), backward, pass }
    }
}

impl Stage for FlattenStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        let len = self.x.form.len();
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        parallel::examples(run.n, y, self.y.form.len(), |example, y| {
            let x = &x[example * len..][..len];
            match &self.forward {
                Some(flatten) => flatten.forward(x, y, false),
                None => y.copy_from_slice(x),
            }
        });
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let (Some(dy_place), Some(flatten)) = (self.dy, &self.backward) else {
            self.pass.iter().for_each(|pass| pass.run(run.n, run.arena));
            return;
        };
        let (Into::Write(place) | Into::Add(place)) = self.into else { return };
        let (add, len) = (matches!(self.into, Into::Add(_)), dy_place.form.len());
        let [dy, dx] = run.arena.write_all([&dy_place, &place]);
        parallel::examples(run.n, dx, place.form.len(), |example, dx| {
            flatten.backward(&dy[example * len..][..len], dx, add);
        });
    }
}
