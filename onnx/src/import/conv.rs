//! Convolutions.

use std::rc::Rc;

use engine::Window;
use engine::graph::{Op, Value};

use super::{Args, Importer, View, What};
use crate::error::{Problem, refuse};
use crate::view::{self, Dim};
use crate::{Numbers, limits};

/// A convolution or product whose weights may still change.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) name: String,
    pub(super) input: Value,
    /// A convolution's window and groups.
    pub(super) window: Option<(Window, usize)>,
    pub(super) shape: Vec<usize>,
    pub(super) weight: Numbers,
    pub(super) bias: Option<Vec<f32>>,
}

impl Pending {
    /// With each output multiplied and added to.
    pub(super) fn changed(&self, scale: Option<&[f32]>, shift: Option<&[f32]>) -> Self {
        let mut new = self.clone();
        let inner = self.weight.len() / self.shape[0];
        if let Some(scale) = scale {
            let mut room = Vec::new();
            let rows = self.weight.read(&mut room).chunks_exact(inner).zip(scale);
            new.weight = rows.flat_map(|(row, scale)| row.iter().map(move |weight| weight * scale)).collect();
            new.bias.iter_mut().flatten().zip(scale).for_each(|(bias, scale)| *bias *= scale);
        }
        if let Some(shift) = shift {
            let bias = new.bias.get_or_insert_with(|| vec![0.0; self.shape[0]]);
            bias.iter_mut().zip(shift).for_each(|(bias, shift)| *bias += shift);
        }
        new
    }
}

/// Zeros before and after each of two dimensions.
pub(super) type Pads = [[usize; 2]; 2];

/// How a convolution or a pool slides: its attributes with their defaults.
pub(super) struct Sliding {
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) dilation: [usize; 2],
    pub(super) pads: Pads,
}

impl Args<'_> {
    /// Of a kernel, which the weights give where the attribute does not, on maps of a size that `around` has widened.
    pub(super) fn sliding(
        &self,
        kernel: Option<[usize; 2]>,
        size: [usize; 2],
        around: Pads,
    ) -> Result<Sliding, Problem> {
        let pair = |name: &str, default: Option<[usize; 2]>| match (self.call.ints(name)?, default) {
            (Some(given), _) => match given.as_slice() {
                [a, b] if *a > 0 && *b > 0 && a.max(b) < &i64::from(u16::MAX) => Ok([*a as usize, *b as usize]),
                _ => refuse!("its `{name}` is {given:?}: two whole numbers above 0 are accepted"),
            },
            (None, Some(default)) => Ok(default),
            (None, None) => refuse!("it has no `{name}`"),
        };
        let kernel = pair("kernel_shape", kernel)?;
        let (stride, dilation) = (pair("strides", Some([1, 1]))?, pair("dilations", Some([1, 1]))?);
        let mut pads = around;
        let auto = self.call.text("auto_pad", "NOTSET")?;
        match auto {
            "NOTSET" | "" => {
                let given = self.call.ints("pads")?.unwrap_or_else(|| vec![0; 4]);
                let given: Option<Vec<usize>> = given.iter().map(|pad| usize::try_from(*pad).ok()).collect();
                match given.as_deref() {
                    Some([top, left, bottom, right]) if given.iter().flatten().all(|pad| *pad <= limits::PADDING) => {
                        for (pads, more) in pads.iter_mut().zip([[top, bottom], [left, right]]) {
                            *pads = [pads[0] + more[0], pads[1] + more[1]];
                        }
                    }
                    _ => refuse!("its `pads` are no four whole numbers of 0 to {}", limits::PADDING),
                }
            }
            "VALID" => {}
            "SAME_UPPER" | "SAME_LOWER" => {
                for axis in 0..2 {
                    let size = size[axis] + around[axis][0] + around[axis][1];
                    let reach = (kernel[axis] - 1) * dilation[axis] + 1;
                    let all = ((size.div_ceil(stride[axis]) - 1) * stride[axis] + reach).saturating_sub(size);
                    let less = all / 2;
                    let [before, after] = if auto == "SAME_UPPER" { [less, all - less] } else { [all - less, less] };
                    pads[axis] = [pads[axis][0] + before, pads[axis][1] + after];
                }
            }
            other => refuse!("its `auto_pad` is `{other}`"),
        }
        if pads.iter().flatten().any(|pad| *pad > 2 * limits::PADDING) {
            refuse!("there are more than {} zeros on a side of its input", 2 * limits::PADDING);
        }
        Ok(Sliding { kernel, stride, dilation, pads })
    }
}

impl Sliding {
    /// The window on maps of a size. With `ceil` a last window that hangs over counts, if it does not begin behind the maps.
    pub(super) fn window(&self, size: [usize; 2], ceil: bool) -> Result<Window, Problem> {
        let mut output = [0; 2];
        for axis in 0..2 {
            let [before, after] = self.pads[axis];
            let reach = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
            let Some(room) = (size[axis] + before + after).checked_sub(reach) else {
                refuse!("its kernel {:?} is larger than its input {size:?} with {:?} around", self.kernel, self.pads)
            };
            let stride = self.stride[axis];
            let mut steps = if ceil { room.div_ceil(stride) } else { room / stride };
            if ceil && steps * stride >= size[axis] + before {
                steps -= 1;
            }
            output[axis] = steps + 1;
        }
        let before = self.pads.map(|[before, _]| before);
        Ok(Window { kernel: self.kernel, stride: self.stride, before, dilation: self.dilation, output })
    }
}

impl Importer {
    pub(super) fn conv(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let (view, weight) = (args.view(0)?, args.constant(1)?);
        let &[filters, of_group, height, width] = weight.shape.as_slice() else {
            refuse!("its weights are {:?}: [filters, channels, height, width] is accepted", weight.shape)
        };
        let (view, around) = self.unpadded(view)?;
        let &[_, channels, rows, columns] = view::shape(&view.axes).as_slice() else {
            refuse!("its input has {} dimensions: [N, C, H, W] is accepted", view.axes.len())
        };
        let sliding = args.sliding(Some([height, width]), [rows, columns], around)?;
        if sliding.kernel != [height, width] {
            refuse!("its kernel is {:?} and its weights are {:?}", sliding.kernel, weight.shape);
        }
        let Ok(groups) = usize::try_from(args.call.int("group", 1)?) else { refuse!("its `group` is negative") };
        if filters == 0 || groups.checked_mul(of_group) != Some(channels) {
            refuse!("its weights {:?} do not fit {channels} channels in {groups} groups", weight.shape);
        }
        let window = sliding.window([rows, columns], false)?;
        crate::tensor::count(&[filters, window.outputs()])?;
        let padded = [0, 1].map(|axis| [rows, columns][axis] + sliding.pads[axis][0] + sliding.pads[axis][1]);
        crate::tensor::count(&[channels, padded[0], padded[1]])?;
        let bias = args.known(2)?.map(|bias| bias.to_floats().to_vec());
        if bias.as_ref().is_some_and(|bias| bias.len() != filters) {
            refuse!("its bias does not have {filters} numbers");
        }
        // A number a channel: a product, as in squeeze-and-excitation.
        let linear = groups == 1 && [padded, [height, width]] == [[1, 1]; 2];
        let input = if linear { self.arrange(&view, &[1], &[], None)?.0 } else { self.maps(&view)? };
        let (window_of, shape) =
            if linear { (None, vec![filters, of_group]) } else { (Some((window, groups)), weight.shape.clone()) };
        let input = if linear { self.row(input)? } else { input };
        let name = args.call.node.inputs[1].to_string();
        let pending = Pending { name, input, window: window_of, shape, weight: weight.numbers(), bias };
        let axes = vec![
            self.example_axis(),
            view::axis(Dim::Channel, filters, 1),
            view::axis(Dim::Pixel, window.output[0], window.output[1]),
            view::axis(Dim::Pixel, window.output[1], 1),
        ];
        Ok(View { what: What::Pending(Rc::new(pending)), axes })
    }

    /// A value of one pixel as a row.
    pub(super) fn row(&mut self, value: Value) -> Result<Value, Problem> {
        if self.graph.shape(value).len() == 1 { Ok(value) } else { self.add(Op::Flatten, &[value]) }
    }

    pub(super) fn emit(&mut self, pending: &Pending) -> Result<Value, Problem> {
        let weight = self.parameter(&pending.name, &pending.shape, pending.weight.clone())?;
        let bias = pending
            .bias
            .as_ref()
            .map(|bias| self.parameter(&format!("{} bias", pending.name), &[bias.len()], bias.as_slice()))
            .transpose()?;
        let op = match pending.window {
            Some((window, groups)) => Op::Conv { window, groups, weight, bias },
            None => Op::Linear { weight, bias },
        };
        self.add(op, &[pending.input])
    }
}
