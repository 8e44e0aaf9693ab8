//! Reading what people and other programs wrote: a problem names the key, what stood there and what
//! is accepted, with the nearest accepted word.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

mod words;

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

/// A text without the byte order mark that some editors begin UTF-8 with.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Reads a JSON document.
///
/// # Errors
/// The first problem: syntax with its line, or a value with its key.
pub fn json<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    // In two steps: the syntax first, so that a wrong value is told by its key alone.
    let value: Value = serde_json::from_slice(without_mark(text))
        .map_err(|error| Problem { at: String::new(), what: format!("is not JSON: {error}") })?;
    from_value(&value)
}

/// Reads a TOML document.
///
/// # Errors
/// As [`json`].
pub fn toml<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let text = text.trim_start_matches('\u{feff}');
    let value: Value =
        toml::from_str(text).map_err(|error| Problem { at: String::new(), what: format!("is not TOML: {error}") })?;
    from_value(&value)
}

/// Reads a value that has been parsed.
///
/// # Errors
/// The first value that does not fit, with its key.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    read(value).map_err(|first| {
        let at = format!("{}{}", first.at, blame::<T>(value, &first));
        let at = at.trim_start_matches('.').to_owned();
        if let Some(what) = words::of_type(&first.what) {
            return Problem { at, what };
        }
        let mut what = first.what;
        if let Some(nearest) = nearest_in(&what) {
            what.push_str(&format!("; did you mean `{nearest}`?"));
        }
        Problem { at, what: format!("is wrong: {what}") }
    })
}

/// As [`from_value`], with serde's own words.
fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." || path == "?" { String::new() } else { path };
        Problem { at, what: error.into_inner().to_string() }
    })
}

/// The rest of the path to a wrong value: serde loses track inside a tagged value (a layer, an optimiser).
///
/// The part to blame is the one whose absence changes the complaint.
fn blame<T: DeserializeOwned>(value: &Value, first: &Problem) -> String {
    let pointer = if first.at.is_empty() { String::new() } else { format!("/{}", first.at) };
    let mut pointer = pointer.replace(['.', '['], "/").replace(']', "");
    let mut rest = String::new();
    let changes = |pointer: &str, without: &dyn Fn(&mut Value)| {
        let mut changed = value.clone();
        changed.pointer_mut(pointer).map(without);
        read::<T>(&changed).err().is_none_or(|other| other != *first)
    };
    while !first.what.starts_with("missing field") && rest.len() < MOST_BLAME {
        match value.pointer(&pointer) {
            Some(Value::Object(map)) => {
                // Without its tag a value always reads differently: the tag is blamed last.
                let mut keys: Vec<&String> = map.keys().take(MOST_BLAME).collect();
                keys.sort_by_key(|key| key.as_str() == "type");
                let remove = |key: &str| changes(&pointer, &|v| drop(v.as_object_mut().and_then(|m| m.remove(key))));
                let Some(key) = keys.into_iter().find(|key| !key.contains(['/', '~']) && remove(key)) else { break };
                rest.push_str(&format!(".{key}"));
                pointer.push_str(&format!("/{key}"));
            }
            Some(Value::Array(items)) => {
                // The shortest beginning with the same complaint ends with the culprit.
                let cut = |length: usize| {
                    changes(&pointer, &|v| v.as_array_mut().into_iter().for_each(|a| a.truncate(length)))
                };
                let lengths: Vec<usize> = (0..items.len()).collect();
                let index = lengths.partition_point(|length| cut(*length)).saturating_sub(1);
                if items.is_empty() || !cut(index) {
                    break;
                }
                rest.push_str(&format!("[{index}]"));
                pointer.push_str(&format!("/{index}"));
            }
            _ => break,
        }
    }
    rest
}

/// Keys that are tried, and bytes of path that are found, in search of a wrong value: a bound on the
/// work that a hostile document can ask for.
const MOST_BLAME: usize = 100;

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
        assert_eq!(
            problem.to_string(),
            "`inner[0].filters` is the text \"many\": a whole number from 0 to 4294967295 is accepted"
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_document() {
        #[derive(Debug, Deserialize)]
        struct Number {
            n: u32,
        }
        assert_eq!(json::<Number>("\u{feff}{\"n\": 1}".as_bytes()).expect("JSON").n, 1);
        assert_eq!(toml::<Number>("\u{feff}n = 1").expect("TOML").n, 1);
        assert_eq!(without_mark(b"\xef\xbbx"), b"\xef\xbbx");
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
    fn a_wrong_value_is_found_inside_tagged_values() {
        let layer = |text: &str| json::<crate::contract::Network>(text.as_bytes()).expect_err("wrong").to_string();
        assert_eq!(
            layer(r#"{"layers": [{"type": "relu"}, {"type": "conv", "filters": "many", "kernel": 3}]}"#),
            "`layers[1].filters` is the text \"many\": a whole number from 0 is accepted"
        );
        assert_eq!(
            layer(r#"{"layers": [{"type": "residual", "layers": [{"type": "relu"}, {"type": "conw"}]}]}"#)
                .split(", expected")
                .next(),
            Some("`layers[0].layers[1].type` is wrong: unknown variant `conw`")
        );
        assert_eq!(
            layer(r#"{"layers": [{"type": "conv", "filters": 3}]}"#),
            "`layers[0]` is wrong: missing field `kernel`"
        );
        assert_eq!(
            layer(r#"{"layers": [{"type": "conv", "filters": 3, "kernel": [1, -1]}]}"#),
            "`layers[0].kernel` is wrong: a number, or [height, width]"
        );
    }

    #[test]
    fn a_far_miss_gets_none() {
        assert_eq!(nearest("zebra", ["filters", "kernel"]), None);
    }
}
