//! Tables of numbers with a header (RFC 4180): a column of labels, every other one a feature.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ::csv::{ErrorKind, ReaderBuilder, StringRecord, Trim};
use shared::contract::ElementType;
use shared::digest::Digest;
use shared::strict;

use super::split::{self, Test};
use super::{DataError, Rows, Table, idx};
use crate::words::quoted;

/// The most bytes of one file's features, as 32-bit floats.
const MOST_BYTES: usize = 1 << 30;
/// Columns that hold the labels where they are called so and nothing else is said.
const LABELS: [&str; 3] = ["label", "class", "target"];
/// The longest label, in bytes: it is the name of a class, and stands in every list of labels.
const LONGEST_LABEL: usize = 1 << 10;
/// What stands for "nothing" in tables.
const MISSING: [&str; 8] = ["", "na", "n/a", "nan", "null", "none", "?", "-"];

/// What separates the columns of a file of this name, if it is a table's name.
pub fn separator(path: &Path) -> Option<u8> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?.1 {
        "csv" => Some(b','),
        "tsv" => Some(b'\t'),
        _ => None,
    }
}

/// Reads the table at `path`, gzipped or not; returns what the user should know, too.
///
/// The column of labels is `label`; without it the one that is called `label`, `class` or `target`, else the last.
/// Labels are any texts; classes are their sorted names. `test` is a share of the rows, or another table with the
/// same columns.
///
/// # Errors
/// A file that cannot be read, has no header, or a field that is no number: its line and column.
pub fn read(path: &Path, label: Option<&str>, test: &Test) -> Result<(Table, Vec<String>), DataError> {
    let mut notes = Vec::new();
    let mut train = Sheet::read(path, label)?;
    if label.is_none() {
        notes.push(format!("the labels are the column `{}` (--label names another)", train.label()));
    }
    let mut classes: Vec<String> = train.names.clone();
    split::sort_names(&mut classes);
    check_classes(path, &train, &classes)?;
    train.rename(path, &classes)?;
    let (train, test) = match test {
        Test::File(other) => {
            let mut sheet = Sheet::read(other, Some(train.label()))?;
            if sheet.header != train.header {
                let problem = format!(
                    "has other columns than `{}`, or in another order: {} are accepted",
                    path.display(),
                    train.header.join(", ")
                );
                return Err(wrong(other, &problem));
            }
            sheet.rename(other, &classes)?;
            (train.rows, sheet.rows)
        }
        Test::Share(share) => {
            let (train, test) = train.divide(*share);
            let (drawn, all) = (test.labels.len(), train.labels.len() + test.labels.len());
            let another = "--test says another share, or a file";
            notes.push(split::told([drawn, all], "rows", *share, classes.len(), another));
            (train, test)
        }
    };
    let columns = train.inputs.len() / 4 / train.labels.len().max(1);
    let splits = [("train", train), ("test", test)].into_iter().filter(|(_, rows)| !rows.labels.is_empty());
    let table = Table {
        shape: vec![columns],
        elements: ElementType::F32,
        classes: u32::try_from(classes.len()).unwrap_or(u32::MAX),
        labels: classes,
        splits: splits.map(|(name, rows)| (name.to_owned(), rows)).collect::<BTreeMap<_, _>>(),
    };
    Ok((table, notes))
}

fn check_classes(path: &Path, sheet: &Sheet, classes: &[String]) -> Result<(), DataError> {
    let rows = sheet.rows.labels.len();
    let (count, label) = (classes.len(), sheet.label());
    if count < 2 {
        return Err(wrong(
            path,
            &format!(
                "has {rows} rows with one label, `{}`, in the column `{label}`: at least two labels are accepted",
                quoted(&classes.concat())
            ),
        ));
    }
    if count > 2 && count * 2 > rows {
        let problem = format!(
            "has {count} different labels in {rows} rows in the column `{label}`: labels are the names of classes, most of them on several rows; --label names another column"
        );
        return Err(wrong(path, &problem));
    }
    Ok(())
}

/// One file.
struct Sheet {
    header: Vec<String>,
    /// Which column holds the labels.
    at: usize,
    /// The labels' texts, in the order in which they come.
    names: Vec<String>,
    /// Their numbers are positions in `names`.
    rows: Rows,
}

impl Sheet {
    fn read(path: &Path, label: Option<&str>) -> Result<Self, DataError> {
        let file = idx::open(path).map_err(|source| DataError::Unreadable { path: path.into(), source })?;
        let separator = separator(path).unwrap_or(b',');
        let mut reader = ReaderBuilder::new().delimiter(separator).trim(Trim::All).from_reader(file);
        let header = reader.headers().map_err(|error| refusal(path, &error))?;
        let header: Vec<String> = header.iter().map(str::to_owned).collect();
        check_header(path, &header)?;
        let at = find_label(path, &header, label)?;
        let mut sheet = Self { header, at, names: Vec::new(), rows: Rows::default() };
        let mut known = HashMap::new();
        let mut record = StringRecord::new();
        while reader.read_record(&mut record).map_err(|error| refusal(path, &error))? {
            sheet.add(&record, &mut known).map_err(|(column, problem)| {
                let line = record.position().map_or(0, ::csv::Position::line);
                let what = format!("the file `{}`, line {line}, column `{}`", path.display(), sheet.header[column]);
                DataError::Wrong { what, problem }
            })?;
            if sheet.rows.inputs.len() > MOST_BYTES {
                return Err(wrong(
                    path,
                    &format!("has more than {MOST_BYTES} bytes of features as 32-bit floats: at most that is accepted"),
                ));
            }
        }
        if sheet.rows.labels.is_empty() {
            return Err(wrong(path, "has a header, but no rows"));
        }
        Ok(sheet)
    }

    /// Adds a row. An error comes with its column.
    fn add(&mut self, record: &StringRecord, known: &mut HashMap<String, u32>) -> Result<(), (usize, String)> {
        for (column, field) in record.iter().enumerate() {
            if column == self.at {
                if field.is_empty() {
                    return Err((column, "is empty: a label is needed; fill it or remove the line".into()));
                }
                if field.len() > LONGEST_LABEL {
                    let problem = format!(
                        "is `{}`, of {} bytes: the name of a class, of at most {LONGEST_LABEL}, is accepted",
                        quoted(field),
                        field.len()
                    );
                    return Err((column, problem));
                }
                let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
                let number = *known.entry(field.to_owned()).or_insert(next);
                if number == next && self.names.len() == next as usize {
                    self.names.push(field.to_owned());
                }
                self.rows.labels.push(number);
            } else {
                self.rows.inputs.extend(number(field).map_err(|problem| (column, problem))?.to_le_bytes());
            }
        }
        Ok(())
    }

    fn label(&self) -> &str {
        &self.header[self.at]
    }

    /// Gives the labels the numbers that they have among `classes`.
    fn rename(&mut self, path: &Path, classes: &[String]) -> Result<(), DataError> {
        let numbers: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
        let unknown = |name: &String| {
            wrong(path, &format!("has the label `{name}`, which no row to train on has: those are {}", some(classes)))
        };
        let renamed = self.names.iter().map(|name| numbers.get(name.as_str()).copied().ok_or_else(|| unknown(name)));
        let renamed = renamed.collect::<Result<Vec<u32>, _>>()?;
        self.rows.labels.iter_mut().for_each(|label| *label = renamed[*label as usize]);
        self.names = classes.to_vec();
        Ok(())
    }

    /// Draws a test split.
    fn divide(self, share: f64) -> (Rows, Rows) {
        let width = (self.header.len() - 1) * 4;
        let rows: Vec<(u32, &[u8])> =
            self.rows.labels.iter().copied().zip(self.rows.inputs.chunks_exact(width)).collect();
        let drawn =
            split::draw(share, &rows.iter().map(|(label, bytes)| (*label, Digest::of(bytes))).collect::<Vec<_>>());
        let mut divided = [Rows::default(), Rows::default()];
        for ((label, bytes), drawn) in rows.into_iter().zip(drawn) {
            let rows = &mut divided[usize::from(drawn)];
            rows.labels.push(label);
            rows.inputs.extend_from_slice(bytes);
        }
        let [train, test] = divided;
        (train, test)
    }
}

fn check_header(path: &Path, header: &[String]) -> Result<(), DataError> {
    if header.len() < 2 {
        let accepted = "a label and at least one column of numbers, separated by commas (tabs in a .tsv), are accepted";
        let Some(found) = header.first() else { return Err(wrong(path, &format!("is empty: {accepted}"))) };
        let separators = [(';', "semicolons"), ('\t', "tabs"), (',', "commas"), ('|', "bars")];
        let hint = separators.into_iter().find(|(separator, _)| found.contains(*separator));
        let hint = hint.map(|(_, name)| format!(" (is it separated by {name}?)")).unwrap_or_default();
        return Err(wrong(path, &format!("has one column, `{}`{hint}: {accepted}", quoted(found))));
    }
    if is_row(header) {
        let names: Vec<String> = (1..header.len()).take(3).map(|n| format!("x{n}")).collect();
        let more = if header.len() > 4 { ",…" } else { "" };
        return Err(wrong(
            path,
            &format!(
                "has no header: it begins with `{}`, a row; put a first line with {} names there, as in `{}{more},label`",
                quoted(&header.join(",")),
                header.len(),
                names.join(",")
            ),
        ));
    }
    if let Some(column) = header.iter().position(String::is_empty) {
        return Err(wrong(
            path,
            &format!(
                "has no name for its column {}: name or remove it (row numbers of pandas? `to_csv(index=False)` leaves them out)",
                column + 1
            ),
        ));
    }
    let twice = header.iter().enumerate().find(|(at, name)| header[..*at].contains(name));
    match twice {
        Some((_, name)) => Err(wrong(path, &format!("has two columns called `{name}`: rename one"))),
        None => Ok(()),
    }
}

/// Whether a first line is a row: all of it numbers but the label. Not `0,1,2,…` or `1,2,3,…`, which pandas writes above
/// columns without names.
fn is_row(header: &[String]) -> bool {
    let numbers: Vec<f64> = header.iter().filter_map(|name| name.parse().ok()).collect();
    let counts = |from: f64| numbers.iter().enumerate().all(|(at, number)| *number == at as f64 + from);
    numbers.len() + 1 >= header.len() && !counts(0.0) && !counts(1.0)
}

fn find_label(path: &Path, header: &[String], asked: Option<&str>) -> Result<usize, DataError> {
    let Some(asked) = asked else {
        let called = |name: &str| header.iter().position(|column| column.eq_ignore_ascii_case(name));
        return Ok(LABELS.iter().find_map(|name| called(name)).unwrap_or(header.len() - 1));
    };
    header.iter().position(|column| column == asked).ok_or_else(|| {
        let near = strict::nearest(asked, header.iter().map(String::as_str));
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        wrong(path, &format!("has no column `{asked}` for the labels: there are {}{hint}", some(header)))
    })
}

fn number(field: &str) -> Result<f32, String> {
    match field.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ if MISSING.contains(&field.to_ascii_lowercase().as_str()) => {
            Err(format!("is missing (`{field}`): numbers are accepted; fill it or remove the line"))
        }
        Ok(_) => Err(format!("is `{}`: finite numbers of at most 3.4e38 are accepted", quoted(field))),
        Err(_) => Err(format!(
            "is `{}`: numbers are accepted; write a column of words as numbers, one column of 0 and 1 for each word, for example",
            quoted(field)
        )),
    }
}

fn refusal(path: &Path, error: &::csv::Error) -> DataError {
    let line = error.position().map_or(1, ::csv::Position::line);
    match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            wrong(path, &format!("has {len} fields in line {line}: {expected_len} are accepted, as its header has"))
        }
        ErrorKind::Utf8 { .. } => wrong(path, &format!("is not UTF-8 in line {line}: save it as UTF-8")),
        _ => wrong(path, &format!("cannot be read in line {line}: {error}")),
    }
}

/// The first few of `names`.
fn some(names: &[String]) -> String {
    const FEW: usize = 10;
    let mut text = names.iter().take(FEW).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > FEW {
        text.push_str(&format!(" and {} more", names.len() - FEW));
    }
    text
}

fn wrong(path: &Path, problem: &str) -> DataError {
    DataError::Wrong { what: format!("the file `{}`", path.display()), problem: problem.into() }
}

#[cfg(test)]
mod tests;
