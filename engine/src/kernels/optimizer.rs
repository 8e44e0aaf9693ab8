//! The rules that turn gradients into steps, in place. The formulas are PyTorch's.
//!
//! These loops are not written with vectors: the compiler makes vectors of them, and no product is fused with a sum, so that
//! a step has the same bits on every path.

use crate::simd::{Path, Simd, on_path};

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Against the gradient.
    Sgd,
    /// With a running sum of gradients (Polyak 1964).
    Momentum {
        /// What is left of the sum at each step.
        momentum: f64,
    },
    /// The same, looking a step ahead (Sutskever et al. 2013).
    Nesterov {
        /// What is left of the sum at each step.
        momentum: f64,
    },
    /// Each weight by its own scale (Kingma and Ba 2015).
    Adam {
        /// What is left of the sum of gradients.
        beta1: f64,
        /// What is left of the sum of squares.
        beta2: f64,
        /// Added to the root of the sum of squares.
        epsilon: f64,
    },
    /// The same with weight decay beside the gradient (Loshchilov and Hutter 2019).
    AdamW {
        /// As for Adam.
        beta1: f64,
        /// As for Adam.
        beta2: f64,
        /// As for Adam.
        epsilon: f64,
    },
}

impl Rule {
    /// Running sums that it has for each weight.
    pub fn sums(self) -> usize {
        match self {
            Self::Sgd => 0,
            Self::Momentum { .. } | Self::Nesterov { .. } => 1,
            Self::Adam { .. } | Self::AdamW { .. } => 2,
        }
    }
}

/// One step of all weights, which may be made a part of them at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// How.
    pub rule: Rule,
    /// The learning rate.
    pub rate: f64,
    /// The weight decay.
    pub decay: f64,
    /// The step's number, from 0.
    pub number: u64,
}

impl Step {
    /// Moves weights `w` with gradients `g`; `sums` are as many as [`Rule::sums`] says, zero before the first step.
    pub fn run(&self, path: Path, w: &mut [f32], g: &[f32], sums: &mut [&mut [f32]]) {
        assert!(g.len() == w.len() && sums.iter().all(|sum| sum.len() == w.len()), "a gradient for every weight");
        assert_eq!(sums.len(), self.rule.sums(), "the rule's sums");
        // SAFETY: the path is the machine's; nothing else in it is unsafe.
        on_path!(path, S => unsafe { S::run(#[inline(always)] || self.all(w, g, sums)) });
    }

    #[inline(always)]
    fn all(&self, w: &mut [f32], g: &[f32], sums: &mut [&mut [f32]]) {
        let (lr, decay) = (self.rate as f32, self.decay as f32);
        match (self.rule, sums) {
            (Rule::Momentum { momentum }, [v]) => {
                let momentum = momentum as f32;
                for ((w, g), v) in w.iter_mut().zip(g).zip(v.iter_mut()) {
                    *v = momentum * *v + (*g + decay * *w);
                    *w -= lr * *v;
                }
            }
            (Rule::Nesterov { momentum }, [v]) => {
                let momentum = momentum as f32;
                for ((w, g), v) in w.iter_mut().zip(g).zip(v.iter_mut()) {
                    let g = *g + decay * *w;
                    *v = momentum * *v + g;
                    *w -= lr * (g + momentum * *v);
                }
            }
            (Rule::Adam { beta1, beta2, epsilon }, [m, v]) => {
                self.adam(w, g, [&mut **m, &mut **v], [beta1, beta2], decay, 1.0, epsilon);
            }
            (Rule::AdamW { beta1, beta2, epsilon }, [m, v]) => {
                self.adam(w, g, [&mut **m, &mut **v], [beta1, beta2], 0.0, 1.0 - self.rate * self.decay, epsilon);
            }
            _ => w.iter_mut().zip(g).for_each(|(w, g)| *w -= lr * (*g + decay * *w)),
        }
    }

    /// `shrink` is what the weights are multiplied by first.
    #[expect(clippy::too_many_arguments, reason = "numbers of one formula")]
    #[inline(always)]
    fn adam(
        &self,
        w: &mut [f32],
        g: &[f32],
        [m, v]: [&mut [f32]; 2],
        [beta1, beta2]: [f64; 2],
        decay: f32,
        shrink: f64,
        epsilon: f64,
    ) {
        let (b1, b2) = (beta1 as f32, beta2 as f32);
        let (rest1, rest2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
        // Both sums begin at zero: these undo that.
        let done = (self.number + 1) as f64;
        let size = (self.rate / (1.0 - libm::pow(beta1, done))) as f32;
        let root = (1.0 - libm::pow(beta2, done)).sqrt() as f32;
        // Never zero: a weight that has had no gradient yet stays where it is.
        let (shrink, epsilon) = (shrink as f32, (epsilon as f32).max(f32::MIN_POSITIVE));
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
            let g = *g + decay * *w;
            *m = b1 * *m + rest1 * g;
            *v = b2 * *v + rest2 * g * g;
            *w = *w * shrink - size * *m / (v.sqrt() / root + epsilon);
        }
    }
}
