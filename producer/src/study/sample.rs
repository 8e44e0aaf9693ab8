//! Which points of the space are tried.
//!
//! Samplers are an enum and not yet a trait: both are functions of space, seed and trial index alone.
//! One that learns from results needs another signature, and its second user will show which.

use std::ops::ControlFlow;

use serde_json::Value;
use shared::random::{self, Stream};
use shared::strict::Problem;

use super::space::{Domain, Parameter, Point, Space};

/// Trials that one study may have.
pub const MOST_TRIALS: u32 = 100_000;

/// How points are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// Every combination, as nested loops write them: the first parameter changes slowest, the last
    /// one fastest, choices in the order of the file, numbers upwards. A parameter that does not
    /// exist at a point adds no combinations.
    Grid {
        /// Only the first so many.
        most: Option<u32>,
    },
    /// Independent points (Bergstra and Bengio 2012): `choice` and `int` uniform, `float` uniform,
    /// `log` with a uniform logarithm; `steps` means nothing here. In a small discrete space a point
    /// may come more than once.
    Random {
        /// How many.
        trials: u32,
    },
}

impl Sampler {
    /// Its name in study files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grid { .. } => "grid",
            Self::Random { .. } => "random",
        }
    }

    /// The points of a study with this `seed`, in the order of their trials.
    ///
    /// # Errors
    /// A grid without a bound that has more than [`MOST_TRIALS`] points.
    pub fn points(self, space: &Space, seed: u32) -> Result<Vec<Point>, Problem> {
        match self {
            Self::Grid { most } => grid(space, most),
            Self::Random { trials } => Ok((0..trials).map(|trial| random_point(space, seed, trial)).collect()),
        }
    }
}

fn grid(space: &Space, most: Option<u32>) -> Result<Vec<Point>, Problem> {
    let room = most.unwrap_or(MOST_TRIALS) as usize;
    let mut points = Vec::new();
    let mut take = |point: &Point| {
        let full = points.len() == room;
        if !full {
            points.push(point.clone());
        }
        if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let ended = each_point(space.parameters(), &mut Point::new(), &mut take);
    if ended.is_break() && most.is_none() {
        return Err(Problem::new(
            "space",
            format!("a grid of more than {MOST_TRIALS} points"),
            "use fewer values, `trials` for the first so many, or `sampler = \"random\"`",
        ));
    }
    Ok(points)
}

fn each_point(
    rest: &[Parameter],
    point: &mut Point,
    take: &mut dyn FnMut(&Point) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some((parameter, rest)) = rest.split_first() else { return take(point) };
    if !parameter.exists(point) {
        return each_point(rest, point, take);
    }
    for index in 0..parameter.domain.size().unwrap_or(0) {
        point.insert(parameter.name.clone(), parameter.domain.at(index));
        each_point(rest, point, take)?;
    }
    point.remove(&parameter.name);
    ControlFlow::Continue(())
}

/// Every parameter has a stream of its own, named by trial and parameter: adding a parameter or asking
/// in another order changes no other number.
fn random_point(space: &Space, seed: u32, trial: u32) -> Point {
    let mut point = Point::new();
    for parameter in space.parameters() {
        if parameter.exists(&point) {
            let mut stream = random::stream(seed, &["trial".into(), trial.into(), parameter.name.as_str().into()]);
            point.insert(parameter.name.clone(), parameter.domain.draw(&mut stream));
        }
    }
    point
}

impl Domain {
    /// Points on a grid; `None` where there is no end of them.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Choice(values) => Some(values.len() as u64),
            Self::Int { low, high, step } => Some((high.abs_diff(*low) / step).saturating_add(1)),
            Self::Float { steps, .. } | Self::Log { steps, .. } => steps.map(u64::from),
        }
    }

    /// The grid's point `index`, below [`Domain::size`].
    fn at(&self, index: u64) -> Value {
        let share = |steps: Option<u32>| index as f64 / f64::from(steps.unwrap_or(2).max(2) - 1);
        match self {
            Self::Choice(values) => values[index as usize].clone(),
            Self::Int { low, step, .. } => low.wrapping_add_unsigned(index.wrapping_mul(*step)).into(),
            Self::Float { low, high, steps } => evenly(*low, *high, share(*steps)).into(),
            Self::Log { low, high, steps } => evenly_in_log(*low, *high, share(*steps)).into(),
        }
    }

    fn draw(&self, stream: &mut Stream) -> Value {
        use rand::Rng as _;

        let bits = stream.next_u64();
        let share = (bits >> 11) as f64 / (1u64 << 53) as f64;
        match self {
            Self::Choice(_) | Self::Int { .. } => {
                // The high word of a product spreads 2^64 numbers over `size` (Lemire 2019); no size
                // here comes near where its bias shows.
                let size = u128::from(self.size().unwrap_or(1));
                self.at(((u128::from(bits) * size) >> 64) as u64)
            }
            Self::Float { low, high, .. } => evenly(*low, *high, share).into(),
            Self::Log { low, high, .. } => evenly_in_log(*low, *high, share).into(),
        }
    }
}

/// The number a `share` of the way from `low` to `high`, rounded to a millionth of the range: the
/// number that a report shows is the number that was used.
fn evenly(low: f64, high: f64, share: f64) -> f64 {
    let number = low * (1.0 - share) + high * share;
    let decimals = (6.0 - (high - low).log10().floor()).clamp(0.0, 300.0) as usize;
    parse(&format!("{number:.decimals$}"), number).clamp(low, high)
}

/// Likewise for logarithms, rounded to six digits; the last bit of a machine's `exp` does not matter.
fn evenly_in_log(low: f64, high: f64, share: f64) -> f64 {
    let number = (low.ln() * (1.0 - share) + high.ln() * share).exp();
    parse(&format!("{number:.5e}"), number).clamp(low, high)
}

fn parse(text: &str, otherwise: f64) -> f64 {
    text.parse().unwrap_or(otherwise)
}
