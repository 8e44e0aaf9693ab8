//! The rules of [`engine::kernels::optimizer`] on tensors.

use candle_core::{Result, Tensor};
use engine::kernels::optimizer::{Rule, Step};

/// Weights `w` moved by gradients `g`; `sums` are as many as [`Rule::sums`] says, zero before the first step.
pub(super) fn moved(step: &Step, w: &Tensor, g: &Tensor, sums: &mut [Tensor]) -> Result<Tensor> {
    let decayed = || if step.decay == 0.0 { Ok(g.clone()) } else { g + (w * step.decay)? };
    match (step.rule, sums) {
        (Rule::Momentum { momentum }, [v]) => {
            *v = ((&*v * momentum)? + decayed()?)?;
            w - (&*v * step.rate)?
        }
        (Rule::Nesterov { momentum }, [v]) => {
            let g = decayed()?;
            *v = ((&*v * momentum)? + &g)?;
            w - ((g + (&*v * momentum)?)? * step.rate)?
        }
        (Rule::Adam { beta1, beta2, epsilon }, [m, v]) => adam(step, w, &decayed()?, [m, v], [beta1, beta2], epsilon),
        (Rule::AdamW { beta1, beta2, epsilon }, [m, v]) => {
            let w = (w * (1.0 - step.rate * step.decay))?;
            adam(step, &w, g, [m, v], [beta1, beta2], epsilon)
        }
        _ => w - (decayed()? * step.rate)?,
    }
}

fn adam(
    step: &Step,
    w: &Tensor,
    g: &Tensor,
    [m, v]: [&mut Tensor; 2],
    [beta1, beta2]: [f64; 2],
    epsilon: f64,
) -> Result<Tensor> {
    *m = ((&*m * beta1)? + (g * (1.0 - beta1))?)?;
    *v = ((&*v * beta2)? + (g * (1.0 - beta2))?.mul(g)?)?;
    // Both sums begin at zero: these undo that.
    let done = (step.number + 1) as f64;
    let size = step.rate / (1.0 - libm::pow(beta1, done));
    let root = (1.0 - libm::pow(beta2, done)).sqrt();
    // Never zero: a weight that has had no gradient yet stays where it is.
    let epsilon = epsilon.max(f64::from(f32::MIN_POSITIVE));
    let scale = ((v.sqrt()? / root)? + epsilon)?;
    w - ((&*m * size)? / scale)?
}
