//! AVX-512, and AVX2 with FMA as pairs of half vectors.

use std::arch::x86_64::*;

use super::Simd;

/// One register a vector.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY of every block below: intrinsics need the features that `run`'s caller vouches for, and the pointers are the
// caller's, good for sixteen floats.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all of them, above")]
impl Simd for Avx512 {
    type V = __m512;
    // 28 of 32 registers are sums; two hold weights.
    const TILE: [usize; 2] = [14, 14];
    const GRADIENT: [usize; 2] = [8, 2];

    #[inline(always)]
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn inside<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        unsafe { inside(f) }
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
    // 12 of 16 registers are sums; two hold weights.
    const TILE: [usize; 2] = [6, 0];
    const GRADIENT: [usize; 2] = [6, 1];

    #[inline(always)]
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma")]
        fn inside<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        unsafe { inside(f) }
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
}
