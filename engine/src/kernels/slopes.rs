//! What happens to slopes before they reach a product: relu's mask, and the gradients of biases.

use crate::maps::Maps;
use crate::simd::{LANES, Path, Simd, on_path};

/// Calls `f(start in a, start in b, floats)` for every row of two maps of one size.
#[inline(always)]
fn rows(a: &Maps, b: &Maps, mut f: impl FnMut(usize, usize, usize)) {
    debug_assert_eq!((a.channels, a.size, a.lanes), (b.channels, b.size, b.lanes), "maps of one size");
    let floats = a.size[1] * a.lanes;
    for block in 0..a.blocks() {
        for row in 0..a.size[0] {
            f(a.at(block, row as isize, 0), b.at(block, row as isize, 0), floats);
        }
    }
}

/// Sets `dy` to zero where `y`, relu's output, is: one example.
pub fn mask_maps(path: Path, y_maps: &Maps, y: &[f32], dy_maps: &Maps, dy: &mut [f32]) {
    // SAFETY: the path is one of the machine's.
    on_path!(path, S => unsafe {
        S::run(
            #[inline(always)]
            || rows(y_maps, dy_maps, |y_start, dy_start, floats| mask(&y[y_start..][..floats], &mut dy[dy_start..][..floats])),
        );
    });
}

/// Sets `dy` to zero where `y`, relu's output, is. Where `y` is not a number the slope passes.
#[inline(always)]
pub fn mask(y: &[f32], dy: &mut [f32]) {
    for (dy, y) in dy.iter_mut().zip(y) {
        *dy = if *y <= 0.0 { 0.0 } else { *dy };
    }
}

/// Pixels of a row that are summed together.
const PART: usize = 256;

/// Adds the sums over one example's maps to `sums`, a float a channel up to a full block.
pub fn add_channel_sums(path: Path, maps: &Maps, x: &[f32], sums: &mut [f32]) {
    assert!(
        x.len() >= maps.len() && sums.len() >= maps.blocks() * LANES && maps.lanes == LANES,
        "maps of the planned size"
    );
    // SAFETY: the path is one of the machine's; every pixel is inside `x`, every block inside `sums`.
    on_path!(path, S => unsafe {
        S::run(
            #[inline(always)]
            || {
                for block in 0..maps.blocks() {
                    let mut total = S::splat(0.0);
                    for row in 0..maps.size[0] {
                        let from = x.as_ptr().add(maps.at(block, row as isize, 0));
                        let mut column = 0;
                        while column < maps.size[1] {
                            // Four sums hide an addition's latency; anew for each part of a row, so that large maps lose no digits.
                            let mut parts = [S::splat(0.0); 4];
                            let end = maps.size[1].min(column + PART);
                            while column + 4 <= end {
                                for (place, part) in parts.iter_mut().enumerate() {
                                    *part = S::add(*part, S::load(from.add((column + place) * LANES)));
                                }
                                column += 4;
                            }
                            while column < end {
                                parts[0] = S::add(parts[0], S::load(from.add(column * LANES)));
                                column += 1;
                            }
                            total = S::add(total, S::add(S::add(parts[0], parts[1]), S::add(parts[2], parts[3])));
                        }
                    }
                    let to = sums.as_mut_ptr().add(block * LANES);
                    S::store(to, S::add(S::load(to), total));
                }
            },
        );
    });
}

/// Adds `from` to `to`.
pub fn add(from: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
