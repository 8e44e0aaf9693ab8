//! AVX-512, and AVX2 with FMA as pairs of half vectors.

use std::arch::x86_64::*;

use super::{EXPONENT, Quads, Simd};

/// A lane of a factor is a number.
pub(crate) const FLOATS: u8 = 1;
/// Two numbers in bf16; the sum of their products is in fp32.
pub(crate) const PAIRS: u8 = 2;
/// Four bytes, of one factor without and of the other with a sign; the sum of their products is a whole number of 32 bits.
pub(crate) const QUADS: u8 = 4;

/// One register a vector, with lanes of a product's factors as `LANE` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512<const LANE: u8>;

// SAFETY of every block below: intrinsics need the features that `run`'s caller vouches for, and the pointers are the
// caller's, good for sixteen floats.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all of them, above")]
impl<const LANE: u8> Simd for Avx512<LANE> {
    type V = __m512;
    type M = __mmask16;
    // As the two-source permutation wants them.
    type Places = __m512i;
    // 28 of 32 registers are sums; two hold weights.
    const TILE: [usize; 2] = [14, 14];
    const GRADIENT: [usize; 2] = [8, 2];
    const REGISTERS: usize = 1;
    const SUMS: usize = 28;

    #[inline(always)]
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
        fn inside<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,popcnt")]
        fn inside_pairs<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,popcnt")]
        fn inside_quads<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        unsafe {
            match LANE {
                PAIRS => inside_pairs(f),
                QUADS => inside_quads(f),
                _ => inside(f),
            }
        }
    }
    #[inline(always)]
    unsafe fn prefetch(line: *const f32) {
        // SAFETY: it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn dot(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe {
            match LANE {
                PAIRS => {
                    let pairs = |words: __m512| std::mem::transmute::<__m512, __m512bh>(words);
                    _mm512_dpbf16_ps(c, pairs(a), pairs(b))
                }
                QUADS => {
                    let [a, b, c] = [a, b, c].map(
                        #[inline(always)]
                        |v| _mm512_castps_si512(v),
                    );
                    _mm512_castsi512_ps(_mm512_dpbusd_epi32(c, a, b))
                }
                _ => _mm512_fmadd_ps(a, b, c),
            }
        }
    }
    #[inline(always)]
    unsafe fn sum(sum: __m512) -> __m512 {
        unsafe { if LANE == QUADS { _mm512_cvtepi32_ps(_mm512_castps_si512(sum)) } else { sum } }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn if_greater(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        unsafe { _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), yes) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn is_nan(a: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a) }
    }
    #[inline(always)]
    unsafe fn any(mask: __mmask16) -> bool {
        mask != 0
    }
    #[inline(always)]
    unsafe fn select(mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        unsafe { _mm512_mask_mov_ps(no, mask, yes) }
    }
    #[inline(always)]
    unsafe fn mask(bits: u16) -> __mmask16 {
        bits
    }
    #[inline(always)]
    unsafe fn power_of_two(n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(_mm512_set1_ps(1.0), n) }
    }
    #[inline(always)]
    unsafe fn scale(a: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(first(count), from) }
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: __m512, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, first(count), v) }
    }
    #[inline(always)]
    unsafe fn interleave(a: __m512, b: __m512) -> [__m512; 2] {
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            [_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b)]
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: __m512) {
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v))) }
    }
    #[inline(always)]
    unsafe fn equal_bytes(from: *const u8, byte: u8) -> __mmask16 {
        unsafe { _mm_cmpeq_epi8_mask(_mm_loadu_si128(from.cast()), _mm_set1_epi8(byte.cast_signed())) }
    }
    #[inline(always)]
    unsafe fn if_at_most(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        unsafe { _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b), yes) }
    }
    #[inline(always)]
    unsafe fn spoil(v: __m512, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mask_add_ps(v, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn places(winners: *const u8) -> __m512i {
        unsafe {
            let winners = _mm512_cvtepu8_epi32(_mm_loadu_si128(winners.cast()));
            let lower = _mm512_slli_epi32::<3>(_mm512_and_epi32(winners, _mm512_set1_epi32(2)));
            _mm512_or_epi32(_mm512_and_epi32(winners, _mm512_set1_epi32(1)), lower)
        }
    }
    #[inline(always)]
    unsafe fn beside(places: __m512i, columns: i32) -> __m512i {
        unsafe { _mm512_add_epi32(places, _mm512_set1_epi32(columns)) }
    }
    #[inline(always)]
    unsafe fn pick(upper: __m512, lower: __m512, places: __m512i) -> __m512 {
        unsafe { _mm512_permutex2var_ps(upper, places, lower) }
    }
    #[inline(always)]
    unsafe fn compress(
        bytes: *const u8,
        which: u8,
        from: __m512,
        [first, step]: [u32; 2],
        places: *mut u32,
        values: *mut f32,
    ) -> usize {
        unsafe {
            let chosen = _mm_cmpeq_epi8_mask(_mm_loadu_si128(bytes.cast()), _mm_set1_epi8(which as i8));
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let all = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(step as i32));
            let all = _mm512_add_epi32(all, _mm512_set1_epi32(first as i32));
            // Compressed in a register: the instruction that compresses into memory is slow on some processors.
            _mm512_storeu_si512(places.cast(), _mm512_maskz_compress_epi32(chosen, all));
            _mm512_storeu_ps(values, _mm512_maskz_compress_ps(chosen, from));
            chosen.count_ones() as usize
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all of them, above")]
impl Quads for Avx512<QUADS> {
    #[inline(always)]
    unsafe fn words(channels: [__m512; 4]) -> __m512 {
        unsafe {
            let [a, b, c, d] = channels.map(
                #[inline(always)]
                |v| _mm512_cvtps_epi32(v),
            );
            let low = _mm512_or_epi32(a, _mm512_slli_epi32::<8>(b));
            let high = _mm512_or_epi32(_mm512_slli_epi32::<16>(c), _mm512_slli_epi32::<24>(d));
            _mm512_castsi512_ps(_mm512_or_epi32(low, high))
        }
    }
    #[inline(always)]
    unsafe fn turned(pixels: *const f32, count: usize) -> __m512 {
        unsafe {
            // Byte `i` of pixel `p` is number 16 p + i.
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let places = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(0x0101_0101));
            let places = _mm512_add_epi32(places, _mm512_set1_epi32(0x3020_1000));
            let bytes = _mm512_maskz_loadu_epi32(first(4 * count), pixels.cast());
            _mm512_castsi512_ps(_mm512_permutexvar_epi8(places, bytes))
        }
    }
}

/// A mask of the first lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1_u32 << count) - 1) as __mmask16
}

/// Two registers a vector.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2;

#[inline(always)]
fn both(f: impl Fn(usize) -> __m256) -> [__m256; 2] {
    [f(0), f(1)]
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all of them, above")]
impl Simd for Avx2 {
    type V = [__m256; 2];
    // All bits of a lane, or none.
    type M = [__m256; 2];
    /// The column, and the sign for the lower row.
    type Places = [__m256i; 2];
    // 12 of 16 registers are sums; two hold weights.
    const TILE: [usize; 2] = [6, 0];
    const GRADIENT: [usize; 2] = [6, 1];
    const REGISTERS: usize = 2;
    const SUMS: usize = 7;

    #[inline(always)]
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma")]
        fn inside<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        unsafe { inside(f) }
    }
    #[inline(always)]
    unsafe fn prefetch(line: *const f32) {
        // SAFETY: it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        both(
            #[inline(always)]
            |_| unsafe { _mm256_set1_ps(x) },
        )
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_loadu_ps(from.add(8 * i)) },
        )
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_fmadd_ps(a[i], b[i], c[i]) },
        )
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_add_ps(a[i], b[i]) },
        )
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_sub_ps(a[i], b[i]) },
        )
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_mul_ps(a[i], b[i]) },
        )
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_max_ps(a[i], b[i]) },
        )
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_min_ps(a[i], b[i]) },
        )
    }
    #[inline(always)]
    unsafe fn if_greater(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_blendv_ps(no[i], yes[i], _mm256_cmp_ps::<_CMP_GT_OQ>(a[i], b[i])) },
        )
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_div_ps(a[i], b[i]) },
        )
    }
    #[inline(always)]
    unsafe fn is_nan(a: Self::V) -> Self::M {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_cmp_ps::<_CMP_UNORD_Q>(a[i], a[i]) },
        )
    }
    #[inline(always)]
    unsafe fn any(mask: Self::M) -> bool {
        unsafe { _mm256_movemask_ps(_mm256_or_ps(mask[0], mask[1])) != 0 }
    }
    #[inline(always)]
    unsafe fn select(mask: Self::M, yes: Self::V, no: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_blendv_ps(no[i], yes[i], mask[i]) },
        )
    }
    #[inline(always)]
    unsafe fn mask(bits: u16) -> Self::M {
        both(
            #[inline(always)]
            |i| unsafe {
                let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let bits = _mm256_set1_epi32(i32::from(bits >> (8 * i)));
                _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(bits, lanes), lanes))
            },
        )
    }
    #[inline(always)]
    unsafe fn power_of_two(n: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe {
                let bits = _mm256_castps_si256(_mm256_add_ps(n[i], _mm256_set1_ps(EXPONENT)));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(bits))
            },
        )
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_maskload_ps(from.wrapping_add(8 * i), half_first(count, i)) },
        )
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: Self::V, count: usize) {
        unsafe {
            _mm256_maskstore_ps(to, half_first(count, 0), v[0]);
            _mm256_maskstore_ps(to.wrapping_add(8), half_first(count, 1), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn interleave(a: Self::V, b: Self::V) -> [Self::V; 2] {
        [0, 1].map(
            #[inline(always)]
            |i| unsafe {
                let (low, high) = (_mm256_unpacklo_ps(a[i], b[i]), _mm256_unpackhi_ps(a[i], b[i]));
                [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
            },
        )
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: Self::V) {
        unsafe {
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }
    #[inline(always)]
    unsafe fn equal_bytes(from: *const u8, byte: u8) -> Self::M {
        unsafe {
            let equal = _mm_cmpeq_epi8(_mm_loadu_si128(from.cast()), _mm_set1_epi8(byte.cast_signed()));
            let halves = [equal, _mm_srli_si128::<8>(equal)];
            both(
                #[inline(always)]
                |i| _mm256_castsi256_ps(_mm256_cvtepi8_epi32(halves[i])),
            )
        }
    }
    #[inline(always)]
    unsafe fn if_at_most(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_blendv_ps(no[i], yes[i], _mm256_cmp_ps::<_CMP_LE_OQ>(a[i], b[i])) },
        )
    }
    #[inline(always)]
    unsafe fn spoil(v: Self::V, a: Self::V, b: Self::V) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_blendv_ps(v[i], _mm256_add_ps(a[i], b[i]), _mm256_cmp_ps::<_CMP_UNORD_Q>(a[i], b[i])) },
        )
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(8 * i).cast()))) },
        )
    }
    #[inline(always)]
    unsafe fn places(winners: *const u8) -> Self::Places {
        unsafe {
            let mut places = [_mm256_setzero_si256(); 2];
            for (half, places) in places.iter_mut().enumerate() {
                let winners = _mm256_cvtepu8_epi32(_mm_loadl_epi64(winners.add(8 * half).cast()));
                let lower = _mm256_slli_epi32::<30>(_mm256_and_si256(winners, _mm256_set1_epi32(2)));
                *places = _mm256_or_si256(_mm256_and_si256(winners, _mm256_set1_epi32(1)), lower);
            }
            places
        }
    }
    #[inline(always)]
    unsafe fn beside(places: Self::Places, columns: i32) -> Self::Places {
        unsafe {
            let columns = _mm256_set1_epi32(columns);
            [_mm256_add_epi32(places[0], columns), _mm256_add_epi32(places[1], columns)]
        }
    }
    #[inline(always)]
    unsafe fn pick(upper: Self::V, lower: Self::V, places: Self::Places) -> Self::V {
        both(
            #[inline(always)]
            |i| unsafe {
                let upper = _mm256_permutevar8x32_ps(upper[0], places[i]);
                let lower = _mm256_permutevar8x32_ps(lower[0], places[i]);
                _mm256_blendv_ps(upper, lower, _mm256_castsi256_ps(places[i]))
            },
        )
    }
}

/// A mask of the first lanes that are in half number `half`.
#[inline(always)]
unsafe fn half_first(count: usize, half: usize) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32 - 8 * half as i32), lanes)
    }
}
