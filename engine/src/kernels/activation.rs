//! Element-wise activations and their gradients, as PyTorch defines them. Not a number stays so: a network that diverges must not
//! look healthy.

use super::elementwise::one_to_one;
use super::math::{erf, exp, sigmoid, tanh};
use super::view::{Runs, View, get, put};
use crate::graph::Activation;
use crate::simd::{Path, Simd, on_path};

impl Activation {
    /// Whether the gradient is computed from the result, so that the argument may be forgotten; else it is from the argument.
    pub fn keeps_result(self) -> bool {
        matches!(self, Self::Relu | Self::Relu6 | Self::LeakyRelu | Self::Sigmoid | Self::Tanh)
    }
}

/// What leaky relu multiplies negative numbers by.
const LEAK: f32 = 0.01;

/// Runs `$loop!(closure)` with the closure of `$function`, so that the choice is made outside of the loop.
macro_rules! on_function {
    ($function:expr, $loop:ident, $of:ident: $($name:ident)*) => {
        match $function { $(Activation::$name => $loop!($of::$name)),* }
    };
}

/// `y = f(x)`.
#[derive(Debug)]
pub struct Forward {
    path: Path,
    function: Activation,
    runs: Runs<2>,
}

impl Forward {
    /// Of operands like `x`, written to one like `y`.
    pub fn new(path: Path, function: Activation, x: View, y: View) -> Self {
        Self { path, function, runs: Runs::new([x, y]) }
    }

    /// Without an `x` it is what stands in `y`.
    pub fn run(&self, x: Option<&[f32]>, y: &mut [f32]) {
        let operands = one_to_one(&self.runs, x, y);
        macro_rules! each {
            ($($f:tt)*) => {
                // SAFETY: lengths are checked; only `y` is written; the path is the machine's.
                on_path!(self.path, S => unsafe {
                    S::run(#[inline(always)] || {
                        self.runs.each(operands, #[inline(always)] |[x, y], lanes, _| {
                            put::<S>(y, $($f)*::<S>(get::<S>(x, lanes)), lanes);
                        });
                    });
                })
            };
        }
        on_function!(self.function, each, value: Relu Relu6 LeakyRelu Gelu Silu HardSwish Sigmoid Tanh);
    }
}

/// `dx = dy * f'(x)`.
#[derive(Debug)]
pub struct Backward {
    path: Path,
    function: Activation,
    runs: Runs<3>,
}

impl Backward {
    /// Of results or arguments like `kept`, as [`Activation::keeps_result`] says, and gradients like `dy`, to gradients like `dx`.
    pub fn new(path: Path, function: Activation, kept: View, dy: View, dx: View) -> Self {
        Self { path, function, runs: Runs::new([kept, dy, dx]) }
    }

    /// Without a `dy` it is what stands in `dx`. Else, with `add`, the gradient is added to that.
    pub fn run(&self, kept: &[f32], dy: Option<&[f32]>, dx: &mut [f32], add: bool) {
        assert!(dy.is_some() || (self.runs.alike(1, 2) && !add), "a gradient in place lies like its result");
        let (len, dx_at) = (dx.len(), dx.as_mut_ptr());
        let lens = [kept.len(), dy.map_or(len, <[f32]>::len), len];
        assert!((0..3).all(|index| lens[index] >= self.runs.len(index)), "operands of the planned size");
        let operands = [kept.as_ptr().cast_mut(), dy.map_or(dx_at, |dy| dy.as_ptr().cast_mut()), dx_at];
        macro_rules! each {
            ($($f:tt)*) => {
                // SAFETY: lengths are checked; only `dx` is written; the path is the machine's.
                on_path!(self.path, S => unsafe {
                    S::run(#[inline(always)] || {
                        self.runs.each(operands, #[inline(always)] |[kept, dy, dx], lanes, _| {
                            let mut slope = $($f)*::<S>(get::<S>(kept, lanes), get::<S>(dy, lanes));
                            if add {
                                slope = S::add(slope, get::<S>(dx, lanes));
                            }
                            put::<S>(dx, slope, lanes);
                        });
                    });
                })
            };
        }
        on_function!(self.function, each, slope: Relu Relu6 LeakyRelu Gelu Silu HardSwish Sigmoid Tanh);
    }
}

macro_rules! functions {
    ($($name:ident($($x:ident),*) $body:block)*) => {
        $(#[inline(always)]
        pub(super) unsafe fn $name<S: Simd>($($x: S::V),*) -> S::V {
            // SAFETY: the caller's.
            unsafe { $body }
        })*
    };
}

/// The functions.
#[expect(non_snake_case, reason = "named as the functions are")]
mod value {
    use super::*;

    // What may not be a number stands second in `max` and `min`.
    functions! {
        Relu(x) { S::max(S::splat(0.0), x) }
        Relu6(x) { S::min(S::splat(6.0), S::max(S::splat(0.0), x)) }
        LeakyRelu(x) { S::if_greater(S::splat(0.0), x, S::mul(x, S::splat(LEAK)), x) }
        Gelu(x) { S::mul(x, below::<S>(x)) }
        Silu(x) { S::mul(x, sigmoid::<S>(x)) }
        HardSwish(x) { S::mul(S::mul(x, Relu6::<S>(S::add(x, S::splat(3.0)))), S::splat(1.0 / 6.0)) }
        Sigmoid(x) { sigmoid::<S>(x) }
        Tanh(x) { tanh::<S>(x) }
    }
}

/// The gradient of the argument, from the result or the argument and the gradient of the result.
#[expect(non_snake_case, reason = "named as the functions are")]
mod slope {
    use super::*;

    functions! {
        Relu(y, dy) { S::if_greater(y, S::splat(0.0), dy, S::splat(0.0)) }
        Relu6(y, dy) { S::if_greater(S::splat(6.0), y, Relu::<S>(y, dy), S::splat(0.0)) }
        LeakyRelu(y, dy) { S::if_greater(y, S::splat(0.0), dy, S::mul(dy, S::splat(LEAK))) }
        Gelu(x, dy) {
            let density = S::mul(S::splat(0.398_942_3), exp::<S>(S::mul(S::mul(x, x), S::splat(-0.5))));
            S::mul(dy, S::fma(x, density, below::<S>(x)))
        }
        Silu(x, dy) {
            let (s, one) = (sigmoid::<S>(x), S::splat(1.0));
            S::mul(dy, S::mul(s, S::fma(x, S::sub(one, s), one)))
        }
        HardSwish(x, dy) {
            let three = S::splat(3.0);
            let inside = S::mul(S::add(S::add(x, x), three), S::splat(1.0 / 6.0));
            let right = S::if_greater(three, x, S::mul(dy, inside), dy);
            S::if_greater(x, S::splat(-3.0), right, S::splat(0.0))
        }
        Sigmoid(y, dy) { S::mul(dy, S::mul(y, S::sub(S::splat(1.0), y))) }
        Tanh(y, dy) { S::mul(dy, S::sub(S::splat(1.0), S::mul(y, y))) }
    }
}

functions! {
    // The share of a standard normal distribution below `x`.
    below(x) {
        let half = S::splat(0.5);
        S::fma(half, erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2))), half)
    }
}
