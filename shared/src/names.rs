//! Names that become part of store keys and routing keys: checked once, at the edge.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// A text that cannot be a name or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: {accepted} are accepted")]
pub struct BadName {
    text: String,
    what: &'static str,
    accepted: &'static str,
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $what:literal, $accepted:literal, $pattern:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text`.
            pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                if check(&text) {
                    return Ok(Self(text));
                }
                let text = text.chars().take(160).collect();
                Err(BadName { text, what: $what, accepted: $accepted })
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern})
            }
        }
    };
}

fn is_name(text: &str, longest: usize) -> bool {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let all_well = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    starts_well && all_well && text.len() <= longest
}

fn is_key(text: &str) -> bool {
    let fits = !text.is_empty() && text.len() <= 900;
    let part_fits = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.chars().any(|c| c.is_control() || c == '\\')
    };
    fits && text.split('/').all(part_fits)
}

checked_text!(
    /// The name of a run, a study, a model or a dataset.
    ///
    /// No dots: a run's name is one word of a topic routing key.
    Name,
    "a name",
    "1 to 64 letters, digits, `_` and `-`, beginning with a letter or digit,",
    "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
    |text| is_name(text, 64)
);

checked_text!(
    /// A job's identity and idempotency key, unique within its run.
    JobId,
    "a job id",
    "1 to 100 letters, digits, `_` and `-`, beginning with a letter or digit,",
    "^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$",
    |text| is_name(text, 100)
);

checked_text!(
    /// A key in the store: relative, `/` between its parts, no empty part, no `.` or `..`.
    Key,
    "a store key",
    "relative paths of at most 900 bytes without empty parts, `.` or `..`",
    "^[^/\\\\]+(/[^/\\\\]+)*$",
    is_key
);

/// A file in the store, by key and content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// Where it lies.
    pub key: Key,
    /// What it holds. A file with another digest is refused.
    pub sha256: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_dots_slashes_or_surprises() {
        for good in ["a", "digits-2026", "A_b-9"] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a.b", "a/b", "ä", "a b", &"x".repeat(65)] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_stay_inside_the_store() {
        for good in ["a", "runs/x/run.json", "images/Grace Hopper.jpg"] {
            assert!(Key::new(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "a/../b", ".", "..", "a\0b", "a\\b"] {
            assert!(Key::new(bad).is_err(), "{bad}");
        }
    }
}
