//! Tables, good and bad.

use std::io::Write as _;

use super::*;

/// Writes files, reads the first as the table; errors without the folder's name.
fn read_files(files: &[(&str, &[u8])], label: Option<&str>, test: &Test) -> Result<(Table, Vec<String>), String> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).expect("a file");
    }
    let test = match test {
        Test::File(name) => Test::File(folder.path().join(name)),
        share @ Test::Share(_) => share.clone(),
    };
    let place = format!("{}/", folder.path().display());
    read(&folder.path().join(files[0].0), label, &test).map_err(|error| error.to_string().replace(&place, ""))
}

fn read_text(text: &str) -> Result<(Table, Vec<String>), String> {
    read_files(&[("t.csv", text.as_bytes())], None, &Test::DEFAULT)
}

fn floats(rows: &Rows) -> Vec<f32> {
    rows.inputs.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

#[test]
fn a_table_becomes_rows_of_floats_and_classes_by_name() {
    let train =
        "\u{feff}width,\"the, kind\",height\r\n1.5,rose,-2\r\n+3e1, tulip ,0.25\r\n\r\n7,rose,8\r\n9,tulip,10\r\n";
    let test = "width,\"the, kind\",height\n5,tulip,6\n";
    let files = [("t.csv", train.as_bytes()), ("u.csv", test.as_bytes())];
    let (table, notes) = read_files(&files, Some("the, kind"), &Test::File("u.csv".into())).expect("a table");
    assert_eq!((table.shape.as_slice(), table.elements, table.classes), (&[2][..], ElementType::F32, 2));
    assert_eq!((table.labels.join(" ").as_str(), notes.len()), ("rose tulip", 0));
    assert_eq!(table.splits["train"].labels, [0, 1, 0, 1]);
    assert_eq!(floats(&table.splits["train"]), [1.5, -2.0, 30.0, 0.25, 7.0, 8.0, 9.0, 10.0]);
    assert_eq!((floats(&table.splits["test"]), &table.splits["test"].labels[..]), (vec![5.0, 6.0], &[1][..]));
}

#[test]
fn labels_are_found_by_name_or_stand_last_and_numbers_are_sorted_as_numbers() {
    let rows = "1,10,9\n2,9,10\n3,10,9\n4,9,10\n";
    for (header, label, classes) in
        [("a,b,c", "c", "9 10"), ("a,Target,c", "Target", "9 10"), ("label,b,class", "label", "1 2 3 4")]
    {
        let read = read_text(&format!("{header}\n{rows}"));
        if label == "label" {
            let refused = read.expect_err("four classes in four rows");
            assert!(
                refused.starts_with("the file `t.csv` has 4 different labels in 4 rows in the column `label`"),
                "{refused}"
            );
            continue;
        }
        let (table, notes) = read.expect("a table");
        assert_eq!(table.labels.join(" "), classes);
        assert_eq!(notes[0], format!("the labels are the column `{label}` (--label names another)"));
    }
}

#[test]
fn a_share_of_each_class_is_drawn_whatever_the_order_of_the_rows() {
    let line = |n: u32| format!("{n},{}\n", if n < 20 { "few" } else { "many" });
    let drawn = |lines: Vec<String>| {
        let (table, notes) = read_text(&format!("n,label\n{}", lines.concat())).expect("a table");
        assert_eq!(
            notes[1],
            "drew 10 of 100 rows for the test split, 0.1 of each class (--test says another share, or a file)"
        );
        let mut rows = floats(&table.splits["test"]);
        rows.sort_by(f32::total_cmp);
        (rows, table.splits["test"].labels.iter().filter(|label| **label == 0).count())
    };
    let (rows, few) = drawn((0..100).map(line).collect());
    assert_eq!((rows.len(), few), (10, 2));
    assert_eq!(drawn((0..100).rev().map(line).collect()), (rows, few));
}

#[test]
fn columns_that_pandas_counts_are_a_header_and_what_others_wrote_is_quoted_in_part() {
    for header in ["0,1,label", "1,2,label", "0,1,2"] {
        let (table, _) = read_text(&format!("{header}\n5,6,1\n7,8,2\n5,7,1\n7,9,2\n")).expect(header);
        assert_eq!((table.shape, table.classes), (vec![2], 2));
    }
    let long = "9".repeat(5_000_000);
    let refused = read_text(&format!("a,label\n{long},x\n1,y\n")).expect_err("no number");
    assert!(refused.len() < 300 && refused.contains("…`: finite numbers"), "{}", refused.len());
    let refused = read_text(&format!("a,label\n1,{long}\n1,y\n")).expect_err("no name");
    assert!(
        refused.contains("line 2, column `label` is `9999") && refused.contains("of 5000000 bytes"),
        "{refused:.300}"
    );
}

#[test]
fn gzip_and_tabs_are_read() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"a\tlabel\n1\tx\n2\ty\n").expect("memory");
    let gzip = gzip.finish().expect("memory");
    let (table, _) = read_files(&[("t.tsv.gz", &gzip)], None, &Test::DEFAULT).expect("a table");
    assert_eq!((floats(&table.splits["train"]), table.classes), (vec![1.0, 2.0], 2));
    for (name, expected) in
        [("a.CSV", Some(b',')), ("a.csv.gz", Some(b',')), ("a.b.tsv", Some(b'\t')), ("csv", None), ("a.txt", None)]
    {
        assert_eq!(separator(Path::new(name)), expected, "{name}");
    }
}

#[test]
fn what_is_wrong_is_said_with_line_and_column() {
    let good = "a,b,label\n1,2,x\n3,4,y\n";
    let cases = [
        (
            "",
            "the file `t.csv` is empty: a label and at least one column of numbers, separated by commas (tabs in a .tsv), are accepted",
        ),
        (
            "a;b;label\n1;2;x\n",
            "the file `t.csv` has one column, `a;b;label` (is it separated by semicolons?): a label and",
        ),
        ("a,b,label\n", "the file `t.csv` has a header, but no rows"),
        (
            "4,5,6\n1,2,3\n",
            "the file `t.csv` has no header: it begins with `4,5,6`, a row; put a first line with 3 names there, as in `x1,x2,label`",
        ),
        (
            "5.1,3.5,1.4,0.2,setosa\n",
            "the file `t.csv` has no header: it begins with `5.1,3.5,1.4,0.2,setosa`, a row; put",
        ),
        ("0.5,rose\n", "the file `t.csv` has no header"),
        (
            ",a,label\n0,1,x\n1,2,y\n",
            "the file `t.csv` has no name for its column 1: name or remove it (row numbers of pandas?",
        ),
        ("a,a,label\n", "the file `t.csv` has two columns called `a`: rename one"),
        ("a,b,label\n1,2,x\n3,y\n", "the file `t.csv` has 2 fields in line 3: 3 are accepted, as its header has"),
        (
            "a,b,label\n1,2,x\n1,red,y\n",
            "the file `t.csv`, line 3, column `b` is `red`: numbers are accepted; write a column of words as numbers",
        ),
        (
            "a,b,label\n1,,x\n",
            "the file `t.csv`, line 2, column `b` is missing (``): numbers are accepted; fill it or remove the line",
        ),
        ("a,b,label\n1,NaN,x\n", "the file `t.csv`, line 2, column `b` is missing (`NaN`)"),
        (
            "a,b,label\n-inf,1,x\n",
            "the file `t.csv`, line 2, column `a` is `-inf`: finite numbers of at most 3.4e38 are accepted",
        ),
        ("a,b,label\n1e39,1,x\n", "the file `t.csv`, line 2, column `a` is `1e39`: finite numbers"),
        ("a,b,label\n\"1\n\",2,x\n3,4,\n", "the file `t.csv`, line 4, column `label` is empty: a label is needed"),
        (
            "a,b,label\n1,2,x\n3,4,x\n",
            "the file `t.csv` has 2 rows with one label, `x`, in the column `label`: at least two",
        ),
    ];
    for (text, expected) in cases {
        let refused = read_text(text).expect_err(expected);
        assert!(refused.starts_with(expected), "{refused}\nnot {expected}");
    }
    let refused = read_files(&[("t.csv", b"a,label\n1,x\xff\n")], None, &Test::DEFAULT).expect_err("Latin");
    assert_eq!(refused, "the file `t.csv` is not UTF-8 in line 2: save it as UTF-8");
    let refused = read_files(&[("t.csv", good.as_bytes())], Some("lable"), &Test::DEFAULT).expect_err("no such column");
    assert_eq!(
        refused,
        "the file `t.csv` has no column `lable` for the labels: there are `a`, `b`, `label`; did you mean `label`?"
    );
    for (test, expected) in [
        (
            "b,a,label\n1,2,x\n",
            "the file `u.csv` has other columns than `t.csv`, or in another order: a, b, label are accepted",
        ),
        ("a,b,label\n1,2,z\n", "the file `u.csv` has the label `z`, which no row to train on has: those are `x`, `y`"),
    ] {
        let files = [("t.csv", good.as_bytes()), ("u.csv", test.as_bytes())];
        assert_eq!(read_files(&files, None, &Test::File("u.csv".into())).expect_err(expected), expected);
    }
}
