//! Max-pool of two by two, bias and relu in one pass over outputs of a convolution.

use std::ops::Range;

use super::DEAD;
use crate::maps::Maps;
use crate::simd::{LANES, Path, Simd, on_path};

/// Pools outputs `from` of a convolution without bias, laid out as `maps`, into `rows` of the maps `y`: the first row of `from`
/// belongs to the first of `rows`. Writes which pixel of its window each one is into `winners` `[blocks][rows][columns][LANES]`:
/// the first of equal ones, row by row; [`DEAD`] where relu makes it zero.
///
/// What is not a number stays so.
#[expect(clippy::too_many_arguments, reason = "two maps, in and out, and their memory")]
pub fn pool(
    path: Path,
    maps: &Maps,
    from: &[f32],
    bias: Option<&[f32]>,
    y: &Maps,
    rows: Range<usize>,
    to: &mut [f32],
    winners: &mut [u8],
) {
    let [height, width] = y.size;
    assert!(from.len() >= maps.len() && to.len() >= y.len(), "maps of the planned size");
    assert!(winners.len() >= y.blocks() * height * width * LANES, "a byte for every lane");
    assert!(bias.is_none_or(|bias| bias.len() >= y.blocks() * LANES), "a bias for every lane");
    assert!(maps.lanes == LANES && y.lanes == LANES && maps.blocks() == y.blocks(), "maps of the same blocks");
    assert!(rows.end <= height && 2 * rows.len() <= maps.size[0] && 2 * width <= maps.size[1], "half as many pixels");
    for block in 0..y.blocks() {
        let bias = bias.map_or([0.0; LANES], |bias| std::array::from_fn(|lane| bias[block * LANES + lane]));
        for (index, row) in rows.clone().enumerate() {
            let upper = maps.at(block, 2 * index as isize, 0);
            let place = y.at(block, row as isize, 0);
            // SAFETY: a row of each of the maps, by the assertions above; the path is one of the machine's.
            unsafe {
                let from = from.as_ptr().add(upper);
                let winners = winners.as_mut_ptr().add((block * height + row) * width * LANES);
                let to = to.as_mut_ptr().add(place);
                on_path!(path, S => line::<S>([from, from.add(maps.row())], &bias, width, to, winners));
            }
        }
    }
}

/// A row of windows.
unsafe fn line<S: Simd>(rows: [*const f32; 2], bias: &[f32; LANES], width: usize, to: *mut f32, winners: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        S::run(
            #[inline(always)]
            || {
                let bias = S::load(bias.as_ptr());
                let zero = S::splat(0.0);
                for column in 0..width {
                    let [a, b, c, d] = [
                        S::load(rows[0].add(2 * column * LANES)),
                        S::load(rows[0].add((2 * column + 1) * LANES)),
                        S::load(rows[1].add(2 * column * LANES)),
                        S::load(rows[1].add((2 * column + 1) * LANES)),
                    ];
                    let (upper, lower) = (S::max(a, b), S::max(c, d));
                    let winner = S::if_greater(
                        lower,
                        upper,
                        S::if_greater(d, c, S::splat(3.0), S::splat(2.0)),
                        S::if_greater(b, a, S::splat(1.0), zero),
                    );
                    // A maximum would hide what is not a number.
                    let most = S::spoil(S::spoil(S::max(upper, lower), a, b), c, d);
                    let sum = S::add(most, bias);
                    S::store(to.add(column * LANES), S::max(zero, sum));
                    let winner = S::if_at_most(sum, zero, S::splat(f32::from(DEAD)), winner);
                    S::store_bytes(winners.add(column * LANES), winner);
                }
            },
        );
    }
}
