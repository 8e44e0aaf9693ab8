//! Element-wise activations.

use candle_core::{Result, Tensor};
use shared::contract::Activation;

use super::{Kernel, Real, View, apply1, parallel, plain2};

/// The activation of every element of `x`, of any shape.
pub(in crate::compute) fn activation(function: Activation, x: &Tensor) -> Result<Tensor> {
    apply1(Elementwise(function), x)
}

/// The gradient of the argument of `relu`, from its result.
pub(super) fn relu_gradient(output: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    // Where the result is positive so is the argument, and it is the same number.
    plain2(Gradient(Activation::Relu), [output, gradient])
}

struct Elementwise(Activation);

impl Kernel<1> for Elementwise {
    const NAME: &'static str = "activation";

    fn forward<T: Real>(&self, [x]: [View<'_, T>; 1]) -> (Vec<T>, Vec<usize>) {
        (value(self.0, x.data), x.dims.to_vec())
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(plain2(Gradient(self.0), [x, gradient])?)])
    }
}

/// The gradient of an activation's argument, from the argument and the gradient of the result.
struct Gradient(Activation);

impl Kernel<2> for Gradient {
    const NAME: &'static str = "activation_gradient";

    fn forward<T: Real>(&self, [x, gradient]: [View<'_, T>; 2]) -> (Vec<T>, Vec<usize>) {
        (slope(self.0, x.data, gradient.data), x.dims.to_vec())
    }
}

// Comparisons are written so that NaN stays NaN: a network that diverges must not look healthy.

fn value<T: Real>(function: Activation, x: &[T]) -> Vec<T> {
    let number = T::from_f64;
    let zero = T::zero();
    match function {
        Activation::Relu => parallel::map1(x, |x| if x < zero { zero } else { x }),
        Activation::Relu6 => parallel::map1(x, |x| clamp6(x)),
        Activation::LeakyRelu => parallel::map1(x, |x| if x < zero { number(0.01) * x } else { x }),
        Activation::Gelu => parallel::map1(x, |x| x * normal_below(x)),
        Activation::Silu => parallel::map1(x, |x| x * sigmoid(x)),
        Activation::HardSwish => parallel::map1(x, |x| x * clamp6(x + number(3.0)) / number(6.0)),
        Activation::Sigmoid => parallel::map1(x, sigmoid),
        Activation::Tanh => parallel::map1(x, Real::tanh),
    }
}

fn slope<T: Real>(function: Activation, x: &[T], gradient: &[T]) -> Vec<T> {
    let number = T::from_f64;
    let zero = T::zero();
    let map = |f: fn(T) -> T| parallel::map2(x, gradient, move |x, g| g * f(x));
    match function {
        Activation::Relu => parallel::map2(x, gradient, |x, g| if x > zero { g } else { zero }),
        Activation::Relu6 => parallel::map2(x, gradient, |x, g| if x > zero && x < number(6.0) { g } else { zero }),
        Activation::LeakyRelu => parallel::map2(x, gradient, |x, g| if x > zero { g } else { number(0.01) * g }),
        Activation::Gelu => map(|x| normal_below(x) + x * normal_density(x)),
        Activation::Silu => map(|x| {
            let s = sigmoid(x);
            s * (T::one() + x * (T::one() - s))
        }),
        Activation::HardSwish => parallel::map2(x, gradient, |x, g| {
            let three = number(3.0);
            if x <= -three {
                zero
            } else if x >= three {
                g
            } else {
                g * (x + x + three) / number(6.0)
            }
        }),
        Activation::Sigmoid => map(|x| {
            let s = sigmoid(x);
            s * (T::one() - s)
        }),
        Activation::Tanh => map(|x| {
            let t = x.tanh();
            T::one() - t * t
        }),
    }
}

fn clamp6<T: Real>(x: T) -> T {
    let six = T::from_f64(6.0);
    if x < T::zero() {
        T::zero()
    } else if x > six {
        six
    } else {
        x
    }
}

/// The logistic function, with no overflow on either side.
fn sigmoid<T: Real>(x: T) -> T {
    let small = (if x < T::zero() { x } else { -x }).exp();
    let smaller_side = small / (T::one() + small);
    if x < T::zero() { smaller_side } else { T::one() - smaller_side }
}

/// The share of a standard normal distribution below `x`.
fn normal_below<T: Real>(x: T) -> T {
    T::from_f64(0.5) * (T::one() + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

/// The density of a standard normal distribution at `x`.
fn normal_density<T: Real>(x: T) -> T {
    T::from_f64(0.398_942_280_401_432_7) * (-x * x * T::from_f64(0.5)).exp()
}
