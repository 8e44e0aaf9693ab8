//! Convolutions.
//!
//! candle's `conv2d` has one stride, dilation and padding for both axes, and its gradient fails where a stride leaves rows and
//! columns over by different numbers. Where the axes are alike its values are used, with a gradient made of convolutions, too;
//! elsewhere, and in groups, a convolution is a matrix product with the window's taps, views of the padded input a stride apart.

use candle_core::{Result, Tensor};
use engine::Window;

use super::aside::with_gradient;
use super::ops::{beside, framed, sums_of_channels, taps};

/// A convolution in groups.
pub(super) fn conv(
    x: &Tensor,
    window: &Window,
    groups: usize,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    match Square::of(window).filter(|_| groups == 1) {
        Some(square) => square.conv(x, window, weight, bias),
        None => with_bias(conv_of_taps(x, window, groups, weight)?, bias),
    }
}

fn with_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => y.broadcast_add(&beside(bias, &y)?),
        None => Ok(y),
    }
}

/// A window that is the same along both axes.
#[derive(Clone, Copy)]
struct Square {
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: usize,
}

impl Square {
    /// Nothing where the axes differ, or a window may lie in the padding alone.
    fn of(window: &Window) -> Option<Self> {
        let same = |[rows, columns]: [usize; 2]| (rows == columns).then_some(rows);
        let (kernel, stride) = (same(window.kernel)?, same(window.stride)?);
        let (dilation, padding) = (same(window.dilation)?, same(window.before)?);
        (padding <= (kernel - 1) * dilation).then_some(Self { kernel, stride, dilation, padding })
    }

    /// Where the window reaches, beyond its first tap.
    fn reach(self) -> usize {
        (self.kernel - 1) * self.dilation
    }

    /// A convolution by candle's, whose gradients are convolutions, too.
    fn conv(mut self, x: &Tensor, window: &Window, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let fits = |axis: usize| {
            let padded = x.dims()[axis + 2] + 2 * self.padding;
            padded > self.reach() && (padded - self.reach() - 1) / self.stride + 1 == window.output[axis]
        };
        let mut x = x.clone();
        if !(fits(0) && fits(1)) {
            x = framed(&x, window, 0.0)?;
            self.padding = 0;
        }
        let of = |x: &Tensor, weight: &Tensor| x.conv2d(weight, self.padding, self.stride, self.dilation, 1);
        let has_slope = x.track_op();
        let has_bias = bias.is_some();
        let y = with_bias(of(&x.detach(), &weight.detach())?, bias.map(Tensor::detach).as_ref())?;
        with_gradient(y, [&x, weight, bias.unwrap_or(weight)], move |[x, weight, _], _, slope| {
            let of_x = if has_slope { Some(self.slope_of_input(x, weight, slope)?) } else { None };
            let of_bias = if has_bias { Some(sums_of_channels(slope)?) } else { None };
            Ok([of_x, Some(self.slope_of_weight(x, slope)?), of_bias])
        })
    }

    /// The slopes, a stride apart, met by the mirrored filters.
    fn slope_of_input(self, x: &Tensor, weight: &Tensor, slope: &Tensor) -> Result<Tensor> {
        let (filters, channels, kernel, _) = weight.dims4()?;
        let mirror: Vec<u32> = (0..(kernel * kernel) as u32).rev().collect();
        let mirror = Tensor::new(mirror, x.device())?;
        let weight = weight.reshape((filters, channels, ()))?.index_select(&mirror, 2)?;
        let weight = weight.reshape((filters, channels, kernel, kernel))?.transpose(0, 1)?.contiguous()?;
        let slope = spread(slope, self.stride)?;
        let all = slope.conv2d(&weight, self.reach() - self.padding, 1, self.dilation, 1)?;
        // Behind the last window nothing was met.
        all.narrow(2, 0, x.dim(2)?)?.narrow(3, 0, x.dim(3)?)
    }

    /// What each tap met, a convolution with examples for channels.
    fn slope_of_weight(self, x: &Tensor, slope: &Tensor) -> Result<Tensor> {
        let slope = slope.transpose(0, 1)?.contiguous()?;
        let all = x.transpose(0, 1)?.conv2d(&slope, self.padding, self.dilation, self.stride, 1)?;
        all.narrow(2, 0, self.kernel)?.narrow(3, 0, self.kernel)?.transpose(0, 1)
    }
}

/// Maps with zeros behind every row and column, so that they are `stride` apart.
fn spread(x: &Tensor, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(x.clone());
    }
    let (n, channels, height, width) = x.dims4()?;
    let x = x.reshape((n, channels, height, 1, width, 1))?;
    let x = x.pad_with_zeros(3, 0, stride - 1)?.pad_with_zeros(5, 0, stride - 1)?;
    x.reshape((n, channels, height * stride, width * stride))
}

/// Any convolution, as a product of its filters with the taps of its window.
fn conv_of_taps(x: &Tensor, window: &Window, groups: usize, weight: &Tensor) -> Result<Tensor> {
    let (n, channels) = (x.dim(0)?, x.dim(1)?);
    let (filters, [height, width]) = (weight.dim(0)?, window.output);
    let (of_group, count, taps_count) = (channels / groups, n * window.outputs(), window.taps());
    let x = framed(x, window, 0.0)?.transpose(0, 1)?;
    let columns = Tensor::stack(&taps(&x, window)?, 0)?.reshape((taps_count, groups, of_group, count))?;
    let columns = columns.transpose(0, 1)?.reshape((groups, taps_count * of_group, count))?;
    let weight = weight.reshape((groups, filters / groups, of_group, taps_count))?.transpose(2, 3)?;
    let weight = weight.reshape((groups, filters / groups, taps_count * of_group))?;
    weight.matmul(&columns)?.reshape((filters, n, height, width))?.transpose(0, 1)?.contiguous()
}
