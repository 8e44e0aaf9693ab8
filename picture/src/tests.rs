//! Pictures of every kind against what Pillow makes of them. `picture/tests/golden/pictures.py` made the files.

mod hostile;
mod reduced;

use std::collections::HashMap;
use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::SafeTensors;
use shared::contract::{ChannelOrder, Crop, Filter, Preprocessing, Resize};

use super::*;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures").join(name)
}

/// What Pillow makes of them, by name.
fn expected() -> HashMap<String, Pixels> {
    let file = std::fs::read(golden("expected.safetensors")).expect("a file");
    let tensors = SafeTensors::deserialize(&file).expect("tensors");
    let pixels = |tensor: safetensors::tensor::TensorView<'_>| {
        let (shape, bytes) = (tensor.shape(), tensor.data().to_vec());
        Pixels::new([shape[0], shape[1]], shape.get(2).copied().unwrap_or(1), bytes)
    };
    tensors.iter().map(|(name, tensor)| (name.to_owned(), pixels(tensor))).collect()
}

/// The largest difference of two pictures of one size, and the mean one.
fn difference(a: &[u8], b: &[u8]) -> (u8, f64) {
    assert_eq!(a.len(), b.len(), "one size");
    let apart: Vec<u8> = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).collect();
    let mean = apart.iter().map(|d| f64::from(*d)).sum::<f64>() / apart.len() as f64;
    (apart.into_iter().max().unwrap_or(0), mean)
}

fn how(resize: Option<Resize>, filter: Filter) -> Preprocessing {
    Preprocessing { resize, filter, ..Preprocessing::standard(vec![0.5; 3], vec![0.5; 3]) }
}

/// How far decoders may be apart.
fn tolerance(name: &str) -> (u8, f64) {
    match name {
        "lossy.webp" => (24, 3.0),
        "cmyk.tif" | "grey16.tif" => (1, 1.0),
        name if name.contains("16.png") => (1, 1.0),
        _ => (0, 0.0),
    }
}

#[test]
fn every_kind_of_picture_becomes_what_pillow_makes_of_it() {
    let expected = expected();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, wanted) in &expected {
        let Some((name, channels)) =
            name.strip_suffix("/rgb").map(|n| (n, 3)).or(name.strip_suffix("/luma").map(|n| (n, 1)))
        else {
            continue;
        };
        seen += 1;
        match load(&golden(name), channels) {
            Err(error) => wrong.push(format!("{name}: {error:?}")),
            Ok(found) => {
                assert_eq!((found.height, found.width), (wanted.height, wanted.width), "{name}");
                let (most, mean) = difference(&found.bytes, &wanted.bytes);
                let accepted = tolerance(name);
                if most > accepted.0 || mean > accepted.1 {
                    wrong.push(format!("{name}, {channels} channels: {most} apart at most, {mean:.2} on average"));
                }
            }
        }
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 86, "{seen}");
}

const FILTERS: [Filter; 6] =
    [Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos, Filter::Box, Filter::Hamming];

#[test]
fn pictures_are_resized_as_pillow_does() {
    let expected = expected();
    let source = expected["resize/source"].clone();
    let rgb_to_luma = |[r, g, b]: &[u8; 3]| {
        u8::try_from((u32::from(*r) * 19595 + u32::from(*g) * 38470 + u32::from(*b) * 7471 + 0x8000) >> 16)
    };
    let luma: Vec<u8> = source.bytes.as_chunks().0.iter().map(|p| rgb_to_luma(p).expect("a byte")).collect();
    let luma = Pixels { channels: 1, bytes: luma, ..source };
    let names = ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"];
    for (filter, name) in FILTERS.into_iter().zip(names) {
        for (kind, source) in [("resize", &source), ("resize-luma", &luma)] {
            for (size, wanted) in
                expected.iter().filter_map(|(n, p)| Some((n.strip_prefix(&format!("{kind}/{name}/"))?, p)))
            {
                let size_asked = [wanted.height, wanted.width];
                let found = fit(source, size_asked, &how(None, filter)).expect("a picture");
                let planes = source.channels;
                let wanted: Vec<u8> =
                    (0..planes).flat_map(|c| wanted.bytes.iter().skip(c).step_by(planes).copied()).collect();
                let (most, mean) = difference(&found, &wanted);
                assert!(most == 0, "{kind} {name} {size}: {most} apart at most, {mean} on average");
            }
        }
    }
}

/// A picture of one channel whose bytes are its columns.
fn columns(height: usize, width: usize) -> Pixels {
    let bytes = (0..height * width).map(|at| (at % width) as u8).collect();
    Pixels::new([height, width], 1, bytes)
}

#[test]
fn the_middle_is_cut_and_half_a_pixel_is_cut_off() {
    // Widths, and the first column of the crop.
    for (width, crop, first) in [(10, 10, 0), (10, 8, 1), (13, 8, 2), (15, 8, 3), (11, 8, 1), (9, 8, 0)] {
        let size = Resize::Exact([3, width as u32]);
        let found = fit(&columns(3, width), [3, crop], &how(Some(size), Filter::Bilinear)).expect("a picture");
        assert_eq!(usize::from(found[0]), first, "{width} to {crop}");
        assert_eq!(found.len(), 3 * crop);
    }
    // Zeros around a smaller one, the odd one behind.
    let size = Resize::Exact([1, 2]);
    let found = fit(&columns(1, 2), [2, 5], &how(Some(size), Filter::Bilinear)).expect("a picture");
    assert_eq!(found, [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_crop_may_begin_at_the_even_pixel() {
    for (width, first) in [(8, 0), (9, 0), (10, 1), (11, 2), (12, 2), (13, 2), (14, 3), (15, 4)] {
        let how = Preprocessing { crop: Crop::Even, ..how(Some(Resize::Exact([3, width])), Filter::Box) };
        let found = fit(&columns(3, width as usize), [3, 8], &how).expect("a picture");
        assert_eq!(found[0], first, "{width}");
    }
}

#[test]
fn a_picture_of_its_shape_covers_the_target_or_lies_inside() {
    for (size, target, covering, inside) in [
        ([41, 59], [20, 20], [20, 29], [14, 20]),
        ([59, 41], [20, 20], [29, 20], [20, 14]),
        ([100, 100], [20, 30], [30, 30], [20, 20]),
        ([2, 5], [1, 1], [1, 2], [1, 1]),
        ([1, 100], [10, 10], [10, 1000], [1, 10]),
    ] {
        let resized = |resize| super::fit::resized(size, Some(resize), [9, 9]);
        assert_eq!(
            (resized(Resize::Covering(target)), resized(Resize::Inside(target))),
            (covering, inside),
            "{size:?}"
        );
    }
}

#[test]
fn channels_have_their_order_and_borders_their_colour() {
    let picture = Pixels::new([1, 2], 3, vec![1, 2, 3, 4, 5, 6]);
    let bgr = Preprocessing {
        order: ChannelOrder::Bgr,
        border: vec![7, 8, 9],
        ..how(Some(Resize::Exact([1, 2])), Filter::Bilinear)
    };
    let found = fit(&picture, [2, 3], &bgr).expect("a picture");
    assert_eq!(found, [3, 6, 7, 7, 7, 7, 2, 5, 8, 8, 8, 8, 1, 4, 9, 9, 9, 9]);
}

#[test]
fn the_shorter_edge_gets_its_length_and_the_longer_one_follows() {
    for (height, width, edge, size) in [
        (480, 640, 256, [256, 341]),
        (900, 1352, 256, [256, 385]),
        (1330, 1000, 256, [340, 256]),
        (512, 929, 256, [256, 464]),
        (512, 931, 256, [256, 466]),
        (7, 7, 256, [256, 256]),
        (3, 1, 2, [6, 2]),
    ] {
        assert_eq!(super::fit::resized([height, width], Some(Resize::ShortestEdge(edge)), [9, 9]), size);
    }
    for (height, width, size) in [(480, 640, [256, 341]), (900, 1352, [256, 384]), (931, 512, [465, 256])] {
        assert_eq!(super::fit::resized([height, width], Some(Resize::ShortestEdgeCut(256)), [9, 9]), size);
    }
    let error = fit(&columns(1, 30_000), [8, 8], &how(Some(Resize::ShortestEdge(256)), Filter::Nearest));
    let error = error.expect_err("refused");
    assert_eq!(error.code, "too_large");
    let expected = "resized for this network it would have 7680000 x 256 pixels, 1967 million: at most 100 million";
    assert!(error.message.starts_with(expected), "{}", error.message);
}

proptest! {
    #[test]
    fn a_crop_has_its_size_whatever_the_picture(
        (height, width) in (1usize..40, 1usize..40), (h, w) in (1usize..40, 1usize..40), edge in 1u32..30, which in 0usize..6
    ) {
        let filter = FILTERS[which];
        let fitted = [Resize::Covering([edge, 3]), Resize::Inside([edge, 3])].map(Some);
        for resize in [None, Some(Resize::ShortestEdge(edge)), Some(Resize::Exact([edge, 3]))].into_iter().chain(fitted) {
            prop_assert_eq!(fit(&columns(height, width), [h, w], &how(resize, filter)).expect("a picture").len(), h * w);
        }
    }
}
