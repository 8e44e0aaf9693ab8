//! Layers that read or write bytes.

use std::sync::atomic::Ordering;

use crate::graph::{Graph, Op, ParameterId, Value};
use crate::kernels::bytes::{self, Code, Depthwise, Quantize, Requantize, Weights};
use crate::kernels::dense::Int8Forward;
use crate::parallel;
use crate::simd::Path;

use super::codes::{Codes, Kind};
use super::conv::{Norm, lay};
use super::lower::{Layer, LayerOp};
use super::memory::Place;
use super::parameters::{Layout, Parameters};
use super::wiring::{Wiring, conv_shape};
use super::{Precision, Run, Stage};

/// The stage of a layer that reads or writes bytes, or multiplies them; `None` for all others.
pub(super) fn stage(
    layer: &Layer,
    wiring: &Wiring,
    path: Path,
    codes: &Codes,
    graph: &Graph,
    layouts: &mut [Layout],
) -> Option<Box<dyn Stage>> {
    let (x, y) = (*wiring.inputs.first()?, wiring.output);
    let code = codes.stored(layer.inputs[0]);
    match &layer.op {
        LayerOp::Conv { .. } => {
            let stage = ConvStage::new(layer, wiring, path, codes, graph, layouts)?;
            Some(Box::new(stage))
        }
        LayerOp::Alone(Op::MaxPool(window)) => {
            code?;
            let kernel = bytes::MaxPool::new(window, x.form.maps(), y.form.maps());
            Some(Box::new(PoolStage { x, y, kernel: Pool::Max(kernel) }))
        }
        LayerOp::Alone(Op::AvgPool { window, count_padding }) => {
            let kernel = bytes::AvgPool::new(window, *count_padding, x.form.maps(), y.form.maps(), code?.zero);
            Some(Box::new(PoolStage { x, y, kernel: Pool::Avg(kernel) }))
        }
        LayerOp::Alone(Op::GlobalAvgPool) => {
            let kernel = bytes::GlobalAvgPool::new(x.form.maps(), code?.clone());
            Some(Box::new(PoolStage { x, y, kernel: Pool::Global(kernel) }))
        }
        LayerOp::Alone(Op::Concat) => {
            code?;
            let mut first = 0;
            let pieces = wiring.inputs.iter().map(|piece| {
                let begin = first;
                first += piece.form.maps().blocks();
                (*piece, begin)
            });
            Some(Box::new(ConcatStage { pieces: pieces.collect(), y }))
        }
        _ => None,
    }
}

/// A convolution by bytes, of bytes or of numbers that are rounded to them.
struct ConvStage {
    weight: ParameterId,
    bias: Option<ParameterId>,
    folded: Option<Norm>,
    x: Place,
    y: Place,
    /// For numbers.
    quantize: Option<Quantize>,
    /// What is added is copied to where the sums come, unless it lies there.
    added: Option<Place>,
    /// The input's code, and its channels' means.
    code: Code,
    means: Vec<f32>,
    /// The output's, where it is bytes, and that of what is added.
    output: Option<Code>,
    residual: Option<Code>,
    clamp: Option<[f32; 2]>,
    kernel: Kernel,
    /// As bytes, once there are some.
    rounded: Option<Weights>,
    /// What makes an output of a sum: see [`Requantize`].
    scale: Vec<f32>,
    shift: Vec<f32>,
    times: Vec<f32>,
    low: f32,
    high: Vec<f32>,
}

enum Kernel {
    Dense(Box<Int8Forward>),
    Depthwise(Box<Depthwise>),
}

impl ConvStage {
    fn new(
        layer: &Layer,
        wiring: &Wiring,
        path: Path,
        codes: &Codes,
        graph: &Graph,
        layouts: &mut [Layout],
    ) -> Option<Self> {
        let LayerOp::Conv { weight, bias, norm, clamp, .. } = &layer.op else { return None };
        let (x, y) = (wiring.inputs[0], wiring.output);
        let channels = |value: Value| graph.shape(value)[0];
        let shape = conv_shape(&layer.op, channels(layer.inputs[0]), channels(layer.output));
        let (code, output) = (codes.of(layer.inputs[0])?.clone(), codes.stored(layer.output).cloned());
        let is_bytes = codes.stored(layer.inputs[0]).is_some();
        let (kernel, quantize, order) = match codes.kind(graph, layer) {
            Kind::Dense => {
                let quantize = if is_bytes { None } else { Some(Quantize::new(x.form.maps(), &code)?) };
                let words = quantize.as_ref().map_or_else(|| x.form.maps(), Quantize::maps);
                let kernel = Int8Forward::new(path, &shape, words, y.form.maps())?;
                let order = Layout::Packed(kernel.packing().clone());
                (Kernel::Dense(Box::new(kernel)), quantize, order)
            }
            Kind::Depthwise if is_bytes => {
                let kernel = Depthwise::new(path, &shape, x.form.maps(), y.form.maps())?;
                (Kernel::Depthwise(Box::new(kernel)), None, Layout::Depthwise { taps: shape.window.taps() })
            }
            _ => return None,
        };
        lay(&layer.op, &order, layouts);
        let residual = layer.inputs.get(1).and_then(|value| codes.of(*value).cloned());
        Some(Self {
            weight: *weight,
            bias: *bias,
            folded: norm.map(|of| Norm::new(of, order, &shape)),
            x,
            y,
            quantize,
            added: wiring.inputs.get(1).copied().filter(|place| *place != y),
            code,
            means: codes.means(layer.inputs[0]).to_vec(),
            output,
            residual,
            clamp: *clamp,
            kernel,
            rounded: None,
            scale: Vec::new(),
            shift: Vec::new(),
            times: Vec::new(),
            low: f32::NEG_INFINITY,
            high: Vec::new(),
        })
    }
}

impl Stage for ConvStage {
    fn prepare(&mut self, parameters: &Parameters) {
        if let Some(norm) = &mut self.folded {
            norm.prepare(self.weight, self.bias, parameters);
        }
        let (weights, bias) = match &self.folded {
            Some(norm) => (&*norm.weights, Some(&*norm.bias)),
            None => (parameters.value(self.weight), self.bias.map(|bias| parameters.value(bias))),
        };
        let Weights { scales, lost, .. } = self.rounded.insert(match &self.kernel {
            Kernel::Dense(kernel) => kernel.round(weights, &self.code, &self.means),
            Kernel::Depthwise(kernel) => kernel.round(weights, &self.code, &self.means),
        });
        // An output is sum * scale + bias + what is added, in floats, or in steps from the zero of its code.
        let lanes = scales.len();
        let of = |code: &Option<Code>, lane: usize| {
            let scale = code.as_ref().and_then(|code| code.scales.get(lane));
            scale.map_or(1.0, |scale| f64::from(*scale))
        };
        let zero = |code: &Option<Code>| code.as_ref().map_or(0.0, |code| f64::from(code.zero));
        let step = |lane: usize| of(&self.output, lane);
        // Bytes that are added stand for numbers in a code of their own.
        let times = |lane: usize| if self.output.is_some() { of(&self.residual, lane) } else { 1.0 };
        let taken = |lane: usize| if self.output.is_some() { times(lane) * zero(&self.residual) } else { 0.0 };
        // What rounded weights lose in the mean is given back: it is the same for all pixels, and would not average out.
        let bias = |lane: usize| bias.map_or(0.0, |bias| f64::from(bias[lane])) + f64::from(lost[lane]);
        let [low, high] = self.clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]).map(f64::from);
        let place = |bound: f64, lane: usize| match &self.output {
            Some(_) => (bound / step(lane) + zero(&self.output)).clamp(0.0, 255.0),
            None => bound,
        };
        self.scale = (0..lanes).map(|lane| (f64::from(scales[lane]) / step(lane)) as f32).collect();
        let shift = |lane: usize| (bias(lane) - taken(lane)) / step(lane) + zero(&self.output);
        self.shift = (0..lanes).map(|lane| shift(lane) as f32).collect();
        self.times = (0..lanes).map(|lane| (times(lane) / step(lane)) as f32).collect();
        // The least is zero or nothing: the same in all channels.
        self.low = place(low, 0) as f32;
        self.high = (0..lanes).map(|lane| place(high, lane) as f32).collect();
    }

    fn kept(&self) -> usize {
        let weights = match &self.kernel {
            Kernel::Dense(kernel) => kernel.len(),
            Kernel::Depthwise(kernel) => kernel.len(),
        };
        let folded = self.folded.as_ref().map_or(0, |norm| norm.weights.len() + norm.bias.len());
        weights + folded
    }

    fn precision(&self) -> Precision {
        Precision::Int8
    }

    fn forward(&mut self, run: &mut Run<'_>) {
        if let Some(added) = &self.added {
            let [from, to] = run.arena.write_all([added, &self.y]);
            let (from_maps, to_maps) = (added.form.maps(), self.y.form.maps());
            parallel::examples(run.n, to, to_maps.len(), |example, to| {
                from_maps.copy_blocks(&from[example * from_maps.len()..], &to_maps, 0, to);
            });
        }
        let finish = Requantize {
            scale: &self.scale,
            shift: &self.shift,
            add: self.residual.is_some().then_some(&self.times[..]),
            low: self.low,
            high: &self.high,
            bytes: self.output.is_some(),
        };
        let weights = self.rounded.as_ref().expect("prepared");
        let compute = |x: &[f32], y: &mut [f32]| match &self.kernel {
            Kernel::Dense(kernel) => kernel.run(weights, x, y, finish),
            Kernel::Depthwise(kernel) => kernel.run(weights, x, y, finish),
        };
        let odd = run.odd;
        let len = self.x.form.len();
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        parallel::examples(run.n, y, self.y.form.len(), |example, y| {
            let x = &x[example * len..][..len];
            let Some(quantize) = &self.quantize else { return compute(x, y) };
            parallel::with_scratch(quantize.maps().len(), |words| {
                if !quantize.run(x, words) {
                    odd[example].store(true, Ordering::Relaxed);
                }
                compute(words, y);
            });
        });
    }

    fn backward(&mut self, _: &mut Run<'_>) {}
}

struct PoolStage {
    x: Place,
    y: Place,
    kernel: Pool,
}

enum Pool {
    Max(bytes::MaxPool),
    Avg(bytes::AvgPool),
    Global(bytes::GlobalAvgPool),
}

impl Stage for PoolStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        let len = self.x.form.len();
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        parallel::examples(run.n, y, self.y.form.len(), |example, y| {
            let x = &x[example * len..][..len];
            match &self.kernel {
                Pool::Max(pool) => pool.run(x, y),
                Pool::Avg(pool) => pool.run(x, y),
                Pool::Global(pool) => pool.run(x, y),
            }
        });
    }

    fn backward(&mut self, _: &mut Run<'_>) {}
}

/// Bytes side by side, with the block of the output that each piece begins with.
struct ConcatStage {
    pieces: Vec<(Place, usize)>,
    y: Place,
}

impl Stage for ConcatStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        let y_maps = self.y.form.maps();
        // What lies in the output's buffer lies where it belongs.
        for (place, first) in self.pieces.iter().filter(|(place, _)| place.buffer != self.y.buffer) {
            let maps = place.form.maps();
            let [x, y] = run.arena.write_all([place, &self.y]);
            parallel::examples(run.n, y, y_maps.len(), |example, y| {
                maps.copy_blocks(&x[example * maps.len()..], &y_maps, *first, y);
            });
        }
    }

    fn backward(&mut self, _: &mut Run<'_>) {}
}
