//! The rules of [`engine::kernels::optimizer`] on tensors.

use candle_core::{Result, Tensor};
use engine::kernels::optimizer::Rule;

/// Step `number`, from 0, with this learning rate and weight decay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) rule: Rule,
    pub(super) rate: f64,
    pub(super) decay: f64,
    pub(super) number: u64,
}

impl Step {
    /// Weights `w` moved by gradients `g`; `sums` are as many as [`Rule::sums`] says, zero before the first step.
    pub(super) fn run(&self, w: &Tensor, g: &Tensor, sums: &mut [Tensor]) -> Result<Tensor> {
        let decayed = || if self.decay == 0.0 { Ok(g.clone()) } else { g + (w * self.decay)? };
        match (self.rule, sums) {
            (Rule::Momentum { momentum }, [v]) => {
                *v = ((&*v * momentum)? + decayed()?)?;
                w - (&*v * self.rate)?
            }
            (Rule::Nesterov { momentum }, [v]) => {
                let g = decayed()?;
                *v = ((&*v * momentum)? + &g)?;
                w - ((g + (&*v * momentum)?)? * self.rate)?
            }
            (Rule::Adam { beta1, beta2, epsilon }, [m, v]) => {
                self.adam(w, &decayed()?, [m, v], [beta1, beta2], epsilon)
            }
            (Rule::AdamW { beta1, beta2, epsilon }, [m, v]) => {
                let w = (w * (1.0 - self.rate * self.decay))?;
                self.adam(&w, g, [m, v], [beta1, beta2], epsilon)
            }
            _ => w - (decayed()? * self.rate)?,
        }
    }

    fn adam(
        &self,
        w: &Tensor,
        g: &Tensor,
        [m, v]: [&mut Tensor; 2],
        [beta1, beta2]: [f64; 2],
        epsilon: f64,
    ) -> Result<Tensor> {
        *m = ((&*m * beta1)? + (g * (1.0 - beta1))?)?;
        *v = ((&*v * beta2)? + (g * (1.0 - beta2))?.mul(g)?)?;
        // Both sums begin at zero: these undo that.
        let done = (self.number + 1) as f64;
        let size = self.rate / (1.0 - libm::pow(beta1, done));
        let root = (1.0 - libm::pow(beta2, done)).sqrt();
        // Never zero: a weight that has had no gradient yet stays where it is.
        let epsilon = epsilon.max(f64::from(f32::MIN_POSITIVE));
        let scale = ((v.sqrt()? / root)? + epsilon)?;
        w - ((&*m * size)? / scale)?
    }
}
