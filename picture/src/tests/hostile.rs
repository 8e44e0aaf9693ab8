//! Files that are no pictures, or pretend to be.

use proptest::prelude::*;

use super::golden;
use crate::{decode, load, look};

/// The code of what becomes of a file with this content.
fn code(content: &[u8]) -> String {
    decode(content, 3).map_or_else(|error| error.code, |_| "decoded".into())
}

fn files() -> Vec<(String, Vec<u8>)> {
    let folder = std::fs::read_dir(golden("")).expect("a folder");
    let mut files: Vec<_> = folder
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension != "safetensors"))
        .map(|path| {
            (path.file_name().expect("a name").to_string_lossy().into_owned(), std::fs::read(&path).expect("a file"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_file_cut_short_is_refused() {
    let mut decoded = Vec::new();
    // Of an animation the first frame may be whole.
    for (name, content) in files().into_iter().filter(|(name, _)| !name.starts_with("animated")) {
        for share in [30, 50, 75] {
            let code = code(&content[..content.len() * share / 100]);
            if code != "decode_failed" {
                decoded.push(format!("{name} at {share} %: {code}"));
            }
        }
    }
    assert!(decoded.is_empty(), "{}", decoded.join("\n"));
}

#[test]
fn what_lies_behind_a_jpeg_or_inside_its_thumbnail_does_not_matter() {
    let jpeg = std::fs::read(golden("rgb.jpg")).expect("a file");
    assert_eq!(code(&[&jpeg[..], b"\0\0trailing"].concat()), "decoded");
    // A comment that holds an end of picture is none.
    let comment = [&jpeg[..2], b"\xff\xfe\0\x06\xff\xd9\xff\xd9", &jpeg[2..]].concat();
    assert_eq!(code(&comment), "decoded");
    assert_eq!(code(&comment[..comment.len() - 40]), "decode_failed");
}

#[test]
fn other_files_are_refused_by_what_they_are() {
    assert_eq!(code(b"These are words, not pixels."), "unsupported_format");
    assert_eq!(code(b""), "unsupported_format");
    assert_eq!(code(b"%PDF-1.7"), "unsupported_format");
    assert_eq!(code(b"\0\0\0\x1cftypavif"), "unsupported_format");
    assert_eq!(code(b"GIF89a"), "decode_failed");
    assert_eq!(load(std::path::Path::new("no-such-file"), 3).expect_err("refused").code, "not_found");
}

#[test]
fn a_header_that_promises_too_much_is_refused_before_it_takes_memory() {
    let mut png = std::fs::read(golden("rgb.png")).expect("a file");
    png[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    png[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let checksum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(code(&png), "too_large");
    let mut bmp = std::fs::read(golden("rgb.bmp")).expect("a file");
    bmp[18..22].copy_from_slice(&30_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&30_000u32.to_le_bytes());
    assert_eq!(code(&bmp), "too_large");
    let mut gif = std::fs::read(golden("palette.gif")).expect("a file");
    gif[6..10].copy_from_slice(&[0xff; 4]);
    assert_eq!(code(&gif), "too_large");
    let mut jpeg = std::fs::read(golden("rgb.jpg")).expect("a file");
    let at = jpeg.windows(2).position(|pair| pair == b"\xff\xc0").expect("a frame") + 5;
    jpeg[at..at + 4].copy_from_slice(&[0x7f; 4]);
    assert_eq!(code(&jpeg), "too_large");
}

#[test]
fn what_is_no_file_is_refused_before_it_is_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |path: &std::path::Path| {
        let errors = [look(path).map(|_| ()).expect_err("refused"), load(path, 3).map(|_| ()).expect_err("refused")];
        assert_eq!(errors[0], errors[1]);
        format!("{}: {}", errors[0].code, errors[0].message)
    };
    assert!(refused(folder.path()).starts_with("unsupported_format: it is a folder, no file"));
    assert!(refused(std::path::Path::new("/dev/zero")).starts_with("unsupported_format: it is a device, no file"));
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    assert!(refused(&socket).starts_with("unsupported_format: it is a socket, no file"));
    // Nobody will ever write into it.
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED what_is_no_file_is_refused_before_it_is_opened: there is no mkfifo here");
        return;
    }
    assert!(refused(&pipe).starts_with("unsupported_format: it is a pipe, no file"));
    assert!(refused(&folder.path().join("nothing")).starts_with("not_found: "));
    assert!(refused(&socket.join("below")).starts_with("unreadable: the file cannot be read"));
}

/// A JPEG whose header says this kind of frame and size.
fn jpeg(kind: u8, size: [u16; 2], name: &str) -> Vec<u8> {
    let mut jpeg = std::fs::read(golden(name)).expect("a file");
    let at = jpeg.windows(2).position(|pair| pair[0] == 0xff && matches!(pair[1], 0xc0 | 0xc2)).expect("a frame");
    jpeg[at + 1] = kind;
    for (place, edge) in [5, 7].into_iter().zip(size) {
        jpeg[at + place..at + place + 2].copy_from_slice(&edge.to_be_bytes());
    }
    jpeg
}

#[test]
fn kinds_that_are_not_read_here_are_no_damage() {
    for kind in [0xc9, 0xca, 0xc3] {
        let error = decode(&jpeg(kind, [48, 64], "rgb.jpg"), 3).expect_err("refused");
        assert_eq!(error.code, "unsupported_format");
        assert!(error.message.contains("save it as a plain JPEG or PNG"), "{}", error.message);
    }
    let mut tiff = std::fs::read(golden("palette.tif")).expect("a file");
    // The entry of the compression in a little-endian file: tag 259, a short, one of them; ZSTD is 50000.
    let entry = [3, 1, 3, 0, 1, 0, 0, 0];
    let at = tiff.windows(8).position(|bytes| bytes == entry).expect("a compression") + 8;
    tiff[at..at + 2].copy_from_slice(&50_000u16.to_le_bytes());
    let error = decode(&tiff, 3).expect_err("refused");
    assert_eq!(error.code, "unsupported_format", "{}", error.message);
}

#[test]
fn what_is_too_large_is_said_with_its_limit() {
    let message = |size, name, kind| decode(&jpeg(kind, size, name), 3).expect_err("refused").message;
    let refused = message([20_000, 10_000], "rgb.jpg", 0xc0);
    assert_eq!(refused, "it has 10000 x 20000 pixels, 200 million: at most 100 million are accepted");
    let refused = message([100, 40_000], "rgb.jpg", 0xc0);
    assert_eq!(refused, "its longer edge has 40000 pixels: at most 32768 are accepted");
    // Only a progressive one is kept as coefficients; the other is then found cut short.
    let refused = message([9_900, 9_900], "progressive.jpg", 0xc2);
    assert!(refused.contains("9900 x 9900 pixels and takes") && refused.contains("at most 512 are"), "{refused}");
}

/// PNG's checksum, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn bytes_of_any_kind_never_panic(kind in 0usize..8, tail in proptest::collection::vec(any::<u8>(), 0..400)) {
        let heads: [&[u8]; 8] = [
            b"", b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", b"BM", b"RIFF\xff\0\0\0WEBPVP8 ",
            b"RIFF\xff\0\0\0WEBPVP8L", b"GIF89a", b"II*\0\x08\0\0\0"
        ];
        code(&[heads[kind], &tail[..]].concat());
    }

    #[test]
    fn a_damaged_picture_never_panics(
        file in any::<prop::sample::Index>(), damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let files = files();
        let mut content = files[file.index(files.len())].1.clone();
        for (at, byte) in damage {
            let at = at.index(content.len());
            content[at] = byte;
        }
        code(&content);
    }
}
