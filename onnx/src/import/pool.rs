//! Pools.

use engine::Window;
use engine::graph::{Op, Pairwise, Value};

use super::{Args, Importer, View, What};
use crate::error::{Problem, refuse};

impl Importer {
    pub(super) fn pool(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let call = &args.call;
        let largest = call.node.op == "MaxPool";
        if call.node.outputs.len() > 1 && !call.node.outputs[1].is_empty() {
            refuse!("the places of its maxima are not accepted as an output");
        }
        let value = self.maps(&args.view(0)?)?;
        let [height, width] = match self.graph.shape(value) {
            [_, height, width] => [*height, *width],
            _ => [1, 1],
        };
        let size = [height, width];
        let ceil = call.flag("ceil_mode", false)?;
        let sliding = args.sliding(None, size, [[0; 2]; 2])?;
        if sliding.pads.iter().zip(sliding.kernel).any(|(pads, kernel)| pads[0].max(pads[1]) >= kernel.max(2)) {
            refuse!("there are more zeros around it than its kernel is large");
        }
        let window = sliding.window(size, ceil)?;
        crate::tensor::count(&[window.outputs(), window.taps()])?;
        let value = if largest {
            self.max_pool(value, window)?
        } else {
            let count_padding = call.flag("count_include_pad", false)?;
            let pooled = self.add(Op::AvgPool { window, count_padding }, &[value])?;
            // What hangs over the zeros as well does not count.
            let end = [0, 1].map(|axis| size[axis] + sliding.pads[axis][0] + sliding.pads[axis][1]);
            let reach = |axis: usize| {
                let of = move |output: usize| {
                    let at = move |tap: usize| output * window.stride[axis] + tap * window.dilation[axis];
                    (0..window.kernel[axis]).filter(|tap| at(*tap) < end[axis]).count()
                };
                (0..window.output[axis]).map(of).collect::<Vec<usize>>()
            };
            let (rows, columns) = (reach(0), reach(1));
            let is_whole = rows.last() == Some(&window.kernel[0]) && columns.last() == Some(&window.kernel[1]);
            if count_padding && !is_whole { self.reweighted(pooled, &window, &rows, &columns)? } else { pooled }
        };
        Ok(View { axes: self.map_axes(value), what: What::Value(value) })
    }

    pub(super) fn max_pool(&mut self, value: Value, window: Window) -> Result<Value, Problem> {
        if window.taps() > usize::from(u16::MAX) {
            refuse!("its kernel {:?} has more than {} places", window.kernel, u16::MAX);
        }
        self.add(Op::MaxPool(window), &[value])
    }

    /// Means by all taps made means by those that count.
    fn reweighted(
        &mut self,
        value: Value,
        window: &Window,
        rows: &[usize],
        columns: &[usize],
    ) -> Result<Value, Problem> {
        let factors: Vec<f32> = rows
            .iter()
            .flat_map(|row| columns.iter().map(move |column| window.taps() as f32 / (row * column) as f32))
            .collect();
        let shape = self.graph.shape(value).to_vec();
        let all = factors.repeat(shape[0]);
        let factors = self.parameter("shares of a pool", &shape, all)?;
        let factors = self.add(Op::Constant(factors), &[])?;
        self.add(Op::Pairwise(Pairwise::Mul), &[value, factors])
    }
}
