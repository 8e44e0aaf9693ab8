//! What people see at the end: listings in the terminal and a study's report as one HTML file.
//!
//! Everything here is pure: a [`StudySummary`] in, text out. What a plot shows is decided in `layout`,
//! how it looks in `plot`, what stands around it in `html`.

mod html;
mod layout;
mod listing;
mod plot;
mod summary;

pub use html::study_html;
pub use listing::{Format, Listing};
pub use summary::{Ending, StudySummary, TrialRow};

use serde_json::Value;

/// A value as people read it: texts without quotes, numbers with at most four digits after the leading
/// zeros, everything else as JSON.
pub fn display(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => display_number(float),
            _ => number.to_string(),
        },
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// A number with at most four digits that say something.
pub fn display_number(number: f64) -> String {
    let size = number.abs();
    if !number.is_finite() || number == 0.0 {
        return number.to_string();
    }
    if !(1e-4..1e7).contains(&size) {
        let text = format!("{number:.3e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let mantissa =
            if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
        return format!("{mantissa}e{exponent}");
    }
    let decimals = (3.0 - size.log10().floor()).max(0.0) as usize;
    let text = format!("{number:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let texts: Vec<String> =
            [0.0, 0.1, 0.004_641_59, 1e-5, 1.234_56e-7, 99.996, 12_345.6, 1e9, -0.5].map(display_number).into();
        assert_eq!(texts, ["0", "0.1", "0.004642", "1e-5", "1.235e-7", "100", "12346", "1e9", "-0.5"]);
    }
}
