//! Sixteen floats at a time: the vectors that kernels are written with, once for every machine.
//!
//! A kernel is generic over [`Simd`] and enters the instruction set through [`Simd::run`]; everything
//! inside must be inlined into it. Which one a process uses is its [`Path`].

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, FLOATS, PAIRS, QUADS};

/// Floats of a vector, and channels of a block of maps.
pub const LANES: usize = 16;

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// Whatever the compiler makes of plain loops. Products and sums are rounded one by one.
    Portable,
}

impl Path {
    /// Those that this machine can run, best first.
    pub fn available() -> Vec<Self> {
        let mut paths = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            macro_rules! has {
                ($($feature:tt)*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
            }
            if has!("avx512f" "avx512bw" "avx512dq" "avx512vl" "popcnt") {
                paths.push(Self::Avx512);
            }
            if has!("avx2" "fma") {
                paths.push(Self::Avx2);
            }
        }
        paths.push(Self::Portable);
        paths
    }

    /// The best one.
    pub fn best() -> Self {
        Self::available()[0]
    }

    /// Whether this machine multiplies numbers in bf16 on this path, faster than others.
    pub fn has_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512 && std::arch::is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether this machine multiplies bytes on this path, faster than others (AVX-512 VNNI, and VBMI to put them into order).
    ///
    /// AVX2's `vpmaddubsw` is no substitute: it adds two products in 16 bits, where 2 * 255 * 127 has no room, and cuts what is larger.
    pub fn has_int8(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512
            && std::arch::is_x86_feature_detected!("avx512vnni")
            && std::arch::is_x86_feature_detected!("avx512vbmi");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Its name, as results carry it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

/// Calls code that is generic over [`Simd`] with the type of a path.
///
/// A path other than [`Path::Portable`] stands only for a machine that has it.
macro_rules! on_path {
    ($path:expr, $simd:ident => $body:expr) => {
        match $path {
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Path::Avx512 => {
                type $simd = $crate::simd::Avx512<{ $crate::simd::FLOATS }>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Path::Avx2 => {
                type $simd = $crate::simd::Avx2;
                $body
            }
            _ => {
                type $simd = $crate::simd::Portable;
                $body
            }
        }
    };
}
pub(crate) use on_path;

/// Vectors of [`LANES`] floats.
///
/// # Safety
/// All functions but [`Simd::run`] may only be reached from inside it, and pointers must be good for
/// [`LANES`] floats; no alignment is needed.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen floats.
    type V: Copy;
    /// For each lane a place in the first eight floats of one of two vectors.
    type Places: Copy;

    /// For each of sixteen floats whether something holds.
    type M: Copy;

    /// Pixels of the largest tile of one block and of two blocks of output channels whose sums stay in registers;
    /// none where two blocks do not fit.
    const TILE: [usize; 2];

    /// Rows and blocks of a tile of a weight's gradient.
    const GRADIENT: [usize; 2];

    /// Registers of a vector.
    const REGISTERS: usize;

    /// Sums that stay in registers where one factor of each product is in memory.
    const SUMS: usize;

    /// Runs `f`, compiled for this instruction set.
    ///
    /// # Safety
    /// The machine has it.
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R;

    /// The same number everywhere.
    unsafe fn splat(x: f32) -> Self::V;
    /// Reads.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Writes.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// `a * b + c`, rounded once but on the portable path.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a * b + c`, where a lane of `a` and of `b` may be several short numbers: all their products are added.
    #[inline(always)]
    unsafe fn dot(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the caller's.
        unsafe { Self::fma(a, b, c) }
    }
    /// What [`Simd::dot`] has added up, as floats.
    #[inline(always)]
    unsafe fn sum(sum: Self::V) -> Self::V {
        sum
    }
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where either is not a number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is not a number.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `yes` where `a > b`, else `no`.
    unsafe fn if_greater(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// `a / b`.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// Where `a` is not a number.
    unsafe fn is_nan(a: Self::V) -> Self::M;
    /// Whether it holds anywhere.
    unsafe fn any(mask: Self::M) -> bool;
    /// `yes` where it holds, else `no`.
    unsafe fn select(mask: Self::M, yes: Self::V, no: Self::V) -> Self::V;
    /// Lane `i` by bit `i`.
    unsafe fn mask(bits: u16) -> Self::M;
    /// `2^n` for whole numbers from -126 to 127.
    unsafe fn power_of_two(n: Self::V) -> Self::V;
    /// `a * 2^n`, rounded once, for whole numbers from -250 to 250 and `a` near one.
    #[inline(always)]
    unsafe fn scale(a: Self::V, n: Self::V) -> Self::V {
        // SAFETY: the caller's. In two steps, so that neither power overflows.
        unsafe {
            let half = Self::round(Self::mul(n, Self::splat(0.5)));
            Self::mul(Self::mul(a, Self::power_of_two(half)), Self::power_of_two(Self::sub(n, half)))
        }
    }
    /// The nearest whole number, for numbers below 2^22.
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // SAFETY: the caller's. The sum has no bits for a fraction.
        unsafe { Self::sub(Self::add(a, Self::splat(ROUNDER)), Self::splat(ROUNDER)) }
    }
    /// Reads only the first `count` floats, at most sixteen; the others are zero.
    unsafe fn load_first(from: *const f32, count: usize) -> Self::V;
    /// Writes only the first `count` floats, at most sixteen.
    unsafe fn store_first(to: *mut f32, v: Self::V, count: usize);
    /// `a` and `b` by turns: first their first halves, then their second ones.
    unsafe fn interleave(a: Self::V, b: Self::V) -> [Self::V; 2];
    /// Writes sixteen whole numbers below 256 as bytes.
    unsafe fn store_bytes(to: *mut u8, v: Self::V);
    /// Which of sixteen bytes are `byte`.
    unsafe fn equal_bytes(from: *const u8, byte: u8) -> Self::M;
    /// `yes` where `a <= b`, else `no`.
    unsafe fn if_at_most(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Not a number where `a` or `b` is none, else `v`.
    unsafe fn spoil(v: Self::V, a: Self::V, b: Self::V) -> Self::V;

    /// Says that the cache line at an address, which may be any, is going to be read.
    #[inline(always)]
    unsafe fn prefetch(_line: *const f32) {}

    /// Reads sixteen bytes as numbers.
    unsafe fn load_bytes(from: *const u8) -> Self::V;

    /// Sixteen winners of windows of two by two (0 to 3, row by row), as places in the window's upper and lower row.
    unsafe fn places(winners: *const u8) -> Self::Places;
    /// The same so many columns to the right, less than seven.
    unsafe fn beside(places: Self::Places, columns: i32) -> Self::Places;
    /// What is at the places of two rows.
    unsafe fn pick(upper: Self::V, lower: Self::V, places: Self::Places) -> Self::V;

    /// Of the lanes whose byte is `which`: appends the value to `values` and `first + lane * step` to `places`, and says how many.
    /// Sixteen of each may be overwritten.
    #[inline(always)]
    unsafe fn compress(
        bytes: *const u8,
        which: u8,
        from: Self::V,
        [first, step]: [u32; 2],
        places: *mut u32,
        values: *mut f32,
    ) -> usize {
        let mut all = [0.0; LANES];
        let mut count = 0;
        // SAFETY: the caller's; `count` stays below sixteen until the last lane.
        unsafe {
            Self::store(all.as_mut_ptr(), from);
            for (lane, value) in all.into_iter().enumerate() {
                values.add(count).write(value);
                places.add(count).write(first + lane as u32 * step);
                count += usize::from(*bytes.add(lane) == which);
            }
        }
        count
    }
}

/// Vectors whose products are of bytes, four a lane: [`Simd::dot`] adds `a`'s from 0 to 255 times `b`'s from -128 to 127 to a whole
/// number of 32 bits, exactly but for multiples of 2^32. Everything else is of floats.
///
/// # Safety
/// As for [`Simd`].
pub(crate) trait Quads: Simd {
    /// Four times sixteen numbers from 0 to 255, rounded to the nearest (of two the even one): those of a lane as bytes of a word, the first one lowest.
    unsafe fn words(channels: [Self::V; 4]) -> Self::V;
    /// Up to four pixels of sixteen bytes, with their axes exchanged: lane `i` holds byte `i` of each. Those beyond `count` are not read, and zero.
    unsafe fn turned(pixels: *const f32, count: usize) -> Self::V;
}

/// Added to a number it leaves whole numbers in the lowest bits.
const ROUNDER: f32 = 12_582_912.0;
/// The same for a float's exponent, which counts from -127.
const EXPONENT: f32 = ROUNDER + 127.0;

/// Plain loops.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Simd for Portable {
    type V = [f32; LANES];
    // All bits or none.
    type M = [u32; LANES];
    /// The column, and 8 for the lower row.
    type Places = [usize; LANES];
    const TILE: [usize; 2] = [2, 0];
    const GRADIENT: [usize; 2] = [2, 1];
    const REGISTERS: usize = 4;
    // More than stay in registers: one row of taps is the least that a pass can do.
    const SUMS: usize = 7;

    #[inline(always)]
    unsafe fn run<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is good for sixteen floats.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn if_greater(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        each(|i| if a[i] > b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn is_nan(a: Self::V) -> Self::M {
        std::array::from_fn(|i| if a[i].is_nan() { u32::MAX } else { 0 })
    }
    #[inline(always)]
    unsafe fn any(mask: Self::M) -> bool {
        mask.iter().fold(0, |any, lane| any | lane) != 0
    }
    #[inline(always)]
    unsafe fn select(mask: Self::M, yes: Self::V, no: Self::V) -> Self::V {
        each(|i| f32::from_bits((mask[i] & yes[i].to_bits()) | (!mask[i] & no[i].to_bits())))
    }
    #[inline(always)]
    unsafe fn mask(bits: u16) -> Self::M {
        std::array::from_fn(|i| if bits >> i & 1 == 1 { u32::MAX } else { 0 })
    }
    #[inline(always)]
    unsafe fn power_of_two(n: Self::V) -> Self::V {
        each(|i| f32::from_bits((n[i] + EXPONENT).to_bits() << 23))
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self::V {
        // SAFETY: as above, for `count` floats.
        each(|i| if i < count { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: Self::V, count: usize) {
        for (i, v) in v.iter().enumerate().take(count) {
            // SAFETY: as above, for `count` floats.
            unsafe { *to.add(i) = *v }
        }
    }
    #[inline(always)]
    unsafe fn interleave(a: Self::V, b: Self::V) -> [Self::V; 2] {
        let of = |i: usize| if i.is_multiple_of(2) { a[i / 2] } else { b[i / 2] };
        [each(of), each(|i| of(LANES + i))]
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, v: Self::V) {
        // SAFETY: the caller's pointer is good for sixteen bytes. The lowest byte of the sum is the number.
        unsafe { to.cast::<[u8; LANES]>().write_unaligned(v.map(|v| (v + ROUNDER).to_bits() as u8)) }
    }
    #[inline(always)]
    unsafe fn equal_bytes(from: *const u8, byte: u8) -> Self::M {
        // SAFETY: as above.
        let bytes = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        std::array::from_fn(|i| if bytes[i] == byte { u32::MAX } else { 0 })
    }
    #[inline(always)]
    unsafe fn if_at_most(a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        each(|i| if a[i] <= b[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn spoil(v: Self::V, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if a[i].is_nan() || b[i].is_nan() { a[i] + b[i] } else { v[i] })
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::V {
        // SAFETY: the caller's pointer is good for sixteen bytes.
        let bytes = unsafe { from.cast::<[u8; LANES]>().read_unaligned() };
        each(|i| f32::from(bytes[i]))
    }
    #[inline(always)]
    unsafe fn places(winners: *const u8) -> Self::Places {
        // SAFETY: as above.
        let winners = unsafe { winners.cast::<[u8; LANES]>().read_unaligned() };
        winners.map(|winner| usize::from((winner & 1) | ((winner & 2) << 2)))
    }
    #[inline(always)]
    unsafe fn beside(places: Self::Places, columns: i32) -> Self::Places {
        places.map(|place| place + columns as usize)
    }
    #[inline(always)]
    unsafe fn pick(upper: Self::V, lower: Self::V, places: Self::Places) -> Self::V {
        each(|i| if places[i] < 8 { upper[places[i]] } else { lower[places[i] % 8] })
    }
}
