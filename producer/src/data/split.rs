//! Which rows are tested on, and in which order classes stand. Pure.

use std::path::PathBuf;
use std::str::FromStr;

use shared::digest::Digest;

/// Where the test split comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// So large a share of each class, above 0 and below 1.
    Share(f64),
    /// A table of its own.
    File(PathBuf),
}

impl Test {
    /// The share that is drawn unless the user says.
    pub const DEFAULT: Self = Self::Share(0.1);
}

impl FromStr for Test {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(share) if share > 0.0 && share < 1.0 => Ok(Self::Share(share)),
            Ok(_) => Err("a share above 0 and below 1, or a CSV file, is accepted".into()),
            Err(_) if text.ends_with('%') => Err("a share like 0.2, or a CSV file, is accepted".into()),
            Err(_) => Ok(Self::File(text.into())),
        }
    }
}

/// Draws the rows of the test split: of each class `share` of its rows, at least one, never all. `rows` are class and
/// digest of content, which decides: the same rows give the same split, whatever their names and order, and equal rows
/// stand on one side.
pub(super) fn draw(share: f64, rows: &[(u32, Digest)]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|row| rows[*row]);
    let mut drawn = vec![false; rows.len()];
    for class in order.chunk_by(|one, other| rows[*one].0 == rows[*other].0) {
        let wanted = ((class.len() as f64 * share).round() as usize).clamp(1, class.len());
        // The end of a run of equal rows that is nearest below what is wanted, or the first above.
        let ends = |at: &usize| rows[class[at - 1]] != rows[class[*at]];
        let cut = (1..=wanted.min(class.len() - 1)).rev().find(ends);
        let cut = cut.or_else(|| (wanted..class.len()).find(ends)).unwrap_or(0);
        class[..cut].iter().for_each(|row| drawn[*row] = true);
    }
    drawn
}

/// Says of a draw how many of how many rows (called `what`) it took, and where that is far from the share, why.
pub(super) fn told([drawn, all]: [usize; 2], what: &str, share: f64, classes: usize, another: &str) -> String {
    if drawn == 0 {
        return format!(
            "there is no test split, and a study will test nothing: each class keeps a row to train on, equal rows stay \
             together, and the {all} {what} leave none ({another})"
        );
    }
    let begun = format!("drew {drawn} of {all} {what} for the test split");
    // Rounding, and at least one, make a class's part one row larger or smaller.
    if (drawn as f64 - share * all as f64).abs() <= classes as f64 {
        return format!("{begun}, {share} of each class ({another})");
    }
    format!(
        "{begun} where {share} of each class would be {:.0}: equal rows stay together ({another})",
        share * all as f64
    )
}

/// Sorts the names of classes: whole numbers as numbers, others as texts.
pub(super) fn sort_names(names: &mut [String]) {
    if names.iter().all(|name| name.parse::<i64>().is_ok()) {
        names.sort_by_cached_key(|name| (name.parse::<i64>().unwrap_or_default(), name.clone()));
    } else {
        names.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_gives_its_share_whatever_the_order() {
        let row = |class: u32, content: u32| (class, Digest::of(&content.to_le_bytes()));
        let mut rows: Vec<_> = (0..100).map(|n| row(u32::from(n >= 20), n)).collect();
        let drawn = draw(0.1, &rows);
        let count = |class: u32| rows.iter().zip(&drawn).filter(|(row, drawn)| row.0 == class && **drawn).count();
        assert_eq!((count(0), count(1)), (2, 8));
        let chosen = |rows: &[(u32, Digest)]| {
            let drawn = draw(0.1, rows);
            let mut chosen: Vec<_> = rows.iter().zip(drawn).filter(|(_, drawn)| *drawn).map(|(row, _)| *row).collect();
            chosen.sort_unstable();
            chosen
        };
        let before = chosen(&rows);
        rows.reverse();
        assert_eq!(chosen(&rows), before);
    }

    #[test]
    fn a_class_is_never_drawn_whole_and_equal_rows_stay_together() {
        let row = |content: u8| (0, Digest::of(&[content]));
        assert_eq!(draw(0.1, &[row(1)]), [false]);
        assert_eq!(draw(0.99, &[row(1), row(2)]).iter().filter(|drawn| **drawn).count(), 1);
        assert_eq!(draw(0.5, &[row(1), row(1)]), [false, false]);
        for n in 0..8 {
            let rows = [row(n), row(n), row(n), row(n + 100)];
            let drawn = draw(0.25, &rows);
            assert!(drawn[0] == drawn[1] && drawn[1] == drawn[2] && drawn[2] != drawn[3], "{drawn:?}");
        }
        assert!(draw(0.5, &[]).is_empty());
    }

    #[test]
    fn a_draw_says_what_it_came_to() {
        let told = |numbers| told(numbers, "rows", 0.1, 3, "--test");
        assert_eq!(told([6, 60]), "drew 6 of 60 rows for the test split, 0.1 of each class (--test)");
        assert_eq!(told([3, 6]), "drew 3 of 6 rows for the test split, 0.1 of each class (--test)");
        let far = "drew 20 of 60 rows for the test split where 0.1 of each class would be 6: equal rows stay together";
        assert!(told([20, 60]).starts_with(far), "{}", told([20, 60]));
        assert!(told([0, 3]).starts_with("there is no test split"), "{}", told([0, 3]));
    }

    #[test]
    fn names_are_sorted_as_people_would() {
        let sorted = |names: &[&str]| {
            let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            sort_names(&mut names);
            names.join(" ")
        };
        assert_eq!(sorted(&["10", "9", "-1"]), "-1 9 10");
        assert_eq!(sorted(&["10", "9", "b", "a"]), "10 9 a b");
    }

    #[test]
    fn a_share_or_a_file() {
        assert_eq!("0.2".parse(), Ok(Test::Share(0.2)));
        assert_eq!("test.csv".parse(), Ok(Test::File("test.csv".into())));
        for wrong in ["0", "1", "-0.1", "nan", "20", "20%"] {
            assert!(wrong.parse::<Test>().is_err(), "{wrong}");
        }
    }
}
