//! Files that are no pictures, or pretend to be.

use proptest::prelude::*;

use super::golden;
use crate::{decode, load};

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
