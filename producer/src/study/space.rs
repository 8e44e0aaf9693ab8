//! The search space: parameters, their domains, and the conditions under which they exist.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};
use shared::strict::{self, Problem};

use super::template;

/// One point of the space: the values of the parameters that exist there.
pub type Point = Map<String, Value>;

/// The parameters of a study, in the order of the file; one with a condition comes after those that
/// the condition looks at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Space {
    parameters: Vec<Parameter>,
}

/// One dimension of the space.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// What `"$name"` refers to.
    pub name: String,
    /// Its values.
    pub domain: Domain,
    /// It exists only where every one of these parameters exists and has one of these values.
    pub when: Vec<(String, Vec<Value>)>,
    /// What `"$name"` stands for where the parameter does not exist.
    pub default: Option<Value>,
}

/// The values of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Domain {
    /// One of these.
    Choice(Vec<Value>),
    /// `low`, `low + step`, … up to `high`.
    Int {
        /// The smallest.
        low: i64,
        /// Not above this.
        high: i64,
        /// Between neighbours.
        step: u64,
    },
    /// A number from `low` to `high`.
    Float {
        /// The smallest.
        low: f64,
        /// The largest.
        high: f64,
        /// Points on a grid, both ends included.
        steps: Option<u32>,
    },
    /// A number from `low` to `high`, its logarithm evenly spread.
    Log {
        /// The smallest, above 0.
        low: f64,
        /// The largest.
        high: f64,
        /// Points on a grid, both ends included.
        steps: Option<u32>,
    },
}

/// A parameter as the file writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawParameter {
    choice: Option<Vec<Value>>,
    int: Option<[i64; 2]>,
    float: Option<[f64; 2]>,
    log: Option<[f64; 2]>,
    step: Option<u64>,
    steps: Option<u32>,
    when: Option<Map<String, Value>>,
    default: Option<Value>,
}

impl Space {
    /// Checks the parameters of a file and puts them into order.
    pub(super) fn new(raw: Vec<(String, RawParameter)>) -> Result<Self, Problem> {
        let mut waiting = Vec::with_capacity(raw.len());
        for (name, raw) in raw {
            let parameter = raw.check(&name).map_err(|problem| problem.inside(&format!("space.{name}")))?;
            waiting.push(parameter);
        }
        for parameter in &waiting {
            check_when(parameter, &waiting)?;
        }
        Ok(Self { parameters: in_order(waiting)? })
    }

    /// The parameters, in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }

    /// Checks that every domain can be enumerated.
    pub(super) fn check_grid(&self) -> Result<(), Problem> {
        match self.parameters.iter().find(|parameter| parameter.domain.size().is_none()) {
            None => Ok(()),
            Some(Parameter { name, domain, .. }) => Err(Problem::new(
                format!("space.{name}"),
                format!("{domain} without `steps`"),
                "a grid needs a number of points, as in `steps = 4` (or use `sampler = \"random\"`)",
            )),
        }
    }
}

impl Parameter {
    /// Whether it exists beside the values that `point` has so far.
    pub fn exists(&self, point: &Point) -> bool {
        self.when.iter().all(|(name, accepted)| {
            point.get(name).is_some_and(|value| accepted.iter().any(|wanted| same(wanted, value)))
        })
    }
}

impl Domain {
    fn contains(&self, value: &Value) -> bool {
        match self {
            Self::Choice(values) => values.iter().any(|known| same(known, value)),
            Self::Int { low, high, step } => value.as_i64().is_some_and(|n| {
                (*low..=*high).contains(&n) && (i128::from(n) - i128::from(*low)) % i128::from(*step) == 0
            }),
            Self::Float { .. } | Self::Log { .. } => false,
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Choice(values) => write!(f, "one of {}", list(values)),
            Self::Int { low, high, step: 1 } => write!(f, "int [{low}, {high}]"),
            Self::Int { low, high, step } => write!(f, "int [{low}, {high}] by {step}"),
            Self::Float { low, high, .. } => write!(f, "float [{low}, {high}]"),
            Self::Log { low, high, .. } => write!(f, "log [{low}, {high}]"),
        }
    }
}

impl RawParameter {
    fn check(self, name: &str) -> Result<Parameter, Problem> {
        check_name(name)?;
        let given = [
            ("choice", self.choice.is_some()),
            ("int", self.int.is_some()),
            ("float", self.float.is_some()),
            ("log", self.log.is_some()),
        ];
        let given: Vec<&str> = given.into_iter().filter_map(|(key, there)| there.then_some(key)).collect();
        let &[kind] = given.as_slice() else {
            let found = if given.is_empty() { "without values".into() } else { given.join(" and ") };
            return Err(Problem::new("", found, "exactly one of `choice`, `int`, `float` and `log` is accepted"));
        };
        if let Some(step) = self.step
            && (kind != "int" || step == 0)
        {
            return Err(Problem::new("step", step, "1 or more is accepted, and only beside `int`"));
        }
        if let Some(steps) = self.steps
            && (!matches!(kind, "float" | "log") || steps < 2)
        {
            return Err(Problem::new("steps", steps, "2 or more is accepted, and only beside `float` or `log`"));
        }
        if let (Some(default), None) = (&self.default, &self.when) {
            return Err(Problem::new("default", default, "it is accepted only beside `when`"));
        }
        let when = self.when.unwrap_or_default().into_iter().map(|(name, value)| match value {
            Value::Array(values) => (name, values),
            value => (name, vec![value]),
        });
        let when = when.collect();
        let domain = domain(self.choice, self.int, self.step, self.float, self.log, self.steps)?;
        Ok(Parameter { name: name.into(), domain, when, default: self.default })
    }
}

fn domain(
    choice: Option<Vec<Value>>,
    int: Option<[i64; 2]>,
    step: Option<u64>,
    float: Option<[f64; 2]>,
    log: Option<[f64; 2]>,
    steps: Option<u32>,
) -> Result<Domain, Problem> {
    if let Some(values) = choice {
        let twice = values.iter().enumerate().find(|(index, value)| values[..*index].iter().any(|v| same(v, value)));
        if let Some((index, value)) = twice {
            return Err(Problem::new(format!("choice[{index}]"), value, "it stands there twice; once is accepted"));
        }
        if values.is_empty() {
            return Err(Problem::new("choice", "[]", "one value or more is accepted"));
        }
        return Ok(Domain::Choice(values));
    }
    if let Some([low, high]) = int {
        if low > high {
            return Err(Problem::new("int", format!("[{low}, {high}]"), "the smaller number comes first"));
        }
        return Ok(Domain::Int { low, high, step: step.unwrap_or(1) });
    }
    if let Some([low, high]) = float {
        if low >= high {
            return Err(Problem::new("float", format!("[{low}, {high}]"), "the smaller number comes first"));
        }
        return Ok(Domain::Float { low, high, steps });
    }
    let [low, high] = log.unwrap_or_default();
    if low <= 0.0 || low >= high {
        let accepted = "numbers above 0, the smaller one first, are accepted";
        return Err(Problem::new("log", format!("[{low}, {high}]"), accepted));
    }
    Ok(Domain::Log { low, high, steps })
}

fn check_name(name: &str) -> Result<(), Problem> {
    let fits = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if name == template::CLASSES {
        return Err(Problem::new("", "the dataset's number of classes", "another name is accepted"));
    }
    if !fits {
        let accepted = "1 to 64 letters, digits, `_` and `-`, beginning with a letter, are accepted";
        return Err(Problem::new("", "not a name", accepted));
    }
    Ok(())
}

/// Checks that a condition looks at parameters that are there and at values that they can have.
fn check_when(parameter: &Parameter, all: &[Parameter]) -> Result<(), Problem> {
    for (name, values) in &parameter.when {
        let at = format!("space.{}.when.{name}", parameter.name);
        let Some(target) = all.iter().find(|other| other.name == *name) else {
            let names: Vec<&str> = all.iter().map(|other| other.name.as_str()).collect();
            let hint = strict::nearest(name, names.iter().copied());
            let hint = hint.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let accepted = format!("the parameters are {}{hint}", quoted(&names));
            return Err(Problem::new(at, "no parameter of this study", accepted));
        };
        if matches!(target.domain, Domain::Float { .. } | Domain::Log { .. }) {
            let accepted = "a condition can look at `choice` and `int` parameters";
            return Err(Problem::new(at, format!("a condition on {}", target.domain), accepted));
        }
        if values.is_empty() {
            return Err(Problem::new(at, "[]", "a value or a list of values is accepted"));
        }
        if let Some(value) = values.iter().find(|value| !target.domain.contains(value)) {
            let texts: Vec<&str> = match &target.domain {
                Domain::Choice(known) => known.iter().filter_map(Value::as_str).collect(),
                _ => Vec::new(),
            };
            let hint = value.as_str().and_then(|text| strict::nearest(text, texts));
            let hint = hint.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
            return Err(Problem::new(at, value, format!("`{name}` is {}{hint}", target.domain)));
        }
    }
    Ok(())
}

/// Parameters after those that their conditions look at, otherwise as they came.
fn in_order(mut waiting: Vec<Parameter>) -> Result<Vec<Parameter>, Problem> {
    let mut placed: Vec<Parameter> = Vec::with_capacity(waiting.len());
    let mut names = BTreeSet::new();
    while !waiting.is_empty() {
        let ready = waiting.iter().position(|parameter| parameter.when.iter().all(|(name, _)| names.contains(name)));
        let Some(ready) = ready else {
            let circle: Vec<&str> = waiting.iter().map(|parameter| parameter.name.as_str()).collect();
            let at = format!("space.{}.when", circle[0]);
            return Err(Problem::new(
                at,
                format!("a circle among {}", quoted(&circle)),
                "remove one of the conditions",
            ));
        };
        let parameter = waiting.remove(ready);
        names.insert(parameter.name.clone());
        placed.push(parameter);
    }
    Ok(placed)
}

/// Whether two values are the same; `1` and `1.0` are.
fn same(one: &Value, other: &Value) -> bool {
    one == other || (one.is_number() && other.is_number() && one.as_f64() == other.as_f64())
}

pub(super) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn list(values: &[Value]) -> String {
    values.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")
}
