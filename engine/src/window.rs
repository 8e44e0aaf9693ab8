//! A window that slides over maps.

/// How a kernel or a pool slides; pairs are height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Its size.
    pub kernel: [usize; 2],
    /// From one output to the next.
    pub stride: [usize; 2],
    /// Zeros before the first row and column. Those after the last are what the number of outputs implies.
    pub before: [usize; 2],
    /// From one tap to the next.
    pub dilation: [usize; 2],
    /// Outputs.
    pub output: [usize; 2],
}

impl Window {
    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Positions.
    pub fn outputs(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// From the first to the last place along an axis that a kernel sees.
    pub fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// A kernel whose outputs are as large as its input, with a step of one.
    pub fn same(kernel: [usize; 2], size: [usize; 2]) -> Self {
        let before = [(kernel[0] - 1) / 2, (kernel[1] - 1) / 2];
        Self { kernel, stride: [1, 1], before, dilation: [1, 1], output: size }
    }

    /// Whether its taps lie side by side and its outputs are one step apart.
    pub fn is_plain(&self) -> bool {
        self.stride == [1, 1] && self.dilation == [1, 1]
    }
}
