//! The learning rate at each step.

use shared::contract::Schedule;

/// The rate at position `t`, in epochs of `epochs`, of a schedule that begins with `rate`.
pub(super) fn learning_rate(schedule: &Schedule, rate: f64, t: f64, epochs: u32) -> f64 {
    match schedule {
        Schedule::Constant => rate,
        Schedule::Exponential { decay } => rate * libm::pow(*decay, t),
        Schedule::Cosine { minimum } => {
            let turned = libm::cos(std::f64::consts::PI * t / f64::from(epochs));
            minimum + (rate - minimum) * (1.0 + turned) / 2.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_follow_their_formulas() {
        assert_eq!(learning_rate(&Schedule::Constant, 0.1, 3.5, 4), 0.1);
        assert!((learning_rate(&Schedule::Exponential { decay: 0.5 }, 0.1, 2.0, 4) - 0.025).abs() < 1e-15);
        let cosine = Schedule::Cosine { minimum: 0.01 };
        for (t, expected) in [(0.0, 0.11), (2.0, 0.06), (4.0, 0.01)] {
            assert!((learning_rate(&cosine, 0.11, t, 4) - expected).abs() < 1e-15, "{t}");
        }
    }
}
