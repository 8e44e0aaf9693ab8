//! Serde's complaints about types, in words for people who wrote a file and never heard of `u32`.

/// `invalid type: string "many", expected u32` becomes `is the text "many": a whole number from 0 to 4294967295 is
/// accepted`. `None` where it complains about something else.
pub(super) fn of_type(message: &str) -> Option<String> {
    let (found, expected) = if let Some(rest) = message.strip_prefix("invalid length ") {
        let (length, expected) = rest.rsplit_once(", expected ")?;
        (format!("a list of {length}"), expected)
    } else {
        let rest = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "))?;
        let (found, expected) = rest.rsplit_once(", expected ")?;
        (self::found(found), expected)
    };
    Some(format!("is {found}: {} is accepted", self::expected(expected)))
}

/// The longest value that is shown whole, in characters.
const LONGEST: usize = 80;

/// As serde's `Unexpected` shows values.
fn found(text: &str) -> String {
    let value = match text.split_once(' ') {
        Some(("string", value)) => format!("the text {value}"),
        Some(("integer", value)) => format!("the number {}", value.trim_matches('`')),
        Some(("floating", value)) => format!("the number {}", value.trim_start_matches("point ").trim_matches('`')),
        Some(("boolean", value)) => value.trim_matches('`').to_owned(),
        Some(("unit", "value")) => "empty (null)".to_owned(),
        _ => match text {
            "null" => "empty (null)",
            "map" => "a table",
            "sequence" => "a list",
            other => other,
        }
        .to_owned(),
    };
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value,
    }
}

fn expected(text: &str) -> String {
    if let Some(number) = number(text.trim_start_matches("a nonzero "), text.starts_with("a nonzero ")) {
        return number;
    }
    let first = text.trim_start_matches("a ").trim_start_matches("an ").trim_start_matches("internally tagged ");
    let count = text.split(' ').find_map(|word| word.parse::<usize>().ok());
    let told = match (first, count) {
        ("string" | "str" | "borrowed string" | "variant identifier" | "field identifier", _) => "text",
        ("boolean" | "bool", _) => "true or false",
        ("sequence", _) => "a list",
        ("string or map", _) => "text or a table",
        ("map with a single key", _) => "a table with one key",
        ("map", _) => "a table",
        (_, Some(count)) if ["array ", "tuple ", "struct "].iter().any(|kind| first.starts_with(kind)) => {
            return format!("a list of {count}");
        }
        (shape, None) if shape.starts_with("struct ") => "a table",
        (shape, None) if shape.starts_with("enum ") && text.starts_with("internally") => "a table with `type`",
        (shape, None) if shape.starts_with("enum ") => "text or a table",
        _ => text,
    };
    told.to_owned()
}

/// What an integer or a float of Rust holds.
fn number(kind: &str, nonzero: bool) -> Option<String> {
    let least = u8::from(nonzero);
    Some(match kind {
        "u8" => format!("a whole number from {least} to {}", u8::MAX),
        "u16" => format!("a whole number from {least} to {}", u16::MAX),
        "u32" => format!("a whole number from {least} to {}", u32::MAX),
        // Nobody needs to be told where these end.
        "u64" | "u128" | "usize" => format!("a whole number from {least}"),
        "i8" => format!("a whole number from {} to {}", i8::MIN, i8::MAX),
        "i16" => format!("a whole number from {} to {}", i16::MIN, i16::MAX),
        "i32" => format!("a whole number from {} to {}", i32::MIN, i32::MAX),
        "i64" | "i128" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::num::NonZeroU32;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Table {
        a: u8,
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    #[expect(dead_code, reason = "only read by serde")]
    enum Tagged {
        One { a: u8 },
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only read by serde")]
    enum Plain {
        One,
        Two(u8),
    }

    fn told<T: DeserializeOwned + std::fmt::Debug>(value: &Value) -> String {
        let error = serde_json::from_value::<T>(value.clone()).expect_err("of another type").to_string();
        of_type(&error).unwrap_or(error)
    }

    #[test]
    fn what_stood_there_is_told_in_words() {
        for (value, expected) in [
            (json!("x"), "is the text \"x\": true or false is accepted"),
            (json!(7), "is the number 7: true or false is accepted"),
            (json!(-1.5), "is the number -1.5: true or false is accepted"),
            (json!(null), "is empty (null): true or false is accepted"),
            (json!([1]), "is a list: true or false is accepted"),
            (json!({"a": 1}), "is a table: true or false is accepted"),
            (json!("a, expected b"), "is the text \"a, expected b\": true or false is accepted"),
        ] {
            assert_eq!(told::<bool>(&value), expected);
        }
    }

    #[test]
    fn what_is_accepted_is_told_in_words() {
        let yes = json!(true);
        for (text, expected) in [
            (told::<u8>(&yes), "a whole number from 0 to 255"),
            (told::<u32>(&yes), "a whole number from 0 to 4294967295"),
            (told::<u32>(&json!(-3)), "a whole number from 0 to 4294967295"),
            (told::<u32>(&json!(1.5)), "a whole number from 0 to 4294967295"),
            (told::<usize>(&yes), "a whole number from 0"),
            (told::<i32>(&yes), "a whole number from -2147483648 to 2147483647"),
            (told::<i64>(&yes), "a whole number"),
            (told::<f64>(&yes), "a number"),
            (told::<NonZeroU32>(&json!(0)), "a whole number from 1 to 4294967295"),
            (told::<String>(&yes), "text"),
            (told::<Vec<u8>>(&yes), "a list"),
            (told::<[u8; 2]>(&json!([1])), "a list of 2"),
            (told::<(u8, u8)>(&yes), "a list of 2"),
            (told::<BTreeMap<String, u8>>(&yes), "a table"),
            (told::<Table>(&yes), "a table"),
            (told::<Tagged>(&yes), "a table with `type`"),
            (told::<Plain>(&yes), "text or a table"),
        ] {
            let end = format!(": {expected} is accepted");
            assert!(text.ends_with(&end), "{text} does not end with {end}");
        }
    }

    #[test]
    fn a_long_value_is_cut() {
        let text = told::<bool>(&json!("ä".repeat(100_000)));
        assert!(text.chars().count() < 200 && text.contains('…'), "{text}");
    }

    #[test]
    fn other_complaints_are_left_alone() {
        assert_eq!(of_type("missing field `a`"), None);
        assert_eq!(of_type("unknown field `a`, expected `b`"), None);
    }
}
