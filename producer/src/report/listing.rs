//! Rows of values for the terminal and for programs: a table, a JSON object a line, or CSV.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use super::display;

/// How a listing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
}

/// Columns and rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listing {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Listing {
    /// An empty listing with these columns.
    pub fn new<T: Into<String>>(columns: impl IntoIterator<Item = T>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; values that are missing at its end are null, those over are left out.
    pub fn push(&mut self, mut row: Vec<Value>) {
        row.resize(self.columns.len(), Value::Null);
        self.rows.push(row);
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes it all.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, format: Format, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Table => self.write_table(out),
            Format::Json => self.write_json(out),
            Format::Csv => self.write_csv(out),
        }
    }

    fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        let terminal = console::Term::stdout();
        if terminal.is_term() {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(terminal.size().1);
        }
        // A column that says nothing takes room from those that do.
        let shown: Vec<bool> = (0..self.columns.len())
            .map(|index| self.rows.is_empty() || self.rows.iter().any(|row| !row[index].is_null()))
            .collect();
        let columns = self.columns.iter().zip(&shown).filter(|(_, shown)| **shown);
        table.set_header(columns.map(|(column, _)| Cell::new(printable(column))));
        for row in &self.rows {
            table.add_row(row.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(value, _)| {
                let alignment = if value.is_number() { CellAlignment::Right } else { CellAlignment::Left };
                Cell::new(printable(&display(value))).set_alignment(alignment)
            }));
        }
        writeln!(out, "{table}")
    }

    fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        for row in &self.rows {
            let object: Map<String, Value> = self.columns.iter().cloned().zip(row.iter().cloned()).collect();
            serde_json::to_writer(&mut *out, &object)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn write_csv(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(&self.columns)?;
        for row in &self.rows {
            writer.write_record(row.iter().map(|value| match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                value => value.to_string(),
            }))?;
        }
        writer.flush()
    }
}

/// Names and messages come from other machines: what would steer the terminal is shown as text.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(format: Format) -> String {
        let mut listing = Listing::new(["id", "error"]);
        listing.push(vec![json!("a,\"b\""), json!(0.012_345_67)]);
        listing.push(vec![json!("\u{1b}[31m")]);
        listing.push(vec![json!({"k": [1]}), json!(3)]);
        let mut bytes = Vec::new();
        listing.write(format, &mut bytes).expect("memory");
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_table_is_for_people() {
        let expected = "\
┌────────────┬─────────┐
│ id         ┆ error   │
╞════════════╪═════════╡
│ a,\"b\"      ┆ 0.01235 │
│ \\u{1b}[31m ┆ –       │
│ {\"k\":[1]}  ┆       3 │
└────────────┴─────────┘
";
        assert_eq!(written(Format::Table), expected);
    }

    #[test]
    fn json_is_an_object_a_line() {
        let expected = "{\"id\":\"a,\\\"b\\\"\",\"error\":0.01234567}\n{\"id\":\"\\u001b[31m\",\"error\":null}\n{\"id\":{\"k\":[1]},\"error\":3}\n";
        assert_eq!(written(Format::Json), expected);
    }

    #[test]
    fn csv_has_a_header_and_quotes() {
        let expected = "id,error\n\"a,\"\"b\"\"\",0.01234567\n\u{1b}[31m,\n\"{\"\"k\"\":[1]}\",3\n";
        assert_eq!(written(Format::Csv), expected);
    }
}
