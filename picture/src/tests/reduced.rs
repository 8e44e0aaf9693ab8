//! JPEGs that are decoded to be smaller than they are.

use super::*;
use crate::{prepare, reduction};

/// A picture with soft and sharp edges, and grain.
fn scene(height: usize, width: usize) -> Vec<u8> {
    let mut grain = 1u32;
    let mut pixel = |y: usize, x: usize| {
        grain = grain.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (u, v) = (x as f64 / width as f64, y as f64 / height as f64);
        let wave = 60.0 * (9.0 * u + 5.0 * v).sin();
        let block = if (x / 40 + y / 56).is_multiple_of(2) { 40.0 } else { 0.0 };
        let noise = f64::from(grain >> 28);
        [100.0 + wave + block + noise, 90.0 + 80.0 * u + block + noise, 160.0 - 90.0 * v + noise].map(|part| part as u8)
    };
    (0..height).flat_map(|y| (0..width).map(move |x| (y, x))).flat_map(|(y, x)| pixel(y, x)).collect()
}

fn jpeg(height: usize, width: usize) -> Vec<u8> {
    let mut file = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    file.set_size(width, height);
    file.set_quality(90.0);
    let mut file = file.start_compress(Vec::new()).expect("started");
    file.write_scanlines(&scene(height, width)).expect("written");
    file.finish().expect("a file")
}

#[test]
fn a_jpeg_is_reduced_as_far_as_what_is_wanted_allows() {
    let shortest = how(Some(Resize::ShortestEdge(256)), Filter::Bilinear);
    let by = |size, preprocessing: &Preprocessing| reduction(size, [224, 224], preprocessing);
    for (size, expected) in [
        ([375, 500], 1),
        ([716, 900], 1),
        ([717, 717], 2),
        ([900, 720], 2),
        ([1500, 2000], 4),
        ([3000, 4000], 8),
        ([20_000, 20_000], 8),
    ] {
        assert_eq!(by(size, &shortest), expected, "{size:?}");
    }
    // Each edge has to suffice.
    assert_eq!(by([4000, 500], &how(Some(Resize::Exact([400, 400])), Filter::Bilinear)), 1);
    let others = [Filter::Bicubic, Filter::Lanczos, Filter::Box, Filter::Hamming, Filter::Nearest];
    let by = others.map(|filter| by([3000, 4000], &how(Some(Resize::ShortestEdge(256)), filter)));
    assert_eq!(by, [4, 4, 1, 1, 1], "sharper filters need more; some need all");
}

#[test]
fn a_reduced_picture_is_nearly_what_the_whole_one_becomes() {
    for ((height, width), filter) in
        [((769, 1025), Filter::Bilinear), ((1130, 1300), Filter::Bicubic), ((1311, 1150), Filter::Lanczos)]
    {
        let file = jpeg(height, width);
        for edge in [50, 64, 96, 140, 200] {
            let preprocessing = how(Some(Resize::ShortestEdge(edge)), filter);
            let input = [edge as usize; 2];
            let by = reduction([height, width], input, &preprocessing);
            assert!(by > 1, "{height} x {width} to {edge}");
            let reduced = prepare(&file, [3, input[0], input[1]], &preprocessing).expect("a picture");
            let whole = decode(&file, 3).and_then(|pixels| fit(&pixels, input, &preprocessing)).expect("a picture");
            let (most, mean) = difference(&reduced, &whole);
            eprintln!("{height} x {width} to {edge}, {filter:?}, by {by}: {mean:.2} on average, {most} at most");
            assert!(
                mean < 1.0 && most < 10,
                "{height} x {width} to {edge}, by {by}: {mean} on average, {most} at most"
            );
        }
    }
}

#[test]
fn a_reduced_picture_is_turned_upright() {
    let file = jpeg(600, 400);
    let lying = std::fs::read(golden("orientation-6.jpg")).expect("a file");
    let at = lying.windows(2).position(|pair| pair == b"\xff\xe1").expect("EXIF");
    let length = usize::from(u16::from_be_bytes([lying[at + 2], lying[at + 3]]));
    let turned = [&file[..2], &lying[at..at + 2 + length], &file[2..]].concat();
    let preprocessing = how(None, Filter::Bilinear);
    let upright = prepare(&turned, [3, 60, 90], &preprocessing).expect("a picture");
    let whole = decode(&turned, 3).expect("a picture");
    assert_eq!([whole.height, whole.width], [400, 600]);
    let (most, mean) = difference(&upright, &fit(&whole, [60, 90], &preprocessing).expect("a picture"));
    assert!(mean < 1.0 && most < 10, "{mean} on average, {most} at most");
}
