//! Reading what people and other programs wrote: a problem names the key, what stood there and what
//! is accepted, with the nearest accepted word.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as in `network.layers[2].kernel`; empty for the document itself.
    pub at: String,
    /// What is wrong: what stood there and what is accepted.
    pub what: String,
}

impl Problem {
    /// `at` is `found`, but `accepted`.
    pub fn new(at: impl Into<String>, found: impl fmt::Display, accepted: impl fmt::Display) -> Self {
        Self { at: at.into(), what: format!("is {found}: {accepted}") }
    }

    /// The same problem in a part called `outer`.
    #[must_use]
    pub fn inside(self, outer: &str) -> Self {
        let at = if self.at.is_empty() {
            outer.to_owned()
        } else if self.at.starts_with('[') {
            format!("{outer}{}", self.at)
        } else {
            format!("{outer}.{}", self.at)
        };
        Self { at, ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() { f.write_str(&self.what) } else { write!(f, "`{}` {}", self.at, self.what) }
    }
}

impl std::error::Error for Problem {}

/// Reads a JSON document.
///
/// # Errors
/// The first problem: syntax with its line, or a value with its key.
pub fn json<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    // In two steps: the syntax first, so that a wrong value is told by its key alone.
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| Problem { at: String::new(), what: format!("is not JSON: {error}") })?;
    from_value(&value)
}

/// Reads a TOML document.
///
/// # Errors
/// As [`json`].
pub fn toml<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let value: Value =
        toml::from_str(text).map_err(|error| Problem { at: String::new(), what: format!("is not TOML: {error}") })?;
    from_value(&value)
}

/// Reads a value that has been parsed.
///
/// # Errors
/// The first value that does not fit, with its key.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." || path == "?" { String::new() } else { path };
        let mut what = error.into_inner().to_string();
        if let Some(nearest) = nearest_in(&what) {
            what.push_str(&format!("; did you mean `{nearest}`?"));
        }
        Problem { at, what: format!("is wrong: {what}") }
    })
}

/// The accepted word nearest to `word`, if one is near.
pub fn nearest<'a>(word: &str, accepted: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::damerau_levenshtein(word, candidate);
    let best = accepted.into_iter().min_by_key(distance)?;
    let near = distance(&best) <= 1 + word.chars().count() / 3;
    (near && best != word).then_some(best)
}

/// Serde's messages quote the unknown word first and the accepted ones after `expected`.
fn nearest_in(message: &str) -> Option<&str> {
    let (found, expected) = message.strip_prefix("unknown ")?.split_once(", expected ")?;
    let found = found.split('`').nth(1)?;
    nearest(found, expected.split('`').skip(1).step_by(2))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Outer {
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Inner {
        filters: u32,
        kernel: Option<u32>,
    }

    #[test]
    fn a_problem_names_the_key_what_stood_there_and_what_is_accepted() {
        let problem = json::<Outer>(br#"{"inner": [{"filters": "many"}]}"#).expect_err("wrong type");
        assert_eq!(problem.to_string(), "`inner[0].filters` is wrong: invalid type: string \"many\", expected u32");
    }

    #[test]
    fn a_near_miss_gets_a_hint() {
        let problem = toml::<Outer>("[[inner]]\nfilters = 1\nkernal = 3\n").expect_err("unknown key");
        assert_eq!(
            problem.to_string(),
            "`inner[0].kernal` is wrong: unknown field `kernal`, expected `filters` or `kernel`; did you mean `kernel`?"
        );
    }

    #[test]
    fn a_far_miss_gets_none() {
        assert_eq!(nearest("zebra", ["filters", "kernel"]), None);
    }
}
