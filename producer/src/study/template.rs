//! Templates: `"$name"` in place of a value.
//!
//! A text is a reference when it is `$` and a name and nothing else. Values of a `choice` may hold
//! references themselves: an optimiser's table with `learning_rate = "$learning_rate"`.

use serde_json::Value;
use shared::strict::{self, Problem};

use super::space::{Domain, Point, Space, quoted};

/// The built-in name: how many classes the dataset has.
pub(super) const CLASSES: &str = "classes";

/// What names stand for in one trial.
pub(super) struct Scope<'a> {
    pub(super) space: &'a Space,
    pub(super) point: &'a Point,
    pub(super) classes: u32,
}

/// Checks that every reference has a parameter and every parameter a reference.
pub(super) fn check(space: &Space, templates: &[(&str, &Value)]) -> Result<(), Problem> {
    let mut found = Vec::new();
    for (at, template) in templates {
        references(template, at, &mut found);
    }
    for parameter in space.parameters() {
        let at = format!("space.{}", parameter.name);
        if let Domain::Choice(values) = &parameter.domain {
            values
                .iter()
                .enumerate()
                .for_each(|(index, value)| references(value, &format!("{at}.choice[{index}]"), &mut found));
        }
        parameter.default.iter().for_each(|value| references(value, &format!("{at}.default"), &mut found));
    }
    let mut names: Vec<&str> = space.parameters().iter().map(|parameter| parameter.name.as_str()).collect();
    names.push(CLASSES);
    if let Some((at, name)) = found.iter().find(|(_, name)| !names.contains(name)) {
        let hint = strict::nearest(name, names.iter().copied());
        let hint = hint.map(|near| format!("; did you mean \"${near}\"?")).unwrap_or_default();
        let accepted = format!("the study's parameters are {}{hint}", quoted(&names));
        return Err(Problem::new(at, format!("\"${name}\""), accepted));
    }
    let conditions: Vec<&str> =
        space.parameters().iter().flat_map(|parameter| parameter.when.iter().map(|(name, _)| name.as_str())).collect();
    let used = |name: &str| found.iter().any(|(_, other)| *other == name) || conditions.contains(&name);
    match space.parameters().iter().find(|parameter| !used(&parameter.name)) {
        None => Ok(()),
        Some(parameter) => {
            let accepted = format!("write \"${}\" where its value belongs, or remove it", parameter.name);
            Err(Problem::new(format!("space.{}", parameter.name), "used nowhere", accepted))
        }
    }
}

/// Puts the values of a trial into `template`, which stands at `at`.
pub(super) fn render(template: &Value, at: &str, scope: &Scope<'_>) -> Result<Value, Problem> {
    render_within(template, at, scope, &mut Vec::new())
}

fn render_within<'a>(
    template: &'a Value,
    at: &str,
    scope: &Scope<'a>,
    open: &mut Vec<&'a str>,
) -> Result<Value, Problem> {
    match template {
        Value::String(text) => match text.strip_prefix('$') {
            Some(CLASSES) => Ok(scope.classes.into()),
            Some(name) => {
                if open.contains(&name) {
                    return Err(Problem::new(at, format!("\"${name}\""), "a parameter may not hold itself"));
                }
                let value = look_up(name, at, scope)?;
                open.push(name);
                let rendered = render_within(value, at, scope, open);
                open.pop();
                rendered
            }
            None => Ok(template.clone()),
        },
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.map(|(index, item)| render_within(item, &format!("{at}[{index}]"), scope, open)).collect()
        }
        Value::Object(map) => {
            let entries = map.iter();
            entries
                .map(|(key, value)| Ok((key.clone(), render_within(value, &join(at, key), scope, open)?)))
                .collect::<Result<serde_json::Map<_, _>, Problem>>()
                .map(Value::Object)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(template.clone()),
    }
}

fn look_up<'a>(name: &str, at: &str, scope: &Scope<'a>) -> Result<&'a Value, Problem> {
    let default = || scope.space.get(name).and_then(|parameter| parameter.default.as_ref());
    scope.point.get(name).or_else(default).ok_or_else(|| {
        let accepted = format!("`{name}` does not exist here: give it a `default`, or another `when`");
        Problem::new(at, format!("\"${name}\""), accepted)
    })
}

fn references<'a>(value: &'a Value, at: &str, found: &mut Vec<(String, &'a str)>) {
    match value {
        Value::String(text) => found.extend(text.strip_prefix('$').map(|name| (at.to_owned(), name))),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| references(item, &format!("{at}[{index}]"), found));
        }
        Value::Object(map) => map.iter().for_each(|(key, value)| references(value, &join(at, key), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

pub(super) fn join(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}
