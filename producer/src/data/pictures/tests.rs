//! Folders as people have them.

use std::sync::Mutex;

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> &Self {
        std::fs::create_dir_all(self.path(name).parent().expect("a folder")).expect("a folder");
        std::fs::write(self.path(name), bytes).expect("a file");
        self
    }

    /// A picture of one colour, another at each name, in the format of its ending.
    fn picture(&self, name: &str) -> &Self {
        let [r, g, b, size] =
            name.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())).to_le_bytes();
        self.encoded(name, RgbImage::from_pixel(2 + u32::from(size % 9), 3, Rgb([r, g, b])).into())
    }

    #[expect(clippy::needless_pass_by_value, reason = "callers make it in place")]
    fn encoded(&self, name: &str, picture: DynamicImage) -> &Self {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let format = ImageFormat::from_path(name).unwrap_or(ImageFormat::Png);
        picture.write_to(&mut bytes, format).expect("a picture");
        self.write(name, &bytes.into_inner())
    }

    fn read(&self, share: Option<f64>, skip_broken: bool) -> Result<Pictures, String> {
        let here = self.0.path().display().to_string();
        let mut found = read(self.0.path(), share, skip_broken, &|_, _| ())
            .map_err(|error| error.to_string().replace(&here, "DIR"))?;
        found.notes.iter_mut().for_each(|note| *note = note.replace(&here, "DIR"));
        Ok(found)
    }

    /// The paths of a split, as `class:path`.
    fn names(&self, found: &Pictures, split: &str) -> Vec<String> {
        let name = |picture: &Picture| {
            let path = picture.path.strip_prefix(self.0.path()).expect("inside").display().to_string();
            format!("{}:{path}", found.labels[picture.label as usize])
        };
        found.splits.get(split).map(|pictures| pictures.iter().map(name).collect()).unwrap_or_default()
    }
}

#[test]
fn classes_are_folders_and_what_is_no_picture_is_told() {
    let folder = Folder::new();
    for n in 0..20 {
        folder.picture(&format!("b/{n}.png")).picture(&format!("a/deeper/{n}.bmp"));
    }
    folder.picture("b/no-ending").picture("b/shouting.BMP").write("b/.DS_Store", b"x").write(".hidden/x", b"x");
    folder.write("README.txt", b"text").write("a/Thumbs.db", b"text");
    std::os::unix::fs::symlink(folder.path("b/0.png"), folder.path("a/link.png")).expect("a link");
    std::os::unix::fs::symlink(folder.path("b"), folder.path("a/circle")).expect("a link");
    let told = Mutex::new(Vec::new());
    let tell = |done, total| told.lock().expect("unpoisoned").push((done, total));
    read(folder.0.path(), Some(0.2), false, &tell).expect("good");
    let mut told = told.into_inner().expect("unpoisoned");
    told.sort_unstable();
    assert_eq!((told.len(), told[0], told.last()), (44, (1, 44), Some(&(44, 44))));

    let found = folder.read(Some(0.2), false).expect("good");
    assert_eq!(found.labels, ["a", "b"]);
    let (train, test) = (folder.names(&found, "train"), folder.names(&found, "test"));
    assert_eq!((train.len(), test.len()), (35, 8));
    assert!(train[0].starts_with("a:a/") && train[34].starts_with("b:b/"), "{train:?}");
    assert!(train.iter().all(|name| !test.contains(name)));
    assert_eq!(
        found.notes,
        [
            "the link `DIR/a/circle` to a folder is not followed",
            "left out 2 files that are no pictures Gannet reads: README.txt, a/Thumbs.db",
            "drew 8 of 43 pictures for the test split, 0.2 of each class (--test says another share)",
        ]
    );
    // The draw is by content: other names, the same pictures.
    let contents = |found: &Pictures| {
        let mut all: Vec<_> =
            found.splits["test"].iter().map(|picture| std::fs::read(&picture.path).expect("it")).collect();
        all.sort();
        all
    };
    let before = contents(&found);
    for n in 0..20 {
        std::fs::rename(folder.path(&format!("b/{n}.png")), folder.path(&format!("b/{}-renamed.png", 99 - n)))
            .expect("a file");
    }
    std::fs::remove_file(folder.path("a/link.png")).expect("a link");
    folder.write("a/link.png", &std::fs::read(folder.path("b/99-renamed.png")).expect("it"));
    assert_eq!(contents(&folder.read(Some(0.2), false).expect("good")), before);
}

#[test]
fn folders_for_training_and_test_are_taken_as_they_are() {
    let folder = Folder::new();
    for name in ["train/x/1.png", "train/x/2.png", "train/y/3.png", "Val/x/4.png"] {
        folder.picture(name);
    }
    let found = folder.read(None, false).expect("good");
    assert_eq!(folder.names(&found, "train"), ["x:train/x/1.png", "x:train/x/2.png", "y:train/y/3.png"]);
    assert_eq!(folder.names(&found, "test"), ["x:Val/x/4.png"]);
    assert_eq!(found.notes, ["there is no `test` folder: the pictures for validation are the test split"]);
    folder.picture("test/y/5.png");
    let found = folder.read(None, false).expect("good");
    assert_eq!(folder.names(&found, "train").len(), 4);
    assert_eq!(folder.names(&found, "test"), ["y:test/y/5.png"]);
    assert_eq!(found.notes, ["the pictures for validation join those to train on: a study holds out its own"]);
    assert_eq!(
        folder.read(Some(0.1), false).expect_err("both"),
        "the folder `DIR` has a test split of its own: --test is not accepted for it"
    );
    folder.picture("test/z/6.png");
    assert_eq!(
        folder.read(None, false).expect_err("a class too many"),
        "the folder `DIR` has the class `z` to test on, but not to train on: the classes are x, y"
    );
    folder.picture("more/x/6.png");
    assert_eq!(
        folder.read(None, false).expect_err("what is that"),
        "the folder `DIR` has `more` beside its folder to train on: only `test` and `val` are accepted there"
    );
    // Without folders in it, `train` is a vehicle.
    let folder = Folder::new();
    folder.picture("train/1.png").picture("bus/2.png");
    assert_eq!(folder.read(None, false).expect("good").labels, ["bus", "train"]);
}

#[test]
fn broken_pictures_are_named_or_left_out() {
    let folder = Folder::new();
    for n in 0..4 {
        folder.picture(&format!("a/{n}.png")).picture(&format!("b/{n}.png"));
    }
    for n in 0..6 {
        folder.write(&format!("a/broken-{n}.jpg"), b"text");
    }
    let refused = folder.read(None, false).expect_err("broken");
    assert!(
        refused.starts_with(
            "the folder `DIR` has 6 broken pictures among 14 files:\n  a/broken-0.jpg: the file is no picture"
        ),
        "{refused}"
    );
    assert!(
        refused.ends_with("\n  and 1 more\nmend or remove them, or leave them out with --skip-broken"),
        "{refused}"
    );
    let found = folder.read(None, true).expect("without them");
    assert!(found.notes[0].starts_with("left out 6 broken pictures among 14 files:\n"), "{:?}", found.notes);
    assert_eq!(found.splits.values().map(Vec::len).sum::<usize>(), 8);
    std::fs::create_dir(folder.path("c")).expect("a folder");
    let refused = folder.read(None, true).expect_err("empty");
    assert_eq!(refused, "the folder `DIR` has no picture in the class folder `c`: fill it or remove it");
    let one = Folder::new();
    one.picture("only/1.png");
    assert_eq!(
        one.read(None, false).expect_err("one class"),
        "the folder `DIR` has one class, `only`: at least two folders are accepted"
    );
}

#[test]
fn statistics_count_pictures_alike_and_know_luma() {
    let folder = Folder::new();
    let grey = |side: u32, shade: u8| DynamicImage::from(GrayImage::from_pixel(side, side, Luma([shade])));
    folder.encoded("train/a/large.png", grey(50, 51)).encoded("train/b/small.png", grey(1, 153));
    folder.encoded("train/b/blue.png", RgbImage::from_pixel(9, 1, Rgb([0, 0, 255])).into());
    folder.encoded("test/a/unseen.png", grey(5, 255));
    let found = folder.read(None, false).expect("good");
    // By hand: red 0.2, 0.6, 0; luma of blue is 29 / 255.
    let near = |found: MeanStd, values: [f64; 3]| {
        let mean = values.iter().sum::<f64>() / 3.0;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 3.0;
        assert!((found.mean - mean).abs() < 1e-12 && (found.std - variance.sqrt()).abs() < 1e-9, "{found:?}");
    };
    near(found.channels[0], [0.2, 0.6, 0.0]);
    near(found.channels[2], [0.2, 0.6, 1.0]);
    near(found.luma, [0.2, 0.6, 29.0 / 255.0]);
}
