//! Plain loops, compiled for the vectors that the machine has.

/// Computes an expression in code that is compiled for the widest vectors of the machine: see [`run`].
macro_rules! wide {
    ($body:expr) => {
        $crate::compute::ops::wide::run(
            #[inline(always)]
            || $body,
        )
    };
}

pub(super) use wide;

/// Runs `f` in a copy that is compiled for AVX-512, one for AVX2, or a portable one.
///
/// All give the same bits: Rust neither reorders sums nor fuses a product with a sum.
/// Only what is inlined into `f` gains, so what it calls should be `#[inline(always)]`.
#[inline(always)]
pub(super) fn run<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        macro_rules! has {
            ($($feature:tt)*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
        }
        if has!("avx512f" "avx512bw" "avx512dq" "avx512vl") {
            // SAFETY: the machine has these features.
            return unsafe { avx512(f) };
        }
        if has!("avx2") {
            // SAFETY: the machine has this feature.
            return unsafe { avx2(f) };
        }
    }
    f()
}
