//! Axes: scales and ticks.

use serde_json::Value;

use crate::report::{display, display_number};

/// Names along an axis.
const MOST_NAMES: usize = 12;

/// One axis. Positions are those of [`Axis::place`].
#[derive(Debug, Clone, PartialEq)]
pub(in crate::report) struct Axis {
    pub(in crate::report) label: String,
    pub(in crate::report) low: f64,
    pub(in crate::report) high: f64,
    pub(in crate::report) ticks: Vec<(f64, String)>,
    is_log: bool,
}

impl Axis {
    /// The axis of a parameter that has these values, in order: names side by side, numbers on a line,
    /// on a logarithmic one where they span a decade.
    pub(super) fn of_parameter(name: &str, values: &[Value]) -> Option<Self> {
        if !values.iter().all(Value::is_number) {
            let shown = values.iter().take(MOST_NAMES).enumerate();
            let ticks = shown.map(|(index, value)| (index as f64, shortened(&display(value)))).collect();
            let high = values.len() as f64 - 0.5;
            return Some(Axis { label: name.into(), low: -0.5, high, ticks, is_log: false });
        }
        let (low, high) = (number(values.first()?), number(values.last()?));
        Some(if low > 0.0 && high / low >= 10.0 {
            Axis::log(name, low, high)
        } else {
            Axis::linear(name, low, high).padded()
        })
    }

    /// From `low` to `high`; positions are the numbers themselves.
    pub(super) fn linear(label: &str, low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let rough = (high - low) / 5.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * unit).into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let ticks = ((low / step).ceil() as i64..=(high / step + 1e-9).floor() as i64).map(|n| n as f64 * step);
        let ticks = ticks.map(|at| (at, display_number(at))).collect();
        Self { label: label.into(), low, high, ticks, is_log: false }
    }

    /// From a little below `low` to a little above `high`; positions are decimal logarithms.
    pub(super) fn log(label: &str, low: f64, high: f64) -> Self {
        let (low, high) = (low.log10(), high.log10());
        let room = (0.04 * (high - low)).max(0.02);
        let (low, high) = (low - room, high + room);
        let decades = high - low;
        let steps: &[f64] = if decades > 3.0 {
            &[1.0]
        } else if decades > 1.5 {
            &[1.0, 3.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let every = (decades / 8.0).ceil().max(1.0) as usize;
        let exponents = (low.floor() as i32..=high.ceil() as i32).step_by(every);
        let ticks = exponents.flat_map(|exponent| steps.iter().map(move |step| step * 10f64.powi(exponent)));
        let ticks = ticks.map(|value| (value.log10(), display_number(value)));
        let ticks = ticks.filter(|(at, _)| (low..=high).contains(at)).collect();
        Self { label: format!("{label} (log scale)"), low, high, ticks, is_log: true }
    }

    /// The same with some room at both ends.
    pub(super) fn padded(mut self) -> Self {
        let room = 0.04 * (self.high - self.low);
        (self.low, self.high) = (self.low - room, self.high + room);
        self
    }

    /// Where a number lies.
    pub(super) fn place(&self, value: f64) -> f64 {
        if self.is_log { value.log10() } else { value }
    }

    /// Where a parameter's value lies; names lie at their position.
    pub(super) fn place_value(&self, value: &Value, values: &[Value]) -> Option<f64> {
        if values.iter().all(Value::is_number) {
            return value.as_f64().map(|number| self.place(number));
        }
        values.iter().position(|known| known == value).map(|index| index as f64)
    }
}

pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= 16 { text.into() } else { text.chars().take(15).chain(['…']).collect() }
}
