//! Element-wise functions that no network is trained with.

use super::math::{erf, exp, tanh};
use super::pairwise::clear_behind;
use super::view::{Runs, View, get, put};
use crate::graph::Function;
use crate::simd::{LANES, Path, Simd, on_path};

/// `y = f(x)`.
#[derive(Debug)]
pub struct Map {
    path: Path,
    function: Function,
    runs: Runs<2>,
    y: View,
}

impl Map {
    /// Of operands like `x`, written to one like `y`.
    pub fn new(path: Path, function: Function, x: View, y: View) -> Self {
        Self { path, function, runs: Runs::new([x, y]), y }
    }

    /// One example. Lanes behind the last channel become zero.
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        assert!(x.len() >= self.runs.len(0) && y.len() >= self.runs.len(1), "operands of the planned size");
        let operands = [x.as_ptr().cast_mut(), y.as_mut_ptr()];
        macro_rules! each {
            (|$x:ident| $f:expr) => {
                // SAFETY: lengths are checked; only `y` is written; the path is the machine's.
                on_path!(self.path, S => unsafe {
                    S::run(#[inline(always)] || {
                        self.runs.each(operands, #[inline(always)] |[x, y], lanes, _| {
                            let $x = get::<S>(x, lanes);
                            put::<S>(y, $f, lanes);
                        });
                    });
                })
            };
        }
        match self.function {
            Function::Clip { low, high } => each!(|x| S::min(S::splat(high), S::max(S::splat(low), x))),
            Function::LeakyRelu { slope } => {
                each!(|x| S::if_greater(S::splat(0.0), x, S::mul(x, S::splat(slope)), x));
            }
            Function::HardSigmoid { alpha, beta } => each!(|x| {
                let line = S::fma(S::splat(alpha), x, S::splat(beta));
                S::min(S::splat(1.0), S::max(S::splat(0.0), line))
            }),
            Function::Elu { alpha } => each!(|x| {
                let below = S::mul(S::splat(alpha), S::sub(exp::<S>(S::min(S::splat(0.0), x)), S::splat(1.0)));
                S::if_greater(S::splat(0.0), x, below, x)
            }),
            Function::GeluTanh => each!(|x| {
                let cube = S::mul(S::mul(x, x), S::mul(x, S::splat(0.044_715)));
                let inside = S::mul(S::splat(0.797_884_6), S::add(x, cube));
                let half = S::mul(S::splat(0.5), x);
                S::fma(half, tanh::<S>(inside), half)
            }),
            Function::Mish => each!(|x| {
                // tanh(ln(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2) with e = e^x, which is one long before it overflows.
                let e = exp::<S>(S::min(S::splat(20.0), x));
                let top = S::mul(e, S::add(e, S::splat(2.0)));
                S::mul(x, S::div(top, S::add(top, S::splat(2.0))))
            }),
            Function::Exp => each!(|x| exp::<S>(x)),
            Function::Sqrt => each!(|x| root::<S>(x)),
            Function::Erf => each!(|x| erf::<S>(x)),
            Function::Abs => each!(|x| S::max(x, S::sub(S::splat(0.0), x))),
        }
        clear_behind(&self.y, y);
    }
}

/// Square roots, one by one: nothing asks for many.
#[inline(always)]
unsafe fn root<S: Simd>(x: S::V) -> S::V {
    let mut lanes = [0.0_f32; LANES];
    // SAFETY: the caller's.
    unsafe {
        S::store(lanes.as_mut_ptr(), x);
        lanes.iter_mut().for_each(|x| *x = x.sqrt());
        S::load(lanes.as_ptr())
    }
}
