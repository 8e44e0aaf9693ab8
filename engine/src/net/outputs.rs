//! Layers for outputs alone: they have no gradients.

use crate::graph::{Op, ParameterId};
use crate::kernels::attention::Attention;
use crate::kernels::copy::Channels;
use crate::kernels::function::Map;
use crate::kernels::pairwise::Pairs;
use crate::kernels::pixelwise::{ChannelNorm, Softmax};
use crate::parallel;
use crate::simd::{LANES, Path};

use super::memory::{Form, Place};
use super::parameters::Layout;
use super::wiring::Wiring;
use super::{Run, Stage};

pub(super) struct OutputStage {
    inputs: Vec<Place>,
    y: Place,
    kernel: Kernel,
}

enum Kernel {
    Constant(ParameterId),
    Pairs(Pairs),
    Map(Map),
    Softmax(Softmax),
    ChannelNorm {
        kernel: ChannelNorm,
        weight: ParameterId,
        bias: ParameterId,
    },
    Attention(Attention),
    Channels {
        kernel: Option<Channels>,
        first: usize,
    },
    Append,
    /// For each float of the output's rows where it is in the input.
    Rearrange {
        rows: Vec<Row>,
        fill: f32,
    },
}

/// Floats that lie side by side.
struct Row {
    start: usize,
    from: Vec<u32>,
}

impl OutputStage {
    pub(super) fn new(op: &Op, wiring: &Wiring, path: Path, layouts: &mut [Layout]) -> Self {
        let (inputs, y) = (wiring.inputs.clone(), wiring.output);
        let x = |index: usize| inputs[index].form;
        let kernel = match op {
            Op::Constant(parameter) => {
                layouts[parameter.index()] = match y.form {
                    Form::Maps(maps) => Layout::Maps(maps),
                    Form::Row(_) => Layout::Plain,
                };
                Kernel::Constant(*parameter)
            }
            Op::Pairwise(op) => Kernel::Pairs(Pairs::new(path, *op, x(0).view(), x(1).view(), y.form.view())),
            Op::Function(function) => Kernel::Map(Map::new(path, *function, x(0).view(), y.form.view())),
            Op::Softmax => Kernel::Softmax(Softmax::new(path, x(0).view(), y.form.view())),
            Op::ChannelNorm { epsilon, affine } => {
                layouts[affine.weight.index()] = Layout::Lanes;
                layouts[affine.bias.index()] = Layout::Lanes;
                let kernel = ChannelNorm::new(path, *epsilon, x(0).view(), y.form.view());
                Kernel::ChannelNorm { kernel, weight: affine.weight, bias: affine.bias }
            }
            Op::Attention { heads, scale } => {
                let views = [0, 1, 2].map(|index| x(index).view());
                Kernel::Attention(Attention::new(path, *heads, *scale, views, y.form.view()))
            }
            Op::Channels { first, count } => {
                let kernel = match (x(0), y.form) {
                    (Form::Maps(x), Form::Maps(y)) => Some(Channels::new(path, &x, *first, &y, 0, *count)),
                    _ => None,
                };
                Kernel::Channels { kernel, first: *first }
            }
            Op::Append => Kernel::Append,
            Op::Rearrange { from, fill, .. } => Kernel::Rearrange { rows: rows(from, x(0), y.form), fill: *fill },
            _ => unreachable!("these have gradients"),
        };
        Self { inputs, y, kernel }
    }
}

impl Stage for OutputStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        let (kernel, places, y_form, parameters) = (&self.kernel, &self.inputs, self.y.form, &*run.parameters);
        run.arena.write_beside(&self.y, |arena, y| {
            parallel::examples(run.n, y, y_form.len(), |example, y| {
                let x = |index: usize| {
                    let place = &places[index];
                    let len = place.form.len();
                    &arena.read(place)[example * len..][..len]
                };
                match kernel {
                    Kernel::Constant(parameter) => y.copy_from_slice(&parameters.value(*parameter)[..y.len()]),
                    Kernel::Pairs(kernel) => kernel.run(x(0), x(1), y),
                    Kernel::Map(kernel) => kernel.run(x(0), y),
                    Kernel::Softmax(kernel) => kernel.run(x(0), y),
                    Kernel::ChannelNorm { kernel, weight, bias } => {
                        kernel.run(parameters.value(*weight), parameters.value(*bias), x(0), y);
                    }
                    Kernel::Attention(kernel) => parallel::with_scratch(kernel.scratch_len(), |scratch| {
                        kernel.run(x(0), x(1), x(2), y, scratch);
                    }),
                    Kernel::Channels { kernel: Some(kernel), .. } => kernel.run(x(0), y, false),
                    Kernel::Channels { kernel: None, first } => y.copy_from_slice(&x(0)[*first..][..y.len()]),
                    Kernel::Append => {
                        let mut done = 0;
                        for (index, place) in places.iter().enumerate() {
                            done += append(place.form, x(index), y_form, done, y);
                        }
                    }
                    Kernel::Rearrange { rows, fill } => {
                        let x = x(0);
                        for Row { start, from } in rows {
                            for (to, from) in y[*start..].iter_mut().zip(from) {
                                *to = x.get(*from as usize).copied().unwrap_or(*fill);
                            }
                        }
                    }
                }
            });
        });
    }

    fn backward(&mut self, _run: &mut Run<'_>) {
        unreachable!("planning refuses to train it");
    }
}

/// Copies the pixels of `x` to `y` behind the first `done`, and says how many they are.
fn append(x_form: Form, x: &[f32], y_form: Form, done: usize, y: &mut [f32]) -> usize {
    let to = y_form.maps();
    match x_form {
        Form::Maps(from) => {
            let width = from.size[1];
            for block in 0..from.blocks() {
                for row in 0..from.size[0] {
                    let (source, target) =
                        (from.at(block, row as isize, 0), to.at(block, 0, (done + row * width) as isize));
                    y[target..][..width * LANES].copy_from_slice(&x[source..][..width * LANES]);
                }
            }
            from.size[0] * width
        }
        Form::Row(_) => {
            for (block, x) in x.chunks(LANES).enumerate() {
                y[to.at(block, 0, done as isize)..][..x.len()].copy_from_slice(x);
            }
            1
        }
    }
}

/// Where each float of an output comes from; beyond the input for what is to be filled.
fn rows(from: &[u32], x: Form, y: Form) -> Vec<Row> {
    let source = |place: u32| {
        let place = place as usize;
        let at = match x {
            Form::Maps(maps) => {
                let [height, width] = maps.size;
                let (channel, pixel) = (place / (height * width), place % (height * width));
                if channel >= maps.channels {
                    return u32::MAX;
                }
                let (row, column) = ((pixel / width) as isize, (pixel % width) as isize);
                maps.at(channel / maps.lanes, row, column) + channel % maps.lanes
            }
            Form::Row(len) if place >= len => return u32::MAX,
            Form::Row(_) => place,
        };
        u32::try_from(at).unwrap_or(u32::MAX)
    };
    match y {
        Form::Row(_) => vec![Row { start: 0, from: from.iter().map(|place| source(*place)).collect() }],
        Form::Maps(maps) => {
            let [height, width] = maps.size;
            let mut rows = Vec::with_capacity(maps.blocks() * height);
            for block in 0..maps.blocks() {
                for row in 0..height {
                    let of = |at: usize| {
                        let (column, channel) = (at / LANES, block * LANES + at % LANES);
                        let place = (channel * height + row) * width + column;
                        if channel < maps.channels { source(from[place]) } else { u32::MAX }
                    };
                    let start = maps.at(block, row as isize, 0);
                    rows.push(Row { start, from: (0..width * LANES).map(of).collect() });
                }
            }
            rows
        }
    }
}
