//! The same sums with AVX2, to the bit: a weight `w` is `2^11 h + l` with both parts in 16 bits, so that two old pixels are
//! multiplied and added by one instruction, and both sums are put together at the end, in the same arithmetic modulo 2^32.

use std::arch::x86_64::*;

use super::{HALF, PRECISION, Windows, one};

/// Bits of a weight's lower part.
const LOW: i32 = 11;
/// Bytes that [`sum_rows`] computes at once.
pub(super) const BLOCK: usize = 16;
/// Old pixels that [`across`] takes at once.
const GROUP: usize = 4;
/// Bytes that are loaded for them.
const LOADED: usize = 16;

/// Two weights' upper or lower parts, for two old pixels that lie side by side.
fn pair(parts: [i32; 2]) -> i32 {
    (parts[0] & 0xffff) | (parts[1] << 16)
}

fn high(weight: i32) -> i32 {
    weight >> LOW
}

fn low(weight: i32) -> i32 {
    weight & ((1 << LOW) - 1)
}

/// Resizes lines of RGB.
#[target_feature(enable = "avx2")]
pub(super) fn across(source: &[u8], out: &mut [u8], windows: &Windows, width: usize) {
    // Of each group of four old pixels the upper and the lower parts of the weights: two in each half of a vector.
    let mut parts: Vec<[__m256i; 2]> = Vec::with_capacity(windows.weights.len() / GROUP + windows.begins.len());
    let mut spans = Vec::with_capacity(windows.begins.len());
    for (first, weights) in windows.iter() {
        let begin = parts.len();
        for group in weights.chunks(GROUP) {
            let weight = |at: usize| group.get(at).copied().unwrap_or(0);
            let of = |part: fn(i32) -> i32| {
                let [left, right] = [0, 2].map(|at| pair([part(weight(at)), part(weight(at + 1))]));
                _mm256_setr_epi32(left, left, left, left, right, right, right, right)
            };
            parts.push([of(high), of(low)]);
        }
        spans.push((first, weights, begin..parts.len()));
    }
    // From R G B R G B … to R R, G G, B B of two pixels as 16 bits each: the first two below, the next two above.
    let order = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1, 6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1,
        -1, -1,
    );
    let half = _mm_set1_epi32(HALF);
    for (number, out) in out.chunks_exact_mut(3 * windows.begins.len()).enumerate() {
        // With the lines behind it: what lies there counts nothing.
        let line = &source[number * 3 * width..];
        for ((first, weights, span), out) in spans.iter().zip(out.as_chunks_mut::<3>().0) {
            let old = &line[3 * first..];
            if old.len() < 3 * GROUP * (span.len() - 1) + LOADED {
                *out = one(old.as_chunks().0, weights);
                continue;
            }
            let (mut upper, mut lower) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for (group, [high, low]) in parts[span.clone()].iter().enumerate() {
                let bytes: &[u8; LOADED] = old[3 * GROUP * group..].first_chunk().expect("as many are there");
                // SAFETY: sixteen bytes are read from an array of sixteen.
                let loaded = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
                let pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(loaded), order);
                upper = _mm256_add_epi32(upper, _mm256_madd_epi16(pixels, *high));
                lower = _mm256_add_epi32(lower, _mm256_madd_epi16(pixels, *low));
            }
            let sums = _mm256_add_epi32(_mm256_slli_epi32::<LOW>(upper), lower);
            let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let rounded = _mm_srai_epi32::<{ PRECISION as i32 }>(_mm_add_epi32(sums, half));
            let words = _mm_packs_epi32(rounded, rounded);
            let [r, g, b, _] = _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes();
            *out = [r, g, b];
        }
    }
}

/// A new row, of at least [`BLOCK`] bytes, of as many old ones as there are weights.
#[target_feature(enable = "avx2")]
pub(super) fn sum_rows(lines: &[u8], weights: &[i32], out: &mut [u8]) {
    let across = out.len();
    let half = _mm256_set1_epi32(HALF);
    let mut at = 0;
    while at < across {
        // The last block begins earlier: it computes some bytes again.
        let begin = at.min(across - BLOCK);
        let mut upper = [_mm256_setzero_si256(); 2];
        let mut lower = upper;
        let load = |row: usize| {
            let bytes: &[u8; BLOCK] = lines[row * across + begin..].first_chunk().expect("a row has as many");
            // SAFETY: sixteen bytes are read from an array of sixteen.
            unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
        };
        for (number, two) in weights.chunks(2).enumerate() {
            let two = [two[0], two.get(1).copied().unwrap_or(0)];
            let first = load(2 * number);
            let second = if 2 * number + 1 < weights.len() { load(2 * number + 1) } else { _mm_setzero_si128() };
            let high = _mm256_set1_epi32(pair(two.map(high)));
            let low = _mm256_set1_epi32(pair(two.map(low)));
            let pixels = [_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second)];
            for (part, pixels) in pixels.into_iter().enumerate() {
                let pixels = _mm256_cvtepu8_epi16(pixels);
                upper[part] = _mm256_add_epi32(upper[part], _mm256_madd_epi16(pixels, high));
                lower[part] = _mm256_add_epi32(lower[part], _mm256_madd_epi16(pixels, low));
            }
        }
        let rounded = [0, 1].map(|part| {
            let sums = _mm256_add_epi32(_mm256_slli_epi32::<LOW>(upper[part]), lower[part]);
            _mm256_srai_epi32::<{ PRECISION as i32 }>(_mm256_add_epi32(sums, half))
        });
        // Packing goes by halves of vectors: the four quarters are put back into their order.
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(rounded[0], rounded[1]));
        let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        let out: &mut [u8; BLOCK] = out[begin..].first_chunk_mut().expect("a row has as many");
        // SAFETY: sixteen bytes are written into an array of sixteen.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes) };
        at = begin + BLOCK;
    }
}
