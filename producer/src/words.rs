//! Words for people: numbers with their nouns, and texts of others that may be of any length.

/// `1 picture`, `2 pictures`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// What a message quotes of a text that somebody else wrote: its beginning, if it is long.
pub(crate) fn quoted(text: &str) -> String {
    const MOST: usize = 40;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_no_s_and_a_long_text_is_cut() {
        assert_eq!((count(1, "picture").as_str(), count(0, "picture").as_str()), ("1 picture", "0 pictures"));
        assert_eq!(quoted("short"), "short");
        assert_eq!(quoted(&"ä".repeat(50)), format!("{}…", "ä".repeat(40)));
    }
}
